//! One message on its way. Comes in: a [`Message`]. Goes out: a receipt or a refusal. The payload's share of the
//! memory budget is held until librdkafka's delivery report.
//!
//! A report without an error is not yet a receipt: librdkafka also infers success. It is one where the partition's
//! leader answered with an offset, which under `acks=all` it does once all replicas in sync have the message
//! ([`super::confirmation`]). That flushing or closing a client succeeds is taken as word of no message.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{ClientConfig, ClientContext, Statistics};
use tokio::sync::oneshot;

use super::client;
use super::confirmation::is_confirmed;
use super::refusal::{self, crowded, unconfirmed};
use super::state::State;
use crate::bus::{ConnectionState, OpenError, Receipt, Refusal};
use crate::message::Message;

pub(super) type Answer = Result<Receipt, Refusal>;
pub(super) type Client = ThreadedProducer<Reports>;

/// What waits in the client until the message's delivery report.
pub(super) struct Handed {
    message: Arc<Message>,
    answer: oneshot::Sender<Answer>,
}

/// Where the client's reports go.
pub(super) struct Reports {
    state: Arc<State>,
    /// Bytes of a batch that their client fills.
    batch: u64,
}

impl Reports {
    /// The broker refuses a whole batch as too large. That means this message only where it was alone.
    fn refuse(&self, code: Code, message: &Message) -> Refusal {
        let too_large = matches!(code, Code::MessageSizeTooLarge | Code::MessageBatchTooLarge);
        if too_large && size(message) <= self.batch {
            self.state.take_batches_below(self.batch);
            return crowded(message.topic());
        }
        if code == Code::MessageTimedOut && *self.state.connection().borrow() == ConnectionState::Up {
            refusal::say_unanswered();
        }
        self.state.refuse(code, message.topic())
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        client::log(level, facility);
        // What is only logged: connections that the other side closes.
        self.state.notice(None, text);
    }

    fn error(&self, error: KafkaError, why: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            self.state.error(code, why);
        }
    }

    fn stats(&self, _: Statistics) {}

    fn stats_raw(&self, _: &[u8]) {}
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Handed>;

    fn delivery(&self, report: &DeliveryResult<'_>, handed: Self::DeliveryOpaque) {
        let Handed { message, answer } = *handed;
        // Nobody waits any more where the caller's deadline passed first.
        let _ = answer.send(match report {
            Ok(report) if is_confirmed(report.topic(), report.partition(), report.offset()) => {
                self.state.receipt();
                Ok(Receipt::Kept)
            }
            Ok(_) => Err(unconfirmed(message.topic())),
            Err((error, _)) => Err(self.refuse(code(error), &message)),
        });
    }
}

/// The producer in use, which can be replaced and in the end taken away. Its lock is held for the
/// time of a hand-over, which never blocks.
pub(super) struct Line {
    config: ClientConfig,
    state: Arc<State>,
    client: RwLock<Option<Arc<Client>>>,
    /// Bytes of a batch that the client fills.
    batch: AtomicU64,
}

impl Line {
    pub(super) fn open(config: ClientConfig, state: Arc<State>) -> Result<Self, OpenError> {
        let batch = client::batch(&config);
        let client = client::create(&config, Reports { state: Arc::clone(&state), batch })?;
        Ok(Self { config, state, client: RwLock::new(Some(Arc::new(client))), batch: batch.into() })
    }

    /// Hands the message over at once. The answer comes with the delivery report, or now where there
    /// will be none.
    pub(super) fn send(&self, message: Arc<Message>) -> oneshot::Receiver<Answer> {
        let (answer, receipt) = oneshot::channel();
        let (topic, key, payload) = (message.topic(), message.key(), &message.payload()[..]);
        let handed = Box::new(Handed { message: Arc::clone(&message), answer });
        let record = BaseRecord::with_opaque_to(topic, handed).key(key).payload(payload).headers(headers(&message));
        let (error, handed) = match &*self.client.read().unwrap_or_else(PoisonError::into_inner) {
            None => (Code::PurgeQueue, record.delivery_opaque),
            Some(client) => match client.send(record) {
                Ok(()) => return receipt,
                Err((error, record)) => (code(&error), record.delivery_opaque),
            },
        };
        let _ = handed.answer.send(Err(self.state.refuse(error, topic)));
        receipt
    }

    /// The client, to ask the brokers with. Only for threads that may block: the last to let go of
    /// it closes it. `None` once closed.
    pub(super) fn client(&self) -> Option<Arc<Client>> {
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the client failed for good; `None` where it has not.
    pub(super) fn fatal(&self) -> Option<Code> {
        self.client()?.client().fatal_error().map(|(code, _)| code)
    }

    /// Whether the client fills larger batches than some topic takes.
    pub(super) fn overfills(&self) -> bool {
        self.state.batches() < self.batch.load(Ordering::Relaxed)
    }

    /// Replaces the client. What the old one still has after `patience` is answered as transient.
    /// Whether there is a new one.
    pub(super) fn replace(&self, patience: Duration) -> bool {
        let batch = self.state.batches().min(self.batch.load(Ordering::Relaxed));
        let mut config = self.config.clone();
        config.set("batch.size", batch.to_string());
        match client::create(&config, Reports { state: Arc::clone(&self.state), batch }) {
            Ok(client) => {
                self.batch.store(batch, Ordering::Relaxed);
                let mut slot = self.client.write().unwrap_or_else(PoisonError::into_inner);
                // Closed meanwhile: stays closed.
                let old = if slot.is_some() { slot.replace(Arc::new(client)) } else { None };
                drop(slot);
                // Closing blocks, and one that is stuck may do so for long.
                std::thread::spawn(move || old.map(|old| old.flush(patience)));
                true
            }
            Err(error) => {
                tracing::error!("the Kafka client cannot be replaced: {error}");
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
            tracing::warn!(messages = client.in_flight_count(), "messages were not confirmed by Kafka before the end");
        }
    }
}

impl Drop for Line {
    /// Without [`Line::close`]: closing blocks, so that a thread of its own does it.
    fn drop(&mut self) {
        if let Some(client) = self.client.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            std::thread::spawn(move || drop(client));
        }
    }
}

pub(super) fn code(error: &KafkaError) -> Code {
    match error {
        // Which rdkafka (0.39) has no code for.
        KafkaError::AdminOp(code) => *code,
        error => error.rdkafka_error_code().unwrap_or(Code::Fail),
    }
}

/// Bytes of it in a batch, at least.
fn size(message: &Message) -> u64 {
    let headers: usize = message.kafka_headers().map(|(key, value)| key.len() + value.len()).sum();
    (message.key().len() + message.payload().len() + headers) as u64
}

fn headers(message: &Message) -> OwnedHeaders {
    message
        .kafka_headers()
        .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key: &key, value: Some(value) }))
}
