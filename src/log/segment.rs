//! One file of the log: a head, then commits, each a run of records and a close. Retention removes it as a whole.

use std::io;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::Timestamp;

use super::codec::{self, Body, Close, Head, IndexEntry, Mark, Marks};
use super::failure::Failure;
use super::files::{File, Files, Gone};
use super::frame::{self, Frames};
use super::index::{self, Index, IndexFile, Records, Summary};
use crate::record::Record;

/// How much is read at once where records lie side by side.
const AHEAD: usize = 256 * 1024;

/// Records are read together if no more than this many times their bytes lie between them.
const SPREAD: u64 = 4;

/// How many index entries are read at once where most may not be wanted.
pub(super) const ENTRIES: usize = 1024;

pub(super) fn name(number: u64) -> String {
    format!("{number}.log")
}

pub(super) struct Segment {
    /// Random; every frame of the file has it.
    pub(super) id: u64,
    pub(super) head: Head,
    pub(super) file: Arc<dyn File>,
    tail: RwLock<Tail>,
}

/// What changes while the segment is written.
struct Tail {
    /// Only what is on disk for certain.
    summary: Summary,
    index: Index,
    /// The file was cut at its end, and its index is on disk.
    is_sealed: bool,
}

/// The last commit of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastCommit {
    pub(super) number: u64,
    /// Where it begins, which is 0 for the head.
    pub(super) start: u64,
    pub(super) checksum: u64,
}

/// What a scan of the file finds.
pub(super) struct Scan {
    pub(super) id: u64,
    pub(super) head: Head,
    pub(super) summary: Summary,
    pub(super) records: Records,
    pub(super) last: LastCommit,
    /// Nothing but zeros follows the last commit.
    pub(super) is_clean: bool,
}

impl Segment {
    /// Writes the head of a new segment into an empty file. On disk when this returns; the name is not.
    pub(super) fn create(file: Arc<dyn File>, id: u64, head: Head) -> io::Result<(Self, LastCommit)> {
        let mut bytes = Vec::new();
        let checksum = frame::put(&mut bytes, id, 0, |body| codec::put_head(body, &head));
        file.write(&bytes, 0)?;
        file.sync()?;
        let summary = Summary { end: bytes.len() as u64, newest: None, ends: head.begins.clone() };
        let last = LastCommit { number: 0, start: 0, checksum };
        Ok((Self::new(id, head, file, summary, Index::Memory(Records::new()), false), last))
    }

    pub(super) fn of_scan(file: Arc<dyn File>, scan: Scan) -> Self {
        Self::new(scan.id, scan.head, file, scan.summary, Index::Memory(scan.records), false)
    }

    fn new(id: u64, head: Head, file: Arc<dyn File>, summary: Summary, index: Index, is_sealed: bool) -> Self {
        Self { id, head, file, tail: RwLock::new(Tail { summary, index, is_sealed }) }
    }

    /// Opens a segment that is written no more. `end`: where it ends, if that is known from the one after it.
    pub(super) fn open(files: &dyn Files, number: u64, end: Option<u64>) -> Result<Self, Failure> {
        let file = open_file(files, number)?;
        let (id, head) = head(&*file, number)?;
        let len = file.len()?;
        let fits = |summary: &Summary| end.is_none_or(|end| end == summary.end) && summary.end == len;
        if let Ok((index, summary)) = IndexFile::open(files, (number, id), &head.begins)
            && fits(&summary)
        {
            return Ok(Self::new(id, head, file, summary, Index::File(Arc::new(index)), true));
        }
        let segment = Self::of_scan(file.clone(), scan(&*file, number, Some(end.unwrap_or(len)))?);
        // Without space for it, the index stays in memory.
        let _ = segment.seal(files);
        Ok(segment)
    }

    pub(super) fn number(&self) -> u64 {
        self.head.number
    }

    /// Bytes of its records.
    pub(super) fn bytes(&self) -> u64 {
        let sum = |marks: &Marks| marks.values().map(|mark| mark.position).sum::<u64>();
        sum(&self.tail().summary.ends) - sum(&self.head.begins)
    }

    pub(super) fn end(&self) -> u64 {
        self.tail().summary.end
    }

    pub(super) fn ends(&self) -> Marks {
        self.tail().summary.ends.clone()
    }

    /// How far the topic has got at the end of the segment.
    pub(super) fn end_of(&self, topic: &str) -> Mark {
        self.tail().summary.ends.get(topic).copied().unwrap_or_default()
    }

    /// The first offset of the topic here.
    pub(super) fn begin_of(&self, topic: &str) -> Mark {
        self.head.begins.get(topic).copied().unwrap_or_default()
    }

