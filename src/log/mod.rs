//! A durable log in a directory of this machine: what the embedded bus and the spool are made of. Each receipt comes after
//! an fsync; records are read by topic and offset.
//!
//! A receipt rests on this: fjall has written the batch to its journal, and the system says of that file that it is
//! on the disk. A commit that fails says nothing of its messages: none gets a receipt, and the log is opened again and
//! written anew before it gives another one, also for what it finds there by its id. That a disk which says so has the
//! bytes is assumed.
//!
//! `entry` is what it is given and what it answers, `settings` where it is. `database` is the log on disk (`opening`: how it begins, `segment`: its parts, `codec`: their bytes, `pending`:
//! what of a spool is still to be sent, `ledger`: what a spool keeps beside that, `watermark`: what must be there,
//! `journal`: which one fjall goes on with, `failure`: what can go wrong), `store` how threads share it, `writer` the
//! one that writes, `retention` what is kept, `disk` what it lies on, `directory` whether it lies there still.

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

/// Messages that wait for the writer, at most. Their bytes are bounded by `server.bytes_in_flight`.
const WAITING: usize = 8192;

/// The writing end. Its writer ends, and closes the log, with [`Log::close`] or the last of its clones.
#[derive(Clone)]
pub(crate) struct Log {
    pub(crate) store: Arc<Store>,
    commands: SyncSender<Command>,
    taking: watch::Receiver<bool>,
    reopened: watch::Receiver<u64>,
    /// Ends with the writer.
    closed: watch::Receiver<()>,
}

impl Log {
    /// Opens the log, making it where there is none. `on_taking` is told whenever it begins or ceases to take entries,
    /// and dropped when it takes none any more. An error has its remedy.
    pub(crate) fn open(
        settings: Settings,
        topics: impl Iterator<Item = Arc<str>>,
        on_taking: impl Fn(bool) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let (commands, received) = sync_channel(WAITING);
        let (taking, opened_again) = (watch::Sender::new(true), watch::Sender::new(0));
        let (closing, closed) = watch::channel(());
        // The last process may have seen an fsync fail: then the disk lacks what reading finds.
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

    /// Hands the entry over at once. `Ok` means that it is on disk.
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

    /// These records are no longer needed. Survives `kill -9` as soon as the future is done.
    pub(crate) fn done(&self, done: Done) -> impl Future<Output = ()> + Send + use<> {
        let (commands, (written, was_written)) = (self.commands.clone(), oneshot::channel());
        async move {
            // Waits where the channel is full: what is done has to be said.
            let _ = tokio::task::spawn_blocking(move || commands.send(Command::Done(done, written))).await;
            let _ = was_written.await;
        }
    }

    /// Keeps in mind what the bus keeps. Survives `kill -9` as soon as the future is done; where the
    /// disk does not take it, or nothing at present, it is not kept in mind and nothing else happens.
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

    /// How many times the log was opened again after a failure. One that keeps its records until they are done
    /// takes nothing then until it is told that they were [counted](Self::counted).
    pub(crate) fn reopened(&self) -> watch::Receiver<u64> {
        self.reopened.clone()
    }

    /// What is pending was recalled since the log was opened again for the `nth` time.
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

    /// Returns when the writer is no more: nothing is taken from then on.
    pub(crate) async fn ended(&self) {
        let _ = self.closed.clone().changed().await;
    }

    /// Commits all that was handed over before, then closes.
    pub(crate) fn close(&self) -> impl Future<Output = ()> + Send + use<> {
        let commands = self.commands.clone();
        let mut closed = self.closed.clone();
        async move {
            // Waits where the channel is full; the writer empties it. Fails where it has ended.
            let _ = tokio::task::spawn_blocking(move || drop(commands.send(Command::Close))).await;
            let _ = closed.changed().await;
        }
    }
}

const CLOSING: NotKept = NotKept(Cow::Borrowed("the log is closed"));
const CROWDED: NotKept = NotKept(Cow::Borrowed("too many messages wait for the disk"));
