//! The stream that keeps the events: made where that is allowed, else only looked at. A stream that
//! carries our mark gets the subjects that it lacks; nothing else of any stream is touched.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, PersistenceMode, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode};
use tokio::sync::{Notify, watch};

use super::claim_check::ClaimChecks;
use super::client::{self, Events};
use super::subjects::{Ensured, Overlaps, lacking};
use crate::bus::{Link, Setup};
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

/// Why an acknowledgement of this stream does not mean that it keeps the message.
pub(super) fn unfit(stream: &Config) -> Option<&'static str> {
    match (stream.retention, stream.storage, stream.persist_mode) {
        _ if stream.no_ack => Some("acknowledges nothing (`no_ack`)"),
        (RetentionPolicy::Interest, ..) => Some("keeps only what some consumer waits for (retention `interest`)"),
        (_, StorageType::Memory, _) => Some("lies in memory: a restart of its servers loses every event"),
        (.., Some(PersistenceMode::Async)) => Some("acknowledges before it stores (`persist_mode: async`)"),
        (
            RetentionPolicy::Limits | RetentionPolicy::WorkQueue,
            StorageType::File,
            None | Some(PersistenceMode::Default),
        ) => None,
    }
}

/// Watches over connection and stream for as long as somebody listens to its link.
pub(super) struct Keeper {
    pub context: Context,
    pub claim_checks: Option<Arc<ClaimChecks>>,
    /// Told of the stream's `max_msg_size`.
    pub max_message: Arc<AtomicUsize>,
    /// Bytes.
    pub max_body: usize,
    pub config: config::Nats,
    pub patience: Duration,
    pub wanted: Config,
    /// Those of `wanted` from now on.
    pub subjects: watch::Receiver<Vec<String>>,
    pub create: bool,
    /// What keeps the stream from taking more.
    pub overlaps: Overlaps,
    /// Since when JetStream tells nothing of the stream.
    pub silent: Option<Instant>,
    pub ensured: Arc<RwLock<Ensured>>,
    pub events: Arc<Events>,
    pub doubt: Arc<Notify>,
    pub link: watch::Sender<Link>,
}

/// Why a stream is not in order, with what to do.
pub(super) struct Trouble(pub(super) String);

