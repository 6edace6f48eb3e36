//! What is kept and for how long. Comes in: what is known of each segment and the clock.
//! Goes out: whether to begin a new segment and how many of the oldest to remove. Touches no disk.
//!
//! The log consists of segments that are removed whole, which frees their files at once.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// A segment spans this part of the retention. More of them hold the limits more closely, but each
/// is asked whether it has a delivery: an eighth costs at most an eighth of what may be kept.
const PARTS: u32 = 8;

/// Below this a segment costs more than it frees.
const SMALLEST_SEGMENT: u64 = 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retention {
    pub(crate) age: Duration,
    pub(crate) bytes: u64,
}

/// What retention needs to know of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) created: Timestamp,
    /// When its last record was taken; `None` while it has none.
    pub(super) newest: Option<Timestamp>,
    pub(super) bytes: u64,
}

impl Retention {
    /// Whether what comes next belongs into a new segment.
    pub(super) fn rolls(&self, active: &Facts, now: Timestamp) -> bool {
        active.newest.is_some()
            && (active.bytes >= (self.bytes / u64::from(PARTS)).max(SMALLEST_SEGMENT)
                || older(active.created, now, self.age / PARTS))
    }

    /// How many of the oldest segments go. Never the last one, which is being written. A record
    /// stays for `age` unless `bytes` are exceeded, and goes within an eighth more.
    pub(super) fn removes(&self, segments: &[Facts], now: Timestamp) -> usize {
        let mut bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
        let Some((_, closed)) = segments.split_last() else { return 0 };
        let kept = |segment: &Facts| {
            let expired = segment.newest.is_none_or(|newest| older(newest, now, self.age));
            let goes = expired || bytes > self.bytes;
            bytes -= segment.bytes;
            !goes
        };
        closed.iter().position(kept).unwrap_or(closed.len())
    }
}

fn older(then: Timestamp, now: Timestamp, age: Duration) -> bool {
    SignedDuration::try_from(age).is_ok_and(|age| now.duration_since(then) > age)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;
    const RETENTION: Retention = Retention { age: Duration::from_secs(800), bytes: 80 * MIB };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn segment(created: i64, newest: i64, mib: u64) -> Facts {
        Facts { created: at(created), newest: Some(at(newest)), bytes: mib * MIB }
    }

    #[test]
    fn a_segment_ends_by_age_or_by_size_but_never_empty() {
        assert!(!RETENTION.rolls(&segment(0, 90, 1), at(100)));
        assert!(RETENTION.rolls(&segment(0, 90, 1), at(101)));
        assert!(RETENTION.rolls(&segment(0, 0, 10), at(1)));
        let empty = Facts { created: at(0), newest: None, bytes: 0 };
        assert!(!RETENTION.rolls(&empty, at(1_000_000)));
    }

    #[test]
    fn a_segment_goes_when_its_last_record_is_too_old() {
        let segments = [segment(0, 100, 1), segment(100, 200, 1), segment(200, 300, 1)];
        assert_eq!(RETENTION.removes(&segments, at(900)), 0);
        assert_eq!(RETENTION.removes(&segments, at(901)), 1);
        assert_eq!(RETENTION.removes(&segments, at(5000)), 2, "the last segment stays");
    }

    #[test]
    fn the_oldest_go_until_the_rest_fits() {
        let segments = [segment(0, 1, 30), segment(1, 2, 30), segment(2, 3, 30), segment(3, 4, 30)];
        assert_eq!(RETENTION.removes(&segments, at(5)), 2);
        assert_eq!(RETENTION.removes(&segments[2..], at(5)), 0);
        assert_eq!(RETENTION.removes(&segments[3..], at(5)), 0);
        assert_eq!(RETENTION.removes(&[], at(5)), 0);
    }

    #[test]
    fn a_clock_that_went_back_removes_nothing() {
        assert_eq!(RETENTION.removes(&[segment(5000, 5000, 1), segment(5000, 5000, 1)], at(0)), 0);
    }
}
