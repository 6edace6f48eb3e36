//! Shares the log between threads: one writes, any number read, and the database can be closed and reopened under
//! them. Decides neither how long a record is kept (`retention`) nor when to give up (`writer`).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::Timestamp;
use tokio::sync::watch;

use super::database::Log;
use super::directory::{Directory, Gone};
use super::entry::Entry;
use super::entry::LedgerEntry;
use super::entry::{OpenError, Receipt};
use super::extent::Extent;
use super::failure::{AppendError, ReadError};
use super::pending::Chunk;
use super::retention::Facts;
use super::segment::Marks;
use super::settings::Settings;
use super::{disk, journal, opening};
use crate::record::Record;

pub(crate) struct Store {
    settings: Settings,
    /// Set by the first opening; a later one must find the same directory.
    directory: Directory,
    /// `None` while nothing can be read or written: during a reopening, or once closed.
    open: RwLock<Option<Log>>,
    topics: RwLock<BTreeMap<Arc<str>, watch::Sender<Extent>>>,
    /// Bytes of all records as of the last change. Cached, so that a caller does not wait for the disk.
    bytes: AtomicU64,
}

impl Store {
    /// Opens the log, or creates it if there is none, and reads enough of it to know that it is intact.
    pub(crate) fn open(settings: &Settings, topics: impl Iterator<Item = Arc<str>>) -> Result<Self, OpenError> {
        disk::prepare(settings.section, &settings.dir)?;
        let open = Log::open(settings).map_err(|error| error.explain(settings))?;
        let directory = Directory::hold(&settings.dir, &opening::STAYS)
            .map_err(|error| disk::unusable(settings.section, &settings.dir, &error))?;
        let topics = topics.map(|topic| (topic, watch::Sender::default())).collect();
        let (settings, topics) = (settings.clone(), RwLock::new(topics));
        let store = Self { settings, directory, open: RwLock::new(None), topics, bytes: AtomicU64::new(0) };
        store.publish(&open, &open.ends());
        *write(&store.open) = Some(open);
        Ok(store)
    }

    /// After a failure: closes the database, opens it again, checks it, and rewrites the records still in its
    /// journal, because a failed fsync leaves it unknown whether the disk has them. After `Err` the caller retries;
    /// whatever is readable stays readable until then.
    pub(super) fn reopen(&self) -> Result<(), OpenError> {
        // The open files may be the only copy left, so they are not closed in favour of another directory.
        self.in_place().map_err(|gone| gone.explain(&self.settings))?;
        let mut slot = write(&self.open);
        drop(slot.take());
        let Settings { section, dir, .. } = &self.settings;
        let sealed = journal::seal(dir).map_err(|error| disk::unusable(section, dir, &error));
        *slot = Some(Log::open(&self.settings).map_err(|error| error.explain(&self.settings))?);
        drop(slot);
        sealed?;
        self.rewrite()?;
        let slot = read(&self.open);
        if let Some(open) = slot.as_ref() {
            self.publish(open, &open.ends());
        }
        Ok(())
    }

    /// Writes the records still in the journals to tables.
    pub(super) fn rewrite(&self) -> Result<(), OpenError> {
        let slot = read(&self.open);
        slot.as_ref().map_or(Ok(()), Log::rewrite).map_err(|error| error.explain(&self.settings))
    }

    /// Closes the database. Readers get [`ReadError::Closed`] from now on.
    pub(super) fn close(&self) {
        drop(write(&self.open).take());
    }

    /// Stores all messages or none. `Ok` comes after the fsync, so the disk has them. Only the writer calls this.
    pub(crate) fn append<'m, E: Entry + ?Sized + 'm>(
        &self,
        entries: impl ExactSizeIterator<Item = &'m E>,
    ) -> Result<Vec<Receipt>, AppendError> {
        let slot = read(&self.open);
        let open = slot.as_ref().ok_or_else(|| AppendError::Failed("the log is closed".to_owned()))?;
        open.wait_for_write_capacity()?;
        let appended = open.append(entries).map_err(|error| AppendError::Failed(error.to_string()))?;
        // A duplicate, too, counts as stored only if the next start will find the log.
        self.directory.check()?;
        open.journal.check()?;
        self.publish(open, &appended.ends);
        Ok(appended.receipts)
    }

    /// Whether the opened files are still at their paths.
    pub(super) fn in_place(&self) -> Result<(), Gone> {
        self.directory.check()?;
        read(&self.open).as_ref().map_or(Ok(()), |open| open.journal.check())
    }

