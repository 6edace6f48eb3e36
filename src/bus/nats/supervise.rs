//! Watches over connection and stream: when to look, what to log, and whether the bus is up.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::client;
use super::fault::Fault;
use super::reconcile::StreamReconciler;
use super::stream::{HEADROOM, StreamStatus, UNPOISONED};
use crate::bus::ConnectionState;
use crate::config;

/// How often to look at the connection, and again at a stream that is not as it must be.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often to look at a stream that was in order.
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(30);
/// How long a look may take that a publish asked for. One that is asked of servers between two leaders is never
/// answered, and only the next one sees the new leader.
const RECHECK_WITHIN: Duration = Duration::from_secs(1);
/// How often to ask why there is no connection.
const EXPLAIN_EVERY: Duration = Duration::from_secs(5);
/// How long there may be none without a word of why, and how long it may take to find that out: together five seconds.
const UNEXPLAINED_FOR: Duration = Duration::from_secs(2);
const EXPLAINED_WITHIN: Duration = Duration::from_secs(3);
/// How often to connect anew where no answer is heard: long enough for an answer in between.
const RENEW_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Supervisor {
    config: config::Nats,
    reconciler: StreamReconciler,
    /// Bytes.
    max_body: usize,
    connection: watch::Sender<ConnectionState>,
    connected: Instant,
    explained: Option<Instant>,
    renewed: Instant,
    logged_fault: Option<Fault>,
    logged_size: Option<usize>,
}

impl Supervisor {
    pub(super) fn new(
        config: config::Nats,
        reconciler: StreamReconciler,
        max_body: usize,
        connection: watch::Sender<ConnectionState>,
    ) -> Self {
        let now = Instant::now();
        Self {
            config,
            reconciler,
            max_body,
            connection,
            connected: now,
            explained: None,
            renewed: now,
            logged_fault: None,
            logged_size: None,
        }
    }

    /// For as long as somebody listens to the connection.
    pub(super) async fn run(mut self) {
        let mut within = self.reconciler.patience;
        while !self.connection.is_closed() {
            let connected = self.reconciler.stream.is_connected();
            let mut pause = LOOK_EVERY;
            if connected {
                self.connected = Instant::now();
                let fault = self.reconciler.reconcile(within).await.err();
                if fault.is_none() {
                    pause = LOOK_AGAIN_EVERY;
                }
                self.log_size();
                // A stream between two leaders is silent for a while.
                if !self.reconciler.is_waiting() {
                    self.log_fault(fault);
                }
                self.renew_inbox().await;
            } else {
                self.explain().await;
            }
            self.set_connection(connected);
            within = self.wait(pause).await;
        }
    }

    /// Until the connection changes, there are new subjects, a publish asks for it, or it is time to look. How long the
    /// look may take.
    async fn wait(&mut self, pause: Duration) -> Duration {
        let StreamReconciler { stream, subjects, patience, .. } = &mut self.reconciler;
        tokio::select! {
            () = stream.events.changed.notified() => {}
            Ok(()) = subjects.changed() => {}
            () = stream.recheck.notified() => {
                // Many publishes ask at once.
                tokio::time::sleep(Duration::from_millis(100)).await;
                return RECHECK_WITHIN.min(*patience);
            }
            () = tokio::time::sleep(pause) => {}
        }
        *patience
    }

    /// Who was denied its inbox hears nothing until another connection asks for it again.
    async fn renew_inbox(&mut self) {
        let stream = &self.reconciler.stream;
        if stream.events.denied_inbox() && self.renewed.elapsed() > RENEW_EVERY {
            self.renewed = Instant::now();
            let _ = stream.context.client().force_reconnect().await;
        }
    }

