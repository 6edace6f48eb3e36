//! The listeners: their certificates, ports, connection limits, and the tasks that serve them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::error::StartError;
use super::opened::Opened;
use crate::admin::Admin;
use crate::config::{self, Config};
use crate::server::descriptors::{self, Shares};
use crate::server::{self, CertificateError, Certificates, ConnectionLog, Limits};

/// The accept backlog: the default of Linux (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// The certificates of the listeners; `None` is plain HTTP.
pub(in crate::cli) struct Tls {
    deliveries: Option<Certificates>,
    /// Of the embedded log.
    reader: Option<Certificates>,
}

impl Tls {
    pub(in crate::cli) fn load(config: &Config) -> Result<Self, CertificateError> {
        let load = |section, pair: &Option<_>| pair.as_ref().map(|pair| Certificates::load(section, pair)).transpose();
        let reader = match &config.bus {
            config::Bus::Embedded(embedded) => load("embedded", &embedded.tls)?,
            config::Bus::Kafka(_) | config::Bus::Nats(_) => None,
        };
        Ok(Self { deliveries: load("server", &config.server.tls)?, reader })
    }

    pub(super) fn all(&self) -> Vec<Certificates> {
        self.deliveries.iter().chain(&self.reader).cloned().collect()
    }
}

pub(super) struct Ports {
    deliveries: TcpListener,
    admin: TcpListener,
    /// Of the embedded log.
    reader: Option<TcpListener>,
}

impl Ports {
    pub(super) fn bind(config: &Config) -> Result<Self, StartError> {
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

    /// Where the admin listener really listens: its port may be any free one.
    pub(super) fn admin(&self, config: &config::Admin) -> config::Admin {
        let listen = self.admin.local_addr().unwrap_or(config.listen);
        config::Admin { listen, ..config.clone() }
    }
}

fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Connections that an earlier process left in TIME_WAIT do not prevent a restart.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| StartError::Listen { key, address, source })
}

/// Running listeners.
pub(super) struct Serving {
    pub(super) deliveries: JoinHandle<usize>,
    admin: JoinHandle<usize>,
    stop_admin: CancellationToken,
    /// Of the embedded log.
    reader: Option<JoinHandle<usize>>,
}

impl Serving {
    /// Serves on all ports. `stop` ends them, except the admin listener, which answers until the end.
    pub(super) fn start(
        config: &Config,
        ports: Ports,
        tls: &Tls,
        opened: &Opened,
        admin: Admin,
        stop: &CancellationToken,
    ) -> Self {
        let (shares, stop_admin) = (shares(config.server.max_connections), CancellationToken::new());
        let log = |section, open| ConnectionLog::new(section, &opened.metrics, open);
        let internal = || Limits::internal(shares.internal);
        let of_admin = log("admin", Arc::default());
        let admin = tokio::spawn(server::serve(ports.admin, None, internal(), admin, of_admin, stop_admin.clone()));
        let reader = ports.reader.zip(opened.api.clone()).map(|(listener, api)| {
            let log = log("embedded", Arc::default());
            tokio::spawn(server::serve(listener, tls.reader.clone(), internal(), api, log, stop.clone()))
        });
        let limits = Limits { max_connections: shares.deliveries, ..Limits::from(&config.server) };
        let (log, relay) = (log("server", opened.metrics.connections().clone()), opened.relay.clone());
        let deliveries = server::serve(ports.deliveries, tls.deliveries.clone(), limits, relay, log, stop.clone());
        for certificates in tls.all() {
            tokio::spawn(certificates.watch());
        }
        Self { deliveries: tokio::spawn(deliveries), admin, stop_admin, reader }
    }

    /// Ends the other listeners once the one for deliveries has ended.
    pub(super) async fn end(self) {
        self.stop_admin.cancel();
        let _ = self.admin.await;
        if let Some(reader) = self.reader {
            let _ = reader.await;
        }
    }
}

/// How many connections each listener may have. Raises the limit of open files as far as possible.
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

/// Logs one line for each listener, and one with the bus, where it is, and its guarantee. Neither addresses of brokers
/// nor NATS URLs may have a login in them.
pub(super) fn announce(config: &Config, file: Option<&Path>, ports: &Ports) {
    let address = |listener: &TcpListener| listener.local_addr().map_or_else(|_| "?".into(), |at| at.to_string());
    for endpoint in &config.endpoints {
        // Without the path: many operators make it hard to guess.
        let listen = address(&ports.deliveries);
        tracing::info!(listen, endpoint = &*endpoint.name, "listening for deliveries");
    }
    tracing::info!(
        listen = address(&ports.admin),
        "listening for /livez, /readyz, /metrics, /asyncapi, and browsers at /"
    );
    if let Some(reader) = &ports.reader {
        tracing::info!(listen = address(reader), "listening for readers of the embedded log at /topics");
    }
    if config.spool.is_some() {
        tracing::info!(
            "the spool is on: what the bus refuses for now is written to spool.dir, fsynced, and answered 200"
        );
    }
    let (bus, at, promise) = place(&config.bus);
    let file = file.map(|file| tracing::field::display(file.display()));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), file, bus, at, promise, "started");
}

/// The bus, where it is, and what its guarantee is.
fn place(bus: &config::Bus) -> (&'static str, String, &'static str) {
    match bus {
        config::Bus::Embedded(log) => (
            "embedded",
            log.dir.display().to_string(),
            "a 2xx means: written to the embedded log and fsynced on this machine's disk",
        ),
        config::Bus::Kafka(kafka) => (
            "kafka",
            kafka.brokers.join(", "),
            "a 2xx means: all in-sync replicas of the topic's partition have the event",
        ),
        config::Bus::Nats(nats) => {
            ("nats", nats.servers.join(", "), "a 2xx means: a quorum of the stream's replicas has the event")
        }
    }
}