    /// Whether fjall still takes writes. Any failure of its own threads stops it for good.
    pub(super) fn healthy(&self) -> bool {
        read(&self.open).as_ref().is_some_and(Log::healthy)
    }

    /// What retention needs to know, oldest segment first.
    pub(super) fn facts(&self) -> Vec<Facts> {
        read(&self.open).as_ref().map(Log::facts).unwrap_or_default()
    }

    /// Marks these records as done. Survives `kill -9`.
    pub(super) fn done<'r>(&self, records: impl Iterator<Item = (&'r str, u64)>) -> Result<(), AppendError> {
        let slot = read(&self.open);
        let Some(open) = slot.as_ref() else { return Ok(()) };
        open.wait_for_write_capacity()?;
        open.done(records).map_err(|error| AppendError::Failed(error.to_string()))
    }

    /// Remembers deliveries that are stored elsewhere. Survives `kill -9`.
    pub(super) fn remember(&self, known: &[LedgerEntry]) -> Result<(), AppendError> {
        let mut slot = write(&self.open);
        let Some(open) = slot.as_mut() else { return Ok(()) };
        open.wait_for_write_capacity()?;
        open.remember(known).map_err(|error| AppendError::Failed(error.to_string()))
    }

    /// How many of the oldest segments have nothing pending before the `cursors`.
    pub(super) fn drained(&self, cursors: &BTreeMap<Arc<str>, u64>) -> usize {
        read(&self.open).as_ref().map_or(0, |open| open.drained(cursors))
    }

    /// What a spool needs to know after a restart: every pending record with the digest of its key, each topic by
    /// offset; and the deliveries known to be stored, oldest first. An error if any record has no pending mark.
    /// Blocks on the disk.
    pub(crate) fn recall(
        &self,
        pending: impl FnMut(Arc<str>, u64, u64),
        known: impl FnMut(LedgerEntry),
    ) -> Result<(), OpenError> {
        let slot = read(&self.open);
        let open = slot.as_ref().ok_or_else(|| OpenError("the log is closed".to_owned()))?;
        let all = open.pending(pending).and_then(|()| open.known(known));
        all.map_err(|error| error.explain(&self.settings))
    }

    /// Bytes of all records. Like every query about topics, it does not wait for the disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// When the record was written; `None` if there is none. Blocks on the disk.
    pub(crate) fn time(&self, topic: &str, offset: u64) -> Option<Timestamp> {
        read(&self.open).as_ref()?.time(topic, offset)
    }

    /// Bytes that the record takes; 0 if there is none. Blocks on the disk.
    pub(crate) fn size(&self, topic: &str, offset: u64) -> usize {
        read(&self.open).as_ref().map_or(0, |open| open.size(topic, offset))
    }

    /// Begins a new segment; the previous one is no longer written.
    pub(crate) fn roll(&self) -> Result<(), AppendError> {
        let mut slot = write(&self.open);
        let Some(open) = slot.as_mut() else { return Ok(()) };
        open.roll().map_err(|error| AppendError::Failed(error.to_string()))
    }

    /// Removes the oldest segments and their files, which moves the earliest offsets forward.
    pub(crate) fn remove_oldest(&self, count: usize) -> Result<(), AppendError> {
        let mut slot = write(&self.open);
        let Some(open) = slot.as_mut() else { return Ok(()) };
        for _ in 0..count {
            open.remove_oldest().map_err(|error| AppendError::Failed(error.to_string()))?;
            // A reader must not see an earliest offset that is already removed.
            self.publish(open, &open.ends());
        }
        Ok(())
    }

    /// Spools only: removes the segments between others that have nothing pending. Returns the bytes freed.
    pub(super) fn remove_done(&self) -> Result<u64, AppendError> {
        // Takes the lock that blocks readers only if there is something to remove.
        if !read(&self.open).as_ref().is_some_and(Log::has_done) {
            return Ok(0);
        }
        let mut slot = write(&self.open);
        let Some(open) = slot.as_mut() else { return Ok(0) };
        let removed = open.remove_done().map_err(|error| AppendError::Failed(error.to_string()));
        self.publish(open, &open.ends());
        removed
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
        let slot = read(&self.open);
        let open = slot.as_ref().ok_or(ReadError::Closed)?;
        let extent = *read(&self.topics).get(topic).ok_or(ReadError::UnknownTopic)?.borrow();
        if from < extent.earliest {
            return Err(ReadError::Gone(extent));
        }
        open.read(topic, from..until.min(extent.next), records, bytes)
    }

    /// Spools only: the pending records at `offsets` that `wanted` accepts by offset and key digest; at most
    /// `records` records and `bytes` bytes, though always at least one. Blocks on the disk.
    pub(crate) fn read_pending(
        &self,
        topic: &str,
        offsets: Range<u64>,
        records: usize,
        bytes: usize,
        wanted: impl FnMut(u64, u64) -> bool,
    ) -> Result<Chunk, ReadError> {
        let slot = read(&self.open);
        let open = slot.as_ref().ok_or(ReadError::Closed)?;
        open.read_pending(topic, offsets, records, bytes, wanted)
    }

    fn publish(&self, open: &Log, ends: &Marks) {
        self.bytes.store(open.facts().iter().map(|segment| segment.bytes).sum(), Relaxed);
        for (topic, end) in ends {
            let extent = open.extent(topic, end);
            if let Some(known) = read(&self.topics).get(topic) {
                known.send_if_modified(|current| std::mem::replace(current, extent) != extent);
                continue;
            }
            write(&self.topics).entry(topic.clone()).or_default().send_replace(extent);
        }
    }
}

