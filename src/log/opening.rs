//! Opens the log with everything that it acknowledged, or says what is wrong with it; never a shorter log. A spool's
//! pending records are read later, on demand.

use std::sync::Mutex;

use fjall::Database;

use super::codec::{self, Corrupt};
use super::database::{Log, Tally};
use super::disk;
use super::failure::{Failure, guarded};
use super::journal::Newest;
use super::ledger::{self, Ledger};
use super::segment::{self, Count, Segment};
use super::settings::{Keep, Settings};
use super::watermark::{self, Level, Watermark};

/// Files that exist for as long as the log does.
pub(super) const STAYS: [&str; 3] = [disk::LOCK_FILE, watermark::NAME, "keyspaces"];

/// Above this size fjall flushes whatever pins the oldest journal.
const JOURNALS: u64 = 128 * 1024 * 1024;

impl Log {
    pub(super) fn open(settings: &Settings) -> Result<Self, Failure> {
        guarded(|| Self::open_checked(settings))
    }

    fn open_checked(settings: &Settings) -> Result<Self, Failure> {
        let dir = &settings.dir;
        // Checked before fjall opens, and so perhaps removes, anything. It is read again once fjall holds the lock.
        Watermark::open(dir)?;
        let database = Database::builder(dir).max_journaling_size(JOURNALS).open()?;
        let mut numbers = Vec::new();
        for name in database.list_keyspace_names().iter().filter(|name| !ledger::owns(name)) {
            numbers.push(segment::number(name)?);
        }
        numbers.sort_unstable();
        let (watermark, least) = match Watermark::open(dir)? {
            Some(opened) => opened,
            None if numbers.is_empty() => (Watermark::create(dir)?, Level::default()),
            None => return Err(Corrupt("the watermark").into()),
        };
        if numbers.first().is_some_and(|first| *first > least.first) {
            return Err(Corrupt("the first segment").into());
        }
        let ledger = match settings.keep {
            Keep::For(_) => None,
            Keep::UntilDone { known, .. } => Some(Ledger::open(&database, known)?),
        };
        let segments = Vec::with_capacity(numbers.len() + 1);
        let journal = Newest::hold(dir)?;
        let mut open = Self { database, segments, tally: Mutex::default(), watermark, journal, ledger };
        for number in numbers {
            open.adopt(number)?;
        }
        let found = open.level(&open.ends());
        if found.records < least.records || found.bytes < least.bytes {
            return Err(Failure::Short(least.records.saturating_sub(found.records)));
        }
        if open.segments.is_empty() {
            open.begin(0)?;
        }
        // Records that were on disk without a receipt count as acknowledged from now on: a retry is a duplicate.
        open.watermark.set(found)?;
        Ok(open)
    }

    /// Adds a segment found on disk, after checking that it begins where the previous one ended.
    fn adopt(&mut self, number: u64) -> Result<(), Failure> {
        let keyspace = segment::keyspace(&self.database, number)?;
        let Some(head) = keyspace.get(codec::HEAD)? else {
            // A crash came between its creation and its head: nothing was written to it.
            return if keyspace.is_empty()? { self.begin(number) } else { Err(Corrupt("a segment's head").into()) };
        };
        let head = codec::decode_head(&head)?;
        if let Some(before) = self.segments.last() {
            let fits = match &before.end {
                None => self.ends() == head.marks,
                Some(end) => self.ends() == *end && segment::is_behind(&head.marks, end),
            };
            if !fits {
                return Err(Corrupt("the seam of two segments").into());
            }
        }
        let end = keyspace.get(codec::END)?.map(|end| codec::decode_head(&end)).transpose()?.map(|end| end.marks);
        let mut ends = head.marks.clone();
        let newest = segment::survey(&keyspace, &mut ends)?;
        self.close_last();
        *self.tally() = Tally { ends, newest };
        let pending = Count::new(Count::UNKNOWN);
        self.segments.push(Segment { number, head, keyspace, end, pending, newest: None });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_segment_without_a_head_is_completed_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let open = Log::open(&Settings::sample(dir.path())).unwrap();
        open.append_samples(0..2);
        segment::keyspace(&open.database, 1).unwrap();
        drop(open);
        let open = Log::open(&Settings::sample(dir.path())).unwrap();
        open.append_samples(2..3);
        assert_eq!(open.segments.len(), 2);
        assert_eq!(open.read("a", 0..3, 9, usize::MAX).unwrap().len(), 3);
    }

