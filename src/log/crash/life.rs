//! One log's life on a [`Machine`], and what it must have at each point of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::damage::{Dice, is};
use super::super::store::Store;
use super::super::{Keep, Settings};
use super::model::{End, Faults, Machine};
use crate::dedupe::DedupeEntry;
use crate::log::Entry;
use crate::message::Message;

const TOPICS: u64 = 3;
const LARGER_THAN_A_SEGMENT: usize = 70_000;
/// Faults come no closer together than that they stop within so many attempts.
const ATTEMPTS: usize = 20;

/// Topic and offset of a record.
type Place = (String, u64);

#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// That many messages in one commit.
    Append(u64),
    Large,
    Roll,
    /// What retention removes, or what a spool has sent.
    Remove,
    /// Spools only: some of the pending records are done.
    Drain,
    /// Spools only.
    Remember,
    Restart,
}

pub(super) struct Life {
    pub(super) machine: Machine,
    settings: Settings,
    store: Option<Store>,
    dice: Dice,
    /// The records of each topic. The index is the offset.
    topics: BTreeMap<String, Vec<Kept>>,
    messages: u64,
    /// The messages of a commit without a receipt. The next opening finds all of them or none, and so it stays.
    undecided: Vec<u64>,
    /// The log may have failed: it may refuse until it is reopened.
    has_failed: bool,
    /// Segments of which the removal was asked for, and those that are gone.
    removable: BTreeSet<u64>,
    removed: BTreeSet<u64>,
    /// Spools only: what it has to send, as the process knows, what has been sent, and of that what it may not send
    /// again.
    pending: BTreeSet<Place>,
    done: BTreeSet<Place>,
    marked: BTreeSet<Place>,
    remembered: BTreeSet<u64>,
}

/// A record that has a receipt.
struct Kept {
    number: u64,
    segment: u64,
}

/// The numbers of large messages have this bit.
const LARGE: u64 = 1 << 32;

fn topic(number: u64) -> String {
    format!("topic-{}", Dice(number).below(TOPICS))
}

fn message(number: u64) -> Message {
    let mut dice = Dice(number ^ 1 << 40);
    let len = match dice.below(8) {
        _ if number & LARGE > 0 => LARGER_THAN_A_SEGMENT,
        0 => 5000 + dice.below(9000) as usize,
        1 => 0,
        _ => dice.below(600) as usize,
    };
    let payload = dice.roll().to_le_bytes().repeat(len / 8);
    let mut id = [0; 32];
    id[..8].copy_from_slice(&number.to_be_bytes());
    Message::sample(&topic(number), &format!("key-{}", dice.below(4)), id, payload)
}

type Checked = Result<(), String>;

fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(otherwise()) }
}

impl Life {
    pub(super) fn new(seed: u64, is_spool: bool, can_allocate: bool) -> Self {
        let settings = Settings::sample(std::path::Path::new("/nowhere"));
        let (section, keep) = match (is_spool, settings.keep) {
            (true, _) => ("spool", Keep::UntilDone { bytes: 1 << 16, known: 1000 }),
            (false, Keep::For(retention)) => {
                ("embedded", Keep::For(crate::log::Retention { bytes: 1 << 16, ..retention }))
            }
            (false, keep) => ("embedded", keep),
        };
        Self {
            machine: Machine::new(seed, can_allocate),
            settings: Settings { section, keep, ..settings },
            store: None,
            dice: Dice(seed ^ 1),
            topics: BTreeMap::new(),
            messages: 0,
            undecided: Vec::new(),
            has_failed: false,
            removable: BTreeSet::new(),
            removed: BTreeSet::new(),
            pending: BTreeSet::new(),
            done: BTreeSet::new(),
            marked: BTreeSet::new(),
            remembered: BTreeSet::new(),
        }
    }

    fn is_spool(&self) -> bool {
        self.settings.section == "spool"
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("it is open")
    }

    /// Opens the log and takes the steps, as far as the process gets.
    pub(super) fn process(&mut self, steps: &[Step]) -> Checked {
        self.open()?;
        for step in steps {
            if self.machine.has_ended() {
                return Ok(());
            }
            self.take(*step).map_err(|wrong| format!("{step:?}: {wrong}"))?;
        }
        if self.machine.has_ended() { Ok(()) } else { self.verify() }
    }

    pub(super) fn end(&mut self, end: End) {
        self.store = None;
        self.machine.restart(end);
        if end == End::PowerCut {
            self.marked.clear();
            self.remembered.clear();
        }
    }