#[cfg(test)]
impl Store {
    /// Blocks all disk access until the guard is dropped.
    pub(crate) fn hang(&self) -> impl Drop {
        write(&self.open)
    }

    /// The next commit reaches the disk but is reported as failed.
    pub(crate) fn fail_after_the_next_commit(&self) {
        let mut slot = write(&self.open);
        slot.as_mut().unwrap().watermark = super::watermark::Watermark::read_only(&self.settings.dir);
    }

    /// As if the disk had lost the record.
    pub(crate) fn lose(&self, topic: &str, offset: u64) {
        read(&self.open).as_ref().unwrap().lose(topic, offset);
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::message::Message;

    fn id(number: u32) -> [u8; 32] {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        id
    }

    fn message(topic: &str, number: u32) -> Message {
        Message::sample(topic, "key", id(number), format!("{{\"n\":{number}}}"))
    }

    fn open(dir: &Path) -> Store {
        Store::open(&Settings::sample(dir), ["configured".into()].into_iter()).unwrap()
    }

    fn append(store: &Store, topic: &str, numbers: Range<u32>) {
        let messages: Vec<_> = numbers.map(|number| message(topic, number)).collect();
        let receipts = store.append(messages.iter()).unwrap();
        assert!(receipts.iter().all(|receipt| *receipt == Receipt::Kept));
    }

    fn offsets(store: &Store, topic: &str, from: u64) -> Vec<u64> {
        let records = store.read(topic, from, u64::MAX, 1000, usize::MAX).unwrap();
        records.iter().map(|record| record.offset).collect()
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
        assert_eq!(offsets(&store, "a", 0), [0, 1, 2, 3]);
        assert_eq!(offsets(&store, "b", 0), [0]);
        let record = &store.read("a", 3, 4, 1, 1).unwrap()[0];
        assert_eq!(record.payload, &b"{\"n\":4}"[..]);
        assert_eq!(record.key.as_deref(), Some("key"));
        assert!(record.headers.iter().any(|(name, _)| name == "ce-id"));
    }

    #[test]
    fn a_delivery_is_stored_once_whatever_its_route_is_now() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let batch = [message("a", 1), message("a", 1), message("b", 1)];
        assert_eq!(store.append(batch.iter()).unwrap(), [Receipt::Kept, Receipt::Duplicate, Receipt::Duplicate]);
        store.roll().unwrap();
        assert_eq!(store.append(batch[..1].iter()).unwrap(), [Receipt::Duplicate]);
        store.close();
        let store = open(dir.path());
        assert_eq!(store.append(batch[..1].iter()).unwrap(), [Receipt::Duplicate]);
        assert_eq!(offsets(&store, "a", 0), [0]);
    }

