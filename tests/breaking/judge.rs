//! Checks the promise against ledger and bus: a 2xx means that the bus keeps the event; nothing else gets a 2xx;
//! nothing that Terra signed is lost while anyone could still have saved it.
//!
//! Only a 2xx creates an obligation. The obligation ends if the topic was deleted after the bus had kept the
//! delivery: when its 2xx came from an attempt that began before the topic was recreated, or was a `duplicate` of
//! such an attempt. The same holds if somebody removed the directory of the embedded log, or of the spool that had
//! the delivery.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use terra_bridge::samples::SAMPLES;

use crate::kinds::{BusName, Kind};
use crate::ledger::{Attempt, End, Entry, Fault, Hash, Ledger, hash};
use crate::plan::{Manner, Plan};
use crate::report::Line;
use crate::support::consumers::Got;

/// Tolerance beyond `server.publish_timeout`: for the transfer of the largest body, and a busy machine.
const SLACK: Duration = Duration::from_secs(3);
/// The minimum time before a spooled message is sent again: the shortest `server.publish_timeout` minus the spool's
/// share.
const SENT_AGAIN: Duration = Duration::from_millis(1500);
/// How long after a fault ends it may still affect an attempt: the longest `server.publish_timeout`.
const SETTLES: Duration = Duration::from_secs(5);

/// The most attempts of one delivery to list in a violation.
const TOLD: usize = 8;

pub struct Judge<'l> {
    ledger: &'l Ledger,
    bus: BusName,
    /// Deliveries from this number on belong to a burst, which may end before all are sent.
    burst: usize,
    remembers: Memory,
    in_time: Duration,
    /// A refusal after this time means that the bus did not answer in time.
    slow: Duration,
    prefix: String,
    seen: usize,
    numbers: HashMap<Hash, usize>,
    copies: BTreeMap<usize, Vec<Copy>>,
    line: Line,
}

/// Where the bridge remembers kept deliveries.
enum Memory {
    Process,
    Spool,
    Log,
}

struct Copy {
    /// The position among all messages of the bus: per topic in its order.
    place: usize,
    topic: String,
    key: Option<String>,
    id: Option<String>,
}

impl<'l> Judge<'l> {
    pub fn new(ledger: &'l Ledger, plan: &Plan, prefix: String, line: Line) -> Self {
        let sent = ledger.entries.iter().filter(|entry| !entry.attempts().is_empty());
        let numbers = sent.map(|entry| (hash(entry.body()), entry.planned.number)).collect();
        let remembers = match (plan.bus, plan.spool) {
            (BusName::Embedded, _) => Memory::Log,
            (_, true) => Memory::Spool,
            (_, false) => Memory::Process,
        };
        let publish_timeout = Duration::from_secs(plan.publish_timeout);
        let (in_time, slow) = (publish_timeout + SLACK, publish_timeout / 2);
        let (bus, burst, copies) = (plan.bus, plan.at_rate(), BTreeMap::new());
        Self { ledger, bus, burst, remembers, in_time, slow, prefix, seen: 0, numbers, copies, line }
    }