    pub(super) fn newest(&self) -> Option<Timestamp> {
        self.tail().summary.newest
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.tail().is_sealed
    }

    pub(super) fn in_place(&self) -> Result<(), Gone> {
        self.file.in_place()
    }

    /// Shows the records of a commit to readers. It is on disk.
    pub(super) fn committed(&self, end: u64, newest: Timestamp, records: Vec<(Arc<str>, IndexEntry)>) {
        let mut tail = self.tail_mut();
        let Tail { summary, index: Index::Memory(index), .. } = &mut *tail else { return };
        for (topic, entry) in records {
            let mark = summary.ends.entry(topic.clone()).or_default();
            *mark = Mark { next: mark.next + 1, position: mark.position + u64::from(entry.len) };
            index.entry(topic).or_default().push(entry);
        }
        (summary.end, summary.newest) = (end, Some(newest));
    }

    /// Cuts the file at its end, and writes the index beside it. Only for a segment that another one follows, on disk.
    pub(super) fn seal(&self, files: &dyn Files) -> io::Result<()> {
        let tail = self.tail();
        let Tail { summary, index: Index::Memory(records), is_sealed: false } = &*tail else { return Ok(()) };
        self.file.set_len(summary.end)?;
        self.file.sync()?;
        let index = index::write(files, (self.number(), self.id), &self.head.begins, summary, records)?;
        drop(tail);
        let mut tail = self.tail_mut();
        (tail.index, tail.is_sealed) = (Index::File(Arc::new(index)), true);
        Ok(())
    }

    /// Up to `most` entries of the topic from an offset on. Makes a bad index again.
    pub(super) fn entries(&self, topic: &str, from: u64, most: usize) -> Result<Vec<IndexEntry>, Failure> {
        let file = match &self.tail().index {
            Index::Memory(records) => return Ok(self.in_memory(records, topic, from, most)),
            Index::File(file) => file.clone(),
        };
        file.entries(topic, from, most).or_else(|_| {
            let scan = scan(&*self.file, self.number(), Some(self.end()))?;
            let entries = self.in_memory(&scan.records, topic, from, most);
            self.tail_mut().index = Index::Memory(scan.records);
            Ok(entries)
        })
    }

    fn in_memory(&self, records: &Records, topic: &str, from: u64, most: usize) -> Vec<IndexEntry> {
        let skip = usize::try_from(from.saturating_sub(self.begin_of(topic).next)).unwrap_or(usize::MAX);
        let entries = records.get(topic).and_then(|entries| entries.get(skip..)).unwrap_or_default();
        entries[..entries.len().min(most)].to_vec()
    }

    /// Passes on every record, each topic by offset.
    pub(super) fn every_entry(&self, mut each: impl FnMut(&Arc<str>, u64, &IndexEntry)) -> Result<(), Failure> {
        let ends = self.ends();
        for (topic, begin, count) in index::counts(&self.head.begins, &ends) {
            let mut offset = begin;
            while offset < begin + count {
                let entries = self.entries(topic, offset, ENTRIES)?;
                if entries.is_empty() {
                    return Err(Failure::damaged(name(self.number()), 0, format!("{topic} is incomplete")));
                }
                for entry in &entries {
                    each(topic, offset, entry);
                    offset += 1;
                }
            }
        }
        Ok(())
    }

    /// Reads the records at these entries, which begin at offset `from`.
    pub(super) fn reader<'s>(&'s self, entries: &[IndexEntry]) -> Reader<'s> {
        let span = entries.first().zip(entries.last()).map_or(0, |(first, last)| last.at - first.at);
        let bytes: u64 = entries.iter().map(|entry| u64::from(entry.len)).sum();
        let ahead = if entries.len() > 1 && span <= bytes * SPREAD { AHEAD } else { 0 };
        Reader { segment: self, frames: Frames::new(&*self.file, self.end(), ahead) }
    }

    fn tail(&self) -> RwLockReadGuard<'_, Tail> {
        self.tail.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn tail_mut(&self) -> RwLockWriteGuard<'_, Tail> {
        self.tail.write().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Reader<'s> {
    segment: &'s Segment,
    frames: Frames<'s>,
}

impl Reader<'_> {
    pub(super) fn record(&mut self, topic: &str, offset: u64, entry: &IndexEntry) -> Result<Record, Failure> {
        let (id, number) = (self.segment.id, self.segment.number());
        let wrong =
            |what: &str| Failure::damaged(name(number), entry.at, format!("{what} at offset {offset} of {topic}"));
        let (header, body) =
            self.frames.take(entry.at, entry.len as usize)?.ok_or_else(|| wrong("no intact record"))?;
        match codec::decode(&body)? {
            Body::Record(place) if header.segment == id && place.topic == topic && place.offset == offset => {
                Ok(place.record(&body)?)
            }
            _ => Err(wrong("another record than the one")),
        }
    }
}

