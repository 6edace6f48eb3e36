//! The one thread that writes: it takes the waiting messages, commits them together, and hands out receipts after the
//! fsync. Between commits it checks free disk space, applies retention, and reopens a failed log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tracing::{error, info, warn};

use super::directory::Gone;
use super::disk;
use super::entry::Entry;
use super::entry::LedgerEntry;
use super::entry::NotKept;
use super::entry::Receipt;
use super::failure::AppendError;
use super::retention::{Facts, Retention};
use super::settings::{Keep, Settings};
use super::store::Store;
use crate::telemetry::{LOG_EVERY, Throttle};

/// The most messages and bytes in one commit; a single message may exceed the bytes.
const BATCH_MESSAGES: usize = 1024;
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// How often free space, retention and the database's health are checked.
const ROUND: Duration = Duration::from_secs(1);

/// Back-off between two attempts to reopen a failed log.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// The log takes messages again only once free space exceeds the reserve by this fraction of it: a journal of 64 MB
/// comes and goes.
const RESERVE_MARGIN: u64 = 4;

/// A spool's segment is removed only when all its records are done. A segment of this size is closed, so that it can
/// be removed once nothing in it is pending.
const WORTH_GIVING_BACK: u64 = 1024 * 1024;

/// A request to the writer.
pub(super) enum Command {
    Append(Append),
    Done(Done, oneshot::Sender<()>),
    Remember(LedgerEntry, oneshot::Sender<()>),
    /// The pending records were recounted after this many reopenings.
    Counted(u64),
    /// Commits everything submitted before, then closes the log.
    Close,
}

/// A message that waits for its receipt. It holds its share of the memory budget until then.
pub(super) struct Append {
    pub(super) entry: Arc<dyn Entry>,
    pub(super) receipt: oneshot::Sender<Result<Receipt, NotKept>>,
}

/// Records that are no longer needed.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) records: Vec<(Arc<str>, u64)>,
    /// For each topic, the offset before which nothing is pending.
    pub(crate) cursors: Vec<(Arc<str>, u64)>,
    /// Whether nothing at all is pending.
    pub(crate) empty: bool,
}

pub(super) struct Writer {
    store: Arc<Store>,
    commands: Receiver<Command>,
    taking: Taking,
    settings: Settings,
    state: State,
    cursors: BTreeMap<Arc<str>, u64>,
    /// How many times the log was reopened.
    reopened: watch::Sender<u64>,
}

/// The contents of one commit.
#[derive(Default)]
struct Batch {
    appends: Vec<Append>,
    bytes: usize,
    known: Vec<LedgerEntry>,
    remembered: Vec<oneshot::Sender<()>>,
    done: Vec<(Done, oneshot::Sender<()>)>,
    counted: Option<u64>,
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
            Command::Counted(nth) => self.counted = Some(nth),
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
    /// Reopened, but not recounted: some refused messages may be on disk all the same.
    Uncounted,
    /// fjall takes nothing more until it is reopened.
    Failed {
        retry: Instant,
        wait: Duration,
    },
}

impl Writer {
    pub(super) fn new(
        store: Arc<Store>,
        commands: Receiver<Command>,
        taking: Taking,
        reopened: watch::Sender<u64>,
        settings: Settings,
    ) -> Self {
        Self { store, commands, taking, settings, state: State::Taking, cursors: BTreeMap::new(), reopened }
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
        if self.state == State::Uncounted && batch.counted == Some(*self.reopened.borrow()) {
            self.take_again();
        }
        self.settings.clock.look();
        self.check_space();
        if !batch.appends.is_empty() {
            self.append(&mut batch.appends, batch.bytes as u64);
        }
        if !batch.known.is_empty() {
            self.remember(&batch.known);
        }
        for (done, written) in batch.done.drain(..) {
            self.done(done);
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
            State::Failed { .. } | State::Uncounted => Err("failed, and is not open again yet"),
        };
        let mut receipts = answer.map(Vec::into_iter);
        for append in appends.drain(..) {
            let answer = match &mut receipts {
                Ok(receipts) => receipts.next().ok_or_else(|| self.not_kept("gave no receipt")),
                Err(reason) => Err(self.not_kept(reason)),
            };
            // The caller may have stopped waiting; the message is stored all the same.
            let _ = append.receipt.send(answer);
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
            Keep::UntilDone { bytes, .. } => total(&self.store.facts()) + more > bytes,
        }
    }

