//! Times in buckets that can be read back: Prometheus is shown them, and so is the status page.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Counts of times, by the first bound that is no smaller. The last count is of those above every bound.
#[derive(Debug)]
pub(super) struct Histogram {
    /// Seconds, ascending.
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, nanoseconds: AtomicU64::new(0) }
    }

    pub(super) fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn read(&self) -> Distribution {
        let counts = self.counts.iter().map(|count| count.load(Relaxed)).collect();
        Distribution { bounds: self.bounds, counts, nanoseconds: self.nanoseconds.load(Relaxed) }
    }
}

/// What a histogram counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Distribution {
    bounds: &'static [f64],
    counts: Box<[u64]>,
    nanoseconds: u64,
}

impl Distribution {
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What was counted since `before`, a reading of the same histogram.
    pub fn since(&self, before: &Self) -> Self {
        let mut new = self.clone();
        for (count, before) in new.counts.iter_mut().zip(&before.counts) {
            *count = count.saturating_sub(*before);
        }
        new.nanoseconds = new.nanoseconds.saturating_sub(before.nanoseconds);
        new
    }

    /// Adds what a histogram with the same bounds counted.
    pub fn add(&mut self, other: &Self) {
        if self.counts.is_empty() {
            self.clone_from(other);
            return;
        }
        debug_assert!(other.counts.is_empty() || self.bounds == other.bounds);
        for (count, other) in self.counts.iter_mut().zip(&other.counts) {
            *count += other;
        }
        self.nanoseconds += other.nanoseconds;
    }

    /// Within its bucket a time is estimated as if they were spread evenly. `None` if nothing was counted; the last
    /// bound for a time above it.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let (last, total) = (*self.bounds.last()?, self.count());
        if total == 0 {
            return None;
        }
        let rank = quantile * total as f64;
        let mut below = 0.0;
        for (bucket, bound) in self.bounds.iter().enumerate() {
            let count = self.counts[bucket] as f64;
            if count > 0.0 && below + count >= rank {
                let least = if bucket == 0 { 0.0 } else { self.bounds[bucket - 1] };
                return Some(least + (bound - least) * (rank - below).max(0.0) / count);
            }
            below += count;
        }
        Some(last)
    }
}

impl EncodeMetric for Distribution {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(self.counts.iter().copied()).collect();
        encoder.encode_histogram::<NoLabelSet>(self.nanoseconds as f64 / 1e9, self.count(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(milliseconds: &[u64]) -> Histogram {
        let histogram = Histogram::new(&[0.01, 0.1, 1.0]);
        milliseconds.iter().for_each(|time| histogram.observe(Duration::from_millis(*time)));
        histogram
    }

    #[test]
    fn a_quantile_lies_in_the_bucket_of_its_rank() {
        assert_eq!(of(&[]).read().quantile(0.5), None);
        assert_eq!(Distribution::default().quantile(0.5), None);
        let spread = of(&[5, 5, 50, 50]).read();
        assert_eq!(spread.quantile(0.25), Some(0.005));
        assert_eq!(spread.quantile(0.5), Some(0.01));
        assert_eq!(spread.quantile(1.0), Some(0.1));
        assert_eq!(of(&[10]).read().quantile(1.0), Some(0.01), "a bound belongs to the bucket below");
        assert_eq!(of(&[5, 2000, 3000]).read().quantile(0.99), Some(1.0), "above every bound");
        assert_eq!(of(&[5]).read().quantile(0.0), Some(0.0));
    }

    #[test]
    fn two_readings_tell_what_was_counted_between_them() {
        let histogram = of(&[5, 50]);
        let before = histogram.read();
        histogram.observe(Duration::from_millis(500));
        let new = histogram.read().since(&before);
        assert_eq!(new, of(&[500]).read());
        let mut sum = Distribution::default();
        sum.add(&before);
        sum.add(&new);
        sum.add(&Distribution::default());
        assert_eq!(sum, histogram.read());
        assert_eq!(before.since(&histogram.read()).count(), 0, "never below 0");
    }
}