    #[test]
    fn a_log_that_does_not_begin_where_its_head_says_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let open = Log::open(&Settings::sample(dir.path())).unwrap();
        open.append_samples(0..5);
        open.last().keyspace.remove(codec::record_key("a", 0)).unwrap();
        drop(open);
        let error = Log::open(&Settings::sample(dir.path())).err().unwrap().explain(&Settings::sample(dir.path()));
        assert!(error.0.contains("damaged") && error.0.contains("restore"), "{error}");
    }

    #[test]
    fn segments_that_do_not_join_are_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let mut open = Log::open(&Settings::sample(dir.path())).unwrap();
        open.append_samples(0..2);
        let before = open.last().keyspace.clone();
        open.roll().unwrap();
        open.append_samples(2..3);
        before.remove(codec::record_key("a", 1)).unwrap();
        drop((open, before));
        assert!(matches!(Log::open(&Settings::sample(dir.path())), Err(Failure::Corrupt(_))));
    }

    #[test]
    fn a_journal_that_lost_its_end_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let open = Log::open(&Settings::sample(dir.path())).unwrap();
        open.append_samples(0..3);
        open.append_samples(3..5);
        drop(open);
        let journal = dir.path().join("0.jnl");
        let whole = std::fs::read(&journal).unwrap();
        let held = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        // One bit of the last commit, and a truncation by one byte.
        for torn in
            [[&whole[..held - 2], &[whole[held - 2] ^ 1], &whole[held - 1..]].concat(), whole[..held - 1].to_vec()]
        {
            std::fs::write(&journal, torn).unwrap();
            for _ in 0..2 {
                let error = Log::open(&Settings::sample(dir.path())).err().unwrap();
                assert!(matches!(error, Failure::Short(2)), "{error}");
            }
            let error = Failure::Short(2).explain(&Settings::sample(dir.path()));
            assert!(error.0.contains("2 of them") && error.0.contains("restore"), "{error}");
            std::fs::write(&journal, &whole).unwrap();
        }
        assert!(Log::open(&Settings::sample(dir.path())).is_ok());
    }

    #[test]
    fn an_unacknowledged_record_may_be_there_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let open = Log::open(&Settings::sample(dir.path())).unwrap();
        open.append_samples(0..3);
        let acknowledged = open.level(&open.ends());
        open.append_samples(3..5);
        // As if it had been killed between the fsync and the receipt.
        open.watermark.set(acknowledged).unwrap();
        drop(open);
        let open = Log::open(&Settings::sample(dir.path())).unwrap();
        assert_eq!(open.read("a", 0..5, 9, usize::MAX).unwrap().len(), 5);
        drop(open);
        // A retry of these would be answered as a duplicate, so they have to be there from now on.
        let (_, least) = Watermark::open(dir.path()).unwrap().unwrap();
        assert_eq!(least.records, 5);
    }

    #[test]
    fn a_missing_segment_is_damage_unless_retention_removed_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut open = Log::open(&Settings::sample(dir.path())).unwrap();
        for number in 0..4 {
            open.append_samples(number..number + 1);
            open.roll().unwrap();
        }
        open.remove_oldest().unwrap();
        drop(open);
        let open = Log::open(&Settings::sample(dir.path())).unwrap();
        let first = open.segments[0].keyspace.clone();
        assert_eq!(open.read("a", 1..4, 9, usize::MAX).unwrap().len(), 3);
        open.database.delete_keyspace(first).unwrap();
        drop(open);
        assert!(matches!(Log::open(&Settings::sample(dir.path())), Err(Failure::Corrupt(_))));
    }

    #[test]
    fn a_log_without_its_watermark_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        Log::open(&Settings::sample(dir.path())).unwrap().append_samples(0..1);
        std::fs::remove_file(dir.path().join("watermark")).unwrap();
        assert!(matches!(Log::open(&Settings::sample(dir.path())), Err(Failure::Corrupt(_))));
    }

    fn spool(dir: &std::path::Path) -> Settings {
        Settings { keep: Keep::UntilDone { bytes: 1 << 30, known: 0 }, ..Settings::sample(dir) }
    }

    fn pending(open: &Log) -> Result<Vec<u64>, Failure> {
        let mut pending = Vec::new();
        open.pending(|_, offset, _| pending.push(offset))?;
        Ok(pending)
    }

    #[test]
    fn pending_marks_lie_beside_their_records_and_are_cleared_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut open = Log::open(&spool(dir.path())).unwrap();
        open.append_samples(0..4);
        open.roll().unwrap();
        open.append_samples(4..6);
        open.done([("a", 1), ("a", 2), ("a", 4)].into_iter()).unwrap();
        open.rewrite().unwrap();
        drop(open);
        // Everything that is in no table yet is lost with it, so no mark may be there without its record.
        File::options().write(true).open(dir.path().join("0.jnl")).unwrap().set_len(0).unwrap();
        let mut open = Log::open(&spool(dir.path())).unwrap();
        assert_eq!(pending(&open).unwrap(), [0, 3, 5]);
        open.done([("a", 0), ("a", 3)].into_iter()).unwrap();
        open.remove_oldest().unwrap();
        open.done([("a", 3)].into_iter()).unwrap();
        drop(open);
        assert_eq!(pending(&Log::open(&spool(dir.path())).unwrap()).unwrap(), [5]);
    }

    #[test]
    fn a_done_segment_between_others_is_removed_and_the_rest_is_whole_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let mut open = Log::open(&spool(dir.path())).unwrap();
        for number in 0..6 {
            open.append_samples(2 * number..2 * number + 2);
            open.roll().unwrap();
        }
        open.append_samples(12..13);
        assert_eq!(open.remove_done().unwrap(), 0, "all is pending");
        open.done((2..6).chain(8..10).map(|offset| ("a", offset))).unwrap();
        let bytes = |open: &Log| open.facts().iter().map(|segment| segment.bytes).sum::<u64>();
        let before = bytes(&open);
        let removed = open.remove_done().unwrap();
        assert!(removed > 0 && bytes(&open) == before - removed);
        let left = [0, 1, 6, 7, 10, 11, 12];
        for _ in 0..2 {
            assert_eq!((open.segments.len(), pending(&open).unwrap()), (4, left.to_vec()));
            let chunk = open.read_pending("a", 0..13, 9, usize::MAX, |_, _| true).unwrap();
            assert_eq!(chunk.records.iter().map(|record| record.offset).collect::<Vec<_>>(), left);
            assert_eq!((chunk.until, chunk.damaged), (13, vec![]));
            assert_eq!(bytes(&open), before - removed);
            drop(open);
            open = Log::open(&spool(dir.path())).unwrap();
        }
        // Marks for records that are gone must not be taken for other marks.
        open.done([("a", 0), ("a", 3), ("a", 6), ("a", 7)].into_iter()).unwrap();
        assert_eq!(open.remove_done().unwrap(), 0, "what is pending was not counted yet");
        assert_eq!(pending(&open).unwrap(), [1, 10, 11, 12]);
        assert!(open.remove_done().unwrap() > 0);
        drop(open);
        let open = Log::open(&spool(dir.path())).unwrap();
        assert_eq!(pending(&open).unwrap(), [1, 10, 11, 12]);
        open.segments[0].keyspace.remove(codec::END).unwrap();
        drop(open);
        assert!(matches!(Log::open(&spool(dir.path())), Err(Failure::Corrupt(_))), "they are missing");
    }

    #[test]
    fn a_spool_with_a_missing_pending_mark_reports_it() {
        for forgotten in 0..3 {
            let dir = tempfile::tempdir().unwrap();
            let open = Log::open(&spool(dir.path())).unwrap();
            open.append_samples(0..3);
            open.done([("a", 1)].into_iter()).unwrap();
            open.last().keyspace.remove(codec::pending_key("a", forgotten)).unwrap();
            drop(open);
            let error = pending(&Log::open(&spool(dir.path())).unwrap()).err().unwrap().explain(&spool(dir.path()));
            assert!(error.0.contains("what is pending") && error.0.contains("restore"), "{error}");
        }
    }

    #[test]
    fn a_log_that_was_no_spool_is_not_taken_for_a_drained_one() {
        let dir = tempfile::tempdir().unwrap();
        Log::open(&Settings::sample(dir.path())).unwrap().append_samples(0..1);
        assert!(matches!(pending(&Log::open(&spool(dir.path())).unwrap()), Err(Failure::Corrupt(_))));
    }
}
