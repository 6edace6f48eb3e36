//! The one thread that writes: it takes the waiting messages, commits them together, and hands out receipts after the
//! fsync. Between commits it checks free disk space, applies retention, and reopens a failed log.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tracing::{error, info, warn};

use super::disk;
use super::entry::{Entry, NotKept};
use super::failure::AppendError;
use super::files::Gone;
use super::retention::Retention;
use super::settings::{Keep, Settings};
use super::store::Store;
use crate::dedupe::DedupeEntry;
use crate::telemetry::{LOG_EVERY, Throttle};

/// The most messages and bytes in one commit; a single message may exceed the bytes.
const BATCH_MESSAGES: usize = 1024;
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// How often free space, retention and the database's health are checked.
const ROUND: Duration = Duration::from_secs(1);

/// Back-off between two attempts to reopen a failed log.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// The log takes messages again only once free space exceeds the reserve by this fraction of it: a segment of 64 MiB
/// comes and goes.
const RESERVE_MARGIN: u64 = 4;

/// A spool's segment is removed only when all its records are done. A segment of this size is closed, so that it can
/// be removed once nothing in it is pending.
const WORTH_GIVING_BACK: u64 = 1024 * 1024;

/// A request to the writer.
pub(super) enum Command {
    Append(Append),
    Done(Done, oneshot::Sender<()>),
    Remember(DedupeEntry, oneshot::Sender<()>),
    /// Commits everything submitted before, then closes the log.
    Close,
}

/// A message that waits for its receipt. It holds its share of the memory budget until then.
pub(super) struct Append {
    pub(super) entry: Arc<dyn Entry>,
    pub(super) receipt: oneshot::Sender<Result<(), NotKept>>,
}

/// Records of a topic that are no longer needed.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) topic: Arc<str>,
    pub(crate) offsets: Vec<u64>,
    /// Whether nothing at all is pending.
    pub(crate) empty: bool,
}

pub(super) struct Writer {
    store: Arc<Store>,
    commands: Receiver<Command>,
    taking: Taking,
    settings: Settings,
    state: State,
}

/// The contents of one commit.
#[derive(Default)]
struct Batch {
    appends: Vec<Append>,
    bytes: usize,
    known: Vec<DedupeEntry>,
    remembered: Vec<oneshot::Sender<()>>,
    done: Vec<(Done, oneshot::Sender<()>)>,
    closing: bool,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.closing
            || self.appends.len() + self.known.len() + self.done.len() >= BATCH_MESSAGES
            || self.bytes >= BATCH_BYTES
    }

    fn add(&mut self, command: Command) {
        match command {
            Command::Append(append) => {
                self.bytes += append.entry.payload().len();
                self.appends.push(append);
            }
            Command::Remember(known, written) => {
                self.known.push(known);
                self.remembered.push(written);
            }
            Command::Done(done, written) => self.done.push((done, written)),
            Command::Close => self.closing = true,
        }
    }
}

/// Whether the log takes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Taking,
    /// Less free space than the reserve.
    Full,
    /// A write failed: nothing may be written until the log goes on in another segment.
    Failed {
        retry: Instant,
        wait: Duration,
    },
}

impl Writer {
    pub(super) fn new(store: Arc<Store>, commands: Receiver<Command>, taking: Taking, settings: Settings) -> Self {
        Self { store, commands, taking, settings, state: State::Taking }
    }

