//! What the adapter knows at this moment: the link, the topics that cannot be written to, the trouble.
//! Comes in: what the client's callbacks and the supervisor found. Goes out: answers without waiting.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::sync::{Notify, watch};

use super::refusal::{self, Trouble};
use crate::bus::trouble::Troubles;
use crate::bus::{Link, Refusal};
use crate::route::Topic;

/// How long a trouble explains what goes wrong.
const EXPLAINS_FOR: Duration = Duration::from_secs(60);

pub(super) struct State {
    link: watch::Sender<Link>,
    /// Topics that refuse every message until somebody acts, and why.
    lacking: RwLock<BTreeMap<Topic, Refusal>>,
    /// Whether a topic that is not there will be made.
    creates: AtomicBool,
    trouble: Troubles<Trouble>,
    /// Whether there is any: spares each receipt the lock.
    troubled: AtomicBool,
    receipts: AtomicU64,
    /// Bytes of a batch that every topic takes, as far as that is known.
    batches: AtomicU64,
    look: AtomicBool,
    missed: AtomicBool,
    /// The topics that messages go to from now on, until the supervisor knows.
    told: Mutex<Option<Vec<Topic>>>,
    wake: Notify,
}

impl State {
    pub(super) fn new(creates: bool) -> Self {
        Self {
            link: watch::Sender::new(Link::Waiting),
            lacking: RwLock::default(),
            creates: AtomicBool::new(creates),
            trouble: Troubles::default(),
            troubled: AtomicBool::new(false),
            receipts: AtomicU64::new(0),
            batches: AtomicU64::new(u64::MAX),
            look: AtomicBool::new(false),
            missed: AtomicBool::new(false),
            told: Mutex::default(),
            wake: Notify::new(),
        }
    }

    pub(super) fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// Up, logged where it was not.
    pub(super) fn up(&self) {
        if *self.link.borrow() != Link::Up && self.link.send_replace(Link::Up) != Link::Up {
            self.recovered();
            tracing::info!("Kafka can be reached");
        }
    }

    /// Away, logged where it was up. Without effect while the brokers were never reached.
    pub(super) fn away(&self) {
        let was_up = self.link.send_if_modified(|link| {
            let was_up = *link == Link::Up;
            if was_up {
                *link = Link::Away;
            }
            was_up
        });
        if was_up {
            tracing::warn!("Kafka cannot be reached: deliveries are refused until it can");
        }
    }

    /// One message is kept.
    pub(super) fn receipt(&self) {
        self.receipts.fetch_add(1, Ordering::Relaxed);
        self.up();
        self.recovered();
    }

    fn recovered(&self) {
        if self.troubled.swap(false, Ordering::Relaxed) {
            self.trouble.over();
        }
    }

    /// How many messages were kept since the start.
    pub(super) fn receipts(&self) -> u64 {
        self.receipts.load(Ordering::Relaxed)
    }

    /// Why no message for this topic can be kept, where that is known.
    pub(super) fn lacks(&self, topic: &Topic) -> Option<Refusal> {
        let refusal = self.lacking.read().unwrap_or_else(PoisonError::into_inner).get(topic).cloned();
        if refusal.is_some() {
            self.missed.store(true, Ordering::Relaxed);
        }
        refusal
    }

    pub(super) fn set_lacking(&self, lacking: BTreeMap<Topic, Refusal>) {
        *self.lacking.write().unwrap_or_else(PoisonError::into_inner) = lacking;
    }

    pub(super) fn set_creates(&self, creates: bool) {
        self.creates.store(creates, Ordering::Relaxed);
    }

    /// What the client says went wrong with the connection, or with itself. Comes twice for each error.
    pub(super) fn error(&self, code: Code, why: &str) {
        match Trouble::of_report(code, why) {
            Some(trouble) => self.in_trouble(trouble),
            None => tracing::debug!(?code, "the Kafka client reports an error"),
        }
        self.wake.notify_one();
    }

