//! How far a topic is drained. Comes in: what is pending at the start, then what is done. Goes out:
//! where to read on. Touches no disk.

use std::collections::{BTreeSet, HashSet};

/// Of one topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Everything before it is done.
    cursor: u64,
    /// What is done behind the cursor.
    done: BTreeSet<u64>,
    /// Where this pass goes on. A pass goes once from the cursor to the end.
    from: u64,
    /// Digests of keys of which a message failed in this pass: the later ones wait for the next.
    stuck: HashSet<u64>,
}

impl Progress {
    /// `pending` in order; `end` is the offset of the next record.
    pub(super) fn new(pending: &[u64], end: u64) -> Self {
        let cursor = pending.first().copied().unwrap_or(end);
        let mut done = BTreeSet::new();
        let mut expected = cursor;
        for offset in pending.iter().copied().chain([end]) {
            done.extend(expected..offset);
            expected = offset + 1;
        }
        Self { cursor, done, from: cursor, stuck: HashSet::new() }.settled()
    }

    fn settled(mut self) -> Self {
        self.settle();
        self
    }

    fn settle(&mut self) {
        while self.done.remove(&self.cursor) {
            self.cursor += 1;
        }
        self.from = self.from.max(self.cursor);
    }

    pub(super) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Where to read on, as there are records up to `end`: from where this pass is, or else in a new one
    /// from the cursor. `None` where nothing is pending.
    pub(super) fn next(&mut self, end: u64) -> Option<u64> {
        if self.cursor >= end {
            return None;
        }
        if self.from >= end {
            self.begin_again();
        }
        Some(self.from)
    }

    /// The next pass begins now.
    pub(super) fn begin_again(&mut self) {
        self.from = self.cursor;
        self.stuck.clear();
    }

    pub(super) fn is_done(&self, offset: u64) -> bool {
        offset < self.cursor || self.done.contains(&offset)
    }

    pub(super) fn is_stuck(&self, key: u64) -> bool {
        self.stuck.contains(&key)
    }

    /// What became of the records before `until`, where this pass goes on.
    pub(super) fn advance(&mut self, until: u64, done: &[u64], stuck: impl IntoIterator<Item = u64>) {
        self.done.extend(done.iter().filter(|offset| **offset >= self.cursor));
        self.stuck.extend(stuck);
        self.from = until;
        self.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_out_of_order_is_known_after_a_restart() {
        let mut progress = Progress::new(&[3, 4, 7], 9);
        assert_eq!(progress.cursor(), 3);
        let done: Vec<_> = (0..9).filter(|offset| progress.is_done(*offset)).collect();
        assert_eq!(done, [0, 1, 2, 5, 6, 8]);
        assert_eq!(progress.next(9), Some(3));
        assert_eq!(Progress::new(&[], 9).next(9), None);
        assert_eq!(Progress::default().next(1), Some(0), "a topic that is new");
    }

    #[test]
    fn a_pass_goes_on_behind_what_is_stuck_and_the_next_begins_with_it() {
        let mut progress = Progress::new(&[0, 1, 2, 3], 4);
        progress.advance(2, &[1], [77]);
        assert!(progress.is_stuck(77));
        assert_eq!((progress.cursor(), progress.next(4)), (0, Some(2)));
        progress.advance(4, &[2, 3], []);
        assert_eq!((progress.cursor(), progress.next(4)), (0, Some(0)));
        assert!(!progress.is_stuck(77));
        progress.advance(1, &[0], []);
        assert_eq!((progress.cursor(), progress.next(4)), (4, None));
        assert!(progress.done.is_empty());
    }
}
