//! The bridge's own metrics: each one's name, help and series. Names here omit the prefix `terra_bridge_`, a unit at
//! their end, and `_total`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::counts::Counts;
use super::endpoint::EndpointMetrics;
use super::readings::{DirectoryGauges, Readings};
use super::text::{Labels, Text};
use super::values::Values;

pub(super) struct Scrape {
    pub(super) values: Arc<Values>,
    pub(super) readings: Arc<Readings>,
}

/// Endpoints, topics or listeners, by name.
type All<T> = Vec<(Arc<str>, Arc<T>)>;

const SECONDS: Option<Unit> = Some(Unit::Seconds);
const BYTES: Option<Unit> = Some(Unit::Bytes);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let text = &mut Text(encoder);
        let build = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        text.family("build_info", None, "Always 1; which version runs", [(build, ConstGauge::new(1u64))])?;
        deliveries(text, &self.values.endpoints.all())?;
        stages(text, &self.values.endpoints.all())?;
        self.bus(text)?;
        self.listeners(text)?;
        self.dedupe(text)?;
        self.spool(text)?;
        self.readers(text)?;
        directories(text, &(self.readings.directories)())?;
        self.operation(text)
    }
}

fn deliveries(text: &mut Text<'_>, all: &All<EndpointMetrics>) -> fmt::Result {
    let help = "Requests to an endpoint, by how they ended";
    text.family("deliveries", None, help, counted(all, "endpoint", "outcome", |one| &one.outcomes))?;
    let help = "Requests without a valid signature, or from an address that is not allowed, by reason";
    text.family("rejections", None, help, counted(all, "endpoint", "reason", |one| &one.rejections))?;
    let help = "Deliveries that were accepted, by the place of the secret that fitted in the endpoint's list, from 0";
    text.family("verifications", None, help, verifications(all))?;
    let help = "Links of Terra's that were fetched, by result";
    text.family("fetches", None, help, counted(all, "endpoint", "result", |one| &one.fetches))?;
    let help = "Signed deliveries whose ordering timestamp cannot be Terra's";
    let ignored = all.iter().map(|(name, one)| (of(name), count(&one.ordering_timestamps_ignored)));
    text.family("ordering_timestamps_ignored", None, help, ignored)?;
    let help = "When bus or spool last kept a delivery, in Unix time; 0 if never since the start";
    let kept = all.iter().map(|(name, one)| (of(name), ConstGauge::new(one.last_kept.seconds())));
    text.family("last_kept_timestamp", SECONDS, help, kept)
}

/// How long deliveries take; waiting for the bus is measured for all endpoints together.
fn stages(text: &mut Text<'_>, all: &All<EndpointMetrics>) -> fmt::Result {
    let help = "From the first byte of a request to its answer";
    text.family("delivery", SECONDS, help, all.iter().map(|(name, one)| (of(name), one.whole.read())))?;
    let help = "From the first byte of a request to the last of its body";
    text.family("receive", SECONDS, help, all.iter().map(|(name, one)| (of(name), one.receive.read())))?;
    let help = "Hashing a body and comparing its signature";
    text.family("verify", SECONDS, help, all.iter().map(|(name, one)| (of(name), one.verify.read())))
}

impl Scrape {
    fn bus(&self, text: &mut Text<'_>) -> fmt::Result {
        let values = &self.values;
        let help = "Messages handed to the bus, by topic and result";
        text.family("published", None, help, counted(&values.topics.all(), "topic", "result", |one| one))?;
        text.one("publish", SECONDS, "From a message's publish to the bus's answer", values.publish.read())?;
        let up = ConstGauge::new(u64::from(values.bus_up.load(Relaxed)));
        text.one("bus_up", None, "1 while the bus is reached", up)?;
        let publishes = ConstGauge::new(values.publishes.load(Relaxed));
        text.one("publishes_in_flight", None, "Messages that the bus has not answered yet", publishes)?;
        let taken = ConstGauge::new((self.readings.bytes_in_flight)());
        text.one("bytes_in_flight", None, "Bytes that bodies take of server.bytes_in_flight", taken)
    }

    fn listeners(&self, text: &mut Text<'_>) -> fmt::Result {
        let values = &self.values;
        let help = "Connections without a request, closed early or made to wait, by listener and reason";
        text.family(
            "connection_errors",
            None,
            help,
            counted(&values.listeners.all(), "listener", "reason", |one| one),
        )?;
        let connections = ConstGauge::new(values.connections.load(Relaxed));
        text.one("connections", None, "Open connections on server.listen", connections)?;
        text.one("unknown_paths", None, "Requests to a path that no endpoint has", count(&values.unknown_paths))
    }

