//! What the producer, the reconciler and the bus share: the connection, the status of each topic, and what the
//! reconciler is asked to do. Answers without waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::sync::{Notify, watch};

use super::connection_error::{ConnectionError, ConnectionErrors};
use super::refusal::{self, NOT_AT_ADVERTISED};
use crate::bus::{ConnectionState, Refusal};
use crate::route::Topic;

pub(super) struct Status {
    connection: watch::Sender<ConnectionState>,
    topics: watch::Sender<TopicStatuses>,
    pub(super) errors: ConnectionErrors,
    /// Whether a missing topic will be created.
    creates_topics: AtomicBool,
    /// Whether a broker answered the last question.
    answered: AtomicBool,
    /// Whether no broker is reached at the address that it advertises.
    none_at_advertised: AtomicBool,
    receipts: AtomicU64,
    /// Bytes of a batch that every topic takes, as far as that is known.
    batch_limit: AtomicU64,
    requests: Mutex<Requests>,
    wake: Notify,
}

/// Of a topic that was seen on the brokers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TopicStatus {
    Ready,
    /// It refuses every message until somebody acts.
    Refused(Refusal),
}

pub(super) type TopicStatuses = BTreeMap<Topic, TopicStatus>;

/// What the reconciler is asked to do.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Messages go to these from now on.
    pub(super) topics: Option<Vec<Topic>>,
    /// Messages came for these, which no route names: they were spooled for an earlier one.
    pub(super) more_topics: BTreeSet<Topic>,
    /// A message was refused because its topic is missing.
    pub(super) inspect_topics: bool,
    /// A message timed out.
    pub(super) timed_out: bool,
}

impl Status {
    pub(super) fn new(creates_topics: bool) -> Self {
        Self {
            connection: watch::Sender::new(ConnectionState::Waiting),
            topics: watch::Sender::default(),
            errors: ConnectionErrors::default(),
            creates_topics: AtomicBool::new(creates_topics),
            answered: AtomicBool::new(false),
            none_at_advertised: AtomicBool::new(false),
            receipts: AtomicU64::new(0),
            batch_limit: AtomicU64::new(u64::MAX),
            requests: Mutex::default(),
            wake: Notify::new(),
        }
    }

    pub(super) fn connection(&self) -> watch::Receiver<ConnectionState> {
        self.connection.subscribe()
    }

    pub(super) fn is(&self, connection: ConnectionState) -> bool {
        *self.connection.borrow() == connection
    }

    /// Up, logged where it was not.
    pub(super) fn up(&self) {
        if self.change(ConnectionState::Up, |now| now != ConnectionState::Up) {
            self.errors.clear();
            tracing::info!("Kafka can be reached");
        }
    }

    /// Away, logged where it was up. Without effect while the brokers were never reached.
    pub(super) fn away(&self) {
        if self.change(ConnectionState::Away, |now| now == ConnectionState::Up) {
            let why = self.errors.current().map(ConnectionError::says);
            tracing::warn!(why, "Kafka cannot be reached: deliveries are refused until it can");
        }
    }

    fn change(&self, connection: ConnectionState, changes: impl Fn(ConnectionState) -> bool) -> bool {
        self.connection.send_if_modified(|now| changes(*now) && std::mem::replace(now, connection) != connection)
    }

    /// One message is kept.
    pub(super) fn receipt(&self) {
        self.receipts.fetch_add(1, Ordering::Relaxed);
        // At the start the other topics are still to be seen to.
        if self.is(ConnectionState::Away) {
            self.up();
        }
        self.errors.clear_of_connection();
    }

    /// How many messages were kept since the start.
    pub(super) fn receipts(&self) -> u64 {
        self.receipts.load(Ordering::Relaxed)
    }

    /// `None`: it was not seen yet, and will be looked for.
    pub(super) fn topic(&self, topic: &Topic) -> Option<TopicStatus> {
        let status = self.topics.borrow().get(topic).cloned();
        if status.is_none() {
            self.request(|requests| requests.more_topics.extend([topic.clone()]));
        }
        status
    }

    pub(super) fn topics(&self) -> watch::Receiver<TopicStatuses> {
        self.topics.subscribe()
    }

    pub(super) fn publish_topics(&self, topics: TopicStatuses) {
        self.topics.send_replace(topics);
    }

    /// Why a message for a topic that was not seen in time is not kept.
    pub(super) fn not_seen(&self, topic: &Topic) -> Refusal {
        if !self.answered.load(Ordering::Relaxed) || self.none_at_advertised.load(Ordering::Relaxed) {
            return self.refuse(Code::AllBrokersDown, topic);
        }
        Refusal::Transient { reason: format!("topic {topic} was not seen on the Kafka brokers yet").into() }
    }

    pub(super) fn set_answered(&self, answered: bool) {
        self.answered.store(answered, Ordering::Relaxed);
    }

    pub(super) fn set_none_at_advertised(&self, none: bool) {
        self.none_at_advertised.store(none, Ordering::Relaxed);
    }

    pub(super) fn set_creates_topics(&self, creates: bool) {
        self.creates_topics.store(creates, Ordering::Relaxed);
    }

