//! `serve`: opens the bus, then the ports, and runs until a signal. The wiring room: it knows every
//! other and decides nothing of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::reload::{self, Parts, Reload};
use crate::admin::Admin;
use crate::bus::embedded::Api;
use crate::bus::{self, Bus, ConnectionState, OpenError};
use crate::clock::Clock;
use crate::config::{self, Config, Ignored, Loaded};
use crate::dedupe::Dedupe;
use crate::fetch::{Fetcher, TrustError};
use crate::metrics::{Metrics, ReaderGauges, Readings};
use crate::payload::Budget;
use crate::relay::{Relay, Stages};
use crate::reply::Outcome;
use crate::route::RouteTable;
use crate::server::descriptors::{self, Shares};
use crate::server::{self, CertificateError, Certificates, ConnectionLog, Limits};
use crate::spool::{self, Spool};
use crate::telemetry::{self, Telemetry};

/// Connections that wait to be accepted: as many as Linux lets wait (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// What bus and spool may each take beyond the drain timeout to close.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Why the bridge could not start, or not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("{0}")]
    Bus(#[from] OpenError),
    #[error("`{key}`: cannot listen on {address}: {source}; {remedy}", remedy = listen_remedy(source.kind()))]
    Listen { key: &'static str, address: SocketAddr, source: std::io::Error },
    #[error("{0}")]
    Certificate(#[from] CertificateError),
    #[error("{0}")]
    Trust(#[from] TrustError),
    #[error("cannot wait for signals: {0}")]
    Signals(std::io::Error),
    #[error("no thread to reload the configuration: {0}; allow more processes")]
    Reload(std::io::Error),
    #[error("the bus stopped unexpectedly; restart the bridge")]
    BusEnded,
    #[error("the spool stopped unexpectedly; restart the bridge")]
    SpoolEnded,
}

/// Runs until SIGTERM or SIGINT, then drains. A second signal ends it at once. `file` is what a
/// `hangup` has read anew.
///
/// # Errors
/// Where it could not start: nothing was accepted then. Or where the bus failed for good.
pub(super) async fn run(
    loaded: Loaded,
    routes: RouteTable,
    file: Option<PathBuf>,
    hangup: Signal,
) -> Result<(), StartError> {
    let Loaded { config, effective, inventory } = loaded;
    let config = &config;
    let telemetry = telemetry::start(&config.log);
    warn_of(&effective.ignored);
    reload::warn_of_advice(&inventory.advice());
    let mut signals = Signals::new().map_err(StartError::Signals)?;
    let tls = Tls::load(config)?;
    let fetcher = config.s3.as_ref().map(Fetcher::new).transpose()?;
    let dedupe = Dedupe::new(config.dedupe.window, config.dedupe.entries, Clock::system());
    let spool = match &config.spool {
        Some(spool) => {
            let known = config.dedupe.entries;
            Some(Spool::open(spool, known, Clock::system(), |entry| dedupe.restore(&entry))?)
        }
        None => None,
    };
    if let Some(exposed) = bus::adapters::exposed_login(&config.bus) {
        tracing::warn!(remedy = exposed.remedy, "`{}` {}", exposed.about, exposed.says);
    }
    let opened = bus::adapters::open(&config.bus, setup(config, &routes))?;
    let ports = Ports::bind(config)?;
    let shares = shares(config.server.max_connections);
    let (stop, stop_admin) = (CancellationToken::new(), CancellationToken::new());

    let budget = Budget::new(config.server.bytes_in_flight);
    let metrics = Metrics::new(Readings {
        readers: reading(opened.api.clone()),
        ..readings(&budget, &telemetry, &dedupe, spool.clone())
    });
    let routes = Arc::new(routes);
    let stages = Stages {
        routes: routes.clone(),
        fetcher,
        dedupe,
        bus: opened.bus.clone(),
        spool: spool.clone(),
        budget,
        metrics: metrics.clone(),
    };
    let relay = Relay::new(config, stages);
    let drainer = spool.clone().map(|spool| Drainer::start(spool, opened.bus.clone(), config.bus_timeout()));
    let admin = Admin::new(opened.bus.connection(), metrics.clone(), stop.clone(), &config.admin);
    announce(config, &ports);
    let log = |section, open| ConnectionLog::new(section, &metrics, open);
    let internal = || Limits::internal(shares.internal);
    let of_admin = log("admin", Arc::default());
    let admin = tokio::spawn(server::serve(ports.admin, None, internal(), admin, of_admin, stop_admin.clone()));
    let api = opened.api.clone();
    let reader = ports.reader.zip(opened.api).map(|(listener, api)| {
        let log = log("embedded", Arc::default());
        tokio::spawn(server::serve(listener, tls.reader.clone(), internal(), api, log, stop.clone()))
    });
    let limits = Limits { max_connections: shares.deliveries, ..Limits::from(&config.server) };
    let log = log("server", metrics.connections.clone());
    let deliveries = server::serve(ports.deliveries, tls.deliveries.clone(), limits, relay.clone(), log, stop.clone());
    let deliveries = tokio::spawn(deliveries);
    for certificates in tls.all() {
        tokio::spawn(certificates.watch());
    }

    let parts = Parts {
        relay: relay.clone(),
        bus: opened.bus.clone(),
        api: api.clone(),
        filter: telemetry.filter(),
        certificates: tls.all(),
    };
    reload::start(Reload::new(inventory, routes, file, parts), hangup, stop.clone()).map_err(StartError::Reload)?;

    let ended = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "draining: no new connections, running requests finish");
            Ok(())
        }
        () = follow(opened.bus.connection(), metrics) => {
            tracing::error!("the bus stopped unexpectedly; restart the bridge");
            Err(StartError::BusEnded)
        }
        () = end_of(spool) => {
            tracing::error!("the spool stopped unexpectedly; restart the bridge");
            Err(StartError::SpoolEnded)
        }
    };
    stop.cancel();
    if let Some(api) = api {
        // Who follows would follow for ever.
        api.drain();
    }
    let drained = drain(config, deliveries, &relay, drainer, opened.bus.as_ref());
    tokio::select! {
        () = drained => tracing::info!("stopped"),
        signal = signals.next() => tracing::warn!(signal, "second signal: stopped at once"),
    }
    stop_admin.cancel();
    let _ = admin.await;
    if let Some(reader) = reader {
        let _ = reader.await;
    }
    ended
}

