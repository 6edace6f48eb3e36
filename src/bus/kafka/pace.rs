//! Pauses between attempts, each twice as long as the one before. Comes in: that an attempt was in vain. Goes
//! out: when the next may be.

use std::time::{Duration, Instant};

pub(super) struct Pace {
    least: Duration,
    most: Duration,
    wait: Duration,
    not_before: Option<Instant>,
}

impl Pace {
    pub(super) fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, wait: Duration::ZERO, not_before: None }
    }

    /// How much of the pause is left.
    pub(super) fn left(&self, now: Instant) -> Duration {
        self.not_before.map_or(Duration::ZERO, |time| time.saturating_duration_since(now))
    }

    pub(super) fn due(&self, now: Instant) -> bool {
        self.left(now).is_zero()
    }

    /// An attempt was in vain.
    pub(super) fn slow(&mut self, now: Instant) {
        self.wait = (self.wait * 2).clamp(self.least, self.most);
        self.not_before = Some(now + self.wait);
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new(self.least, self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_until_a_reset() {
        let mut now = Instant::now();
        let mut pace = Pace::new(Duration::from_secs(1), Duration::from_secs(5));
        for seconds in [1, 2, 4, 5, 5] {
            assert!(pace.due(now));
            pace.slow(now);
            assert_eq!(pace.left(now), Duration::from_secs(seconds));
            now += Duration::from_secs(seconds);
        }
        pace.slow(now);
        pace.reset();
        assert!(pace.due(now));
        pace.slow(now);
        assert_eq!(pace.left(now), Duration::from_secs(1));
    }
}