    /// What the client says went wrong with a connection, or with itself. Comes twice for each error.
    pub(super) fn error(&self, code: Code, text: &str) {
        tracing::debug!(?code, "the Kafka client reports an error");
        if let Some(error) = ConnectionError::of_report(code, text) {
            self.errors.record(error);
        }
        self.wake.notify_one();
    }

    /// Why this message was not kept. Has the reconciler look at what the code hints at.
    pub(super) fn refuse(&self, code: Code, topic: &str) -> Refusal {
        match code {
            code if refusal::is_missing(code) => self.request(|requests| requests.inspect_topics = true),
            Code::MessageTimedOut => self.request(|requests| requests.timed_out = true),
            Code::Fatal | Code::State => self.wake.notify_one(),
            _ => {}
        }
        // A timeout while no broker answers has a better name.
        let gone = code == Code::MessageTimedOut && !self.is(ConnectionState::Up);
        let code = if gone { Code::AllBrokersDown } else { code };
        if code == Code::AllBrokersDown && self.none_at_advertised.load(Ordering::Relaxed) && !self.errors.is_logged() {
            return Refusal::Transient { reason: format!("{NOT_AT_ADVERTISED}: see advertised.listeners").into() };
        }
        refusal::refusal(code, topic, self.errors.current(), self.creates_topics.load(Ordering::Relaxed))
    }

    pub(super) fn batch_limit(&self) -> u64 {
        self.batch_limit.load(Ordering::Relaxed)
    }

    /// Some topic takes no more than so many bytes.
    pub(super) fn lower_batch_limit(&self, bytes: u64) {
        if self.batch_limit.fetch_min(bytes.max(1), Ordering::Relaxed) > bytes {
            self.wake.notify_one();
        }
    }

    /// Messages go to these topics from now on.
    pub(super) fn set_topics(&self, topics: Vec<Topic>) {
        self.request(|requests| requests.topics = Some(topics));
    }

    fn request(&self, request: impl FnOnce(&mut Requests)) {
        request(&mut self.requests());
        self.wake.notify_one();
    }

    /// What was asked for since the last call.
    pub(super) fn take_requests(&self) -> Requests {
        std::mem::take(&mut *self.requests())
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something happened that the reconciler should see.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::topic_error::TopicError;
    use super::*;

    #[test]
    fn a_bus_never_reached_is_waited_for_and_not_away() {
        let status = Status::new(true);
        status.away();
        assert_eq!(*status.connection().borrow(), ConnectionState::Waiting);
        status.up();
        assert_eq!(*status.connection().borrow(), ConnectionState::Up);
        status.away();
        assert_eq!(*status.connection().borrow(), ConnectionState::Away);
        status.receipt();
        assert_eq!(*status.connection().borrow(), ConnectionState::Up);
    }

    #[test]
    fn an_error_ends_with_the_next_time_the_bus_is_reached() {
        let status = Status::new(true);
        status.error(Code::Authentication, "");
        assert!(matches!(status.refuse(Code::MessageTimedOut, "t"), Refusal::Permanent { .. }));
        status.up();
        assert!(matches!(status.refuse(Code::MessageTimedOut, "t"), Refusal::Transient { .. }));
    }

    #[test]
    fn the_last_topics_set_count_once() {
        let status = Status::new(true);
        status.set_topics(vec!["a".into()]);
        status.set_topics(vec!["b".into()]);
        assert_eq!(status.take_requests().topics, Some(vec!["b".into()]));
        assert_eq!(status.take_requests().topics, None);
    }

    #[test]
    fn an_unknown_topic_calls_for_a_look() {
        let status = Status::new(true);
        status.refuse(Code::UnknownTopic, "t");
        assert!(status.take_requests().inspect_topics);
        assert!(!status.take_requests().inspect_topics);
    }

    #[test]
    fn a_receipt_at_the_start_says_nothing_of_other_topics() {
        let status = Status::new(true);
        status.receipt();
        assert_eq!(*status.connection().borrow(), ConnectionState::Waiting);
    }

    #[test]
    fn a_topic_that_is_known_is_not_looked_for() {
        let status = Status::new(true);
        let refused = TopicStatus::Refused(TopicError::Missing.refusal("t"));
        status.publish_topics([("ready".into(), TopicStatus::Ready), ("t".into(), refused.clone())].into());
        assert_eq!(status.topic(&"ready".into()), Some(TopicStatus::Ready));
        assert_eq!(status.topic(&"t".into()), Some(refused));
        assert!(status.take_requests().more_topics.is_empty());
    }

    #[test]
    fn a_topic_that_nobody_told_of_is_looked_for() {
        let status = Status::new(true);
        assert_eq!(status.topic(&"old".into()), None);
        assert_eq!(status.take_requests().more_topics, ["old".into()].into());
        assert!(status.take_requests().more_topics.is_empty());
    }

    #[test]
    fn what_is_not_reached_says_why_until_it_is() {
        let status = Status::new(true);
        status.error(
            Code::BrokerTransportFailure,
            "a:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused",
        );
        let refusal = status.not_seen(&"t".into());
        assert_eq!(refusal.to_string(), "no Kafka broker can be reached: the connection is refused");
        status.up();
        assert_eq!(status.errors.current(), None);
        status.set_answered(true);
        assert_eq!(status.not_seen(&"t".into()).to_string(), "topic t was not seen on the Kafka brokers yet");
    }
}
