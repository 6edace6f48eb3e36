//! Opens what deliveries use: spool, bus, relay, and the metrics of them all.

use std::sync::Arc;

use super::error::StartError;
use crate::bus::embedded::Api;
use crate::bus::{self, Bus};
use crate::clock::Clock;
use crate::config::Config;
use crate::dedupe::Dedupe;
use crate::fetch::Fetcher;
use crate::metrics::{Metrics, ReaderGauges, Readings};
use crate::payload::Budget;
use crate::relay::{Relay, Stages};
use crate::reply::Outcome;
use crate::route::RouteTable;
use crate::spool::Spool;
use crate::telemetry::Telemetry;

/// Everything that is opened before the ports.
pub(super) struct Opened {
    pub(super) relay: Relay,
    pub(super) bus: Arc<dyn Bus>,
    /// Of the embedded log.
    pub(super) api: Option<Api>,
    pub(super) spool: Option<Spool>,
    pub(super) metrics: Metrics,
}

impl Opened {
    pub(super) fn open(config: &Config, routes: &Arc<RouteTable>, telemetry: &Telemetry) -> Result<Self, StartError> {
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
            ..readings(&budget, telemetry, &dedupe, spool.clone())
        });
        let stages = Stages {
            routes: routes.clone(),
            fetcher,
            dedupe,
            bus: bus.clone(),
            spool: spool.clone(),
            budget,
            metrics: metrics.clone(),
        };
        Ok(Self { relay: Relay::new(config, stages), bus, api, spool, metrics })
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

fn reading(api: Option<Api>) -> Box<dyn Fn() -> Option<ReaderGauges> + Send + Sync> {
    Box::new(move || api.as_ref().map(Api::readers))
}
