//! Shares the log between threads: one writes, any number read. Decides neither how long a record is kept
//! (`retention`) nor when to give up (`writer`).

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::Timestamp;
use tokio::sync::watch;

use super::codec::{self, Close, Head, IndexEntry, Previous};
use super::disk;
use super::done::{self, Done};
use super::entry::{Entry, OpenError};
use super::extent::Extent;
use super::failure::{AppendError, Failure, ReadError};
use super::files::{Directory, Files, Gone};
use super::frame;
use super::index;
use super::ledger::Ledger;
use super::manifest::{self, Manifest};
use super::opening::{self, Opened};
use super::retention::Facts;
use super::segment::{self, LastCommit, Segment};
use super::settings::{Keep, Settings};
use crate::dedupe::DedupeEntry;
use crate::record::Record;

/// The buffer of a commit keeps this much memory for the next one.
const BUFFER: usize = 1 << 20;

/// The most index entries to look at for one [`Chunk`]: most of them may not be wanted.
const LOOKED_AT: usize = 1 << 16;

/// How many index entries are read at once where most may not be wanted.
const ENTRIES: usize = 1024;

pub(crate) struct Store {
    settings: Settings,
    files: Arc<dyn Files>,
    /// `None` once closed.
    writing: Mutex<Option<Writing>>,
    /// Oldest first, and the last one is being written; empty once closed.
    segments: RwLock<Vec<Arc<Segment>>>,
    topics: RwLock<BTreeMap<Arc<str>, watch::Sender<Extent>>>,
    /// Bytes of all records.
    bytes: AtomicU64,
}

/// What the one writer needs.
pub(super) struct Writing {
    /// Held as long as the log is open.
    pub(super) _lock: Option<std::fs::File>,
    pub(super) manifest: Manifest,
    pub(super) last: LastCommit,
    /// A commit failed, and nothing may be written behind it.
    pub(super) has_failed: bool,
    /// Segments that a failed write of the manifest may or may not name; they are empty.
    pub(super) unnamed: Vec<u64>,
    /// Only a spool has one.
    pub(super) ledger: Option<Ledger>,
    /// Only for spools: how many records are pending, and the file of the marks, for each segment.
    pub(super) pending: HashMap<u64, (u64, Option<done::Marks>)>,
    pub(super) buffer: Vec<u8>,
}

/// The pending and wanted records of a topic from some offset on.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) records: Vec<Record>,
    /// Offsets of records that should be here but cannot be read.
    pub(crate) damaged: Vec<u64>,
    /// The chunk has every wanted record before this offset.
    pub(crate) until: u64,
}

impl Store {
    /// Opens the log, or creates it if there is none, with everything that it acknowledged.
    pub(crate) fn open(settings: &Settings, topics: impl Iterator<Item = Arc<str>>) -> Result<Self, OpenError> {
        disk::prepare(settings.section, &settings.dir)?;
        let open = || {
            let lock = disk::lock(&settings.dir)?.ok_or(Failure::Locked)?;
            Self::open_in(Arc::new(Directory::open(&settings.dir)?), Some(lock), settings, topics)
        };
        open().map_err(|failure: Failure| failure.explain(settings))
    }

    pub(super) fn open_in(
        files: Arc<dyn Files>,
        lock: Option<std::fs::File>,
        settings: &Settings,
        topics: impl Iterator<Item = Arc<str>>,
    ) -> Result<Self, Failure> {
        let Opened { manifest, segments, last, is_clean } = opening::open(&*files, settings)?;
        let mut pending = HashMap::new();
        let ledger = match settings.keep {
            Keep::For(_) => None,
            Keep::UntilDone { known, .. } => {
                for segment in &segments {
                    pending.insert(segment.number(), (count_pending(&*files, segment)?, None));
                }
                Some(Ledger::open(&*files, known, |_| {})?)
            }
        };
        let bytes = AtomicU64::new(segments.iter().map(|segment| segment.bytes()).sum());
        let writing = Writing {
            _lock: lock,
            manifest,
            last,
            has_failed: false,
            unnamed: Vec::new(),
            ledger,
            pending,
            buffer: Vec::new(),
        };
        let store = Self {
            settings: settings.clone(),
            files,
            writing: Mutex::new(Some(writing)),
            segments: RwLock::new(segments),
            topics: RwLock::new(topics.map(|topic| (topic, watch::Sender::default())).collect()),
            bytes,
        };
        if let Some(writing) = store.writing().as_mut() {
            if store.segments().is_empty() {
                store.begin(writing, None)?;
            } else if !is_clean {
                // What a crash left of a commit must not lie behind the next one.
                store.roll_on(writing)?;
            }
        }
        let ends = store.segments().last().map(|last| last.ends()).unwrap_or_default();
        store.publish(ends.keys());
        Ok(store)
    }

