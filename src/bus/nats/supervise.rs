//! Watches the connection and the stream: when to check them, what to log, and whether the bus is up.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::client;
use super::fault::Fault;
use super::reconcile::StreamReconciler;
use super::stream::{EventStream, HEADROOM, StreamStatus, UNPOISONED};
use crate::bus::ConnectionState;
use crate::config;

/// How often to check the connection, and a stream that needs a fix.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often to check a stream that was in order.
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(30);
/// The timeout of a check that a publish requested. A request to servers between two leaders is never answered, and
/// only the next one reaches the new leader.
const RECHECK_WITHIN: Duration = Duration::from_secs(1);
/// How often to find out why there is no connection.
const EXPLAIN_EVERY: Duration = Duration::from_secs(5);
/// How long a missing connection may stay unexplained, and how long the explanation may take: together five seconds.
const UNEXPLAINED_FOR: Duration = Duration::from_secs(2);
const EXPLAINED_WITHIN: Duration = Duration::from_secs(3);
/// How often to reconnect if no answer arrives: long enough for an answer in between.
const RENEW_EVERY: Duration = Duration::from_secs(10);

/// Runs for as long as somebody watches the connection state.
pub(super) async fn run(
    config: config::Nats,
    mut reconciler: StreamReconciler,
    max_body: usize,
    connection: watch::Sender<ConnectionState>,
) {
    let stream = reconciler.stream.clone();
    let mut logged = Logged::default();
    let (mut last_connected, mut renewed) = (Instant::now(), Instant::now());
    let mut explained: Option<Instant> = None;
    let mut within = stream.publish_timeout;
    while !connection.is_closed() {
        let connected = stream.is_connected();
        let mut pause = LOOK_EVERY;
        if connected {
            last_connected = Instant::now();
            let fault = reconciler.reconcile(within).await.err();
            if fault.is_none() {
                pause = LOOK_AGAIN_EVERY;
            }
            logged.size(&stream, max_body);
            // A stream between two leaders is silent for a while.
            if !reconciler.is_waiting() {
                logged.fault(fault);
            }
            // A client whose inbox was denied receives nothing until a new connection subscribes to it again.
            if stream.events.denied_inbox() && renewed.elapsed() > RENEW_EVERY {
                renewed = Instant::now();
                let _ = stream.client.force_reconnect().await;
            }
        } else if explained.is_none_or(|at| at.elapsed() > EXPLAIN_EVERY)
            && (stream.events.take_unexplained() || last_connected.elapsed() >= UNEXPLAINED_FOR)
        {
            explained = Some(Instant::now());
            explain(&config, &stream).await;
        }
        set_connection(&connection, connected, &stream);
        within = wait(&mut reconciler, pause).await;
    }
}

/// Waits until the connection changes, there are new subjects, a publish asks for a check, or one is due. Returns the
/// timeout of the check.
async fn wait(reconciler: &mut StreamReconciler, pause: Duration) -> Duration {
    let stream = &reconciler.stream;
    tokio::select! {
        () = stream.events.changed.notified() => {}
        Ok(()) = reconciler.subjects.changed() => {}
        () = stream.recheck.notified() => {
            // Many publishes ask at once.
            tokio::time::sleep(Duration::from_millis(100)).await;
            return RECHECK_WITHIN.min(stream.publish_timeout);
        }
        () = tokio::time::sleep(pause) => {}
    }
    stream.publish_timeout
}

/// Logs why there is no connection, unless there is one by now.
async fn explain(config: &config::Nats, stream: &EventStream) {
    let connected = async {
        while !stream.is_connected() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = connected => {}
        error = client::explain(config, EXPLAINED_WITHIN) => {
            if let Some(error) = error {
                stream.events.record_error(&error);
            }
        }
    }
}