    /// Logs why there is no connection, now and then, unless there is one in the meantime.
    async fn explain(&mut self) {
        let stream = &self.reconciler.stream;
        if self.explained.is_some_and(|at| at.elapsed() <= EXPLAIN_EVERY)
            || !(stream.events.take_unexplained() || self.connected.elapsed() >= UNEXPLAINED_FOR)
        {
            return;
        }
        self.explained = Some(Instant::now());
        let connected = async {
            while !stream.is_connected() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            () = connected => {}
            error = client::explain(&self.config, EXPLAINED_WITHIN) => {
                if let Some(error) = error {
                    stream.events.record_error(&error);
                }
            }
        }
    }

    /// Up where the next message can be kept; away where an ERROR has said why not, or it was up before.
    fn set_connection(&self, connected: bool) {
        let (up, explained) = match &*self.reconciler.stream.status.read().expect(UNPOISONED) {
            StreamStatus::Ready { .. } => (connected, false),
            StreamStatus::Unfit(_) => (false, connected),
            // What is only silent may still come up by itself.
            StreamStatus::Unknown(_) => (false, false),
        };
        self.connection.send_if_modified(|connection| {
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

    fn log_fault(&mut self, fault: Option<Fault>) {
        if let Some(fault) = fault.as_ref().filter(|fault| self.logged_fault.as_ref() != Some(*fault)) {
            tracing::error!(problem = %fault, "the NATS stream or its object store needs a fix");
        }
        self.logged_fault = fault;
    }

    /// Warns where less is taken at once than a delivery may need, and nothing helps.
    fn log_size(&mut self) {
        let (stream, max_body) = (&self.reconciler.stream, self.max_body);
        let most = Some(stream.max_size()).filter(|most| stream.object_store.is_none() && *most < max_body + HEADROOM);
        if most.is_some() && most != self.logged_size {
            tracing::warn!(
                most,
                max_body,
                remedy =
                    "raise `max_payload` of the servers and `max_msg_size` of the stream, or set `nats.object_store`",
                "NATS takes less at once than server.max_body: larger deliveries get a 503"
            );
        }
        self.logged_size = most;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::super::events::Events;
    use super::super::stream::{Stream, wanted};
    use super::*;
    use crate::bus::Setup;

    /// Of a server that is not there.
    fn supervisor() -> Supervisor {
        let environment = [
            ("TERRA_SIGNING_SECRET", "secret"),
            ("TERRA_BRIDGE_BUS", "nats"),
            ("TERRA_BRIDGE_NATS__SERVERS", "nats://127.0.0.1:1"),
        ];
        let environment = environment.map(|(name, value)| (name.into(), value.into()));
        let config = config::load(None, environment.into_iter(), false).unwrap().config;
        let config::Bus::Nats(config) = config.bus else { unreachable!("it is set above") };
        let patience = Duration::from_secs(5);
        let setup = Setup { topics: vec!["a".into()], publish_timeout: patience, max_body: 1, bytes_in_flight: 1 };
        let events = Arc::new(Events::default());
        let client = client::lazy(&config, patience, events.clone()).unwrap();
        let stream = Arc::new(Stream::new(&config, async_nats::jetstream::new(client), events, 1));
        let wanted = wanted(&config, &setup);
        let subjects = watch::channel(wanted.subjects.clone()).1;
        let reconciler = StreamReconciler::new(stream, wanted, subjects, &config, &setup);
        Supervisor::new(config, reconciler, 1, watch::Sender::new(ConnectionState::Up))
    }

    #[tokio::test]
    async fn a_recheck_looks_at_the_stream_soon_and_stops_no_message() {
        let mut supervisor = supervisor();
        let ready = || StreamStatus::Ready { refused: BTreeMap::new() };
        *supervisor.reconciler.stream.status.write().unwrap() = ready();
        supervisor.reconciler.stream.recheck.notify_one();
        // The first words of the connection may come before it.
        while supervisor.wait(LOOK_AGAIN_EVERY).await > RECHECK_WITHIN {}
        assert!(supervisor.reconciler.reconcile(Duration::ZERO).await.is_err());
        assert_eq!(*supervisor.reconciler.stream.status.read().unwrap(), ready(), "nobody said that it is gone");
    }
}
