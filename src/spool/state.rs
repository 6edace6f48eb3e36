//! What the parts of a spool share: two logs, and their counts.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::progress::Progress;
use super::recall::recall;
use super::slots::Slots;
use super::tries::Tries;
use crate::clock::Clock;
use crate::config;
use crate::dedupe::DedupeEntry;
use crate::log::{Keep, Log, OpenError, Settings};

/// The directory, inside the spool's own, for messages that the bus refused permanently.
pub(super) const SET_ASIDE: &str = "set-aside";

pub(super) struct Inner {
    pub(super) config: config::Spool,
    pub(super) clock: Clock,
    pub(super) spooled: Part,
    /// Messages that the bus refused permanently.
    pub(super) set_aside: Part,
    /// How many messages of each key are spooled, by the digest of the key.
    pub(super) held: Mutex<HashMap<u64, u32>>,
    pub(super) slots: Arc<Slots>,
    /// The bus refused a message, and has taken none since.
    pub(super) bus_refuses: AtomicBool,
    /// Unix milliseconds: when the oldest spooled message arrived; 0 if there is none.
    pub(super) oldest: AtomicI64,
    pub(super) drained: AtomicU64,
    pub(super) tries: Tries,
    /// Held while somebody goes through what is set aside: sends it, or discards some of it.
    pub(super) passing: tokio::sync::Mutex<()>,
    /// A message was spooled.
    pub(super) wake: Notify,
    /// The last spooled message was sent.
    pub(super) emptied: Notify,
}

/// A log of messages that still have to reach the bus.
pub(super) struct Part {
    pub(super) log: Log,
    pub(super) topics: Mutex<BTreeMap<Arc<str>, Progress>>,
    /// Messages in the log, including those being written.
    pub(super) waiting: AtomicU64,
}

/// The settings of the log in `dir`, which remembers `known` deliveries.
pub(super) fn settings(config: &config::Spool, dir: &Path, known: usize) -> Settings {
    let keep = Keep::UntilDone { bytes: config.max_bytes, known };
    Settings { section: "spool", dir: dir.to_owned(), reserve: config.reserve, keep, clock: Clock::system() }
}

impl Inner {
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        // The message may have been sent since its time was read.
        let oldest = if self.spooled.waiting.load(Relaxed) > 0 { self.oldest.load(Relaxed) } else { 0 };
        (oldest > 0).then(|| Timestamp::from_millisecond(oldest).ok()).flatten()
    }

    pub(super) fn held(&self) -> MutexGuard<'_, HashMap<u64, u32>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hold(&self, key: u64) {
        *self.held().entry(key).or_insert(0) += 1;
        self.spooled.waiting.fetch_add(1, Relaxed);
    }

    pub(super) fn release(&self, key: u64) {
        let mut held = self.held();
        if let Some(count) = held.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                held.remove(&key);
            }
        }
        drop(held);
        if self.spooled.fewer(1) == 0 {
            self.nothing_waits();
        }
    }

    pub(super) fn nothing_waits(&self) {
        self.oldest.store(0, Relaxed);
        self.emptied.notify_waiters();
    }
}

impl Part {
    /// Passes on the newest `most` deliveries that are stored here or, as far as is remembered, on the bus. Also
    /// returns how many messages of each key are pending.
    pub(super) fn open(
        settings: Settings,
        most: usize,
        kept: impl FnMut(DedupeEntry),
    ) -> Result<(Self, HashMap<u64, u32>), OpenError> {
        let log = Log::open(settings, std::iter::empty(), |_| {})?;
        log.store.kept(most, kept)?;
        let recalled = recall(&log.store)?;
        let (topics, waiting) = (Mutex::new(recalled.topics), AtomicU64::new(recalled.waiting));
        Ok((Self { log, topics, waiting }, recalled.held))
    }

    /// Subtracts `gone` messages; returns how many still wait.
    pub(super) fn fewer(&self, gone: u64) -> u64 {
        let less = |waiting: u64| Some(waiting.saturating_sub(gone));
        self.waiting.fetch_update(Relaxed, Relaxed, less).map_or(0, |waiting| waiting.saturating_sub(gone))
    }

    /// For each topic, the offset before which nothing is pending.
    pub(super) fn cursors(&self) -> Vec<(Arc<str>, u64)> {
        self.topics().iter().map(|(topic, progress)| (topic.clone(), progress.cursor())).collect()
    }

    pub(super) fn topics(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Progress>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
