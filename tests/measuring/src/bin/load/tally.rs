//! What came back, and when it counts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

/// No answer takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// From when to when answers count.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    pub(crate) opens: Instant,
    pub(crate) closes: Instant,
    /// When no delivery begins any more; `None` where their number decides.
    pub(crate) ends: Option<Instant>,
}

impl Window {
    pub(crate) fn is_over(&self) -> bool {
        self.ends.is_some_and(|end| Instant::now() >= end)
    }
}

pub(crate) struct Tally {
    /// Microseconds, of what is counted.
    latencies: Histogram<u64>,
    /// Answers 2xx in the window.
    pub(crate) counted: u64,
    /// All answers 2xx.
    acknowledged: u64,
    refused: BTreeMap<u16, u64>,
    /// Without an answer.
    pub(crate) failed: u64,
}

impl Tally {
    pub(crate) fn new() -> Self {
        let latencies = Histogram::new_with_bounds(1, 2 * PATIENCE.as_micros() as u64, 3).expect("bounds in order");
        Self { latencies, counted: 0, acknowledged: 0, refused: BTreeMap::new(), failed: 0 }
    }

    /// An answer that came just now.
    pub(crate) fn answer(&mut self, status: u16, begun: Instant, window: Window) {
        if !(200..300).contains(&status) {
            *self.refused.entry(status).or_default() += 1;
            return;
        }
        self.acknowledged += 1;
        let now = Instant::now();
        if (window.opens..window.closes).contains(&now) {
            self.counted += 1;
            self.latencies.saturating_record((now - begun).as_micros() as u64);
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.latencies.add(other.latencies).expect("the same bounds");
        self.counted += other.counted;
        self.acknowledged += other.acknowledged;
        self.failed += other.failed;
        for (status, count) in other.refused {
            *self.refused.entry(status).or_default() += count;
        }
    }

    pub(crate) fn report(&self, seconds: f64) -> Map<String, Value> {
        let millis = |quantile| self.latencies.value_at_quantile(quantile) as f64 / 1e3;
        [
            ("per_second", json!(self.counted as f64 / seconds)),
            ("p50_ms", json!(millis(0.5))),
            ("p99_ms", json!(millis(0.99))),
            ("p999_ms", json!(millis(0.999))),
            ("acknowledged", json!(self.acknowledged)),
            ("refused", json!(self.refused)),
            ("failed", json!(self.failed)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
    }
}
