//! The log on disk: topics in segments of one fjall database. One writer appends, with an fsync before each receipt.
//! Readers read by offset, without a gap. `opening` opens it.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fjall::{Database, Keyspace, PersistMode};
use jiff::Timestamp;

use super::codec::{self, Corrupt, Draft, Head, Mark};
use super::entry::Entry;
use super::entry::Receipt;
use super::extent::Extent;
use super::failure::{AppendError, Failure, ReadError, guarded};
use super::journal::Newest;
use super::ledger::Ledger;
use super::retention::Facts;
use super::segment::{self, Count, Marks, Segment};
use super::watermark::{Level, Watermark};
use crate::record::Record;

/// From the fourth sealed memtable or the thirtieth level-0 table on, fjall waits without a limit inside a commit,
/// even if its flush threads have died.
const SEALED_MEMTABLES: usize = 3;
const LEVEL_0_TABLES: usize = 20;

/// How long a commit waits for fjall's own threads.
const ROOM: Duration = Duration::from_secs(2);
const ROOM_STEP: Duration = Duration::from_millis(2);

/// How long reopening after a failure waits until the recovered records are rewritten.
const REWRITE: Duration = Duration::from_secs(30);

/// The log while it is open.
pub(super) struct Log {
    pub(super) database: Database,
    /// Oldest first, never empty; the last one is being written.
    pub(super) segments: Vec<Segment>,
    pub(super) tally: Mutex<Tally>,
    pub(super) watermark: Watermark,
    pub(super) journal: Newest,
    /// Only a spool has one: its log keeps records until they are done.
    pub(super) ledger: Option<Ledger>,
}

/// Counters that only the writer changes, for the current segment.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) ends: Marks,
    /// When the last record of the last segment was written.
    pub(super) newest: Option<Timestamp>,
}

pub(super) struct Appended {
    pub(super) receipts: Vec<Receipt>,
    pub(super) ends: Marks,
}

impl Log {
    /// The watermark level for topics that end here.
    pub(super) fn level(&self, ends: &Marks) -> Level {
        let first = self.segments.first().map_or(0, |segment| segment.number);
        ends.values().fold(Level { first, ..Level::default() }, |level, end| Level {
            records: level.records + end.next,
            bytes: level.bytes + end.position,
            ..level
        })
    }

