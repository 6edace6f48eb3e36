//! A durable log in a directory of this machine, used by the embedded bus and by the spool. Each receipt comes after
//! an fsync. Records are read by topic and offset.
//!
//! A receipt means: fjall has written the batch to its journal, and fsync of that file has returned. A failed commit
//! says nothing about its messages: none gets a receipt, and the log is reopened and rewritten before it gives the
//! next receipt, also for messages that it then finds by their id. The log trusts a disk that reports a successful
//! fsync.
//!
//! `entry` is what the log takes and answers, `settings` where it lies. `database` is the log on disk: `opening`
//! opens it, `segment` is one part, `codec` the encoding, `pending` what a spool still has to send, `ledger` what a
//! spool remembers besides that, `watermark` the minimum that must be there, `journal` the current journal, `failure`
//! the errors. `store` shares the log between threads, `writer` is the one thread that writes, `retention` decides
//! what to remove, `disk` is the file system under it, and `directory` checks that the files are still there.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use tokio::sync::{oneshot, watch};

use writer::{Append, Command, Taking, Writer};

mod codec;
mod database;
mod directory;
pub(crate) mod disk;
mod entry;
mod extent;
mod failure;
mod journal;
mod ledger;
mod opening;
mod pending;
mod retention;
mod segment;
mod settings;
mod store;
mod watermark;
mod writer;

#[cfg(test)]
mod damage;

pub(crate) use entry::{Entry, LedgerEntry, NotKept, OpenError, Receipt};
pub(crate) use extent::Extent;
pub(crate) use failure::ReadError;
pub(crate) use pending::Chunk;
pub(crate) use retention::Retention;
pub(crate) use settings::{Keep, Settings};
pub(crate) use store::Store;
pub(crate) use writer::Done;

/// The most messages that wait for the writer. `server.bytes_in_flight` bounds their bytes.
const WAITING: usize = 8192;

/// The writing end. [`Log::close`], or dropping the last clone, ends the writer and closes the log.
#[derive(Clone)]
pub(crate) struct Log {
    pub(crate) store: Arc<Store>,
    commands: SyncSender<Command>,
    taking: watch::Receiver<bool>,
    reopened: watch::Receiver<u64>,
    /// Closes when the writer ends.
    closed: watch::Receiver<()>,
}

impl Log {
    /// Opens the log, or creates it if there is none. Calls `on_taking` whenever the log starts or stops taking
    /// entries, and drops it when the log takes none any more. An error names its remedy.
    pub(crate) fn open(
        settings: Settings,
        topics: impl Iterator<Item = Arc<str>>,
        on_taking: impl Fn(bool) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let (commands, received) = sync_channel(WAITING);
        let (taking, opened_again) = (watch::Sender::new(true), watch::Sender::new(0));
        let (closing, closed) = watch::channel(());
        // The last process may have seen an fsync fail: then reading finds records that are not on the disk.
        let sealed = journal::seal(&settings.dir);
        let store = Arc::new(Store::open(&settings, topics)?);
        let sound = sealed.map_err(|error| disk::unusable(settings.section, &settings.dir, &error));
        let sound = sound.and_then(|()| store.rewrite());
        let reopened = opened_again.subscribe();
        let log = Self { store: store.clone(), commands, taking: taking.subscribe(), reopened, closed };
        let name = format!("{}-writer", settings.section);
        let taking = Taking { state: taking, on_change: Box::new(on_taking) };
        let mut writer = Writer::new(store, received, taking, opened_again, settings);
        if let Err(error) = sound {
            writer.fail(&error.to_string());
        }
        let run = move || {
            let _closing = closing;
            writer.run();
        };
        std::thread::Builder::new()
            .name(name)
            .spawn(run)
            .map_err(|error| OpenError(format!("no thread for the log's writer: {error}; allow more processes")))?;
        Ok(log)
    }

    /// Submits the entry at once. `Ok` means that it is on disk.
    pub(crate) fn append(
        &self,
        entry: Arc<dyn Entry>,
    ) -> impl Future<Output = Result<Receipt, NotKept>> + Send + use<> {
        let (receipt, received) = oneshot::channel();
        let handed_over = self.hand_over(Command::Append(Append { entry, receipt }));
        async move {
            handed_over?;
            received.await.unwrap_or(Err(CLOSING))
        }
    }

    /// Marks these records as done. Survives `kill -9` once the future completes.
    pub(crate) fn done(&self, done: Done) -> impl Future<Output = ()> + Send + use<> {
        let (commands, (written, was_written)) = (self.commands.clone(), oneshot::channel());
        async move {
            // Blocks while the channel is full: a done mark must not be dropped.
            let _ = tokio::task::spawn_blocking(move || commands.send(Command::Done(done, written))).await;
            let _ = was_written.await;
        }
    }

    /// Remembers a delivery that the bus has stored. Survives `kill -9` once the future completes. If the log cannot
    /// write now, the delivery is not remembered and nothing else happens.
    pub(crate) fn remember(&self, known: LedgerEntry) -> impl Future<Output = ()> + Send + use<> {
        let (written, was_written) = oneshot::channel();
        let taking = *self.taking.borrow();
        let handed_over = taking && self.hand_over(Command::Remember(known, written)).is_ok();
        async move {
            if handed_over {
                let _ = was_written.await;
            }
        }
    }

    /// How many times the log was reopened after a failure. A spool's log then takes nothing until it is told that
    /// its records were [counted](Self::counted).
    pub(crate) fn reopened(&self) -> watch::Receiver<u64> {
        self.reopened.clone()
    }

    /// Reports that the pending records were recalled after the `nth` reopening.
    pub(crate) fn counted(&self, nth: u64) -> impl Future<Output = ()> + Send + use<> {
        let commands = self.commands.clone();
        async move {
            let _ = tokio::task::spawn_blocking(move || commands.send(Command::Counted(nth))).await;
        }
    }

    fn hand_over(&self, command: Command) -> Result<(), NotKept> {
        self.commands.try_send(command).map_err(|refused| match refused {
            TrySendError::Full(_) => CROWDED,
            TrySendError::Disconnected(_) => CLOSING,
        })
    }

    /// Returns when the writer has ended: the log takes nothing from then on.
    pub(crate) async fn ended(&self) {
        let _ = self.closed.clone().changed().await;
    }

    /// Commits everything submitted before, then closes.
    pub(crate) fn close(&self) -> impl Future<Output = ()> + Send + use<> {
        let commands = self.commands.clone();
        let mut closed = self.closed.clone();
        async move {
            // Blocks while the channel is full; the writer drains it. Fails if the writer has ended.
            let _ = tokio::task::spawn_blocking(move || drop(commands.send(Command::Close))).await;
            let _ = closed.changed().await;
        }
    }
}

const CLOSING: NotKept = NotKept(Cow::Borrowed("the log is closed"));
const CROWDED: NotKept = NotKept(Cow::Borrowed("too many messages wait for the disk"));
