//! A part of the log that retention removes as a whole: a keyspace with a head, records, their index, and a spool's
//! pending marks.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, UserValue};
use jiff::Timestamp;

use super::codec::{self, Corrupt, Head, Mark};
use super::failure::{Failure, ReadError, guarded};
use crate::record::Record;

/// Bytes held in memory before they are written as a table.
const MEMTABLE: u64 = 32 * 1024 * 1024;

const PREFIX: &str = "segment-";

/// How far each topic has got.
pub(super) type Marks = BTreeMap<Arc<str>, Mark>;

pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) head: Head,
    pub(super) keyspace: Keyspace,
    /// How far each topic has got at the end of this segment, if segments after it have been removed.
    pub(super) end: Option<Marks>,
    /// Spools only: how many of its records are pending, once they have been counted.
    pub(super) pending: Count,
    /// When its last record was written; for the last segment see [`super::database::Tally::newest`].
    pub(super) newest: Option<Timestamp>,
}

/// The number of pending records. Unknown for a segment of an earlier process until its records are recalled.
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) const UNKNOWN: u64 = u64::MAX;

    pub(super) fn new(count: u64) -> Self {
        Self(AtomicU64::new(count))
    }

    pub(super) fn set(&self, count: u64) {
        self.0.store(count, Relaxed);
    }

    /// Only the writer calls it.
    pub(super) fn change(&self, more: u64, fewer: u64) {
        let count = self.0.load(Relaxed);
        if count != Self::UNKNOWN {
            self.set((count + more).saturating_sub(fewer));
        }
    }

    pub(super) fn is_none(&self) -> bool {
        self.0.load(Relaxed) == 0
    }
}

/// The number of the segment with this keyspace name.
pub(super) fn number(name: &str) -> Result<u64, Corrupt> {
    let number = name.strip_prefix(PREFIX).and_then(|number| number.parse().ok());
    number.ok_or(Corrupt("a segment's name"))
}

/// Whether each topic has got at least as far in `later` as in `marks`.
pub(super) fn is_behind(later: &Marks, marks: &Marks) -> bool {
    let farther = |mark: &Mark, than: &Mark| mark.next >= than.next && mark.position >= than.position;
    marks.iter().all(|(topic, mark)| later.get(topic).is_some_and(|later| farther(later, mark)))
}

/// Opens the keyspace, or creates it if it is missing.
pub(super) fn keyspace(database: &Database, number: u64) -> Result<Keyspace, Failure> {
    let name = format!("{PREFIX}{number:020}");
    // Payloads go to files of their own, so that compaction moves only keys.
    let separation = KvSeparationOptions::default();
    Ok(database.keyspace(&name, || {
        KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE).with_kv_separation(Some(separation))
    })?)
}

impl Segment {
    /// The offset of the topic's first record in this segment or a later one.
    pub(super) fn begin(&self, topic: &str) -> u64 {
        self.head.marks.get(topic).map_or(0, |mark| mark.next)
    }

    /// The topic's records at `offsets`, as far as this segment has them. A gap is an error.
    pub(super) fn records(
        &self,
        topic: &str,
        offsets: Range<u64>,
    ) -> impl Iterator<Item = Result<UserValue, ReadError>> + use<> {
        let keys = codec::record_key(topic, offsets.start)..codec::record_key(topic, offsets.end);
        self.keyspace.range(keys).zip(offsets).map(|(pair, expected)| {
            let (key, value) = pair.into_inner()?;
            let (_, offset) = codec::read_record_key(&key)?;
            if offset == expected { Ok(value) } else { Err(Corrupt("the order of offsets").into()) }
        })
    }

    /// The record at the offset, and the length of its value.
    pub(super) fn record(&self, topic: &str, offset: u64) -> Result<(Record, usize), ReadError> {
        guarded(|| {
            let value = self.keyspace.get(codec::record_key(topic, offset))?;
            let value = value.ok_or(Corrupt("a record that should be there"))?;
            let len = value.len();
            Ok((codec::decode_record(topic, offset, Bytes::from_owner(value))?.0, len))
        })
    }

    /// The topic's pending marks at `offsets`, as far as this segment has them: the digest of the record's key, or
    /// `None` if it is done.
    pub(super) fn whether_pending(
        &self,
        topic: &str,
        offsets: Range<u64>,
    ) -> impl Iterator<Item = Result<(u64, Option<u64>), ReadError>> + use<> {
        let keys = codec::pending_key(topic, offsets.start)..codec::pending_key(topic, offsets.end);
        self.keyspace.range(keys).map(|pair| {
            let (key, value) = pair.into_inner()?;
            let (_, offset) = codec::read_pending_key(&key)?;
            Ok((offset, codec::decode_pending(&value)?))
        })
    }

    /// Every pending record by topic and offset, with the digest of its key. Every record has a mark, so a missing
    /// mark is an error and never means "done". `ends` is how far each topic has got at the end of this segment.
    pub(super) fn pending(&self, ends: &Marks, mut each: impl FnMut(Arc<str>, u64, u64)) -> Result<(), Failure> {
        const WRONG: Corrupt = Corrupt("what is pending");
        let nexts = |marks: &Marks| marks.iter().map(|(topic, mark)| (topic.clone(), mark.next)).collect();
        let mut reached: BTreeMap<Arc<str>, u64> = nexts(&self.head.marks);
        let mut topic: Arc<str> = "".into();
        let mut count = 0;
        for pair in self.keyspace.range(codec::PENDING..codec::PENDING_END) {
            let (key, value) = pair.into_inner()?;
            let (name, offset) = codec::read_pending_key(&key)?;
            if *topic != *name {
                topic = name.into();
            }
            let expected = reached.entry(topic.clone()).or_default();
            if offset != *expected {
                return Err(WRONG.into());
            }
            *expected += 1;
            if let Some(key) = codec::decode_pending(&value)? {
                each(topic.clone(), offset, key);
                count += 1;
            }
        }
        if reached != nexts(ends) {
            return Err(WRONG.into());
        }
        self.pending.set(count);
        Ok(())
    }
}

/// Walks the topics of a segment, checks their first and last records against `ends`, and advances `ends` to the end
/// of the segment. Returns when its last record was written.
pub(super) fn survey(keyspace: &Keyspace, ends: &mut Marks) -> Result<Option<Timestamp>, Failure> {
    let mut newest = None;
    let mut from = codec::RECORDS.to_vec();
    while let Some(first) = keyspace.range(from.as_slice()..codec::RECORDS_END).next() {
        let (key, value) = first.into_inner()?;
        let (topic, offset) = codec::read_record_key(&key)?;
        let (_, position) = codec::decode_place(&value)?;
        let begin = Mark { next: offset, position };
        if ends.get(topic).copied().unwrap_or_default() != begin {
            return Err(Corrupt("the first record of a topic in a segment").into());
        }
        from = codec::after_topic(topic);
        let last = keyspace.range(key.to_vec()..from.clone()).next_back();
        let (key, value) = last.ok_or(Corrupt("the last record of a topic in a segment"))?.into_inner()?;
        let (_, offset) = codec::read_record_key(&key)?;
        let footprint = codec::footprint(topic, &value);
        let (record, position) = codec::decode_record(topic, offset, Bytes::from_owner(value))?;
        newest = newest.max(Some(record.time));
        ends.insert(topic.into(), Mark { next: offset + 1, position: position + footprint });
    }
    Ok(newest)
}
