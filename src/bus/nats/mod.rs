//! The NATS adapter: JetStream, since core NATS confirms nothing. Comes in: messages. Goes out: the
//! stream's acknowledgements. Topics are *subjects* here and nowhere else.

mod claim_check;
mod client;
mod connection_error;
mod foresee;
mod inspect;
mod object;
mod publish;
mod read;
mod refusal;
mod settings;
mod stream;
mod stream_error;
mod subjects;

pub(super) use inspect::inspect;
pub(super) use read::read;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::{Context, ContextBuilder};
use tokio::sync::{Notify, Semaphore, watch};

use super::plaintext::{finding, is_loopback};
use super::{Bus, ConnectionState, Finding, OpenError, Pending, Receipt, Refusal, Setup};
use crate::config;
use crate::message::Message;
use crate::route::Topic;
use claim_check::ClaimChecks;
use client::Events;
use publish::Publish;
use stream::Keeper;
use subjects::{Ensured, Overlaps};

/// Acknowledgements awaited at once; what is over it gets a 503.
const IN_FLIGHT: usize = 16_384;

struct Nats {
    client: Client,
    context: Context,
    stream: Arc<str>,
    /// `nats.domain`.
    domain: Option<Arc<str>>,
    /// Where goes what is too large for a message.
    claim_checks: Option<Arc<ClaimChecks>>,
    /// Bytes of a message that the stream takes, at most; 0 is any.
    max_message: Arc<AtomicUsize>,
    /// What is known of the stream.
    ensured: Arc<RwLock<Ensured>>,
    /// Wakes the keeper when a publish finds the stream gone.
    doubt: Arc<Notify>,
    events: Arc<Events>,
    in_flight: Arc<Semaphore>,
    /// To the keeper.
    subjects: watch::Sender<Vec<String>>,
    /// Bytes.
    unsent: Arc<Semaphore>,
    connection: watch::Receiver<ConnectionState>,
}

/// Of a password or token that goes without TLS to another machine; the other ways to log in only sign what the
/// server makes up.
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
    Some(finding(secret, says, "write tls:// in nats.servers, or set nats.tls.ca"))
}

/// Opens the adapter; it connects by itself, now or when a server comes. Needs a tokio runtime.
///
/// # Errors
/// Where a key or certificate cannot be used.
pub(super) fn open(config: &config::Nats, setup: Setup) -> Result<Arc<dyn Bus>, OpenError> {
    let events = Arc::new(Events::default());
    let timeout = setup.publish_timeout;
    let client = client::lazy(config, timeout, events.clone())?;
    let context = context(config, client.clone(), timeout);
    let (connection_sender, connection) = watch::channel(ConnectionState::Waiting);
    let ensured = Arc::new(RwLock::new(Ensured::Unknown));
    let doubt = Arc::new(Notify::new());
    let wanted = stream::wanted(config, &setup);
    let subjects = watch::Sender::new(wanted.subjects.clone());
    let claim_checks = ClaimChecks::new(config, timeout, setup.bytes_in_flight).map(Arc::new);
    let max_message = Arc::new(AtomicUsize::new(0));
    let keeper = Keeper {
        context: context.clone(),
        config: config.clone(),
        patience: timeout,
        claim_checks: claim_checks.clone(),
        max_message: max_message.clone(),
        max_body: setup.max_body,
        bytes_in_flight: setup.bytes_in_flight,
        wanted,
        subjects: subjects.subscribe(),
        create: config.create_stream,
        overlaps: Overlaps::default(),
        warned: Vec::new(),
        silent: None,
        ensured: ensured.clone(),
        events: events.clone(),
        doubt: doubt.clone(),
        connection: connection_sender,
    };
    tokio::spawn(keeper.run());
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
    let unsent = Arc::new(Semaphore::new(setup.bytes_in_flight.min(Semaphore::MAX_PERMITS)));
    let stream = Arc::from(config.stream.as_str());
    let domain = config.domain.as_deref().map(Arc::from);
    let (sender, receiver) = (subjects, connection);
    Ok(Arc::new(Nats {
        client,
        context,
        stream,
        domain,
        claim_checks,
        max_message,
        ensured,
        doubt,
        events,
        in_flight,
        unsent,
        subjects: sender,
        connection: receiver,
    }))
}