    /// Begins a segment that goes on from `previous`, with everything about it on disk.
    fn begin(&self, writing: &mut Writing, previous: Option<Previous>) -> io::Result<()> {
        let mut segments = self.segments().clone();
        let begins = segments.last().map(|last| last.ends()).unwrap_or_default();
        let numbers = segments.iter().map(|segment| segment.number()).chain(writing.unnamed.iter().copied());
        let number = numbers.max().map_or(0, |last| last + 1);
        let name = segment::name(number);
        let _ = self.files.remove(&name);
        let create = || -> io::Result<(Segment, LastCommit)> {
            let file = self.files.create(&name)?;
            let allocated = self.settings.keep.segment_bytes();
            let allocated = file.allocate(allocated).map_or(0, |()| allocated);
            let (id, _) = uuid::Uuid::new_v4().as_u64_pair();
            let head = Head { number, created: Timestamp::now(), allocated, previous, begins };
            let created = Segment::create(file, id, head)?;
            self.files.sync()?;
            Ok(created)
        };
        let (segment, last) = create().inspect_err(|_| drop(self.files.remove(&name)))?;
        segments.push(Arc::new(segment));
        let numbers: Vec<u64> = segments.iter().map(|segment| segment.number()).collect();
        writing.manifest.write(&numbers).inspect_err(|_| writing.unnamed.push(number))?;
        writing.unnamed.drain(..).for_each(|number| drop(self.files.remove(&segment::name(number))));
        if writing.ledger.is_some() {
            writing.pending.insert(number, (0, None));
        }
        (writing.last, writing.has_failed) = (last, false);
        *self.segments_mut() = segments;
        Ok(())
    }

    /// Begins a new segment; the one before is no longer written.
    pub(crate) fn roll(&self) -> Result<(), AppendError> {
        match self.writing().as_mut() {
            Some(writing) => Ok(self.roll_on(writing)?),
            None => Ok(()),
        }
    }

    fn roll_on(&self, writing: &mut Writing) -> io::Result<()> {
        let Some(full) = self.segments().last().cloned() else { return Ok(()) };
        self.begin(writing, Some(Previous { number: full.number(), end: full.end() }))?;
        // Whatever of it fails is done by the next opening.
        let _ = full.seal(&*self.files);
        Ok(())
    }

    /// After a failure: goes on in a new segment, which cuts off whatever the failed commit left on the disk. After
    /// `Err` the caller retries.
    pub(super) fn reopen(&self) -> Result<(), OpenError> {
        self.in_place().map_err(|gone| gone.explain(&self.settings))?;
        let rolled = self.writing().as_mut().map_or(Ok(()), |writing| self.roll_on(writing));
        rolled.map_err(|error| Failure::from(error).explain(&self.settings))
    }

    /// Closes the log. Readers get [`ReadError::Closed`] from now on.
    pub(super) fn close(&self) {
        self.segments_mut().clear();
        *self.writing() = None;
    }

