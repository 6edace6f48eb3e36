//! What every delivery uses, built from one configuration: endpoints, routes, limits and the stages themselves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use strum::VariantNames;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::deliver::{Destination, results};
use super::signature_log::SignatureLog;
use crate::bus::Bus;
use crate::config::{self, Access, Config, Endpoint};
use crate::dedupe::Dedupe;
use crate::fetch::{FetchError, Fetcher};
use crate::metrics::{EndpointMetrics, EndpointWords, Metrics, SecretCounts};
use crate::payload::Budget;
use crate::reply::Outcome;
use crate::route::RouteTable;
use crate::server::BodyLimits;
use crate::signature::Rejection;
use crate::spool::Spool;
use crate::telemetry::traces::Tracing;

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
    /// `None`: no spans.
    pub tracing: Option<Tracing>,
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
    pub(super) access: Access,
    pub(super) metrics: Metrics,
    pub(super) tracing: Option<Tracing>,
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
    pub(super) metrics: Arc<EndpointMetrics>,
    /// How many deliveries each of its secrets signed.
    pub(super) secrets: SecretCounts,
}

impl Pipeline {
    pub(super) fn new(config: &Config, stages: Stages) -> Self {
        let Stages { routes, fetcher, dedupe, bus, spool, budget, metrics, tracing } = stages;
        let spool_time = config.server.publish_timeout - config.bus_timeout();
        let words = words(fetcher.is_some());
        Self {
            endpoints: by_path(&config.endpoints, &Endpoints::new(), |name| metrics.endpoint(name, &words)),
            fetcher,
            dedupe,
            destination: Destination {
                bus,
                spool,
                spool_time,
                metrics: metrics.clone(),
                results: results(&metrics, &routes),
            },
            routes,
            budget,
            limits: config.server.clone(),
            access: config.log.access,
            metrics,
            tracing,
            deliveries: TaskTracker::new(),
        }
    }

    /// The same stages with the endpoints, routes and limits of another configuration.
    pub(super) fn reloaded(&self, config: &Config, routes: Arc<RouteTable>) -> Self {
        let words = words(self.fetcher.is_some());
        let endpoints = by_path(&config.endpoints, &self.endpoints, |name| self.metrics.endpoint(name, &words));
        let results = results(&self.metrics, &routes);
        let stays = |name: &str| config.endpoints.iter().any(|endpoint| &*endpoint.name == name);
        self.metrics.retain(stays, |topic| results.keys().any(|known| &**known == topic));
        let destination = Destination { results, ..self.destination.clone() };
        let (limits, access) = (config.server.clone(), config.log.access);
        Self { endpoints, routes, destination, limits, access, ..self.clone() }
    }

    pub(super) fn endpoint(&self, path: &str) -> Option<&ActiveEndpoint> {
        self.endpoints.get(canonical(path))
    }

    /// The endpoint of a delivery.
    pub(super) fn of(&self, endpoint: &Endpoint) -> &ActiveEndpoint {
        self.endpoint(&endpoint.path).expect("a delivery keeps the pipeline that it started with")
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

/// An endpoint with unchanged secrets keeps its signature log, and what it counts of them.
fn by_path(
    endpoints: &[Endpoint],
    before: &Endpoints,
    metrics: impl Fn(&Arc<str>) -> Arc<EndpointMetrics>,
) -> Endpoints {
    let same = |one: &Endpoint, other: &Endpoint| one.name == other.name && one.secrets == other.secrets;
    let active = |endpoint: &Endpoint| {
        let known = before.values().find(|known| same(&known.endpoint, endpoint));
        let signatures = known.map(|known| known.signatures.clone()).unwrap_or_default();
        let metrics = metrics(&endpoint.name);
        let secrets =
            known.map_or_else(|| metrics.count_secrets(endpoint.secrets.len()), |known| known.secrets.clone());
        let active = ActiveEndpoint { endpoint: Arc::new(endpoint.clone()), signatures, metrics, secrets };
        (canonical(&endpoint.path).to_owned(), active)
    };
    endpoints.iter().map(active).collect()
}

/// The words that an endpoint's metrics can have.
fn words(follows_links: bool) -> EndpointWords {
    // A request to an unknown path is none to an endpoint.
    let unknown_path: &str = Outcome::UnknownPath.as_str();
    let outcomes = Outcome::VARIANTS.iter().copied().filter(|outcome| *outcome != unknown_path).collect();
    let fetches = if follows_links { [&["fetched"], FetchError::VARIANTS].concat() } else { Vec::new() };
    EndpointWords { outcomes, rejections: Rejection::VARIANTS, fetches }
}

/// A proxy between a sender and the bridge may add or remove a trailing slash.
fn canonical(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}
