//! A pretend Terra on several connections: sends the plan's deliveries, retries those without a 2xx with the same
//! bytes and trace id, never gives up, and records everything in the ledger. It sends at the plan's rate, or as fast
//! as answers arrive. Also the forger, and clients that disconnect.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::ledger::{Attempt, End, Entry, Ledger};
use crate::plan::{Forgery, Manner, Plan};
use crate::support::http::{Connection, Response};
use crate::support::terra::{self, now};
use crate::wire::{self, Trust, Wire};

/// The vendor's first wait of 30 s and its longest of 8 h, scaled down.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(2);
const TOO_OLD: i64 = 27 * 60 * 60;

/// The bridge's current address, the signing secret, and over HTTPS the trusted certificates.
pub struct Destination {
    pub address: Mutex<Option<SocketAddr>>,
    pub secret: Mutex<String>,
    pub trust: Mutex<Option<Trust>>,
}

impl Destination {
    fn open(&self, to: SocketAddr) -> std::io::Result<Connection<Box<dyn Wire>>> {
        let trust = self.trust.lock().unwrap().clone();
        wire::open(to, trust.as_ref())
    }

    /// One request on a connection of its own.
    pub fn post(&self, to: SocketAddr, request: &terra::Attempt) -> std::io::Result<Response> {
        request.post_on(&mut self.open(to)?)
    }
}

pub struct Terra {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    ledger: Arc<Ledger>,
    destination: Arc<Destination>,
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

struct Jobs {
    waiting: BinaryHeap<Reverse<Job>>,
    running: usize,
    stopped: bool,
}

impl Jobs {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running == 0
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Job {
    due: Instant,
    number: usize,
    retries: u32,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Delivery,
    /// One of several concurrent copies; not retried.
    Copy,
    /// A captured delivery under another trace id; not retried.
    Replay,
}

impl Terra {
    /// Starts with nothing to send yet.
    pub fn start(plan: &Plan, ledger: Arc<Ledger>, destination: Arc<Destination>) -> Self {
        let jobs = Mutex::new(Jobs { waiting: BinaryHeap::new(), running: 0, stopped: false });
        let shared = Arc::new(Shared { ledger, destination, jobs, changed: Condvar::new() });
        let worker = |_| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.work())
        };
        let workers = (0..plan.connections).map(worker).collect();
        Self { shared, workers }
    }

    /// Sends everything outside a burst from now on, at this rate per second.
    pub fn send_at_rate(&self, plan: &Plan) {
        let (pause, now) = (Duration::from_secs(1) / plan.rate as u32, Instant::now());
        self.shared.send(0..plan.at_rate(), |number| now + pause * number as u32);
    }

    /// Sends the next one whenever a connection has its answer.
    pub fn send_as_fast_as_answers_come(&self, numbers: Range<usize>) {
        let now = Instant::now();
        self.shared.send(numbers, |_| now);
    }

    /// Sends nothing new any more; retries continue.
    pub fn keep_back(&self) {
        self.shared.jobs().waiting.retain(|Reverse(job)| job.retries > 0);
    }

    /// Whether everything has been sent and, except forgeries, got its 2xx.
    pub fn is_done(&self) -> bool {
        self.shared.jobs().is_empty()
    }

    /// Stops it, including what is in flight.
    pub fn stop(mut self) {
        self.shared.stop();
        for worker in self.workers.drain(..) {
            worker.join().expect("Terra does not panic");
        }
    }
}

impl Drop for Terra {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Shared {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap()
    }

    fn stop(&self) {
        self.jobs().stopped = true;
        self.changed.notify_all();
    }

    fn send(&self, numbers: Range<usize>, due: impl Fn(usize) -> Instant) {
        let mut jobs = self.jobs();
        for number in numbers {
            let job = |what| Reverse(Job { due: due(number), number, retries: 0, what });
            jobs.waiting.push(job(What::Delivery));
            if let Manner::AtOnce(copies) = self.ledger.entries[number].planned.manner {
                jobs.waiting.extend((1..copies).map(|_| job(What::Copy)));
            }
        }
        self.changed.notify_all();
    }

    fn work(&self) {
        let mut line = Line::default();
        while let Some(job) = self.next() {
            let again = self.perform(job, &mut line);
            let mut jobs = self.jobs();
            jobs.running -= 1;
            jobs.waiting.extend(again.map(Reverse));
            self.changed.notify_all();
        }
    }

    /// The next job when it is due; `None` once stopped.
    fn next(&self) -> Option<Job> {
        let mut jobs = self.jobs();
        loop {
            if jobs.stopped {
                return None;
            }
            let due = jobs.waiting.peek().map(|Reverse(job)| job.due);
            let now = Instant::now();
            jobs = match due {
                Some(due) if due <= now => {
                    jobs.running += 1;
                    return jobs.waiting.pop().map(|Reverse(job)| job);
                }
                Some(due) => self.changed.wait_timeout(jobs, due - now).unwrap().0,
                None => self.changed.wait(jobs).unwrap(),
            };
        }
    }