/// What the bus needs to know of the configuration.
pub(super) fn setup(config: &Config, routes: &RouteTable) -> bus::Setup {
    bus::Setup {
        topics: routes.topics(),
        publish_timeout: config.bus_timeout(),
        max_body: config.server.max_body,
        bytes_in_flight: config.server.bytes_in_flight,
    }
}

/// How many connections each listener may have. Raises the limit of open files as far as it goes.
fn shares(max_connections: usize) -> Shares {
    let (limit, open) = (descriptors::raise_limit(), descriptors::open());
    let shares = Shares::of(limit, open, max_connections);
    if shares.deliveries < max_connections {
        let remedy = "raise the hard limit (LimitNOFILE=, ulimit -Hn), or lower `server.max_connections`";
        let connections = shares.deliveries;
        tracing::warn!(
            limit,
            open,
            connections,
            remedy,
            "the limit of open files leaves fewer connections than server.max_connections"
        );
    }
    shares
}

/// What Kubernetes sets of itself is nobody's mistake.
fn warn_of(ignored: &[Ignored]) {
    let set = ignored.iter().filter(|variable| !variable.injected).map(ToString::to_string).collect::<Vec<_>>();
    if !set.is_empty() {
        let remedy = "`terra-bridge check` says which are the bridge's";
        tracing::warn!(variables = set.join(", "), remedy, "unknown TERRA_BRIDGE_ variables are ignored");
    }
}

fn readings(budget: &Budget, telemetry: &Telemetry, dedupe: &Dedupe<Outcome>, spool: Option<Spool>) -> Readings {
    let (budget, dedupe) = (budget.clone(), dedupe.clone());
    Readings {
        bytes_in_flight: Box::new(move || budget.taken()),
        log_lines_dropped: Box::new(telemetry.dropped_lines()),
        dedupe: Box::new(move || dedupe.gauges()),
        spool: Box::new(move || spool.as_ref().map(Spool::gauges)),
        ..Readings::default()
    }
}

fn reading(api: Option<Api>) -> Box<dyn Fn() -> Option<ReaderGauges> + Send + Sync> {
    Box::new(move || api.as_ref().map(Api::readers))
}

/// Keeps the gauge of the bus current; returns when the adapter is no more.
async fn follow(mut connection: watch::Receiver<ConnectionState>, metrics: Metrics) {
    loop {
        metrics.bus(*connection.borrow_and_update() == ConnectionState::Up);
        if connection.changed().await.is_err() {
            return;
        }
    }
}

/// Returns when the spool is no more; without one, never.
async fn end_of(spool: Option<Spool>) {
    match spool {
        Some(spool) => spool.ended().await,
        None => std::future::pending().await,
    }
}

/// Brings the spool's messages to the bus while the bridge runs.
struct Drainer {
    spool: Spool,
    stop: CancellationToken,
    /// What it may take to learn what became of what is in flight.
    publish_timeout: Duration,
    task: tokio::task::JoinHandle<()>,
}

impl Drainer {
    fn start(spool: Spool, bus: Arc<dyn Bus>, publish_timeout: Duration) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(spool::drain(spool.clone(), bus, publish_timeout, stop.clone()));
        Self { spool, stop, publish_timeout, task }
    }

    /// Goes on until the spool is empty, or so long that what is in flight has its time until `end`.
    async fn end(mut self, end: Instant) {
        let left = end.saturating_duration_since(Instant::now());
        let emptied = tokio::time::timeout_at(end - self.publish_timeout.min(left / 2), self.spool.emptied()).await;
        self.stop.cancel();
        if tokio::time::timeout_at(end + CLOSE_WITHIN, &mut self.task).await.is_err() {
            self.task.abort();
        }
        if emptied.is_err() {
            let messages = self.spool.gauges().messages;
            tracing::warn!(messages, "drain_timeout passed: messages stay in the spool until the next start");
        }
        if tokio::time::timeout_at(end + CLOSE_WITHIN, self.spool.close()).await.is_err() {
            tracing::warn!("the spool's disk did not take its last writes in time; none of them was answered 200");
        }
    }
}

