//! Shares the log between threads: one writes, any number read. Decides neither how long a record is kept
//! (`retention`) nor when to give up (`writer`).

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::Timestamp;
use tokio::sync::watch;

use super::codec::{Head, Previous};
use super::commit::Commit;
use super::disk;
use super::done::{self, Pending};
use super::entry::{Entry, OpenError};
use super::extent::Extent;
use super::failure::{AppendError, Failure};
use super::files::{Directory, Files, Gone};
use super::index;
use super::ledger::Ledger;
use super::manifest::{self, Manifest};
use super::opening::{self, Opened};
use super::retention::Facts;
use super::segment::{self, LastCommit, Segment};
use super::settings::{Keep, Settings};

/// The buffer of a commit keeps this much memory for the next one.
const BUFFER: usize = 1 << 20;

pub(crate) struct Store {
    pub(super) settings: Settings,
    pub(super) files: Arc<dyn Files>,
    /// `None` once closed.
    writing: Mutex<Option<Writing>>,
    /// Oldest first, and the last one is being written; empty once closed.
    segments: RwLock<Vec<Arc<Segment>>>,
    pub(super) topics: RwLock<BTreeMap<Arc<str>, watch::Sender<Extent>>>,
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
    /// Of each segment of a spool, by number.
    pub(super) pending: HashMap<u64, Pending>,
    pub(super) buffer: Vec<u8>,
}

