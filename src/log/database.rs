//! The log on disk: topics in segments, each segment a keyspace of one fjall database that
//! retention removes whole. Comes in: messages, from the one writer; offsets, from readers.
//! Goes out: receipts after an fsync, and records without a gap. Knows no threads but its caller's.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};
use jiff::Timestamp;

use super::codec::{self, Corrupt, Draft, Head, Mark};
use super::ledger::{self, Ledger};
use super::retention::Facts;
use super::{Keep, Settings, disk};
use crate::bus::{OpenError, Receipt, Record};
use crate::dedupe::Known;
use crate::message::Message;

/// Held in memory before it is written as a table.
const MEMTABLE: u64 = 32 * 1024 * 1024;

/// Above this fjall writes out what keeps the oldest journal from being removed.
const JOURNALS: u64 = 128 * 1024 * 1024;

/// fjall waits without end inside a commit from the fourth sealed memtable, or the thirtieth table
/// in level 0, on, even when the threads that would write them out have died.
const SEALED_MEMTABLES: usize = 3;
const LEVEL_0_TABLES: usize = 20;

/// How long a commit waits for fjall's own threads.
const ROOM: Duration = Duration::from_secs(2);
const ROOM_STEP: Duration = Duration::from_millis(2);

/// How long opening after a failure waits for what was recovered to be written anew.
const REWRITE: Duration = Duration::from_secs(30);

const SEGMENT_PREFIX: &str = "segment-";

/// What a topic holds: offsets from `earliest` up to, but without, `next`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) earliest: u64,
    pub(crate) next: u64,
    /// Bytes ever kept before the earliest record, and before the next.
    start: u64,
    end: u64,
}

impl Extent {
    pub(crate) fn messages(&self) -> u64 {
        self.next - self.earliest
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// Why nothing was kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    /// Nothing was written; the next attempt may well succeed.
    #[error("the disk is behind with its writes")]
    Behind,
    /// Some of it may be on disk. The log takes nothing more until it is opened anew.
    #[error("{0}")]
    Failed(String),
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("no such topic")]
    UnknownTopic,
    /// Removed by retention.
    #[error("the log begins at offset {}", .0.earliest)]
    Gone(Extent),
    #[error("the log is closed")]
    Closed,
    #[error("{0}")]
    Failed(String),
}

