//! What the adapter knows at this moment: the link, the topics that can and cannot be written to, the trouble.
//! Comes in: what the client's callbacks and the supervisor found. Goes out: answers without waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::sync::{Notify, watch};

use super::cause::Cause;
use super::look::NOT_AT;
use super::refusal::{self, Trouble};
use crate::bus::error_log::ErrorLog;
use crate::bus::{ConnectionState, Refusal};
use crate::route::Topic;

/// How long a trouble explains what goes wrong.
const EXPLAINS_FOR: Duration = Duration::from_secs(60);

pub(super) struct State {
    connection: watch::Sender<ConnectionState>,
    standing: watch::Sender<Standing>,
    /// Whether a topic that is not there will be made.
    creates: AtomicBool,
    errors: ErrorLog<Trouble>,
    /// Whether there is any: spares each receipt the lock.
    troubled: AtomicBool,
    /// Why the last connection did not come about, and when that was.
    cause: Mutex<Option<(Cause, Instant)>>,
    /// Whether a broker answered at the last question.
    heard: AtomicBool,
    /// Whether nobody is at the addresses that brokers give for themselves.
    nowhere: AtomicBool,
    timed_out: AtomicBool,
    receipts: AtomicU64,
    /// Bytes of a batch that every topic takes, as far as that is known.
    batches: AtomicU64,
    look: AtomicBool,
    missed: AtomicBool,
    /// The topics that messages go to from now on, until the supervisor knows.
    told: Mutex<Option<Vec<Topic>>>,
    /// Topics that messages came for and nobody told of: of what was spooled for an earlier route.
    met: Mutex<BTreeSet<Topic>>,
    wake: Notify,
}

/// What is known of the topics that messages go to.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Seen on the brokers, and not found to lose what they acknowledge.
    pub(super) open: BTreeSet<Topic>,
    /// These refuse every message until somebody acts, and why.
    pub(super) lacking: BTreeMap<Topic, Refusal>,
}

impl Standing {
    /// Whether messages may go to this topic; `None`: it was not seen yet.
    pub(super) fn of(&self, topic: &Topic) -> Option<Result<(), Refusal>> {
        if self.open.contains(topic) {
            return Some(Ok(()));
        }
        self.lacking.get(topic).map(|refusal| Err(refusal.clone()))
    }
}

impl State {
    pub(super) fn new(creates: bool) -> Self {
        Self {
            connection: watch::Sender::new(ConnectionState::Waiting),
            standing: watch::Sender::default(),
            creates: AtomicBool::new(creates),
            errors: ErrorLog::default(),
            troubled: AtomicBool::new(false),
            cause: Mutex::default(),
            heard: AtomicBool::new(false),
            nowhere: AtomicBool::new(false),
            timed_out: AtomicBool::new(false),
            receipts: AtomicU64::new(0),
            batches: AtomicU64::new(u64::MAX),
            look: AtomicBool::new(false),
            missed: AtomicBool::new(false),
            told: Mutex::default(),
            met: Mutex::default(),
            wake: Notify::new(),
        }
    }

    pub(super) fn connection(&self) -> watch::Receiver<ConnectionState> {
        self.connection.subscribe()
    }

    /// Up, logged where it was not.
    pub(super) fn up(&self) {
        if *self.connection.borrow() != ConnectionState::Up
            && self.connection.send_replace(ConnectionState::Up) != ConnectionState::Up
        {
            self.recovered();
            tracing::info!("Kafka can be reached");
        }
    }

    /// Away, logged where it was up. Without effect while the brokers were never reached.
    pub(super) fn away(&self) {
        let was_up = self.connection.send_if_modified(|connection| {
            let was_up = *connection == ConnectionState::Up;
            if was_up {
                *connection = ConnectionState::Away;
            }
            was_up
        });
        if was_up {
            let why = self.cause().map(Cause::says);
            tracing::warn!(why, "Kafka cannot be reached: deliveries are refused until it can");
        }
    }

    /// One message is kept.
    pub(super) fn receipt(&self) {
        self.receipts.fetch_add(1, Ordering::Relaxed);
        // At the start the other topics are still to be seen to.
        if *self.connection.borrow() == ConnectionState::Away {
            self.up();
        }
        self.recovered();
    }

    fn recovered(&self) {
        if self.troubled.swap(false, Ordering::Relaxed) {
            self.errors.clear();
            *locked(&self.cause) = None;
        }
    }

    /// How many messages were kept since the start.
    pub(super) fn receipts(&self) -> u64 {
        self.receipts.load(Ordering::Relaxed)
    }

    /// Whether messages may go to this topic; `None`: it was not seen yet, and will be looked for.
    pub(super) fn standing_of(&self, topic: &Topic) -> Option<Result<(), Refusal>> {
        let standing = self.standing.borrow().of(topic);
        match &standing {
            Some(Ok(())) => {}
            Some(Err(_)) => self.missed.store(true, Ordering::Relaxed),
            None => {
                locked(&self.met).insert(topic.clone());
                self.wake.notify_one();
            }
        }
        standing
    }

    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    pub(super) fn set_standing(&self, standing: Standing) {
        self.standing.send_replace(standing);
    }

    /// The topics that messages came for while they were not known, once.
    pub(super) fn take_met(&self) -> Vec<Topic> {
        std::mem::take(&mut *locked(&self.met)).into_iter().collect()
    }

