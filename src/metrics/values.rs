//! What is counted and measured while the bridge runs. Whatever is not here is read at the scrape.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};

use strum::{IntoStaticStr, VariantNames};

use super::counts::Counts;
use super::endpoint::{EndpointMetrics, TIMES};
use super::histogram::Histogram;
use super::named::Named;
use super::time::LastTime;

/// How a reload ended. Names the `result` label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum Reloaded {
    Applied,
    /// The new configuration has a mistake.
    Refused,
    TimedOut,
}

pub(super) struct Values {
    pub(super) endpoints: Named<EndpointMetrics>,
    pub(super) topics: Named<Counts>,
    pub(super) listeners: Named<Counts>,
    pub(super) publish: Histogram,
    pub(super) dedupe_hits: AtomicU64,
    pub(super) unknown_paths: AtomicU64,
    pub(super) connections: Arc<AtomicI64>,
    pub(super) publishes: Arc<AtomicI64>,
    pub(super) bus_up: AtomicBool,
    /// When that last changed; the start counts.
    pub(super) bus_changed: LastTime,
    pub(super) reloads: Counts,
    pub(super) last_reload_successful: AtomicBool,
    pub(super) last_reload_success: LastTime,
}

impl Values {
    /// Starting is the first successful reading of the configuration.
    pub(super) fn new() -> Self {
        Self {
            endpoints: Named::default(),
            topics: Named::default(),
            listeners: Named::default(),
            publish: Histogram::new(&TIMES),
            dedupe_hits: AtomicU64::new(0),
            unknown_paths: AtomicU64::new(0),
            connections: Arc::default(),
            publishes: Arc::default(),
            bus_up: AtomicBool::new(false),
            bus_changed: LastTime::now(),
            reloads: Counts::new(Reloaded::VARIANTS),
            last_reload_successful: AtomicBool::new(true),
            last_reload_success: LastTime::now(),
        }
    }
}
