//! How the log is encoded on disk: keys that sort a topic by offset, records, pending marks, the index of deliveries,
//! and the head of a segment. A value that does not decode to its last byte is [`Corrupt`], and so is an intact
//! record stored in the wrong place.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use xxhash_rust::xxh3::Xxh3;

use crate::record::Record;

/// The first byte of every value.
const VERSION: u8 = 1;

/// A topic name contains no NUL, so the keys of two topics never interleave.
const END_OF_TOPIC: u8 = 0;

const RECORD: u8 = b'r';
const ID: u8 = b'i';
const SIGNED: u8 = b's';
const WHETHER_PENDING: u8 = b'p';

/// The key of a segment's head.
pub(super) const HEAD: &[u8] = b"h";

/// Where a segment ends, if the segments after it have been removed. Encoded like a head.
pub(super) const END: &[u8] = b"e";

/// All records of a segment lie in `RECORDS..RECORDS_END`.
pub(super) const RECORDS: &[u8] = &[RECORD];
pub(super) const RECORDS_END: &[u8] = &[RECORD + 1];

/// The pending marks of a spool's segment lie in `PENDING..PENDING_END`.
pub(super) const PENDING: &[u8] = &[WHETHER_PENDING];
pub(super) const PENDING_END: &[u8] = &[WHETHER_PENDING + 1];

/// The mark of a record that is no longer pending.
pub(super) const DONE: &[u8] = &[VERSION];

/// The bytes on disk are not what this program wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} on disk does not decode")]
pub(super) struct Corrupt(pub(super) &'static str);

/// How far a topic has got: the offset of its next record, and the total bytes of the records before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) next: u64,
    pub(super) position: u64,
}

/// The head of a segment: when it began, and how far each topic had got by then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) created: Timestamp,
    pub(super) marks: BTreeMap<Arc<str>, Mark>,
}

/// A record before it has an offset in a topic.
pub(super) struct Draft<'a> {
    pub(super) time: Timestamp,
    /// The total bytes of the topic's records before this one.
    pub(super) position: u64,
    pub(super) key: &'a str,
    pub(super) payload: &'a [u8],
}

pub(super) fn record_key(topic: &str, offset: u64) -> Vec<u8> {
    place_key(RECORD, topic, offset)
}

/// The key of a record's pending mark.
pub(super) fn pending_key(topic: &str, offset: u64) -> Vec<u8> {
    place_key(WHETHER_PENDING, topic, offset)
}

fn place_key(kind: u8, topic: &str, offset: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(topic.len() + 10);
    key.push(kind);
    key.extend_from_slice(topic.as_bytes());
    key.push(END_OF_TOPIC);
    key.extend_from_slice(&offset.to_be_bytes());
    key
}

/// The index keys of a delivery. A match on either means that the log has it.
pub(super) fn index_keys(digests: [&[u8; 32]; 2]) -> [[u8; 33]; 2] {
    let key = |kind, digest: &[u8; 32]| {
        let mut key = [kind; 33];
        key[1..].copy_from_slice(digest);
        key
    };
    [key(ID, digests[0]), key(SIGNED, digests[1])]
}

/// The first key after all records of the topic.
pub(super) fn after_topic(topic: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(topic.len() + 2);
    key.push(RECORD);
    key.extend_from_slice(topic.as_bytes());
    key.push(END_OF_TOPIC + 1);
    key
}

/// Decodes topic and offset from a record's key.
pub(super) fn read_record_key(key: &[u8]) -> Result<(&str, u64), Corrupt> {
    read_place_key(RECORD, key).ok_or(Corrupt("a record's key"))
}

/// Decodes topic and offset from the key of a pending mark.
pub(super) fn read_pending_key(key: &[u8]) -> Result<(&str, u64), Corrupt> {
    read_place_key(WHETHER_PENDING, key).ok_or(Corrupt("what is pending"))
}

fn read_place_key(kind: u8, key: &[u8]) -> Option<(&str, u64)> {
    let rest = key.strip_prefix(&[kind])?;
    let (rest, offset) = rest.split_last_chunk::<8>()?;
    let topic = rest.strip_suffix(&[END_OF_TOPIC])?;
    Some((std::str::from_utf8(topic).ok()?, u64::from_be_bytes(*offset)))
}

/// The mark of a pending record: the digest of its key.
pub(super) fn encode_pending(key: u64) -> [u8; 9] {
    encode_offset(key)
}

/// The digest of the record's key; `None` if the record is done.
pub(super) fn decode_pending(value: &[u8]) -> Result<Option<u64>, Corrupt> {
    if value == DONE {
        return Ok(None);
    }
    let mut cursor = Cursor { rest: value, what: Corrupt("what is pending") };
    cursor.version()?;
    let key = cursor.number()?;
    cursor.end()?;
    Ok(Some(key))
}

pub(super) fn encode_offset(offset: u64) -> [u8; 9] {
    let mut value = [VERSION; 9];
    value[1..].copy_from_slice(&offset.to_be_bytes());
    value
}