    fn dedupe(&self, text: &mut Text<'_>) -> fmt::Result {
        let (hits, dedupe) = (count(&self.values.dedupe_hits), (self.readings.dedupe)());
        text.one("dedupe_hits", None, "Duplicate deliveries: kept before, or in flight on another connection", hits)?;
        text.one("dedupe_entries", None, "Kept deliveries that are remembered", ConstGauge::new(dedupe.entries))?;
        let evictions = ConstCounter::new(dedupe.evictions);
        text.one("dedupe_evictions", None, "Kept deliveries forgotten early: more than dedupe.entries", evictions)
    }

    fn spool(&self, text: &mut Text<'_>) -> fmt::Result {
        let Some(spool) = (self.readings.spool)() else { return Ok(()) };
        text.one("spool_messages", None, "Messages in the spool", ConstGauge::new(spool.messages))?;
        let oldest = ConstGauge::new(spool.oldest.as_secs());
        text.one("spool_oldest", SECONDS, "Age of the oldest message in the spool", oldest)?;
        let aside = ConstGauge::new(spool.set_aside);
        text.one("spool_set_aside", None, "Messages that the bus refused permanently", aside)?;
        let drained = ConstCounter::new(spool.drained);
        text.one("spool_drained", None, "Messages sent from the spool to the bus, or set aside", drained)
    }

    fn readers(&self, text: &mut Text<'_>) -> fmt::Result {
        let Some(readers) = (self.readings.readers)() else { return Ok(()) };
        let bytes = ConstGauge::new(readers.bytes);
        text.one("reader", BYTES, "Bytes of events held for readers of the embedded log", bytes)?;
        let help = "Reads of the embedded log that were refused: readers held all their memory";
        text.one("readers_refused", None, help, ConstCounter::new(readers.refused))
    }

    fn operation(&self, text: &mut Text<'_>) -> fmt::Result {
        let values = &self.values;
        let reloads = values.reloads.all().map(|(result, n)| (label("result", result), ConstCounter::new(n)));
        text.family("config_reloads", None, "Reloads of the configuration, by result", reloads)?;
        let successful = ConstGauge::new(u64::from(values.last_reload_successful.load(Relaxed)));
        text.one("config_last_reload_successful", None, "1 if the last reload was applied", successful)?;
        let help = "When a configuration was last applied, in Unix time; the start counts";
        let last = ConstGauge::new(values.last_reload_success.seconds());
        text.one("config_last_reload_success_timestamp", SECONDS, help, last)?;
        let help = "When a certificate in use expires, or one that vouches for it, in Unix time";
        let expires = (self.readings.certificates)().into_iter();
        let expires = expires.map(|(key, at)| (label("certificate", key), ConstGauge::new(at)));
        text.family("certificate_expiration_timestamp", SECONDS, help, expires)?;
        let dropped = ConstCounter::new((self.readings.log_lines_dropped)());
        text.one("log_lines_dropped", None, "Log lines dropped because their reader was too slow", dropped)
    }
}

fn directories(text: &mut Text<'_>, all: &[DirectoryGauges]) -> fmt::Result {
    let of = |value: fn(&DirectoryGauges) -> Option<u64>| {
        let series = |one: &DirectoryGauges| Some((label("directory", one.name), ConstGauge::new(value(one)?)));
        all.iter().filter_map(series).collect::<Vec<_>>()
    };
    text.family("directory", BYTES, "Bytes of the files of log or spool", of(|one| Some(one.bytes)))?;
    text.family("directory_limit", BYTES, "The most that these bytes may be", of(|one| Some(one.limit)))?;
    let help = "With less free space than this, nothing more is written";
    text.family("directory_reserve", BYTES, help, of(|one| Some(one.reserve)))?;
    let help = "Free space of the file system under log or spool; absent while its disk does not answer";
    text.family("directory_free", BYTES, help, of(|one| one.free))
}

/// The series of one label's counts.
fn counted<'a, T>(
    all: &'a All<T>,
    of: &'static str,
    by: &'static str,
    counts: impl Fn(&'a T) -> &'a Counts + 'a,
) -> impl Iterator<Item = (Labels, ConstCounter)> + 'a {
    all.iter().flat_map(move |(name, one)| {
        let labels = move |word: &str| vec![(of, name.to_string()), (by, word.to_owned())];
        counts(one).all().map(move |(word, n)| (labels(word), ConstCounter::new(n)))
    })
}

fn verifications(all: &All<EndpointMetrics>) -> Vec<(Labels, ConstCounter)> {
    let mut series = Vec::new();
    for (name, one) in all {
        let labels = |place: usize| vec![("endpoint", name.to_string()), ("secret", place.to_string())];
        series.extend(one.secrets().iter().enumerate().map(|(place, n)| (labels(place), count(n))));
    }
    series
}

fn of(endpoint: &str) -> Labels {
    label("endpoint", endpoint)
}

fn label(name: &'static str, value: &str) -> Labels {
    vec![(name, value.to_owned())]
}

fn count(counter: &AtomicU64) -> ConstCounter {
    ConstCounter::new(counter.load(Relaxed))
}
