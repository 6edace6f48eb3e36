//! The one thread that writes: takes what waits, commits it at once, and hands out receipts after
//! the fsync. Between commits it looks after the disk's free space, retention, and a log that failed.
//! Comes in: messages. Goes out: receipts, refusals and the link.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{oneshot, watch};
use tracing::{error, info, warn};

use super::disk;
use super::retention::Retention;
use super::store::{AppendError, Store};
use crate::bus::{Link, Receipt, Refusal};
use crate::message::Message;

/// Messages and bytes of one commit, at most; one message may exceed the bytes.
const BATCH_MESSAGES: usize = 1024;
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// How often free space, retention and the database's health are looked at.
const ROUND: Duration = Duration::from_secs(1);

/// Waits between two attempts to open a failed log again.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Refusing ends only with this part of the reserve above it: a journal comes and goes with 64 MB.
const RESERVE_MARGIN: u64 = 4;

/// What the adapter asks of the writer.
pub(super) enum Order {
    Append(Append),
    /// Commit all that was handed over before, then close the log.
    Close,
}

/// A message that waits for its receipt. Its share of the memory budget is held until then.
pub(super) struct Append {
    pub(super) message: Arc<Message>,
    pub(super) receipt: oneshot::Sender<Result<Receipt, Refusal>>,
}

pub(super) struct Writer {
    pub(super) store: Arc<Store>,
    pub(super) orders: Receiver<Order>,
    pub(super) link: watch::Sender<Link>,
    pub(super) dir: PathBuf,
    pub(super) reserve: u64,
    pub(super) retention: Retention,
    pub(super) state: State,
}

/// Whether messages are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Taking,
    /// Less free space than the reserve.
    Full,
    /// fjall takes nothing more until it is opened again.
    Failed {
        retry: Instant,
        wait: Duration,
    },
}

impl Writer {
    /// Runs until it is told to close or the adapter is gone; the log is closed then.
    pub(super) fn run(mut self) {
        let away = AwayOnDrop(self.link.clone());
        self.round();
        let mut next_round = Instant::now() + ROUND;
        let mut batch = Vec::new();
        loop {
            let wait = next_round.saturating_duration_since(Instant::now());
            let closing = match self.orders.recv_timeout(wait) {
                Ok(Order::Append(first)) => {
                    let closing = self.gather(first, &mut batch);
                    self.commit(&mut batch);
                    closing
                }
                Ok(Order::Close) | Err(RecvTimeoutError::Disconnected) => true,
                Err(RecvTimeoutError::Timeout) => false,
            };
            if closing {
                break;
            }
            if Instant::now() >= next_round {
                self.round();
                next_round = Instant::now() + ROUND;
            }
        }
        self.store.close();
        away.done();
    }

    /// Takes what waits behind `first`; whether to close afterwards.
    fn gather(&self, first: Append, batch: &mut Vec<Append>) -> bool {
        let mut bytes = first.message.payload().len();
        batch.push(first);
        while batch.len() < BATCH_MESSAGES && bytes < BATCH_BYTES {
            match self.orders.try_recv() {
                Ok(Order::Append(append)) => {
                    bytes += append.message.payload().len();
                    batch.push(append);
                }
                Ok(Order::Close) => return true,
                Err(_) => break,
            }
        }
        false
    }

    fn commit(&mut self, batch: &mut Vec<Append>) {
        self.check_space();
        let answer = match self.state {
            State::Taking => self.append(batch),
            State::Full => Err("the disk has less free space than embedded.reserve"),
            State::Failed { .. } => Err("the log is being opened again after a failure"),
        };
        let mut receipts = answer.map(Vec::into_iter);
        for append in batch.drain(..) {
            let answer = match &mut receipts {
                Ok(receipts) => receipts.next().ok_or_else(|| transient("the log gave no receipt")),
                Err(reason) => Err(transient(reason)),
            };
            // The caller may have stopped waiting; the message is kept all the same.
            let _ = append.receipt.send(answer);
        }
    }