    /// Returns the follow-up job, if any.
    fn perform(&self, mut job: Job, line: &mut Line) -> Option<Job> {
        let entry = &self.ledger.entries[job.number];
        if job.what == What::Delivery && entry.acknowledged() {
            return None;
        }
        if job.what == What::Delivery && job.retries == 0 {
            self.ledger.sends();
        }
        let manner = entry.planned.manner;
        let sign = || (now(), self.destination.secret.lock().unwrap().clone());
        let (t, secret) = if entry.planned.signed_anew { sign() } else { entry.signed.get_or_init(sign).clone() };
        let request = request(entry, &job, t, &secret);
        let begun = self.ledger.now();
        let address = *self.destination.address.lock().unwrap();
        let end = match (address, manner) {
            (None, _) => End::Broken,
            (Some(to), Manner::LeavesEarly) if job.retries == 0 => self.leave(to, &request, request.body.len() / 2),
            (Some(to), Manner::LeavesUnanswered) if job.retries == 0 => self.leave(to, &request, request.body.len()),
            (Some(to), _) => line.post(&self.destination, to, &request),
        };
        let attempt = Attempt { begun, ended: self.ledger.now(), end };
        let (succeeded, answered) = (attempt.succeeded(), matches!(attempt.end, End::Answered { .. }));
        self.ledger.record(job.number, attempt);
        let again = match (manner, job.what) {
            (Manner::Replayed, What::Delivery) if succeeded => {
                job.what = What::Replay;
                true
            }
            (_, What::Copy | What::Replay) => false,
            (Manner::Forged(_), _) => !answered,
            _ => !succeeded,
        };
        let wait = (FIRST_RETRY * (1 << job.retries.min(8))).min(LONGEST_RETRY);
        job.retries += 1;
        job.due = Instant::now() + wait;
        again.then_some(job)
    }

    /// Sends the head and that many bytes of the body, then disconnects.
    fn leave(&self, to: SocketAddr, request: &terra::Attempt, bytes: usize) -> End {
        let Ok(mut connection) = self.destination.open(to) else { return End::Broken };
        let sent = connection.write(request.head(request.body.len()).as_bytes());
        match sent.and_then(|()| connection.write(&request.body[..bytes])) {
            Ok(()) => End::Left,
            Err(_) => End::Broken,
        }
    }
}

fn request(entry: &Entry, job: &Job, t: i64, secret: &str) -> terra::Attempt {
    let planned = &entry.planned;
    let mut request = terra::Attempt::of(entry.body()).t(t).secret(secret);
    if planned.traced {
        let replay = if job.what == What::Replay { "-again" } else { "" };
        let trace = format!("trace-{:x}-{}{replay}", planned.salt, planned.number);
        request = request.header("x-terra-trace-id", &trace);
    }
    match planned.manner {
        Manner::Forged(Forgery::Unsigned) => request.signature(""),
        Manner::Forged(Forgery::OtherSecret) => request.secret("a secret that nobody gave"),
        Manner::Forged(Forgery::OtherBody) => {
            let mut other = request.clone();
            other.body[0] ^= 1;
            request.signature(&format!("t={t},v1={}", other.v1()))
        }
        Manner::Forged(Forgery::OtherTime) => {
            let signature = format!("t={},v1={}", t - 1, request.v1());
            request.signature(&signature)
        }
        Manner::Forged(Forgery::TooOld) => request.t(t - TOO_OLD),
        _ => request,
    }
}

/// A connection, reused for as long as it lasts; it keeps the trust that Terra had when it was opened.
#[derive(Default)]
struct Line(Option<Kept>);

struct Kept {
    to: SocketAddr,
    trust: Option<Trust>,
    connection: Connection<Box<dyn Wire>>,
}

impl Line {
    fn post(&mut self, destination: &Destination, to: SocketAddr, request: &terra::Attempt) -> End {
        let trust = destination.trust.lock().unwrap().clone();
        let kept = self.0.take().filter(|kept| kept.to == to && kept.trust == trust);
        let connection = match kept {
            Some(kept) => Ok(kept.connection),
            None => wire::open(to, trust.as_ref()),
        };
        let Ok(mut connection) = connection else { return End::Broken };
        match request.post_on(&mut connection) {
            Ok(response) => {
                let said: serde_json::Value = serde_json::from_slice(&response.body).unwrap_or_default();
                if response.header("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close")) {
                    self.0 = Some(Kept { to, trust, connection });
                }
                End::Answered {
                    status: response.status,
                    outcome: said["outcome"].as_str().unwrap_or_default().to_owned(),
                    id: said["id"].as_str().map(str::to_owned),
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => End::Unanswered,
            Err(_) => End::Broken,
        }
    }
}
