//! The bodies of a segment's frames: its head, its records, and the close of each commit; and the entries of its
//! index. What does not decode to its last byte is [`Corrupt`].

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::entry::Entry;
use crate::record::Record;

/// The format of the whole directory, of which the manifest tells. 1 and 2 were databases.
pub(super) const FORMAT: u8 = 3;

const HEAD: u8 = b'h';
const RECORD: u8 = b'r';
const CLOSE: u8 = b'c';

/// The bytes on disk are not what this program wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} does not decode")]
pub(super) struct Corrupt(pub(super) &'static str);

/// How far a topic has got: the offset of its next record, and the total bytes of the records before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) next: u64,
    pub(super) position: u64,
}

/// How far each topic has got.
pub(super) type Marks = BTreeMap<Arc<str>, Mark>;

/// The first frame of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) number: u64,
    pub(super) created: Timestamp,
    /// The file was made so long, in zeros: it is shorter only once it is sealed. 0 where the file system cannot.
    pub(super) allocated: u64,
    /// Where the log goes on from.
    pub(super) previous: Option<Previous>,
    /// Where each topic begins.
    pub(super) begins: Marks,
}

/// The segment that was written before, and its end. What lies behind that end was never acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Previous {
    pub(super) number: u64,
    pub(super) end: u64,
}

/// The last frame of a commit: the end and the checksum of the commit before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Close {
    pub(super) end: u64,
    pub(super) checksum: u64,
}

/// What a frame contains.
pub(super) enum Body<'b> {
    Head(Head),
    Record(Place<'b>),
    Close(Close),
}

/// The fields of a record that say where it belongs, and whose it is.
pub(super) struct Place<'b> {
    pub(super) topic: &'b str,
    pub(super) offset: u64,
    /// Unix milliseconds.
    pub(super) time: i64,
    /// The digest of its key.
    pub(super) key: u64,
    pub(super) ids: [[u8; 16]; 2],
    rest: Cursor<'b>,
}

pub(super) fn put_head(body: &mut Vec<u8>, head: &Head) {
    body.push(HEAD);
    put_number(body, head.number);
    put_number(body, head.created.as_millisecond().cast_unsigned());
    put_number(body, head.allocated);
    body.push(u8::from(head.previous.is_some()));
    let previous = head.previous.unwrap_or(Previous { number: 0, end: 0 });
    put_number(body, previous.number);
    put_number(body, previous.end);
    put_marks(body, &head.begins);
}

pub(super) fn put_record<E: Entry + ?Sized>(body: &mut Vec<u8>, entry: &E, offset: u64, time: i64) {
    body.push(RECORD);
    put_number(body, offset);
    put_number(body, time.cast_unsigned());
    put_number(body, entry.key_digest());
    for id in entry.ids() {
        body.extend_from_slice(&id);
    }
    put(body, entry.topic().as_bytes());
    put(body, entry.key().as_bytes());
    let at = body.len();
    put_len(body, 0);
    entry.put_headers(body);
    let headers = u32::try_from(body.len() - at - 4).expect("headers are far below 4 GiB");
    body[at..at + 4].copy_from_slice(&headers.to_le_bytes());
    put(body, entry.payload());
}

pub(super) fn put_close(body: &mut Vec<u8>, close: Close) {
    body.push(CLOSE);
    put_number(body, close.end);
    put_number(body, close.checksum);
}

pub(super) fn decode(body: &[u8]) -> Result<Body<'_>, Corrupt> {
    let mut cursor = Cursor { rest: body, what: Corrupt("a frame") };
    match cursor.array::<1>()? {
        [HEAD] => {
            let (number, created, allocated) = (cursor.number()?, cursor.time()?, cursor.number()?);
            let has_previous = cursor.array::<1>()? == [1];
            let previous = Previous { number: cursor.number()?, end: cursor.number()? };
            let begins = cursor.marks()?;
            cursor.end()?;
            Ok(Body::Head(Head { number, created, allocated, previous: has_previous.then_some(previous), begins }))
        }
        [RECORD] => {
            let (offset, time, key) = (cursor.number()?, cursor.number()?.cast_signed(), cursor.number()?);
            let ids = [cursor.array()?, cursor.array()?];
            Ok(Body::Record(Place { topic: cursor.text()?, offset, time, key, ids, rest: cursor }))
        }
        [CLOSE] => {
            let close = Close { end: cursor.number()?, checksum: cursor.number()? };
            cursor.end()?;
            Ok(Body::Close(close))
        }
        _ => Err(cursor.what),
    }
}