    /// Stores all entries or none. `Ok` comes after the fsync, so the disk has them. Only the writer calls this.
    pub(crate) fn append<'m, E: Entry + ?Sized + 'm>(
        &self,
        entries: impl Iterator<Item = &'m E> + Clone,
    ) -> Result<(), AppendError> {
        let mut writing = self.writing();
        let Some(writing) = writing.as_mut() else { return Err(closed().into()) };
        if writing.has_failed {
            return Err(io::Error::other("an earlier commit failed").into());
        }
        let mut active = self.active()?;
        let mut commit = Commit::encode(&active, writing, entries.clone());
        let most = active.head.allocated.max(self.settings.keep.segment_bytes());
        if active.end() + commit.bytes > most && active.bytes() > 0 {
            self.roll_on(writing)?;
            active = self.active()?;
            commit = Commit::encode(&active, writing, entries);
        }
        let end = active.end();
        writing.has_failed = true;
        active.file.write(&writing.buffer, end)?;
        active.file.sync()?;
        active.in_place()?;
        writing.manifest.in_place()?;
        writing.has_failed = false;
        writing.last = commit.last;
        writing.buffer.clear();
        writing.buffer.shrink_to(BUFFER);
        if let Some((pending, _)) = writing.pending.get_mut(&active.number()) {
            *pending += commit.records.len() as u64;
        }
        self.bytes.fetch_add(commit.records.iter().map(|(_, entry)| u64::from(entry.len)).sum(), Relaxed);
        active.committed(end + commit.bytes, commit.time, commit.records);
        self.publish(commit.topics.keys());
        Ok(())
    }

    fn active(&self) -> io::Result<Arc<Segment>> {
        self.segments().last().cloned().ok_or_else(closed)
    }

    /// Whether the opened files are still at their paths.
    pub(super) fn in_place(&self) -> Result<(), Gone> {
        self.files.in_place()?;
        self.writing().as_ref().map_or(Ok(()), |writing| writing.manifest.in_place())?;
        self.segments().iter().try_for_each(|segment| segment.in_place())
    }

    /// What retention needs to know, oldest segment first.
    pub(super) fn facts(&self) -> Vec<Facts> {
        self.segments().iter().map(|segment| facts(segment)).collect()
    }

    /// The same of the segment that is being written.
    pub(super) fn active_facts(&self) -> Option<Facts> {
        self.segments().last().map(|segment| facts(segment))
    }

    /// Spools only: marks these records as done. Survives `kill -9`. After an error they count as done until the next
    /// start, and then as pending.
    pub(super) fn done(&self, topic: &str, offsets: &[u64]) -> io::Result<()> {
        let mut writing = self.writing();
        let Some(writing) = writing.as_mut() else { return Ok(()) };
        let mut written = Ok(());
        for segment in self.segments().iter() {
            let here = segment.begin_of(topic).next..segment.end_of(topic).next;
            let offsets: Vec<u64> = offsets.iter().copied().filter(|offset| here.contains(offset)).collect();
            let Some((pending, marks)) = writing.pending.get_mut(&segment.number()) else { continue };
            if offsets.is_empty() {
                continue;
            }
            *pending = pending.saturating_sub(offsets.len() as u64);
            let mut append = || {
                let marks = match marks {
                    Some(marks) => marks,
                    None => marks.insert(done::Marks::open(&*self.files, segment.number())?),
                };
                marks.append(segment.id, offsets.iter().map(|offset| (topic, *offset)))
            };
            written = append().and(written);
        }
        written
    }

    /// Spools only: remembers deliveries that are stored elsewhere. Survives `kill -9`.
    pub(super) fn remember(&self, known: &[DedupeEntry]) -> io::Result<()> {
        match self.writing().as_mut().and_then(|writing| writing.ledger.as_mut()) {
            Some(ledger) => ledger.remember(&*self.files, known),
            None => Ok(()),
        }
    }

    /// Spools only: removes every segment but the last that has nothing pending. Returns the bytes freed.
    pub(super) fn remove_done(&self) -> io::Result<u64> {
        let mut writing = self.writing();
        let Some(writing) = writing.as_mut() else { return Ok(0) };
        let mut kept = self.segments().clone();
        let Some(last) = kept.pop() else { return Ok(0) };
        let is_done = |segment: &Segment| writing.pending.get(&segment.number()).is_some_and(|(left, _)| *left == 0);
        // The one after a removed segment says where the one before it ends, unless that is sealed.
        let mut is_bounded = true;
        kept.retain(|segment| {
            let goes = is_bounded && is_done(segment);
            is_bounded = segment.is_sealed() || goes && is_bounded;
            !goes
        });
        kept.push(last);
        self.remove_others(writing, kept)
    }

