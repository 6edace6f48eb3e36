//! When something last happened.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

/// Unix milliseconds; 0 if it has not happened since the start.
#[derive(Debug, Default)]
pub(super) struct LastTime(AtomicU64);

impl LastTime {
    pub(super) fn now() -> Self {
        let time = Self::default();
        time.set_to_now();
        time
    }

    pub(super) fn set_to_now(&self) {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        self.0.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn seconds(&self) -> f64 {
        self.0.load(Relaxed) as f64 / 1000.0
    }
}