impl Store {
    /// Opens the log, or creates it if there is none, with everything that it acknowledged.
    pub(crate) fn open(settings: &Settings, topics: impl Iterator<Item = Arc<str>>) -> Result<Self, OpenError> {
        disk::prepare(settings.section, &settings.dir)?;
        let open = || {
            let lock = disk::lock(&settings.dir)?.ok_or(Failure::Locked)?;
            if !settings.dir.join(manifest::NAME).try_exists()? {
                disk::sync_path(&settings.dir)?;
            }
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
                    pending.insert(segment.number(), Pending::count(&*files, segment)?);
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
        writing.manifest.write(&numbers).inspect_err(|_| {
            writing.unnamed.push(number);
            // It may be named all the same, and then the one before it ends here.
            writing.has_failed = true;
        })?;
        writing.unnamed.drain(..).for_each(|number| drop(self.files.remove(&segment::name(number))));
        if writing.ledger.is_some() {
            writing.pending.insert(number, Pending::default());
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

    /// Closes the log. Readers get [`Closed`](super::ReadError::Closed) from now on.
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
        let mut commit = Commit::encode(&active, &writing.last, &mut writing.buffer, entries.clone());
        let most = active.head.allocated.max(self.settings.keep.segment_bytes());
        if active.end() + commit.bytes > most && active.bytes() > 0 {
            self.roll_on(writing)?;
            active = self.active()?;
            commit = Commit::encode(&active, &writing.last, &mut writing.buffer, entries);
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
        if let Some(pending) = writing.pending.get_mut(&active.number()) {
            pending.left += commit.records.len() as u64;
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

    /// Removes the oldest segments and their files, which moves the earliest offsets forward. Never the last.
    pub(crate) fn remove_oldest(&self, count: usize) -> io::Result<u64> {
        let mut writing = self.writing();
        let Some(writing) = writing.as_mut() else { return Ok(0) };
        let segments = self.segments().clone();
        let kept = segments[count.min(segments.len() - 1)..].to_vec();
        self.remove_others(writing, kept)
    }

    pub(super) fn remove_others(&self, writing: &mut Writing, kept: Vec<Arc<Segment>>) -> io::Result<u64> {
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

    /// Bytes of all records. Like every query about topics, it does not wait for the disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
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

    pub(super) fn writing(&self) -> MutexGuard<'_, Option<Writing>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn segments(&self) -> RwLockReadGuard<'_, Vec<Arc<Segment>>> {
        read(&self.segments)
    }

    fn segments_mut(&self) -> RwLockWriteGuard<'_, Vec<Arc<Segment>>> {
        write(&self.segments)
    }
}

fn facts(segment: &Segment) -> Facts {
    Facts { created: segment.head.created, newest: segment.newest(), bytes: segment.bytes() }
}

fn closed() -> io::Error {
    io::Error::other("the log is closed")
}

pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
impl Store {
    /// The writer hangs until the guard is dropped.
    pub(crate) fn hang(&self) -> impl Drop {
        self.writing()
    }

    /// As if a commit had failed.
    pub(crate) fn fail(&self) {
        self.writing().as_mut().unwrap().has_failed = true;
    }

    /// As if the disk had lost the record.
    pub(crate) fn lose(&self, topic: &str, offset: u64) {
        let segment = self.segments_with(topic, offset).remove(0);
        let entry = segment.entries(topic, offset, 1).unwrap()[0];
        segment.file.write(&[0], entry.at).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::path::Path;

    use super::super::failure::ReadError;
    use super::*;
    use crate::message::Message;

    fn message(topic: &str, number: u32) -> Message {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        Message::sample(topic, "key", id, format!("{{\"n\":{number}}}"))
    }

    fn open(dir: &Path) -> Store {
        Store::open(&Settings::sample(dir), ["configured".into()].into_iter()).unwrap()
    }

    fn append(store: &Store, topic: &str, numbers: Range<u32>) {
        let messages: Vec<_> = numbers.map(|number| message(topic, number)).collect();
        store.append(messages.iter()).unwrap();
    }

    fn payloads(store: &Store, topic: &str, from: u64) -> Vec<String> {
        let records = store.read(topic, from, u64::MAX, 1000, usize::MAX).unwrap();
        assert!((from..).zip(&records).all(|(offset, record)| record.offset == offset));
        records.iter().map(|record| String::from_utf8(record.payload.to_vec()).unwrap()).collect()
    }

    fn numbered(numbers: impl IntoIterator<Item = u32>) -> Vec<String> {
        numbers.into_iter().map(|number| format!("{{\"n\":{number}}}")).collect()
    }

    fn files(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names.into_iter().map(|name| name.into_string().unwrap()).collect()
    }

    #[test]
    fn offsets_are_dense_per_topic_and_continue_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        append(&store, "a", 0..3);
        append(&store, "b", 3..4);
        store.close();
        let store = open(dir.path());
        append(&store, "a", 4..5);
        assert_eq!(payloads(&store, "a", 0), numbered([0, 1, 2, 4]));
        assert_eq!(payloads(&store, "b", 0), numbered([3]));
        let record = &store.read("a", 3, 4, 1, 1).unwrap()[0];
        assert_eq!((record.key.as_deref(), record.topic.as_str()), (Some("key"), "a"));
        let sent = message("a", 4);
        let headers = sent.nats_headers().map(|(name, value)| (name.to_owned(), value.into_owned()));
        assert_eq!(record.headers, headers.collect::<Vec<_>>());
        assert_eq!(files(dir.path()), ["0.log", "README", "lock", "manifest"]);
    }

    #[test]
    fn a_configured_topic_is_known_before_its_first_message() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        assert_eq!(store.topics(), [("configured".into(), Extent::default())]);
        assert!(payloads(&store, "configured", 0).is_empty());
        assert!(matches!(store.read("other", 0, 1, 1, 1), Err(ReadError::UnknownTopic)));
        append(&store, "a", 0..1);
        store.know(["other".into(), "a".into()].into_iter());
        assert!(payloads(&store, "other", 0).is_empty());
        assert_eq!(payloads(&store, "a", 0), numbered([0]));
        let follower = store.watch("other").unwrap();
        append(&store, "other", 1..2);
        assert_eq!(follower.borrow().next, 1);
    }

    #[test]
    fn reading_continues_across_segments_and_stops_at_its_limits() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        append(&store, "a", 0..2);
        store.roll().unwrap();
        append(&store, "b", 2..3);
        store.roll().unwrap();
        append(&store, "a", 3..5);
        assert_eq!(payloads(&store, "a", 1), numbered([1, 3, 4]));
        assert_eq!(payloads(&store, "b", 0), numbered([2]));
        assert_eq!(store.read("a", 0, 3, 1000, usize::MAX).unwrap().len(), 3);
        assert_eq!(store.read("a", 0, u64::MAX, 2, usize::MAX).unwrap().len(), 2);
        assert_eq!(store.read("a", 0, u64::MAX, 1000, 1).unwrap().len(), 1, "one is always read");
        let size = store.size("a", 3);
        assert_eq!(store.read("a", 1, u64::MAX, 1000, 2 * size).unwrap().len(), 2, "not more bytes");
        assert!(store.time("a", 3).is_some() && store.time("a", 4).is_none() && store.size("a", 4) == 0);
        store.close();
        assert_eq!(payloads(&open(dir.path()), "a", 0), numbered([0, 1, 3, 4]));
    }

    #[test]
    fn removal_moves_the_earliest_offset_and_reuses_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        append(&store, "a", 0..2);
        append(&store, "gone", 2..4);
        store.roll().unwrap();
        append(&store, "a", 4..5);
        let (before, last) = (store.bytes(), store.size("a", 2) as u64);
        assert_eq!((store.remove_oldest(1).unwrap(), store.bytes()), (before - last, last));
        let gone = *store.watch("gone").unwrap().borrow();
        assert_eq!((gone.earliest, gone.next, gone.messages(), gone.bytes()), (2, 2, 0, 0));
        assert!(matches!(store.read("a", 1, 9, 9, 9), Err(ReadError::Gone(Extent { earliest: 2, next: 3, .. }))));
        assert_eq!(payloads(&store, "a", 2), numbered([4]));
        assert_eq!(files(dir.path()), ["1.log", "README", "lock", "manifest"]);
        assert_eq!(store.remove_oldest(1).unwrap(), 0, "the last stays");
        store.close();
        let store = open(dir.path());
        append(&store, "gone", 5..6);
        assert_eq!(payloads(&store, "gone", 2), numbered([5]));
        assert_eq!(store.facts().len(), 1);
    }

    #[test]
    fn a_commit_that_does_not_fit_begins_a_segment_and_a_larger_one_has_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let large = |n: u8, bytes| Message::sample("a", "key", [n; 32], vec![n; bytes]);
        for n in 0..5 {
            store.append([large(n, 20 << 20)].iter()).unwrap();
        }
        store.append([large(5, 70 << 20), large(6, 10)].iter()).unwrap();
        store.append([large(7, 10)].iter()).unwrap();
        store.close();
        let store = open(dir.path());
        let sizes: Vec<_> = store.facts().iter().map(|facts| facts.bytes >> 20).collect();
        assert_eq!(sizes, [60, 40, 70, 0]);
        let read = store.read("a", 0, 9, 9, usize::MAX).unwrap();
        assert!((0..8).zip(&read).all(|(n, record)| record.payload.iter().all(|byte| *byte == n)));
    }

    #[test]
    fn nothing_of_a_failed_commit_is_read_and_the_log_goes_on_in_another_segment() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        append(&store, "a", 0..3);
        // What a commit that was not acknowledged left.
        let active = store.active().unwrap();
        let (last, mut left) = (store.writing().as_ref().unwrap().last, Vec::new());
        Commit::encode(&active, &last, &mut left, [message("a", 7)].iter());
        active.file.write(&left, active.end()).unwrap();
        store.fail();
        assert!(matches!(store.append([message("a", 3)].iter()), Err(AppendError::Failed(_))));
        assert_eq!(payloads(&store, "a", 0), numbered(0..3));
        store.reopen().unwrap();
        append(&store, "a", 4..5);
        for _ in 0..2 {
            assert_eq!(payloads(&store, "a", 0), numbered([0, 1, 2, 4]));
        }
        store.close();
        assert_eq!(payloads(&open(dir.path()), "a", 0), numbered([0, 1, 2, 4]));
    }

