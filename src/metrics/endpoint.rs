//! What is counted and measured of one endpoint. A delivery has it at hand, and looks up no label.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::counts::Counts;
use super::histogram::Histogram;
use super::time::LastTime;

/// Bucket bounds in seconds: from a local acknowledgement to the deadline.
pub(super) const TIMES: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 7.5];

/// Of hashing alone: from a small body to the largest.
const VERIFY_TIMES: [f64; 10] = [0.000_01, 0.000_025, 0.0001, 0.000_25, 0.001, 0.0025, 0.01, 0.025, 0.1, 0.25];

/// The words of an endpoint's labels.
#[derive(Debug, Clone)]
pub struct EndpointWords {
    pub outcomes: Vec<&'static str>,
    pub rejections: &'static [&'static str],
    /// Empty if links are not followed.
    pub fetches: Vec<&'static str>,
}

/// How many deliveries each secret of an endpoint signed, in the order of its list.
pub type SecretCounts = Arc<[AtomicU64]>;

/// One endpoint's.
#[derive(Debug)]
pub struct EndpointMetrics {
    pub(super) outcomes: Counts,
    pub(super) rejections: Counts,
    pub(super) fetches: Counts,
    pub(super) ordering_timestamps_ignored: AtomicU64,
    pub(super) last_kept: LastTime,
    pub(super) whole: Histogram,
    pub(super) receive: Histogram,
    pub(super) verify: Histogram,
    secrets: RwLock<SecretCounts>,
}

impl EndpointMetrics {
    pub(super) fn new(words: &EndpointWords) -> Self {
        Self {
            outcomes: Counts::new(&words.outcomes),
            rejections: Counts::new(words.rejections),
            fetches: Counts::new(&words.fetches),
            ordering_timestamps_ignored: AtomicU64::new(0),
            last_kept: LastTime::default(),
            whole: Histogram::new(&TIMES),
            receive: Histogram::new(&TIMES),
            verify: Histogram::new(&VERIFY_TIMES),
            secrets: RwLock::new(Arc::new([])),
        }
    }

    /// One request ended.
    pub fn ended(&self, outcome: &'static str, took: Duration) {
        self.outcomes.add(outcome);
        self.whole.observe(took);
    }

    /// A delivery is now on the bus or in the spool.
    pub fn kept(&self) {
        self.last_kept.set_to_now();
    }

    pub fn rejected(&self, reason: &'static str) {
        self.rejections.add(reason);
    }

    /// A body was received whole, so long after the first byte of its request.
    pub fn received(&self, took: Duration) {
        self.receive.observe(took);
    }

    /// A body was hashed and its signature compared in so much time.
    pub fn verified(&self, took: Duration) {
        self.verify.observe(took);
    }

    /// A link was fetched, or the fetch failed.
    pub fn fetched(&self, result: &'static str) {
        self.fetches.add(result);
    }

    /// A delivery was kept without its ordering timestamp.
    pub fn ordering_timestamp_ignored(&self) {
        self.ordering_timestamps_ignored.fetch_add(1, Relaxed);
    }

    /// The counts of another list of secrets, all 0: a place in it means another secret from now on.
    pub fn count_secrets(&self, secrets: usize) -> SecretCounts {
        let counts: SecretCounts = (0..secrets).map(|_| AtomicU64::new(0)).collect();
        *self.secrets.write().unwrap_or_else(PoisonError::into_inner) = counts.clone();
        counts
    }

    pub(super) fn secrets(&self) -> SecretCounts {
        self.secrets.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