    fn append(&mut self, batch: &[Append]) -> Result<Vec<Receipt>, &'static str> {
        match self.store.append(batch.iter().map(|append| &*append.message)) {
            Ok(receipts) => {
                self.retain();
                Ok(receipts)
            }
            Err(AppendError::Behind) => {
                warn!("the disk is behind with its writes; messages are refused");
                Err("the disk is behind with its writes")
            }
            Err(AppendError::Failed(reason)) => {
                self.fail(&reason);
                Err("the disk failed to take it")
            }
        }
    }

    /// What has to be done from time to time, with or without messages.
    fn round(&mut self) {
        self.check_space();
        match self.state {
            State::Failed { retry, wait } if Instant::now() >= retry => self.reopen(wait),
            State::Failed { .. } => {}
            State::Taking | State::Full if !self.store.healthy() => self.fail("fjall's own threads have failed"),
            // Retention frees space, above all where the disk is full.
            State::Taking | State::Full => self.retain(),
        }
    }

    fn check_space(&mut self) {
        let free = match disk::free(&self.dir) {
            Ok(free) => free,
            Err(error) => {
                warn!(%error, "the free space of embedded.dir cannot be read");
                return;
            }
        };
        match self.state {
            State::Taking if free < self.reserve => {
                error!(
                    free,
                    reserve = self.reserve,
                    "free space is below embedded.reserve: nothing more is taken; free some on the disk of \
                     embedded.dir, or lower embedded.max_bytes"
                );
                self.enter(State::Full);
            }
            State::Full if free >= self.reserve + self.reserve / RESERVE_MARGIN => {
                info!(free, "there is free space again: messages are taken");
                self.enter(State::Taking);
            }
            State::Taking | State::Full | State::Failed { .. } => {}
        }
    }

    fn retain(&mut self) {
        if let Err(error) = self.try_retain() {
            self.fail(&error.to_string());
        }
    }

    fn try_retain(&self) -> Result<(), AppendError> {
        let now = Timestamp::now();
        let facts = self.store.facts();
        if facts.last().is_some_and(|active| self.retention.rolls(active, now)) {
            self.store.roll()?;
        }
        let facts = self.store.facts();
        let goes = self.retention.removes(&facts, now);
        if goes > 0 {
            self.store.remove_oldest(goes)?;
            let bytes: u64 = facts[..goes].iter().map(|segment| segment.bytes).sum();
            info!(segments = goes, bytes, "retention removed the oldest messages");
        }
        Ok(())
    }

    fn fail(&mut self, reason: &str) {
        error!(
            reason,
            "the log failed: messages are refused until it is open again; look after the disk of embedded.dir"
        );
        self.enter(State::Failed { retry: Instant::now(), wait: FIRST_RETRY });
    }

    fn reopen(&mut self, wait: Duration) {
        match self.store.reopen() {
            Ok(()) => {
                info!("the log is open again and whole: messages are taken");
                self.enter(State::Taking);
                self.check_space();
            }
            Err(error) => {
                error!(%error, retry_in = ?wait, "the log could not be opened again");
                let next = (wait * 2).min(LONGEST_RETRY);
                self.enter(State::Failed { retry: Instant::now() + wait, wait: next });
            }
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        let link = if state == State::Taking { Link::Up } else { Link::Away };
        self.link.send_if_modified(|current| std::mem::replace(current, link) != link);
    }
}

fn transient(reason: &'static str) -> Refusal {
    Refusal::Transient { reason: reason.into() }
}

/// Without the writer nothing is taken, however it ended.
struct AwayOnDrop(watch::Sender<Link>);

impl AwayOnDrop {
    fn done(self) {}
}

impl Drop for AwayOnDrop {
    fn drop(&mut self) {
        if std::thread::panicking() {
            error!("the writer of the log ended for no good reason: restart the bridge and report this");
        }
        self.0.send_replace(Link::Away);
    }
}
