//! The stream that keeps the events: made where that is allowed, else only looked at. A stream that
//! carries our mark gets the subjects that it lacks; nothing else of any stream is touched.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode};
use tokio::sync::{Notify, watch};

use super::claim_check::ClaimChecks;
use super::client::{self, Events};
use super::refusal::Fault;
use super::settings::{self, Use, Verdict};
use super::stream_error::{passes, refused, silence};
use super::subjects::{Ensured, Overlaps, lacking};
use crate::bus::{ConnectionState, Refusal, Scope, Setup};
use crate::config;

/// In the stream's metadata: the bridge made it, and may add subjects to it.
pub(super) const MARK: &str = "terra-bridge";
/// How often to look again at a stream that is not as it must be, and at the connection.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a look may take that a publish asked for. One that is asked of servers between two leaders is never
/// answered, and only the next one sees the new leader.
const DOUBTED_FOR: Duration = Duration::from_secs(1);
/// How often to ask why there is no connection.
const EXPLAIN_EVERY: Duration = Duration::from_secs(5);
/// How long there may be none without a word of why, and how long it may take to find that out: together five seconds.
const UNEXPLAINED_FOR: Duration = Duration::from_secs(2);
const EXPLAINED_WITHIN: Duration = Duration::from_secs(3);
/// How often to connect anew where no answer is heard: long enough for an answer in between.
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// How often to look at a stream that was in order.
pub(super) const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(30);

/// Bytes. More than a message's headers take.
pub(super) const HEADROOM: usize = 16 << 10;