impl Keeper {
    pub(super) async fn run(mut self) {
        let mut said = None;
        let mut small = None;
        let mut explained: Option<Instant> = None;
        let mut renewed = Instant::now();
        let mut within = self.patience;
        while !self.link.is_closed() {
            let connected = self.context.client().connection_state() == State::Connected;
            let mut pause = LOOK_EVERY;
            self.wanted.subjects.clone_from(&self.subjects.borrow_and_update());
            if connected {
                let trouble = self.ensure(within).await.err().map(|Trouble(text)| text);
                let in_order = *self.ensured.read().expect(UNPOISONED) == Ensured::Complete;
                if in_order && trouble.is_none() {
                    pause = LOOK_AGAIN_EVERY;
                }
                let most = self.too_small();
                if most.is_some() && most != small {
                    tracing::warn!(
                        most,
                        max_body = self.max_body,
                        remedy = "raise `max_payload` of the servers and `max_msg_size` of the stream, or set `nats.object_store`",
                        "NATS takes less at once than server.max_body: larger deliveries get a 503"
                    );
                }
                small = most;
                // A stream between two leaders is silent for a while.
                if self.silent.is_none_or(|since| since.elapsed() >= self.patience) {
                    if trouble.is_some() && trouble != said {
                        tracing::error!(problem = trouble, "the NATS stream is not as it must be");
                    }
                    said = trouble;
                }
                // Who was denied its inbox hears nothing until another connection asks for it again.
                if self.events.denied_inbox() && renewed.elapsed() > RENEW_EVERY {
                    renewed = Instant::now();
                    let _ = self.context.client().force_reconnect().await;
                }
            } else if explained.is_none_or(|at| at.elapsed() > EXPLAIN_EVERY) && self.events.take_unexplained() {
                explained = Some(Instant::now());
                if let Some(trouble) = client::trouble(&self.config, self.patience).await {
                    self.events.in_trouble(trouble);
                }
            }
            self.set_link(connected && *self.ensured.read().expect(UNPOISONED) != Ensured::Unknown);
            within = self.wait(pause).await;
        }
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

    fn set_link(&self, up: bool) {
        self.link.send_if_modified(|link| {
            let next = match (*link, up) {
                (_, true) => Link::Up,
                (Link::Waiting, false) => Link::Waiting,
                (Link::Up | Link::Away, false) => Link::Away,
            };
            match next {
                _ if next == *link => return false,
                Link::Up => tracing::info!("NATS is up"),
                Link::Away | Link::Waiting => tracing::warn!("NATS is away"),
            }
            *link = next;
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

    async fn ensure(&mut self, within: Duration) -> Result<(), Trouble> {
        let asking = Instant::now();
        let asked = tokio::time::timeout(within, self.context.get_stream(&self.wanted.name)).await;
        let found = match asked.map(|found| found.map_err(|error| error.kind())) {
            Ok(Ok(stream)) => Some(stream.cached_info().clone()),
            Ok(Err(GetStreamErrorKind::JetStream(error))) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => None,
            Ok(Err(GetStreamErrorKind::JetStream(error))) => {
                self.silent = None;
                return Err(self.unusable(&error));
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

    /// What the stream takes at once, and the bucket for what is larger.
    async fn measure(&self, stream: &Config) -> Result<(), Trouble> {
        self.max_message.store(usize::try_from(stream.max_message_size).unwrap_or(0), Ordering::Relaxed);
        match &self.claim_checks {
            Some(claim_checks) => {
                claim_checks.ensure(&self.context, self.create, stream.max_age).await.map_err(Trouble)
            }
            None => Ok(()),
        }
    }

    /// What is taken at once, where that is less than a delivery may need and nothing helps.
    fn too_small(&self) -> Option<usize> {
        let (server, stream) = (self.context.client().max_payload(), self.max_message.load(Ordering::Relaxed));
        let most = [server, stream].into_iter().filter(|most| *most > 0).min()?;
        (self.claim_checks.is_none() && most < self.max_body + HEADROOM).then_some(most)
    }

    async fn make(&self) -> Result<(), Trouble> {
        if !self.create {
            self.set(Ensured::Unknown);
            let name = &self.wanted.name;
            return Err(Trouble(format!(
                "stream `{name}` does not exist; make it, or set `nats.create_stream = true`"
            )));
        }
        match self.context.create_stream(self.wanted.clone()).await {
            Ok(_) => {
                tracing::info!(stream = self.wanted.name, "made the NATS stream");
                self.set(Ensured::Complete);
                Ok(())
            }
            Err(error) => {
                self.set(Ensured::Unknown);
                match error.kind() {
                    CreateStreamErrorKind::JetStream(error) => Err(self.unusable(&error)),
                    _ => Err(self.unheard()),
                }
            }
        }
    }

    async fn complete(&mut self, info: &Info) -> Result<(), Trouble> {
        let missing = lacking(&self.wanted.subjects, &info.config.subjects);
        if let Some(problem) = unfit(&info.config) {
            self.set(Ensured::Unfit);
            let name = &self.wanted.name;
            return Err(Trouble(format!("stream `{name}` {problem}; name another one in `nats.stream`")));
        }
        if missing.is_empty() {
            self.set(Ensured::Complete);
            return Ok(());
        }
        let name = &self.wanted.name;
        if !self.create || !info.config.metadata.contains_key(MARK) {
            let listed = missing.iter().cloned().collect::<Vec<_>>().join(", ");
            let says = format!("stream `{name}` does not take {listed}; add them to its subjects");
            self.set(Ensured::Lacking(missing));
            return Err(Trouble(says));
        }
        let overlapping = match self.overlaps.add(&self.context, &info.config, &missing).await {
            Ok(overlapping) => overlapping,
            Err(error) => {
                // The next look may see them added.
                self.set(Ensured::Adding(missing));
                return Err(match error.kind() {
                    CreateStreamErrorKind::JetStream(error) => self.unusable(&error),
                    _ => self.unheard(),
                });
            }
        };
        if overlapping.is_empty() {
            self.set(Ensured::Complete);
            return Ok(());
        }
        let listed = overlapping.iter().cloned().collect::<Vec<_>>().join(", ");
        let says = format!(
            "stream `{name}` cannot take {listed}: another stream does; name that one in `nats.stream`, or change `routes`"
        );
        self.set(Ensured::Lacking(overlapping));
        Err(Trouble(says))
    }

    fn unusable(&self, error: &async_nats::jetstream::Error) -> Trouble {
        unusable(&self.wanted.name, error)
    }

    fn unheard(&self) -> Trouble {
        silent(self.events.denied_stream(&self.wanted.name))
    }
}

/// What the servers say of a stream that they do not make or show.
pub(super) fn unusable(name: &str, error: &async_nats::jetstream::Error) -> Trouble {
    let (what, remedy) = match error.error_code() {
        ErrorCode::STREAM_SUBJECT_OVERLAP => {
            ("another stream takes some of its topics", "name that stream in `nats.stream`, or change `routes`")
        }
        ErrorCode::CLUSTER_NO_PEERS | ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED => {
            ("there are fewer servers than `nats.replicas`", "lower it, or add servers")
        }
        ErrorCode::INSUFFICIENT_RESOURCES => ("the servers lack resources", "raise JetStream's limits"),
        ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => {
            ("JetStream is not enabled", "enable it for the server and the account")
        }
        _ => ("the server refuses it", "see the server's log"),
    };
    Trouble(format!("stream `{name}`: {what} (code {}); {remedy}", error.error_code().0))
}

/// Why JetStream gives no answer. `denied`: a server has just said that this user may not do something.
pub(super) fn silent(denied: bool) -> Trouble {
    Trouble(match denied {
        true => "this user may not use JetStream; grant publish on `$JS.API.>` and subscribe on its inbox".into(),
        false => "JetStream does not answer; enable it, and see `nats.domain`".into(),
    })
}

const UNPOISONED: &str = "no holder of this lock can panic";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_acknowledges_what_it_does_not_keep_is_unfit() {
        let file = Config { storage: StorageType::File, ..Config::default() };
        assert_eq!(unfit(&file), None);
        assert!(unfit(&Config { retention: RetentionPolicy::Interest, ..file.clone() }).is_some());
        assert!(unfit(&Config { storage: StorageType::Memory, ..file.clone() }).is_some());
        assert!(unfit(&Config { no_ack: true, ..file.clone() }).is_some());
        assert!(unfit(&Config { persist_mode: Some(PersistenceMode::Async), ..file.clone() }).is_some());
        assert_eq!(unfit(&Config { persist_mode: Some(PersistenceMode::Default), ..file }), None);
    }

    /// Of a server that is not there.
    fn keeper() -> Keeper {
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
        let (events, wanted) = (Arc::new(Events::default()), wanted(&config, &setup));
        let client = client::lazy(&config, patience, events.clone()).unwrap();
        Keeper {
            context: async_nats::jetstream::new(client),
            claim_checks: None,
            max_message: Arc::default(),
            max_body: 1,
            subjects: watch::channel(wanted.subjects.clone()).1,
            config,
            patience,
            wanted,
            create: true,
            overlaps: Overlaps::default(),
            silent: None,
            ensured: Arc::new(RwLock::new(Ensured::Complete)),
            events,
            doubt: Arc::default(),
            link: watch::Sender::new(Link::Up),
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
