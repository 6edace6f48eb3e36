//! The adapter for Kafka, over librdkafka. Comes in: a message. Goes out: a receipt once all replicas
//! in sync have it, or a classified refusal. The wiring; what each part does stands in its own file.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::plaintext::is_loopback;
use super::{Bus, ConnectionState, Finding, OpenError, Pending, Receipt, Refusal, Setup};
use crate::config;
use crate::message::Message;
use crate::route::Topic;
use client::Times;
use producer::{Answer, Line};
use state::State;
use topics::Topics;
use unseen::Unseen;

mod asking;
mod cause;
mod client;
mod confirmation;
mod creation;
mod inspect;
mod keeping;
mod look;
mod pace;
mod producer;
mod properties;
mod refusal;
mod replay;
mod state;
mod supervise;
mod tail;
mod topics;
mod unseen;

#[cfg(test)]
mod batches;
#[cfg(test)]
mod live;
#[cfg(test)]
mod mocked;
#[cfg(test)]
mod replaced;
#[cfg(test)]
mod seen;

pub(crate) use inspect::inspect;
pub(crate) use properties::{harmless, judge};
pub(crate) use replay::replay;
pub(crate) use tail::{present, tail};

/// The most that one question to the brokers may take while the link is watched.
const PROBE_MOST: Duration = Duration::from_secs(2);

struct Kafka {
    line: Arc<Line>,
    unseen: Arc<Unseen>,
    state: Arc<State>,
    times: Times,
    supervisor: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// Opens the adapter; see [`super::open`]. Within a runtime.
pub(crate) fn open(config: &config::Kafka, setup: Setup) -> Result<Arc<dyn Bus>, OpenError> {
    let times = Times::within(setup.publish_timeout);
    let state = Arc::new(State::new(config.create_topics));
    let line = Arc::new(Line::open(client::producer(config, &setup)?, Arc::clone(&state))?);
    let topics = Topics::new(config.clone(), &setup);
    let probe = times.message.min(PROBE_MOST);
    let supervisor = supervise::supervise(Arc::clone(&line), Arc::clone(&state), topics, probe);
    let supervisor = Mutex::new(Some(AbortOnDropHandle::new(tokio::spawn(supervisor))));
    Ok(Arc::new(Kafka { line, unseen: Arc::default(), state, times, supervisor }))
}

/// Of a login that goes without TLS to another machine.
pub(super) fn exposed_login(config: &config::Kafka) -> Option<Finding> {
    let client = client::admin(config).ok()?;
    let is = |name: &str, wanted: &str| client.get(name).is_some_and(|value| value.eq_ignore_ascii_case(wanted));
    if !is("security.protocol", "sasl_plaintext") || config.brokers.iter().all(|broker| is_loopback(broker)) {
        return None;
    }
    let says = if is("sasl.mechanisms", "PLAIN") {
        "goes over the network in plain text, and every event with it"
    } else {
        "is used without TLS: whoever listens reads every event, and can try passwords on the login"
    };
    let remedy = "set kafka.tls.ca (or \"system\") and name a TLS listener in kafka.brokers";
    Some(Finding::advice("kafka.password", says, remedy))
}

async fn reported(receipt: oneshot::Receiver<Answer>) -> Answer {
    let lost = || Err(Refusal::Transient { reason: "the Kafka client gave no report of the message".into() });
    receipt.await.unwrap_or_else(|_| lost())
}

/// Waits until it is known whether messages may go to this topic: at the start, and where it is new.
async fn seen(state: &State, topic: &Topic) -> Result<(), Refusal> {
    let mut standing = state.standing();
    let known = standing.wait_for(|standing| standing.of(topic).is_some()).await;
    known.ok().and_then(|standing| standing.of(topic)).unwrap_or_else(|| Err(state.unseen(topic)))
}

impl Bus for Kafka {
    fn publish(&self, message: Arc<Message>) -> Pending<Result<Receipt, Refusal>> {
        match self.state.standing_of(message.topic()) {
            Some(Err(refusal)) => Box::pin(std::future::ready(Err(refusal))),
            Some(Ok(())) if self.unseen.is_empty() => Box::pin(reported(self.line.send(message))),
            Some(Ok(())) | None => {
                let (line, state) = (Arc::clone(&self.line), Arc::clone(&self.state));
                let (place, until) = (self.unseen.join(message.topic()), Instant::now() + self.times.message);
                Box::pin(async move {
                    let unseen = |_| state.unseen(message.topic());
                    let turn = timeout_at(until, place.turn.lock()).await.map_err(unseen)?;
                    timeout_at(until, seen(&state, message.topic())).await.map_err(unseen)??;
                    let receipt = line.send(message);
                    drop(turn);
                    drop(place);
                    reported(receipt).await
                })
            }
        }
    }

    fn topics(&self, topics: Vec<Topic>) {
        self.state.told(topics);
    }

    fn connection(&self) -> watch::Receiver<ConnectionState> {
        self.state.connection()
    }

    fn close(&self) -> Pending<()> {
        drop(self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take());
        let line = Arc::clone(&self.line);
        // Each message has its report by then: its own timeout, and the scan that finds it overdue.
        let patience = self.times.message + 2 * client::SCAN;
        let closed = tokio::task::spawn_blocking(move || line.close(patience));
        Box::pin(async move { drop(closed.await) })
    }
}
