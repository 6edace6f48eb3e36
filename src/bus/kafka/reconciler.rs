//! Keeps the adapter true to the brokers. A round replaces the client where it must, asks whether brokers answer, has
//! the topics reconciled when that is due, and applies what it found to the connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::{Query as _, blocking};
use super::connection_error::ConnectionError;
use super::metadata::{address, not_reached};
use super::producer::Producer;
use super::refusal::NOT_AT_ADVERTISED;
use super::replacement::{Lasting, Reason, Replacement};
use super::status::Status;
use super::topics::{Reconciled, Topics};
use crate::bus::ConnectionState;

/// Between two rounds while Kafka is up, while it is not, and at least. Sooner where the topics are due for a look.
const UP: Duration = Duration::from_secs(5);
const NOT_UP: Duration = Duration::from_secs(1);
const LEAST: Duration = Duration::from_millis(200);

/// How long something is wrong before it is logged, and how often it is logged again.
const LOG_AFTER: Duration = Duration::from_secs(5);
const LOG_EVERY: Duration = Duration::from_secs(60);

pub(super) struct Reconciler {
    producer: Arc<Producer>,
    status: Arc<Status>,
    topics: Topics,
    /// For one question to the brokers.
    patience: Duration,
    replacement: Replacement,
    /// Where the brokers say that they listen.
    advertised: Vec<String>,
    found: Reconciled,
    next_look: Instant,
    no_answer: Complaint,
    unreachable: Complaint,
}

/// Brokers that are not reached at the addresses that they advertise.
#[derive(Default)]
struct Unreachable {
    addresses: Vec<String>,
    /// No broker is reached.
    all: bool,
}

impl Reconciler {
    pub(super) fn new(producer: Arc<Producer>, status: Arc<Status>, topics: Topics, patience: Duration) -> Self {
        Self {
            producer,
            status,
            topics,
            patience,
            replacement: Replacement::default(),
            advertised: Vec::new(),
            found: Reconciled::default(),
            next_look: Instant::now(),
            no_answer: Complaint::default(),
            unreachable: Complaint::default(),
        }
    }