    /// Takes one message of the bus.
    pub fn sees(&mut self, got: Got) {
        let topic = got.topic.strip_prefix(&self.prefix).unwrap_or(&got.topic).trim_start_matches('.').to_owned();
        if SAMPLES.iter().any(|sample| sample.body.as_bytes() == got.payload) {
            // A warm-up message.
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
        let (place, key, id) = (self.seen, got.attribute("partitionkey"), got.attribute("id"));
        self.seen += 1;
        self.copies.entry(*number).or_default().push(Copy { place, topic, key, id });
    }

    /// Call it when every message was seen.
    pub fn judges(mut self) -> Line {
        let faults = self.ledger.faults();
        self.line.faults = faults.iter().map(|fault| fault.kind.to_string()).collect();
        self.order(&faults);
        let between: Vec<_> = faults.iter().filter(|fault| fault.kind.excuses_a_copy()).cloned().collect();
        let between = [between, self.slowness()].concat();
        for entry in &self.ledger.entries {
            let attempts = entry.attempts();
            if attempts.is_empty() && entry.planned.number >= self.burst {
                continue;
            }
            self.line.sent += usize::from(!attempts.is_empty());
            self.line.attempts += attempts.len();
            self.line.left += attempts.iter().filter(|attempt| matches!(attempt.end, End::Left)).count();
            self.line.at_once += usize::from(matches!(entry.planned.manner, Manner::AtOnce(_)));
            self.line.replayed += usize::from(entry.planned.manner == Manner::Replayed);
            self.times(entry, &attempts, &faults);
            match entry.planned.manner {
                Manner::Forged(_) => self.forged(entry, &attempts),
                _ => self.honest(entry, &attempts, &faults, &between),
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
            let under = |is: fn(Kind) -> bool| {
                faults.iter().any(|fault| is(fault.kind) && attempt.overlaps(fault, Duration::ZERO))
            };
            if under(Kind::takes_the_bridge_away) {
                continue;
            }
            // With starved processors nobody meets a deadline, but an answer must still arrive. 408 means that the
            // sender was late.
            let starved = under(|kind| kind == Kind::CpuStarved);
            let number = entry.planned.number;
            match attempt.end {
                End::Answered { status, .. } if took > self.in_time && !starved && status != 408 => {
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

    fn honest(&mut self, entry: &Entry, attempts: &[Attempt], faults: &[Fault], between: &[Fault]) {
        let number = entry.planned.number;
        let copies = self.copies.remove(&number).unwrap_or_default();
        let topic = entry.topic();
        if attempts.iter().any(Attempt::succeeded) {
            self.line.acknowledged += 1;
            self.line.spooled += usize::from(attempts.iter().any(Attempt::spooled));
            if !copies.is_empty() {
                self.line.kept += 1;
            } else if deleted(topic, attempts, faults) || self.taken(attempts, faults) {
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
        let replayed = entry.planned.manner == Manner::Replayed;
        let forgot = usize::from(replayed && self.forgets(attempts, faults));
        self.ids(number, &copies, attempts, forgot, usize::from(replayed));
        if copies.len() > 1 {
            self.doubled(number, copies.len(), forgot, attempts, between);
        }
    }

    /// Whether the obligation ended with the directory.
    fn taken(&self, attempts: &[Attempt], faults: &[Fault]) -> bool {
        let replaced = faults.iter().filter(|fault| fault.kind == Kind::DirectoryReplaced);
        let Some(last) = replaced.filter_map(|fault| fault.taken).max() else { return false };
        let was_there = |attempt: &Attempt| self.bus == BusName::Embedded || attempt.spooled();
        ended(attempts, last, was_there)
    }

    /// Messages and answers must have one id. Under another trace id a delivery has another id, which only an answer
    /// may contain, unless the bridge has forgotten the delivery.
    fn ids(&mut self, number: usize, copies: &[Copy], attempts: &[Attempt], forgot: usize, replayed: usize) {
        let of_messages: BTreeSet<_> = copies.iter().map(|copy| copy.id.as_deref()).collect();
        let answered = attempts.iter().filter_map(|attempt| attempt.receipt()).map(|(id, _)| id);
        let all: BTreeSet<_> = of_messages.iter().copied().chain(answered).collect();
        if of_messages.len() > 1 + forgot || all.len() > 1 + replayed || all.contains(&None) {
            let (some, all) = (of_messages.len(), all.len());
            self.fails(format!("delivery {number} has {all} ids, its messages {some}"));
        }
    }

    /// For one key on one topic: a delivery acknowledged before the next was sent comes first, whether the bus or the
    /// spool kept it. Checked only for deliveries that were sent once and are there once, and only if nothing was
    /// deleted, or refused permanently and set aside.
    fn order(&mut self, faults: &[Fault]) {
        if faults.iter().any(|fault| matches!(fault.kind, Kind::TopicDeleted | Kind::TopicLimit)) {
            return;
        }
        let mut chains = BTreeMap::<(&str, &str), Vec<(usize, Attempt, usize)>>::new();
        for (number, copies) in &self.copies {
            let entry = &self.ledger.entries[*number];
            let ([copy], [attempt]) = (&copies[..], &entry.attempts()[..]) else { continue };
            let Some(key) = copy.key.as_deref().filter(|_| attempt.succeeded()) else { continue };
            chains.entry((copy.topic.as_str(), key)).or_default().push((copy.place, attempt.clone(), *number));
        }
        let mut wrong = Vec::new();
        for mut chain in chains.into_values().filter(|chain| chain.len() > 1) {
            self.line.ordered += chain.len();
            chain.sort_by_key(|(place, ..)| *place);
            let mut latest: Option<(Duration, usize)> = None;
            for (_, attempt, number) in chain {
                if let Some((begun, before)) = latest.filter(|(begun, _)| attempt.ended <= *begun) {
                    wrong.push(format!(
                        "delivery {number} was acknowledged before {before} was sent at {begun:?}, and comes after it: {}",
                        story(std::slice::from_ref(&attempt))
                    ));
                }
                latest = latest.max(Some((attempt.begun, number)));
            }
        }
        self.line.disordered = wrong.len();
        self.line.violations.extend(wrong);
    }

    /// Whether the bridge may have forgotten the kept delivery between the first attempt and the last. A spool's
    /// memory survives the process; a power cut may lose its end.
    fn forgets(&self, attempts: &[Attempt], faults: &[Fault]) -> bool {
        let (Some(first), Some(last)) = (attempts.first(), attempts.last()) else { return false };
        let between = |fault: &Fault| fault.begun <= last.ended && fault.ended >= first.begun;
        let forgets = |fault: &Fault| match self.remembers {
            Memory::Log => fault.kind == Kind::DirectoryReplaced,
            Memory::Spool => matches!(fault.kind, Kind::PowerLoss | Kind::DirectoryReplaced),
            Memory::Process => fault.kind.takes_the_bridge_away(),
        };
        faults.iter().any(|fault| forgets(fault) && between(fault))
    }

    /// When the bus was too slow for some delivery, independent of the plan: on a machine under other load,
    /// deliveries in flight at the same time may be sent twice.
    fn slowness(&self) -> Vec<Fault> {
        let attempts = self.ledger.entries.iter().flat_map(Entry::attempts);
        let refused = |attempt: &Attempt| matches!(attempt.end, End::Answered { status: 503, .. }) || attempt.spooled();
        let slow = attempts.filter(|attempt| refused(attempt) && attempt.ended - attempt.begun >= self.slow);
        let mut times: Vec<_> = slow.map(|attempt| (attempt.begun, attempt.ended)).collect();
        times.sort_unstable();
        let mut slowness = Vec::<Fault>::new();
        for (begun, ended) in times {
            match slowness.last_mut().filter(|last| begun <= last.ended + SETTLES) {
                Some(last) => last.ended = last.ended.max(ended),
                None => slowness.push(Fault { kind: Kind::CpuStarved, begun, ended, topic: None, taken: None }),
            }
        }
        slowness
    }

    /// One copy if the bus itself removes duplicates. Otherwise one more for each attempt whose answer from the bus a
    /// fault, or its own client, may have lost: even a client library that numbers its messages resends them under
    /// another number after a timeout. The bridge resends a spooled message as often as time allows, if a fault lasts
    /// before the message has left the spool.
    fn doubled(&mut self, number: usize, copies: usize, forgot: usize, attempts: &[Attempt], faults: &[Fault]) {
        let excused = |attempt: &&Attempt| {
            matches!(attempt.end, End::Left) || faults.iter().any(|fault| attempt.overlaps(fault, SETTLES))
        };
        let sent_again = |attempt: &Attempt| {
            let drained = self.ledger.drained(attempt.ended).unwrap_or(Duration::MAX);
            let again = |fault: &Fault| {
                // A message that had left the spool may be in it again after a power cut.
                let end = if fault.kind == Kind::PowerLoss { Duration::MAX } else { drained };
                let (from, to) = (fault.begun.max(attempt.begun), (fault.ended + SETTLES).min(end));
                to.checked_sub(from).map_or(0, |time| 1 + time.div_duration_f64(SENT_AGAIN) as usize)
            };
            faults.iter().map(again).sum::<usize>()
        };
        let allowed = match self.bus.is_kafka() {
            true => {
                let spooled = attempts.iter().filter(|attempt| attempt.spooled());
                1 + forgot + attempts.iter().filter(excused).count() + spooled.map(sent_again).sum::<usize>()
            }
            // Under another trace id it is a different message to the bus.
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
    ended(attempts, last, |_| true)
}

/// Whether one of the 2xx belongs to an attempt that `was_there` and began before the removal, or is a `duplicate` of
/// such an attempt.
fn ended(attempts: &[Attempt], taken: Duration, was_there: impl Fn(&Attempt) -> bool) -> bool {
    let earlier = attempts.iter().any(|attempt| attempt.begun <= taken);
    attempts.iter().any(|attempt| match attempt.receipt() {
        Some((_, true)) => earlier,
        Some(_) => attempt.begun <= taken && was_there(attempt),
        None => false,
    })
}

/// The last attempts of a delivery, for an investigation.
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