    /// Creates a segment, or completes one whose head is missing; the head is then on disk.
    pub(super) fn begin(&mut self, number: u64) -> Result<(), Failure> {
        let keyspace = segment::keyspace(&self.database, number)?;
        let head = Head { created: Timestamp::now(), marks: self.ends() };
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&keyspace, codec::HEAD, codec::encode_head(&head));
        batch.commit()?;
        self.close_last();
        self.segments.push(Segment { number, head, keyspace, end: None, pending: Count::new(0), newest: None });
        Ok(())
    }

    pub(super) fn close_last(&mut self) {
        let newest = self.tally().newest.take();
        if let Some(last) = self.segments.last_mut() {
            last.newest = newest;
        }
    }

    pub(super) fn last(&self) -> &Segment {
        self.segments.last().expect("there is always a segment")
    }

    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ends(&self) -> Marks {
        self.tally().ends.clone()
    }

    pub(super) fn extent(&self, topic: &str, end: &Mark) -> Extent {
        let first =
            self.segments.first().and_then(|segment| segment.head.marks.get(topic)).copied().unwrap_or_default();
        Extent { earliest: first.next, next: end.next, start: first.position, end: end.position }
    }

    pub(super) fn healthy(&self) -> bool {
        self.database.persist(PersistMode::Buffer).is_ok()
    }

    /// Waits, for a bounded time, until a commit cannot get stuck inside fjall.
    pub(super) fn wait_for_write_capacity(&self) -> Result<(), AppendError> {
        // A spool writes to every segment: a record that becomes done may be in any of them.
        let from = if self.ledger.is_some() { 0 } else { self.segments.len() - 1 };
        let segments = self.segments[from..].iter().map(|segment| &segment.keyspace);
        let written: Vec<_> = segments.chain(self.ledger.as_ref().map(Ledger::written)).collect();
        let full = |keyspace: &&Keyspace| {
            keyspace.sealed_memtable_count() >= SEALED_MEMTABLES || keyspace.l0_table_count() >= LEVEL_0_TABLES
        };
        let crowded = || written.iter().any(full);
        let until = Instant::now() + ROOM;
        while crowded() {
            if !self.healthy() {
                return Err(AppendError::Failed("fjall's own threads have failed".to_owned()));
            }
            if Instant::now() > until {
                return Err(AppendError::Behind);
            }
            std::thread::sleep(ROOM_STEP);
        }
        Ok(())
    }

    /// Commits the entries that are not in the log yet, with one fsync (`PersistMode::SyncAll`).
    pub(super) fn append<'m, E: Entry + ?Sized + 'm>(
        &self,
        entries: impl ExactSizeIterator<Item = &'m E>,
    ) -> Result<Appended, Failure> {
        let keyspace = &self.last().keyspace;
        let time = Timestamp::now();
        let mut tally = self.tally();
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        let mut receipts = Vec::with_capacity(entries.len());
        let mut ends = Marks::new();
        let mut indexed = HashSet::new();
        for entry in entries {
            let index = codec::index_keys(entry.digests());
            if index.iter().any(|key| indexed.contains(key)) || self.keeps(&index)? {
                receipts.push(Receipt::Duplicate);
                continue;
            }
            let topic: &str = entry.topic();
            let mut end = ends.get(topic).or_else(|| tally.ends.get(topic)).copied().unwrap_or_default();
            let draft = Draft { time, position: end.position, key: entry.key(), payload: entry.payload() };
            let offset = end.next;
            let value = codec::encode_record(topic, offset, &draft, entry.headers());
            end.position += codec::footprint(topic, &value);
            end.next += 1;
            batch.insert(keyspace, codec::record_key(topic, offset), value);
            if self.ledger.is_some() {
                let pending = codec::encode_pending(entry.key_digest());
                batch.insert(keyspace, codec::pending_key(topic, offset), pending.as_slice());
            }
            for key in index {
                batch.insert(keyspace, key.as_slice(), codec::encode_offset(offset).as_slice());
                indexed.insert(key);
            }
            ends.insert(topic.into(), end);
            receipts.push(Receipt::Kept);
        }
        if !ends.is_empty() {
            batch.commit()?;
            let kept = receipts.iter().filter(|receipt| **receipt == Receipt::Kept).count();
            self.last().pending.change(kept as u64, 0);
            tally.newest = Some(time);
            tally.ends.extend(ends.iter().map(|(topic, end)| (topic.clone(), *end)));
            self.watermark.set(self.level(&tally.ends))?;
        }
        Ok(Appended { receipts, ends })
    }

    fn keeps(&self, index: &[[u8; 33]; 2]) -> Result<bool, Failure> {
        for segment in self.segments.iter().rev() {
            for key in index {
                if segment.keyspace.contains_key(key)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    pub(super) fn read(
        &self,
        topic: &str,
        offsets: Range<u64>,
        records: usize,
        bytes: usize,
    ) -> Result<Vec<Record>, ReadError> {
        guarded(|| {
            let (mut chunk, mut taken, mut expected) = (Vec::new(), 0, offsets.start);
            for (index, segment) in self.segments.iter().enumerate() {
                let behind = self.segments.get(index + 1).is_some_and(|next| next.begin(topic) <= expected);
                if behind || expected >= offsets.end {
                    continue;
                }
                for value in segment.records(topic, expected..offsets.end) {
                    let value = value?;
                    if chunk.len() >= records || (taken > 0 && taken + value.len() > bytes) {
                        return Ok(chunk);
                    }
                    taken += value.len();
                    chunk.push(codec::decode_record(topic, expected, Bytes::from_owner(value))?.0);
                    expected += 1;
                }
            }
            let short = chunk.len() < records && expected < offsets.end;
            if short { Err(Corrupt("a record that should be there").into()) } else { Ok(chunk) }
        })
    }

    pub(super) fn time(&self, topic: &str, offset: u64) -> Option<Timestamp> {
        let key = codec::record_key(topic, offset);
        let value = self.segments.iter().find_map(|segment| segment.keyspace.get(&key).ok().flatten())?;
        Some(codec::decode_place(&value).ok()?.0)
    }

    /// The size of the record's value in bytes, without reading it; 0 if there is none.
    pub(super) fn size(&self, topic: &str, offset: u64) -> usize {
        let key = codec::record_key(topic, offset);
        let mut found = self.segments.iter().filter_map(|segment| segment.keyspace.size_of(&key).ok().flatten());
        found.next().map_or(0, |bytes| bytes as usize)
    }

    pub(super) fn facts(&self) -> Vec<Facts> {
        let tally = self.tally();
        let sum = |marks: &Marks| marks.values().map(|mark| mark.position).sum::<u64>();
        let facts = self.segments.iter().zip(self.segment_ends(&tally.ends));
        let mut facts: Vec<_> = facts
            .map(|(segment, ends)| Facts {
                created: segment.head.created,
                newest: segment.newest,
                bytes: sum(ends) - sum(&segment.head.marks),
            })
            .collect();
        if let Some(last) = facts.last_mut() {
            last.newest = tally.newest;
        }
        facts
    }

    /// How far each topic has got at the end of each segment; `last` is the end of the last one.
    pub(super) fn segment_ends<'l>(&'l self, last: &'l Marks) -> impl Iterator<Item = &'l Marks> {
        let begins = self.segments.iter().skip(1).map(|segment| &segment.head.marks).chain([last]);
        self.segments.iter().zip(begins).map(|(segment, next)| segment.end.as_ref().unwrap_or(next))
    }

    pub(super) fn roll(&mut self) -> Result<(), Failure> {
        let last = self.last();
        let (number, full) = (last.number, last.keyspace.clone());
        self.begin(number + 1)?;
        // A memtable that is no longer written would pin its journals for as long as the segment exists.
        full.rotate_memtable()?;
        Ok(())
    }

    pub(super) fn remove_oldest(&mut self) -> Result<(), Failure> {
        if self.segments.len() < 2 {
            return Ok(());
        }
        let oldest = self.segments.remove(0);
        // Before the segment is removed: a missing segment without this mark counts as damage.
        self.watermark.set_synced(self.level(&self.ends()))?;
        self.database.delete_keyspace(oldest.keyspace)?;
        // A journal is pinned by the keyspaces that were written to it, and fjall removes journals only when it seals
        // a memtable.
        self.last().keyspace.rotate_memtable()?;
        Ok(())
    }

    /// Waits until all records in the journals are in tables, with an fsync.
    pub(super) fn rewrite(&self) -> Result<(), Failure> {
        let until = Instant::now() + REWRITE;
        for segment in &self.segments {
            segment.keyspace.rotate_memtable()?;
            while segment.keyspace.sealed_memtable_count() > 0 {
                if !self.healthy() || Instant::now() > until {
                    return Err(Failure::Rewrite);
                }
                std::thread::sleep(ROOM_STEP);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
impl Log {
    /// Appends to the topic `a`.
    pub(super) fn append_samples(&self, numbers: Range<u8>) {
        let messages: Vec<_> = numbers.map(|n| crate::message::Message::sample("a", "key", [n; 32], vec![n])).collect();
        self.append(messages.iter()).unwrap();
    }

    /// Removes a record from the last segment.
    pub(super) fn lose(&self, topic: &str, offset: u64) {
        self.last().keyspace.remove(codec::record_key(topic, offset)).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use xxhash_rust::xxh3::xxh3_64;

    use super::super::Settings;
    use super::*;
    use crate::message::Message;

    #[test]
    fn a_gap_in_a_topic_is_an_error_and_not_fewer_records() {
        let dir = tempfile::tempdir().unwrap();
        let open = Log::open(&Settings::sample(dir.path())).unwrap();
        open.append_samples(0..5);
        open.last().keyspace.remove(codec::record_key("a", 2)).unwrap();
        assert!(matches!(open.read("a", 0..5, 9, usize::MAX), Err(ReadError::Failed(_))));
        open.last().keyspace.remove(codec::record_key("a", 4)).unwrap();
        assert!(matches!(open.read("a", 3..5, 9, usize::MAX), Err(ReadError::Failed(_))), "the end is missing");
    }

    #[test]
    fn a_record_in_the_place_of_another_is_an_error() {
        const MAGIC: &[u8] = b"BLOB";
        let dir = tempfile::tempdir().unwrap();
        let open = Log::open(&Settings::sample(dir.path())).unwrap();
        // Long enough for a file of their own; some have equal lengths.
        let payload = |n: u8| (0..4000u32).map(move |at| xxh3_64(&(at * 256 + u32::from(n)).to_be_bytes()) as u8);
        let messages = (0..40).map(|n| Message::sample("a", "key", [n; 32], payload(n).collect::<Vec<_>>()));
        let messages: Vec<_> = messages.collect();
        open.append(messages.iter()).unwrap();
        open.rewrite().unwrap();
        drop(open);
        let file = std::fs::read_dir(dir.path().join("keyspaces/1/blobs")).unwrap().next().unwrap().unwrap().path();
        let mut bytes = std::fs::read(&file).unwrap();
        let frames: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(MAGIC)).take(40).collect();
        let len = |n: usize| frames[n + 1] - frames[n];
        let mut pairs = (0..39).flat_map(|one| (one + 1..39).map(move |other| (one, other)));
        let (one, other) = pairs.find(|(one, other)| len(*one) == len(*other)).unwrap();
        bytes.copy_within(frames[one]..frames[one + 1], frames[other]);
        std::fs::write(file, bytes).unwrap();
        // Or the journal would repair it.
        File::options().write(true).open(dir.path().join("0.jnl")).unwrap().set_len(0).unwrap();
        let open = Log::open(&Settings::sample(dir.path())).unwrap();
        let other = other as u64;
        let before = open.read("a", 0..other, 99, usize::MAX).unwrap();
        assert_eq!(before[one].payload, messages[one].payload());
        let error = open.read("a", other..40, 99, usize::MAX).err().unwrap();
        assert_eq!(error.to_string(), Corrupt("a record").to_string());
    }
}