    fn try_append(&mut self, appends: &[Append]) -> Result<Vec<Receipt>, &'static str> {
        match self.store.append(appends.iter().map(|append| &*append.entry)) {
            Ok(receipts) => {
                self.retain();
                Ok(receipts)
            }
            Err(AppendError::Behind) => {
                warn!("the disk is behind with its writes; messages are refused");
                Err("is behind with its disk writes")
            }
            Err(AppendError::Failed(reason)) => {
                self.fail(&reason);
                Err("could not write to its disk")
            }
            Err(AppendError::Gone(gone)) => {
                self.gone(&gone);
                Err("is not where it was opened")
            }
        }
    }

    fn remember(&mut self, known: &[LedgerEntry]) {
        // A delivery that is not remembered costs at most a second copy; a write in the wrong state can cost the log.
        if self.state != State::Taking {
            return;
        }
        if let Err(AppendError::Failed(reason)) = self.store.remember(known) {
            self.fail(&reason);
        }
    }

    fn done(&mut self, done: Done) {
        self.cursors.extend(done.cursors);
        let records = done.records.iter().map(|(topic, offset)| (&**topic, *offset));
        match self.store.done(records) {
            Ok(()) => {
                if done.empty && self.store.facts().last().is_some_and(|last| last.bytes >= WORTH_GIVING_BACK) {
                    let rolled = self.store.roll();
                    self.failed(rolled);
                }
                self.retain();
            }
            // They stay pending on disk, and are sent once more after the next start.
            Err(AppendError::Behind) => {}
            Err(error) => self.fail(&error.to_string()),
        }
    }

    fn failed(&mut self, result: Result<(), AppendError>) {
        if let Err(error) = result {
            self.fail(&error.to_string());
        }
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
            State::Taking | State::Full | State::Uncounted if !self.store.healthy() => {
                self.fail("fjall's own threads have failed")
            }
            // Retention frees space, which matters most when the disk is full.
            State::Taking | State::Full | State::Uncounted => self.retain(),
        }
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
            State::Taking | State::Full | State::Uncounted | State::Failed { .. } => {}
        }
    }

    fn retain(&mut self) {
        let retained = self.try_retain();
        self.failed(retained);
    }

    fn try_retain(&self) -> Result<(), AppendError> {
        let clock = &self.settings.clock;
        let facts = self.store.facts();
        let rolls = facts.last().is_some_and(|active| match self.settings.keep {
            Keep::For(retention) => retention.rolls(active, clock),
            Keep::UntilDone { bytes, .. } => Retention { age: Duration::MAX, bytes }.rolls(active, clock),
        });
        if rolls {
            self.store.roll()?;
        }
        if matches!(self.settings.keep, Keep::UntilDone { .. }) {
            let bytes = self.store.remove_done()?;
            if bytes > 0 {
                info!(bytes, "the {} freed the space of messages that were sent", self.settings.section);
            }
        }
        let facts = self.store.facts();
        let goes = match self.settings.keep {
            Keep::For(retention) => retention.removes(&facts, clock),
            Keep::UntilDone { .. } => self.store.drained(&self.cursors),
        };
        if goes > 0 {
            self.store.remove_oldest(goes)?;
            let bytes = total(&facts[..goes]);
            match self.settings.keep {
                Keep::For(_) => info!(segments = goes, bytes, "retention removed the oldest messages"),
                Keep::UntilDone { .. } => {
                    info!(
                        segments = goes,
                        bytes, "the {} freed the space of messages that were sent", self.settings.section
                    )
                }
            }
        }
        Ok(())
    }

    /// Takes nothing until the log is reopened.
    pub(super) fn fail(&mut self, reason: &str) {
        let section = self.settings.section;
        if matches!(self.state, State::Failed { .. }) {
            return;
        }
        error!(reason, "the log failed: messages are refused until it is open again; check the disk of {section}.dir");
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
                if matches!(self.settings.keep, Keep::UntilDone { .. }) {
                    self.enter(State::Uncounted);
                } else {
                    self.take_again();
                }
                self.reopened.send_modify(|times| *times += 1);
            }
            Err(error) => {
                error!(%error, retry_in = ?wait, "reopening the log failed");
                let next = (wait * 2).min(LONGEST_RETRY);
                self.enter(State::Failed { retry: Instant::now() + wait, wait: next });
            }
        }
    }

    fn take_again(&mut self) {
        info!("the log is open again, with all its records: messages are taken");
        self.enter(State::Taking);
        self.check_space();
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.taking.set(state == State::Taking);
    }
}

fn total(facts: &[Facts]) -> u64 {
    facts.iter().map(|segment| segment.bytes).sum()
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
