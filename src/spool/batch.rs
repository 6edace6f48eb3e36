//! Sends one batch of every topic from the spool to the bus. Each key keeps its order: its next message is sent after
//! the receipt of the previous one. A message that the bus refuses permanently is set aside, so that none waits
//! behind it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::{Add, Range};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::state::{Inner, Part};
use crate::attribute::Attribute;
use crate::bus::{Bus, ConnectionState, Receipt, Refusal};
use crate::log::{self, Chunk, Done, ReadError};
use crate::message::Message;
use crate::record::Record;
use crate::telemetry::{LOG_EVERY, Throttle};
use crate::vocabulary::{TYPE_PREFIX, known};

/// The most messages and bytes in one batch of one topic; a single message may exceed the bytes.
pub(super) const BATCH_MESSAGES: usize = 1024;
const BATCH_BYTES: usize = 4 << 20;

/// How many topics are drained at once, and how many messages of one topic.
const TOPICS: usize = 4;
const IN_FLIGHT: usize = 256;

/// How often to log again that the bus takes nothing.
const REMIND_EVERY: Duration = Duration::from_secs(60);

const UNANSWERED: Refusal = Refusal::Transient { reason: Cow::Borrowed("the bus did not confirm the message in time") };

/// The result of a batch.
#[derive(Default, Clone, Copy)]
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) failed: u64,
    /// Messages looked at, including those not sent: done before, or behind a failed one of the same key.
    pub(super) seen: u64,
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { sent: self.sent + other.sent, failed: self.failed + other.failed, seen: self.seen + other.seen }
    }
}

/// Sends from the spool until it is stopped.
pub(super) struct Sender {
    pub(super) inner: Arc<Inner>,
    pub(super) bus: Arc<dyn Bus>,
    pub(super) publish_timeout: Duration,
    pub(super) stop: CancellationToken,
    /// Digests of the keys to send; all of them if there are none.
    pub(super) only: Option<Arc<HashSet<u64>>>,
    /// Throttles the log while a part of the spool waits.
    spooled: Throttle,
    set_aside: Throttle,
}

impl Sender {
    pub(super) fn new(
        inner: Arc<Inner>,
        bus: Arc<dyn Bus>,
        publish_timeout: Duration,
        stop: CancellationToken,
    ) -> Self {
        let reminder = || Throttle::new(REMIND_EVERY);
        Self { inner, bus, publish_timeout, stop, only: None, spooled: reminder(), set_aside: reminder() }
    }

    /// Sends one batch of every topic.
    pub(super) async fn round(&self, part: &Part, most: usize) -> Tally {
        let topics: Vec<_> = part.log.store.topics().into_iter().map(|(topic, extent)| (topic, extent.next)).collect();
        let batches = stream::iter(topics).map(|(topic, end)| self.batch(part, topic, end, most));
        batches.buffer_unordered(TOPICS).fold(Tally::default(), async |sum, one| sum + one).await
    }

    async fn batch(&self, part: &Part, topic: Arc<str>, end: u64, most: usize) -> Tally {
        let next = part.topics().entry(topic.clone()).or_default().next(end);
        let Some(from) = next.filter(|_| !self.halts()) else { return Tally::default() };
        let Some(chunk) = self.read(part, topic.clone(), from..end, most).await else {
            return Tally { failed: 1, ..Tally::default() };
        };
        let Chunk { records, damaged, until } = chunk;
        let mut failed = damaged.len() as u64;
        let mut chains: HashMap<u64, Vec<(u64, Message)>> = HashMap::new();
        for record in records {
            let offset = record.offset;
            match message(record) {
                Some(message) => chains.entry(message.key_digest()).or_default().push((offset, message)),
                None => failed += 1,
            }
        }
        if failed > 0 {
            passed_over(&topic, failed);
        }
        let sending = chains.into_iter().map(|(key, chain)| self.send_chain(part, key, chain));
        let chains: Vec<Chain> = stream::iter(sending).buffer_unordered(IN_FLIGHT).collect().await;
        let tally = self.settle(part, topic, until, chains).await;
        tally + Tally { failed, seen: until - from, ..Tally::default() }
    }