impl From<fjall::Error> for ReadError {
    fn from(error: fjall::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<Corrupt> for ReadError {
    fn from(error: Corrupt) -> Self {
        Self::Failed(error.to_string())
    }
}

/// The log while it is open.
pub(super) struct Log {
    database: Database,
    /// Oldest first, never empty; the last is written.
    segments: Vec<Segment>,
    tally: Mutex<Tally>,
    /// Of a log whose records are kept until they are done.
    pub(super) ledger: Option<Ledger>,
}

/// What only the writer changes between two segments.
#[derive(Clone, Default)]
struct Tally {
    pub(super) ends: Marks,
    /// When the last record of the last segment was taken.
    newest: Option<Timestamp>,
}

pub(super) type Marks = BTreeMap<Arc<str>, Mark>;

struct Segment {
    number: u64,
    head: Head,
    keyspace: Keyspace,
    /// When its last record was taken; for the last segment see [`Tally::newest`].
    newest: Option<Timestamp>,
}

pub(super) struct Appended {
    pub(super) receipts: Vec<Receipt>,
    pub(super) ends: Marks,
}

impl Log {
    pub(super) fn open(settings: &Settings) -> Result<Self, Failure> {
        let database = Database::builder(&settings.dir).max_journaling_size(JOURNALS).open()?;
        let mut numbers = Vec::new();
        for name in database.list_keyspace_names().iter().filter(|name| !ledger::owns(name)) {
            let number = name.strip_prefix(SEGMENT_PREFIX).and_then(|number| number.parse().ok());
            numbers.push(number.ok_or(Corrupt("a segment's name"))?);
        }
        numbers.sort_unstable();
        let ledger = match settings.keep {
            Keep::For(_) => None,
            Keep::UntilDone { known, .. } => Some(Ledger::open(&database, known)?),
        };
        let segments = Vec::with_capacity(numbers.len() + 1);
        let mut open = Self { database, segments, tally: Mutex::default(), ledger };
        for number in numbers {
            open.adopt(number)?;
        }
        if open.segments.is_empty() {
            open.begin(0)?;
        }
        Ok(open)
    }

    /// Takes up a segment found on disk, checking that it begins where the one before it ended.
    fn adopt(&mut self, number: u64) -> Result<(), Failure> {
        let keyspace = segment_keyspace(&self.database, number)?;
        let Some(head) = keyspace.get(codec::HEAD)? else {
            // Cut off between its creation and its head: nothing was written to it.
            return if keyspace.is_empty()? { self.begin(number) } else { Err(Corrupt("a segment's head").into()) };
        };
        let head = codec::decode_head(&head)?;
        let mut tally = self.tally().clone();
        tally.newest = None;
        if self.segments.is_empty() {
            tally.ends = head.marks.clone();
        } else if tally.ends != head.marks {
            return Err(Corrupt("the seam of two segments").into());
        }
        survey(&keyspace, &mut tally)?;
        self.close_last();
        *self.tally() = tally;
        self.segments.push(Segment { number, head, keyspace, newest: None });
        Ok(())
    }

    /// Makes a segment, or the rest of one, with its head on disk.
    fn begin(&mut self, number: u64) -> Result<(), Failure> {
        let keyspace = segment_keyspace(&self.database, number)?;
        let head = Head { created: Timestamp::now(), marks: self.ends() };
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&keyspace, codec::HEAD, codec::encode_head(&head));
        batch.commit()?;
        self.close_last();
        self.segments.push(Segment { number, head, keyspace, newest: None });
        Ok(())
    }

    fn close_last(&mut self) {
        let newest = self.tally().newest.take();
        if let Some(last) = self.segments.last_mut() {
            last.newest = newest;
        }
    }

    fn last(&self) -> &Segment {
        self.segments.last().expect("there is always a segment")
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
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
    pub(super) fn room(&self) -> Result<(), AppendError> {
        let beside = self.ledger.iter().flat_map(Ledger::written);
        let written: Vec<_> = std::iter::once(&self.last().keyspace).chain(beside).collect();
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

    pub(super) fn append<'m>(&self, messages: impl ExactSizeIterator<Item = &'m Message>) -> Result<Appended, Failure> {
        let keyspace = &self.last().keyspace;
        let time = Timestamp::now();
        let mut tally = self.tally();
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        let mut receipts = Vec::with_capacity(messages.len());
        let mut ends = Marks::new();
        let mut indexed = HashSet::new();
        for message in messages {
            let index = codec::index_keys(message.identity());
            if index.iter().any(|key| indexed.contains(key)) || self.keeps(&index)? {
                receipts.push(Receipt::Duplicate);
                continue;
            }
            let topic: &str = message.topic();
            let mut end = ends.get(topic).or_else(|| tally.ends.get(topic)).copied().unwrap_or_default();
            let draft = Draft { time, position: end.position, key: message.key(), payload: message.payload() };
            let value = codec::encode_record(&draft, message.nats_headers());
            let offset = end.next;
            end.position += codec::footprint(topic, &value);
            end.next += 1;
            batch.insert(keyspace, codec::record_key(topic, offset), value);
            if let Some(ledger) = &self.ledger {
                ledger.add(&mut batch, topic, offset, message.key_digest());
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
            tally.newest = Some(time);
            tally.ends.extend(ends.iter().map(|(topic, end)| (topic.clone(), *end)));
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
        let mut chunk = Vec::new();
        let mut taken = 0;
        let mut expected = offsets.start;
        for (index, segment) in self.segments.iter().enumerate() {
            let ends = self.segments.get(index + 1).and_then(|next| Some(next.head.marks.get(topic)?.next));
            let behind = self.segments.len() > index + 1 && ends.is_none_or(|end| end <= expected);
            if behind || expected >= offsets.end {
                continue;
            }
            for pair in
                segment.keyspace.range(codec::record_key(topic, expected)..codec::record_key(topic, offsets.end))
            {
                let (key, value) = pair.into_inner()?;
                let (_, offset) = codec::read_record_key(&key)?;
                if offset != expected {
                    return Err(Corrupt("the order of offsets").into());
                }
                if chunk.len() >= records || (taken > 0 && taken + value.len() > bytes) {
                    return Ok(chunk);
                }
                taken += value.len();
                expected += 1;
                chunk.push(codec::decode_record(topic, offset, Bytes::from_owner(value))?.0);
            }
        }
        if chunk.len() < records && expected < offsets.end {
            return Err(Corrupt("a record that should be there").into());
        }
        Ok(chunk)
    }

    pub(super) fn time(&self, topic: &str, offset: u64) -> Option<Timestamp> {
        let key = codec::record_key(topic, offset);
        let value = self.segments.iter().find_map(|segment| segment.keyspace.get(&key).ok().flatten())?;
        Some(codec::decode_place(&value).ok()?.0)
    }

    pub(super) fn facts(&self) -> Vec<Facts> {
        let tally = self.tally();
        let sum = |marks: &Marks| marks.values().map(|mark| mark.position).sum::<u64>();
        let starts = self.segments.iter().map(|segment| sum(&segment.head.marks));
        let ends = starts.clone().skip(1).chain([sum(&tally.ends)]);
        let facts = self.segments.iter().zip(starts.zip(ends));
        let mut facts: Vec<_> = facts
            .map(|(segment, (start, end))| Facts {
                created: segment.head.created,
                newest: segment.newest,
                bytes: end - start,
            })
            .collect();
        if let Some(last) = facts.last_mut() {
            last.newest = tally.newest;
        }
        facts
    }

    /// How many of the oldest segments have nothing pending, where each topic has nothing pending before
    /// its mark in `cursors`.
    pub(super) fn drained(&self, cursors: &BTreeMap<Arc<str>, u64>) -> usize {
        let before = |(topic, mark): (&Arc<str>, &Mark)| cursors.get(topic).is_some_and(|cursor| mark.next <= *cursor);
        let begins = self.segments.iter().skip(1).map(|segment| &segment.head.marks);
        begins.take_while(|marks| marks.iter().all(before)).count()
    }

    /// These records are pending no more.
    pub(super) fn done<'r>(&self, records: impl Iterator<Item = (&'r str, u64)>) -> Result<(), Failure> {
        let Some(ledger) = &self.ledger else { return Ok(()) };
        ledger.done(&self.database, records)
    }

    /// Keeps in mind what is kept elsewhere.
    pub(super) fn remember(&mut self, known: &[Known]) -> Result<(), Failure> {
        let Some(ledger) = &mut self.ledger else { return Ok(()) };
        ledger.remember(&self.database, known)
    }

    pub(super) fn roll(&mut self) -> Result<(), Failure> {
        let last = self.last();
        let (number, full) = (last.number, last.keyspace.clone());
        self.begin(number + 1)?;
        // A memtable that is written no more would keep its journals for as long as the segment.
        full.rotate_memtable()?;
        Ok(())
    }

    pub(super) fn remove_oldest(&mut self) -> Result<(), Failure> {
        if self.segments.len() < 2 {
            return Ok(());
        }
        let oldest = self.segments.remove(0);
        self.database.delete_keyspace(oldest.keyspace)?;
        // A journal holds on to the keyspaces that were written to it; fjall looks for journals to
        // remove when a memtable is closed.
        self.last().keyspace.rotate_memtable()?;
        Ok(())
    }

    /// Waits until all that the journals held is in tables of their own, with an fsync.
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

fn segment_keyspace(database: &Database, number: u64) -> Result<Keyspace, Failure> {
    let name = format!("{SEGMENT_PREFIX}{number:020}");
    // Payloads go to files of their own: compaction then moves keys alone.
    let separation = KvSeparationOptions::default();
    Ok(database.keyspace(&name, || {
        KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE).with_kv_separation(Some(separation))
    })?)
}

/// Goes through the topics of a segment, checking their first and last records against how far
/// each topic was, and carries `tally` on to the segment's end.
fn survey(keyspace: &Keyspace, tally: &mut Tally) -> Result<(), Failure> {
    let mut from = codec::RECORDS.to_vec();
    while let Some(first) = keyspace.range(from.as_slice()..codec::RECORDS_END).next() {
        let (key, value) = first.into_inner()?;
        let (topic, offset) = codec::read_record_key(&key)?;
        let (_, position) = codec::decode_place(&value)?;
        let begin = Mark { next: offset, position };
        if tally.ends.get(topic).copied().unwrap_or_default() != begin {
            return Err(Corrupt("the first record of a topic in a segment").into());
        }
        from = codec::after_topic(topic);
        let last = keyspace.range(key.to_vec()..from.clone()).next_back();
        let (key, value) = last.ok_or(Corrupt("the last record of a topic in a segment"))?.into_inner()?;
        let (_, offset) = codec::read_record_key(&key)?;
        let footprint = codec::footprint(topic, &value);
        let (record, position) = codec::decode_record(topic, offset, Bytes::from_owner(value))?;
        tally.newest = tally.newest.max(Some(record.time));
        tally.ends.insert(topic.into(), Mark { next: offset + 1, position: position + footprint });
    }
    Ok(())
}

/// What can go wrong with the database.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Fjall(fjall::Error),
    #[error("{0}")]
    Corrupt(#[from] Corrupt),
    #[error("what the journal held could not be written anew")]
    Rewrite,
}

impl From<fjall::Error> for Failure {
    fn from(error: fjall::Error) -> Self {
        Self::Fjall(error)
    }
}

impl Failure {
    pub(super) fn explain(&self, settings: &Settings) -> OpenError {
        let Settings { section, dir, .. } = settings;
        let dir_shown = dir.display();
        match self {
            Self::Fjall(fjall::Error::Io(error)) => disk::unusable(section, dir, error),
            Self::Fjall(fjall::Error::Locked) => OpenError(format!(
                "another process uses {section}.dir {dir_shown}; stop it, or give each bridge a directory of its own"
            )),
            Self::Fjall(fjall::Error::InvalidVersion(_)) => OpenError(format!(
                "{section}.dir {dir_shown} holds a database of another version of fjall; choose an empty directory"
            )),
            Self::Rewrite => {
                OpenError(format!("{section}.dir {dir_shown} does not take writes; free some space there"))
            }
            _ => OpenError(format!(
                "the log in {section}.dir {dir_shown} is damaged: {self}; restore the directory from a copy, or move it \
                 aside and start with an empty one"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(open: &Log, numbers: Range<u8>) {
        let messages: Vec<_> = numbers.map(|n| Message::sample("a", "key", [n; 32], vec![n])).collect();
        open.append(messages.iter()).unwrap();
    }

    #[test]
    fn a_segment_that_was_never_begun_is_begun_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let open = Log::open(&Settings::sample(dir.path())).unwrap();
        append(&open, 0..2);
        segment_keyspace(&open.database, 1).unwrap();
        drop(open);
        let open = Log::open(&Settings::sample(dir.path())).unwrap();
        append(&open, 2..3);
        assert_eq!(open.segments.len(), 2);
        assert_eq!(open.read("a", 0..3, 9, usize::MAX).unwrap().len(), 3);
    }

    #[test]
    fn a_hole_in_a_topic_is_an_error_and_not_fewer_records() {
        let dir = tempfile::tempdir().unwrap();
        let open = Log::open(&Settings::sample(dir.path())).unwrap();
        append(&open, 0..5);
        open.last().keyspace.remove(codec::record_key("a", 2)).unwrap();
        assert!(matches!(open.read("a", 0..5, 9, usize::MAX), Err(ReadError::Failed(_))));
        open.last().keyspace.remove(codec::record_key("a", 4)).unwrap();
        assert!(matches!(open.read("a", 3..5, 9, usize::MAX), Err(ReadError::Failed(_))), "the end is missing");
    }

    #[test]
    fn a_log_that_does_not_begin_where_its_head_says_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let open = Log::open(&Settings::sample(dir.path())).unwrap();
        append(&open, 0..5);
        open.last().keyspace.remove(codec::record_key("a", 0)).unwrap();
        drop(open);
        let error = Log::open(&Settings::sample(dir.path())).err().unwrap().explain(&Settings::sample(dir.path()));
        assert!(error.0.contains("damaged") && error.0.contains("restore"), "{error}");
    }

    #[test]
    fn a_seam_that_does_not_fit_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let mut open = Log::open(&Settings::sample(dir.path())).unwrap();
        append(&open, 0..2);
        let before = open.last().keyspace.clone();
        open.roll().unwrap();
        append(&open, 2..3);
        before.remove(codec::record_key("a", 1)).unwrap();
        drop((open, before));
        assert!(matches!(Log::open(&Settings::sample(dir.path())), Err(Failure::Corrupt(_))));
    }
}
