//! How far a topic is drained, and where to continue reading. Touches no disk.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

/// The progress of one topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Everything before this offset is done.
    cursor: u64,
    /// The runs of done offsets after the cursor: the start and the end of each.
    done: BTreeMap<u64, u64>,
    /// Where this pass continues. A pass goes once from the cursor to the end.
    from: u64,
    /// Digests of keys with a failed message in this pass: their later messages wait for the next pass.
    stuck: HashSet<u64>,
}

impl Progress {
    /// For a topic whose first pending message is at `first`. Pass the further ones to [`Self::pending`] in order,
    /// and then the end to [`Self::until`].
    pub(super) fn starting(first: u64) -> Self {
        Self { cursor: first, from: first, ..Self::default() }
    }

    pub(super) fn pending(&mut self, offset: u64) {
        self.insert(self.from..offset);
        self.from = offset + 1;
    }

    /// `end` is the offset of the next record.
    pub(super) fn until(mut self, end: u64) -> Self {
        self.insert(self.from..end);
        self.settle();
        self.begin_again();
        self
    }

    fn insert(&mut self, run: Range<u64>) {
        let Range { mut start, mut end } = run;
        if start >= end {
            return;
        }
        if let Some((&before, &until)) = self.done.range(..=start).next_back()
            && until >= start
        {
            (start, end) = (before, end.max(until));
        }
        while let Some((&next, &until)) = self.done.range(start..=end).next() {
            end = end.max(until);
            self.done.remove(&next);
        }
        self.done.insert(start, end);
    }

    fn settle(&mut self) {
        while let Some(run) = self.done.first_entry()
            && *run.key() <= self.cursor
        {
            self.cursor = self.cursor.max(run.remove());
        }
        self.from = self.from.max(self.cursor);
    }

    pub(super) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Where this pass continues; `None` if it has visited all records up to `end`.
    pub(super) fn next(&self, end: u64) -> Option<u64> {
        (self.from < end).then_some(self.from)
    }

    /// Starts the next pass.
    pub(super) fn begin_again(&mut self) {
        self.from = self.cursor;
        self.stuck.clear();
    }

    pub(super) fn is_done(&self, offset: u64) -> bool {
        let run = || self.done.range(..=offset).next_back();
        offset < self.cursor || run().is_some_and(|(_, until)| offset < *until)
    }

    pub(super) fn is_stuck(&self, key: u64) -> bool {
        self.stuck.contains(&key)
    }

    /// These are done, whatever a pass does.
    pub(super) fn mark(&mut self, done: &[u64]) {
        done.iter().for_each(|offset| self.insert(*offset..offset + 1));
        self.settle();
    }

    /// Records the result for the records before `until`, where this pass continues.
    pub(super) fn advance(&mut self, until: u64, done: &[u64], stuck: impl IntoIterator<Item = u64>) {
        self.stuck.extend(stuck);
        self.from = until;
        self.mark(done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recalled(pending: &[u64], end: u64) -> Progress {
        let mut progress = Progress::starting(pending.first().copied().unwrap_or(end));
        pending.iter().for_each(|offset| progress.pending(*offset));
        progress.until(end)
    }

    #[test]
    fn messages_done_out_of_order_stay_done_after_a_restart() {
        let progress = recalled(&[3, 4, 7], 9);
        assert_eq!(progress.cursor(), 3);
        let done: Vec<_> = (0..9).filter(|offset| progress.is_done(*offset)).collect();
        assert_eq!(done, [0, 1, 2, 5, 6, 8]);
        assert_eq!(progress.next(9), Some(3));
        assert_eq!(recalled(&[], 9).next(9), None);
        assert_eq!(Progress::default().next(1), Some(0), "a topic that is new");
    }

    #[test]
    fn a_pass_skips_stuck_messages_and_the_next_pass_begins_with_them() {
        let mut progress = recalled(&[0, 1, 2, 3], 4);
        progress.advance(2, &[1], [77]);
        assert!(progress.is_stuck(77));
        assert_eq!((progress.cursor(), progress.next(4)), (0, Some(2)));
        progress.advance(4, &[2, 3], []);
        assert_eq!((progress.cursor(), progress.next(4), progress.next(5)), (0, None, Some(4)));
        assert!(progress.is_stuck(77));
        progress.begin_again();
        assert_eq!(progress.next(4), Some(0));
        assert!(!progress.is_stuck(77));
        progress.advance(1, &[0], []);
        assert_eq!((progress.cursor(), progress.next(4)), (4, None));
        assert!(progress.done.is_empty());
    }

    #[test]
    fn done_messages_are_stored_as_runs_in_any_order() {
        let mut progress = recalled(&(0..100).collect::<Vec<_>>(), 100);
        let offsets: Vec<_> = (1..100).map(|n| n * 37 % 100).collect();
        for (index, offset) in offsets.iter().enumerate() {
            progress.advance(100, &[*offset], []);
            for other in 0..100 {
                assert_eq!(progress.is_done(other), offsets[..=index].contains(&other), "{other} after {index}");
            }
        }
        assert_eq!(progress.done, BTreeMap::from([(1, 100)]));
        progress.advance(100, &[0], []);
        assert_eq!((progress.cursor(), progress.done.len()), (100, 0));
    }
}