    /// Removes the oldest segments and their files, which moves the earliest offsets forward. Never the last.
    pub(crate) fn remove_oldest(&self, count: usize) -> io::Result<u64> {
        let mut writing = self.writing();
        let Some(writing) = writing.as_mut() else { return Ok(0) };
        let segments = self.segments().clone();
        let kept = segments[count.min(segments.len() - 1)..].to_vec();
        self.remove_others(writing, kept)
    }

    fn remove_others(&self, writing: &mut Writing, kept: Vec<Arc<Segment>>) -> io::Result<u64> {
        let before = self.segments().clone();
        let numbers: Vec<u64> = kept.iter().map(|segment| segment.number()).collect();
        if kept.len() == before.len() || !manifest::fits(&numbers) {
            return Ok(0);
        }
        writing.manifest.write(&numbers)?;
        *self.segments_mut() = kept;
        let removed = before.iter().filter(|segment| !numbers.contains(&segment.number()));
        let mut bytes = 0;
        for segment in removed {
            bytes += segment.bytes();
            writing.pending.remove(&segment.number());
            let number = segment.number();
            // The next opening removes what is left.
            for name in [segment::name(number), index::name(number), done::name(number)] {
                let _ = self.files.remove(&name);
            }
        }
        self.bytes.fetch_sub(bytes, Relaxed);
        let topics: Vec<Arc<str>> = read(&self.topics).keys().cloned().collect();
        self.publish(topics.iter());
        Ok(bytes)
    }

    /// Spools only: every pending record with the digest of its key, each topic by offset. Blocks on the disk.
    pub(crate) fn pending(&self, mut each: impl FnMut(&Arc<str>, u64, u64)) -> Result<(), OpenError> {
        let all = self.segments().iter().try_for_each(|segment| {
            let done = Done::load(&*self.files, segment.number());
            every_entry(segment, |topic, offset, entry| {
                if !done.contains(segment.id, topic, offset) {
                    each(topic, offset, entry.key);
                }
            })
        });
        all.map_err(|failure| failure.explain(&self.settings))
    }

    /// The newest stored deliveries, about `most` and roughly the oldest first; of a spool also those stored elsewhere.
    /// Blocks on the disk.
    pub(crate) fn kept(&self, most: usize, mut each: impl FnMut(DedupeEntry)) -> Result<(), OpenError> {
        if let Keep::UntilDone { known, .. } = self.settings.keep {
            let elsewhere = Ledger::open(&*self.files, known, &mut each);
            elsewhere.map_err(|error| Failure::from(error).explain(&self.settings))?;
        }
        let segments = self.segments().clone();
        let records =
            |segment: &Segment| index::counts(&segment.head.begins, &segment.ends()).map(|c| c.2).sum::<u64>();
        let mut left = most as u64;
        let newest = segments.iter().rev().take_while(|segment| {
            let wanted = left > 0;
            left = left.saturating_sub(records(segment));
            wanted
        });
        let skipped = segments.len() - newest.count();
        let all = segments[skipped..].iter().try_for_each(|segment| {
            let mut kept = Vec::new();
            every_entry(segment, |_, _, entry| kept.push((entry.time, entry.ids)))?;
            kept.sort_unstable_by_key(|(time, _)| *time);
            for (time, keys) in kept {
                let kept = Timestamp::from_millisecond(time).unwrap_or(Timestamp::UNIX_EPOCH);
                each(DedupeEntry { kept, keys });
            }
            Ok(())
        });
        all.map_err(|failure: Failure| failure.explain(&self.settings))
    }

