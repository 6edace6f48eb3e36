//! Brings spooled messages to the bus. Comes in: the spool and the bus. Each key keeps its order: its
//! next message is sent after the receipt of the one before. What the bus refuses for good is set
//! aside, so that nothing waits behind it, and tried again from time to time.

use std::collections::HashMap;
use std::ops::{Add, Range};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::progress::Progress;
use super::{Inner, Part, Spool};
use crate::bus::{Bus, Link, Receipt, Refusal};
use crate::log::{Done, ReadError};
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

/// How long a bus that is away is left in peace.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// How often what was set aside is tried again: somebody may have mended what was wrong.
const SET_ASIDE_EVERY: Duration = Duration::from_secs(300);

/// How often the age of the oldest message is looked at.
const AGE_EVERY: Duration = Duration::from_secs(1);

const LOG_EVERY: Duration = Duration::from_secs(10);

/// What a batch came to.
#[derive(Default, Clone, Copy)]
struct Tally {
    gone: u64,
    failed: u64,
    /// Not sent: done before, or behind one of its key that failed.
    passed_over: u64,
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            gone: self.gone + other.gone,
            failed: self.failed + other.failed,
            passed_over: self.passed_over + other.passed_over,
        }
    }
}

/// Drains until it is stopped. Nothing is lost by dropping it at any point.
pub async fn drain(spool: Spool, bus: Arc<dyn Bus>, publish_timeout: Duration, stop: CancellationToken) {
    let run = Run { inner: spool.0, bus, publish_timeout };
    tokio::select! {
        () = stop.cancelled() => {}
        () = run.drain() => {}
        () = run.watch_age() => {}
    }
}

struct Run {
    inner: Arc<Inner>,
    bus: Arc<dyn Bus>,
    publish_timeout: Duration,
}

impl Run {
    async fn drain(&self) {
        let mut link = self.bus.link();
        let mut set_aside_due = Instant::now();
        loop {
            if self.inner.spooled.waiting.load(Relaxed) > 0 {
                self.empty(&mut link).await;
            }
            if Instant::now() >= set_aside_due && *link.borrow() == Link::Up {
                while self.round(&self.inner.set_aside, BATCH_MESSAGES).await.gone > 0 {}
                set_aside_due = Instant::now() + SET_ASIDE_EVERY;
            }
            let _ =
                tokio::time::timeout_at(set_aside_due.max(Instant::now() + FIRST_PAUSE), self.inner.wake.notified())
                    .await;
        }
    }