    #[test]
    fn what_a_crash_left_of_a_commit_is_cut_off_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        append(&store, "a", 0..3);
        let active = store.active().unwrap();
        let (last, mut left) = (store.writing().as_ref().unwrap().last, Vec::new());
        Commit::encode(&active, &last, &mut left, [message("a", 7), message("a", 8)].iter());
        let middle = left.len() / 3;
        left[middle..middle + 8].fill(0);
        active.file.write(&left, active.end()).unwrap();
        store.close();
        for number in 3..6 {
            let store = open(dir.path());
            append(&store, "a", number..number + 1);
            assert_eq!(payloads(&store, "a", 0), numbered(0..=number));
        }
        assert_eq!(open(dir.path()).facts().len(), 2, "only once");
    }

    #[test]
    fn a_bad_frame_before_others_is_damage_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        for number in 0..3 {
            append(&store, "a", number..number + 1);
        }
        store.lose("a", 1);
        assert!(matches!(store.read("a", 0, 9, 9, usize::MAX), Err(ReadError::Failed(why)) if why.contains("0.log")));
        store.close();
        let error = Store::open(&Settings::sample(dir.path()), std::iter::empty()).err().unwrap();
        assert!(error.0.contains("0.log at byte") && error.0.contains("restore"), "{error}");
    }

    #[test]
    fn an_index_that_is_missing_or_bad_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        append(&store, "a", 0..3);
        store.roll().unwrap();
        let index = dir.path().join("0.idx");
        let whole = std::fs::read(&index).unwrap();
        for bad in [whole.len() - 70, whole.len() - 1, 20] {
            let mut bytes = whole.clone();
            bytes[bad] ^= 1;
            std::fs::write(&index, bytes).unwrap();
            assert_eq!(payloads(&store, "a", 0), numbered(0..3), "noticed while it is read");
            store.close();
            store = open(dir.path());
            assert_eq!(payloads(&store, "a", 0), numbered(0..3), "noticed at the opening");
        }
        store.close();
        std::fs::remove_file(&index).unwrap();
        assert_eq!(payloads(&open(dir.path()), "a", 0), numbered(0..3));
        assert_eq!(std::fs::read(&index).unwrap(), whole);
    }

    #[test]
    fn the_newest_deliveries_are_passed_on_oldest_first() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        for number in 0..3 {
            append(&store, "b", 2 * number..2 * number + 1);
            append(&store, "a", 2 * number + 1..2 * number + 2);
            store.roll().unwrap();
        }
        let kept = |most| {
            let mut numbers = Vec::new();
            store.kept(most, |entry| numbers.push(entry.keys[0][3])).unwrap();
            numbers.sort_unstable();
            numbers
        };
        assert_eq!(kept(100), [0, 1, 2, 3, 4, 5]);
        assert_eq!((kept(1), kept(2), kept(3)), (vec![4, 5], vec![4, 5], vec![2, 3, 4, 5]), "whole segments");
    }

    #[test]
    fn a_write_into_a_removed_directory_is_not_stored_and_no_other_directory_is_opened() {
        let above = tempfile::tempdir().unwrap();
        let (dir, away) = (above.path().join("log"), above.path().join("away"));
        let store = open(&dir);
        append(&store, "a", 0..2);
        std::fs::rename(&dir, &away).unwrap();
        std::fs::create_dir(&dir).unwrap();
        assert!(matches!(store.append([message("a", 2)].iter()), Err(AppendError::Gone(_))));
        let error = store.reopen().unwrap_err();
        assert!(error.0.contains("embedded.dir") && error.0.contains("put it back"), "{error}");
        assert!(files(&dir).is_empty());
        assert_eq!(payloads(&store, "a", 0), numbered(0..2));
        std::fs::remove_dir(&dir).unwrap();
        std::fs::rename(&away, &dir).unwrap();
        store.reopen().unwrap();
        append(&store, "a", 3..4);
        assert_eq!(payloads(&store, "a", 0), numbered([0, 1, 3]));
        std::fs::remove_file(dir.join("1.log")).unwrap();
        assert!(matches!(store.append([message("a", 4)].iter()), Err(AppendError::Gone(_))));
    }

    #[test]
    fn a_directory_in_use_or_of_another_format_is_refused_with_the_remedy() {
        let refused = |dir: &Path| Store::open(&Settings::sample(dir), std::iter::empty()).err().unwrap().0;
        let dir = tempfile::tempdir().unwrap();
        let _store = open(dir.path());
        let error = refused(dir.path());
        assert!(error.contains("another process uses") && error.contains("stop it"), "{error}");
        assert!(disk::locked(dir.path()).unwrap());
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("watermark"), [1; 33]).unwrap();
        let error = refused(dir.path());
        assert!(error.contains("format 1") && error.contains("an empty directory"), "{error}");
        assert_eq!(files(dir.path()), ["lock", "watermark"]);
    }
}