pub(super) fn open_file(files: &dyn Files, number: u64) -> Result<Arc<dyn File>, Failure> {
    files.open(&name(number)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::damaged(name(number), 0, "the file is missing"),
        _ => error.into(),
    })
}

/// The id and the head of a segment.
pub(super) fn head(file: &dyn File, number: u64) -> Result<(u64, Head), Failure> {
    let wrong = || Failure::damaged(name(number), 0, "its head is not intact");
    let mut frames = Frames::new(file, file.len()?, 0);
    let (header, body) = frames.at(0)?.ok_or_else(wrong)?;
    match codec::decode(body)? {
        Body::Head(head) if head.number == number && header.commit == 0 => Ok((header.segment, head)),
        _ => Err(wrong()),
    }
}

/// Reads every frame of a segment. `end`: where a segment that is written no more ends; everything before it must be
/// intact. Without it, what a crash left of the last commit is passed over.
pub(super) fn scan(file: &dyn File, number: u64, end: Option<u64>) -> Result<Scan, Failure> {
    let damaged = |at: u64, what: String| Failure::damaged(name(number), at, what);
    let (id, head) = self::head(file, number)?;
    let len = file.len()?;
    let shortest = end.unwrap_or(head.allocated);
    if len < shortest {
        return Err(damaged(len, format!("it ends here, and had {shortest} bytes")));
    }
    let limit = end.unwrap_or(len);
    let mut frames = Frames::new(file, limit, AHEAD);
    let (mut summary, mut records) = (Summary { end: 0, newest: None, ends: head.begins.clone() }, Records::new());
    let mut last = LastCommit { number: 0, start: 0, checksum: 0 };
    if let Some((header, _)) = frames.at(0)? {
        (summary.end, last.checksum) = (header.bytes(), header.checksum);
    }
    let mut at = summary.end;
    let mut commit = Vec::new();
    while let Some((header, body)) = frames.at(at)? {
        if header.segment != id || header.commit != last.number + 1 {
            break;
        }
        match codec::decode(body)? {
            Body::Record(place) => {
                let len = u32::try_from(header.bytes()).expect("its length has 32 bits");
                let entry = IndexEntry { at, len, time: place.time, key: place.key, ids: place.ids };
                commit.push((Arc::<str>::from(place.topic), place.offset, entry));
            }
            Body::Close(close) if close == (Close { end: summary.end, checksum: last.checksum }) => {
                for (topic, offset, entry) in commit.drain(..) {
                    let mark = summary.ends.entry(topic.clone()).or_default();
                    if mark.next != offset {
                        return Err(damaged(entry.at, format!("offset {offset} of {topic} is not {}", mark.next)));
                    }
                    *mark = Mark { next: offset + 1, position: mark.position + u64::from(entry.len) };
                    summary.newest = Timestamp::from_millisecond(entry.time).ok();
                    records.entry(topic).or_default().push(entry);
                }
                last = LastCommit { number: header.commit, start: summary.end, checksum: header.checksum };
                summary.end = at + header.bytes();
            }
            Body::Close(_) | Body::Head(_) => return Err(damaged(at, "it belongs elsewhere".to_owned())),
        }
        at += header.bytes();
    }
    if end.is_some_and(|end| end != summary.end) {
        return Err(damaged(at, "no intact frame".to_owned()));
    }
    let is_clean = is_zero(file, summary.end, limit)?;
    let mut from = summary.end;
    while !is_clean && let Some((found, commit)) = frames.find(Some(id), from)? {
        // One commit at a time is written: only that one can be torn.
        if commit != last.number + 1 {
            return Err(damaged(at, format!("no intact frame, and one of a later commit follows at {found}")));
        }
        from = found + 1;
    }
    Ok(Scan { id, head, summary, records, last, is_clean })
}

fn is_zero(file: &dyn File, from: u64, until: u64) -> io::Result<bool> {
    let (mut buffer, zeros) = (vec![0; AHEAD], vec![0; AHEAD]);
    let mut at = from;
    while at < until {
        let most = AHEAD.min(usize::try_from(until - at).unwrap_or(AHEAD));
        let read = file.read(&mut buffer[..most], at)?;
        if read == 0 {
            break;
        }
        if buffer[..read] != zeros[..read] {
            return Ok(false);
        }
        at += read as u64;
    }
    Ok(true)
}
