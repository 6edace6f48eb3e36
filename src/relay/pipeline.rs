//! What every delivery uses, built from one configuration: endpoints, routes, limits and the stages themselves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::deliver::Destination;
use super::signature_log::SignatureLog;
use crate::bus::Bus;
use crate::config::{self, Config, Endpoint};
use crate::dedupe::Dedupe;
use crate::fetch::Fetcher;
use crate::metrics::Metrics;
use crate::payload::Budget;
use crate::reply::Outcome;
use crate::route::RouteTable;
use crate::server::BodyLimits;
use crate::spool::Spool;

/// The time that must be left for the bus when the body is complete; a later body is too slow.
const LEAST_FOR_THE_BUS: Duration = Duration::from_secs(1);

/// The parts of a relay.
pub struct Stages {
    pub routes: Arc<RouteTable>,
    /// `None`: a link is published like any other event.
    pub fetcher: Option<Fetcher>,
    pub dedupe: Dedupe<Outcome>,
    pub bus: Arc<dyn Bus>,
    pub spool: Option<Spool>,
    pub budget: Budget,
    pub metrics: Metrics,
}

/// Cloning shares everything except what comes from the configuration alone.
#[derive(Clone)]
pub(super) struct Pipeline {
    endpoints: Endpoints,
    pub(super) routes: Arc<RouteTable>,
    pub(super) fetcher: Option<Fetcher>,
    pub(super) dedupe: Dedupe<Outcome>,
    pub(super) destination: Destination,
    pub(super) budget: Budget,
    pub(super) limits: config::Server,
    pub(super) metrics: Metrics,
    /// Authenticated deliveries that have no outcome yet.
    pub(super) deliveries: TaskTracker,
}

/// By path, without a trailing slash.
type Endpoints = HashMap<String, ActiveEndpoint>;

/// A path that accepts deliveries.
#[derive(Clone)]
pub(super) struct ActiveEndpoint {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) signatures: Arc<SignatureLog>,
}

impl Pipeline {
    pub(super) fn new(config: &Config, stages: Stages) -> Self {
        let Stages { routes, fetcher, dedupe, bus, spool, budget, metrics } = stages;
        let spool_time = config.server.publish_timeout - config.bus_timeout();
        Self {
            endpoints: by_path(&config.endpoints, &Endpoints::new()),
            routes,
            fetcher,
            dedupe,
            destination: Destination { bus, spool, spool_time, metrics: metrics.clone() },
            budget,
            limits: config.server.clone(),
            metrics,
            deliveries: TaskTracker::new(),
        }
    }

    /// The same stages with the endpoints, routes and limits of another configuration.
    pub(super) fn reloaded(&self, config: &Config, routes: Arc<RouteTable>) -> Self {
        let endpoints = by_path(&config.endpoints, &self.endpoints);
        Self { endpoints, routes, limits: config.server.clone(), ..self.clone() }
    }

    pub(super) fn endpoint(&self, path: &str) -> Option<&ActiveEndpoint> {
        self.endpoints.get(canonical(path))
    }

    /// The limits of a body, which leave the bus and the spool their minimum time before `deadline`.
    pub(super) fn body_limits(&self, deadline: Instant) -> BodyLimits {
        let reserved = LEAST_FOR_THE_BUS + self.destination.spool_time;
        let deadline = deadline - reserved.min(self.limits.deadline);
        BodyLimits { max: self.limits.max_body, min_rate: self.limits.min_body_rate, deadline }
    }

    /// When to stop waiting for the bus, if the message is published now.
    pub(super) fn publish_deadline(&self, deadline: Instant) -> Instant {
        deadline.min(Instant::now() + self.limits.publish_timeout)
    }
}

/// An endpoint with unchanged secrets keeps its signature log.
fn by_path(endpoints: &[Endpoint], before: &Endpoints) -> Endpoints {
    let same = |one: &Endpoint, other: &Endpoint| one.name == other.name && one.secrets == other.secrets;
    let active = |endpoint: &Endpoint| {
        let known = before.values().find(|known| same(&known.endpoint, endpoint));
        let signatures = known.map(|known| known.signatures.clone()).unwrap_or_default();
        (canonical(&endpoint.path).to_owned(), ActiveEndpoint { endpoint: Arc::new(endpoint.clone()), signatures })
    };
    endpoints.iter().map(active).collect()
}

/// A proxy between a sender and the bridge may add or remove a trailing slash.
fn canonical(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}
