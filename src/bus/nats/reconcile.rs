//! Brings the stream into the required state: creates it if that is allowed, else only checks it. A stream with the
//! bridge's mark gets its missing subjects; nothing else of any stream is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::stream::Config;
use tokio::sync::watch;

use super::client::{Lookup, find_stream};
use super::fault::{Fault, is_transient};
use super::refusal;
use super::settings::{self, Severity};
use super::stream::{EventStream, MARK, StreamStatus, UNPOISONED, about, used};
use super::subjects::{Overlaps, lacking};
use crate::bus::{Refusal, Scope, Setup};
use crate::config;

pub(super) struct StreamReconciler {
    pub stream: Arc<EventStream>,
    /// The current topics.
    pub subjects: watch::Receiver<Vec<String>>,
    wanted: Config,
    /// Whether the bridge may create stream and bucket, and add subjects.
    create: bool,
    bytes_in_flight: usize,
    overlaps: Overlaps,
    /// The faults in the stream's settings that were already logged.
    warned: Vec<Fault>,
    /// Since when JetStream has not answered about the stream, or has reported that it has no leader.
    silent_since: Option<Instant>,
}

/// Why messages cannot go to the stream.
enum Problem {
    /// No answer: the last known status stays.
    Silent(Fault),
    /// The servers do not show it: the last known status stays.
    Hidden(Fault),
    Unfit(Fault),
    /// It takes messages, but not on these subjects.
    Lacks(Fault, BTreeMap<String, Refusal>),
}

impl StreamReconciler {
    pub(super) fn new(
        stream: Arc<EventStream>,
        wanted: Config,
        subjects: watch::Receiver<Vec<String>>,
        config: &config::Nats,
        setup: &Setup,
    ) -> Self {
        Self {
            stream,
            subjects,
            wanted,
            create: config.create_stream,
            bytes_in_flight: setup.bytes_in_flight,
            overlaps: Overlaps::default(),
            warned: Vec::new(),
            silent_since: None,
        }
    }

    /// Checks stream and bucket, creates or completes them if that is allowed, and sets the stream's status. `Ok`
    /// means that all is well. Without an answer the status stays as it was: most of these end with the next leader.
    /// `within` is the timeout of the check.
    pub(super) async fn reconcile(&mut self, within: Duration) -> Result<(), Fault> {
        self.wanted.subjects.clone_from(&self.subjects.borrow_and_update());
        let found = match self.find_or_create(within).await {
            Ok(found) => found,
            Err(problem) => return self.apply(Err(problem)),
        };
        let completed = self.complete(&found).await;
        let completed = self.apply(completed);
        self.stream.set_max_message(&found);
        // Missing subjects do not affect the others.
        let stored = match &self.stream.object_store {
            Some(store) => store.reconcile(&self.stream.context, self.create, found.max_age).await,
            None => Ok(()),
        };
        completed.and(stored)
    }

    /// Whether JetStream has been silent for too short a time to report it.
    pub(super) fn is_waiting(&self) -> bool {
        self.silent_since.is_some_and(|since| since.elapsed() < self.stream.publish_timeout)
    }

    /// Sets the status that follows from the outcome.
    fn apply(&mut self, outcome: Result<(), Problem>) -> Result<(), Fault> {
        let unseen = matches!(&*self.stream.status.read().expect(UNPOISONED), StreamStatus::Unknown(_));
        if !matches!(outcome, Err(Problem::Silent(_))) {
            self.silent_since = None;
        }
        let (status, fault) = match outcome {
            Ok(()) => (Some(StreamStatus::Ready { refused: BTreeMap::new() }), None),
            Err(Problem::Lacks(fault, refused)) => (Some(StreamStatus::Ready { refused }), Some(fault)),
            Err(Problem::Unfit(fault)) => (Some(StreamStatus::Unfit(fault.refusal(Scope::Bus))), Some(fault)),
            Err(Problem::Hidden(fault)) => {
                (unseen.then(|| StreamStatus::Unfit(fault.refusal(Scope::Bus))), Some(fault))
            }
            Err(Problem::Silent(fault)) => {
                let reported = unseen && !self.is_waiting();
                (reported.then(|| StreamStatus::Unknown(fault.transient())), Some(fault))
            }
        };
        if let Some(status) = status {
            self.set(status);
        }
        fault.map_or(Ok(()), Err)
    }

    /// A stream found ready is ready only for the subjects checked at that time.
    fn set(&self, status: StreamStatus) {
        let mut held = self.stream.status.write().expect(UNPOISONED);
        let outdated = self.subjects.has_changed().unwrap_or(false);
        if !(outdated && matches!(status, StreamStatus::Ready { .. })) {
            *held = status;
        }
    }

