//! The promise, held against ledger and bus: a 2xx means that the bus keeps the event; nothing else
//! gets a 2xx; nothing that Terra signed is lost while anyone could still have saved it.
//!
//! Only a 2xx creates an obligation. It ends where the topic was deleted after the bus had kept the
//! delivery: when its 2xx came from an attempt that began before the topic was there again, or was a
//! `duplicate` of such an attempt.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use terra_bridge::samples::SAMPLES;

use crate::kinds::{BusName, Kind};
use crate::ledger::{Attempt, End, Entry, Fault, Hash, Ledger, hash};
use crate::plan::{Manner, Plan};
use crate::report::Line;
use crate::support::consumers::Got;

/// The vendor's shortest time limit.
const IN_TIME: Duration = Duration::from_secs(8);
/// How long after a fault is mended an attempt may still have to do with it: the longest
/// `server.publish_timeout`.
const SETTLES: Duration = Duration::from_secs(5);

/// Attempts of one delivery that a violation names.
const TOLD: usize = 8;

pub struct Judge<'l> {
    ledger: &'l Ledger,
    bus: BusName,
    remembers: Memory,
    prefix: String,
    numbers: HashMap<Hash, usize>,
    copies: BTreeMap<usize, Vec<Copy>>,
    line: Line,
}

/// Where the bridge remembers what was kept.
enum Memory {
    Process,
    Spool,
    Log,
}

struct Copy {
    topic: String,
    id: Option<String>,
}

impl<'l> Judge<'l> {
    pub fn new(ledger: &'l Ledger, plan: &Plan, prefix: String, line: Line) -> Self {
        let numbers = ledger.entries.iter().map(|entry| (hash(entry.body()), entry.planned.number)).collect();
        let remembers = match (plan.bus, plan.spool) {
            (BusName::Embedded, _) => Memory::Log,
            (_, true) => Memory::Spool,
            (_, false) => Memory::Process,
        };
        Self { ledger, bus: plan.bus, remembers, prefix, numbers, copies: BTreeMap::new(), line }
    }

    /// One message of the bus.
    pub fn sees(&mut self, got: Got) {
        let topic = got.topic.strip_prefix(&self.prefix).unwrap_or(&got.topic).trim_start_matches('.').to_owned();
        if SAMPLES.iter().any(|sample| sample.body.as_bytes() == got.payload) {
            // Of the warming-up.
            return;
        }
        let Some(number) = self.numbers.get(&hash(&got.payload)) else {
            self.line.altered += 1;
            let length = got.payload.len();
            return self.fails(format!("{length} bytes on `{topic}` that nobody sent"));
        };
        if self.ledger.entries[*number].planned.manner.is_forged() {
            self.line.forged_accepted += 1;
            return self.fails(format!("forged delivery {number} is on `{topic}`"));
        }
        let id = got.attribute("id");
        self.copies.entry(*number).or_default().push(Copy { topic, id });
    }

    /// When everything was seen.
    pub fn judges(mut self) -> Line {
        let faults = self.ledger.faults();
        for entry in &self.ledger.entries {
            let attempts = entry.attempts();
            self.line.sent += 1;
            self.line.attempts += attempts.len();
            self.line.left += attempts.iter().filter(|attempt| matches!(attempt.end, End::Left)).count();
            self.line.at_once += usize::from(matches!(entry.planned.manner, Manner::AtOnce(_)));
            self.line.replayed += usize::from(entry.planned.manner == Manner::Replayed);
            self.times(entry, &attempts, &faults);
            match entry.planned.manner {
                Manner::Forged(_) => self.forged(entry, &attempts),
                _ => self.honest(entry, &attempts, &faults),
            }
        }
        let said = self.ledger.violations();
        self.line.violations.extend(said);
        let stood = |fault: &Fault| {
            format!("{} {:.2}-{:.2}s", fault.kind, fault.begun.as_secs_f32(), fault.ended.as_secs_f32())
        };
        self.line.stood = faults.iter().map(stood).collect();
        self.line
    }

    fn fails(&mut self, what: String) {
        self.line.violations.push(what);
    }

    fn times(&mut self, entry: &Entry, attempts: &[Attempt], faults: &[Fault]) {
        for attempt in attempts {
            let took = attempt.ended - attempt.begun;
            if let End::Answered { .. } = attempt.end {
                self.line.slowest_ms = self.line.slowest_ms.max(took.as_millis() as u64);
            }
            let away = |fault: &Fault| fault.kind.takes_the_bridge_away() && attempt.overlaps(fault, Duration::ZERO);
            if faults.iter().any(away) {
                continue;
            }
            let number = entry.planned.number;
            match attempt.end {
                End::Answered { status, .. } if took > IN_TIME => {
                    self.fails(format!("delivery {number} was answered {status} after {took:?}"));
                }
                End::Unanswered => self.fails(format!("delivery {number} had no answer after {took:?}")),
                End::Broken => {
                    let at = attempt.begun;
                    self.fails(format!("delivery {number} lost its connection at {at:?} though the bridge was up"));
                }
                End::Answered { .. } | End::Left => {}
            }
        }
    }

    fn forged(&mut self, entry: &Entry, attempts: &[Attempt]) {
        self.line.forged += 1;
        if attempts.iter().any(Attempt::succeeded) {
            self.line.forged_accepted += 1;
            self.fails(format!("forged delivery {} was answered 2xx", entry.planned.number));
        }
    }