    fn open(&mut self) -> Checked {
        self.store = None;
        for _ in 0..ATTEMPTS {
            let failed = self.machine.failed();
            let opened = Store::open_in(Arc::new(self.machine.clone()), None, &self.settings, std::iter::empty());
            let opened = opened.map_err(|failure| failure.explain(&self.settings)).and_then(|store| {
                let mut pending = BTreeSet::new();
                store.pending(|topic, offset, _| {
                    pending.insert((topic.to_string(), offset));
                })?;
                Ok((store, pending))
            });
            match opened {
                Ok((store, pending)) => {
                    if self.machine.failed() > failed {
                        // Marks that cannot be read.
                        self.marked.clear();
                        self.remembered.clear();
                    }
                    (self.store, self.pending, self.has_failed) = (Some(store), pending, false);
                    self.decide()?;
                    return self.verify();
                }
                Err(_) if self.machine.has_ended() => return Ok(()),
                Err(error) => check(self.machine.failed() > failed, || format!("it does not open: {error}"))?,
            }
        }
        Err("it opens after no failure".to_owned())
    }

    /// Whether the commit without a receipt is there.
    fn decide(&mut self) -> Checked {
        let undecided = std::mem::take(&mut self.undecided);
        let next = |topic: &str| self.store().watch(topic).map_or(0, |extent| extent.borrow().next);
        let mut whole: BTreeMap<String, u64> = BTreeMap::new();
        undecided.iter().for_each(|number| *whole.entry(topic(*number)).or_insert(0) += 1);
        let is_there = |(topic, more): (&String, &u64)| next(topic) == self.len(topic) + more;
        if whole.iter().any(is_there) {
            self.keep(&undecided);
        }
        Ok(())
    }

    fn len(&self, topic: &str) -> u64 {
        self.topics.get(topic).map_or(0, |kept| kept.len() as u64)
    }

    /// These messages have a receipt, or stay as if they had.
    fn keep(&mut self, numbers: &[u64]) {
        for number in numbers {
            let (topic, segments) = (topic(*number), self.store().segments().clone());
            let offset = self.len(&topic);
            let holds = |end: u64| end > offset;
            let segment = segments.iter().find(|segment| holds(segment.end_of(&topic).next));
            let segment = segment.map_or(u64::MAX, |segment| segment.number());
            self.pending.insert((topic.clone(), offset));
            self.topics.entry(topic).or_default().push(Kept { number: *number, segment });
        }
    }

    fn take(&mut self, step: Step) -> Checked {
        let failed = self.machine.failed();
        let done = match step {
            Step::Append(_) | Step::Large => {
                let (count, bit) = if let Step::Append(count) = step { (count, 0) } else { (1, LARGE) };
                let numbers: Vec<u64> = (self.messages..self.messages + count).map(|number| number | bit).collect();
                self.messages += count;
                let messages: Vec<Message> = numbers.iter().map(|number| message(*number)).collect();
                let appended = self.store().append(messages.iter());
                if appended.is_ok() {
                    self.keep(&numbers);
                } else {
                    self.undecided = numbers;
                }
                appended.map_err(|error| error.to_string())
            }
            Step::Roll => self.store().roll().map_err(|error| error.to_string()),
            Step::Remove => self.remove(),
            Step::Drain => {
                self.drain();
                Ok(())
            }
            Step::Remember => {
                let number = self.messages | 1 << 33;
                self.messages += 1;
                let entry = DedupeEntry { kept: jiff::Timestamp::now(), keys: message(number).ids() };
                if self.store().remember(&[entry]).is_ok() && self.is_spool() {
                    self.remembered.insert(number);
                }
                Ok(())
            }
            Step::Restart => {
                self.store().close();
                return self.open();
            }
        };
        match done {
            Ok(()) => Ok(()),
            Err(_) if self.machine.has_ended() => Ok(()),
            Err(error) => {
                check(self.machine.failed() > failed || self.has_failed, || format!("it failed: {error}"))?;
                self.has_failed = true;
                self.verify()?;
                // A caller that goes on all the same, unless a commit failed, must not lose anything.
                if self.undecided.is_empty() && self.dice.below(3) == 0 { Ok(()) } else { self.reopen() }
            }
        }
    }

    fn reopen(&mut self) -> Checked {
        for _ in 0..ATTEMPTS {
            match self.store().reopen() {
                Ok(()) => {
                    // Nothing of the failed commit may ever be read.
                    self.undecided.clear();
                    self.has_failed = false;
                    return self.verify();
                }
                Err(_) if self.machine.has_ended() => return Ok(()),
                Err(_) => self.verify()?,
            }
        }
        Err("it reopens after no failure".to_owned())
    }

