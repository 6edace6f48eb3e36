//! What was sent, when, and the answer; and when which fault lasted. Written by the pretend Terra and the faults,
//! read by the judge.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::bodies;
use crate::kinds::Kind;
use crate::plan::{Plan, Planned};

pub type Hash = [u8; 32];

pub fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

pub struct Ledger {
    pub started: Instant,
    pub entries: Vec<Entry>,
    sent: AtomicUsize,
    faults: Mutex<Vec<Fault>>,
    /// When the spool was queried, and when it had answered that it is empty.
    emptied: Mutex<Vec<(Duration, Duration)>>,
    violations: Mutex<Vec<String>>,
}

pub struct Entry {
    pub planned: Planned,
    /// The first signature's `t` and secret, if all attempts use that one.
    pub signed: OnceLock<(i64, String)>,
    body: OnceLock<Vec<u8>>,
    attempts: Mutex<Vec<Attempt>>,
}

/// One request. Times are relative to the ledger's start.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub begun: Duration,
    pub ended: Duration,
    pub end: End,
}

#[derive(Debug, Clone)]
pub enum End {
    Answered {
        status: u16,
        outcome: String,
        id: Option<String>,
    },
    /// The client disconnected by itself.
    Left,
    /// No connection, or a broken one.
    Broken,
    /// The client timed out.
    Unanswered,
}

impl Attempt {
    pub fn succeeded(&self) -> bool {
        matches!(self.end, End::Answered { status: 200..=299, .. })
    }

    pub fn spooled(&self) -> bool {
        matches!(&self.end, End::Answered { status: 200..=299, outcome, .. } if outcome == "spooled")
    }

    /// For a 2xx, the id and whether the bridge called it a duplicate.
    pub fn receipt(&self) -> Option<(Option<&str>, bool)> {
        match &self.end {
            End::Answered { status: 200..=299, outcome, id } => Some((id.as_deref(), outcome == "duplicate")),
            _ => None,
        }
    }

    pub fn overlaps(&self, fault: &Fault, settles: Duration) -> bool {
        self.begun <= fault.ended + settles && fault.begun <= self.ended
    }
}

/// From before the fault began until after it ended. Times are relative to the ledger's start.
#[derive(Debug, Clone)]
pub struct Fault {
    pub kind: Kind,
    pub begun: Duration,
    pub ended: Duration,
    /// The last part of the topic's name, if the fault affects only one topic.
    pub topic: Option<&'static str>,
    /// When everything that it removes from the bus was gone, if that was before its end.
    pub taken: Option<Duration>,
}

impl Entry {
    pub fn body(&self) -> &[u8] {
        self.body.get_or_init(|| bodies::body(&self.planned))
    }

    pub fn topic(&self) -> &'static str {
        bodies::topic(self.planned.content)
    }

    pub fn attempts(&self) -> Vec<Attempt> {
        self.attempts.lock().unwrap().clone()
    }

    pub fn acknowledged(&self) -> bool {
        self.attempts.lock().unwrap().iter().any(Attempt::succeeded)
    }
}

impl Ledger {
    pub fn new(plan: &Plan) -> Self {
        let entry = |planned: &Planned| Entry {
            planned: planned.clone(),
            signed: OnceLock::new(),
            body: OnceLock::new(),
            attempts: Mutex::default(),
        };
        Self {
            started: Instant::now(),
            entries: plan.deliveries.iter().map(entry).collect(),
            sent: AtomicUsize::new(0),
            faults: Mutex::default(),
            emptied: Mutex::default(),
            violations: Mutex::default(),
        }
    }

    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Records the first attempt of a delivery.
    pub fn sends(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    pub fn record(&self, number: usize, attempt: Attempt) {
        self.entries[number].attempts.lock().unwrap().push(attempt);
    }

    pub fn fault(&self, fault: Fault) {
        self.faults.lock().unwrap().push(fault);
    }

    pub fn faults(&self) -> Vec<Fault> {
        self.faults.lock().unwrap().clone()
    }

    /// The spool was queried and has answered that it is empty. Times are relative to the ledger's start.
    pub fn spool_is_empty(&self, asked: Duration, said: Duration) {
        self.emptied.lock().unwrap().push((asked, said));
    }

    /// When everything spooled before `at` had certainly left the spool.
    pub fn drained(&self, at: Duration) -> Option<Duration> {
        let emptied = self.emptied.lock().unwrap();
        emptied.iter().filter(|(asked, _)| *asked >= at).map(|(_, said)| *said).min()
    }

    /// Records a violation, whatever the judge finds.
    pub fn violation(&self, what: String) {
        self.violations.lock().unwrap().push(what);
    }

    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap().clone()
    }
}
