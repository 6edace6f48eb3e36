//! Keeps what the bus refuses for the moment, and brings it there later. Comes in: messages. Goes out:
//! receipts, each after an fsync, and in the end every message on the bus or set aside.
//!
//! What a receipt of its own rests on stands in `log`. A message counts as sent with a receipt of the bus, and with
//! nothing else: what the bus refuses, leaves unanswered or does not confirm stays.
//!
//! `turns` has each key's messages go in order, `drain` brings them to the bus, `progress` is how far it is in
//! a topic, `recall` what the disk has; `inspect` is for `check`.

mod drain;
mod inspect;
mod progress;
mod recall;
mod turns;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, RwLock};

use crate::bus::{OpenError, Receipt, Refusal};
use crate::clock::Clock;
use crate::config;
use crate::dedupe::Known;
use crate::log::{Keep, Log, Settings};
use crate::message::Message;
use progress::Progress;
use recall::recall;
use turns::{Turn, Turns};

pub use drain::drain;
pub use inspect::inspect;

/// Where, below the spool's directory, lies what the bus refused for good.
const SET_ASIDE: &str = "set-aside";

/// How long an answer may wait until it is kept in mind that the bus keeps a message.
const REMEMBER_WITHIN: Duration = Duration::from_millis(250);

/// Holds messages until the bus has them. Cloning shares it.
#[derive(Clone)]
pub struct Spool(Arc<Inner>);

struct Inner {
    config: config::Spool,
    clock: Clock,
    spooled: Part,
    /// What the bus refused for good.
    set_aside: Part,
    /// How many messages of each key are spooled, by the digest of the key.
    held: Mutex<HashMap<u64, u32>>,
    turns: Arc<Turns>,
    /// Held by who changes what is counted: whoever counts anew holds it alone.
    counting: Arc<RwLock<()>>,
    /// Somebody waits to count anew: nothing more is begun.
    recounts: AtomicBool,
    /// The bus refused, and has taken nothing since.
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
    /// How old the oldest message is.
    pub age: Duration,
    pub set_aside: u64,
    /// Brought to the bus since the start.
    pub drained: u64,
}

impl Spool {
    /// Opens the spool with all that it held, and tells what is known to be kept, the oldest first.
    /// `known` deliveries are kept in mind. Blocks on the disk. An error has its remedy.
    pub fn open(
        config: &config::Spool,
        known: usize,
        clock: Clock,
        mut recalled: impl FnMut(Known),
    ) -> Result<Self, OpenError> {
        let settings = |dir: &Path, known| Settings { clock: clock.clone(), ..settings(config, dir, known) };
        let (spooled, held) = Part::open(settings(&config.dir, known), &mut recalled)?;
        let (set_aside, _) = Part::open(settings(&config.dir.join(SET_ASIDE), 0), |_| {})?;
        Ok(Self(Arc::new(Inner {
            config: config.clone(),
            clock,
            spooled,
            set_aside,
            held: Mutex::new(held),
            turns: Arc::default(),
            counting: Arc::default(),
            recounts: AtomicBool::new(false),
            bus_refuses: AtomicBool::new(false),
            oldest: AtomicI64::new(0),
            drained: AtomicU64::new(0),
            wake: Notify::new(),
            emptied: Notify::new(),
        })))
    }

    /// The message's turn among those of its key, behind all that have one now. It is over when it is dropped.
    pub fn turn(&self, message: &Message) -> Coming {
        Coming { spool: self.0.clone(), turn: self.0.turns.begin(message.key_digest()) }
    }

    /// The bus did not take a message: until it takes one, the spool is asked first.
    pub fn bus_refused(&self) {
        self.0.bus_refuses.store(true, Relaxed);
    }

    /// The bus took a message.
    pub fn bus_kept(&self) {
        self.0.bus_refuses.store(false, Relaxed);
    }

    /// Keeps in mind what is kept, so that it is known again after a restart; a disk that takes its time is
    /// not waited for: what is not kept in mind costs at most a second copy.
    pub async fn remember(&self, known: Known) {
        let _ = tokio::time::timeout(REMEMBER_WITHIN, self.0.spooled.log.remember(known)).await;
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
            age: self.0.oldest().map_or(Duration::ZERO, |oldest| self.0.clock.age(oldest)),
            set_aside: set_aside.waiting.load(Relaxed),
            drained: drained.load(Relaxed),
        }
    }

    /// Returns when a part of it can take nothing any more: nobody closed it, but its writer has ended.
    pub async fn ended(&self) {
        tokio::select! {
            () = self.0.spooled.log.ended() => {}
            () = self.0.set_aside.log.ended() => {}
        }
    }

    /// Commits what was handed over, then closes. The drainer has ended before.
    pub async fn close(&self) {
        self.0.spooled.log.close().await;
        self.0.set_aside.log.close().await;
    }
}

