//! Reload: what SIGHUP, and a signing secret that changed on disk, have taken over while the bridge
//! runs. Comes in: the configuration as a whole. Goes out: to each part that can change what it needs
//! of it, or every mistake, and nothing is changed. Says names of keys and endpoints, never a value.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use super::judged;
use crate::bus::{Bus, embedded};
use crate::config::files::{Hangs, Reading};
use crate::config::{self, Advice, Config, Difference, Inventory, Loaded, Looked, Mistake, Mistakes};
use crate::relay::Relay;
use crate::route::RouteTable;
use crate::server::Certificates;
use crate::telemetry::Filter;

/// Between two looks at the files of secrets; what two looks in a row find is taken over.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What reading the configuration and all that it names may take.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// What can change while the bridge runs. Taking over cannot fail: whatever a part could find fault
/// with is a mistake of the configuration, and known before the first part is told.
pub(super) struct Parts {
    pub(super) relay: Relay,
    pub(super) bus: Arc<dyn Bus>,
    pub(super) api: Option<embedded::Api>,
    pub(super) filter: Filter,
    /// They look at their files themselves; SIGHUP has them do it at once.
    pub(super) certificates: Vec<Certificates>,
}

impl Parts {
    fn take_over(&self, config: &Config, routes: &Arc<RouteTable>) {
        self.filter.apply(&config.log.filter);
        self.bus.topics(routes.topics());
        self.relay.apply(config, routes.clone());
        if let (Some(api), config::Bus::Embedded(embedded)) = (&self.api, &config.bus) {
            api.set_token(embedded.token.clone());
        }
    }
}

/// What counts at the moment, and who is to be told of another.
pub(super) struct Reload {
    file: Option<PathBuf>,
    inventory: Inventory,
    routes: Arc<RouteTable>,
    parts: Parts,
    reading: Reading<Result<(Loaded, RouteTable), Mistakes>>,
}

/// Reloads on each `hangup` and looks at secrets until `stop`, on a thread of its own: a file may lie
/// where reading takes its time.
///
/// # Errors
/// Where the system has no thread to spare.
pub(super) fn start(mut reload: Reload, hangup: Signal, stop: CancellationToken) -> std::io::Result<()> {
    // One that waits stands for all that come meanwhile.
    let (asks, asked) = sync_channel(1);
    tokio::spawn(pass_on(hangup, asks, stop));
    let serve = move || {
        loop {
            match asked.recv_timeout(LOOK_EVERY) {
                Ok(()) => reload.reload(),
                Err(RecvTimeoutError::Timeout) => reload.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    };
    std::thread::Builder::new().name("reload".to_owned()).spawn(serve).map(drop)
}

/// The end of `asks` is the end of reloading.
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
    pub(super) fn new(inventory: Inventory, routes: Arc<RouteTable>, file: Option<PathBuf>, parts: Parts) -> Self {
        Self { file, inventory, routes, parts, reading: Reading::default() }
    }

    fn reload(&mut self) {
        let file = self.file.clone();
        let (loaded, routes) = match self.reading.within(READ_WITHIN, move || judged(file.as_deref())) {
            Ok(Ok(loaded)) => loaded,
            Err(Hangs) => {
                let remedy = "see whether the disk answers that the configuration and the files it names lie on, and \
                              whether any of them is a pipe; then send SIGHUP again";
                return tracing::warn!(remedy, "the new configuration could not be read in time: nothing is changed");
            }
            Ok(Err(mistakes)) => {
                let (count, mistakes) = (mistakes.all.len(), listed(&mistakes.all));
                return tracing::error!(count, mistakes, "the new configuration has mistakes: nothing is changed");
            }
        };
        let difference = match self.inventory.take_over(loaded.inventory) {
            Ok(difference) => difference,
            Err(mistakes) => {
                let (count, mistakes) = (mistakes.len(), listed(&mistakes));
                return tracing::error!(
                    count,
                    mistakes,
                    remedy = "start the bridge again",
                    "the new configuration needs what takes effect at the next start: nothing is changed"
                );
            }
        };
        self.routes = Arc::new(routes);
        self.parts.take_over(&self.inventory.config(), &self.routes);
        for certificates in &self.parts.certificates {
            if let Err(error) = certificates.reload() {
                tracing::error!(%error, "the new certificate and key do not fit; the old pair stays in use");
            }
        }
        say(&difference);
        warn_of_advice(&self.inventory.advice());
    }

    fn look(&mut self) {
        let Looked { rotated, gone, hanging } = self.inventory.look();
        if !rotated.is_empty() {
            self.parts.take_over(&self.inventory.config(), &self.routes);
        }
        let advice = self.inventory.advice();
        for key in rotated {
            tracing::info!(key = key, "a secret has changed on disk and was taken over");
            warn_of_advice(advice.iter().filter(|advice| advice.key == key));
        }
        for (key, reason) in gone {
            let remedy = "write the secret into a regular file there; it is taken over by itself";
            tracing::warn!(
                key,
                reason,
                remedy,
                "the file of a secret is empty or cannot be read: the last one still counts"
            );
        }
        for key in hanging {
            let remedy = "see whether the disk answers that the file lies on; the bridge goes on looking";
            tracing::warn!(key, remedy, "reading the file of a secret has no end: the last one still counts");
        }
    }
}

/// Advice stops nothing, and a bridge that runs has no other place to give it.
pub(super) fn warn_of_advice<'a>(advice: impl IntoIterator<Item = &'a Advice>) {
    for advice in advice {
        let (about, Advice { says, remedy, .. }) = (advice.about(), advice);
        tracing::warn!(about, says, remedy, "something in the configuration is probably not what you meant");
    }
}

fn say(Difference { changed, added, removed, left }: &Difference) {
    let of = |names: &[String]| (!names.is_empty()).then(|| names.join(", "));
    tracing::info!(
        changed = of(changed),
        endpoints_added = of(added),
        endpoints_removed = of(removed),
        "configuration reloaded"
    );
    if let Some(keys) = of(left) {
        tracing::warn!(keys, "what differs in these keys takes effect at the next start");
    }
}

/// On one line, as logs are read by line.
fn listed(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")
}