    /// Runs until [`Command::Close`] or until all senders are gone; then closes the log.
    pub(super) fn run(mut self) {
        self.round();
        let mut next_round = Instant::now() + ROUND;
        loop {
            let wait = next_round.saturating_duration_since(Instant::now());
            match self.commands.recv_timeout(wait) {
                Ok(command) => {
                    let batch = self.gather(command);
                    let closing = batch.closing;
                    self.commit(batch);
                    if closing {
                        break;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= next_round {
                self.round();
                next_round = Instant::now() + ROUND;
            }
        }
        self.store.close();
    }

    /// The first command and those queued behind it.
    fn gather(&self, first: Command) -> Batch {
        let mut batch = Batch::default();
        batch.add(first);
        while !batch.is_full() {
            match self.commands.try_recv() {
                Ok(command) => batch.add(command),
                Err(_) => break,
            }
        }
        batch
    }

    fn commit(&mut self, mut batch: Batch) {
        self.settings.clock.look();
        self.check_space();
        if !batch.appends.is_empty() {
            self.append(&mut batch.appends, batch.bytes as u64);
        }
        if !batch.known.is_empty() {
            self.unwritten(self.store.remember(&batch.known));
        }
        for (done, written) in batch.done.drain(..) {
            self.done(&done);
            let _ = written.send(());
        }
        for remembered in batch.remembered.drain(..) {
            let _ = remembered.send(());
        }
    }

    fn append(&mut self, appends: &mut Vec<Append>, bytes: u64) {
        let answer = match self.state {
            State::Taking if self.is_full(bytes) => Err("is full (spool.max_bytes)"),
            State::Taking => self.try_append(appends),
            State::Full => Err("has less free disk space than its reserve"),
            State::Failed { .. } => Err("failed, and is not open again yet"),
        };
        let answer = answer.map_err(|reason| self.not_kept(reason));
        for append in appends.drain(..) {
            // The caller may have stopped waiting; the message is stored all the same.
            let _ = append.receipt.send(answer.clone());
        }
    }

    fn not_kept(&self, reason: &str) -> NotKept {
        let what = if self.settings.section == "embedded" { "embedded log" } else { self.settings.section };
        NotKept(format!("the {what} {reason}").into())
    }

    /// Whether the log has reached its size limit. A log that removes its oldest records never does.
    fn is_full(&self, more: u64) -> bool {
        match self.settings.keep {
            Keep::For(_) => false,
            Keep::UntilDone { bytes, .. } => self.store.bytes() + more > bytes,
        }
    }

    fn try_append(&mut self, appends: &[Append]) -> Result<(), &'static str> {
        match self.store.append(appends.iter().map(|append| &*append.entry)) {
            Ok(()) => {
                self.roll_if_due();
                Ok(())
            }
            Err(AppendError::Failed(error)) => {
                self.fail(&error);
                Err("could not write to its disk")
            }
            Err(AppendError::Gone(gone)) => {
                self.gone(&gone);
                Err("is not where it was opened")
            }
        }
    }

    /// What cannot be written costs at most a second copy of a message.
    fn unwritten(&self, written: io::Result<()>) {
        static UNWRITTEN: Throttle = Throttle::new(LOG_EVERY);
        if let Err(error) = written
            && let Some(more) = UNWRITTEN.pass()
        {
            let section = self.settings.section;
            warn!(%error, more, "cannot write to {section}.dir what was sent: after a restart it may be sent again");
        }
    }

    fn done(&mut self, done: &Done) {
        self.unwritten(self.store.done(&done.topic, &done.offsets));
        if done.empty && self.store.active_facts().is_some_and(|active| active.bytes >= WORTH_GIVING_BACK) {
            self.roll();
        }
        self.remove();
    }

    /// The periodic work, with or without messages.
    fn round(&mut self) {
        self.settings.clock.look();
        if let Err(gone) = self.store.in_place() {
            self.gone(&gone);
        }
        self.check_space();
        match self.state {
            State::Failed { retry, wait } if Instant::now() >= retry => self.reopen(wait),
            State::Failed { .. } => {}
            State::Taking | State::Full => self.roll_if_due(),
        }
        // Frees space, which matters most when the disk is full.
        self.remove();
    }

    fn check_space(&mut self) {
        static UNREAD: Throttle = Throttle::new(LOG_EVERY);
        if matches!(self.state, State::Failed { .. }) {
            return;
        }
        let Settings { section, dir, reserve, .. } = &self.settings;
        let free = match disk::free(dir) {
            Ok(free) => free,
            Err(error) => {
                if let Some(more) = UNREAD.pass() {
                    warn!(%error, more, "cannot read the free space of {section}.dir");
                }
                return;
            }
        };
        match self.state {
            State::Taking if free < *reserve => {
                error!(
                    free,
                    reserve,
                    "free space is below {section}.reserve: messages are refused; free some on the disk of \
                     {section}.dir, or lower {section}.max_bytes"
                );
                self.enter(State::Full);
            }
            State::Full if free >= reserve + reserve / RESERVE_MARGIN => {
                info!(free, "{section}.dir has free space again: messages are taken");
                self.enter(State::Taking);
            }
            State::Taking | State::Full | State::Failed { .. } => {}
        }
    }

    fn roll_if_due(&mut self) {
        let retention = match self.settings.keep {
            Keep::For(retention) => retention,
            Keep::UntilDone { bytes, .. } => Retention { age: Duration::MAX, bytes },
        };
        if self.store.active_facts().is_some_and(|active| retention.rolls(&active, &self.settings.clock)) {
            self.roll();
            self.remove();
        }
    }

    fn roll(&mut self) {
        if !matches!(self.state, State::Failed { .. })
            && let Err(error) = self.store.roll()
        {
            self.fail(&error);
        }
    }

    /// Removes what need not be kept.
    fn remove(&mut self) {
        let removed = match self.settings.keep {
            Keep::For(retention) => {
                self.store.remove_oldest(retention.removes(&self.store.facts(), &self.settings.clock))
            }
            Keep::UntilDone { .. } => self.store.remove_done(),
        };
        match (removed, self.settings.keep) {
            (Ok(0), _) => {}
            (Ok(bytes), Keep::For(_)) => info!(bytes, "retention removed the oldest messages"),
            (Ok(bytes), Keep::UntilDone { .. }) => {
                info!(bytes, "the {} freed the space of messages that were sent", self.settings.section)
            }
            (Err(error), _) => self.fail(&error),
        }
    }

    /// Takes nothing until the log is reopened.
    fn fail(&mut self, reason: &dyn std::fmt::Display) {
        let section = self.settings.section;
        if matches!(self.state, State::Failed { .. }) {
            return;
        }
        error!(%reason, "the log failed: messages are refused until it is open again; check the disk of {section}.dir");
        self.enter(State::Failed { retry: Instant::now(), wait: FIRST_RETRY });
    }

    /// Takes nothing until the original directory is back.
    fn gone(&mut self, gone: &Gone) {
        if matches!(self.state, State::Failed { .. }) {
            return;
        }
        let error = gone.explain(&self.settings);
        error!(%error, "the log is no longer where it was opened: messages are refused until it is back");
        self.enter(State::Failed { retry: Instant::now() + FIRST_RETRY, wait: FIRST_RETRY });
    }

    fn reopen(&mut self, wait: Duration) {
        match self.store.reopen() {
            Ok(()) => {
                info!("the log is open again, with all its records: messages are taken");
                self.enter(State::Taking);
                self.check_space();
            }
            Err(error) => {
                error!(%error, retry_in = ?wait, "reopening the log failed");
                let next = (wait * 2).min(LONGEST_RETRY);
                self.enter(State::Failed { retry: Instant::now() + wait, wait: next });
            }
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.taking.set(state == State::Taking);
    }
}

/// Whether the log takes messages. Reports `false` when the writer ends, however it ended.
pub(super) struct Taking {
    pub(super) state: watch::Sender<bool>,
    pub(super) on_change: Box<dyn Fn(bool) + Send>,
}

impl Taking {
    fn set(&self, taking: bool) {
        if self.state.send_if_modified(|current| std::mem::replace(current, taking) != taking) {
            (self.on_change)(taking);
        }
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        if std::thread::panicking() {
            error!("the writer of the log panicked; restart the bridge and report this");
        }
        self.set(false);
    }
}
