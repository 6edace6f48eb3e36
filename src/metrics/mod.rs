//! Counts and measures, in Prometheus' terms. No label takes a value that a sender chooses: labels are bounded by the
//! configuration, and every series is there from the start.
//!
//! `values` is what is counted: `endpoint` by a delivery, `counts` by the words of a label, `named` where a reload can
//! change it, `time` when something last happened, `histogram` how long it took. `readings` is what others tell at the
//! scrape, `process` what the system tells. `scrape` names everything, and `text` writes it. `sample` is for the status
//! page.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::registry::Registry;

use crate::route::Topic;
use process::Process;
use scrape::Scrape;
use values::Values;

mod counts;
mod endpoint;
mod histogram;
mod named;
mod process;
mod readings;
mod sample;
mod scrape;
mod text;
mod time;
mod values;

pub use counts::Counts;
pub use endpoint::{EndpointMetrics, EndpointWords, SecretCounts};
pub use histogram::Distribution;
pub use readings::{DedupeGauges, DirectoryGauges, ReaderGauges, Reading, Readings, SpoolGauges};
pub use sample::{EndpointSample, Sample};
pub use values::Reloaded;

/// All metrics of the process. Cloning shares them.
#[derive(Clone)]
pub struct Metrics {
    values: Arc<Values>,
    readings: Arc<Readings>,
    registry: Arc<Registry>,
}

impl Metrics {
    pub fn new(readings: Readings) -> Self {
        let (mut registry, values, readings) = (Registry::default(), Arc::new(Values::new()), Arc::new(readings));
        let scrape = Scrape { values: values.clone(), readings: readings.clone() };
        registry.sub_registry_with_prefix("terra_bridge").register_collector(Box::new(scrape));
        registry.register_collector(Box::new(Process::default()));
        Self { values, readings, registry: Arc::new(registry) }
    }

    /// The metrics of this endpoint, which begin at 0 with these words.
    pub fn endpoint(&self, name: &Arc<str>, words: &EndpointWords) -> Arc<EndpointMetrics> {
        self.values.endpoints.get(name, || EndpointMetrics::new(words))
    }

    /// The results of publishing to this topic, which begin at 0.
    pub fn topic(&self, topic: &Topic, results: &[&'static str]) -> Arc<Counts> {
        self.values.topics.get(topic.name(), || Counts::new(results))
    }

    /// The errors of this listener's connections, which begin at 0.
    pub fn listener(&self, name: &'static str, reasons: &[&'static str]) -> Arc<Counts> {
        self.values.listeners.get(&name.into(), || Counts::new(reasons))
    }

    /// Forgets what a reload removed: a series that can only stand still would trip alerts for good.
    pub fn retain(&self, endpoint: impl Fn(&str) -> bool, topic: impl Fn(&str) -> bool) {
        self.values.endpoints.retain(endpoint);
        self.values.topics.retain(topic);
    }

    /// The bus answered in this time, or the publish timed out.
    pub fn published(&self, took: Duration) {
        self.values.publish.observe(took);
    }

    /// The delivery was already kept, or another attempt at it is in flight.
    pub fn dedupe_hit(&self) {
        self.values.dedupe_hits.fetch_add(1, Relaxed);
    }

    /// A request to an unknown path.
    pub fn unknown_path(&self) {
        self.values.unknown_paths.fetch_add(1, Relaxed);
    }

    pub fn bus(&self, up: bool) {
        if self.values.bus_up.swap(up, Relaxed) != up {
            self.values.bus_changed.set_to_now();
        }
    }

    pub fn reloaded(&self, result: Reloaded) {
        self.values.reloads.add(result.into());
        self.values.last_reload_successful.store(result == Reloaded::Applied, Relaxed);
        if result == Reloaded::Applied {
            self.values.last_reload_success.set_to_now();
        }
    }

    /// The open connections of the listener for deliveries.
    pub(crate) fn connections(&self) -> &Arc<AtomicI64> {
        &self.values.connections
    }

    /// The messages that the bus has not answered.
    pub(crate) fn publishes(&self) -> &Arc<AtomicI64> {
        &self.values.publishes
    }

    /// What is counted and measured now.
    pub fn sample(&self) -> Sample {
        Sample::of(&self.values)
    }

    pub fn readings(&self) -> &Readings {
        &self.readings
    }

    /// The text that Prometheus scrapes, in the OpenMetrics format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("a String takes any text");
        text
    }
}

/// Increments a gauge for as long as it exists.
pub(crate) struct CountedAlive(Arc<AtomicI64>);

impl CountedAlive {
    pub(crate) fn new(gauge: &Arc<AtomicI64>) -> Self {
        gauge.fetch_add(1, Relaxed);
        Self(gauge.clone())
    }
}

impl Drop for CountedAlive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
