//! Brings spooled messages to the bus. Comes in: the spool and the bus. Each key keeps its order: its
//! next message is sent after the receipt of the one before. What the bus refuses for good is set
//! aside, so that nothing waits behind it, and tried again from time to time.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Add;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::progress::Progress;
use super::{Inner, Part, Spool};
use crate::bus::{Bus, ConnectionState, Receipt, Refusal};
use crate::log::{Chunk, Done, ReadError};
use crate::message::Message;
use crate::telemetry::Throttle;

/// One batch of one topic, at most; one message may exceed the bytes.
const BATCH_MESSAGES: usize = 1024;
const BATCH_BYTES: usize = 4 << 20;

/// While the bus takes nothing each topic sends so many, and after each round so many times more.
const PROBE_MESSAGES: usize = 4;
const PROBE_GROWTH: usize = 16;

/// Topics that are drained at once, and messages of one topic that are.
const TOPICS: usize = 4;
const IN_FLIGHT: usize = 256;

/// Waits after a round in which the bus took nothing.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A pass in which nothing went is followed by a rest of so many times its length, at most so long: a spool that is
/// large is not read all the time, and one message is tried again within seconds.
const REST: u32 = 3;
const LONGEST_REST: Duration = Duration::from_secs(5);

/// How long a bus that is away is left in peace.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// How often what was set aside is tried again: somebody may have mended what was wrong.
const SET_ASIDE_EVERY: Duration = Duration::from_secs(300);

/// How often the age of the oldest message is looked at.
const AGE_EVERY: Duration = Duration::from_secs(1);

const LOG_EVERY: Duration = Duration::from_secs(10);

/// How often it is said again that the bus takes nothing.
const REMIND_EVERY: Duration = Duration::from_secs(60);

const UNANSWERED: Refusal = Refusal::Transient { reason: Cow::Borrowed("the bus did not confirm the message in time") };

/// What a batch came to.
#[derive(Default, Clone, Copy)]
struct Tally {
    gone: u64,
    failed: u64,
    /// Looked at, also where it was not sent: done before, or behind one of its key that failed.
    seen: u64,
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { gone: self.gone + other.gone, failed: self.failed + other.failed, seen: self.seen + other.seen }
    }
}

/// Drains until it is stopped: nothing more is sent from then on, and what is in flight is waited for, as
/// long as `publish_timeout` at most. Nothing is lost by dropping it at any point; what is in flight then
/// is sent again after the next start.
pub async fn drain(spool: Spool, bus: Arc<dyn Bus>, publish_timeout: Duration, stop: CancellationToken) {
    let reminder = || Throttle::new(REMIND_EVERY);
    let run = Run { inner: spool.0, bus, publish_timeout, stop, spooled: reminder(), set_aside: reminder() };
    tokio::select! {
        () = run.drain() => {}
        () = run.watch_age() => {}
        () = run.inner.count_again(|inner| &inner.spooled) => {}
        () = run.inner.count_again(|inner| &inner.set_aside) => {}
    }
}

struct Run {
    inner: Arc<Inner>,
    bus: Arc<dyn Bus>,
    publish_timeout: Duration,
    stop: CancellationToken,
    /// Of what is said while a part of the spool waits.
    spooled: Throttle,
    set_aside: Throttle,
}

impl Run {
    async fn drain(&self) {
        let mut connection = self.bus.connection();
        let mut set_aside_due = Instant::now();
        while !self.stop.is_cancelled() {
            if self.inner.spooled.waiting.load(Relaxed) > 0 {
                self.empty(&mut connection, &mut set_aside_due).await;
            }
            self.try_set_aside(&connection, &mut set_aside_due).await;
            let until = set_aside_due.max(Instant::now() + FIRST_PAUSE);
            let _ = timeout_at(until, self.wait(self.inner.wake.notified())).await;
        }
    }