impl Place<'_> {
    /// The whole record. Its payload shares `frame`, which was decoded.
    pub(super) fn record(self, frame: &Bytes) -> Result<Record, Corrupt> {
        let Self { topic, offset, time, mut rest, .. } = self;
        let key = rest.text()?.to_owned();
        let mut headers = Vec::with_capacity(24);
        for line in rest.text()?.split_terminator("\r\n") {
            let (name, value) = line.split_once(": ").ok_or(rest.what)?;
            headers.push((name.to_owned(), value.to_owned()));
        }
        let payload = frame.slice_ref(rest.bytes()?);
        rest.end()?;
        let time = Timestamp::from_millisecond(time).map_err(|_| rest.what)?;
        let topic = topic.to_owned();
        Ok(Record { topic, key: Some(key), partition: 0, offset, time, headers, payload, problem: None })
    }
}

/// Where a record lies in its segment, and what is asked of it without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub(super) at: u64,
    /// Bytes of its frame.
    pub(super) len: u32,
    /// Unix milliseconds.
    pub(super) time: i64,
    /// The digest of the record's key.
    pub(super) key: u64,
    pub(super) ids: [[u8; 16]; 2],
}

impl IndexEntry {
    pub(super) const BYTES: usize = 64;

    /// `place` binds it to its segment, topic and offset.
    pub(super) fn encode(&self, place: u64, to: &mut Vec<u8>) {
        let start = to.len();
        put_number(to, self.at);
        to.extend_from_slice(&self.len.to_le_bytes());
        put_number(to, self.time.cast_unsigned());
        put_number(to, self.key);
        self.ids.iter().for_each(|id| to.extend_from_slice(id));
        let checksum = xxh3_64_with_seed(&to[start..], place) as u32;
        to.extend_from_slice(&checksum.to_le_bytes());
    }

    pub(super) fn decode(bytes: &[u8; Self::BYTES], place: u64) -> Result<Self, Corrupt> {
        let mut cursor = Cursor { rest: bytes, what: Corrupt("an index entry") };
        let (at, len) = (cursor.number()?, u32::from_le_bytes(cursor.array()?));
        let (time, key) = (cursor.number()?.cast_signed(), cursor.number()?);
        let ids = [cursor.array()?, cursor.array()?];
        let checksum = xxh3_64_with_seed(&bytes[..Self::BYTES - 4], place) as u32;
        let is_intact = cursor.array()? == checksum.to_le_bytes();
        if is_intact { Ok(Self { at, len, time, key, ids }) } else { Err(cursor.what) }
    }
}

/// A number that stands for one record of the log, and for no other except by chance.
pub(super) fn place(segment: u64, topic: &str, offset: u64) -> u64 {
    xxh3_64_with_seed(topic.as_bytes(), segment ^ xxh3_64(&offset.to_le_bytes()))
}

pub(super) fn put_marks(to: &mut Vec<u8>, marks: &Marks) {
    put_len(to, marks.len());
    for (topic, mark) in marks {
        put(to, topic.as_bytes());
        put_number(to, mark.next);
        put_number(to, mark.position);
    }
}

pub(super) fn put_number(to: &mut Vec<u8>, number: u64) {
    to.extend_from_slice(&number.to_le_bytes());
}

fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    put_len(to, bytes.len());
    to.extend_from_slice(bytes);
}

fn put_len(to: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("a delivery is far below 4 GiB");
    to.extend_from_slice(&len.to_le_bytes());
}

/// Takes one field after the other.
pub(super) struct Cursor<'a> {
    pub(super) rest: &'a [u8],
    pub(super) what: Corrupt,
}

