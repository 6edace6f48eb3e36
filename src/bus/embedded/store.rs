//! The durable log on fjall: batches in, records out, the oldest segments dropped whole.
//! A segment is a keyspace with the records of a while and the delivery ids among them, so that
//! dropping it gives its disk space back at once and forgets ids exactly with their records.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Mutex, RwLock};
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};
use jiff::Timestamp;

use super::codec::{Corrupt, decode, encode, id_key, offset_of, record_key, record_prefix};
use crate::bus::{Receipt, Record};
use crate::message::Message;

/// Retention drops whole segments: a sixteenth of what is kept at a time.
const SEGMENTS: u32 = 16;
/// Bytes. Of fjall's own journal, on top of the records.
const JOURNAL: u64 = 128 << 20;
const MEMTABLE: u64 = 16 << 20;
const BLOCK_CACHE: u64 = 16 << 20;
const META: &str = "meta";

/// How long and how much is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep {
    pub age: Duration,
    /// Bytes.
    pub bytes: u64,
}

/// The offsets that a topic has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Extent {
    pub earliest: u64,
    /// Of the message that comes next.
    pub next: u64,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("another process uses this directory")]
    Locked,
    #[error("the embedded log is damaged: {0}")]
    Damaged(String),
    #[error("{0}")]
    Failed(String),
}

impl From<fjall::Error> for StoreError {
    fn from(error: fjall::Error) -> Self {
        match error {
            fjall::Error::Locked => Self::Locked,
            fjall::Error::Io(error) => Self::Failed(format!("disk: {}", error.kind())),
            fjall::Error::Poisoned => Self::Failed("a write failed".into()),
            _ => Self::Failed("the storage engine failed".into()),
        }
    }
}

impl From<Corrupt> for StoreError {
    fn from(error: Corrupt) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("offsets {} to {} are kept", .0.earliest, .0.next)]
    OutOfRange(Extent),
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub(super) struct Store {
    db: Database,
    meta: Keyspace,
    segments: RwLock<BTreeMap<u64, Segment>>,
    extents: Mutex<BTreeMap<String, Extent>>,
    keep: Keep,
}

#[derive(Clone)]
struct Segment {
    keyspace: Keyspace,
    began: Timestamp,
    newest: Timestamp,
    bytes: u64,
}

impl Store {
    /// Opens or makes the log. `Ok` means that every topic's records are there up to its last.
    pub(super) fn open(dir: &Path, keep: Keep) -> Result<Self, StoreError> {
        let db = Database::builder(dir)
            .max_journaling_size(JOURNAL)
            .cache_size(BLOCK_CACHE)
            .manual_journal_persist(true)
            .open()?;
        let meta = db.keyspace(META, KeyspaceCreateOptions::default)?;
        let store = Self { db, meta, segments: RwLock::default(), extents: Mutex::default(), keep };
        store.recover()?;
        Ok(store)
    }

    fn recover(&self) -> Result<(), StoreError> {
        for name in self.db.list_keyspace_names() {
            let Some(number) = name.strip_prefix("segment-").and_then(|number| number.parse().ok()) else { continue };
            let keyspace = self.db.keyspace(&name, segment_options)?;
            let segment = match self.meta.get(segment_key(number))? {
                Some(value) => Segment::decode(keyspace, &value)?,
                // Made, and the process ended before its first batch.
                None => Segment::new(keyspace, Timestamp::now()),
            };
            self.segments().insert(number, segment);
        }
        for entry in self.meta.prefix("t") {
            let (key, value) = entry.into_inner()?;
            let topic = String::from_utf8(key[1..].to_vec()).map_err(|_| Corrupt)?;
            let next = value[..].try_into().map(u64::from_be_bytes).map_err(|_| Corrupt)?;
            let extent = Extent { earliest: self.first(&topic)?.unwrap_or(next), next };
            self.expect_last(&topic, extent)?;
            self.extents().insert(topic, extent);
        }
        Ok(())
    }

    /// The last record of a topic must be readable: what follows would otherwise fill a hole.
    fn expect_last(&self, topic: &str, extent: Extent) -> Result<(), StoreError> {
        if extent.earliest == extent.next {
            return Ok(());
        }
        match self.value(topic, extent.next - 1)? {
            Some(value) => decode(topic, extent.next - 1, &value).map(drop).map_err(StoreError::from),
            None => Err(StoreError::Damaged(format!("the last record of topic `{topic}` is missing"))),
        }
    }

