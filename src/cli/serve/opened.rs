//! Opens what deliveries use: spool, bus, relay, and the metrics of them all.

use std::sync::Arc;

use super::directories;
use super::error::StartError;
use crate::bus::embedded::Api;
use crate::bus::{self, Bus};
use crate::certificate::first_expiration_of_pem;
use crate::clock::Clock;
use crate::config::files::read_regular;
use crate::config::{self, Config};
use crate::dedupe::Dedupe;
use crate::fetch::Fetcher;
use crate::metrics::{Metrics, ReaderGauges, Reading, Readings};
use crate::payload::Budget;
use crate::relay::{Relay, Stages};
use crate::reply::Outcome;
use crate::route::RouteTable;
use crate::server::Certificates;
use crate::spool::Spool;
use crate::telemetry::Telemetry;
use crate::telemetry::traces::Tracing;

/// Bytes of a file: far more than any chain needs.
const LARGEST_CERTIFICATE: u64 = 4 << 20;

/// Everything that is opened before the ports.
pub(super) struct Opened {
    pub(super) relay: Relay,
    pub(super) bus: Arc<dyn Bus>,
    /// Of the embedded log.
    pub(super) api: Option<Api>,
    pub(super) spool: Option<Spool>,
    pub(super) dedupe: Dedupe<Outcome>,
    pub(super) metrics: Metrics,
    pub(super) tracing: Option<Tracing>,
}

impl Opened {
    pub(super) fn open(
        config: &Config,
        routes: &Arc<RouteTable>,
        telemetry: &Telemetry,
        served: Vec<Certificates>,
    ) -> Result<Self, StartError> {
        let fetcher = config.s3.as_ref().map(Fetcher::new).transpose()?;
        let dedupe = Dedupe::new(config.dedupe.window, config.dedupe.entries, Clock::system());
        let open_spool =
            |spool| Spool::open(spool, config.dedupe.entries, Clock::system(), |entry| dedupe.restore(&entry));
        let spool = config.spool.as_ref().map(open_spool).transpose()?;
        if let Some(exposed) = bus::adapters::exposed_login(&config.bus) {
            tracing::warn!(remedy = exposed.remedy, "`{}` {}", exposed.about, exposed.says);
        }
        if let Some(packages) = bus::adapters::needed_packages(&config.bus) {
            tracing::info!("`{}` {}", packages.about, packages.says);
        }
        let bus::adapters::Opened { bus, api } = bus::adapters::open(&config.bus, setup(config, routes))?;
        if let Some(api) = &api {
            api.kept(config.dedupe.entries, |entry| dedupe.restore(&entry))?;
        }
        let budget = Budget::new(config.server.bytes_in_flight);
        let metrics = Metrics::new(Readings {
            readers: reading(api.clone()),
            directories: directories::reading(config, api.clone(), spool.clone()),
            certificates: certificates(config, served),
            ..readings(&budget, telemetry, &dedupe, spool.clone())
        });
        let start = |otlp| Tracing::start(otlp, messaging_system(&config.bus));
        let tracing = config.otlp.as_ref().map(start).transpose()?;
        let stages = Stages {
            routes: routes.clone(),
            fetcher,
            dedupe: dedupe.clone(),
            bus: bus.clone(),
            spool: spool.clone(),
            budget,
            metrics: metrics.clone(),
            tracing: tracing.clone(),
        };
        Ok(Self { relay: Relay::new(config, stages), bus, api, spool, dedupe, metrics, tracing })
    }
}

/// OpenTelemetry's name, where it has one.
fn messaging_system(bus: &config::Bus) -> &'static str {
    match bus {
        config::Bus::Kafka(_) => "kafka",
        config::Bus::Nats(_) => "nats",
        config::Bus::Embedded(_) => "terra_bridge",
    }
}

/// What the bus needs to know of the configuration.
pub(in crate::cli) fn setup(config: &Config, routes: &RouteTable) -> bus::Setup {
    bus::Setup {
        topics: routes.topics(),
        publish_timeout: config.bus_timeout(),
        max_body: config.server.max_body,
        bytes_in_flight: config.server.bytes_in_flight,
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

fn reading(api: Option<Api>) -> Reading<Option<ReaderGauges>> {
    Box::new(move || api.as_ref().map(Api::readers))
}

/// Of the listeners' certificates as they are now, and of the one that the bus knows the bridge by as it was at the
/// start.
fn certificates(config: &Config, served: Vec<Certificates>) -> Reading<Vec<(&'static str, i64)>> {
    let (section, tls_to_bus) = match &config.bus {
        config::Bus::Kafka(kafka) => ("kafka", Some(&kafka.tls)),
        config::Bus::Nats(nats) => ("nats", Some(&nats.tls)),
        config::Bus::Embedded(_) => ("embedded", None),
    };
    let file = tls_to_bus.and_then(|tls| tls.certificate.as_deref());
    let pem = file.and_then(|file| read_regular(file, LARGEST_CERTIFICATE).ok());
    let of_client = pem.and_then(|pem| Some((section, first_expiration_of_pem(&pem)?)));
    Box::new(move || served.iter().filter_map(Certificates::expiration).chain(of_client).collect())
}
