//! Reload: on SIGHUP the configuration is read again; secrets that changed on disk are applied without a signal. Each
//! part that can change while the bridge runs gets its new values. A configuration with a mistake changes nothing.
//! Logs name keys and endpoints, never a value.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use super::load::{self, Loaded};
use super::notify::Notifier;
use crate::admin::Admin;
use crate::asyncapi;
use crate::bus::{Bus, embedded};
use crate::config::files::{TimedOut, TimedReads};
use crate::config::{self, Advice, Config, Difference, Mistake, Mistakes, Resolved, SecretChanges};
use crate::metrics::{Metrics, Reloaded};
use crate::relay::Relay;
use crate::route::RouteTable;
use crate::server::Certificates;
use crate::status::Status;
use crate::telemetry::Filter;

/// The interval between two reads of the secret files; a value found by two reads in a row is applied.
const REREAD_EVERY: Duration = Duration::from_secs(2);

/// The time limit for reading the configuration and every file that it names.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// The parts that can change while the bridge runs. Applying cannot fail: whatever a part could reject is a mistake
/// of the configuration, found before any part gets it.
pub(super) struct Parts {
    pub(super) relay: Relay,
    pub(super) bus: Arc<dyn Bus>,
    pub(super) api: Option<embedded::Api>,
    pub(super) admin: Admin,
    pub(super) filter: Filter,
    /// They reread their files by themselves; SIGHUP makes them do it at once.
    pub(super) certificates: Vec<Certificates>,
    pub(super) metrics: Metrics,
    pub(super) notifier: Notifier,
    pub(super) status: Status,
}

impl Parts {
    fn apply(&self, config: &Config, routes: &Arc<RouteTable>) {
        self.filter.apply(&config.log.filter);
        self.bus.topics(routes.topics());
        self.relay.apply(config, routes.clone());
        if let (Some(api), config::Bus::Embedded(embedded)) = (&self.api, &config.bus) {
            api.set_token(embedded.token.clone());
        }
        self.describe(&config.bus, routes);
    }

    /// Has the listeners serve the document of these topics.
    pub(super) fn describe(&self, bus: &config::Bus, routes: &RouteTable) {
        let document = Bytes::from(asyncapi::document(bus, routes));
        if let Some(api) = &self.api {
            api.set_document(document.clone());
        }
        self.admin.set_document(document);
    }
}

/// The configuration in use, and the parts that a reload updates.
pub(super) struct Reload {
    file: Option<PathBuf>,
    resolved: Resolved,
    routes: Arc<RouteTable>,
    parts: Parts,
    reads: TimedReads<Result<Loaded, Mistakes>>,
}

