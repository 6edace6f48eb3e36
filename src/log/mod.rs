//! A durable log in a directory of this machine, used by the embedded bus and by the spool. Each receipt comes after
//! an fsync. Records are read by topic and offset.
//!
//! A receipt means: the whole commit was written, and fsync of its file has returned, while the file and everything
//! that leads to it were in their places. Nothing of a failed commit is ever read: the log goes on in a new segment,
//! which says where the one before ends. The log trusts a disk that reports a successful fsync. It reports damage,
//! unless nothing intact follows: that cannot be told from a commit that a crash cut short.
//!
//! `entry` is what the log takes and answers, `settings` where it lies. On disk it is a `manifest` of `segment`s, each
//! a run of `frame`s with the contents of `codec`, an `index` and, of a spool, the records that are `done`; `ledger`
//! is what a spool remembers besides. `opening` opens it, and `verify` reads all of it. `store` shares it between
//! threads: `reading` is for those that read, `pending` for a spool; `writer` is the one thread that writes, each time a
//! `commit`; `retention` decides what to remove. `files` and `disk` are the file system under it, `failure` the errors.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use tokio::sync::{oneshot, watch};

use crate::dedupe::DedupeEntry;
use writer::{Append, Command, Taking, Writer};

mod codec;
mod commit;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod damage;
pub(crate) mod disk;
mod done;
mod entry;
mod extent;
mod failure;
mod files;
mod frame;
mod index;
mod ledger;
mod manifest;
mod opening;
mod pending;
mod reading;
mod retention;
mod segment;
mod settings;
mod store;
mod verify;
mod writer;

pub(crate) use entry::{Entry, NotKept, OpenError};
pub(crate) use extent::Extent;
pub(crate) use failure::ReadError;
pub(crate) use pending::Chunk;
pub(crate) use retention::Retention;
pub(crate) use settings::{Keep, Settings};
pub(crate) use store::Store;
pub(crate) use verify::{Checked, verify};
pub(crate) use writer::Done;

/// The most messages that wait for the writer. `server.bytes_in_flight` bounds their bytes.
const WAITING: usize = 8192;

/// The writing end. [`Log::close`], or dropping the last clone, ends the writer and closes the log.
#[derive(Clone)]
pub(crate) struct Log {
    pub(crate) store: Arc<Store>,
    commands: SyncSender<Command>,
    taking: watch::Receiver<bool>,
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
        let taking = watch::Sender::new(true);
        let (closing, closed) = watch::channel(());
        let store = Arc::new(Store::open(&settings, topics)?);
        let log = Self { store: store.clone(), commands, taking: taking.subscribe(), closed };
        let name = format!("{}-writer", settings.section);
        let taking = Taking { state: taking, on_change: Box::new(on_taking) };
        let writer = Writer::new(store, received, taking, settings);
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
    pub(crate) fn append(&self, entry: Arc<dyn Entry>) -> impl Future<Output = Result<(), NotKept>> + Send + use<> {
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
    pub(crate) fn remember(&self, known: DedupeEntry) -> impl Future<Output = ()> + Send + use<> {
        let (written, was_written) = oneshot::channel();
        let taking = *self.taking.borrow();
        let handed_over = taking && self.hand_over(Command::Remember(known, written)).is_ok();
        async move {
            if handed_over {
                let _ = was_written.await;
            }
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