/// The stream as the bridge would make it.
pub(super) fn wanted(config: &config::Nats, setup: &Setup) -> Config {
    Config {
        name: config.stream.clone(),
        subjects: setup.topics.iter().map(ToString::to_string).collect(),
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        // A full stream refuses what comes: the other policy would drop what nobody has read.
        discard: DiscardPolicy::New,
        num_replicas: config.replicas,
        max_age: config.max_age,
        max_bytes: config.max_bytes.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(-1),
        duplicate_window: config.duplicate_window,
        metadata: HashMap::from([(MARK.to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
        ..Config::default()
    }
}

/// Watches over connection and stream for as long as somebody listens to its connection.
pub(super) struct Keeper {
    pub context: Context,
    pub claim_checks: Option<Arc<ClaimChecks>>,
    /// Told of the stream's `max_msg_size`.
    pub max_message: Arc<AtomicUsize>,
    /// Bytes.
    pub max_body: usize,
    pub bytes_in_flight: usize,
    pub config: config::Nats,
    pub patience: Duration,
    pub wanted: Config,
    /// Those of `wanted` from now on.
    pub subjects: watch::Receiver<Vec<String>>,
    pub create: bool,
    /// What keeps the stream from taking more.
    pub overlaps: Overlaps,
    /// What of the stream's settings was said already.
    pub warned: Vec<Fault>,
    /// Since when JetStream tells nothing of the stream, or that it is not there for the moment.
    pub silent: Option<Instant>,
    pub ensured: Arc<RwLock<Ensured>>,
    pub events: Arc<Events>,
    pub doubt: Arc<Notify>,
    pub connection: watch::Sender<ConnectionState>,
}

impl Keeper {
    pub(super) async fn run(mut self) {
        let mut said = Said::default();
        let (mut explained, mut unconnected_since): (Option<Instant>, _) = (None, Instant::now());
        let mut renewed = Instant::now();
        let mut within = self.patience;
        while !self.connection.is_closed() {
            let connected = self.context.client().connection_state() == State::Connected;
            let mut pause = LOOK_EVERY;
            self.wanted.subjects.clone_from(&self.subjects.borrow_and_update());
            if connected {
                unconnected_since = Instant::now();
                let fault = self.ensure(within).await.err();
                let in_order = *self.ensured.read().expect(UNPOISONED) == Ensured::Complete;
                if in_order && fault.is_none() {
                    pause = LOOK_AGAIN_EVERY;
                }
                said.too_small(self.too_small(), self.max_body);
                // A stream between two leaders is silent for a while.
                if self.silent.is_none_or(|since| since.elapsed() >= self.patience) {
                    self.refuse_unseen(fault.as_ref());
                    said.fault(fault.as_ref());
                }
                // Who was denied its inbox hears nothing until another connection asks for it again.
                if self.events.denied_inbox() && renewed.elapsed() > RENEW_EVERY {
                    renewed = Instant::now();
                    let _ = self.context.client().force_reconnect().await;
                }
            } else if explained.is_none_or(|at| at.elapsed() > EXPLAIN_EVERY)
                && (self.events.take_unexplained() || unconnected_since.elapsed() >= UNEXPLAINED_FOR)
            {
                explained = Some(Instant::now());
                self.explain().await;
            }
            self.set_link(connected);
            within = self.wait(pause).await;
        }
    }

    /// Says why there is no connection, unless one comes about in the meantime.
    async fn explain(&self) {
        let client = self.context.client();
        let connected = async {
            while client.connection_state() != State::Connected {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            () = connected => {}
            error = client::explain(&self.config, EXPLAINED_WITHIN) => {
                if let Some(error) = error {
                    self.events.in_trouble(&error);
                }
            }
        }
    }

    /// Deliveries that come before the stream was seen are told why.
    fn refuse_unseen(&self, fault: Option<&Fault>) {
        let mut ensured = self.ensured.write().expect(UNPOISONED);
        let unseen = matches!(&*ensured, Ensured::Unknown | Ensured::Unusable(Refusal::Transient { .. }));
        if let Some(fault) = fault.filter(|_| unseen) {
            let silent = self.silent.is_some();
            *ensured = Ensured::Unusable(if silent { fault.passing() } else { fault.refusal(Scope::Bus) });
        }
    }

    fn about(&self) -> String {
        about(&self.wanted.name)
    }

    /// Until the connection changes, there are new subjects, a publish doubts the stream, or it is time to look.
    /// How long the look may take. A doubt stops nobody: most are one message's, or are over with the next leader.
    async fn wait(&mut self, pause: Duration) -> Duration {
        tokio::select! {
            () = self.events.changed.notified() => {}
            Ok(()) = self.subjects.changed() => {}
            () = self.doubt.notified() => {
                // Many publishes doubt at once.
                tokio::time::sleep(Duration::from_millis(100)).await;
                return self.patience.min(DOUBTED_FOR);
            }
            () = tokio::time::sleep(pause) => {}
        }
        self.patience
    }

    /// Up where the next message can be kept; away where an ERROR has said why not, or there was a time before.
    fn set_link(&self, connected: bool) {
        let (up, reported) = match &*self.ensured.read().expect(UNPOISONED) {
            Ensured::Complete | Ensured::Adding(_) | Ensured::Lacking(_) => (connected, false),
            // What is only silent may still come up by itself.
            Ensured::Unusable(_) => (false, connected && self.silent.is_none()),
            Ensured::Unknown => (false, false),
        };
        self.connection.send_if_modified(|connection| {
            let next = match (*connection, up) {
                (_, true) => ConnectionState::Up,
                (ConnectionState::Waiting, false) if !reported => ConnectionState::Waiting,
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

    /// A stream that was found complete is so for the subjects of that time.
    fn set(&self, ensured: Ensured) {
        let mut held = self.ensured.write().expect(UNPOISONED);
        let outdated = self.subjects.has_changed().unwrap_or(false);
        if ensured != Ensured::Complete || !outdated {
            *held = ensured;
        }
    }

    async fn ensure(&mut self, within: Duration) -> Result<(), Fault> {
        let asking = Instant::now();
        let asked = tokio::time::timeout(within, self.context.get_stream(&self.wanted.name)).await;
        let found = match asked.map(|found| found.map_err(|error| error.kind())) {
            Ok(Ok(stream)) => Some(stream.cached_info().clone()),
            Ok(Err(GetStreamErrorKind::JetStream(error))) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => None,
            Ok(Err(GetStreamErrorKind::JetStream(error))) => {
                self.silent = passes(&error).then(|| self.silent.unwrap_or(asking));
                return Err(refused(&self.about(), &error));
            }
            Ok(Err(
                GetStreamErrorKind::EmptyName | GetStreamErrorKind::Request | GetStreamErrorKind::InvalidStreamName,
            ))
            | Err(_) => {
                self.silent.get_or_insert(asking);
                return Err(self.unheard());
            }
        };
        self.silent = None;
        let Some(info) = found else {
            self.make().await?;
            return self.measure(&self.wanted).await;
        };
        // What it lacks for some topics is no trouble of the others.
        let in_order = self.complete(&info).await;
        let measured = self.measure(&info.config).await;
        in_order.and(measured)
    }

    fn unheard(&self) -> Fault {
        silence(&self.about(), self.events.denied_stream(&self.wanted.name))
    }

    /// What the stream takes at once, and the bucket for what is larger.
    async fn measure(&self, stream: &Config) -> Result<(), Fault> {
        self.max_message.store(usize::try_from(stream.max_message_size).unwrap_or(0), Ordering::Relaxed);
        match &self.claim_checks {
            Some(claim_checks) => claim_checks.ensure(&self.context, self.create, stream.max_age).await,
            None => Ok(()),
        }
    }

    /// What is taken at once, where that is less than a delivery may need and nothing helps.
    fn too_small(&self) -> Option<usize> {
        let (server, stream) = (self.context.client().max_payload(), self.max_message.load(Ordering::Relaxed));
        let most = [server, stream].into_iter().filter(|most| *most > 0).min()?;
        (self.claim_checks.is_none() && most < self.max_body + HEADROOM).then_some(most)
    }

    async fn make(&mut self) -> Result<(), Fault> {
        if !self.create {
            return Err(self.unusable(Fault::new(
                self.about(),
                "does not exist",
                "make it, or set `nats.create_stream = true`",
            )));
        }
        let asking = Instant::now();
        match self.context.create_stream(self.wanted.clone()).await {
            Ok(_) => {
                tracing::info!(stream = self.wanted.name, "made the NATS stream");
                self.set(Ensured::Complete);
                Ok(())
            }
            Err(error) => match error.kind() {
                CreateStreamErrorKind::JetStream(error) if !passes(&error) => {
                    Err(self.unusable(refused(&self.about(), &error)))
                }
                _ => {
                    self.silent = Some(asking);
                    self.set(Ensured::Unknown);
                    Err(self.unheard())
                }
            },
        }
    }

    async fn complete(&mut self, info: &Info) -> Result<(), Fault> {
        let missing = lacking(&self.wanted.subjects, &info.config.subjects);
        self.judge(&info.config)?;
        if missing.is_empty() {
            self.set(Ensured::Complete);
            return Ok(());
        }
        let list = |subjects: &BTreeSet<String>| subjects.iter().cloned().collect::<Vec<_>>().join(", ");
        if !self.create || !info.config.metadata.contains_key(MARK) {
            let says = format!("does not take {}", list(&missing));
            self.set(Ensured::Lacking(missing));
            return Err(Fault::new(self.about(), says, "add them to its subjects"));
        }
        let overlapping = match self.overlaps.add(&self.context, &info.config, &missing).await {
            Ok(overlapping) => overlapping,
            Err(error) => {
                // The next look may see them added.
                self.set(Ensured::Adding(missing));
                return Err(match error.kind() {
                    CreateStreamErrorKind::JetStream(error) => refused(&self.about(), &error),
                    _ => self.unheard(),
                });
            }
        };
        if overlapping.is_empty() {
            self.set(Ensured::Complete);
            return Ok(());
        }
        let says = format!("cannot take {}: another stream does", list(&overlapping));
        self.set(Ensured::Lacking(overlapping));
        Err(Fault::new(self.about(), says, "name that one in `nats.stream`, or change `routes`"))
    }

    /// Whether the stream keeps what it acknowledges. Says once what a user has to know of it.
    fn judge(&mut self, found: &Config) -> Result<(), Fault> {
        let judgements = settings::judge(found, used(&self.wanted, self.bytes_in_flight));
        let of = |verdict| judgements.iter().filter(move |judgement| judgement.verdict == verdict);
        if let Some(judgement) = of(Verdict::Refuse).next() {
            return Err(self.unusable(judgement.fault.clone()));
        }
        let warnings: Vec<_> = of(Verdict::Warn).map(|judgement| judgement.fault.clone()).collect();
        for fault in warnings.iter().filter(|fault| !self.warned.contains(fault)) {
            tracing::warn!(remedy = fault.remedy, "{} {}", fault.about, fault.says);
        }
        self.warned = warnings;
        Ok(())
    }

    fn unusable(&self, fault: Fault) -> Fault {
        self.set(Ensured::Unusable(fault.refusal(Scope::Bus)));
        fault
    }
}

/// What the log has said already.
#[derive(Default)]
struct Said {
    fault: Option<Fault>,
    small: Option<usize>,
}

impl Said {
    fn fault(&mut self, fault: Option<&Fault>) {
        if let Some(fault) = fault.filter(|fault| self.fault.as_ref() != Some(fault)) {
            tracing::error!(problem = %fault, "the NATS stream is not as it must be");
        }
        self.fault = fault.cloned();
    }

    fn too_small(&mut self, most: Option<usize>, max_body: usize) {
        if most.is_some() && most != self.small {
            tracing::warn!(
                most,
                max_body,
                remedy =
                    "raise `max_payload` of the servers and `max_msg_size` of the stream, or set `nats.object_store`",
                "NATS takes less at once than server.max_body: larger deliveries get a 503"
            );
        }
        self.small = most;
    }
}

/// How log, refusals and `check` call it.
pub(super) fn about(stream: &str) -> String {
    format!("the stream `{stream}`")
}

/// What the bridge does with the stream that is `wanted`.
pub(super) fn used(wanted: &Config, bytes_in_flight: usize) -> Use<'_> {
    Use { key: "nats.stream", what: "stream", name: &wanted.name, bytes_in_flight, subjects: &wanted.subjects }
}

const UNPOISONED: &str = "no holder of this lock can panic";

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a server that is not there.
    fn keeper() -> Keeper {
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
        let patience = Duration::from_secs(5);
        let setup = Setup { topics: vec!["a".into()], publish_timeout: patience, max_body: 1, bytes_in_flight: 1 };
        let (events, wanted) = (Arc::new(Events::default()), wanted(&config, &setup));
        let client = client::lazy(&config, patience, events.clone()).unwrap();
        Keeper {
            context: async_nats::jetstream::new(client),
            claim_checks: None,
            max_message: Arc::default(),
            max_body: 1,
            bytes_in_flight: 1,
            subjects: watch::channel(wanted.subjects.clone()).1,
            config,
            patience,
            wanted,
            create: true,
            overlaps: Overlaps::default(),
            warned: Vec::new(),
            silent: None,
            ensured: Arc::new(RwLock::new(Ensured::Complete)),
            events,
            doubt: Arc::default(),
            connection: watch::Sender::new(ConnectionState::Up),
        }
    }

    #[tokio::test]
    async fn a_doubt_has_the_stream_looked_at_soon_and_stops_no_message() {
        let mut keeper = keeper();
        keeper.doubt.notify_one();
        // The first words of the connection may come before it.
        while keeper.wait(LOOK_AGAIN_EVERY).await > DOUBTED_FOR {}
        assert!(keeper.ensure(Duration::ZERO).await.is_err());
        assert_eq!(*keeper.ensured.read().unwrap(), Ensured::Complete, "nobody said that it is gone");
    }
}
