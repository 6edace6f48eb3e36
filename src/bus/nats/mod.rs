//! The NATS adapter: JetStream, since core NATS confirms nothing. Topics are *subjects* here and nowhere else.
//!
//! - `publish`: one message and its receipt; `acknowledgement`: which answer is whose; `claim_check`, `object_store` and `object` for payloads too large for it;
//! - `stream`: what publishes and reconciler share; `supervise` and `reconcile` keep it current, with `settings` and
//!   `subjects`;
//! - `client`, `events`, `connection_error`: the connection;
//! - `refusal`, `fault`: what errors mean for a message, and for stream and bucket;
//! - `inspect` and `preflight` for `check --online`, `read` for the commands.

mod acknowledgement;
mod claim_check;
mod client;
mod connection_error;
mod events;
mod fault;
mod inspect;
mod object;
mod object_store;
mod preflight;
mod publish;
mod read;
mod reconcile;
mod refusal;
mod settings;
mod stream;
mod subjects;
mod supervise;
#[cfg(test)]
mod tests;

pub(super) use inspect::inspect;
pub(super) use read::read;

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use super::loopback::is_loopback;
use super::{Bus, ConnectionState, Finding, OpenError, Pending, Receipt, Refusal, Setup};
use crate::config;
use crate::message::Message;
use crate::route::Topic;
use client::IN_FLIGHT;
use events::Events;
use reconcile::StreamReconciler;
use stream::EventStream;

struct Nats {
    stream: Arc<EventStream>,
    in_flight: Arc<Semaphore>,
    /// Bytes.
    unsent: Arc<Semaphore>,
    /// Sends the topics to the reconciler.
    subjects: watch::Sender<Vec<String>>,
    connection: watch::Receiver<ConnectionState>,
}

/// Opens the adapter. It connects in the background, now or when a server becomes available. Needs a tokio runtime.
///
/// # Errors
/// A key or certificate cannot be used.
pub(super) fn open(config: &config::Nats, setup: Setup) -> Result<Arc<dyn Bus>, OpenError> {
    let events = Arc::new(Events::default());
    let client = client::lazy(config, setup.publish_timeout, events.clone())?;
    let context = client::context(config, client, setup.publish_timeout);
    let stream = Arc::new(EventStream::new(config, context, events, &setup));
    let wanted = stream::wanted(config, &setup);
    let subjects = watch::Sender::new(wanted.subjects.clone());
    let (connection_sender, connection) = watch::channel(ConnectionState::Waiting);
    let reconciler = StreamReconciler::new(stream.clone(), wanted, subjects.subscribe(), config, &setup);
    tokio::spawn(supervise::run(config.clone(), reconciler, setup.max_body, connection_sender));
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
    let unsent = Arc::new(Semaphore::new(setup.bytes_in_flight.min(Semaphore::MAX_PERMITS)));
    Ok(Arc::new(Nats { stream, in_flight, unsent, subjects, connection }))
}

/// Warns of a password or token sent without TLS to another machine. The other login methods only sign the server's
/// challenge.
pub(super) fn exposed_login(config: &config::Nats) -> Option<Finding> {
    let secret = match (&config.password, &config.token) {
        (Some(_), _) => "nats.password",
        (None, Some(_)) => "nats.token",
        (None, None) => return None,
    };
    if config.wants_tls() || config.servers.iter().all(|server| is_loopback(server)) {
        return None;
    }
    let says = "goes over the network in plain text, and every event with it, unless the servers themselves demand TLS";
    Some(Finding::advice(secret, says, "write tls:// in nats.servers, or set nats.tls.ca"))
}

impl Bus for Nats {
    fn publish(&self, message: Arc<Message>) -> Pending<Result<Receipt, Refusal>> {
        let in_flight = self.in_flight.clone().try_acquire_owned();
        let bytes = u32::try_from(message.payload().len()).unwrap_or(u32::MAX);
        let unsent = self.unsent.clone().try_acquire_many_owned(bytes);
        let checked = self.stream.check(message.topic());
        let stream = self.stream.clone();
        Box::pin(async move {
            checked?;
            let _in_flight = in_flight.map_err(|_| refusal::BUSY)?;
            let unsent = unsent.map_err(|_| refusal::UNSENT)?;
            publish::publish(&stream, &message, unsent).await
        })
    }

    fn topics(&self, topics: Vec<Topic>) {
        let subjects: Vec<String> = topics.iter().map(ToString::to_string).collect();
        self.stream.set_subjects(&self.subjects, subjects);
    }

    fn connection(&self) -> watch::Receiver<ConnectionState> {
        self.connection.clone()
    }

    fn close(&self) -> Pending<()> {
        let (stream, in_flight) = (self.stream.clone(), self.in_flight.clone());
        Box::pin(async move {
            // Draining the client first would lose the outstanding acknowledgements.
            let _ = in_flight.acquire_many(IN_FLIGHT as u32).await;
            // Without a connection, a flush would never return.
            if stream.is_connected() {
                let _ = stream.client.flush().await;
            }
        })
    }
}