    /// Until nothing is spooled.
    async fn empty(&self, link: &mut watch::Receiver<Link>) {
        let (began, mut pause, mut batch) = (self.inner.drained.load(Relaxed), FIRST_PAUSE, PROBE_MESSAGES);
        tracing::warn!(
            messages = self.inner.spooled.waiting.load(Relaxed),
            "messages are in the spool: they are brought to the bus as soon as it takes them"
        );
        while self.inner.spooled.waiting.load(Relaxed) > 0 {
            if *link.borrow_and_update() != Link::Up {
                let _ = timeout(PROBE_EVERY, link.changed()).await;
            }
            let tally = self.round(&self.inner.spooled, batch).await;
            if tally.gone > 0 {
                (pause, batch) = (FIRST_PAUSE, BATCH_MESSAGES);
                continue;
            }
            if tally.failed == 0 && tally.passed_over > 0 {
                continue;
            }
            // The bus as a whole, or only where the first messages go? More of them tell.
            if *link.borrow() != Link::Up {
                batch = PROBE_MESSAGES;
            }
            if batch < BATCH_MESSAGES {
                self.inner.spooled.topics().values_mut().for_each(Progress::begin_again);
                batch = (batch * PROBE_GROWTH).min(BATCH_MESSAGES);
            }
            let _ = timeout(pause, link.changed()).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
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
        let next = part.topics().entry(topic.clone()).or_default().next(end);
        let Some(from) = next else { return Tally::default() };
        let (store, name) = (part.log.store.clone(), topic.clone());
        let reading = move || store.read(&name, from, end, most, BATCH_BYTES);
        let records = match tokio::task::spawn_blocking(reading).await {
            Ok(Ok(records)) => records,
            Ok(Err(error)) => return unread(&topic, &error),
            Err(_) => return Tally::default(),
        };
        let until = from + records.len() as u64;
        let mut chains: HashMap<u64, Vec<(u64, Message)>> = HashMap::new();
        for record in records {
            let (offset, topics) = (record.offset, part.topics());
            let Some(progress) = topics.get(&topic).filter(|progress| !progress.is_done(offset)) else { continue };
            let Some(message) = Message::of_record(record) else { continue };
            if !progress.is_stuck(message.key_digest()) {
                chains.entry(message.key_digest()).or_default().push((offset, message));
            }
        }
        let sending = chains.into_iter().map(|(key, chain)| self.chain(part, key, chain));
        let sent: Vec<Sent> = stream::iter(sending).buffer_unordered(IN_FLIGHT).collect().await;
        self.settle(part, topic, from..until, sent).await
    }

    /// Sends the messages of one key, each after the receipt of the one before, up to the first that fails.
    async fn chain(&self, part: &Part, key: u64, chain: Vec<(u64, Message)>) -> Sent {
        let mut sent = Sent { key, gone: Vec::with_capacity(chain.len()), stuck: false };
        for (offset, message) in chain {
            let message = Arc::new(message);
            let answer = timeout(self.publish_timeout, self.bus.publish(message.clone())).await;
            let gone = match answer {
                Ok(Ok(Receipt::Kept | Receipt::Duplicate)) => {
                    self.inner.bus_refuses.store(false, Relaxed);
                    true
                }
                Ok(Err(Refusal::Transient { .. })) | Err(_) => false,
                Ok(Err(refusal)) => self.refused_for_good(part, message, &refusal).await,
            };
            if !gone {
                sent.stuck = true;
                break;
            }
            sent.gone.push(offset);
        }
        sent
    }

    /// Whether the message was set aside. While the bus as a whole cannot be reached, or takes nothing, none
    /// is: what is wrong then is not the message.
    async fn refused_for_good(&self, part: &Part, message: Arc<Message>, refusal: &Refusal) -> bool {
        static SET_ASIDE: Throttle = Throttle::new(LOG_EVERY);
        let bus_wide = !refusal.concerns_this_alone() || *self.bus.link().borrow() != Link::Up;
        if std::ptr::eq(part, &self.inner.set_aside) || bus_wide {
            return false;
        }
        let Ok(message) = Arc::try_unwrap(message) else { return false };
        let topic = message.topic().clone();
        let aside = Arc::new(message.set_aside(&refusal.to_string()));
        let kept = self.inner.set_aside.log.append(aside).await;
        if kept == Ok(Receipt::Kept) {
            self.inner.set_aside.waiting.fetch_add(1, Relaxed);
        }
        if kept.is_ok()
            && let Some(more) = SET_ASIDE.pass()
        {
            tracing::error!(%topic, more, reason = %refusal, "a message was set aside: the bus refuses it for good");
        }
        kept.is_ok()
    }

    async fn settle(&self, part: &Part, topic: Arc<str>, read: Range<u64>, sent: Vec<Sent>) -> Tally {
        let gone: Vec<u64> = sent.iter().flat_map(|sent| &sent.gone).copied().collect();
        let stuck = sent.iter().filter(|sent| sent.stuck).map(|sent| sent.key);
        let (gone_now, failed) = (gone.len() as u64, stuck.clone().count() as u64);
        let tally = Tally { gone: gone_now, failed, passed_over: (read.end - read.start) - gone_now - failed };
        let (cursors, spooled) = {
            let mut topics = part.topics();
            topics.entry(topic.clone()).or_default().advance(read.end, &gone, stuck);
            let cursors = topics.iter().map(|(topic, progress)| (topic.clone(), progress.cursor())).collect();
            (cursors, std::ptr::eq(part, &self.inner.spooled))
        };
        tracing::debug!(%topic, gone = tally.gone, stuck = tally.failed, "sent a batch from the spool");
        if gone.is_empty() {
            return tally;
        }
        let empty = part.waiting.load(Relaxed) == tally.gone;
        let records = gone.into_iter().map(|offset| (topic.clone(), offset)).collect();
        part.log.done(Done { records, cursors, empty }).await;
        self.inner.drained.fetch_add(tally.gone, Relaxed);
        if !spooled {
            part.waiting.fetch_sub(tally.gone, Relaxed);
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
            let places: Vec<_> =
                part.topics().iter().map(|(topic, progress)| (topic.clone(), progress.cursor())).collect();
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
}

fn unread(topic: &str, error: &ReadError) -> Tally {
    static UNREAD: Throttle = Throttle::new(LOG_EVERY);
    if let Some(more) = UNREAD.pass() {
        tracing::error!(topic, more, reason = %error, "the spool could not be read; look after the disk of spool.dir");
    }
    Tally { failed: 1, ..Tally::default() }
}
