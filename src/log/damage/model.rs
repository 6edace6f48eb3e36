//! What a log must contain after each step. Touches no disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Dice;
use super::script;

/// Topic and offset of a record.
pub(super) type Place = (String, u64);

#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) seed: u64,
    pub(super) topics: BTreeMap<String, Topic>,
    /// Spools only.
    pub(super) pending: BTreeSet<Place>,
    /// Records that may be pending or not.
    pub(super) undecided: BTreeSet<Place>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Topic {
    /// The numbers of the messages, in order; the last ones may not have been acknowledged.
    pub(super) numbers: Vec<u64>,
    /// How many of them are acknowledged.
    pub(super) acknowledged: u64,
    /// The log may begin here, but no later.
    pub(super) earliest: u64,
}

pub(super) struct Model {
    held: Held,
    /// The offset at which each topic begins in each segment.
    segments: Vec<BTreeMap<String, u64>>,
    number: u64,
}

impl Model {
    pub(super) fn new(seed: u64) -> Self {
        let held = Held { seed, topics: BTreeMap::new(), pending: BTreeSet::new(), undecided: BTreeSet::new() };
        Self { held, segments: vec![BTreeMap::new()], number: 0 }
    }

    /// Appends the next messages and returns their numbers.
    pub(super) fn append(&mut self, count: u64, acknowledged: bool) -> std::ops::Range<u64> {
        let numbers = self.number..self.number + count;
        for number in numbers.clone() {
            let name = script::topic(self.held.seed, number);
            let topic = self.held.topics.entry(name.clone()).or_default();
            let place = (name, topic.numbers.len() as u64);
            topic.numbers.push(number);
            topic.acknowledged += u64::from(acknowledged);
            let into = if acknowledged { &mut self.held.pending } else { &mut self.held.undecided };
            into.insert(place);
        }
        self.number = numbers.end;
        numbers
    }

    /// Marks records as done: usually all of one topic and some of another.
    pub(super) fn drain(&mut self, roll: u64, acknowledged: bool) -> Vec<Place> {
        let mut dice = Dice(roll);
        let mut shares = BTreeMap::new();
        let mut done = Vec::new();
        for place in &self.held.pending {
            let share = *shares.entry(place.0.as_str()).or_insert_with(|| dice.below(6));
            if dice.below(4) < share {
                done.push(place.clone());
            }
        }
        for place in &done {
            self.held.pending.remove(place);
            if !acknowledged {
                self.held.undecided.insert(place.clone());
            }
        }
        done
    }

    pub(super) fn roll(&mut self) {
        let ends = self.held.topics.iter().map(|(name, topic)| (name.clone(), topic.numbers.len() as u64));
        self.segments.push(ends.collect());
    }

    pub(super) fn remove_oldest(&mut self, count: usize) {
        let count = count.min(self.segments.len() - 1);
        self.segments.drain(..count);
    }

    /// For each topic, the offset before which nothing is pending.
    pub(super) fn cursors(&self) -> BTreeMap<Arc<str>, u64> {
        let ends = self.held.topics.iter().map(|(name, topic)| (Arc::from(name.as_str()), topic.numbers.len() as u64));
        let mut cursors: BTreeMap<Arc<str>, u64> = ends.collect();
        for (topic, offset) in self.held.pending.iter().rev() {
            cursors.insert(topic.as_str().into(), *offset);
        }
        cursors
    }

    /// How many of the oldest segments have nothing pending.
    pub(super) fn drained(&self) -> usize {
        let cursors = self.cursors();
        let before = |(topic, begin): (&String, &u64)| *begin <= cursors[topic.as_str()];
        self.segments.iter().skip(1).take_while(|begins| begins.iter().all(before)).count()
    }

    pub(super) fn held(mut self) -> Held {
        for (name, topic) in &mut self.held.topics {
            topic.earliest = self.segments[0].get(name).copied().unwrap_or(0);
        }
        self.held
    }
}
