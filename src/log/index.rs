//! Where the records of one segment lie: in memory for the segment being written, in a file beside every other one.
//! The file can always be made again from the segment.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use jiff::Timestamp;
use xxhash_rust::xxh3::xxh3_64;

use super::codec::{Corrupt, Cursor, IndexEntry, Marks, place, put_marks, put_number};
use super::failure::Failure;
use super::files::{File, Files};

/// The records of each topic in order, without a gap.
pub(super) type Records = BTreeMap<Arc<str>, Vec<IndexEntry>>;

pub(super) enum Index {
    Memory(Records),
    File(Arc<IndexFile>),
}

/// What is known of a segment besides its head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    /// Where its last commit ends.
    pub(super) end: u64,
    /// When its last record was written; `None` if it has none.
    pub(super) newest: Option<Timestamp>,
    /// How far each topic has got by then.
    pub(super) ends: Marks,
}

pub(super) struct IndexFile {
    file: Arc<dyn File>,
    segment: u64,
    /// For each topic its first offset here, how many there are, and where their entries begin in the file.
    topics: BTreeMap<Arc<str>, (u64, u64, u64)>,
}

pub(super) fn name(number: u64) -> String {
    format!("{number}.idx")
}

/// How many records of each topic lie between two marks.
pub(super) fn counts<'m>(begins: &'m Marks, ends: &'m Marks) -> impl Iterator<Item = (&'m Arc<str>, u64, u64)> {
    ends.iter().map(|(topic, end)| {
        let begin = begins.get(topic).map_or(0, |mark| mark.next);
        (topic, begin, end.next.saturating_sub(begin))
    })
}

/// Replaces the index file of the segment.
pub(super) fn write(
    files: &dyn Files,
    (number, segment): (u64, u64),
    begins: &Marks,
    summary: &Summary,
    records: &Records,
) -> io::Result<IndexFile> {
    let mut bytes = vec![0; 16];
    put_number(&mut bytes, segment);
    put_number(&mut bytes, summary.end);
    put_number(&mut bytes, summary.newest.map_or(i64::MIN, Timestamp::as_millisecond).cast_unsigned());
    put_marks(&mut bytes, &summary.ends);
    let head = bytes.len() as u64;
    bytes[8..16].copy_from_slice(&head.to_le_bytes());
    let checksum = xxh3_64(&bytes[8..]);
    bytes[..8].copy_from_slice(&checksum.to_le_bytes());
    for (topic, begin, count) in counts(begins, &summary.ends) {
        let entries = records.get(topic).map_or(&[][..], Vec::as_slice);
        debug_assert_eq!(entries.len() as u64, count);
        for (offset, entry) in (begin..).zip(entries) {
            entry.encode(place(segment, topic, offset), &mut bytes);
        }
    }
    let _ = files.remove(&name(number));
    let file = files.create(&name(number))?;
    file.write(&bytes, 0)?;
    file.sync()?;
    Ok(IndexFile { file, segment, topics: layout(begins, &summary.ends, head) })
}

fn layout(begins: &Marks, ends: &Marks, head: u64) -> BTreeMap<Arc<str>, (u64, u64, u64)> {
    let mut at = head;
    let places = counts(begins, ends).map(|(topic, begin, count)| {
        let from = at;
        at += count * IndexEntry::BYTES as u64;
        (topic.clone(), (begin, count, from))
    });
    places.collect()
}

impl IndexFile {
    /// [`Failure::Corrupt`]: it has to be made again.
    pub(super) fn open(
        files: &dyn Files,
        (number, segment): (u64, u64),
        begins: &Marks,
    ) -> Result<(Self, Summary), Failure> {
        const WRONG: Corrupt = Corrupt("an index");
        let file = files.open(&name(number))?;
        let mut fixed = [0; 16];
        file.read(&mut fixed, 0)?;
        let len = file.len()?;
        let head = u64::from_le_bytes(*fixed.last_chunk().expect("8 is less than 16"));
        let head = usize::try_from(head.min(len)).map_err(|_| WRONG)?;
        let mut bytes = vec![0; head];
        file.read(&mut bytes, 0)?;
        let mut cursor = Cursor { rest: &bytes, what: WRONG };
        if cursor.number()? != xxh3_64(bytes.get(8..).ok_or(WRONG)?) {
            return Err(WRONG.into());
        }
        cursor.number()?;
        let (is_ours, end) = (cursor.number()? == segment, cursor.number()?);
        let newest = cursor.number()?.cast_signed();
        let newest = (newest != i64::MIN).then(|| Timestamp::from_millisecond(newest)).transpose();
        let ends = cursor.marks()?;
        let topics = layout(begins, &ends, head as u64);
        let needed = topics.values().map(|(_, count, at)| at + count * IndexEntry::BYTES as u64).max();
        if !is_ours || needed.unwrap_or(0) > len {
            return Err(WRONG.into());
        }
        Ok((Self { file, segment, topics }, Summary { end, newest: newest.map_err(|_| WRONG)?, ends }))
    }

    /// Up to `most` entries of the topic from an offset on.
    pub(super) fn entries(&self, topic: &str, from: u64, most: usize) -> Result<Vec<IndexEntry>, Failure> {
        const WRONG: Corrupt = Corrupt("an index");
        let Some((begin, count, at)) = self.topics.get(topic).copied() else { return Ok(Vec::new()) };
        let skip = from.saturating_sub(begin).min(count);
        let most = (count - skip).min(most as u64) as usize;
        let mut bytes = vec![0; most * IndexEntry::BYTES];
        if self.file.read(&mut bytes, at + skip * IndexEntry::BYTES as u64)? < bytes.len() {
            return Err(WRONG.into());
        }
        let (entries, _) = bytes.as_chunks();
        let entries = entries.iter().zip(begin + skip..);
        let entries = entries.map(|(entry, offset)| IndexEntry::decode(entry, place(self.segment, topic, offset)));
        Ok(entries.collect::<Result<_, _>>()?)
    }
}
