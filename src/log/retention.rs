//! When to begin a new segment, and how many of the oldest to remove. Touches no disk.
//!
//! The log consists of segments. Removing a whole segment frees its files at once.

use std::time::Duration;

use jiff::Timestamp;

use crate::clock::Clock;

/// A segment spans at most this fraction of the retention, so that at most an eighth more than that is kept.
const PARTS: u32 = 8;

/// A smaller segment costs more than it frees. Tests read many.
const SMALLEST_SEGMENT: u64 = if cfg!(test) { 1 << 16 } else { 1 << 20 };
/// An unsealed segment is read at the start, and takes its space from the beginning.
const LARGEST_SEGMENT: u64 = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retention {
    pub(crate) age: Duration,
    pub(crate) bytes: u64,
}

/// What retention needs to know about a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) created: Timestamp,
    /// When its last record was written; `None` if it has none.
    pub(super) newest: Option<Timestamp>,
    pub(super) bytes: u64,
}

/// Bytes of a segment if `bytes` may be kept.
pub(super) fn segment_bytes(bytes: u64) -> u64 {
    (bytes / u64::from(PARTS)).clamp(SMALLEST_SEGMENT, LARGEST_SEGMENT)
}

impl Retention {
    /// Whether the next record belongs in a new segment.
    pub(super) fn rolls(&self, active: &Facts, clock: &Clock) -> bool {
        active.newest.is_some()
            && (active.bytes >= segment_bytes(self.bytes) || clock.is_older(active.created, self.age / PARTS))
    }

    /// How many of the oldest segments to remove. Never the last one, which is being written. A record stays for
    /// `age` unless the log exceeds `bytes`, and is removed within a further eighth.
    pub(super) fn removes(&self, segments: &[Facts], clock: &Clock) -> usize {
        let mut bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
        let Some((_, closed)) = segments.split_last() else { return 0 };
        let kept = |segment: &Facts| {
            let expired = segment.newest.is_none_or(|newest| clock.is_older(newest, self.age));
            let goes = expired || bytes > self.bytes;
            bytes -= segment.bytes;
            !goes
        };
        closed.iter().position(kept).unwrap_or(closed.len())
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::clock::Set;

    const MIB: u64 = 1024 * 1024;
    const RETENTION: Retention = Retention { age: Duration::from_secs(800), bytes: 80 * MIB };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    /// The clock, that many seconds after the epoch.
    fn clock(seconds: i64) -> Clock {
        Clock::at(at(seconds))
    }

    fn segment(created: i64, newest: i64, mib: u64) -> Facts {
        Facts { created: at(created), newest: Some(at(newest)), bytes: mib * MIB }
    }

    #[test]
    fn a_segment_ends_by_age_or_by_size_but_never_empty() {
        assert!(!RETENTION.rolls(&segment(0, 90, 1), &clock(100)));
        assert!(RETENTION.rolls(&segment(0, 90, 1), &clock(101)));
        assert!(RETENTION.rolls(&segment(0, 0, 10), &clock(1)));
        let empty = Facts { created: at(0), newest: None, bytes: 0 };
        assert!(!RETENTION.rolls(&empty, &clock(1_000_000)));
    }

    #[test]
    fn a_segment_is_removed_when_its_last_record_is_too_old() {
        let segments = [segment(0, 100, 1), segment(100, 200, 1), segment(200, 300, 1)];
        assert_eq!(RETENTION.removes(&segments, &clock(900)), 0);
        assert_eq!(RETENTION.removes(&segments, &clock(901)), 1);
        assert_eq!(RETENTION.removes(&segments, &clock(5000)), 2, "the last segment stays");
    }

    #[test]
    fn the_oldest_segments_are_removed_until_the_rest_fits() {
        let segments = [segment(0, 1, 30), segment(1, 2, 30), segment(2, 3, 30), segment(3, 4, 30)];
        assert_eq!(RETENTION.removes(&segments, &clock(5)), 2);
        assert_eq!(RETENTION.removes(&segments[2..], &clock(5)), 0);
        assert_eq!(RETENTION.removes(&segments[3..], &clock(5)), 0);
        assert_eq!(RETENTION.removes(&[], &clock(5)), 0);
    }

    #[test]
    fn a_clock_jump_removes_nothing_and_elapsed_time_does() {
        let set = Set::new(at(-3600));
        set.run(Duration::from_secs(3600));
        let segments = [segment(0, 0, 1), segment(0, 0, 1)];
        for days in [30, -60] {
            set.jump(SignedDuration::from_hours(24 * days));
            assert!(!RETENTION.rolls(&segments[1], &set.clock));
            assert_eq!(RETENTION.removes(&segments, &set.clock), 0, "{days}");
        }
        set.run(Duration::from_secs(811));
        assert_eq!(RETENTION.removes(&segments, &set.clock), 1);
    }

    #[test]
    fn a_clock_that_went_back_removes_nothing() {
        assert_eq!(RETENTION.removes(&[segment(5000, 5000, 1), segment(5000, 5000, 1)], &clock(0)), 0);
    }
}