    /// For what is awaited, or for the stop.
    async fn wait<T>(&self, awaited: impl Future<Output = T>) {
        tokio::select! {
            _ = awaited => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// Tries what was set aside, where it is due.
    async fn try_set_aside(&self, connection: &watch::Receiver<ConnectionState>, due: &mut Instant) {
        if Instant::now() < *due || *connection.borrow() != ConnectionState::Up {
            return;
        }
        let part = &self.inner.set_aside;
        part.topics().values_mut().for_each(Progress::begin_again);
        while self.round(part, BATCH_MESSAGES).await.seen > 0 && !self.stop.is_cancelled() {}
        *due = Instant::now() + SET_ASIDE_EVERY;
    }

    /// Until nothing is spooled, or the stop.
    async fn empty(&self, connection: &mut watch::Receiver<ConnectionState>, set_aside_due: &mut Instant) {
        let spooled = &self.inner.spooled;
        let (began, mut pause, mut batch) = (self.inner.drained.load(Relaxed), FIRST_PAUSE, PROBE_MESSAGES);
        let (mut pass, mut rest) = (Pass::begin(spooled), None);
        tracing::warn!(
            messages = spooled.waiting.load(Relaxed),
            "messages are in the spool: they are brought to the bus as soon as it takes them"
        );
        while spooled.waiting.load(Relaxed) > 0 {
            if *connection.borrow_and_update() != ConnectionState::Up {
                let _ = timeout(PROBE_EVERY, self.wait(connection.changed())).await;
            }
            if self.stop.is_cancelled() {
                return;
            }
            if rest.is_some_and(|until| Instant::now() >= until) {
                (pass, rest) = (Pass::begin(spooled), None);
            }
            let tally = self.round(spooled, batch).await;
            pass.gone += tally.gone;
            if tally.gone > 0 {
                (pause, batch) = (FIRST_PAUSE, BATCH_MESSAGES);
            } else if tally.failed > 0 {
                // The bus as a whole, or only where the first messages go? More of them tell.
                if *connection.borrow() != ConnectionState::Up {
                    batch = PROBE_MESSAGES;
                }
                if batch < BATCH_MESSAGES {
                    (pass, rest) = (Pass::begin(spooled), None);
                    batch = (batch * PROBE_GROWTH).min(BATCH_MESSAGES);
                }
                let _ = timeout(pause, self.wait(connection.changed())).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            if tally.seen > 0 {
                continue;
            }
            self.try_set_aside(connection, set_aside_due).await;
            // What comes meanwhile belongs to this pass, and need not wait for what is stuck.
            let until = *rest.get_or_insert_with(|| pass.rest(pause));
            tokio::select! {
                () = self.inner.wake.notified() => {}
                _ = connection.changed() => rest = Some(Instant::now()),
                () = sleep_until(until) => {}
                () = self.stop.cancelled() => {}
            }
        }
        let messages = self.inner.drained.load(Relaxed) - began;
        tracing::info!(messages, "the spool is empty again");
    }

    /// One batch of every topic.
    async fn round(&self, part: &Part, most: usize) -> Tally {
        let topics: Vec<_> = part.log.store.topics().into_iter().map(|(topic, extent)| (topic, extent.next)).collect();
        let batches = stream::iter(topics).map(|(topic, end)| self.batch(part, topic, end, most));
        batches.buffer_unordered(TOPICS).fold(Tally::default(), async |sum, one| sum + one).await
    }

    async fn batch(&self, part: &Part, topic: Arc<str>, end: u64, most: usize) -> Tally {
        let _counted = self.inner.counting.read().await;
        let next = part.topics().entry(topic.clone()).or_default().next(end);
        let Some(from) = next.filter(|_| !self.halts()) else { return Tally::default() };
        let (inner, name, set_aside) = (self.inner.clone(), topic.clone(), self.is_set_aside(part));
        let reading = move || {
            let part = if set_aside { &inner.set_aside } else { &inner.spooled };
            let wanted = |offset, key| {
                let topics = part.topics();
                topics.get(&name).is_some_and(|progress| !progress.is_done(offset) && !progress.is_stuck(key))
            };
            part.log.store.read_pending(&name, from..end, most, BATCH_BYTES, wanted)
        };
        let chunk = match tokio::task::spawn_blocking(reading).await {
            Ok(Ok(chunk)) => chunk,
            // It is being opened again, which the log says itself.
            Ok(Err(ReadError::Closed)) => return Tally { failed: 1, ..Tally::default() },
            Ok(Err(error)) => return unread(&topic, &error),
            Err(_) => return Tally { failed: 1, ..Tally::default() },
        };
        let Chunk { records, damaged, until } = chunk;
        let mut failed = damaged.len() as u64;
        let mut chains: HashMap<u64, Vec<(u64, Message)>> = HashMap::new();
        for record in records {
            let offset = record.offset;
            match Message::of_record(record) {
                Some(message) => chains.entry(message.key_digest()).or_default().push((offset, message)),
                None => failed += 1,
            }
        }
        if failed > 0 {
            passed_over(&topic, failed);
        }
        let sending = chains.into_iter().map(|(key, chain)| self.chain(part, key, chain));
        let sent: Vec<Sent> = stream::iter(sending).buffer_unordered(IN_FLIGHT).collect().await;
        let tally = self.settle(part, topic, until, sent).await;
        tally + Tally { failed, seen: until - from, ..Tally::default() }
    }

    fn is_set_aside(&self, part: &Part) -> bool {
        std::ptr::eq(part, &self.inner.set_aside)
    }

    /// Whether nothing more may be sent for now.
    fn halts(&self) -> bool {
        self.stop.is_cancelled() || self.inner.recounts.load(Relaxed)
    }

    /// Sends the messages of one key, each after the receipt of the one before, up to the first that fails.
    async fn chain(&self, part: &Part, key: u64, chain: Vec<(u64, Message)>) -> Sent {
        let mut sent = Sent { key, gone: Vec::with_capacity(chain.len()), stuck: false, halted: false };
        for (offset, message) in chain {
            if self.halts() {
                // The later ones must not go in this pass.
                sent.halted = true;
                break;
            }
            let message = Arc::new(message);
            let answer = timeout(self.publish_timeout, self.bus.publish(message.clone())).await;
            let gone = match answer.unwrap_or(Err(UNANSWERED)) {
                Ok(Receipt::Kept | Receipt::Duplicate) => {
                    self.inner.bus_refuses.store(false, Relaxed);
                    true
                }
                Err(refusal) if self.may_set_aside(part, &refusal) => self.set_aside(&message, &refusal).await,
                Err(refusal) => {
                    self.not_taken(part, message.topic(), &refusal);
                    false
                }
            };
            if !gone {
                sent.stuck = true;
                break;
            }
            sent.gone.push(offset);
        }
        sent
    }

    /// While the bus as a whole cannot be reached, or takes nothing, nothing is set aside: what is wrong then is
    /// not the message.
    fn may_set_aside(&self, part: &Part, refusal: &Refusal) -> bool {
        !self.is_set_aside(part)
            && refusal.is_message_specific()
            && *self.bus.connection().borrow() == ConnectionState::Up
    }

    /// Whether the message was set aside.
    async fn set_aside(&self, message: &Message, refusal: &Refusal) -> bool {
        static SET_ASIDE: Throttle = Throttle::new(LOG_EVERY);
        let topic = message.topic().clone();
        let aside = Arc::new(message.clone().set_aside(&refusal.to_string()));
        let kept = disk(self.inner.set_aside.log.append(aside)).await;
        if kept == Ok(Receipt::Kept) {
            self.inner.set_aside.waiting.fetch_add(1, Relaxed);
        }
        let Some(more) = SET_ASIDE.pass() else { return kept.is_ok() };
        match &kept {
            Ok(_) => {
                tracing::error!(%topic, more, reason = %refusal, "a message was set aside: the bus refuses it for good");
            }
            Err(full) => tracing::error!(
                %topic,
                more,
                reason = %refusal,
                why = %full,
                "a message cannot even be set aside: those of its key wait behind it until the bus takes it"
            ),
        }
        kept.is_ok()
    }

    /// Says that a message waits on.
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

    async fn settle(&self, part: &Part, topic: Arc<str>, until: u64, sent: Vec<Sent>) -> Tally {
        let gone: Vec<u64> = sent.iter().flat_map(|sent| &sent.gone).copied().collect();
        let failed = sent.iter().filter(|sent| sent.stuck).count() as u64;
        let tally = Tally { gone: gone.len() as u64, failed, seen: 0 };
        let stuck = sent.iter().filter(|sent| sent.stuck || sent.halted).map(|sent| sent.key);
        part.topics().entry(topic.clone()).or_default().advance(until, &gone, stuck);
        if !sent.is_empty() {
            tracing::debug!(%topic, gone = tally.gone, stuck = tally.failed, "sent a batch from the spool");
        }
        if gone.is_empty() {
            return tally;
        }
        let empty = part.waiting.load(Relaxed) == tally.gone;
        let cursors = part.cursors();
        let records = gone.into_iter().map(|offset| (topic.clone(), offset)).collect();
        disk(part.log.done(Done { records, cursors, empty })).await;
        self.inner.drained.fetch_add(tally.gone, Relaxed);
        if self.is_set_aside(part) {
            part.fewer(tally.gone);
            return tally;
        }
        // Only now: what is sent past the spool must not overtake.
        for sent in &sent {
            for _ in &sent.gone {
                self.inner.release(sent.key);
            }
        }
        tally
    }

    /// Keeps in mind how old the oldest message is.
    async fn watch_age(&self) {
        loop {
            let part = &self.inner.spooled;
            let places = part.cursors();
            let store = part.log.store.clone();
            let reading = move || places.into_iter().filter_map(|(topic, at)| store.time(&topic, at)).min();
            let oldest = tokio::task::spawn_blocking(reading).await.ok().flatten();
            self.inner.oldest.store(oldest.map_or(0, Timestamp::as_millisecond), Relaxed);
            tokio::time::sleep(AGE_EVERY).await;
        }
    }
}

/// What became of the messages of one key in one batch.
struct Sent {
    key: u64,
    gone: Vec<u64>,
    /// Whether one failed, so that the later ones were not sent.
    stuck: bool,
    /// Whether the later ones were not sent for another reason.
    halted: bool,
}

/// One pass over what is spooled, from the oldest on.
struct Pass {
    began: Instant,
    gone: u64,
}

impl Pass {
    fn begin(part: &Part) -> Self {
        part.topics().values_mut().for_each(Progress::begin_again);
        Self { began: Instant::now(), gone: 0 }
    }

    /// When the next one begins: the longer this one took for nothing, the later.
    fn rest(&self, pause: Duration) -> Instant {
        let long = if self.gone == 0 { (self.began.elapsed() * REST).min(LONGEST_REST) } else { Duration::ZERO };
        Instant::now() + long.max(pause)
    }
}

/// Waits for the disk, and says so where it takes long.
async fn disk<T>(awaited: impl Future<Output = T>) -> T {
    let mut awaited = pin!(awaited);
    loop {
        match timeout(LOG_EVERY, &mut awaited).await {
            Ok(done) => return done,
            Err(_) => tracing::error!("the spool waits for its disk; look after the disk of spool.dir"),
        }
    }
}

fn unread(topic: &str, error: &ReadError) -> Tally {
    static UNREAD: Throttle = Throttle::new(LOG_EVERY);
    if let Some(more) = UNREAD.pass() {
        tracing::error!(topic, more, reason = %error, "the spool could not be read; look after the disk of spool.dir");
    }
    Tally { failed: 1, ..Tally::default() }
}

fn passed_over(topic: &str, messages: u64) {
    static DAMAGED: Throttle = Throttle::new(LOG_EVERY);
    if let Some(more) = DAMAGED.pass() {
        tracing::error!(
            topic,
            messages,
            more,
            "spooled messages cannot be read: they stay in the spool, and others go on; look after the disk of spool.dir"
        );
    }
}
