//! Encodes one commit: a frame for each record, and one that closes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::codec::{self, Close, IndexEntry};
use super::entry::Entry;
use super::frame;
use super::segment::{LastCommit, Segment};

/// What a commit adds to its segment. Its bytes are in the buffer.
pub(super) struct Commit {
    pub(super) bytes: u64,
    pub(super) records: Vec<(Arc<str>, IndexEntry)>,
    pub(super) topics: BTreeMap<Arc<str>, u64>,
    pub(super) time: Timestamp,
    pub(super) last: LastCommit,
}

impl Commit {
    pub(super) fn encode<'m, E: Entry + ?Sized + 'm>(
        active: &Segment,
        before: &LastCommit,
        buffer: &mut Vec<u8>,
        entries: impl Iterator<Item = &'m E>,
    ) -> Self {
        let (time, start, number) = (Timestamp::now(), active.end(), before.number + 1);
        let millis = time.as_millisecond();
        buffer.clear();
        let (mut records, mut topics) = (Vec::new(), BTreeMap::<Arc<str>, u64>::new());
        for entry in entries {
            let topic = match topics.get_key_value(entry.topic()) {
                Some((topic, _)) => topic.clone(),
                None => Arc::from(entry.topic()),
            };
            let next = topics.entry(topic.clone()).or_insert_with(|| active.end_of(&topic).next);
            let at = buffer.len();
            frame::put(buffer, active.id, number, |body| codec::put_record(body, entry, *next, millis));
            *next += 1;
            let len = u32::try_from(buffer.len() - at).expect("a delivery is far below 4 GiB");
            let (at, key, ids) = (start + at as u64, entry.key_digest(), entry.ids());
            records.push((topic, IndexEntry { at, len, time: millis, key, ids }));
        }
        let close = Close { end: start, checksum: before.checksum };
        let checksum = frame::put(buffer, active.id, number, |body| codec::put_close(body, close));
        let last = LastCommit { number, start, checksum };
        Self { bytes: buffer.len() as u64, records, topics, time, last }
    }
}
