//! Keeps what the bus refuses for the moment, and brings it there later. Comes in: messages. Goes out:
//! receipts, each after an fsync, and in the end every message on the bus or set aside.
//!
//! `drain` brings messages to the bus, `progress` is how far it is in a topic; `inspect` is for `check`.

mod drain;
mod inspect;
mod progress;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;

use crate::bus::{OpenError, Receipt, Refusal};
use crate::config;
use crate::dedupe::Known;
use crate::log::{Keep, Log, Settings};
use crate::message::Message;
use progress::Progress;

pub use drain::drain;
pub use inspect::inspect;

/// Where, below the spool's directory, lies what the bus refused for good.
const SET_ASIDE: &str = "set-aside";

/// Holds messages until the bus has them. Cloning shares it.
#[derive(Clone)]
pub struct Spool(Arc<Inner>);

struct Inner {
    config: config::Spool,
    spooled: Part,
    /// What the bus refused for good.
    set_aside: Part,
    /// How many messages of each key are spooled, by the digest of the key.
    held: Mutex<HashMap<u64, u32>>,
    /// The bus refused, and has taken nothing of the spool since.
    bus_refuses: AtomicBool,
    /// Unix milliseconds: when the oldest spooled message came; 0 without any.
    oldest: AtomicI64,
    drained: AtomicU64,
    /// A message was spooled.
    wake: Notify,
    /// The last spooled message has gone.
    emptied: Notify,
}

/// A log of messages that are still to be brought to the bus.
struct Part {
    log: Log,
    topics: Mutex<BTreeMap<Arc<str>, Progress>>,
    /// Messages in it, those being written included.
    waiting: AtomicU64,
}

/// What a spool holds at the moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    pub messages: u64,
    pub bytes: u64,
    pub oldest: Option<Timestamp>,
    pub set_aside: u64,
    /// Brought to the bus since the start.
    pub drained: u64,
}

impl Spool {
    /// Opens the spool with all that it held, and tells what is known to be kept, the oldest first.
    /// `known` deliveries are kept in mind. Blocks on the disk. An error has its remedy.
    pub fn open(config: &config::Spool, known: usize, mut recalled: impl FnMut(Known)) -> Result<Self, OpenError> {
        let mut held = HashMap::new();
        let hold = |key| *held.entry(key).or_insert(0) += 1;
        let spooled = Part::open(settings(config, &config.dir, known), hold, &mut recalled)?;
        let set_aside = Part::open(settings(config, &config.dir.join(SET_ASIDE), 0), |_| {}, |_| {})?;
        Ok(Self(Arc::new(Inner {
            config: config.clone(),
            spooled,
            set_aside,
            held: Mutex::new(held),
            bus_refuses: AtomicBool::new(false),
            oldest: AtomicI64::new(0),
            drained: AtomicU64::new(0),
            wake: Notify::new(),
            emptied: Notify::new(),
        })))
    }

    /// Whether this message has to be spooled without asking the bus: others of its key are, or the bus
    /// refused the last that it was asked to take.
    pub fn comes_first(&self, message: &Message) -> bool {
        let waits = self.0.spooled.waiting.load(Relaxed) > 0;
        waits && (self.0.bus_refuses.load(Relaxed) || self.0.held().contains_key(&message.key_digest()))
    }

    /// The bus did not take a message: until it takes one from the spool, it is not asked.
    pub fn bus_refused(&self) {
        self.0.bus_refuses.store(true, Relaxed);
    }