    /// Why a message for a topic that was not seen in time is not kept.
    pub(super) fn unseen(&self, topic: &Topic) -> Refusal {
        if !self.heard.load(Ordering::Relaxed) || self.nowhere.load(Ordering::Relaxed) {
            return self.refuse(Code::AllBrokersDown, topic);
        }
        Refusal::Transient { reason: format!("topic {topic} was not seen on the Kafka brokers yet").into() }
    }

    /// Whether brokers answered, but none where they say that they listen.
    pub(super) fn set_nowhere(&self, nowhere: bool) {
        self.nowhere.store(nowhere, Ordering::Relaxed);
    }

    /// Whether any broker answered just now.
    pub(super) fn set_heard(&self, heard: bool) {
        self.heard.store(heard, Ordering::Relaxed);
    }

    pub(super) fn set_creates(&self, creates: bool) {
        self.creates.store(creates, Ordering::Relaxed);
    }

    /// What the client says went wrong with the connection, or with itself. Comes twice for each error.
    pub(super) fn error(&self, code: Code, why: &str) {
        self.notice(Some(code), why);
        match Trouble::of_report(code, why) {
            Some(trouble) => self.in_trouble(trouble),
            None => tracing::debug!(?code, "the Kafka client reports an error"),
        }
        self.wake.notify_one();
    }

    /// What the client says of a connection.
    pub(super) fn notice(&self, code: Option<Code>, text: &str) {
        if let Some(cause) = Cause::of(code, text) {
            let cause = self.cause().map_or(cause, |known| known.or(cause));
            *locked(&self.cause) = Some((cause, Instant::now()));
            self.troubled.store(true, Ordering::Relaxed);
        }
    }

    /// Why no connection comes about, as far as that is known.
    pub(super) fn cause(&self) -> Option<Cause> {
        locked(&self.cause).filter(|(_, when)| when.elapsed() < EXPLAINS_FOR).map(|(cause, _)| cause)
    }

    /// Whether an ERROR says what is wrong with the connection.
    pub(super) fn is_in_trouble(&self) -> bool {
        self.errors.within(EXPLAINS_FOR).is_some()
    }

    pub(super) fn in_trouble(&self, trouble: Trouble) {
        if !self.errors.record(trouble) {
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
            Code::MessageTimedOut => {
                self.timed_out.store(true, Ordering::Relaxed);
                self.wake.notify_one();
            }
            Code::Fatal | Code::State => self.wake.notify_one(),
            _ => {}
        }
        // A timeout while no broker answers has a better name.
        let gone = code == Code::MessageTimedOut && *self.connection.borrow() != ConnectionState::Up;
        let code = if gone { Code::AllBrokersDown } else { code };
        let trouble = self.errors.within(EXPLAINS_FOR);
        let refusal = refusal::refusal(code, topic, trouble, self.creates.load(Ordering::Relaxed));
        match (&refusal, self.cause()) {
            (Refusal::Transient { .. }, _) if code == Code::AllBrokersDown && self.nowhere.load(Ordering::Relaxed) => {
                Refusal::Transient { reason: format!("{NOT_AT}: see advertised.listeners").into() }
            }
            (Refusal::Transient { reason }, Some(cause)) if code == Code::AllBrokersDown => {
                Refusal::Transient { reason: format!("{reason}: {}", cause.says()).into() }
            }
            _ => refusal,
        }
    }

    /// Whether a message timed out since the last call.
    pub(super) fn take_timed_out(&self) -> bool {
        self.timed_out.swap(false, Ordering::Relaxed)
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
        assert_eq!(*state.connection().borrow(), ConnectionState::Waiting);
        state.up();
        assert_eq!(*state.connection().borrow(), ConnectionState::Up);
        state.away();
        assert_eq!(*state.connection().borrow(), ConnectionState::Away);
        state.receipt();
        assert_eq!(*state.connection().borrow(), ConnectionState::Up);
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
    fn a_receipt_at_the_start_says_nothing_of_other_topics() {
        let state = State::new(true);
        state.receipt();
        assert_eq!(*state.connection().borrow(), ConnectionState::Waiting);
    }

    #[test]
    fn a_message_that_is_refused_without_asking_is_remembered_once() {
        let state = State::new(true);
        let lacking = BTreeMap::from([("t".into(), refusal::missing("t"))]);
        state.set_standing(Standing { open: ["open".into()].into(), lacking });
        assert_eq!(state.standing_of(&"open".into()), Some(Ok(())));
        assert!(!state.take_missed());
        assert!(matches!(state.standing_of(&"t".into()), Some(Err(_))));
        assert!(state.take_missed());
        assert!(!state.take_missed());
    }

    #[test]
    fn a_topic_that_nobody_told_of_is_looked_for() {
        let state = State::new(true);
        assert_eq!(state.standing_of(&"old".into()), None);
        assert_eq!(state.take_met(), ["old".into()]);
        assert_eq!(state.take_met(), []);
    }

    #[test]
    fn what_is_not_reached_says_why_until_it_is() {
        let state = State::new(true);
        state.error(
            Code::BrokerTransportFailure,
            "a:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused",
        );
        let refusal = state.unseen(&"t".into());
        assert_eq!(refusal.to_string(), "no Kafka broker can be reached: the connection is refused");
        state.up();
        assert_eq!(state.cause(), None);
        state.set_heard(true);
        assert_eq!(state.unseen(&"t".into()).to_string(), "topic t was not seen on the Kafka brokers yet");
    }
}