    fn remove(&mut self) -> Result<(), String> {
        if self.is_spool() {
            return self.store().remove_done().map(drop).map_err(|error| error.to_string());
        }
        let segments = self.topics.values().flatten().map(|kept| kept.segment);
        let oldest = segments.filter(|segment| !self.removed.contains(segment)).min();
        let removed = self.store().remove_oldest(1);
        self.removable.extend(oldest.filter(|_| !matches!(removed, Ok(0))));
        self.removed.extend(oldest.filter(|_| matches!(removed, Ok(1..))));
        removed.map(drop).map_err(|error| error.to_string())
    }

    fn drain(&mut self) {
        let share = self.dice.below(4);
        let pending: Vec<Place> = self.pending.iter().cloned().collect();
        let sent: Vec<Place> = pending.into_iter().filter(|_| self.dice.below(4) <= share).collect();
        for (topic, offset) in sent {
            let marked = self.is_spool() && self.store().done(&topic, &[offset]).is_ok();
            let place = (topic, offset);
            self.pending.remove(&place);
            if marked {
                self.marked.insert(place.clone());
            }
            self.done.insert(place);
        }
    }

    /// What the log shows is what it must have.
    fn verify(&mut self) -> Checked {
        let faults = self.machine.replace_faults(Faults::default());
        let verified = if self.is_spool() { self.verify_pending() } else { self.verify_all() };
        self.machine.replace_faults(faults);
        verified
    }

    fn ids(&self) -> Result<BTreeSet<[[u8; 16]; 2]>, String> {
        let mut ids = BTreeSet::new();
        self.store()
            .kept(usize::MAX, |entry| {
                ids.insert(entry.keys);
            })
            .map_err(|error| error.to_string())?;
        Ok(ids)
    }

    fn verify_all(&mut self) -> Checked {
        let (ids, mut bytes) = (self.ids()?, 0);
        for (topic, extent) in self.store().topics() {
            bytes += extent.bytes();
            let kept = self.topics.get(&*topic).map_or(&[][..], Vec::as_slice);
            let first_outside = |segments: &BTreeSet<u64>| {
                kept.iter().position(|kept| !segments.contains(&kept.segment)).unwrap_or(kept.len()) as u64
            };
            let earliest = first_outside(&self.removed)..=first_outside(&self.removable);
            check(extent.next == kept.len() as u64 && earliest.contains(&extent.earliest), || {
                format!("{topic} has {}..{} and should have {earliest:?}..{}", extent.earliest, extent.next, kept.len())
            })?;
            let mut from = extent.earliest;
            while from < extent.next {
                let records =
                    self.store().read(&topic, from, u64::MAX, 7, 10_000).map_err(|error| error.to_string())?;
                check(!records.is_empty(), || format!("{topic} ends at {from}"))?;
                for record in records {
                    let message = message(kept[from as usize].number);
                    check(record.offset == from && is(&record, &message), || format!("{topic} has another at {from}"))?;
                    check(ids.contains(&message.ids()), || format!("the id of {topic} at {from} is not known"))?;
                    from += 1;
                }
            }
            self.removed.extend(kept[..extent.earliest as usize].iter().map(|kept| kept.segment));
        }
        let known = |topic: &str| self.store().watch(topic).is_some();
        check(self.topics.keys().all(|topic| known(topic)), || "a topic is missing".to_owned())?;
        check(bytes == self.store().bytes(), || format!("{bytes} bytes, and it counts {}", self.store().bytes()))
    }

    fn verify_pending(&self) -> Checked {
        let ids = self.ids()?;
        let id_is_known = |number: &u64| ids.contains(&message(*number).ids());
        check(self.remembered.iter().all(id_is_known), || "a remembered delivery is not known".to_owned())?;
        for (topic, kept) in &self.topics {
            let next = self.store().watch(topic).map_or(0, |extent| extent.borrow().next);
            check(next == kept.len() as u64, || format!("{topic} has {next} and should have {}", kept.len()))?;
            let place = |offset: u64| (topic.clone(), offset);
            let wanted = |offset: u64, _| self.pending.contains(&place(offset));
            let read = self.store().read_pending(topic, 0..next, usize::MAX, usize::MAX, wanted);
            let mut records = read.map_err(|error| error.to_string())?.records.into_iter();
            for (offset, kept) in (0..).zip(kept) {
                let (place, message) = (place(offset), message(kept.number));
                let is_pending = self.pending.contains(&place);
                check(is_pending || self.done.contains(&place), || format!("{place:?} was never sent"))?;
                check(!is_pending || !self.marked.contains(&place), || format!("{place:?} is sent again"))?;
                let is_there = !is_pending || records.next().is_some_and(|record| is(&record, &message));
                check(is_there, || format!("{place:?} is pending and not there"))?;
                check(!is_pending || ids.contains(&message.ids()), || format!("the id of {place:?} is not known"))?;
            }
        }
        Ok(())
    }
}
