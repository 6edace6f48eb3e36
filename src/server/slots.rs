//! Connection slots, as many as there may be connections at once. When all are taken, an idle connection is evicted
//! for a new one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::errors::{ConnectionError, ConnectionLog};
use super::timer::{ConnectionTimer, Evictable};

/// How long to wait for a slot before looking again for a connection to evict.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A scan of all connections costs more than an eviction, so one scan picks this fraction of them, to be evicted one
/// by one as slots are needed.
const PART_OF_A_LOOK: usize = 8;

pub(super) struct ConnectionSlots {
    free: Arc<Semaphore>,
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    next: u64,
    timers: HashMap<u64, Arc<ConnectionTimer>>,
    /// Sorted so that the first to evict comes last.
    evictable: Vec<(Evictable, Weak<ConnectionTimer>)>,
}

/// One connection's slot. Dropping it frees the slot.
pub(super) struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    number: u64,
    _permit: OwnedSemaphorePermit,
}

impl ConnectionSlots {
    pub(super) fn new(most: usize) -> Arc<Self> {
        let most = most.min(Semaphore::MAX_PERMITS);
        Arc::new(Self { free: Arc::new(Semaphore::new(most)), most, taken: Mutex::default() })
    }

    /// Takes a slot for the connection of this timer. When all are taken, this evicts the connection that has been
    /// idle longest, or waits until one is idle. Cancel-safe.
    pub(super) async fn take(self: &Arc<Self>, timer: &Arc<ConnectionTimer>, log: &ConnectionLog) -> ConnectionSlot {
        let permit = match self.free.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.wait(log).await,
        };
        let mut taken = self.taken();
        let number = taken.next;
        taken.next += 1;
        taken.timers.insert(number, timer.clone());
        drop(taken);
        ConnectionSlot { slots: self.clone(), number, _permit: permit }
    }

    /// Tells every connection that has a slot to end after its running request.
    pub(super) fn stop(&self) {
        self.taken().timers.values().for_each(|timer| timer.stop());
    }

    async fn wait(&self, log: &ConnectionLog) -> OwnedSemaphorePermit {
        let mut leaving: Option<Weak<ConnectionTimer>> = None;
        let mut waits = false;
        loop {
            // An eviction that was requested but has not finished will free a slot soon.
            if leaving.as_ref().and_then(Weak::upgrade).is_none_or(|timer| !timer.is_evicting()) {
                leaving = self.make_room();
                match &leaving {
                    Some(_) => log.record(ConnectionError::ClosedForRoom),
                    None if !std::mem::replace(&mut waits, true) => log.record(ConnectionError::NoPlace),
                    None => {}
                }
            }
            let slot = self.free.clone().acquire_owned();
            if let Ok(permit) = tokio::time::timeout(LOOK_AGAIN, slot).await {
                return permit.expect("the semaphore is never closed");
            }
        }
    }

    /// Evicts one connection; `None` if all are busy.
    fn make_room(&self) -> Option<Weak<ConnectionTimer>> {
        let mut taken = self.taken();
        for look in [false, true] {
            if look {
                taken.look(self.most);
            }
            while let Some((evictable, timer)) = taken.evictable.pop() {
                if timer.upgrade().is_some_and(|timer| timer.evict(evictable)) {
                    return Some(timer);
                }
            }
        }
        None
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().expect("no holder of this lock can panic")
    }
}

impl Taken {
    fn look(&mut self, most: usize) {
        let now = Instant::now();
        let evictable = |timer: &Arc<ConnectionTimer>| Some((timer.evictable(now)?, Arc::downgrade(timer)));
        self.evictable = self.timers.values().filter_map(evictable).collect();
        self.evictable.sort_unstable_by_key(|(evictable, _)| *evictable);
        self.evictable.truncate(most.div_ceil(PART_OF_A_LOOK));
        self.evictable.reverse();
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.slots.taken().timers.remove(&self.number);
    }
}
