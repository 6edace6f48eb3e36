//! Pauses between attempts, each twice as long as the one before.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(super) struct Backoff {
    pause: Duration,
    not_before: Option<Instant>,
}

impl Backoff {
    /// Whether the next attempt need not wait.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|time| now >= time)
    }

    /// An attempt failed: the next waits twice as long as this one did, within these bounds.
    pub(super) fn delay(&mut self, now: Instant, bounds: RangeInclusive<Duration>) {
        self.pause = (self.pause * 2).clamp(*bounds.start(), *bounds.end());
        self.not_before = Some(now + self.pause);
    }

    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_until_a_reset() {
        let mut now = Instant::now();
        let mut backoff = Backoff::default();
        let bounds = Duration::from_secs(1)..=Duration::from_secs(5);
        for seconds in [1, 2, 4, 5, 5] {
            assert!(backoff.is_due(now));
            backoff.delay(now, bounds.clone());
            assert!(!backoff.is_due(now + Duration::from_millis(seconds * 1000 - 1)));
            now += Duration::from_secs(seconds);
        }
        backoff.delay(now, bounds.clone());
        backoff.reset();
        assert!(backoff.is_due(now));
        backoff.delay(now, bounds);
        assert!(backoff.is_due(now + Duration::from_secs(1)));
    }
}