impl<'a> Cursor<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(self.what)?;
        self.rest = rest;
        Ok(*array)
    }

    pub(super) fn number(&mut self) -> Result<u64, Corrupt> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn time(&mut self) -> Result<Timestamp, Corrupt> {
        Timestamp::from_millisecond(self.number()?.cast_signed()).map_err(|_| self.what)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Corrupt> {
        let len = u32::from_le_bytes(self.array()?) as usize;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(self.what)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<&'a str, Corrupt> {
        std::str::from_utf8(self.bytes()?).map_err(|_| self.what)
    }

    pub(super) fn marks(&mut self) -> Result<Marks, Corrupt> {
        let mut marks = Marks::new();
        for _ in 0..u32::from_le_bytes(self.array()?) {
            let topic = self.text()?.into();
            marks.insert(topic, Mark { next: self.number()?, position: self.number()? });
        }
        Ok(marks)
    }

    pub(super) fn end(&self) -> Result<(), Corrupt> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.what) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;

    fn record_body() -> Vec<u8> {
        let mut body = Vec::new();
        let entry = Message::sample("terra.daily", "ü", [7; 32], &b"\xff{}"[..]);
        put_record(&mut body, &entry, 5, 1_700_000_000_123);
        body
    }

    fn record(body: &[u8]) -> Result<Record, Corrupt> {
        let body = Bytes::copy_from_slice(body);
        let Body::Record(place) = decode(&body)? else { return Err(Corrupt("not a record")) };
        place.record(&body)
    }

    #[test]
    fn a_record_round_trips() {
        let body = record_body();
        let Ok(Body::Record(place)) = decode(&body) else { panic!("a record") };
        assert_eq!((place.topic, place.offset, place.time), ("terra.daily", 5, 1_700_000_000_123));
        assert_eq!(place.ids, [[7; 16]; 2]);
        let record = record(&body).unwrap();
        assert_eq!((record.topic.as_str(), record.key.as_deref(), record.offset), ("terra.daily", Some("ü"), 5));
        assert_eq!((record.time.as_millisecond(), &record.payload[..]), (1_700_000_000_123, &b"\xff{}"[..]));
        assert_eq!(record.headers[0], ("content-type".to_owned(), "application/json".to_owned()));
        assert!(record.headers.iter().any(|(name, value)| name == "ce-id" && *value == "07".repeat(32)));
    }

    #[test]
    fn a_head_and_a_close_round_trip() {
        let begins = Marks::from([("a".into(), Mark { next: 3, position: 9 }), ("b".into(), Mark::default())]);
        for previous in [None, Some(Previous { number: 7, end: 99 })] {
            let created = Timestamp::from_millisecond(12).unwrap();
            let head = Head { number: 8, created, allocated: 1 << 26, previous, begins: begins.clone() };
            let mut body = Vec::new();
            put_head(&mut body, &head);
            assert!(matches!(decode(&body), Ok(Body::Head(read)) if read == head));
        }
        let (mut body, close) = (Vec::new(), Close { end: 5, checksum: u64::MAX });
        put_close(&mut body, close);
        assert!(matches!(decode(&body), Ok(Body::Close(read)) if read == close));
    }

    #[test]
    fn no_bytes_make_the_decoder_panic() {
        let whole = record_body();
        (0..whole.len()).for_each(|len| assert!(record(&whole[..len]).is_err(), "{len} bytes"));
        assert!(record(&[whole.as_slice(), &[0]].concat()).is_err());
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            let _ = record(&changed);
        }
    }

    #[test]
    fn an_index_entry_belongs_to_one_place() {
        let entry = IndexEntry { at: 1 << 40, len: 7, time: -5, key: u64::MAX, ids: [[1; 16], [2; 16]] };
        let (place_of, mut bytes) = (place(3, "a", 9), Vec::new());
        entry.encode(place_of, &mut bytes);
        let bytes: [u8; IndexEntry::BYTES] = bytes.try_into().unwrap();
        assert_eq!(IndexEntry::decode(&bytes, place_of), Ok(entry));
        for other in [place(4, "a", 9), place(3, "b", 9), place(3, "a", 8)] {
            assert!(IndexEntry::decode(&bytes, other).is_err());
        }
        for at in 0..bytes.len() {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert!(IndexEntry::decode(&changed, place_of).is_err(), "{at}");
        }
    }
}