/// Reloads on each `hangup` and rereads secrets until `stop`, on a thread of its own: reading a file may take long.
///
/// # Errors
/// The system cannot start another thread.
pub(super) fn start(mut reload: Reload, hangup: Signal, stop: CancellationToken) -> std::io::Result<()> {
    // One queued request covers all that arrive meanwhile.
    let (asks, asked) = sync_channel(1);
    tokio::spawn(pass_on(hangup, asks, stop));
    let serve = move || {
        loop {
            match asked.recv_timeout(REREAD_EVERY) {
                Ok(()) => reload.notified_reload(),
                Err(RecvTimeoutError::Timeout) => reload.reread_secrets(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    };
    std::thread::Builder::new().name("reload".to_owned()).spawn(serve).map(drop)
}

/// Dropping `asks` ends reloading.
async fn pass_on(mut hangup: Signal, asks: SyncSender<()>, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(()) = hangup.recv() => drop(asks.try_send(())),
        }
    }
}

impl Reload {
    pub(super) fn new(resolved: Resolved, routes: Arc<RouteTable>, file: Option<PathBuf>, parts: Parts) -> Self {
        Self { file, resolved, routes, parts, reads: TimedReads::default() }
    }

    fn notified_reload(&mut self) {
        self.parts.notifier.reloading();
        self.reload();
        self.parts.notifier.ready();
    }

    fn reload(&mut self) {
        let result = self.try_reload();
        self.parts.metrics.reloaded(result);
    }

    fn try_reload(&mut self) -> Reloaded {
        let Loaded { resolved, routes, .. } = match self.read() {
            Ok(loaded) => loaded,
            Err(result) => return result,
        };
        let difference = match self.resolved.apply(resolved, load::check) {
            Ok(difference) => difference,
            Err(mistakes) => {
                let (count, mistakes) = (mistakes.len(), listed(&mistakes));
                tracing::error!(
                    count,
                    mistakes,
                    remedy = "restart the bridge to apply it",
                    "the new configuration does not fit what only a restart changes; nothing was changed"
                );
                return Reloaded::Refused;
            }
        };
        self.routes = Arc::new(routes);
        self.parts.apply(self.resolved.config(), &self.routes);
        self.parts.status.set_configuration(&load::effective(&self.resolved));
        for certificates in &self.parts.certificates {
            if let Err(error) = certificates.reload() {
                tracing::error!(%error, "the new certificate and key cannot be used; the old pair stays in use");
            }
        }
        log_difference(&difference);
        warn_of_advice(&self.resolved.advice());
        Reloaded::Applied
    }

    fn read(&self) -> Result<Loaded, Reloaded> {
        let file = self.file.clone();
        let read = move || load::load(file.as_deref(), std::env::vars_os(), std::io::stdout().is_terminal());
        match self.reads.within(READ_WITHIN, read) {
            Ok(Ok(loaded)) => Ok(loaded),
            Ok(Err(mistakes)) => {
                let (count, mistakes) = (mistakes.all.len(), listed(&mistakes.all));
                tracing::error!(count, mistakes, "the new configuration has mistakes; nothing was changed");
                Err(Reloaded::Refused)
            }
            Err(TimedOut) => {
                let remedy = "check that the disk with the configuration and the files it names answers, and that none of them \
                              is a pipe; then send SIGHUP again";
                tracing::warn!(remedy, "the new configuration could not be read in time; nothing was changed");
                Err(Reloaded::TimedOut)
            }
        }
    }

    fn reread_secrets(&mut self) {
        let SecretChanges { rotated, lost, timed_out } = self.resolved.reread_secrets();
        if !rotated.is_empty() {
            self.parts.apply(self.resolved.config(), &self.routes);
            self.parts.status.set_configuration(&load::effective(&self.resolved));
        }
        let advice = self.resolved.advice();
        for key in rotated {
            tracing::info!(key = key, "a secret changed on disk and is now in use");
            warn_of_advice(advice.iter().filter(|advice| advice.key == key));
        }
        for (key, reason) in lost {
            let remedy = "write the secret into a regular file there; the bridge picks it up by itself";
            tracing::warn!(
                key,
                reason,
                remedy,
                "the file of a secret is empty or cannot be read; the last secret stays in use"
            );
        }
        for key in timed_out {
            let remedy = "check that the disk with the file answers; the bridge keeps trying";
            tracing::warn!(key, remedy, "reading the file of a secret takes too long; the last secret stays in use");
        }
    }
}

/// Advice does not stop the reload, and a running bridge can only log it.
pub(super) fn warn_of_advice<'a>(advice: impl IntoIterator<Item = &'a Advice>) {
    for advice in advice {
        let (about, Advice { says, remedy, .. }) = (advice.about(), advice);
        tracing::warn!(about, says, remedy, "something in the configuration is probably not what you meant");
    }
}

fn log_difference(Difference { changed, added, removed, needs_restart }: &Difference) {
    let of = |names: &[String]| (!names.is_empty()).then(|| names.join(", "));
    tracing::info!(
        changed = of(changed),
        endpoints_added = of(added),
        endpoints_removed = of(removed),
        "configuration reloaded"
    );
    if let Some(keys) = of(needs_restart) {
        tracing::warn!("restart to apply: {keys}");
    }
}

/// On one line, because logs are read by line.
fn listed(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")
}
