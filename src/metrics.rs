//! Counts and measures, in Prometheus' terms. No label takes a value that a sender chooses, apart from known event
//! types.
//!
//! Names here omit the prefix `terra_bridge_` and the suffixes `_total` and `_seconds`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};

use crate::route::Topic;

/// Bucket bounds in seconds: from a local acknowledgement to the deadline.
const TIMES: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 7.5];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeliveryLabels {
    endpoint: Arc<str>,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectionLabels {
    endpoint: Arc<str>,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FetchLabels {
    endpoint: Arc<str>,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    endpoint: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionLabels {
    listener: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PublishLabels {
    topic: Arc<str>,
    result: &'static str,
}

/// All metrics of the process. Cloning shares them.
#[derive(Clone)]
pub struct Metrics {
    deliveries: Family<DeliveryLabels, Counter>,
    rejections: Family<RejectionLabels, Counter>,
    published: Family<PublishLabels, Counter>,
    fetched: Family<FetchLabels, Counter>,
    dedupe_hits: Counter,
    unknown_paths: Counter,
    ordering_timestamps_ignored: Family<EndpointLabels, Counter>,
    connection_errors: Family<ConnectionLabels, Counter>,
    whole: Family<EndpointLabels, Histogram, fn() -> Histogram>,
    publish: Histogram,
    pub(crate) connections: Arc<AtomicI64>,
    pub(crate) publishes: Arc<AtomicI64>,
    bus_up: Gauge,
    registry: Arc<Registry>,
}

/// Gauges that are read only when Prometheus scrapes.
pub struct Readings {
    pub bytes_in_flight: Box<dyn Fn() -> usize + Send + Sync>,
    pub log_lines_dropped: Box<dyn Fn() -> usize + Send + Sync>,
    pub dedupe: Box<dyn Fn() -> DedupeGauges + Send + Sync>,
    /// `None`: there is no spool.
    pub spool: Box<dyn Fn() -> Option<SpoolGauges> + Send + Sync>,
    /// `None`: the bus is not the embedded log.
    pub readers: Box<dyn Fn() -> Option<ReaderGauges> + Send + Sync>,
}

/// How many deliveries deduplication remembers, and how many it evicted early.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DedupeGauges {
    pub entries: usize,
    pub evictions: u64,
}

/// The current content of a spool.
#[derive(Debug, Clone, Copy, Default)]
pub struct SpoolGauges {
    pub messages: u64,
    pub bytes: u64,
    /// The age of the oldest message.
    pub oldest: Duration,
    pub set_aside: u64,
    /// Messages sent to the bus or set aside since the start.
    pub drained: u64,
}

/// The current memory of the embedded log's readers, and how many were refused.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReaderGauges {
    pub bytes: usize,
    pub refused: u64,
}

/// For an idle bridge without a spool.
impl Default for Readings {
    fn default() -> Self {
        Self {
            bytes_in_flight: Box::new(|| 0),
            log_lines_dropped: Box::new(|| 0),
            dedupe: Box::new(DedupeGauges::default),
            spool: Box::new(|| None),
            readers: Box::new(|| None),
        }
    }
}

impl Metrics {
    pub fn new(readings: Readings) -> Self {
        let mut registry = Registry::with_prefix("terra_bridge");
        let (connections, publishes) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
        let gauges = Gauges { connections: connections.clone(), publishes: publishes.clone(), readings };
        let new = &mut registry;
        let metrics = Self {
            deliveries: register(new, "deliveries", "Requests to an endpoint, by how they ended", Family::default()),
            rejections: register(
                new,
                "rejections",
                "Requests without a valid signature, or from an address that is not allowed, by reason",
                Family::default(),
            ),
            published: register(new, "published", "Messages handed to the bus, by topic and result", Family::default()),
            fetched: register(new, "fetches", "Links of Terra's that were fetched, by result", Family::default()),
            dedupe_hits: register(
                new,
                "dedupe_hits",
                "Duplicate deliveries: kept before, or in flight on another connection",
                Counter::default(),
            ),
            unknown_paths: register(
                new,
                "unknown_paths",
                "Requests to a path that no endpoint has",
                Counter::default(),
            ),
            ordering_timestamps_ignored: register(
                new,
                "ordering_timestamps_ignored",
                "Signed deliveries whose ordering timestamp cannot be Terra's",
                Family::default(),
            ),
            connection_errors: register(
                new,
                "connection_errors",
                "Connections without a request, closed early or made to wait, by listener and reason",
                Family::default(),
            ),
            whole: register_seconds(
                new,
                "delivery",
                "From the first byte of a request to its answer",
                Family::new_with_constructor((|| Histogram::new(TIMES)) as fn() -> Histogram),
            ),
            publish: register_seconds(
                new,
                "publish",
                "From a message's publish to the bus's answer",
                Histogram::new(TIMES),
            ),
            bus_up: register(new, "bus_up", "1 while the bus is reached", Gauge::default()),
            connections,
            publishes,
            registry: Arc::default(),
        };
        registry.register_collector(Box::new(gauges));
        Self { registry: Arc::new(registry), ..metrics }
    }

    /// One request to `endpoint` ended.
    pub fn ended(&self, endpoint: &Arc<str>, outcome: &'static str, took: Duration) {
        self.deliveries.get_or_create(&DeliveryLabels { endpoint: endpoint.clone(), outcome }).inc();
        self.whole.get_or_create(&EndpointLabels { endpoint: endpoint.clone() }).observe(took.as_secs_f64());
    }

    pub fn rejected(&self, endpoint: &Arc<str>, reason: &'static str) {
        self.rejections.get_or_create(&RejectionLabels { endpoint: endpoint.clone(), reason }).inc();
    }

    /// The bus answered, or the publish timed out.
    pub fn published(&self, topic: &Topic, result: &'static str, took: Duration) {
        self.published.get_or_create(&PublishLabels { topic: topic.name().clone(), result }).inc();
        self.publish.observe(took.as_secs_f64());
    }

    /// A link was fetched, or the fetch failed.
    pub fn fetched(&self, endpoint: &Arc<str>, result: &'static str) {
        self.fetched.get_or_create(&FetchLabels { endpoint: endpoint.clone(), result }).inc();
    }

    /// The delivery was already kept, or another attempt at it is in flight.
    pub fn dedupe_hit(&self) {
        self.dedupe_hits.inc();
    }

    /// A request to an unknown path.
    pub fn unknown_path(&self) {
        self.unknown_paths.inc();
    }

    /// A delivery was kept without its ordering timestamp.
    pub fn ordering_timestamp_ignored(&self, endpoint: &Arc<str>) {
        self.ordering_timestamps_ignored.get_or_create(&EndpointLabels { endpoint: endpoint.clone() }).inc();
    }

    /// A connection to `listener` failed.
    pub fn connection_error(&self, listener: &'static str, reason: &'static str) {
        self.connection_errors.get_or_create(&ConnectionLabels { listener, reason }).inc();
    }

    pub fn bus(&self, up: bool) {
        self.bus_up.set(i64::from(up));
    }

    /// The text that Prometheus scrapes, in the OpenMetrics format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("a String takes any text");
        text
    }
}

fn register<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn register_seconds<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register_with_unit(name, help, Unit::Seconds, metric.clone());
    metric
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

struct Gauges {
    connections: Arc<AtomicI64>,
    publishes: Arc<AtomicI64>,
    readings: Readings,
}

impl std::fmt::Debug for Gauges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gauges")
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let dedupe = (self.readings.dedupe)();
        let mut gauges = vec![
            ("connections", "Open connections on server.listen", self.connections.load(Relaxed)),
            ("publishes_in_flight", "Messages that the bus has not answered yet", self.publishes.load(Relaxed)),
            (
                "bytes_in_flight",
                "Bytes that bodies take of server.bytes_in_flight",
                gauge((self.readings.bytes_in_flight)()),
            ),
            ("dedupe_entries", "Kept deliveries that are remembered", gauge(dedupe.entries)),
        ];
        let dropped = (self.readings.log_lines_dropped)() as u64;
        let mut counters = vec![
            ("log_lines_dropped", "Log lines dropped because their reader was too slow", dropped),
            ("dedupe_evictions", "Kept deliveries forgotten early: more than dedupe.entries", dedupe.evictions),
        ];
        if let Some(spool) = (self.readings.spool)() {
            gauges.extend([
                ("spool_messages", "Messages in the spool", gauge(spool.messages)),
                ("spool_bytes", "Bytes of the spool on disk, with what is set aside", gauge(spool.bytes)),
                ("spool_oldest_seconds", "Age of the oldest message in the spool", gauge(spool.oldest.as_secs())),
                ("spool_set_aside", "Messages that the bus refused permanently", gauge(spool.set_aside)),
            ]);
            counters.push(("spool_drained", "Messages sent from the spool to the bus, or set aside", spool.drained));
        }
        if let Some(readers) = (self.readings.readers)() {
            let help = "Bytes of events held for readers of the embedded log";
            gauges.push(("reader_bytes", help, gauge(readers.bytes)));
            let help = "Reads of the embedded log that were refused: readers held all their memory";
            counters.push(("readers_refused", help, readers.refused));
        }
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

fn gauge(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}
