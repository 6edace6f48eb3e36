//! What a spool still has to send, and the space freed by what it has sent. Does not know the sender.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::done::Done;
use super::entry::OpenError;
use super::failure::{Failure, ReadError};
use super::segment::{ENTRIES, Segment};
use super::store::Store;
use crate::dedupe::DedupeEntry;
use crate::record::Record;

/// The most index entries to look at for one [`Chunk`]: most of them may not be wanted.
const LOOKED_AT: usize = 1 << 16;

/// The pending and wanted records of a topic from some offset on.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) records: Vec<Record>,
    /// Offsets of records that should be here but cannot be read.
    pub(crate) damaged: Vec<u64>,
    /// The chunk has every wanted record before this offset.
    pub(crate) until: u64,
}

impl Store {
    /// Spools only: marks these records as done. Survives `kill -9`. After an error they count as done until the next
    /// start, and then as pending.
    pub(super) fn done(&self, topic: &str, offsets: &[u64]) -> io::Result<()> {
        let mut writing = self.writing();
        let Some(writing) = writing.as_mut() else { return Ok(()) };
        let mut written = Ok(());
        for segment in self.segments().iter() {
            let here = segment.begin_of(topic).next..segment.end_of(topic).next;
            let offsets: Vec<u64> = offsets.iter().copied().filter(|offset| here.contains(offset)).collect();
            let Some(pending) = writing.pending.get_mut(&segment.number()) else { continue };
            if offsets.is_empty() {
                continue;
            }
            pending.left = pending.left.saturating_sub(offsets.len() as u64);
            let marked = pending.mark(&*self.files, segment, offsets.iter().map(|offset| (topic, *offset)));
            written = marked.and(written);
        }
        written
    }

    /// Spools only: remembers deliveries that are stored elsewhere. Survives `kill -9`.
    pub(super) fn remember(&self, known: &[DedupeEntry]) -> io::Result<()> {
        match self.writing().as_mut().and_then(|writing| writing.ledger.as_mut()) {
            Some(ledger) => ledger.remember(&*self.files, known),
            None => Ok(()),
        }
    }

    /// Spools only: removes every segment but the last that has nothing pending. Returns the bytes freed.
    pub(super) fn remove_done(&self) -> io::Result<u64> {
        let mut writing = self.writing();
        let Some(writing) = writing.as_mut() else { return Ok(0) };
        let mut kept = self.segments().clone();
        let Some(last) = kept.pop() else { return Ok(0) };
        let is_done =
            |segment: &Segment| writing.pending.get(&segment.number()).is_some_and(|pending| pending.left == 0);
        // The one after a removed segment says where the one before it ends, unless that is sealed.
        let mut is_bounded = true;
        kept.retain(|segment| {
            let goes = is_bounded && is_done(segment);
            is_bounded = segment.is_sealed() || goes && is_bounded;
            !goes
        });
        kept.push(last);
        self.remove_others(writing, kept)
    }

    /// Spools only: every pending record with the digest of its key, each topic by offset. Blocks on the disk.
    pub(crate) fn pending(&self, mut each: impl FnMut(&Arc<str>, u64, u64)) -> Result<(), OpenError> {
        let mut writing = self.writing();
        let all = self.segments().iter().try_for_each(|segment| {
            let (done, mut left) = (Done::load(&*self.files, segment.number()), 0);
            segment.every_entry(|topic, offset, entry| {
                if !done.contains(segment.id, topic, offset) {
                    each(topic, offset, entry.key);
                    left += 1;
                }
            })?;
            // Whoever is told of a record marks it in turn, also where the marks could be read before and not now.
            if let Some(pending) = writing.as_mut().and_then(|writing| writing.pending.get_mut(&segment.number())) {
                pending.left = left;
            }
            Ok(())
        });
        all.map_err(|failure: Failure| failure.explain(&self.settings))
    }

    /// Spools only: the records at `offsets` that `wanted` accepts by offset and key digest; at most `records` records
    /// and `bytes` bytes, though always at least one. A damaged record hides no other. Blocks on the disk.
    pub(crate) fn read_pending(
        &self,
        topic: &str,
        offsets: Range<u64>,
        records: usize,
        bytes: usize,
        mut wanted: impl FnMut(u64, u64) -> bool,
    ) -> Result<Chunk, ReadError> {
        if self.segments().is_empty() {
            return Err(ReadError::Closed);
        }
        let (mut chunk, mut taken, mut looked) = (Chunk { until: offsets.start, ..Chunk::default() }, 0, 0);
        for segment in self.segments_with(topic, offsets.start) {
            chunk.until = chunk.until.max(segment.begin_of(topic).next);
            loop {
                let left = usize::try_from(offsets.end.saturating_sub(chunk.until)).unwrap_or(ENTRIES);
                let entries = segment.entries(topic, chunk.until, ENTRIES.min(left))?;
                if entries.is_empty() {
                    break;
                }
                let mut reader = segment.reader(&entries);
                for entry in &entries {
                    if looked == LOOKED_AT || chunk.records.len() == records {
                        return Ok(chunk);
                    }
                    looked += 1;
                    if wanted(chunk.until, entry.key) {
                        if taken > 0 && taken + entry.len as usize > bytes {
                            return Ok(chunk);
                        }
                        match reader.record(topic, chunk.until, entry) {
                            Ok(record) => chunk.records.push(record),
                            Err(_) => chunk.damaged.push(chunk.until),
                        }
                        taken += entry.len as usize;
                    }
                    chunk.until += 1;
                }
            }
        }
        chunk.until = offsets.end;
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Keep, Settings};
    use super::*;
    use crate::message::Message;

