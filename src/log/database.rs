//! The log on disk: topics in segments, each segment a keyspace of one fjall database that
//! retention removes whole. Comes in: messages, from the one writer; offsets, from readers.
//! Goes out: receipts after an fsync, and records without a gap. Knows no threads but its caller's.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};
use jiff::Timestamp;

use super::codec::{self, Corrupt, Draft, Head, Mark};
use super::ledger::{self, Ledger};
use super::retention::Facts;
use super::watermark::{Level, Watermark};
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
    watermark: Watermark,
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
        guarded(|| Self::open_checked(settings))
    }

    fn open_checked(settings: &Settings) -> Result<Self, Failure> {
        let dir = &settings.dir;
        // Looked at before fjall opens, and so perhaps removes, anything; read for good after that has
        // locked the directory.
        Watermark::open(dir)?;
        let database = Database::builder(dir).max_journaling_size(JOURNALS).open()?;
        let mut numbers = Vec::new();
        for name in database.list_keyspace_names().iter().filter(|name| !ledger::owns(name)) {
            let number = name.strip_prefix(SEGMENT_PREFIX).and_then(|number| number.parse().ok());
            numbers.push(number.ok_or(Corrupt("a segment's name"))?);
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
            // It is made before the first segment.
            Keep::UntilDone { .. } if !numbers.is_empty() && !Ledger::exists(&database) => {
                return Err(Corrupt("what is pending").into());
            }
            Keep::UntilDone { known, .. } => Some(Ledger::open(&database, known)?),
        };
        let segments = Vec::with_capacity(numbers.len() + 1);
        let mut open = Self { database, segments, tally: Mutex::default(), watermark, ledger };
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
        // What was on disk without having been acknowledged is, from now on: a retry is a duplicate.
        open.watermark.set(found)?;
        Ok(open)
    }

    /// What is acknowledged where topics have these ends.
    fn level(&self, ends: &Marks) -> Level {
        let first = self.segments.first().map_or(0, |segment| segment.number);
        ends.values().fold(Level { first, ..Level::default() }, |level, end| Level {
            records: level.records + end.next,
            bytes: level.bytes + end.position,
            ..level
        })
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
            let offset = end.next;
            let value = codec::encode_record(topic, offset, &draft, message.nats_headers());
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
        guarded(|| self.read_checked(topic, offsets, records, bytes))
    }

    fn read_checked(
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
        // Before the segment goes: one that is missing without this is damage.
        self.watermark.set_synced(self.level(&self.ends()))?;
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

/// fjall answers some damage with a panic; here it is an error like any other.
fn guarded<T, E: From<Corrupt>>(asked: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let answer = std::panic::catch_unwind(AssertUnwindSafe(asked));
    answer.unwrap_or_else(|_| Err(Corrupt("something that fjall reads").into()))
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
    /// What was acknowledged is not there.
    #[error("acknowledged messages are missing from its end, {0} of them")]
    Short(u64),
    #[error("{0}")]
    Watermark(#[from] io::Error),
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
            Self::Fjall(fjall::Error::Io(error)) | Self::Watermark(error) if !is_damage(error) => {
                disk::unusable(section, dir, error)
            }
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

/// Whether files lack what should be in them; else the disk is to blame.
fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, InvalidData, NotFound, UnexpectedEof};
    matches!(error.kind(), AlreadyExists | InvalidData | NotFound | UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use xxhash_rust::xxh3::xxh3_64;

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

    #[test]
    fn a_record_in_the_place_of_another_is_an_error_and_not_that_record() {
        const MAGIC: &[u8] = b"BLOB";
        let dir = tempfile::tempdir().unwrap();
        let open = Log::open(&Settings::sample(dir.path())).unwrap();
        // Long enough to lie in a file of their own, where some take as many bytes as others.
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
        // The journal would mend it.
        File::options().write(true).open(dir.path().join("0.jnl")).unwrap().set_len(0).unwrap();
        let open = Log::open(&Settings::sample(dir.path())).unwrap();
        let other = other as u64;
        let before = open.read("a", 0..other, 99, usize::MAX).unwrap();
        assert_eq!(before[one].payload, messages[one].payload());
        let error = open.read("a", other..40, 99, usize::MAX).err().unwrap();
        assert_eq!(error.to_string(), Corrupt("a record").to_string());
    }

    #[test]
    fn a_journal_that_lost_its_end_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let open = Log::open(&Settings::sample(dir.path())).unwrap();
        append(&open, 0..3);
        append(&open, 3..5);
        drop(open);
        let journal = dir.path().join("0.jnl");
        let whole = std::fs::read(&journal).unwrap();
        let held = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        // One bit of the last commit, and one byte less than it.
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
    fn what_was_written_and_never_acknowledged_may_be_there_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let open = Log::open(&Settings::sample(dir.path())).unwrap();
        append(&open, 0..3);
        let acknowledged = open.level(&open.ends());
        append(&open, 3..5);
        // As if it had been killed between the fsync and the receipt.
        open.watermark.set(acknowledged).unwrap();
        drop(open);
        let open = Log::open(&Settings::sample(dir.path())).unwrap();
        assert_eq!(open.read("a", 0..5, 9, usize::MAX).unwrap().len(), 5);
        drop(open);
        // A retry of those has been answered as a duplicate since: now they have to be there.
        let (_, least) = Watermark::open(dir.path()).unwrap().unwrap();
        assert_eq!(least.records, 5);
    }

    #[test]
    fn a_segment_that_is_missing_is_damage_unless_retention_removed_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut open = Log::open(&Settings::sample(dir.path())).unwrap();
        for number in 0..4 {
            append(&open, number..number + 1);
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
    fn a_panic_over_damage_is_an_error() {
        let read: Result<(), ReadError> = guarded(|| panic!("value handle did not match any blob"));
        assert!(matches!(read, Err(ReadError::Failed(_))));
    }

    #[test]
    fn a_log_without_its_watermark_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        append(&Log::open(&Settings::sample(dir.path())).unwrap(), 0..1);
        std::fs::remove_file(dir.path().join("watermark")).unwrap();
        assert!(matches!(Log::open(&Settings::sample(dir.path())), Err(Failure::Corrupt(_))));
    }

    #[test]
    fn a_spool_that_forgot_what_is_pending_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::UntilDone { bytes: 1 << 30, known: 0 };
        let settings = Settings { keep, ..Settings::sample(dir.path()) };
        let open = Log::open(&settings).unwrap();
        append(&open, 0..1);
        let [pending, _] = open.ledger.as_ref().unwrap().written();
        open.database.delete_keyspace(pending.clone()).unwrap();
        drop(open);
        assert!(matches!(Log::open(&settings), Err(Failure::Corrupt(_))));
    }
}
