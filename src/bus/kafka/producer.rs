//! Hands messages to librdkafka and turns its delivery reports into receipts and refusals. A message, and so its share
//! of the memory budget, is held until its report.
//!
//! A report without an error is not yet a receipt: librdkafka also infers success. It is one where the partition's
//! leader answered with an offset, which under `acks=all` it does once all replicas in sync have the message
//! ([`super::acknowledgement`]). That flushing or closing a client succeeds is taken as word of no message.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{ClientConfig, ClientContext};
use tokio::sync::oneshot;

use super::acknowledgement::is_confirmed;
use super::client::{self, Query, code};
use super::connection_error::ConnectionError;
use super::status::Status;
use super::{batch_limit, refusal};
use crate::bus::{ConnectionState, OpenError, Receipt, Refusal};
use crate::message::Message;

pub(super) type Answer = Result<Receipt, Refusal>;
type Client = ThreadedProducer<DeliveryReports>;

/// What waits in the client until the message's delivery report.
pub(super) struct InFlight {
    message: Arc<Message>,
    answer: oneshot::Sender<Answer>,
}

/// Where the client's reports go.
pub(super) struct DeliveryReports {
    status: Arc<Status>,
    /// Bytes of a batch that their client fills.
    batch: u64,
}

impl DeliveryReports {
    /// The broker refuses a whole batch as too large. That means this message only where it was alone.
    fn refuse(&self, code: Code, message: &Message) -> Refusal {
        if batch_limit::may_be_due_to_others(code, message, self.batch) {
            self.status.lower_batch_limit(batch_limit::smaller(self.batch));
            return batch_limit::refusal(message.topic());
        }
        if code == Code::MessageTimedOut && self.status.is(ConnectionState::Up) {
            refusal::log_timeout();
        }
        self.status.refuse(code, message.topic())
    }
}

impl ClientContext for DeliveryReports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        client::log(level, facility);
        // What is only logged: connections that the other side closes.
        if let Some(error) = ConnectionError::of_text(None, text) {
            self.status.errors.record(error);
        }
    }

    fn error(&self, error: KafkaError, why: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            self.status.error(code, why);
        }
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl ProducerContext for DeliveryReports {
    type DeliveryOpaque = Box<InFlight>;

    fn delivery(&self, report: &DeliveryResult<'_>, in_flight: Self::DeliveryOpaque) {
        let InFlight { message, answer } = *in_flight;
        // Nobody waits any more where the caller's deadline passed first.
        let _ = answer.send(match report {
            Ok(report) if is_confirmed(report.topic(), report.partition(), report.offset()) => {
                self.status.receipt();
                Ok(Receipt::Kept)
            }
            Ok(_) => Err(refusal::unconfirmed(message.topic())),
            Err((error, _)) => Err(self.refuse(code(error), &message)),
        });
    }
}

/// The producer in use, which can be replaced and in the end taken away. Its lock is held for the
/// time of a hand-over, which never blocks.
pub(super) struct Producer {
    config: ClientConfig,
    status: Arc<Status>,
    client: RwLock<Option<Arc<Client>>>,
}

impl Producer {
    pub(super) fn open(config: ClientConfig, status: Arc<Status>) -> Result<Self, OpenError> {
        let reports = DeliveryReports { status: Arc::clone(&status), batch: batch_limit::batch_size(&config) };
        let client = client::create(&config, reports)?;
        Ok(Self { config, status, client: RwLock::new(Some(Arc::new(client))) })
    }

    /// Hands the message over at once. The answer comes with the delivery report, or now where there
    /// will be none.
    pub(super) fn send(&self, message: Arc<Message>) -> oneshot::Receiver<Answer> {
        let (answer, receipt) = oneshot::channel();
        let (topic, key, payload) = (message.topic(), message.key(), &message.payload()[..]);
        let in_flight = Box::new(InFlight { message: Arc::clone(&message), answer });
        let record = BaseRecord::with_opaque_to(topic, in_flight).key(key).payload(payload).headers(headers(&message));
        let (error, in_flight) = match &*self.current() {
            None => (Code::PurgeQueue, record.delivery_opaque),
            Some(client) => match client.send(record) {
                Ok(()) => return receipt,
                Err((error, record)) => (code(&error), record.delivery_opaque),
            },
        };
        let _ = in_flight.answer.send(Err(self.status.refuse(error, topic)));
        receipt
    }

    /// `None` once closed.
    fn current(&self) -> RwLockReadGuard<'_, Option<Arc<Client>>> {
        self.client.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client, to ask the brokers with. Only for threads that may block: the last to let go of
    /// it closes it.
    fn client(&self) -> Result<Arc<Client>, KafkaError> {
        self.current().clone().ok_or(KafkaError::Canceled)
    }

    /// Why the client failed for good; `None` where it has not.
    pub(super) fn fatal(&self) -> Option<Code> {
        self.current().as_ref()?.client().fatal_error().map(|(code, _)| code)
    }

    /// Whether the client fills larger batches than some topic takes.
    pub(super) fn overfills(&self) -> bool {
        self.batch().is_some_and(|batch| self.status.batch_limit() < batch)
    }

    /// Bytes of a batch that the client fills.
    fn batch(&self) -> Option<u64> {
        self.current().as_ref().map(|client| client.context().batch)
    }

    /// Replaces the client. What the old one still has after `patience` is answered as transient.
    /// Whether there is a new one.
    pub(super) fn replace(&self, patience: Duration) -> bool {
        let Some(batch) = self.batch().map(|batch| batch.min(self.status.batch_limit())) else { return false };
        let mut config = self.config.clone();
        config.set("batch.size", batch.to_string());
        match client::create(&config, DeliveryReports { status: Arc::clone(&self.status), batch }) {
            Ok(client) => {
                let mut slot = self.client.write().unwrap_or_else(PoisonError::into_inner);
                // Closed meanwhile: stays closed.
                let old = if slot.is_some() { slot.replace(Arc::new(client)) } else { None };
                drop(slot);
                // Closing blocks, and one that is stuck may do so for long.
                std::thread::spawn(move || old.map(|old| old.flush(patience)));
                true
            }
            Err(error) => {
                tracing::error!("the Kafka client cannot be replaced; {error}");
                false
            }
        }
    }

    /// Waits for the reports of all that was handed over, then closes. Blocks, for `patience` at most
    /// and the time that closing itself takes.
    pub(super) fn close(&self, patience: Duration) {
        let client = self.client.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(client) = client
            && client.flush(patience).is_err()
        {
            tracing::warn!(
                messages = client.in_flight_count(),
                "the bridge stops before Kafka confirmed these messages"
            );
        }
    }
}

/// Once closed there is no answer.
impl Query for Producer {
    fn metadata(&self, topic: Option<&str>, patience: Duration) -> Result<Metadata, KafkaError> {
        self.client()?.client().fetch_metadata(topic, patience)
    }

    fn offsets(&self, topic: &str, partition: i32, patience: Duration) -> Result<(i64, i64), KafkaError> {
        self.client()?.client().fetch_watermarks(topic, partition, patience)
    }
}

impl Drop for Producer {
    /// Without [`Producer::close`]: closing blocks, so that a thread of its own does it.
    fn drop(&mut self) {
        if let Some(client) = self.client.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            std::thread::spawn(move || drop(client));
        }
    }
}

fn headers(message: &Message) -> OwnedHeaders {
    message
        .kafka_headers()
        .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }))
}
