//! The status as JSON: what `GET /status` answers, and what the page shows.

use serde::Serialize;

use super::history::{Activity, History, MOST_ENDPOINTS, Step};
use super::outcomes::Side;
use crate::config::Effective;
use crate::metrics::{DirectoryGauges, Distribution, EndpointSample, Readings, Sample, SpoolGauges};

/// Steps of the history over which an endpoint's current rate and latency are taken: one minute.
const MINUTE: usize = 12;

/// The status at one moment. Times are Unix seconds.
#[derive(Debug, Serialize)]
pub(super) struct Snapshot<'a> {
    pub(super) version: &'static str,
    pub(super) now: f64,
    pub(super) started: f64,
    /// `ready`, `not ready` or `draining`.
    pub(super) status: &'static str,
    pub(super) bus: Bus<'a>,
    pub(super) connections: i64,
    pub(super) bytes_in_flight: usize,
    pub(super) unknown_paths: u64,
    pub(super) log_lines_dropped: usize,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) history: Vec<Point>,
    pub(super) refusals: Vec<Refusal>,
    pub(super) dead_letters: DeadLetters,
    pub(super) spool: Option<Spool>,
    pub(super) directories: Vec<Directory>,
    pub(super) certificates: Vec<Certificate>,
    pub(super) reload: Reload,
    pub(super) configuration: &'a [Setting],
}

#[derive(Debug, Serialize)]
pub(super) struct Bus<'a> {
    pub(super) kind: &'a str,
    /// `waiting`, `up` or `away`.
    pub(super) state: &'static str,
    pub(super) since: f64,
    pub(super) publishes_in_flight: i64,
}

#[derive(Debug, Serialize)]
pub(super) struct Endpoint {
    name: String,
    /// Since the start.
    accepted: u64,
    rejected: u64,
    refused: u64,
    last_kept: Option<f64>,
    /// Of the last minute; absent of endpoints beyond the history's limit.
    #[serde(flatten)]
    minute: Option<Minute>,
}

#[derive(Debug, Serialize)]
struct Minute {
    accepted_per_second: f64,
    p50_seconds: Option<f64>,
    p99_seconds: Option<f64>,
    /// Accepted per second, for each point of the history.
    trend: Vec<f64>,
}