    /// `Ok` means that the message is on disk, and will be on the bus or set aside. Dropping the future
    /// does not take it back.
    pub async fn take(&self, message: Arc<Message>) -> Result<Receipt, Refusal> {
        if let Some(age) = self.age()
            && age > self.0.config.max_age
        {
            return Err(Refusal::Transient { reason: "the spool holds messages older than spool.max_age".into() });
        }
        let (inner, key) = (self.0.clone(), message.key_digest());
        inner.hold(key);
        let taking = async move {
            let answer = inner.spooled.log.append(message).await;
            match answer {
                Ok(Receipt::Kept) => {
                    let _ = inner.oldest.compare_exchange(0, Timestamp::now().as_millisecond(), Relaxed, Relaxed);
                    inner.wake.notify_one();
                }
                Ok(Receipt::Duplicate) | Err(_) => inner.release(key),
            }
            answer
        };
        let lost = || Refusal::Transient { reason: "the spool gave no receipt".into() };
        tokio::spawn(taking).await.unwrap_or_else(|_| Err(lost()))
    }

    /// Keeps in mind what is kept, so that it is known again after a restart.
    pub async fn remember(&self, known: Known) {
        self.0.spooled.log.remember(known).await;
    }

    /// Waits until nothing is spooled.
    pub async fn emptied(&self) {
        loop {
            let emptied = self.0.emptied.notified();
            if self.0.spooled.waiting.load(Relaxed) == 0 {
                return;
            }
            emptied.await;
        }
    }

    pub fn reading(&self) -> Reading {
        let Inner { spooled, set_aside, drained, .. } = &*self.0;
        Reading {
            messages: spooled.waiting.load(Relaxed),
            bytes: spooled.log.store.bytes() + set_aside.log.store.bytes(),
            oldest: self.oldest(),
            set_aside: set_aside.waiting.load(Relaxed),
            drained: drained.load(Relaxed),
        }
    }

    fn oldest(&self) -> Option<Timestamp> {
        // What was looked up a moment ago may have gone since.
        let oldest = if self.0.spooled.waiting.load(Relaxed) > 0 { self.0.oldest.load(Relaxed) } else { 0 };
        (oldest > 0).then(|| Timestamp::from_millisecond(oldest).ok()).flatten()
    }

    fn age(&self) -> Option<std::time::Duration> {
        let age = Timestamp::now().duration_since(self.oldest()?);
        std::time::Duration::try_from(age).ok()
    }

    /// Commits what was handed over, then closes. The drainer has ended before.
    pub async fn close(&self) {
        self.0.spooled.log.close().await;
        self.0.set_aside.log.close().await;
    }
}

/// Of the log in `dir`, which keeps `known` deliveries in mind.
fn settings(config: &config::Spool, dir: &Path, known: usize) -> Settings {
    let keep = Keep::UntilDone { bytes: config.max_bytes, known };
    Settings { section: "spool", dir: dir.to_owned(), reserve: config.reserve, keep }
}

impl Inner {
    fn held(&self) -> MutexGuard<'_, HashMap<u64, u32>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, key: u64) {
        *self.held().entry(key).or_insert(0) += 1;
        self.spooled.waiting.fetch_add(1, Relaxed);
    }

    fn release(&self, key: u64) {
        let mut held = self.held();
        if let Some(count) = held.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                held.remove(&key);
            }
        }
        drop(held);
        if self.spooled.waiting.fetch_sub(1, Relaxed) == 1 {
            self.oldest.store(0, Relaxed);
            self.emptied.notify_waiters();
        }
    }
}

impl Part {
    fn open(settings: Settings, mut held: impl FnMut(u64), known: impl FnMut(Known)) -> Result<Self, OpenError> {
        let log = Log::open(settings, std::iter::empty())?;
        let mut pending: BTreeMap<Arc<str>, Vec<u64>> = BTreeMap::new();
        let mut waiting = 0;
        let each = |topic, offset, key| {
            pending.entry(topic).or_default().push(offset);
            held(key);
            waiting += 1;
        };
        log.store.recall(each, known)?;
        let topics = log.store.topics().into_iter().map(|(topic, extent)| {
            let pending = pending.remove(&topic).unwrap_or_default();
            (topic, Progress::new(&pending, extent.next))
        });
        Ok(Self { topics: Mutex::new(topics.collect()), log, waiting: AtomicU64::new(waiting) })
    }

    fn topics(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Progress>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
