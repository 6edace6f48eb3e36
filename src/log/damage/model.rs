//! What a log must contain after each step. Touches no disk.

use std::collections::{BTreeMap, BTreeSet};

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
    number: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Topic {
    /// The numbers of the messages, in order; the last ones may not have been acknowledged.
    pub(super) numbers: Vec<u64>,
    /// How many of them must be there.
    pub(super) acknowledged: u64,
    /// The log may begin here, but no later.
    pub(super) earliest: u64,
}

impl Held {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, topics: BTreeMap::new(), pending: BTreeSet::new(), undecided: BTreeSet::new(), number: 0 }
    }

    /// Appends the next messages and returns their numbers.
    pub(super) fn append(&mut self, count: u64, acknowledged: bool) -> std::ops::Range<u64> {
        let numbers = self.number..self.number + count;
        for number in numbers.clone() {
            let name = script::topic(self.seed, number);
            let topic = self.topics.entry(name.clone()).or_default();
            let place = (name, topic.numbers.len() as u64);
            topic.numbers.push(number);
            topic.acknowledged += u64::from(acknowledged);
            let into = if acknowledged { &mut self.pending } else { &mut self.undecided };
            into.insert(place);
        }
        self.number = numbers.end;
        numbers
    }

    /// Marks records as done: usually all of one topic and some of another.
    pub(super) fn drain(&mut self, roll: u64, acknowledged: bool) -> BTreeMap<String, Vec<u64>> {
        let mut dice = Dice(roll);
        let mut shares = BTreeMap::new();
        let mut done = BTreeMap::<String, Vec<u64>>::new();
        for (topic, offset) in &self.pending {
            let share = *shares.entry(topic.as_str()).or_insert_with(|| dice.below(6));
            if dice.below(4) < share {
                done.entry(topic.clone()).or_default().push(*offset);
            }
        }
        for (topic, offset) in done.iter().flat_map(|(topic, all)| all.iter().map(move |one| (topic, one))) {
            let place = (topic.clone(), *offset);
            self.pending.remove(&place);
            if !acknowledged {
                self.undecided.insert(place);
            }
        }
        done
    }

    /// The records from these offsets on may be gone.
    pub(super) fn cut(mut self, from: &BTreeMap<String, u64>) -> Self {
        for (name, from) in from {
            if let Some(topic) = self.topics.get_mut(name) {
                topic.acknowledged = topic.acknowledged.min(*from);
            }
        }
        self.pending.retain(|(topic, offset)| from.get(topic).is_none_or(|from| offset < from));
        self
    }
}
