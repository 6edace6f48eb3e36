//! When each set-aside message was last sent, and why the bus refused it then. In memory alone, and bounded: what is
//! not here was last tried when it was set aside, as far as is known.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

/// The most messages whose last try is remembered.
const MOST: usize = 10_000;

/// One attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Try {
    pub(super) at: Timestamp,
    pub(super) reason: String,
}

/// By topic and offset.
#[derive(Default)]
pub(super) struct Tries(Mutex<BTreeMap<(Arc<str>, u64), Try>>);

impl Tries {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Arc<str>, u64), Try>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn failed(&self, topic: &Arc<str>, offset: u64, reason: String) {
        let (mut tries, place) = (self.lock(), (topic.clone(), offset));
        if tries.len() < MOST || tries.contains_key(&place) {
            tries.insert(place, Try { at: Timestamp::now(), reason });
        }
    }

    pub(super) fn gone(&self, topic: &Arc<str>, offsets: &[u64]) {
        let mut tries = self.lock();
        for offset in offsets {
            tries.remove(&(topic.clone(), *offset));
        }
    }

    pub(super) fn last(&self, topic: &Arc<str>, offset: u64) -> Option<Try> {
        self.lock().get(&(topic.clone(), offset)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_tries_are_remembered_up_to_a_bound() {
        let (tries, topic) = (Tries::default(), Arc::from("t"));
        for offset in 0..MOST as u64 + 5 {
            tries.failed(&topic, offset, "first".to_owned());
        }
        assert!(tries.last(&topic, MOST as u64 - 1).is_some() && tries.last(&topic, MOST as u64).is_none());
        tries.failed(&topic, 3, "again".to_owned());
        assert_eq!(tries.last(&topic, 3).map(|last| last.reason).as_deref(), Some("again"));
        tries.gone(&topic, &[3, 4]);
        assert!(tries.last(&topic, 3).is_none() && tries.last(&topic, 5).is_some());
    }
}
