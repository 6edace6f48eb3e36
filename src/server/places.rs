//! Places for connections: as many as there may be at once, and who gives way when all are taken. Comes
//! in: accepted connections. Goes out: a place for each, at once where one that does nothing has to leave.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::clock::{Clock, Spare};
use super::errors::{ConnectionError, ConnectionLog};

/// How long to wait for a place before looking again who could give way.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Looking at all connections costs more than asking one to leave: the first of one look to go, this
/// part of all, go one after the other.
const PART_OF_A_LOOK: usize = 8;

pub(super) struct Places {
    free: Arc<Semaphore>,
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    next: u64,
    clocks: HashMap<u64, Arc<Clock>>,
    /// The first to go last.
    spare: Vec<(Spare, Weak<Clock>)>,
}

/// One connection's place. Dropping it frees it.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new(most: usize) -> Arc<Self> {
        let most = most.min(Semaphore::MAX_PERMITS);
        Arc::new(Self { free: Arc::new(Semaphore::new(most)), most, taken: Mutex::default() })
    }

    /// A place for the connection of this clock. Where all are taken, the connection that has rested longest
    /// has to leave; where none rests, this waits until one does. Cancel-safe.
    pub(super) async fn take(self: &Arc<Self>, clock: &Arc<Clock>, log: &ConnectionLog) -> Place {
        let permit = match self.free.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.wait(log).await,
        };
        let mut taken = self.taken();
        let number = taken.next;
        taken.next += 1;
        taken.clocks.insert(number, clock.clone());
        drop(taken);
        Place { places: self.clone(), number, _permit: permit }
    }

    async fn wait(&self, log: &ConnectionLog) -> OwnedSemaphorePermit {
        let mut leaving: Option<Weak<Clock>> = None;
        let mut waits = false;
        loop {
            // One that was asked and has not left yet is on its way.
            if leaving.as_ref().and_then(Weak::upgrade).is_none_or(|clock| !clock.is_giving_way()) {
                leaving = self.make_room();
                match &leaving {
                    Some(_) => log.record(ConnectionError::ClosedForRoom),
                    None if !std::mem::replace(&mut waits, true) => log.record(ConnectionError::NoPlace),
                    None => {}
                }
            }
            let place = self.free.clone().acquire_owned();
            if let Ok(permit) = tokio::time::timeout(LOOK_AGAIN, place).await {
                return permit.expect("the semaphore is never closed");
            }
        }
    }

    /// Asks one connection to leave; `None` where all are at work.
    fn make_room(&self) -> Option<Weak<Clock>> {
        let mut taken = self.taken();
        for look in [false, true] {
            if look {
                taken.look(self.most);
            }
            while let Some((spare, clock)) = taken.spare.pop() {
                if clock.upgrade().is_some_and(|clock| clock.give_way(spare)) {
                    return Some(clock);
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
        let spare = |clock: &Arc<Clock>| Some((clock.spare(now)?, Arc::downgrade(clock)));
        self.spare = self.clocks.values().filter_map(spare).collect();
        self.spare.sort_unstable_by_key(|(spare, _)| *spare);
        self.spare.truncate(most.div_ceil(PART_OF_A_LOOK));
        self.spare.reverse();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().clocks.remove(&self.number);
    }
}
