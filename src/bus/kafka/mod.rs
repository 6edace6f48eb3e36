//! The Kafka adapter, over librdkafka: a receipt comes once all replicas in sync have the message.
//!
//! - `producer`: one message and its receipt, with `acknowledgement`, `refusal` and `batch_limit`; `waiting` for messages
//!   whose topic was not seen yet;
//! - `status`: what producer and reconciler share, with `connection_error`; `reconciler` keeps it current, and the client
//!   in order (`replacement`, with `backoff`);
//! - `topics`: creates missing topics and checks the settings of existing ones, each a `topic_state`, with
//!   `topic_settings` and `topic_error`;
//! - `client`, `metadata`, `admin`: questions to the brokers;
//! - `inspect` and `findings` for `check --online`, `read` for readers;
//! - `settings`: how each client is set up, with `compression`; `properties` and `property_names`: the user's part.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::{Bus, ConnectionState, OpenError, Pending, Receipt, Refusal, Setup};
use crate::config;
use crate::message::Message;
use crate::route::Topic;
use producer::{Answer, Producer};
use reconciler::Reconciler;
use settings::{SCAN, message_timeout};
use status::{Status, TopicStatus};
use topics::Topics;
use waiting::WaitingMessages;

mod acknowledgement;
mod admin;
mod backoff;
mod batch_limit;
mod client;
mod compression;
mod connection_error;
mod findings;
mod inspect;
mod metadata;
mod producer;
mod properties;
mod property_names;
mod read;
mod reconciler;
mod refusal;
mod replacement;
mod settings;
mod status;
mod topic_error;
mod topic_settings;
mod topic_state;
mod topics;
mod waiting;

#[cfg(test)]
mod tests;

pub(super) use client::version as client_version;
pub(super) use compression::needed_packages;
pub(super) use inspect::inspect;
pub(super) use properties::check as check_properties;
pub(super) use property_names::is_printable;
pub(super) use read::read;
pub(super) use settings::exposed_login;

/// The most that one question to the brokers may take while the connection is watched.
const PROBE_MOST: Duration = Duration::from_secs(2);

struct Kafka {
    producer: Arc<Producer>,
    waiting: Arc<WaitingMessages>,
    status: Arc<Status>,
    message_timeout: Duration,
    reconciler: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// Opens the adapter; see [`super::adapters::open`]. Within a runtime.
pub(super) fn open(config: &config::Kafka, setup: Setup) -> Result<Arc<dyn Bus>, OpenError> {
    let message_timeout = message_timeout(setup.publish_timeout);
    let status = Arc::new(Status::new(config.create_topics));
    let producer = Arc::new(Producer::open(settings::producer(config, &setup)?, Arc::clone(&status))?);
    let topics = Topics::new(config.clone(), &setup);
    let patience = message_timeout.min(PROBE_MOST);
    let reconciler = Reconciler::new(Arc::clone(&producer), Arc::clone(&status), topics, patience);
    let reconciler = Mutex::new(Some(AbortOnDropHandle::new(tokio::spawn(reconciler.run()))));
    Ok(Arc::new(Kafka { producer, waiting: Arc::default(), status, message_timeout, reconciler }))
}

async fn report(answer: oneshot::Receiver<Answer>) -> Answer {
    let lost = || Err(Refusal::Transient { reason: "the Kafka client gave no report of the message".into() });
    answer.await.unwrap_or_else(|_| lost())
}

/// Waits until it is known whether messages may go to this topic: at the start, and where it is new.
async fn seen(status: &Status, topic: &Topic) -> Result<(), Refusal> {
    let mut topics = status.topics();
    let known = topics.wait_for(|topics| topics.contains_key(topic)).await;
    match known.ok().and_then(|topics| topics.get(topic).cloned()) {
        Some(TopicStatus::Ready) => Ok(()),
        Some(TopicStatus::Refused(refusal)) => Err(refusal),
        None => Err(status.not_seen(topic)),
    }
}

impl Bus for Kafka {
    fn publish(&self, message: Arc<Message>) -> Pending<Result<Receipt, Refusal>> {
        match self.status.topic(message.topic()) {
            Some(TopicStatus::Refused(refusal)) => Box::pin(std::future::ready(Err(refusal))),
            Some(TopicStatus::Ready) if self.waiting.is_empty() => Box::pin(report(self.producer.send(message))),
            Some(TopicStatus::Ready) | None => {
                let (producer, status) = (Arc::clone(&self.producer), Arc::clone(&self.status));
                let (turn, until) = (self.waiting.join(message.topic()), Instant::now() + self.message_timeout);
                Box::pin(async move {
                    let not_seen = |_| status.not_seen(message.topic());
                    let guard = timeout_at(until, turn.lock.lock()).await.map_err(not_seen)?;
                    timeout_at(until, seen(&status, message.topic())).await.map_err(not_seen)??;
                    let answer = producer.send(message);
                    drop(guard);
                    drop(turn);
                    report(answer).await
                })
            }
        }
    }

    fn topics(&self, topics: Vec<Topic>) {
        self.status.set_topics(topics);
    }

    fn connection(&self) -> watch::Receiver<ConnectionState> {
        self.status.connection()
    }

    fn close(&self) -> Pending<()> {
        drop(self.reconciler.lock().unwrap_or_else(PoisonError::into_inner).take());
        let producer = Arc::clone(&self.producer);
        // Each message has its report by then: its own timeout, and the scan that finds it overdue.
        let patience = self.message_timeout + 2 * SCAN;
        let closed = tokio::task::spawn_blocking(move || producer.close(patience));
        Box::pin(async move { drop(closed.await) })
    }
}