/// What a record counts towards `max_bytes`: its key, its value and its index entries.
pub(super) fn footprint(topic: &str, value: &[u8]) -> u64 {
    const KEYS: usize = 2 + 8 + 2 * (33 + 9);
    (value.len() + topic.len() + KEYS) as u64
}

pub(super) fn encode_record<'h>(
    topic: &str,
    offset: u64,
    draft: &Draft<'_>,
    headers: impl Iterator<Item = (&'static str, Cow<'h, str>)>,
) -> Vec<u8> {
    const HEADERS: usize = 1024;
    let mut value = Vec::with_capacity(draft.payload.len() + draft.key.len() + HEADERS);
    value.push(VERSION);
    value.extend_from_slice(&draft.time.as_millisecond().to_be_bytes());
    value.extend_from_slice(&draft.position.to_be_bytes());
    put(&mut value, draft.key.as_bytes());
    let count_at = value.len();
    put_len(&mut value, 0);
    let mut count = 0;
    for (name, text) in headers {
        put(&mut value, name.as_bytes());
        put(&mut value, text.as_bytes());
        count += 1;
    }
    value[count_at..count_at + 4].copy_from_slice(&u32::to_be_bytes(count));
    put(&mut value, draft.payload);
    let seal = seal(topic, offset, &value);
    value.extend_from_slice(&seal);
    value
}

/// Binds a record to its topic and offset. fjall's checksums detect a changed value, but not an intact value that a
/// disk or a copy put in the wrong place.
fn seal(topic: &str, offset: u64, value: &[u8]) -> [u8; 8] {
    let mut hash = Xxh3::new();
    hash.update(topic.as_bytes());
    hash.update(&[END_OF_TOPIC]);
    hash.update(&offset.to_be_bytes());
    hash.update(value);
    hash.digest().to_be_bytes()
}

/// The record, and the total bytes of its topic's records before it. The payload shares `value`.
pub(super) fn decode_record(topic: &str, offset: u64, value: Bytes) -> Result<(Record, u64), Corrupt> {
    const WRONG: Corrupt = Corrupt("a record");
    let (sealed, found) = value.split_last_chunk().ok_or(WRONG)?;
    if *found != seal(topic, offset, sealed) {
        return Err(WRONG);
    }
    let mut cursor = Cursor { rest: sealed, what: WRONG };
    cursor.version()?;
    let time = cursor.time()?;
    let position = cursor.number()?;
    let key = cursor.text()?.to_owned();
    let count = cursor.len()?;
    let mut headers = Vec::with_capacity(count.min(64));
    for _ in 0..count {
        headers.push((cursor.text()?.to_owned(), cursor.text()?.to_owned()));
    }
    let payload = cursor.bytes()?;
    let payload = value.slice_ref(payload);
    cursor.end()?;
    let record =
        Record { topic: topic.to_owned(), key: Some(key), partition: 0, offset, time, headers, payload, problem: None };
    Ok((record, position))
}

/// When the record was written and the bytes before it, without decoding headers and payload.
pub(super) fn decode_place(value: &[u8]) -> Result<(Timestamp, u64), Corrupt> {
    let mut cursor = Cursor { rest: value, what: Corrupt("a record") };
    cursor.version()?;
    Ok((cursor.time()?, cursor.number()?))
}

pub(super) fn encode_head(head: &Head) -> Vec<u8> {
    let mut value = vec![VERSION];
    value.extend_from_slice(&head.created.as_millisecond().to_be_bytes());
    put_len(&mut value, head.marks.len());
    for (topic, mark) in &head.marks {
        put(&mut value, topic.as_bytes());
        value.extend_from_slice(&mark.next.to_be_bytes());
        value.extend_from_slice(&mark.position.to_be_bytes());
    }
    value
}

pub(super) fn decode_head(value: &[u8]) -> Result<Head, Corrupt> {
    let mut cursor = Cursor { rest: value, what: Corrupt("a segment's head") };
    cursor.version()?;
    let created = cursor.time()?;
    let mut marks = BTreeMap::new();
    for _ in 0..cursor.len()? {
        let topic = cursor.text()?.into();
        marks.insert(topic, Mark { next: cursor.number()?, position: cursor.number()? });
    }
    cursor.end()?;
    Ok(Head { created, marks })
}

fn put(value: &mut Vec<u8>, bytes: &[u8]) {
    put_len(value, bytes.len());
    value.extend_from_slice(bytes);
}

fn put_len(value: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("a delivery is far below 4 GiB");
    value.extend_from_slice(&len.to_be_bytes());
}

struct Cursor<'a> {
    rest: &'a [u8],
    what: Corrupt,
}

