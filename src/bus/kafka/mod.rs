//! The adapter for Kafka, over librdkafka. Comes in: a message. Goes out: a receipt once all replicas
//! in sync have it, or a classified refusal. The wiring; what each part does stands in its own file.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{Bus, Link, OpenError, Pending, Receipt, Refusal, Setup};
use crate::config;
use crate::message::Message;
use crate::route::Topic;
use client::Times;
use producer::Line;
use state::State;
use topics::Topics;

mod asking;
mod client;
mod confirmation;
mod inspect;
mod pace;
mod producer;
mod properties;
mod refusal;
mod replay;
mod state;
mod supervise;
mod tail;
mod topics;

#[cfg(test)]
mod batches;
#[cfg(test)]
mod live;
#[cfg(test)]
mod mocked;
#[cfg(test)]
mod replaced;

pub(crate) use inspect::inspect;
pub(crate) use properties::{harmless, judge};
pub(crate) use replay::replay;
pub(crate) use tail::{present, tail};

/// The most that one question to the brokers may take while the link is watched.
const PROBE_MOST: std::time::Duration = std::time::Duration::from_secs(2);

struct Kafka {
    line: Arc<Line>,
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
    Ok(Arc::new(Kafka { line, state, times, supervisor }))
}

impl Bus for Kafka {
    fn publish(&self, message: Arc<Message>) -> Pending<Result<Receipt, Refusal>> {
        if let Some(refusal) = self.state.lacks(message.topic()) {
            return Box::pin(std::future::ready(Err(refusal)));
        }
        let receipt = self.line.send(message);
        Box::pin(async move {
            let lost = || Err(Refusal::Transient { reason: "the Kafka client gave no report of the message".into() });
            receipt.await.unwrap_or_else(|_| lost())
        })
    }

    fn topics(&self, topics: Vec<Topic>) {
        self.state.told(topics);
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.state.link()
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
