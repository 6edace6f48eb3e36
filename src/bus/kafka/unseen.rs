//! Messages for topics that were not seen yet: those of a topic are handed over in the order in which they came.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::route::Topic;

type Turn = Arc<tokio::sync::Mutex<()>>;

#[derive(Default)]
pub(super) struct Unseen {
    /// The turn of each topic, and how many messages want it.
    queues: Mutex<BTreeMap<Topic, (Turn, usize)>>,
    waiting: AtomicUsize,
}

impl Unseen {
    /// Whether no message waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0
    }

    /// A place behind all that wait for this topic.
    pub(super) fn join(self: &Arc<Self>, topic: &Topic) -> Place {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let mut queues = self.queues();
        let (turn, wanted) = queues.entry(topic.clone()).or_default();
        *wanted += 1;
        Place { unseen: Arc::clone(self), topic: topic.clone(), turn: Arc::clone(turn) }
    }

    fn queues(&self) -> MutexGuard<'_, BTreeMap<Topic, (Turn, usize)>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One message's, until it is dropped.
pub(super) struct Place {
    unseen: Arc<Unseen>,
    topic: Topic,
    /// Is given in the order in which it was first asked for.
    pub(super) turn: Turn,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queues = self.unseen.queues();
        if let Some((_, wanted)) = queues.get_mut(&self.topic) {
            *wanted -= 1;
            if *wanted == 0 {
                queues.remove(&self.topic);
            }
        }
        drop(queues);
        self.unseen.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_forgotten_when_nobody_waits_for_it() {
        let unseen = Arc::new(Unseen::default());
        let (first, second, other) = (unseen.join(&"t".into()), unseen.join(&"t".into()), unseen.join(&"u".into()));
        assert!(Arc::ptr_eq(&first.turn, &second.turn) && !Arc::ptr_eq(&first.turn, &other.turn));
        drop(first);
        assert_eq!((unseen.is_empty(), unseen.queues().len()), (false, 2));
        drop((second, other));
        assert_eq!((unseen.is_empty(), unseen.queues().len()), (true, 0));
    }
}
