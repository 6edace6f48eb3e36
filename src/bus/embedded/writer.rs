//! The one thread that writes. Comes in: messages, each with a place for its receipt. Goes out:
//! receipts, after the fsync of their batch. It refuses while the disk is short of space, and after a
//! failed write opens the log anew before it takes more.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use super::Shared;
use super::codec::id_key;
use super::store::{Keep, Store, StoreError};
use crate::bus::{Link, Receipt, Refusal};
use crate::message::Message;

/// Messages that wait for the writer, at most; their bytes are bounded by `server.bytes_in_flight`.
pub(super) const WAITING: usize = 8192;
const BATCH_MESSAGES: usize = 512;
/// Bytes.
const BATCH_BYTES: usize = 32 << 20;
/// How often to look at disk space, retention and a log that failed, when nothing comes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Job {
    pub message: Message,
    pub receipt: oneshot::Sender<Result<Receipt, Refusal>>,
}

pub(super) struct Writer {
    pub dir: PathBuf,
    pub keep: Keep,
    /// Bytes.
    pub reserve: u64,
    pub shared: Arc<Shared>,
    pub link: watch::Sender<Link>,
    pub jobs: mpsc::Receiver<Job>,
    /// Of batches whose fsync failed. The log may show them when it is opened anew, from the memory of
    /// the system alone: Linux takes a page whose write failed for clean. So none counts as kept.
    pub doubtful: HashSet<Vec<u8>>,
}

impl Writer {
    /// Runs until every sender is gone and what they sent is answered.
    pub(super) fn run(mut self, runtime: &Handle) {
        let mut batch = Vec::new();
        loop {
            let waiting = runtime.block_on(async {
                tokio::time::timeout(LOOK_EVERY, self.jobs.recv_many(&mut batch, BATCH_MESSAGES)).await
            });
            if waiting == Ok(0) {
                self.shared.set(None);
                return;
            }
            while !batch.is_empty() {
                let rest = batch.split_off(fitting(&batch));
                self.write(std::mem::replace(&mut batch, rest));
            }
            self.look_after();
        }
    }

    fn write(&mut self, jobs: Vec<Job>) {
        let Some(store) = self.taking() else {
            return refuse(jobs, "the embedded log takes nothing: its disk is short of space or failed");
        };
        let messages: Vec<_> = jobs.iter().map(|job| &job.message).collect();
        let ids = |messages: &[&Message]| -> Vec<_> {
            messages.iter().map(|message| id_key(message.topic(), message.id().as_bytes())).collect()
        };
        match store.append(&messages, &self.doubtful, Timestamp::now()) {
            Ok(receipts) => {
                if !self.doubtful.is_empty() {
                    for id in ids(&messages) {
                        self.doubtful.remove(&id);
                    }
                }
                self.shared.committed();
                for (job, receipt) in jobs.into_iter().zip(receipts) {
                    // Whoever asked may be gone; the message is kept all the same.
                    let _ = job.receipt.send(Ok(receipt));
                }
            }
            Err(error) => {
                drop(store);
                self.doubtful.extend(ids(&messages));
                self.fail(&error);
                refuse(jobs, "the embedded log could not write");
            }
        }
    }

    /// The store, if it is to take anything now.
    fn taking(&self) -> Option<Arc<Store>> {
        let store = self.shared.store()?;
        let short = free_space(&self.dir).is_none_or(|free| free < self.reserve);
        self.set_link(short);
        (!short).then_some(store)
    }

    fn set_link(&self, short: bool) {
        let next = if short { Link::Away } else { Link::Up };
        let changed = self.link.send_if_modified(|link| std::mem::replace(link, next) != next);
        if changed && short {
            let remedy = "free space on the disk of `embedded.dir`, or lower `embedded.max_bytes`";
            tracing::error!(remedy, "the embedded log takes nothing: less than `embedded.reserve` is free on its disk");
        } else if changed {
            tracing::info!("the embedded log takes messages");
        }
    }

    fn fail(&self, error: &StoreError) {
        tracing::error!(%error, "the embedded log failed; it takes nothing until it is opened anew");
        self.shared.set(None);
        self.link.send_replace(Link::Away);
    }

    /// Retention, disk space, and the way back from a failure.
    fn look_after(&mut self) {
        let Some(store) = self.shared.store() else { return self.reopen() };
        self.taking();
        match store.sound().and_then(|()| store.retain(Timestamp::now())) {
            Ok(true) => self.shared.committed(),
            Ok(false) => {}
            Err(error) => {
                drop(store);
                self.fail(&error);
            }
        }
    }

    fn reopen(&mut self) {
        if free_space(&self.dir).is_none_or(|free| free < self.reserve) {
            return;
        }
        match Store::open(&self.dir, self.keep) {
            Ok(store) => {
                store.know(self.shared.configured());
                self.doubtful.retain(|id| store.knows(id).unwrap_or(true));
                self.shared.set(Some(Arc::new(store)));
                self.taking();
            }
            // A reader may still hold the old one; the next look tries again.
            Err(StoreError::Locked) => {}
            Err(error) => tracing::error!(%error, "the embedded log cannot be opened anew"),
        }
    }
}

/// How many jobs from the front make one batch; at least one.
fn fitting(jobs: &[Job]) -> usize {
    let mut bytes = 0;
    let fit = jobs.iter().take_while(|job| {
        bytes += job.message.payload().len();
        bytes <= BATCH_BYTES
    });
    fit.count().max(1)
}

fn refuse(jobs: Vec<Job>, reason: &'static str) {
    for job in jobs {
        let _ = job.receipt.send(Err(Refusal::Transient { reason: reason.into() }));
    }
}

/// Bytes that this process may still write; `None` where the disk does not say.
pub(super) fn free_space(dir: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(dir).ok()?;
    Some(found.f_bavail * found.f_frsize)
}