    /// Bytes of all records. Like every query about topics, it does not wait for the disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// When the record was written; `None` if there is none. Blocks on the disk.
    pub(crate) fn time(&self, topic: &str, offset: u64) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.entry(topic, offset)?.time).ok()
    }

    /// Bytes that the record takes; 0 if there is none. Blocks on the disk.
    pub(crate) fn size(&self, topic: &str, offset: u64) -> usize {
        self.entry(topic, offset).map_or(0, |entry| entry.len as usize)
    }

    fn entry(&self, topic: &str, offset: u64) -> Option<IndexEntry> {
        let segment = self.segments_with(topic, offset).into_iter().next()?;
        let is_here = segment.begin_of(topic).next <= offset;
        is_here.then(|| segment.entries(topic, offset, 1).ok()?.first().copied()).flatten()
    }

    /// The segments with records of the topic from that offset on.
    fn segments_with(&self, topic: &str, offset: u64) -> Vec<Arc<Segment>> {
        let segments = self.segments();
        let wanted = segments.iter().filter(|segment| {
            let end = segment.end_of(topic).next;
            end > offset && end > segment.begin_of(topic).next
        });
        wanted.cloned().collect()
    }

    /// Registers topics before their first message.
    pub(crate) fn know(&self, topics: impl Iterator<Item = Arc<str>>) {
        let mut known = write(&self.topics);
        for topic in topics {
            known.entry(topic).or_default();
        }
    }

    /// Watches the topic's extent; `None` if there is no such topic.
    pub(crate) fn watch(&self, topic: &str) -> Option<watch::Receiver<Extent>> {
        read(&self.topics).get(topic).map(watch::Sender::subscribe)
    }

    /// Every topic, sorted by name.
    pub(crate) fn topics(&self) -> Vec<(Arc<str>, Extent)> {
        read(&self.topics).iter().map(|(topic, extent)| (topic.clone(), *extent.borrow())).collect()
    }

    /// Records from offset `from` on, without a gap: as many as there are before `until`, at most `records` records
    /// and `bytes` bytes, though always at least one. Empty if there are none yet. Blocks on the disk.
    pub(crate) fn read(
        &self,
        topic: &str,
        from: u64,
        until: u64,
        records: usize,
        bytes: usize,
    ) -> Result<Vec<Record>, ReadError> {
        if self.segments().is_empty() {
            return Err(ReadError::Closed);
        }
        let extent = *read(&self.topics).get(topic).ok_or(ReadError::UnknownTopic)?.borrow();
        if from < extent.earliest {
            return Err(ReadError::Gone(extent));
        }
        let (mut chunk, mut taken, until) = (Vec::new(), 0, until.min(extent.next));
        for segment in self.segments_with(topic, from) {
            let next = from + chunk.len() as u64;
            let wanted = usize::try_from(until.saturating_sub(next)).unwrap_or(usize::MAX).min(records - chunk.len());
            if wanted == 0 {
                break;
            }
            if segment.begin_of(topic).next > next {
                return Err(ReadError::Failed(format!("offset {next} of {topic} is missing")));
            }
            let mut entries = segment.entries(topic, next, wanted)?;
            let fits = entries.iter().take_while(|entry| {
                let fits = taken == 0 || taken + entry.len as usize <= bytes;
                taken += entry.len as usize;
                fits
            });
            let fits = fits.count();
            let is_full = fits < entries.len();
            entries.truncate(fits);
            let mut reader = segment.reader(&entries);
            for (offset, entry) in (next..).zip(&entries) {
                chunk.push(reader.record(topic, offset, entry)?);
            }
            if is_full {
                break;
            }
        }
        Ok(chunk)
    }

    /// Spools only: the records at `offsets` that `wanted` accepts by offset and key digest; at most `records` records
    /// and `bytes` bytes, though always at least one. A damaged record hides no other. Blocks on the disk.
    pub(crate) fn read_pending(
        &self,
        topic: &str,
        offsets: Range<u64>,
        records: usize,
        bytes: usize,
        mut wanted: impl FnMut(u64, u64) -> bool,
    ) -> Result<Chunk, ReadError> {
        if self.segments().is_empty() {
            return Err(ReadError::Closed);
        }
        let (mut chunk, mut taken, mut looked) = (Chunk { until: offsets.start, ..Chunk::default() }, 0, 0);
        for segment in self.segments_with(topic, offsets.start) {
            chunk.until = chunk.until.max(segment.begin_of(topic).next);
            loop {
                let left = usize::try_from(offsets.end.saturating_sub(chunk.until)).unwrap_or(ENTRIES);
                let entries = segment.entries(topic, chunk.until, ENTRIES.min(left))?;
                if entries.is_empty() {
                    break;
                }
                let mut reader = segment.reader(&entries);
                for entry in &entries {
                    if looked == LOOKED_AT || chunk.records.len() == records {
                        return Ok(chunk);
                    }
                    looked += 1;
                    if wanted(chunk.until, entry.key) {
                        if taken > 0 && taken + entry.len as usize > bytes {
                            return Ok(chunk);
                        }
                        match reader.record(topic, chunk.until, entry) {
                            Ok(record) => chunk.records.push(record),
                            Err(_) => chunk.damaged.push(chunk.until),
                        }
                        taken += entry.len as usize;
                    }
                    chunk.until += 1;
                }
            }
        }
        chunk.until = offsets.end;
        Ok(chunk)
    }

    /// Shows readers how far these topics reach now.
    fn publish<'t>(&self, topics: impl Iterator<Item = &'t Arc<str>>) {
        let (first, last) = match &self.segments()[..] {
            [] => return,
            [first, .., last] => (first.clone(), last.clone()),
            [only] => (only.clone(), only.clone()),
        };
        for topic in topics {
            let (begin, end) = (first.begin_of(topic), last.end_of(topic));
            let extent = Extent { earliest: begin.next, next: end.next, start: begin.position, end: end.position };
            if let Some(known) = read(&self.topics).get(topic) {
                known.send_if_modified(|current| std::mem::replace(current, extent) != extent);
                continue;
            }
            write(&self.topics).entry(topic.clone()).or_default().send_replace(extent);
        }
    }

    fn writing(&self) -> MutexGuard<'_, Option<Writing>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn segments(&self) -> RwLockReadGuard<'_, Vec<Arc<Segment>>> {
        read(&self.segments)
    }

    fn segments_mut(&self) -> RwLockWriteGuard<'_, Vec<Arc<Segment>>> {
        write(&self.segments)
    }
}