    fn honest(&mut self, entry: &Entry, attempts: &[Attempt], faults: &[Fault]) {
        let number = entry.planned.number;
        let copies = self.copies.remove(&number).unwrap_or_default();
        let topic = entry.topic();
        if attempts.iter().any(Attempt::succeeded) {
            self.line.acknowledged += 1;
            if !copies.is_empty() {
                self.line.kept += 1;
            } else if deleted(topic, attempts, faults) {
                self.line.deleted += 1;
            } else {
                self.line.lost += 1;
                let size = entry.body().len();
                self.fails(format!("delivery {number} ({topic}, {size} bytes) is lost: {}", story(attempts)));
            }
        } else {
            self.line.given_up += 1;
            self.fails(format!("delivery {number} ({topic}) never got a 2xx: {}", story(attempts)));
        }
        if let Some(stray) = copies.iter().find(|copy| copy.topic != topic) {
            self.fails(format!("delivery {number} belongs on `{topic}` and is on `{}`", stray.topic));
        }
        if entry.planned.manner != Manner::Replayed {
            self.ids(number, &copies, attempts);
        }
        if copies.len() > 1 {
            let replayed = entry.planned.manner == Manner::Replayed;
            let forgot = replayed && self.forgets(attempts, faults);
            self.doubled(number, copies.len(), usize::from(forgot), attempts, faults);
        }
    }

    fn ids(&mut self, number: usize, copies: &[Copy], attempts: &[Attempt]) {
        let answered = attempts.iter().filter_map(|attempt| attempt.receipt()).map(|(id, _)| id);
        let mut ids: Vec<_> = copies.iter().map(|copy| copy.id.as_deref()).chain(answered).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() > 1 || ids.first() == Some(&None) {
            self.fails(format!("delivery {number} has {} ids, of messages and answers", ids.len()));
        }
    }

    /// Whether the bridge may have forgotten between the first attempt and the last what it had kept. A
    /// spool's memory of that outlives the process; a power cut may take the end of it.
    fn forgets(&self, attempts: &[Attempt], faults: &[Fault]) -> bool {
        let (Some(first), Some(last)) = (attempts.first(), attempts.last()) else { return false };
        let between = |fault: &Fault| fault.begun <= last.ended && fault.ended >= first.begun;
        let forgets = |fault: &Fault| match self.remembers {
            Memory::Log => false,
            Memory::Spool => fault.kind == Kind::PowerLoss,
            Memory::Process => fault.kind.takes_the_bridge_away(),
        };
        faults.iter().any(|fault| forgets(fault) && between(fault))
    }

    /// Where the bus itself tells copies apart there is one. Elsewhere one more for each attempt that
    /// a fault, or its own client, may have kept from reading what the bus answered: even a client
    /// library that numbers its messages sends them anew under another number after a time-out. What
    /// was spooled is sent by the bridge, as often as faults make it.
    fn doubled(&mut self, number: usize, copies: usize, forgot: usize, attempts: &[Attempt], faults: &[Fault]) {
        let faults: Vec<_> = faults.iter().filter(|fault| fault.kind.excuses_a_copy()).collect();
        let excused = |attempt: &&Attempt| {
            matches!(attempt.end, End::Left) || faults.iter().any(|fault| attempt.overlaps(fault, SETTLES))
        };
        let spooled = |attempt: &Attempt| match &attempt.end {
            End::Answered { outcome, .. } if outcome == "spooled" => {
                faults.iter().any(|fault| attempt.begun <= fault.ended + SETTLES)
            }
            _ => false,
        };
        let allowed = match self.bus.is_kafka() {
            true if attempts.iter().any(spooled) => usize::MAX,
            true => 1 + forgot + attempts.iter().filter(excused).count(),
            // Under another trace id it is another message to a bus.
            false => 1 + forgot,
        };
        if copies <= allowed {
            self.line.doubled_allowed += 1;
        } else {
            self.line.doubled += 1;
            self.fails(format!("delivery {number} is there {copies} times, allowed {allowed}: {}", story(attempts)));
        }
    }
}

/// Whether the obligation ended with the topic.
fn deleted(topic: &str, attempts: &[Attempt], faults: &[Fault]) -> bool {
    let deletions = faults
        .iter()
        .filter(|fault| fault.kind == Kind::TopicDeleted && fault.topic.is_none_or(|deleted| deleted == topic));
    let Some(last) = deletions.map(|fault| fault.ended).max() else { return false };
    let earlier = attempts.iter().any(|attempt| attempt.begun <= last);
    attempts.iter().any(|attempt| match attempt.receipt() {
        Some((_, duplicate)) => attempt.begun <= last || (duplicate && earlier),
        None => false,
    })
}

/// What happened to a delivery, for whoever has to find out why: the last attempts.
fn story(attempts: &[Attempt]) -> String {
    let told = attempts.iter().map(|attempt| {
        let end = match &attempt.end {
            End::Answered { status, outcome, .. } => format!("{status} {outcome}"),
            other => format!("{other:?}").to_lowercase(),
        };
        format!("{:.2}-{:.2}s {end}", attempt.begun.as_secs_f32(), attempt.ended.as_secs_f32())
    });
    let untold = attempts.len().saturating_sub(TOLD);
    let more = (untold > 0).then(|| format!("{untold} attempts before"));
    more.into_iter().chain(told.skip(untold)).collect::<Vec<_>>().join(", ")
}