    /// The next pending messages of a topic, without those behind a failed one of the same key; `None`, after
    /// logging, if they cannot be read.
    async fn read(&self, part: &Part, topic: Arc<str>, offsets: Range<u64>, most: usize) -> Option<Chunk> {
        let (inner, name, set_aside) = (self.inner.clone(), topic.clone(), self.is_set_aside(part));
        let only = self.only.clone();
        let reading = move || {
            let part = if set_aside { &inner.set_aside } else { &inner.spooled };
            let wanted = |offset, key| {
                let topics = part.topics();
                let is_asked_for = only.as_ref().is_none_or(|only| only.contains(&key));
                is_asked_for
                    && topics.get(&name).is_some_and(|progress| !progress.is_done(offset) && !progress.is_stuck(key))
            };
            part.log.store.read_pending(&name, offsets, most, BATCH_BYTES, wanted)
        };
        match tokio::task::spawn_blocking(reading).await.ok()? {
            Ok(chunk) => Some(chunk),
            // The log is reopening, and logs that itself.
            Err(ReadError::Closed) => None,
            Err(error) => {
                unread(&topic, &error);
                None
            }
        }
    }

    fn is_set_aside(&self, part: &Part) -> bool {
        std::ptr::eq(part, &self.inner.set_aside)
    }

