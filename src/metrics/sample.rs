//! What is counted and measured at one moment, as values.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::histogram::Distribution;
use super::values::Values;

#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Sorted by name.
    pub endpoints: Vec<EndpointSample>,
    pub publish: Distribution,
    pub publishes_in_flight: i64,
    pub connections: i64,
    pub unknown_paths: u64,
    /// Unix seconds: when the bus was last reached or lost; the start counts.
    pub bus_changed: f64,
    pub last_reload_successful: bool,
    /// Unix seconds; the start counts.
    pub last_reload_success: f64,
}

#[derive(Debug, Clone)]
pub struct EndpointSample {
    pub name: Arc<str>,
    /// Every outcome that a request can have, and how often it had it.
    pub outcomes: Vec<(&'static str, u64)>,
    /// The same of the reasons behind `rejected`.
    pub rejections: Vec<(&'static str, u64)>,
    /// From the first byte of a request to its answer.
    pub times: Distribution,
    /// Unix seconds; 0 if nothing was kept since the start.
    pub last_kept: f64,
}

impl Sample {
    pub(super) fn of(values: &Values) -> Self {
        let endpoints = values.endpoints.all().into_iter().map(|(name, one)| EndpointSample {
            name,
            outcomes: one.outcomes.all().collect(),
            rejections: one.rejections.all().collect(),
            times: one.whole.read(),
            last_kept: one.last_kept.seconds(),
        });
        Self {
            endpoints: endpoints.collect(),
            publish: values.publish.read(),
            publishes_in_flight: values.publishes.load(Relaxed),
            connections: values.connections.load(Relaxed),
            unknown_paths: values.unknown_paths.load(Relaxed),
            bus_changed: values.bus_changed.seconds(),
            last_reload_successful: values.last_reload_successful.load(Relaxed),
            last_reload_success: values.last_reload_success.seconds(),
        }
    }
}
