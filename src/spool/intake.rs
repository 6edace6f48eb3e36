//! The spool as the relay sees it: takes messages that the bus does not take, each key in order.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

use super::slots::Slot;
use super::state::{Inner, Part, SET_ASIDE, settings};
use super::tries::Tries;
use crate::bus::{OpenError, Receipt, Refusal};
use crate::clock::Clock;
use crate::config;
use crate::dedupe::DedupeEntry;
use crate::log::Settings;
use crate::message::Message;
use crate::metrics::SpoolGauges;

/// How long an answer may wait until the spool has remembered a stored message.
const REMEMBER_WITHIN: Duration = Duration::from_millis(250);

/// Stores messages until the bus has them. Cloning shares it.
#[derive(Clone)]
pub struct Spool(pub(super) Arc<Inner>);

impl Spool {
    /// Opens the spool with everything in it. Remembers `entries` deliveries, and passes on those it remembers from
    /// before, oldest first. Blocks on the disk. An error names its remedy.
    pub fn open(
        config: &config::Spool,
        entries: usize,
        clock: Clock,
        mut remembered: impl FnMut(DedupeEntry),
    ) -> Result<Self, OpenError> {
        let settings = |dir: &Path, entries| Settings { clock: clock.clone(), ..settings(config, dir, entries) };
        let (spooled, held) = Part::open(settings(&config.dir, entries), entries, &mut remembered)?;
        let (set_aside, _) = Part::open(settings(&config.dir.join(SET_ASIDE), 0), entries, remembered)?;
        Ok(Self(Arc::new(Inner {
            config: config.clone(),
            clock,
            spooled,
            set_aside,
            held: Mutex::new(held),
            slots: Arc::default(),
            bus_refuses: AtomicBool::new(false),
            oldest: AtomicI64::new(0),
            drained: AtomicU64::new(0),
            tries: Tries::default(),
            passing: tokio::sync::Mutex::default(),
            wake: Notify::new(),
            emptied: Notify::new(),
        })))
    }

    /// A slot in the order of the message's key, behind all current ones. Dropping it releases the slot.
    pub fn acquire(&self, message: &Message) -> KeySlot {
        KeySlot { spool: self.0.clone(), slot: self.0.slots.acquire(message.key_digest()) }
    }

    /// Reports that the bus refused a message: until it takes one, messages go to the spool first.
    pub fn bus_refused(&self) {
        self.0.bus_refuses.store(true, Relaxed);
    }

    /// Reports that the bus took a message.
    pub fn bus_kept(&self) {
        self.0.bus_refuses.store(false, Relaxed);
    }

    /// Remembers a stored delivery, so that it is still a duplicate after a restart. Does not wait for a slow disk: a
    /// forgotten delivery costs at most a second copy.
    pub async fn remember(&self, entry: DedupeEntry) {
        let _ = tokio::time::timeout(REMEMBER_WITHIN, self.0.spooled.log.remember(entry)).await;
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

    pub fn gauges(&self) -> SpoolGauges {
        let Inner { spooled, set_aside, drained, .. } = &*self.0;
        SpoolGauges {
            messages: spooled.waiting.load(Relaxed),
            bytes: spooled.log.store.bytes(),
            oldest: self.0.oldest().map_or(Duration::ZERO, |oldest| self.0.clock.age(oldest)),
            set_aside: set_aside.waiting.load(Relaxed),
            set_aside_bytes: set_aside.log.store.bytes(),
            drained: drained.load(Relaxed),
        }
    }

    /// Returns when a part of the spool can take nothing more: its writer has ended without being closed.
    pub async fn ended(&self) {
        tokio::select! {
            () = self.0.spooled.log.ended() => {}
            () = self.0.set_aside.log.ended() => {}
        }
    }

    /// Commits everything submitted before, then closes. Call it after the drain has ended.
    pub async fn close(&self) {
        self.0.spooled.log.close().await;
        self.0.set_aside.log.close().await;
    }
}

/// The slot of one message in the order of its key, on its way to the bus or the spool.
pub struct KeySlot {
    spool: Arc<Inner>,
    slot: Slot,
}

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryPath {
    BusFirst,
    /// The bus refused the last message. It is tried only if the spool is full.
    SpoolFirst,
    /// Other messages of this key are in the spool, or on their way there.
    SpoolOnly,
}

impl KeySlot {
    pub fn path(&self) -> DeliveryPath {
        let spool = &self.spool;
        // The order matters: a message counts as held before its slot is released.
        let behind = self.slot.is_behind() || spool.held().contains_key(&self.slot.key());
        match spool.spooled.waiting.load(Relaxed) > 0 && spool.bus_refuses.load(Relaxed) {
            _ if behind => DeliveryPath::SpoolOnly,
            true => DeliveryPath::SpoolFirst,
            false => DeliveryPath::BusFirst,
        }
    }

    /// Writes the message to the spool, after all messages of its key with an earlier slot. `Ok` means that it is on
    /// disk, and will reach the bus or be set aside. Dropping the future does not undo the write.
    pub async fn spool(self, message: Arc<Message>) -> Result<Receipt, Refusal> {
        let refused = |reason: &'static str| Err(Refusal::Transient { reason: reason.into() });
        self.slot.wait().await;
        let Self { spool, slot } = self;
        if spool.oldest().is_some_and(|oldest| spool.clock.is_older(oldest, spool.config.max_age)) {
            return refused("the spool holds messages older than spool.max_age");
        }
        let key = slot.key();
        spool.hold(key);
        let answer = spool.spooled.log.append(message);
        drop(slot);
        let writing = async move {
            let answer = answer.await;
            if answer.is_ok() {
                let _ = spool.oldest.compare_exchange(0, Timestamp::now().as_millisecond(), Relaxed, Relaxed);
                spool.wake.notify_one();
            } else {
                spool.release(key);
            }
            Ok(answer.map(|()| Receipt::Kept)?)
        };
        tokio::spawn(writing).await.unwrap_or_else(|_| refused("the spool gave no receipt"))
    }
}