/// Connections first, then publishes whose clients left, then the spool, then the bus.
async fn drain(
    config: &Config,
    deliveries: tokio::task::JoinHandle<usize>,
    relay: &Relay,
    drainer: Option<Drainer>,
    bus: &dyn Bus,
) {
    let end = Instant::now() + config.server.drain_timeout;
    match deliveries.await {
        Ok(0) => {}
        Ok(aborted) => tracing::warn!(aborted, "drain_timeout passed: connections closed without an answer"),
        Err(_) => tracing::error!("the listener for deliveries panicked"),
    }
    if tokio::time::timeout_at(end, relay.drained()).await.is_err() {
        tracing::warn!("drain_timeout passed: some publishes were not confirmed; their deliveries got no 2xx");
    }
    if let Some(drainer) = drainer {
        drainer.end(end).await;
    }
    if tokio::time::timeout_at(end + CLOSE_WITHIN, bus.close()).await.is_err() {
        tracing::warn!("the bus did not close in time");
    }
}

/// What the listeners prove themselves with; `None` is plain HTTP.
pub(super) struct Tls {
    deliveries: Option<Certificates>,
    /// Of the embedded log.
    reader: Option<Certificates>,
}

impl Tls {
    pub(super) fn load(config: &Config) -> Result<Self, CertificateError> {
        let load = |section, pair: &Option<_>| pair.as_ref().map(|pair| Certificates::load(section, pair)).transpose();
        let reader = match &config.bus {
            config::Bus::Embedded(embedded) => load("embedded", &embedded.tls)?,
            config::Bus::Kafka(_) | config::Bus::Nats(_) => None,
        };
        Ok(Self { deliveries: load("server", &config.server.tls)?, reader })
    }

    fn all(&self) -> Vec<Certificates> {
        self.deliveries.iter().chain(&self.reader).cloned().collect()
    }
}

struct Ports {
    deliveries: TcpListener,
    admin: TcpListener,
    /// Of the embedded log.
    reader: Option<TcpListener>,
}

impl Ports {
    fn bind(config: &Config) -> Result<Self, StartError> {
        let reader = match &config.bus {
            config::Bus::Embedded(embedded) => Some(bind("embedded.listen", embedded.listen)?),
            config::Bus::Kafka(_) | config::Bus::Nats(_) => None,
        };
        Ok(Self {
            deliveries: bind("server.listen", config.server.listen)?,
            admin: bind("admin.listen", config.admin.listen)?,
            reader,
        })
    }
}

fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // What an earlier process left closing does not keep its successor from starting.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| StartError::Listen { key, address, source })
}

fn listen_remedy(kind: std::io::ErrorKind) -> &'static str {
    match kind {
        std::io::ErrorKind::AddrInUse => {
            "stop the program that listens there, perhaps another bridge, or take another port"
        }
        std::io::ErrorKind::AddrNotAvailable => "take an address that this machine has, or 0.0.0.0 for all of them",
        std::io::ErrorKind::PermissionDenied => "take a port from 1024 on, or allow CAP_NET_BIND_SERVICE",
        _ => "take another address or port",
    }
}

/// One line for each listener, and one with what this bus promises.
fn announce(config: &Config, ports: &Ports) {
    let address = |listener: &TcpListener| listener.local_addr().map_or_else(|_| "?".into(), |at| at.to_string());
    for endpoint in &config.endpoints {
        // Not its path: many an operator makes that one hard to guess.
        let listen = address(&ports.deliveries);
        tracing::info!(listen, endpoint = endpoint.name, "listening for deliveries");
    }
    tracing::info!(listen = address(&ports.admin), "listening for /livez, /readyz and /metrics");
    if let Some(reader) = &ports.reader {
        tracing::info!(listen = address(reader), "listening for readers of the embedded log at /topics");
    }
    if config.spool.is_some() {
        tracing::info!(
            "the spool is on: what the bus refuses for now is written to spool.dir, fsynced, and answered 200"
        );
    }
    let promise = match &config.bus {
        config::Bus::Embedded(_) => "a 2xx means: written to the embedded log and fsynced on this machine's disk",
        config::Bus::Kafka(_) => "a 2xx means: all in-sync replicas of the topic's partition have the event",
        config::Bus::Nats(_) => "a 2xx means: a quorum of the stream's replicas has the event",
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), promise, "started");
}

/// SIGHUP, which ends the process no more from now on.
///
/// # Errors
/// Where the system does not let it.
pub(super) fn hangup() -> Result<Signal, StartError> {
    signal(SignalKind::hangup()).map_err(StartError::Signals)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