/// A message on its way to the bus or the spool.
pub struct Coming {
    spool: Arc<Inner>,
    turn: Turn,
}

/// Who is asked for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    Bus,
    /// The bus refused the last that it was asked to take: the spool, and the bus only where that is full.
    Spool,
    /// The spool alone: others of its key are there, or on their way.
    SpoolAlone,
}

impl Coming {
    pub fn first(&self) -> First {
        let spool = &self.spool;
        // In this order: a message is held before its turn is over.
        let behind = self.turn.is_behind() || spool.held().contains_key(&self.turn.key());
        match spool.spooled.waiting.load(Relaxed) > 0 && spool.bus_refuses.load(Relaxed) {
            _ if behind => First::SpoolAlone,
            true => First::Spool,
            false => First::Bus,
        }
    }

    /// `Ok` means that the message is on disk, and will be on the bus or set aside. All of its key that have
    /// an earlier turn go before it. Dropping the future does not take it back.
    pub async fn take(self, message: Arc<Message>) -> Result<Receipt, Refusal> {
        let refused = |reason: &'static str| Err(Refusal::Transient { reason: reason.into() });
        self.turn.comes().await;
        let Self { spool, turn } = self;
        if spool.oldest().is_some_and(|oldest| spool.clock.is_older(oldest, spool.config.max_age)) {
            return refused("the spool holds messages older than spool.max_age");
        }
        let Ok(counted) = spool.counting.clone().try_read_owned() else {
            return refused("the spool counts what it holds after a failure");
        };
        let key = turn.key();
        spool.hold(key);
        let answer = spool.spooled.log.append(message);
        drop(turn);
        let taking = async move {
            let answer = answer.await;
            match answer {
                Ok(Receipt::Kept) => {
                    let _ = spool.oldest.compare_exchange(0, Timestamp::now().as_millisecond(), Relaxed, Relaxed);
                    spool.wake.notify_one();
                }
                Ok(Receipt::Duplicate) | Err(_) => spool.release(key),
            }
            drop(counted);
            answer
        };
        tokio::spawn(taking).await.unwrap_or_else(|_| refused("the spool gave no receipt"))
    }
}

/// Of the log in `dir`, which keeps `known` deliveries in mind.
fn settings(config: &config::Spool, dir: &Path, known: usize) -> Settings {
    let keep = Keep::UntilDone { bytes: config.max_bytes, known };
    Settings { section: "spool", dir: dir.to_owned(), reserve: config.reserve, keep, clock: Clock::system() }
}

impl Inner {
    fn oldest(&self) -> Option<Timestamp> {
        // What was looked up a moment ago may have gone since.
        let oldest = if self.spooled.waiting.load(Relaxed) > 0 { self.oldest.load(Relaxed) } else { 0 };
        (oldest > 0).then(|| Timestamp::from_millisecond(oldest).ok()).flatten()
    }

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
        if self.spooled.fewer(1) == 0 {
            self.nothing_waits();
        }
    }

    fn nothing_waits(&self) {
        self.oldest.store(0, Relaxed);
        self.emptied.notify_waiters();
    }
}

impl Part {
    /// Besides, how many messages of each key are pending.
    fn open(settings: Settings, known: impl FnMut(Known)) -> Result<(Self, HashMap<u64, u32>), OpenError> {
        let log = Log::open(settings, std::iter::empty())?;
        let recalled = recall(&log.store, &BTreeMap::new(), known)?;
        let (topics, waiting) = (Mutex::new(recalled.topics), AtomicU64::new(recalled.waiting));
        Ok((Self { log, topics, waiting }, recalled.held))
    }

    /// How many wait now that so many have gone.
    fn fewer(&self, gone: u64) -> u64 {
        let less = |waiting: u64| Some(waiting.saturating_sub(gone));
        self.waiting.fetch_update(Relaxed, Relaxed, less).map_or(0, |waiting| waiting.saturating_sub(gone))
    }

    /// Before which offset of each topic nothing is pending.
    fn cursors(&self) -> Vec<(Arc<str>, u64)> {
        self.topics().iter().map(|(topic, progress)| (topic.clone(), progress.cursor())).collect()
    }

    fn topics(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Progress>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