fn context(config: &config::Nats, client: Client, timeout: Duration) -> Context {
    let builder = ContextBuilder::new();
    let builder = match &config.domain {
        Some(domain) => builder.domain(domain).timeout(timeout),
        None => builder.timeout(timeout),
    };
    builder
        .ack_timeout(timeout)
        .max_ack_inflight(IN_FLIGHT)
        // Its default waits without a bound; the semaphore of this adapter is asked first.
        .backpressure_on_inflight(false)
        .build(client)
}

impl Nats {
    /// Bytes that server and stream take at once, headers included.
    fn most(&self) -> usize {
        let (server, stream) = (self.client.max_payload(), self.max_message.load(Ordering::Relaxed));
        let set = |most: &usize| *most > 0;
        [server, stream].into_iter().filter(set).min().unwrap_or(usize::MAX)
    }

    /// What can be said without asking the server.
    fn judge(&self, message: &Message) -> Result<(), Refusal> {
        if self.client.connection_state() != State::Connected {
            // The client would keep it and send it on reconnect, long after the 503.
            return Err(self.events.unconnected().unwrap_or(refusal::AWAY));
        }
        match &*self.ensured.read().expect("no holder of this lock can panic") {
            Ensured::Complete => {}
            Ensured::Unknown => return Err(refusal::NOT_SEEN),
            Ensured::Unusable(refusal) => return Err(refusal.clone()),
            Ensured::Lacking(missing) if missing.contains(&**message.topic()) => {
                return Err(refusal::lacks_subject(&self.stream));
            }
            Ensured::Adding(new) if new.contains(&**message.topic()) => return Err(refusal::NOT_ADDED),
            Ensured::Adding(_) | Ensured::Lacking(_) => {}
        }
        Ok(())
    }
}

impl Bus for Nats {
    fn publish(&self, message: Arc<Message>) -> Pending<Result<Receipt, Refusal>> {
        let place = self.in_flight.clone().try_acquire_owned();
        let bytes = u32::try_from(message.payload().len()).unwrap_or(u32::MAX);
        let room = self.unsent.clone().try_acquire_many_owned(bytes);
        let judged = self.judge(&message);
        let most = self.most();
        let publish = Publish {
            context: self.context.clone(),
            stream: self.stream.clone(),
            domain: self.domain.clone(),
            claim_checks: self.claim_checks.clone(),
            doubt: self.doubt.clone(),
            events: self.events.clone(),
        };
        Box::pin(async move {
            judged?;
            let _place = place.map_err(|_| refusal::BUSY)?;
            let room = room.map_err(|_| refusal::UNSENT)?;
            publish.run(message, most, room).await
        })
    }

    fn topics(&self, topics: Vec<Topic>) {
        let subjects: Vec<String> = topics.iter().map(ToString::to_string).collect();
        // The keeper looks for news under the same lock.
        let mut ensured = self.ensured.write().expect("no holder of this lock can panic");
        ensured.add(&self.subjects.borrow(), &subjects);
        self.subjects.send_replace(subjects);
    }

    fn connection(&self) -> watch::Receiver<ConnectionState> {
        self.connection.clone()
    }

    fn close(&self) -> Pending<()> {
        let (client, in_flight) = (self.client.clone(), self.in_flight.clone());
        Box::pin(async move {
            // Draining the client first would break what is still awaited.
            let _ = in_flight.acquire_many(IN_FLIGHT as u32).await;
            // Without a connection there is nobody to flush to.
            if client.connection_state() == State::Connected {
                let _ = client.flush().await;
            }
        })
    }
}
