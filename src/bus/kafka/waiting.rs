//! Messages that wait until their topic was seen: those of a topic are handed over in the order in which they came.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::route::Topic;

type Lock = Arc<tokio::sync::Mutex<()>>;

#[derive(Default)]
pub(super) struct WaitingMessages {
    /// The lock of each topic, and how many messages want it.
    topics: Mutex<BTreeMap<Topic, (Lock, usize)>>,
    /// How many messages wait: each message that is published asks for it, which takes no lock.
    count: AtomicUsize,
}

impl WaitingMessages {
    /// Whether no message waits.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// A turn behind all that wait for this topic.
    pub(super) fn join(self: &Arc<Self>, topic: &Topic) -> Turn {
        self.count.fetch_add(1, Ordering::AcqRel);
        let mut topics = self.topics();
        let (lock, wanted) = topics.entry(topic.clone()).or_default();
        *wanted += 1;
        Turn { waiting: Arc::clone(self), topic: topic.clone(), lock: Arc::clone(lock) }
    }

    fn topics(&self) -> MutexGuard<'_, BTreeMap<Topic, (Lock, usize)>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One message's, until it is dropped.
pub(super) struct Turn {
    waiting: Arc<WaitingMessages>,
    topic: Topic,
    /// Is given in the order in which it was first asked for.
    pub(super) lock: Lock,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut topics = self.waiting.topics();
        if let Some((_, wanted)) = topics.get_mut(&self.topic) {
            *wanted -= 1;
            if *wanted == 0 {
                topics.remove(&self.topic);
            }
        }
        drop(topics);
        self.waiting.count.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_forgotten_when_nobody_waits_for_it() {
        let waiting = Arc::new(WaitingMessages::default());
        let (first, second, other) = (waiting.join(&"t".into()), waiting.join(&"t".into()), waiting.join(&"u".into()));
        assert!(Arc::ptr_eq(&first.lock, &second.lock) && !Arc::ptr_eq(&first.lock, &other.lock));
        drop(first);
        assert_eq!((waiting.is_empty(), waiting.topics().len()), (false, 2));
        drop((second, other));
        assert_eq!((waiting.is_empty(), waiting.topics().len()), (true, 0));
    }
}
