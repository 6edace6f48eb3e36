//! Tells a broker's acknowledgement from one that librdkafka inferred, by the offsets of the delivery reports without
//! an error, in the order in which one thread gets them.
//!
//! librdkafka (2.12.1, 2.16.0) reports as delivered, beside what a broker took and gave an offset:
//! - a batch of unknown fate whose successor on the partition was taken (`IMPLICITACK` in its log): without an
//!   offset. A broker that knows nothing of this producer on this partition takes any first batch, so that the
//!   earlier one may be on no topic.
//! - a batch that was answered "duplicate sequence number", or taken with the offset −1: numbered on from −1, so that
//!   its second message has the offset 0.

use std::cell::RefCell;

thread_local! {
    /// One for each thread: a thread reports the messages of a batch one directly after the other, while the reports
    /// of two threads (the client's own, and one that closes it) may come in any order.
    static LAST_UNCONFIRMED: RefCell<LastUnconfirmed> = RefCell::default();
}

/// Whether the broker itself confirmed the message that was reported as delivered. To be asked once for each
/// such report, in their order, on the thread that reports.
pub(super) fn is_confirmed(topic: &str, partition: i32, offset: i64) -> bool {
    LAST_UNCONFIRMED.with_borrow_mut(|last| last.is_confirmed(topic, partition, offset))
}

/// The last report of a thread, where nobody confirmed it.
#[derive(Default)]
struct LastUnconfirmed(Option<Unconfirmed>);

struct Unconfirmed {
    topic: String,
    partition: i32,
    offset: i64,
}

impl LastUnconfirmed {
    /// The first offset of a partition directly after −1 counts as inferred too, where it may be a broker's:
    /// that costs a copy, the other way an event.
    fn is_confirmed(&mut self, topic: &str, partition: i32, offset: i64) -> bool {
        let goes_on = |last: &mut Unconfirmed| {
            let same = last.topic == topic && last.partition == partition && last.offset.checked_add(1) == Some(offset);
            same.then(|| last.offset = offset)
        };
        if self.0.as_mut().and_then(goes_on).is_some() {
            return false;
        }
        let inferred = offset < 0;
        self.0 = inferred.then(|| Unconfirmed { topic: topic.to_owned(), partition, offset });
        !inferred
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// librdkafka's for a message that no broker gave one.
    const NO_OFFSET: i64 = -1001;

    /// Which of the reports are confirmed.
    fn confirmed<const N: usize>(reports: [(&str, i32, i64); N]) -> [bool; N] {
        let mut seen = LastUnconfirmed::default();
        reports.map(|(topic, partition, offset)| seen.is_confirmed(topic, partition, offset))
    }

    #[test]
    fn what_brokers_gave_an_offset_is_confirmed() {
        assert_eq!(confirmed([("t", 0, 0), ("t", 0, 1), ("t", 1, 0), ("u", 0, 7)]), [true; 4]);
    }

    #[test]
    fn a_report_without_an_offset_is_not_confirmed_and_says_nothing_of_the_next_batch() {
        let reports = [("t", 0, NO_OFFSET), ("t", 0, NO_OFFSET), ("t", 0, 0), ("t", 0, 1)];
        assert_eq!(confirmed(reports), [false, false, true, true]);
    }

    #[test]
    fn a_batch_that_is_numbered_on_from_a_missing_offset_is_not_confirmed() {
        assert_eq!(confirmed([("t", 0, -1), ("t", 0, 0), ("t", 0, 1), ("t", 0, 2)]), [false; 4]);
        assert_eq!(confirmed([("t", 0, -2), ("t", 0, -1), ("t", 0, 0), ("t", 0, 9)]), [false, false, false, true]);
    }

    #[test]
    fn the_count_ends_with_the_batch() {
        let reports = [("t", 0, -1), ("t", 0, 0), ("t", 0, 5), ("t", 0, 6)];
        assert_eq!(confirmed(reports), [false, false, true, true]);
        assert_eq!(confirmed([("t", 0, -1), ("t", 1, 0), ("t", 0, 0)]), [false, true, true], "another partition");
        assert_eq!(confirmed([("t", 0, -1), ("u", 0, 0), ("t", 0, 0)]), [false, true, true], "another topic");
    }

    #[test]
    fn reports_of_two_threads_do_not_mix() {
        assert!(!is_confirmed("t", 0, -1));
        let other = std::thread::spawn(|| [is_confirmed("t", 0, 100), is_confirmed("t", 0, 101)]);
        assert_eq!(other.join().unwrap(), [true, true]);
        assert!(!is_confirmed("t", 0, 0), "the batch of this thread goes on");
    }
}