    fn open(dir: &Path) -> Store {
        let keep = Keep::UntilDone { bytes: 1 << 30, known: 10 };
        Store::open(&Settings { section: "spool", keep, ..Settings::sample(dir) }, std::iter::empty()).unwrap()
    }

    fn append(store: &Store, numbers: Range<u8>) {
        let messages: Vec<_> = numbers.map(|n| Message::sample("a", "key", [n; 32], vec![n])).collect();
        store.append(messages.iter()).unwrap();
    }

    fn pending(store: &Store) -> Vec<u64> {
        let mut offsets = Vec::new();
        store.pending(|_, offset, _| offsets.push(offset)).unwrap();
        offsets
    }

    fn read(store: &Store, wanted: impl FnMut(u64, u64) -> bool) -> Chunk {
        store.read_pending("a", 0..100, 99, usize::MAX, wanted).unwrap()
    }

    fn offsets(chunk: &Chunk) -> Vec<u64> {
        chunk.records.iter().map(|record| record.offset).collect()
    }

    #[test]
    fn what_is_done_is_not_pending_after_a_restart_and_without_its_mark_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        append(&store, 0..6);
        store.done("a", &[1, 4]).unwrap();
        store.done("a", &[2]).unwrap();
        store.close();
        let store = open(dir.path());
        assert_eq!(pending(&store), [0, 3, 5]);
        assert_eq!(offsets(&read(&store, |offset, _| [0, 3, 5].contains(&offset))), [0, 3, 5]);
        store.close();
        // Cut within the last of three marks.
        let marks = dir.path().join("0.done");
        std::fs::File::options().write(true).open(&marks).unwrap().set_len(20).unwrap();
        let store = open(dir.path());
        assert_eq!(pending(&store), [0, 2, 3, 5]);
        store.done("a", &[0, 2]).unwrap();
        store.close();
        let store = open(dir.path());
        assert_eq!(pending(&store), [3, 5]);
        store.close();
        std::fs::remove_file(&marks).unwrap();
        assert_eq!(pending(&open(dir.path())), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_segment_with_nothing_pending_goes_also_from_between_others() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        for segment in 0..4 {
            append(&store, 3 * segment..3 * segment + 3);
            store.roll().unwrap();
        }
        append(&store, 12..13);
        let before = store.bytes();
        assert_eq!(store.remove_done().unwrap(), 0);
        store.done("a", &[0, 2, 3, 4, 5, 7, 8]).unwrap();
        store.done("a", &[9, 10, 11, 12]).unwrap();
        let removed = store.remove_done().unwrap();
        assert!(removed > 0 && store.remove_done().unwrap() == 0);
        for _ in 0..2 {
            assert_eq!((store.facts().len(), store.bytes(), pending(&store)), (3, before - removed, vec![1, 6]));
            let chunk = read(&store, |_, _| true);
            assert_eq!((offsets(&chunk), chunk.until), (vec![0, 1, 2, 6, 7, 8, 12], 100));
            store.close();
            store = open(dir.path());
        }
        append(&store, 13..14);
        store.done("a", &[1, 6, 13]).unwrap();
        store.remove_done().unwrap();
        assert_eq!((store.facts().len(), pending(&store)), (1, vec![]));
        assert_eq!(offsets(&read(&store, |_, _| true)), [12, 13], "the last segment stays");
    }

    #[test]
    fn reading_what_is_pending_stops_at_its_limits_and_passes_over_damage() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        append(&store, 0..4);
        store.roll().unwrap();
        append(&store, 4..8);
        let read =
            |from, records, bytes| store.read_pending("a", from..8, records, bytes, |offset, _| offset != 2).unwrap();
        let chunk = read(0, 3, usize::MAX);
        assert_eq!((offsets(&chunk), chunk.until), (vec![0, 1, 3], 4));
        let chunk = read(1, 9, 2 * store.size("a", 0));
        assert_eq!((offsets(&chunk), chunk.until), (vec![1, 3], 4));
        assert_eq!(offsets(&read(7, 9, 1)), [7], "one is always read");
        store.lose("a", 3);
        store.lose("a", 5);
        let chunk = read(0, 9, usize::MAX);
        assert_eq!((offsets(&chunk), chunk.damaged, chunk.until), (vec![0, 1, 4, 6, 7], vec![3, 5], 8));
    }

    #[test]
    fn a_spool_knows_what_it_holds_and_what_it_was_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        append(&store, 0..2);
        store.done("a", &[0]).unwrap();
        let known = DedupeEntry { kept: jiff::Timestamp::UNIX_EPOCH, keys: [[9; 16]; 2] };
        store.remember(&[known]).unwrap();
        store.close();
        let mut all = Vec::new();
        open(dir.path()).kept(10, |entry| all.push(entry.keys[0][0])).unwrap();
        assert_eq!(all, [9, 0, 1]);
    }
}