    /// Runs until it is dropped. The calls to the brokers block, each with a deadline, on threads of their own.
    pub(super) async fn run(mut self) {
        loop {
            let pause = self.round().await;
            // A message wakes at any rate; rounds keep a distance.
            tokio::time::sleep(LEAST).await;
            tokio::select! {
                () = self.status.woken() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// How long the next round can wait.
    async fn round(&mut self) -> Duration {
        let (timed_out, receipts) = (self.take_requests(), self.status.receipts());
        self.replace_client(receipts).await;
        let answered = self.probe().await;
        // A receipt says more than a slow answer about metadata.
        let reachable = answered || self.status.receipts() != receipts;
        self.status.set_answered(reachable);
        if !reachable {
            self.status.away();
        }
        if answered && Instant::now() >= self.next_look {
            self.found = self.topics.reconcile(&self.producer, &self.status, self.patience).await;
            self.next_look = Instant::now() + self.found.next;
        }
        self.replacement.observe(reachable, answered && timed_out, self.status.receipts(), Instant::now());
        let unreachable = if !reachable {
            self.never_reached()
        } else if answered && (timed_out || !self.status.is(ConnectionState::Up)) {
            self.unreachable_leaders(receipts).await
        } else {
            Unreachable::default()
        };
        self.set_connection(answered, &unreachable);
        self.complain_of_silence(!reachable && !unreachable.all);
        self.complain_of_addresses(unreachable);
        self.pause(answered)
    }

    /// Whether a message timed out.
    fn take_requests(&mut self) -> bool {
        let requests = self.status.take_requests();
        let replaced = requests.topics.map(|topics| self.topics.replace(topics)).is_some();
        let added = self.topics.add(requests.more_topics);
        if replaced || added || requests.inspect_topics {
            self.next_look = Instant::now();
        }
        requests.timed_out
    }

    async fn replace_client(&mut self, receipts: u64) {
        let failed = self.producer.fatal();
        let Some(reason) = self.replacement.reason(failed, self.producer.overfills(), Instant::now()) else { return };
        // One that fills its batches too full still delivers others.
        let patience = if reason == Reason::LargeBatches { self.patience } else { Duration::ZERO };
        let producer = Arc::clone(&self.producer);
        let replaced = blocking(move || producer.replace(patience)).await;
        self.replacement.attempted(replaced, receipts, Instant::now());
        if !replaced {
            return;
        }
        self.advertised.clear();
        match reason {
            Reason::Failed(code) => {
                tracing::warn!(?code, "the Kafka client failed for good and was replaced");
                if let Some(error) = ConnectionError::of_code(code) {
                    self.status.errors.record(error);
                }
            }
            Reason::NoAnswer => {
                tracing::info!("no Kafka broker answered for a while: a new client looks for them");
            }
            Reason::Stuck => tracing::warn!(
                "Kafka confirms no message though its brokers answer: a new client goes on, which may leave copies"
            ),
            Reason::LargeBatches => tracing::warn!(
                bytes = self.status.batch_limit(),
                remedy = "raise max.message.bytes of the topics that take little, then restart the bridge",
                "a Kafka topic takes less than a batch of messages: they are sent in smaller batches from now on"
            ),
        }
    }

    /// Whether any broker answers.
    async fn probe(&mut self) -> bool {
        let (producer, topic, patience) = (Arc::clone(&self.producer), self.topics.first(), self.patience);
        match blocking(move || producer.metadata(topic.as_deref(), patience)).await {
            Ok(metadata) => {
                self.advertised = metadata.brokers().iter().map(address).collect();
                true
            }
            Err(_) => false,
        }
    }

    /// A client goes to the addresses that brokers advertise as soon as it knows them: where nobody answers there,
    /// none was ever reached.
    fn never_reached(&self) -> Unreachable {
        if !self.status.is(ConnectionState::Waiting) || self.status.errors.is_logged() {
            return Unreachable::default();
        }
        Unreachable { all: !self.advertised.is_empty(), addresses: self.advertised.clone() }
    }

    /// Asks those who lead the topics, or else goes by whether the controller was reached. `receipts`: at the
    /// beginning of the round.
    async fn unreachable_leaders(&self, receipts: u64) -> Unreachable {
        let Reconciled { leaders, no_controller_at, .. } = &self.found;
        let addresses = not_reached(&self.producer, leaders.clone(), self.patience).await;
        let addresses = match self.status.receipts() != receipts {
            true => Vec::new(),
            false if leaders.is_empty() => no_controller_at.clone(),
            false => addresses,
        };
        Unreachable { all: !addresses.is_empty() && addresses.len() >= leaders.len(), addresses }
    }

    /// Up, and so ready, only once its topics were seen to, and those who lead them are reached: what came before that
    /// would be refused.
    fn set_connection(&self, answered: bool, unreachable: &Unreachable) {
        self.status.set_none_at_advertised(unreachable.all);
        if unreachable.all {
            self.status.away();
        } else if answered && self.found.ready && (unreachable.addresses.is_empty() || self.unreachable.is_logged()) {
            self.status.up();
        }
    }

    /// Logs that no broker answers, and nobody has said why.
    fn complain_of_silence(&mut self, is_silent: bool) {
        if self.no_answer.is_due(is_silent, Instant::now()) && !self.status.errors.is_logged() {
            let (why, remedy) = match self.status.errors.current() {
                Some(error) => (error.says(), error.remedy()),
                None => ("no broker answers", "check kafka.brokers and the network"),
            };
            tracing::warn!(why, remedy, "Kafka is not reached: deliveries are refused");
        }
    }

    /// Logs which brokers are not reached. What is said stays true until the bus is up, or, where it is, until all are
    /// reached.
    fn complain_of_addresses(&mut self, Unreachable { addresses, all }: Unreachable) {
        let lasts = !addresses.is_empty();
        if !lasts && !self.status.is(ConnectionState::Up) || !self.unreachable.is_due(lasts, Instant::now()) {
            return;
        }
        let (addresses, why) = (addresses.join(", "), self.status.errors.current().map(ConnectionError::says));
        let remedy = "check advertised.listeners of these brokers, and that they run";
        if all {
            tracing::error!(addresses, why, remedy, "{NOT_AT_ADVERTISED}");
        } else {
            let says = "some Kafka brokers are not reached at the addresses that they advertise";
            tracing::warn!(addresses, why, remedy, "{says}: deliveries for what they lead are refused");
        }
    }

    fn pause(&self, answered: bool) -> Duration {
        let now = Instant::now();
        let is_well = answered && self.status.is(ConnectionState::Up) && self.replacement.is_due(now);
        // Without messages only a probe finds that brokers went away in silence.
        let probe = if is_well { UP } else { NOT_UP };
        probe.min(self.next_look.saturating_duration_since(now))
    }
}

/// Something that is logged once it has lasted for a while, and again while it lasts.
#[derive(Default)]
struct Complaint {
    lasting: Lasting,
    logged: Option<Instant>,
}

impl Complaint {
    /// Another round: whether it is to be logged now.
    fn is_due(&mut self, lasts: bool, now: Instant) -> bool {
        let long = self.lasting.time(lasts, now) >= LOG_AFTER;
        if !lasts {
            self.logged = None;
        }
        let due = long && self.logged.is_none_or(|logged| now - logged >= LOG_EVERY);
        if due {
            self.logged = Some(now);
        }
        due
    }

    /// Whether it lasts and was logged.
    fn is_logged(&self) -> bool {
        self.logged.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_logged_after_a_while_and_again_until_it_is_over() {
        let begun = Instant::now();
        let mut complaint = Complaint::default();
        let mut round = |lasts, seconds| complaint.is_due(lasts, begun + Duration::from_secs(seconds));
        assert!(!round(true, 0) && !round(true, 4));
        assert!(round(true, 5));
        assert!(!round(true, 6) && !round(true, 64));
        assert!(round(true, 65));
        assert!(!round(false, 66) && !round(true, 67) && !round(true, 71));
        assert!(round(true, 72));
    }
}