    /// Whether to stop sending for now.
    fn halts(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Sends the messages of one key, each after the receipt of the previous one, up to the first failure.
    async fn send_chain(&self, part: &Part, key: u64, messages: Vec<(u64, Message)>) -> Chain {
        let mut chain = Chain { key, sent: Vec::with_capacity(messages.len()), stuck: false, halted: false };
        for (offset, message) in messages {
            if self.halts() {
                // The later ones must not be sent in this pass.
                chain.halted = true;
                break;
            }
            let message = Arc::new(message);
            if let Err(refusal) = self.send(part, message.clone()).await {
                if self.is_set_aside(part) {
                    self.inner.tries.failed(message.topic().name(), offset, refusal.to_string());
                }
                chain.stuck = true;
                break;
            }
            chain.sent.push(offset);
        }
        chain
    }

    /// `Ok`: the message was sent or set aside.
    async fn send(&self, part: &Part, message: Arc<Message>) -> Result<(), Refusal> {
        let answer = timeout(self.publish_timeout, self.bus.publish(message.clone())).await;
        match answer.unwrap_or(Err(UNANSWERED)) {
            Ok(Receipt::Kept | Receipt::Duplicate) => {
                self.inner.bus_refuses.store(false, Relaxed);
                Ok(())
            }
            Err(refusal) if self.may_set_aside(part, &refusal) => match self.set_aside(&message, &refusal).await {
                true => Ok(()),
                false => Err(refusal),
            },
            Err(refusal) => {
                self.not_taken(part, message.topic(), &refusal);
                Err(refusal)
            }
        }
    }

    /// While the bus cannot be reached or takes nothing, no message is set aside: the message is not at fault then.
    fn may_set_aside(&self, part: &Part, refusal: &Refusal) -> bool {
        !self.is_set_aside(part)
            && refusal.is_message_specific()
            && *self.bus.connection().borrow() == ConnectionState::Up
    }

    /// Whether the message was set aside.
    async fn set_aside(&self, message: &Message, refusal: &Refusal) -> bool {
        let part = &self.inner.set_aside;
        let aside = Arc::new(message.clone().set_aside(&refusal.to_string()));
        // Before anybody can send it from there.
        part.waiting.fetch_add(1, Relaxed);
        let kept = disk(part.log.append(aside)).await;
        if kept.is_err() {
            part.fewer(1);
        }
        log_set_aside(message, refusal, kept.as_ref().err());
        kept.is_ok()
    }

    /// Logs that a message stays in the spool.
    fn not_taken(&self, part: &Part, topic: &str, refusal: &Refusal) {
        if self.is_set_aside(part) {
            if let Some(more) = self.set_aside.pass() {
                let messages = part.waiting.load(Relaxed);
                tracing::error!(topic, messages, more, reason = %refusal, "the bus still refuses what was set aside");
            }
        } else if let Some(more) = self.spooled.pass() {
            let messages = part.waiting.load(Relaxed);
            tracing::warn!(
                topic,
                messages,
                more,
                reason = %refusal,
                "the bus did not take a spooled message; it is sent again within seconds"
            );
        }
    }

    async fn settle(&self, part: &Part, topic: Arc<str>, until: u64, chains: Vec<Chain>) -> Tally {
        let sent: Vec<u64> = chains.iter().flat_map(|chain| &chain.sent).copied().collect();
        let failed = chains.iter().filter(|chain| chain.stuck).count() as u64;
        let tally = Tally { sent: sent.len() as u64, failed, seen: 0 };
        let stuck = chains.iter().filter(|chain| chain.stuck || chain.halted).map(|chain| chain.key);
        part.topics().entry(topic.clone()).or_default().advance(until, &sent, stuck);
        if !chains.is_empty() {
            tracing::debug!(%topic, sent = tally.sent, stuck = tally.failed, "sent a batch from the spool");
        }
        if sent.is_empty() {
            return tally;
        }
        let empty = part.waiting.load(Relaxed) == tally.sent;
        if self.is_set_aside(part) {
            self.inner.tries.gone(&topic, &sent);
        }
        disk(part.log.done(Done { topic, offsets: sent, empty })).await;
        self.inner.drained.fetch_add(tally.sent, Relaxed);
        if self.is_set_aside(part) {
            part.fewer(tally.sent);
            return tally;
        }
        // Only now: a message that goes straight to the bus must not overtake these.
        for chain in &chains {
            for _ in &chain.sent {
                self.inner.release(chain.key);
            }
        }
        tally
    }
}

/// The result for the messages of one key in one batch.
struct Chain {
    key: u64,
    /// Offsets of the messages that were sent or set aside.
    sent: Vec<u64>,
    /// Whether a message failed, so that the later ones were not sent.
    stuck: bool,
    /// Whether the later ones were not sent for another reason.
    halted: bool,
}

/// Decodes the spooled record into its message.
fn message(record: Record) -> Option<Message> {
    Message::restore(&record.topic, record.key?, record.headers, record.payload)
}

/// Waits for the disk, and logs if that takes long.
async fn disk<T>(awaited: impl Future<Output = T>) -> T {
    let mut awaited = pin!(awaited);
    loop {
        match timeout(LOG_EVERY, &mut awaited).await {
            Ok(done) => return done,
            Err(_) => tracing::error!("the spool waits for its disk; check the disk of spool.dir"),
        }
    }
}

/// Logs that a message was set aside, or why it could not be.
fn log_set_aside(message: &Message, refusal: &Refusal, failed: Option<&log::NotKept>) {
    static SET_ASIDE: Throttle = Throttle::new(LOG_EVERY);
    let Some(more) = SET_ASIDE.pass() else { return };
    let (topic, id, bytes) = (message.topic(), message.id(), message.payload().len());
    let event_type = message.attribute(Attribute::Type).and_then(|name| name.strip_prefix(TYPE_PREFIX));
    // Any other name is whatever the sender wrote.
    let event_type = event_type.and_then(known).map_or("unknown", |known| known.name);
    let first_try = message.attribute(Attribute::RecordedTime).unwrap_or("unknown");
    match failed {
        None => tracing::error!(
            %id,
            r#type = event_type,
            %topic,
            bytes,
            reason = %refusal,
            first_try,
            last_try = %format_args!("{:.3}", Timestamp::now()),
            more,
            remedy = "`terra-bridge spool list` shows all of them, `retry` sends them once that is fixed",
            "a message was set aside: the bus refuses it permanently"
        ),
        Some(log::NotKept(full)) => tracing::error!(
            %id,
            %topic,
            bytes,
            more,
            reason = %refusal,
            why = %full,
            "cannot set a message aside: later ones of its key wait behind it until the bus takes it"
        ),
    }
}

fn unread(topic: &str, error: &ReadError) {
    static UNREAD: Throttle = Throttle::new(LOG_EVERY);
    if let Some(more) = UNREAD.pass() {
        tracing::error!(topic, more, reason = %error, "the spool cannot be read; check the disk of spool.dir");
    }
}

fn passed_over(topic: &str, messages: u64) {
    static DAMAGED: Throttle = Throttle::new(LOG_EVERY);
    if let Some(more) = DAMAGED.pass() {
        tracing::error!(
            topic,
            messages,
            more,
            "spooled messages cannot be read: they stay in the spool, and others go on; check the disk of spool.dir"
        );
    }
}
