//! The deliveries in flight, each under its two keys, and who waits for their answers: hardly ever anybody, so that
//! only a second attempt makes a channel.

use std::collections::HashMap;

use hashbrown::HashTable;
use tokio::sync::oneshot;

use super::memory::{Key, hash};

pub(super) struct InFlight<A> {
    /// Each key with the first key of its delivery.
    deliveries: HashTable<(Key, Key)>,
    /// By the first key of a delivery.
    waiting: HashMap<Key, Vec<oneshot::Sender<A>>>,
}

impl<A> Default for InFlight<A> {
    fn default() -> Self {
        Self { deliveries: HashTable::new(), waiting: HashMap::new() }
    }
}

impl<A> InFlight<A> {
    /// The answer to the delivery in flight that has one of the keys; `None` if there is none.
    pub(super) fn wait(&mut self, keys: &[Key; 2]) -> Option<oneshot::Receiver<A>> {
        let first = keys.iter().find_map(|key| self.first(key))?;
        let (answer, awaited) = oneshot::channel();
        self.waiting.entry(first).or_default().push(answer);
        Some(awaited)
    }

    /// Neither key may be in flight.
    pub(super) fn begin(&mut self, keys: &[Key; 2]) {
        for key in keys {
            self.deliveries.insert_unique(hash(key), (*key, keys[0]), |(key, _)| hash(key));
        }
    }

    /// Answers those that wait for this delivery.
    pub(super) fn answer(&mut self, keys: &[Key; 2], answer: A)
    where
        A: Clone,
    {
        for waiting in self.waiting.remove(&keys[0]).into_iter().flatten() {
            // It may have stopped waiting.
            let _ = waiting.send(answer.clone());
        }
    }

    /// Those that still wait get no answer.
    pub(super) fn end(&mut self, keys: &[Key; 2]) {
        for key in keys {
            if let Ok(found) = self.deliveries.find_entry(hash(key), |(other, _)| other == key) {
                found.remove();
            }
        }
        if !self.waiting.is_empty() {
            self.waiting.remove(&keys[0]);
        }
    }

    fn first(&self, key: &Key) -> Option<Key> {
        self.deliveries.find(hash(key), |(other, _)| other == key).map(|(_, first)| *first)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.deliveries.is_empty() && self.waiting.is_empty()
    }
}
