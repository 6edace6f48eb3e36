//! The memory for reading: one budget of bytes for all readers of the log, granted in order of request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::metrics::ReaderGauges;
use crate::telemetry::{LOG_EVERY, Throttle};

/// The most bytes that all readers hold together; a single larger event is read alone.
pub(super) const MAX_BYTES: usize = 64 << 20;

const KIB: usize = 1 << 10;

/// Cloning shares it.
#[derive(Clone)]
pub(super) struct ReadBudget(Arc<Inner>);

struct Inner {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
    refused: AtomicU64,
}

/// That many bytes, until it is dropped.
pub(super) struct Reservation {
    permit: OwnedSemaphorePermit,
    since: Instant,
    fill_time: Duration,
}

impl ReadBudget {
    pub(super) fn new() -> Self {
        let free = Arc::new(Semaphore::new(MAX_BYTES / KIB));
        Self(Arc::new(Inner { free, waiting: AtomicUsize::new(0), refused: AtomicU64::new(0) }))
    }

    /// `None`: none became free within that time, which is logged. A request for more than the budget gets all of it.
    pub(super) async fn reserve(&self, bytes: usize, within: Duration) -> Option<Reservation> {
        let units = bytes.min(MAX_BYTES).div_ceil(KIB) as u32;
        let waiting = Waiting::new(&self.0.waiting);
        let permit = tokio::time::timeout(within, self.0.free.clone().acquire_many_owned(units)).await;
        drop(waiting);
        match permit {
            Ok(permit) => Some(Reservation { permit: permit.ok()?, since: Instant::now(), fill_time: Duration::ZERO }),
            Err(_) => {
                self.refuse("other readers hold all the memory that there is for what is read");
                None
            }
        }
    }

    /// Whether another reader waits for memory.
    pub(super) fn is_contended(&self) -> bool {
        self.0.waiting.load(Relaxed) > 0
    }

    /// Counts and logs that a reader was refused.
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
        ReaderGauges { bytes: MAX_BYTES - free, refused: self.0.refused.load(Relaxed) }
    }
}

impl Reservation {
    pub(super) fn bytes(&self) -> usize {
        self.permit.num_permits() * KIB
    }

    /// The memory is filled: returns what is not needed.
    pub(super) fn filled(&mut self, bytes: usize) {
        let surplus = self.permit.num_permits().saturating_sub(bytes.div_ceil(KIB));
        drop(self.permit.split(surplus));
        self.fill_time = self.since.elapsed();
        self.since = Instant::now();
    }

    /// How long it has been held since it was filled.
    pub(super) fn held_for(&self) -> Duration {
        self.since.elapsed()
    }

    /// How long filling it again would take. Giving it up sooner would waste work.
    pub(super) fn fill_time(&self) -> Duration {
        self.fill_time
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
    async fn a_reader_waits_for_anothers_memory_but_not_for_ever() {
        let budget = ReadBudget::new();
        let mut held = budget.reserve(2 * MAX_BYTES, SOON).await.unwrap();
        assert_eq!((held.bytes(), budget.readers().bytes, budget.is_contended()), (MAX_BYTES, MAX_BYTES, false));
        assert!(budget.reserve(1, SOON).await.is_none());
        assert_eq!((budget.readers().refused, budget.is_contended()), (1, false));
        held.filled(MAX_BYTES / 2 + 1);
        assert_eq!(budget.readers().bytes, MAX_BYTES / 2 + KIB);
        let other = budget.reserve(MAX_BYTES / 4, SOON).await.unwrap();
        let waiting = budget.reserve(MAX_BYTES / 2, SOON);
        let giving = async {
            tokio::task::yield_now().await;
            assert!(budget.is_contended());
            drop((held, other));
        };
        let (got, ()) = tokio::join!(waiting, giving);
        drop(got.unwrap());
        assert_eq!(budget.readers().bytes, 0);
    }
}