    /// Makes topics known before their first message.
    pub(super) fn know<'t>(&self, topics: impl Iterator<Item = &'t str>) {
        let mut extents = self.extents();
        for topic in topics {
            extents.entry(topic.to_owned()).or_default();
        }
    }

    /// Appends all, or what is new of it, in one batch and one fsync. `Ok` means that all of it is on
    /// the disk; after an error the store must be opened anew. What is in `doubtful` (keys of ids) is
    /// appended again even where the log has it.
    pub(super) fn append(
        &self,
        messages: &[&Message],
        doubtful: &HashSet<Vec<u8>>,
        now: Timestamp,
    ) -> Result<Vec<Receipt>, StoreError> {
        let (number, mut segment) = self.active(now)?;
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        let mut nexts: HashMap<&str, u64> = HashMap::new();
        let mut ids = HashSet::new();
        let mut receipts = Vec::with_capacity(messages.len());
        for message in messages {
            let topic: &str = message.topic();
            let id = id_key(topic, message.id().as_bytes());
            if ids.contains(&id) || (!doubtful.contains(&id) && self.knows(&id)?) {
                receipts.push(Receipt::Duplicate);
                continue;
            }
            let next = nexts.entry(topic).or_insert_with(|| self.extent(topic).unwrap_or_default().next);
            let value = encode(message, now);
            segment.bytes += (value.len() + 2 * id.len()) as u64;
            batch.insert(&segment.keyspace, record_key(topic, *next), value);
            batch.insert(&segment.keyspace, id.clone(), next.to_be_bytes());
            ids.insert(id);
            *next += 1;
            receipts.push(Receipt::Kept);
        }
        if nexts.is_empty() {
            return Ok(receipts);
        }
        segment.newest = now;
        for (topic, next) in &nexts {
            batch.insert(&self.meta, topic_key(topic), next.to_be_bytes());
        }
        batch.insert(&self.meta, segment_key(number), segment.encode());
        batch.commit()?;
        self.segments().insert(number, segment);
        let mut extents = self.extents();
        for (topic, next) in nexts {
            extents.entry(topic.to_owned()).or_default().next = next;
        }
        Ok(receipts)
    }

    /// Drops the oldest segments that are too old, or too many bytes. True if any was dropped.
    pub(super) fn retain(&self, now: Timestamp) -> Result<bool, StoreError> {
        let mut dropped = false;
        while let Some(number) = self.expired(now) {
            let Some(segment) = self.segments().remove(&number) else { break };
            self.meta.remove(segment_key(number))?;
            self.db.delete_keyspace(segment.keyspace)?;
            dropped = true;
        }
        if dropped {
            let topics: Vec<_> = self.topics().into_iter().collect();
            for (topic, extent) in topics {
                let earliest = self.first(&topic)?.unwrap_or(extent.next);
                self.extents().entry(topic).or_default().earliest = earliest;
            }
        }
        Ok(dropped)
    }

    fn expired(&self, now: Timestamp) -> Option<u64> {
        let segments = self.segments.read().expect(UNPOISONED);
        let (number, oldest) = segments.first_key_value()?;
        let total: u64 = segments.values().map(|segment| segment.bytes).sum();
        let old = older(oldest.newest, now, self.keep.age);
        (old || (total > self.keep.bytes && segments.len() > 1)).then_some(*number)
    }

    /// The segment that takes what comes, a new one where the last is full or has had its time.
    fn active(&self, now: Timestamp) -> Result<(u64, Segment), StoreError> {
        let last =
            self.segments.read().expect(UNPOISONED).last_key_value().map(|(number, last)| (*number, last.clone()));
        if let Some((number, last)) = &last {
            let full = last.bytes >= self.keep.bytes / u64::from(SEGMENTS);
            if !full && !older(last.began, now, self.keep.age / SEGMENTS) {
                return Ok((*number, last.clone()));
            }
        }
        let number = last.map_or(0, |(number, _)| number + 1);
        let keyspace = self.db.keyspace(&format!("segment-{number:012}"), segment_options)?;
        Ok((number, Segment::new(keyspace, now)))
    }

    /// Records from an offset on: at least one where there is one, else up to the bounds.
    pub(super) fn read(&self, topic: &str, from: u64, records: usize, bytes: usize) -> Result<Vec<Record>, ReadError> {
        let extent = self.extent(topic).unwrap_or_default();
        if from < extent.earliest || from > extent.next {
            return Err(ReadError::OutOfRange(extent));
        }
        let (mut found, mut size) = (Vec::new(), 0);
        let range = record_key(topic, from)..record_key(topic, extent.next);
        let segments: Vec<_> = self.segments.read().expect(UNPOISONED).values().cloned().collect();
        for segment in segments {
            for entry in segment.keyspace.range(range.clone()) {
                let (key, value) = entry.into_inner().map_err(StoreError::from)?;
                let offset = offset_of(&key).map_err(StoreError::from)?;
                if offset != from + found.len() as u64 {
                    // Retention has overtaken this reader between two segments.
                    return Err(ReadError::OutOfRange(self.extent(topic).unwrap_or_default()));
                }
                size += value.len();
                found.push(decode(topic, offset, &value).map_err(StoreError::from)?);
                if found.len() >= records || size >= bytes {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    /// An error where a write failed since the log was opened, also one in the background.
    pub(super) fn sound(&self) -> Result<(), StoreError> {
        Ok(self.db.persist(PersistMode::Buffer)?)
    }

    pub(super) fn topics(&self) -> BTreeMap<String, Extent> {
        self.extents().clone()
    }

    pub(super) fn extent(&self, topic: &str) -> Option<Extent> {
        self.extents().get(topic).copied()
    }

    /// Bytes of the records of all topics, before compression.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.read().expect(UNPOISONED).values().map(|segment| segment.bytes).sum()
    }

    /// Whether the log has this key of an id.
    pub(super) fn knows(&self, id: &[u8]) -> Result<bool, StoreError> {
        for segment in self.segments.read().expect(UNPOISONED).values().rev() {
            if segment.keyspace.contains_key(id)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn value(&self, topic: &str, offset: u64) -> Result<Option<fjall::UserValue>, StoreError> {
        let key = record_key(topic, offset);
        for segment in self.segments.read().expect(UNPOISONED).values().rev() {
            if let Some(value) = segment.keyspace.get(&key)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    fn first(&self, topic: &str) -> Result<Option<u64>, StoreError> {
        for segment in self.segments.read().expect(UNPOISONED).values() {
            if let Some(entry) = segment.keyspace.prefix(record_prefix(topic)).next() {
                return Ok(Some(offset_of(&entry.key()?)?));
            }
        }
        Ok(None)
    }

    fn segments(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<u64, Segment>> {
        self.segments.write().expect(UNPOISONED)
    }

    fn extents(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Extent>> {
        self.extents.lock().expect(UNPOISONED)
    }
}

const UNPOISONED: &str = "no holder of this lock can panic";

impl Segment {
    fn new(keyspace: Keyspace, now: Timestamp) -> Self {
        Self { keyspace, began: now, newest: now, bytes: 0 }
    }

    fn encode(&self) -> Vec<u8> {
        let fields = [self.began.as_millisecond(), self.newest.as_millisecond(), self.bytes as i64];
        fields.iter().flat_map(|field| field.to_be_bytes()).collect()
    }

    fn decode(keyspace: Keyspace, value: &[u8]) -> Result<Self, StoreError> {
        let (fields, []) = value.as_chunks::<8>() else { return Err(Corrupt.into()) };
        let [began, newest, bytes] = fields else { return Err(Corrupt.into()) };
        let time = |field: &[u8; 8]| Timestamp::from_millisecond(i64::from_be_bytes(*field)).map_err(|_| Corrupt);
        Ok(Self { keyspace, began: time(began)?, newest: time(newest)?, bytes: u64::from_be_bytes(*bytes) })
    }
}

fn older(than: Timestamp, now: Timestamp, age: Duration) -> bool {
    u64::try_from(now.as_millisecond() - than.as_millisecond()).is_ok_and(|passed| u128::from(passed) > age.as_millis())
}

fn topic_key(topic: &str) -> Vec<u8> {
    [b"t", topic.as_bytes()].concat()
}

fn segment_key(number: u64) -> Vec<u8> {
    [b"s", &number.to_be_bytes()[..]].concat()
}

/// Large values lie apart, so that compaction does not copy them again and again.
fn segment_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(MEMTABLE)
        .with_kv_separation(Some(KvSeparationOptions::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALWAYS: Keep = Keep { age: Duration::from_secs(1 << 30), bytes: 1 << 40 };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn message(topic: &str, id: u8) -> Message {
        Message::sample(topic, "key", [id; 32], vec![id; 100])
    }

    fn append(store: &Store, topic: &str, ids: &[u8], now: Timestamp) -> Vec<Receipt> {
        let messages: Vec<_> = ids.iter().map(|id| message(topic, *id)).collect();
        store.append(&messages.iter().collect::<Vec<_>>(), &HashSet::new(), now).unwrap()
    }

    fn offsets(store: &Store, topic: &str, from: u64) -> Vec<u64> {
        store.read(topic, from, 1000, usize::MAX).unwrap().iter().map(|record| record.offset).collect()
    }

    #[test]
    fn offsets_are_dense_per_topic_and_survive_reopening() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = Store::open(dir.path(), ALWAYS).unwrap();
        append(&store, "a", &[1, 2], at(0));
        append(&store, "b", &[1], at(0));
        drop(store);
        let store = Store::open(dir.path(), ALWAYS).unwrap();
        append(&store, "a", &[3], at(1));
        assert_eq!(offsets(&store, "a", 0), [0, 1, 2]);
        assert_eq!(offsets(&store, "a", 2), [2]);
        assert_eq!(offsets(&store, "a", 3), [0; 0]);
        assert_eq!(offsets(&store, "b", 0), [0]);
        assert_eq!(store.read("a", 1, 1, 9).unwrap()[0].payload[..], [2; 100]);
        assert!(matches!(store.read("a", 4, 1, 9), Err(ReadError::OutOfRange(Extent { earliest: 0, next: 3 }))));
    }

    #[test]
    fn a_delivery_is_kept_once_in_each_topic() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = Store::open(dir.path(), ALWAYS).unwrap();
        assert_eq!(append(&store, "a", &[1, 2, 1], at(0)), [Receipt::Kept, Receipt::Kept, Receipt::Duplicate]);
        assert_eq!(append(&store, "b", &[1], at(0)), [Receipt::Kept]);
        drop(store);
        let store = Store::open(dir.path(), ALWAYS).unwrap();
        assert_eq!(append(&store, "a", &[2, 3], at(1)), [Receipt::Duplicate, Receipt::Kept]);
        assert_eq!(offsets(&store, "a", 0), [0, 1, 2]);
    }

    #[test]
    fn what_is_in_doubt_is_appended_again() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = Store::open(dir.path(), ALWAYS).unwrap();
        append(&store, "a", &[1], at(0));
        let again = message("a", 1);
        let doubtful = HashSet::from([id_key("a", again.id().as_bytes())]);
        assert_eq!(store.append(&[&again], &doubtful, at(1)).unwrap(), [Receipt::Kept]);
        assert_eq!(store.append(&[&again], &HashSet::new(), at(2)).unwrap(), [Receipt::Duplicate]);
        assert_eq!(offsets(&store, "a", 0), [0, 1]);
    }

    #[test]
    fn retention_by_age_drops_the_oldest_and_never_reuses_an_offset() {
        let dir = tempfile::TempDir::new().unwrap();
        let keep = Keep { age: Duration::from_secs(160), bytes: 1 << 40 };
        let store = Store::open(dir.path(), keep).unwrap();
        for second in 0..20 {
            append(&store, "a", &[second], at(i64::from(second) * 20));
        }
        assert!(store.retain(at(400)).unwrap());
        let extent = store.extent("a").unwrap();
        assert_eq!(extent, Extent { earliest: 12, next: 20 });
        assert!(matches!(store.read("a", 11, 1, 9), Err(ReadError::OutOfRange(_))));
        assert_eq!(offsets(&store, "a", 12).len(), 8);
        assert_eq!(append(&store, "a", &[1], at(400)), [Receipt::Kept], "an id is forgotten with its record");
        assert!(store.retain(at(4000)).unwrap());
        assert_eq!(store.extent("a").unwrap(), Extent { earliest: 21, next: 21 });
        drop(store);
        let store = Store::open(dir.path(), keep).unwrap();
        assert_eq!(store.extent("a").unwrap(), Extent { earliest: 21, next: 21 });
        append(&store, "a", &[9], at(4001));
        assert_eq!(offsets(&store, "a", 21), [21]);
    }

    #[test]
    fn retention_by_bytes_keeps_the_newest() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = Store::open(dir.path(), Keep { age: ALWAYS.age, bytes: 10_000 }).unwrap();
        for id in 0..200 {
            append(&store, "a", &[id], at(0));
            store.retain(at(0)).unwrap();
        }
        assert!(store.bytes() <= 10_000, "{}", store.bytes());
        let extent = store.extent("a").unwrap();
        assert!(extent.next == 200 && extent.earliest > 100 && extent.earliest < 195, "{extent:?}");
        assert_eq!(offsets(&store, "a", extent.earliest).len() as u64, 200 - extent.earliest);
    }

    #[test]
    fn a_missing_last_record_is_a_refusal_to_open() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = Store::open(dir.path(), ALWAYS).unwrap();
        append(&store, "a", &[1, 2], at(0));
        let (_, segment) = store.active(at(0)).unwrap();
        segment.keyspace.remove(record_key("a", 1)).unwrap();
        drop((segment, store));
        assert!(matches!(Store::open(dir.path(), ALWAYS), Err(StoreError::Damaged(_))));
    }

    #[test]
    fn one_process_opens_a_directory() {
        let dir = tempfile::TempDir::new().unwrap();
        let _store = Store::open(dir.path(), ALWAYS).unwrap();
        assert!(matches!(Store::open(dir.path(), ALWAYS), Err(StoreError::Locked)));
    }
}