impl<'a> Cursor<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(self.what)?;
        self.rest = rest;
        Ok(*array)
    }

    fn version(&mut self) -> Result<(), Corrupt> {
        if self.array::<1>()? == [VERSION] { Ok(()) } else { Err(self.what) }
    }

    fn number(&mut self) -> Result<u64, Corrupt> {
        self.array().map(u64::from_be_bytes)
    }

    fn len(&mut self) -> Result<usize, Corrupt> {
        self.array().map(|bytes| u32::from_be_bytes(bytes) as usize)
    }

    fn time(&mut self) -> Result<Timestamp, Corrupt> {
        let ms = self.array().map(i64::from_be_bytes)?;
        Timestamp::from_millisecond(ms).map_err(|_| self.what)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Corrupt> {
        let len = self.len()?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(self.what)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<&'a str, Corrupt> {
        std::str::from_utf8(self.bytes()?).map_err(|_| self.what)
    }

    fn end(&self) -> Result<(), Corrupt> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.what) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let draft = Draft {
            time: Timestamp::from_millisecond(1_700_000_000_123).unwrap(),
            position: 77,
            key: "ü",
            payload: b"\xff{}",
        };
        let headers = [("content-type", "application/json"), ("ce-id", "a%20b")];
        encode_record("terra.daily", 5, &draft, headers.into_iter().map(|(name, value)| (name, value.into())))
    }

    #[test]
    fn a_record_round_trips() {
        let (record, position) = decode_record("terra.daily", 5, sample().into()).unwrap();
        assert_eq!(position, 77);
        assert_eq!(record.topic, "terra.daily");
        assert_eq!(record.offset, 5);
        assert_eq!(record.key.as_deref(), Some("ü"));
        assert_eq!(record.time.as_millisecond(), 1_700_000_000_123);
        assert_eq!(record.payload, &b"\xff{}"[..]);
        let headers = [("content-type".into(), "application/json".into()), ("ce-id".into(), "a%20b".into())];
        assert_eq!(record.headers, headers);
        assert_eq!(decode_place(&sample()).unwrap().1, 77);
    }

    #[test]
    fn a_truncated_or_overlong_record_is_corrupt() {
        let whole = sample();
        for len in 0..whole.len() {
            assert!(decode_record("terra.daily", 5, Bytes::copy_from_slice(&whole[..len])).is_err(), "{len} bytes");
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert!(decode_record("terra.daily", 5, longer.into()).is_err());
        let mut other = whole;
        other[0] = VERSION + 1;
        assert!(decode_record("terra.daily", 5, other.into()).is_err());
    }

    #[test]
    fn a_record_with_a_changed_byte_or_in_the_wrong_place_is_corrupt() {
        let whole = sample();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x20;
            assert!(decode_record("terra.daily", 5, changed.into()).is_err(), "{at}");
        }
        assert!(decode_record("terra.daily", 6, whole.clone().into()).is_err());
        assert!(decode_record("terra.dailz", 5, whole.into()).is_err());
    }

    #[test]
    fn no_sealed_bytes_make_the_decoder_panic() {
        let whole = sample();
        let (inner, _) = whole.split_last_chunk::<8>().unwrap();
        for at in 0..inner.len() {
            let mut changed = inner.to_vec();
            changed[at] ^= 0xff;
            let seal = seal("terra.daily", 5, &changed);
            changed.extend_from_slice(&seal);
            let _ = decode_record("terra.daily", 5, changed.into());
        }
    }

    #[test]
    fn keys_sort_by_topic_and_then_by_offset() {
        let keys = [("a", 0), ("a", 255), ("a", 256), ("a", u64::MAX), ("a.b", 0), ("b", 1)];
        let encoded: Vec<_> = keys.iter().map(|(topic, offset)| record_key(topic, *offset)).collect();
        assert!(encoded.is_sorted());
        assert!(after_topic("a") > record_key("a", u64::MAX));
        assert!(after_topic("a").as_slice() < record_key("a.b", 0).as_slice());
        for (key, expected) in encoded.iter().zip(keys) {
            assert_eq!(read_record_key(key).unwrap(), expected);
        }
        assert!(read_record_key(b"r").is_err());
        assert!(read_record_key(b"itopic\0\0\0\0\0\0\0\0\0").is_err());
        assert!(read_record_key(&pending_key("a", 1)).is_err());
        assert_eq!(read_pending_key(&pending_key("a", 1)).unwrap(), ("a", 1));
    }

    #[test]
    fn a_pending_mark_needs_every_byte() {
        let pending = encode_pending(u64::MAX);
        assert_eq!(decode_pending(&pending), Ok(Some(u64::MAX)));
        assert_eq!(decode_pending(DONE), Ok(None));
        for value in [&pending[..8], &[], &[VERSION + 1], &[pending.as_slice(), &[0]].concat()] {
            assert!(decode_pending(value).is_err(), "{value:?}");
        }
    }

    #[test]
    fn a_head_round_trips() {
        let marks = BTreeMap::from([("a".into(), Mark { next: 3, position: 9 }), ("b".into(), Mark::default())]);
        let head = Head { created: Timestamp::from_millisecond(12).unwrap(), marks };
        let value = encode_head(&head);
        assert_eq!(decode_head(&value).unwrap(), head);
        assert!(decode_head(&value[..value.len() - 1]).is_err());
    }
}