    pub(super) fn in_trouble(&self, trouble: Trouble) {
        if !self.trouble.meet(trouble) {
            return;
        }
        self.troubled.store(true, Ordering::Relaxed);
        tracing::error!(remedy = trouble.remedy(), "{}", trouble.says());
    }

    /// Why this message was not kept. Has the supervisor look after what the code hints at.
    pub(super) fn refuse(&self, code: Code, topic: &str) -> Refusal {
        match code {
            Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::UnknownTopicId => {
                self.look.store(true, Ordering::Relaxed);
                self.wake.notify_one();
            }
            Code::Fatal | Code::State | Code::MessageTimedOut => self.wake.notify_one(),
            _ => {}
        }
        // A timeout while no broker answers has a better name.
        let gone = code == Code::MessageTimedOut && *self.link.borrow() != Link::Up;
        let code = if gone { Code::AllBrokersDown } else { code };
        refusal::refusal(code, topic, self.trouble.within(EXPLAINS_FOR), self.creates.load(Ordering::Relaxed))
    }

    pub(super) fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// No topic takes less than so many bytes.
    pub(super) fn take_batches_of(&self, bytes: u64) {
        if self.batches.fetch_min(bytes.max(1), Ordering::Relaxed) > bytes {
            self.wake.notify_one();
        }
    }

    /// A batch of a client that fills so many bytes was too large, nobody knows by how much.
    pub(super) fn take_batches_below(&self, bytes: u64) {
        self.take_batches_of(bytes / 4);
    }

    /// Messages go to these topics from now on.
    pub(super) fn told(&self, topics: Vec<Topic>) {
        *locked(&self.told) = Some(topics);
        self.wake.notify_one();
    }

    /// The topics of the last call to [`Self::told`], once.
    pub(super) fn take_told(&self) -> Option<Vec<Topic>> {
        locked(&self.told).take()
    }

    /// Whether a message met a topic that is not there since the last call.
    pub(super) fn take_look(&self) -> bool {
        self.look.swap(false, Ordering::Relaxed)
    }

    /// Whether a message was refused for what its topic lacks since the last call.
    pub(super) fn take_missed(&self) -> bool {
        self.missed.swap(false, Ordering::Relaxed)
    }

    /// Waits until something happened that the supervisor should see.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_never_reached_is_waited_for_and_not_away() {
        let state = State::new(true);
        state.away();
        assert_eq!(*state.link().borrow(), Link::Waiting);
        state.up();
        assert_eq!(*state.link().borrow(), Link::Up);
        state.away();
        assert_eq!(*state.link().borrow(), Link::Away);
        state.receipt();
        assert_eq!(*state.link().borrow(), Link::Up);
    }

    #[test]
    fn trouble_ends_with_the_next_time_the_bus_is_reached() {
        let state = State::new(true);
        state.error(Code::Authentication, "");
        assert!(matches!(state.refuse(Code::MessageTimedOut, "t"), Refusal::Permanent { .. }));
        state.up();
        assert!(matches!(state.refuse(Code::MessageTimedOut, "t"), Refusal::Transient { .. }));
    }

    #[test]
    fn the_last_topics_told_count_once() {
        let state = State::new(true);
        state.told(vec!["a".into()]);
        state.told(vec!["b".into()]);
        assert_eq!(state.take_told(), Some(vec!["b".into()]));
        assert_eq!(state.take_told(), None);
    }

    #[test]
    fn an_unknown_topic_calls_for_a_look() {
        let state = State::new(true);
        state.refuse(Code::UnknownTopic, "t");
        assert!(state.take_look());
        assert!(!state.take_look());
    }

    #[test]
    fn a_message_that_is_refused_without_asking_is_remembered_once() {
        let state = State::new(true);
        assert_eq!(state.lacks(&"t".into()), None);
        assert!(!state.take_missed());
        state.set_lacking(BTreeMap::from([("t".into(), refusal::missing("t"))]));
        assert!(state.lacks(&"t".into()).is_some());
        assert!(state.take_missed());
        assert!(!state.take_missed());
    }
}