/// All endpoints together, in the time since the point before.
#[derive(Debug, Serialize)]
pub(super) struct Point {
    time: f64,
    accepted_per_second: f64,
    rejected_per_second: f64,
    refused_per_second: f64,
    p50_seconds: Option<f64>,
    p99_seconds: Option<f64>,
    bus_p50_seconds: Option<f64>,
    bus_p99_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Refusal {
    endpoint: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// `sender` or `bridge`.
    concerns: &'static str,
    /// Since the start.
    total: u64,
    last: f64,
}

/// Since the start.
#[derive(Debug, Default, Serialize)]
pub(super) struct DeadLetters {
    total: u64,
    last: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Spool {
    messages: u64,
    bytes: u64,
    oldest_seconds: Option<u64>,
    set_aside_messages: u64,
    set_aside_bytes: u64,
    /// Since the start.
    drained: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Directory {
    name: &'static str,
    bytes: u64,
    limit_bytes: u64,
    reserve_bytes: u64,
    free_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Certificate {
    name: &'static str,
    expires: i64,
}

#[derive(Debug, Serialize)]
pub(super) struct Reload {
    successful: bool,
    last_success: f64,
}

/// One key of the configuration.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) source: String,
}

/// The effective configuration without secrets, and without the endpoints' paths: many operators make them hard to
/// guess, and more people see this than the bridge's own machine.
pub(super) fn settings(effective: &Effective) -> Vec<Setting> {
    let setting = |line: &crate::config::Line| {
        let is_path = line.key.starts_with("endpoints.") && line.key.ends_with(".path");
        let value = if is_path { "(not shown here)".to_owned() } else { line.value.clone() };
        Setting { key: line.key.clone(), value, source: line.source.to_string() }
    };
    effective.lines.iter().map(setting).collect()
}

pub(super) fn endpoints(sample: &Sample, history: &History) -> Vec<Endpoint> {
    let shown = |(place, one): (usize, &EndpointSample)| {
        let total = |sides: &[Side]| {
            one.outcomes.iter().filter(|(word, _)| sides.contains(&Side::of(word))).map(|(_, total)| total).sum()
        };
        Endpoint {
            accepted: total(&[Side::Accepted, Side::DeadLetter]),
            rejected: total(&[Side::Rejected]),
            refused: total(&[Side::Refused]),
            last_kept: (one.last_kept > 0.0).then_some(one.last_kept),
            minute: (place < MOST_ENDPOINTS).then(|| minute(&one.name, history)),
            name: one.name.to_string(),
        }
    };
    sample.endpoints.iter().enumerate().map(shown).collect()
}

fn minute(name: &str, history: &History) -> Minute {
    let (Activity { accepted, times, .. }, seconds) = history.recent(name, MINUTE);
    let (p50_seconds, p99_seconds) = percentiles(&times);
    let trend = history.accepted(name).into_iter().map(rounded).collect();
    Minute { accepted_per_second: rate(accepted, seconds), p50_seconds, p99_seconds, trend }
}

pub(super) fn points(history: &History) -> Vec<Point> {
    let point = |step: &Step| {
        let (p50_seconds, p99_seconds) = percentiles(&step.all.times);
        let (bus_p50_seconds, bus_p99_seconds) = percentiles(&step.publish);
        Point {
            time: rounded(step.ended),
            accepted_per_second: rate(step.all.accepted, step.seconds),
            rejected_per_second: rate(step.all.rejected, step.seconds),
            refused_per_second: rate(step.all.refused, step.seconds),
            p50_seconds,
            p99_seconds,
            bus_p50_seconds,
            bus_p99_seconds,
        }
    };
    history.steps().map(point).collect()
}

/// What was refused, and apart from it the dead letters.
pub(super) fn refusals(history: &History) -> (Vec<Refusal>, DeadLetters) {
    let (mut refusals, mut dead_letters) = (Vec::new(), DeadLetters::default());
    for ((endpoint, outcome, reason), seen) in history.seen() {
        let concerns = match Side::of(outcome) {
            Side::Accepted => continue,
            Side::DeadLetter => {
                dead_letters.total += seen.total;
                // The last one comes first.
                dead_letters.last = dead_letters.last.or(Some(seen.last));
                continue;
            }
            Side::Rejected => "sender",
            Side::Refused => "bridge",
        };
        let (endpoint, total, last) = (endpoint.to_string(), seen.total, seen.last);
        refusals.push(Refusal { endpoint, outcome, reason: *reason, concerns, total, last });
    }
    (refusals, dead_letters)
}

impl From<SpoolGauges> for Spool {
    fn from(gauges: SpoolGauges) -> Self {
        let SpoolGauges { messages, bytes, oldest, set_aside, set_aside_bytes, drained } = gauges;
        let oldest_seconds = (messages > 0).then_some(oldest.as_secs());
        Self { messages, bytes, oldest_seconds, set_aside_messages: set_aside, set_aside_bytes, drained }
    }
}

pub(super) fn directories(readings: &Readings) -> Vec<Directory> {
    let shown = |DirectoryGauges { name, bytes, limit, reserve, free }| Directory {
        name,
        bytes,
        limit_bytes: limit,
        reserve_bytes: reserve,
        free_bytes: free,
    };
    (readings.directories)().into_iter().map(shown).collect()
}

pub(super) fn certificates(readings: &Readings) -> Vec<Certificate> {
    (readings.certificates)().into_iter().map(|(name, expires)| Certificate { name, expires }).collect()
}

impl From<&Sample> for Reload {
    fn from(sample: &Sample) -> Self {
        Self { successful: sample.last_reload_successful, last_success: sample.last_reload_success }
    }
}

fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { rounded(count as f64 / seconds) } else { 0.0 }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn percentiles(times: &Distribution) -> (Option<f64>, Option<f64>) {
    let microseconds = |seconds: f64| (seconds * 1e6).round() / 1e6;
    (times.quantile(0.5).map(microseconds), times.quantile(0.99).map(microseconds))
}