/// Up if the next message can be kept; down if an ERROR was logged, or it was up before.
fn set_connection(connection: &watch::Sender<ConnectionState>, connected: bool, stream: &EventStream) {
    let (up, explained) = match &*stream.status.read().expect(UNPOISONED) {
        StreamStatus::Ready { .. } => (connected, false),
        StreamStatus::Unfit(_) => (false, connected),
        // A stream that merely does not answer may still recover by itself.
        StreamStatus::Unknown(_) => (false, false),
    };
    connection.send_if_modified(|connection| {
        let next = match (*connection, up) {
            (_, true) => ConnectionState::Up,
            (ConnectionState::Waiting, false) if !explained => ConnectionState::Waiting,
            (_, false) => ConnectionState::Away,
        };
        match next {
            _ if next == *connection => return false,
            ConnectionState::Up => tracing::info!("NATS is up"),
            ConnectionState::Away | ConnectionState::Waiting if connected => {
                tracing::warn!("the NATS stream takes nothing")
            }
            ConnectionState::Away | ConnectionState::Waiting => tracing::warn!("NATS is away"),
        }
        *connection = next;
        true
    });
}

/// What was already logged.
#[derive(Default)]
struct Logged {
    fault: Option<Fault>,
    size: Option<usize>,
}

impl Logged {
    fn fault(&mut self, fault: Option<Fault>) {
        if let Some(fault) = fault.as_ref().filter(|fault| self.fault.as_ref() != Some(*fault)) {
            tracing::error!(problem = %fault, "the NATS stream or its object store needs a fix");
        }
        self.fault = fault;
    }

    /// Warns if the size limit is below what a delivery may need, and there is no object store.
    fn size(&mut self, stream: &EventStream, max_body: usize) {
        let most = Some(stream.max_size()).filter(|most| stream.object_store.is_none() && *most < max_body + HEADROOM);
        if most.is_some() && most != self.size {
            tracing::warn!(
                most,
                max_body,
                remedy =
                    "raise `max_payload` of the servers and `max_msg_size` of the stream, or set `nats.object_store`",
                "NATS takes less at once than server.max_body: larger deliveries get a 503"
            );
        }
        self.size = most;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::super::events::Events;
    use super::super::stream::wanted;
    use super::*;
    use crate::bus::Setup;

    /// For a server that does not exist.
    fn reconciler() -> StreamReconciler {
        let environment = [
            ("TERRA_SIGNING_SECRET", "secret"),
            ("TERRA_BRIDGE_BUS", "nats"),
            ("TERRA_BRIDGE_NATS__SERVERS", "nats://127.0.0.1:1"),
        ];
        let environment = environment.map(|(name, value)| (name.into(), value.into()));
        let config = config::read(config::Purpose::Serve, None, environment.into_iter(), false)
            .unwrap()
            .finish()
            .unwrap()
            .config()
            .clone();
        let config::Bus::Nats(config) = config.bus else { unreachable!("it is set above") };
        let publish_timeout = Duration::from_secs(5);
        let setup = Setup { topics: vec!["a".into()], publish_timeout, max_body: 1, bytes_in_flight: 1 };
        let events = Arc::new(Events::default());
        let client = client::lazy(&config, publish_timeout, events.clone()).unwrap();
        let stream = Arc::new(EventStream::new(&config, async_nats::jetstream::new(client), events, &setup));
        let wanted = wanted(&config, &setup);
        let subjects = watch::channel(wanted.subjects.clone()).1;
        StreamReconciler::new(stream, wanted, subjects, &config, &setup)
    }

    #[tokio::test]
    async fn a_recheck_happens_soon_and_stops_no_message() {
        let mut reconciler = reconciler();
        let stream = reconciler.stream.clone();
        let ready = || StreamStatus::Ready { refused: BTreeMap::new() };
        *stream.status.write().unwrap() = ready();
        stream.recheck.notify_one();
        // The first connection events may arrive before it.
        while wait(&mut reconciler, LOOK_AGAIN_EVERY).await > RECHECK_WITHIN {}
        assert!(reconciler.reconcile(Duration::ZERO).await.is_err());
        assert_eq!(*stream.status.read().unwrap(), ready(), "nobody said that it is gone");
    }
}