/// The frames of one commit; its bytes are in the buffer.
struct Commit {
    bytes: u64,
    records: Vec<(Arc<str>, IndexEntry)>,
    topics: BTreeMap<Arc<str>, u64>,
    time: Timestamp,
    last: LastCommit,
}

impl Commit {
    fn encode<'m, E: Entry + ?Sized + 'm>(
        active: &Segment,
        writing: &mut Writing,
        entries: impl Iterator<Item = &'m E>,
    ) -> Self {
        let (time, start, number) = (Timestamp::now(), active.end(), writing.last.number + 1);
        let (millis, buffer) = (time.as_millisecond(), &mut writing.buffer);
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
        let close = Close { end: start, checksum: writing.last.checksum };
        let checksum = frame::put(buffer, active.id, number, |body| codec::put_close(body, close));
        let last = LastCommit { number, start, checksum };
        Self { bytes: buffer.len() as u64, records, topics, time, last }
    }
}

fn facts(segment: &Segment) -> Facts {
    Facts { created: segment.head.created, newest: segment.newest(), bytes: segment.bytes() }
}

fn closed() -> io::Error {
    io::Error::other("the log is closed")
}

fn count_pending(files: &dyn Files, segment: &Segment) -> Result<u64, Failure> {
    let (done, mut pending) = (Done::load(files, segment.number()), 0);
    every_entry(segment, |topic, offset, _| pending += u64::from(!done.contains(segment.id, topic, offset)))?;
    Ok(pending)
}

fn every_entry(segment: &Segment, mut each: impl FnMut(&Arc<str>, u64, &IndexEntry)) -> Result<(), Failure> {
    let ends = segment.ends();
    for (topic, begin, count) in index::counts(&segment.head.begins, &ends) {
        let mut offset = begin;
        while offset < begin + count {
            let entries = segment.entries(topic, offset, ENTRIES)?;
            if entries.is_empty() {
                return Err(Failure::damaged(segment::name(segment.number()), 0, format!("{topic} is incomplete")));
            }
            for entry in &entries {
                each(topic, offset, entry);
                offset += 1;
            }
        }
    }
    Ok(())
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
