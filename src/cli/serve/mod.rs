//! `serve`: opens the bus, then the ports, and runs until a signal. Wires all other modules together, and decides
//! nothing itself.
//!
//! `opened` is what deliveries use, `listeners` where they arrive, `watchdog` tells systemd that they are served, `asking`
//! is how commands ask, `directories` what metrics show of disks, `signals` and `shutdown` are how the bridge ends, and
//! `error` is why it could not start.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

mod asking;
mod directories;
mod error;
mod listeners;
mod opened;
mod shutdown;
mod signals;
mod watchdog;

use super::load::Loaded;
use super::memory::{self, Bound};
use super::notify::Notifier;
use super::reload::{self, Parts, Reload};
use crate::admin::Admin;
use crate::bus::ConnectionState;
use crate::config::{Config, Effective, Ignored};
use crate::metrics::Metrics;
use crate::spool::Spool;
use crate::status::{Readiness, Status};
use crate::telemetry;
pub(super) use error::StartError;
pub(super) use listeners::Tls;
use listeners::{Ports, Serving, announce};
use opened::Opened;
pub(super) use opened::setup;
use shutdown::{Drainer, drain};
use signals::Signals;
pub(super) use signals::hangup;

/// Runs until SIGTERM or SIGINT, then drains. A second signal ends it at once. Each `hangup` rereads `file`.
///
/// # Errors
/// The bridge could not start, and accepted nothing; or the bus or the spool stopped.
pub(super) async fn run(loaded: Loaded, file: Option<PathBuf>, hangup: Signal) -> Result<(), StartError> {
    let Loaded { config, effective, resolved, routes } = loaded;
    let (config, routes) = (&config, Arc::new(routes));
    let telemetry = telemetry::start(&config.log);
    warn_of(&effective.ignored);
    reload::warn_of_advice(&resolved.advice());
    if let Some(advice) = Bound::of(config).above(memory::limit()) {
        tracing::warn!(remedy = advice.remedy, "{} {}", advice.about, advice.says);
    }
    let (mut signals, notifier) = (Signals::new().map_err(StartError::Signals)?, Notifier::of_environment());
    let tls = Tls::load(config)?;
    let opened = Opened::open(config, &routes, &telemetry, tls.all())?;
    let ports = Ports::bind(config)?;

    let stop = CancellationToken::new();
    let drain_spool = |spool| Drainer::start(spool, opened.bus.clone(), config.bus_timeout());
    let drainer = opened.spool.clone().map(drain_spool);
    asking::start(config, &opened, &routes, &stop);
    announce(config, resolved.file(), &ports);
    let status = status(config, &effective, &opened, &stop);
    let parts = Parts {
        relay: opened.relay.clone(),
        bus: opened.bus.clone(),
        api: opened.api.clone(),
        admin: Admin::new(status.clone(), opened.metrics.clone(), &config.admin),
        filter: telemetry.filter(),
        certificates: tls.all(),
        metrics: opened.metrics.clone(),
        notifier: notifier.clone(),
        status,
    };
    parts.describe(&config.bus, &routes);
    let admin = ports.admin(&config.admin);
    let mut serving = Serving::start(config, ports, &tls, &opened, parts.admin.clone(), &stop);
    reload::start(Reload::new(resolved, routes, file, parts), hangup, stop.clone()).map_err(StartError::Reload)?;
    notifier.ready();
    tokio::spawn(watchdog::ping(notifier.clone(), serving.deliveries.abort_handle(), admin));

    let ended = ended(&mut signals, &opened, &notifier).await;
    notifier.stopping();
    stop.cancel();
    if let Some(api) = &opened.api {
        // A following reader would otherwise never end.
        api.drain();
    }
    let drained = drain(config, &mut serving.deliveries, &opened, drainer);
    tokio::select! {
        () = drained => tracing::info!("stopped"),
        signal = signals.next() => tracing::warn!(signal, "second signal: stopped at once"),
    }
    serving.end().await;
    ended
}

/// Begins its history now.
fn status(config: &Config, effective: &Effective, opened: &Opened, stop: &CancellationToken) -> Status {
    let (connection, stop, needs_bus) = (opened.bus.connection(), stop.clone(), config.admin.ready_needs_bus);
    let status = Status::new(config.bus.name(), Readiness { connection, stop, needs_bus }, opened.metrics.clone());
    status.set_configuration(effective);
    tokio::spawn(status.clone().keep_history());
    status
}

/// Returns at a signal. An error if the bus or the spool stopped first.
async fn ended(signals: &mut Signals, opened: &Opened, notifier: &Notifier) -> Result<(), StartError> {
    let error = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "draining: no new connections, running requests finish");
            return Ok(());
        }
        () = follow(opened.bus.connection(), &opened.metrics, notifier) => StartError::BusEnded,
        () = end_of(opened.spool.clone()) => StartError::SpoolEnded,
    };
    tracing::error!("{error}");
    Err(error)
}

/// Warns of unknown variables, except those that Kubernetes injects: they are nobody's mistake.
fn warn_of(ignored: &[Ignored]) {
    let set = ignored.iter().filter(|variable| !variable.injected).map(ToString::to_string).collect::<Vec<_>>();
    if !set.is_empty() {
        let remedy = "`terra-bridge check` says which are the bridge's";
        tracing::warn!(variables = set.join(", "), remedy, "unknown TERRA_BRIDGE_ variables are ignored");
    }
}

/// Keeps the bus gauge and systemd's status current; returns when the adapter has ended.
async fn follow(mut connection: watch::Receiver<ConnectionState>, metrics: &Metrics, notifier: &Notifier) {
    loop {
        let state = *connection.borrow_and_update();
        metrics.bus(state == ConnectionState::Up);
        notifier.status(match state {
            ConnectionState::Waiting => "Serving; the bus was not reached yet",
            ConnectionState::Up => "Serving; the bus is up",
            ConnectionState::Away => "Serving; the bus is away",
        });
        if connection.changed().await.is_err() {
            return;
        }
    }
}

/// Returns when the spool has ended; without a spool, never.
async fn end_of(spool: Option<Spool>) {
    match spool {
        Some(spool) => spool.ended().await,
        None => std::future::pending().await,
    }
}