    fn about(&self) -> String {
        about(&self.stream.name)
    }

    /// There has been no answer since then.
    fn silent(&mut self, since: Instant) -> Problem {
        self.silent_since.get_or_insert(since);
        Problem::Silent(self.silence())
    }

    fn silence(&self) -> Fault {
        Fault::silent(&self.about(), self.stream.events.denied_stream(&self.stream.name))
    }

    async fn find_or_create(&mut self, within: Duration) -> Result<Config, Problem> {
        let asked = Instant::now();
        let looked = tokio::time::timeout(within, find_stream(&self.stream.context, &self.stream.name)).await;
        match looked.unwrap_or(Lookup::Silent) {
            Lookup::Found(stream) => Ok(stream.cached_info().config.clone()),
            Lookup::Missing => self.create().await,
            Lookup::Refused(error) if is_transient(&error) => {
                self.silent_since.get_or_insert(asked);
                Err(Problem::Silent(Fault::refused(&self.about(), &error)))
            }
            Lookup::Refused(error) => Err(Problem::Hidden(Fault::refused(&self.about(), &error))),
            Lookup::Silent => Err(self.silent(asked)),
        }
    }

    async fn create(&mut self) -> Result<Config, Problem> {
        if !self.create {
            let remedy = "create it, or set `nats.create_stream = true`";
            return Err(Problem::Unfit(Fault::new(self.about(), "does not exist", remedy)));
        }
        let asked = Instant::now();
        match self.stream.context.create_stream(self.wanted.clone()).await {
            Ok(created) => {
                tracing::info!(stream = self.stream.name, "created the NATS stream");
                Ok(created.cached_info().config.clone())
            }
            Err(error) => match error.kind() {
                CreateStreamErrorKind::JetStream(error) if !is_transient(&error) => {
                    Err(Problem::Unfit(Fault::refused(&self.about(), &error)))
                }
                _ => {
                    self.set(StreamStatus::Unknown(refusal::NOT_SEEN));
                    Err(self.silent(asked))
                }
            },
        }
    }

    /// `Ok`: the stream keeps what it acknowledges, and takes all subjects.
    async fn complete(&mut self, found: &Config) -> Result<(), Problem> {
        self.check_settings(found)?;
        let missing = lacking(&self.wanted.subjects, &found.subjects);
        if missing.is_empty() {
            return Ok(());
        }
        if !self.create || !found.metadata.contains_key(MARK) {
            let says = format!("does not take {}", list(&missing));
            let fault = Fault::new(self.about(), says, "add them to its subjects");
            return Err(Problem::Lacks(fault, all(missing, &refusal::lacks_subject(&self.stream.name))));
        }
        let overlapping = match self.overlaps.add_subjects(&self.stream.context, found, &missing).await {
            Ok(overlapping) => overlapping,
            Err(error) => {
                let fault = match error.kind() {
                    CreateStreamErrorKind::JetStream(error) => Fault::refused(&self.about(), &error),
                    _ => self.silence(),
                };
                // The next check may find them added.
                return Err(Problem::Lacks(fault, all(missing, &refusal::NOT_ADDED)));
            }
        };
        if overlapping.is_empty() {
            return Ok(());
        }
        let says = format!("cannot take {}: another stream does", list(&overlapping));
        let fault = Fault::new(self.about(), says, "name that one in `nats.stream`, or change `routes`");
        Err(Problem::Lacks(fault, all(overlapping, &refusal::lacks_subject(&self.stream.name))))
    }

    /// `Ok`: the stream keeps what it acknowledges. Logs once what a user needs to know about it.
    fn check_settings(&mut self, found: &Config) -> Result<(), Problem> {
        let issues = settings::check(found, used(&self.wanted, self.bytes_in_flight));
        let of = |severity| issues.iter().filter(move |issue| issue.severity == severity).map(|issue| &issue.fault);
        if let Some(fault) = of(Severity::Refuse).next() {
            return Err(Problem::Unfit(fault.clone()));
        }
        let warnings: Vec<_> = of(Severity::Warn).cloned().collect();
        for fault in warnings.iter().filter(|fault| !self.warned.contains(fault)) {
            tracing::warn!(remedy = fault.remedy, "{} {}", fault.about, fault.says);
        }
        self.warned = warnings;
        Ok(())
    }
}

fn list(subjects: &BTreeSet<String>) -> String {
    subjects.iter().cloned().collect::<Vec<_>>().join(", ")
}

fn all(subjects: BTreeSet<String>, refusal: &Refusal) -> BTreeMap<String, Refusal> {
    subjects.into_iter().map(|subject| (subject, refusal.clone())).collect()
}