    #[test]
    fn a_configured_topic_is_known_before_its_first_message() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        assert_eq!(store.topics(), [("configured".into(), Extent::default())]);
        assert!(offsets(&store, "configured", 0).is_empty());
        assert!(matches!(store.read("other", 0, 1, 1, 1), Err(ReadError::UnknownTopic)));
        append(&store, "a", 0..1);
        store.know(["other".into(), "a".into()].into_iter());
        assert!(offsets(&store, "other", 0).is_empty());
        assert_eq!(offsets(&store, "a", 0), [0]);
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
        assert_eq!(offsets(&store, "a", 1), [1, 2, 3]);
        assert_eq!(offsets(&store, "b", 0), [0]);
        assert_eq!(store.read("a", 0, 3, 1000, usize::MAX).unwrap().len(), 3);
        assert_eq!(store.read("a", 0, u64::MAX, 2, usize::MAX).unwrap().len(), 2);
        assert_eq!(store.read("a", 0, u64::MAX, 1000, 1).unwrap().len(), 1, "one is always read");
        store.close();
        assert_eq!(offsets(&open(dir.path()), "a", 0), [0, 1, 2, 3]);
    }

    #[test]
    fn removal_moves_the_earliest_offset_and_reuses_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        append(&store, "a", 0..2);
        append(&store, "gone", 2..4);
        store.roll().unwrap();
        append(&store, "a", 4..5);
        store.remove_oldest(1).unwrap();
        let gone = *store.watch("gone").unwrap().borrow();
        assert_eq!((gone.earliest, gone.next, gone.messages(), gone.bytes()), (2, 2, 0, 0));
        assert!(matches!(store.read("a", 1, 9, 9, 9), Err(ReadError::Gone(Extent { earliest: 2, next: 3, .. }))));
        assert_eq!(offsets(&store, "a", 2), [2]);
        store.close();
        let store = open(dir.path());
        append(&store, "gone", 2..3);
        assert_eq!(offsets(&store, "gone", 2), [2]);
        assert_eq!(store.facts().len(), 1);
    }

    #[test]
    fn reopening_keeps_everything_and_lets_writes_continue() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        append(&store, "a", 0..3);
        store.reopen().unwrap();
        append(&store, "a", 3..4);
        assert_eq!(offsets(&store, "a", 0), [0, 1, 2, 3]);
        store.close();
        assert!(!store.healthy());
        assert!(matches!(store.read("a", 0, 9, 9, 9), Err(ReadError::Closed)));
        without_the_first_journal(dir.path());
        assert_eq!(offsets(&open(dir.path()), "a", 0), [0, 1, 2, 3], "what failed once is not relied upon");
    }

    #[test]
    fn a_write_into_a_removed_directory_is_not_stored_and_no_other_directory_is_opened() {
        let above = tempfile::tempdir().unwrap();
        let (dir, away) = (above.path().join("log"), above.path().join("away"));
        let store = open(&dir);
        append(&store, "a", 0..2);
        std::fs::rename(&dir, &away).unwrap();
        std::fs::create_dir(&dir).unwrap();
        for number in [2, 0] {
            let receipt = store.append([message("a", number)].iter());
            assert!(matches!(receipt, Err(AppendError::Gone(_))), "{receipt:?}: a duplicate is no more kept there");
        }
        let error = store.reopen().unwrap_err();
        assert!(error.0.contains("embedded.dir") && error.0.contains("put it back"), "{error}");
        assert!(std::fs::read_dir(&dir).unwrap().next().is_none());
        assert_eq!(offsets(&store, "a", 0), [0, 1]);
        std::fs::remove_dir(&dir).unwrap();
        std::fs::rename(&away, &dir).unwrap();
        store.reopen().unwrap();
        append(&store, "a", 3..4);
        assert_eq!(offsets(&store, "a", 0), [0, 1, 2, 3], "what was never acknowledged may be there");
        std::fs::remove_file(dir.join("1.jnl")).or_else(|_| std::fs::remove_file(dir.join("0.jnl"))).unwrap();
        assert!(matches!(store.append([message("a", 4)].iter()), Err(AppendError::Gone(_))));
    }

    #[tokio::test]
    async fn a_restarted_log_relies_on_no_journal_of_the_last_process() {
        let dir = tempfile::tempdir().unwrap();
        let begin = || crate::log::Log::open(Settings::sample(dir.path()), std::iter::empty(), |_| {}).unwrap();
        for number in 0..2 {
            let log = begin();
            log.append(Arc::new(message("a", number))).await.unwrap();
            log.close().await;
        }
        without_the_first_journal(dir.path());
        assert_eq!(offsets(&begin().store, "a", 0), [0, 1]);
    }

    /// As if none of it had reached the disk.
    fn without_the_first_journal(dir: &Path) {
        if let Ok(journal) = std::fs::File::options().write(true).open(dir.join("0.jnl")) {
            journal.set_len(0).unwrap();
        }
    }

    #[test]
    fn a_directory_in_use_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let _store = open(dir.path());
        let error = Store::open(&Settings::sample(dir.path()), std::iter::empty()).err().unwrap();
        assert!(error.0.contains("another process uses") && error.0.contains("stop it"), "{error}");
        assert!(disk::locked(dir.path()).unwrap());
    }
}
