//! The room for what is read: one budget of bytes for all readers of the log. Comes in: how much somebody wants to
//! hold. Goes out: leave to hold it, in the order of asking. Knows neither records nor who reads them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::metrics::ReaderGauges;
use crate::telemetry::{LOG_EVERY, Throttle};

/// Bytes that all readers hold together, at most; a single event that takes more is alone then.
pub(super) const MOST: usize = 64 << 20;

const KIB: usize = 1 << 10;

/// Cloning shares it.
#[derive(Clone)]
pub(super) struct Room(Arc<Inner>);

struct Inner {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
    refused: AtomicU64,
}

/// Leave to hold so much, until it is dropped.
pub(super) struct Held {
    permit: OwnedSemaphorePermit,
    since: Instant,
    /// What it took to fill it.
    cost: Duration,
}

impl Room {
    pub(super) fn new() -> Self {
        let free = Arc::new(Semaphore::new(MOST / KIB));
        Self(Arc::new(Inner { free, waiting: AtomicUsize::new(0), refused: AtomicU64::new(0) }))
    }

    /// `None`: there was none within that time, which was said. Of more than there is, all is taken.
    pub(super) async fn take(&self, bytes: usize, within: Duration) -> Option<Held> {
        let units = bytes.min(MOST).div_ceil(KIB) as u32;
        let waiting = Waiting::new(&self.0.waiting);
        let permit = tokio::time::timeout(within, self.0.free.clone().acquire_many_owned(units)).await;
        drop(waiting);
        match permit {
            Ok(permit) => Some(Held { permit: permit.ok()?, since: Instant::now(), cost: Duration::ZERO }),
            Err(_) => {
                self.refuse("others hold all the room that there is for what is read");
                None
            }
        }
    }

    /// Whether somebody waits for room.
    pub(super) fn is_wanted(&self) -> bool {
        self.0.waiting.load(Relaxed) > 0
    }

    /// Counts and says that a reader was sent away.
    pub(super) fn refuse(&self, reason: &'static str) {
        static REFUSED: Throttle = Throttle::new(LOG_EVERY);
        self.0.refused.fetch_add(1, Relaxed);
        if let Some(more) = REFUSED.pass() {
            let remedy = "read with fewer connections at once, or faster";
            tracing::warn!(reason, more, remedy, "a reader of the embedded log was refused");
        }
    }

    pub(super) fn readers(&self) -> ReaderGauges {
        let free = self.0.free.available_permits() * KIB;
        ReaderGauges { bytes: MOST - free, refused: self.0.refused.load(Relaxed) }
    }
}

impl Held {
    pub(super) fn bytes(&self) -> usize {
        self.permit.num_permits() * KIB
    }

    /// It is filled: gives back what is not needed.
    pub(super) fn filled(&mut self, bytes: usize) {
        let spare = self.permit.num_permits().saturating_sub(bytes.div_ceil(KIB));
        drop(self.permit.split(spare));
        self.cost = self.since.elapsed();
        self.since = Instant::now();
    }

    /// For how long it was held since it was filled.
    pub(super) fn time(&self) -> Duration {
        self.since.elapsed()
    }

    /// What filling it again would take: giving it up sooner would be work for nothing.
    pub(super) fn cost(&self) -> Duration {
        self.cost
    }
}

struct Waiting<'w>(&'w AtomicUsize);

impl<'w> Waiting<'w> {
    fn new(waiting: &'w AtomicUsize) -> Self {
        waiting.fetch_add(1, Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_one_holds_another_waits_for_and_not_for_ever() {
        let room = Room::new();
        let mut held = room.take(2 * MOST, SOON).await.unwrap();
        assert_eq!((held.bytes(), room.readers().bytes, room.is_wanted()), (MOST, MOST, false));
        assert!(room.take(1, SOON).await.is_none());
        assert_eq!((room.readers().refused, room.is_wanted()), (1, false));
        held.filled(MOST / 2 + 1);
        assert_eq!(room.readers().bytes, MOST / 2 + KIB);
        let other = room.take(MOST / 4, SOON).await.unwrap();
        let waiting = room.take(MOST / 2, SOON);
        let giving = async {
            tokio::task::yield_now().await;
            assert!(room.is_wanted());
            drop((held, other));
        };
        let (got, ()) = tokio::join!(waiting, giving);
        drop(got.unwrap());
        assert_eq!(room.readers().bytes, 0);
    }
}
