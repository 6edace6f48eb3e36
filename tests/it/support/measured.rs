//! What a bridge measures, as Prometheus stores it, and Prometheus' own checker.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::bridge::Bridge;
use super::consumers::Bus;
use super::tls::Pair;
use super::{needed, until};

const WITHIN: Duration = Duration::from_secs(20);

/// What the bridge measures, by series: name and labels as Prometheus stores them, and the value.
pub struct Measured(pub BTreeMap<(String, Labels), f64>);

pub type Labels = BTreeMap<String, String>;

impl Measured {
    pub fn of(bridge: &Bridge) -> Self {
        let series = bridge.metrics();
        Self(series.lines().filter(|line| !line.starts_with('#')).map(series_of).collect())
    }

    pub fn names(&self) -> BTreeSet<&str> {
        self.0.keys().map(|(name, _)| name.as_str()).collect()
    }

    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.0.get(&(name.to_owned(), labels)).copied()
    }

    /// The values of one label of a metric.
    pub fn labels(&self, name: &str, label: &str, of: (&str, &str)) -> BTreeSet<&str> {
        let here = self.0.keys().filter(|(known, labels)| known == name && labels.get(of.0).is_some_and(|v| v == of.1));
        here.filter_map(|(_, labels)| labels.get(label)).map(String::as_str).collect()
    }
}

/// `name{label="value",…} value`
fn series_of(line: &str) -> ((String, Labels), f64) {
    let (series, value) = line.rsplit_once(' ').expect("a value");
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
    let labels = labels.map(|label| label.split_once('=').expect("a label"));
    let labels = labels.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()));
    ((name.to_owned(), labels.collect()), value.parse().expect("a number"))
}

/// A bridge that has every kind of metric.
pub struct Everything {
    pub bridge: Bridge,
    _bus: Bus,
    _spool: TempDir,
    _pair: Pair,
}

impl Everything {
    pub fn ready() -> Self {
        let (bus, spool, pair) =
            (Bus::embedded().expect("needs no broker"), TempDir::new().expect("a directory"), Pair::new());
        let mut environment = bus.environment_with(&[("SPOOL__DIR", spool.path().to_str().expect("UTF-8"))]);
        environment.extend(pair.environment("SERVER"));
        let bridge = Bridge::ready(&environment);
        let free = |bridge: &Bridge| bridge.metrics().contains("terra_bridge_directory_free_bytes{").then_some(());
        until("the disk has said how much space is free", WITHIN, || free(&bridge));
        Self { bridge, _bus: bus, _spool: spool, _pair: pair }
    }
}

/// Prometheus' own checker: whether it finds its input right, and what it says.
pub fn promtool(arguments: &[&str], input: &str) -> Option<(bool, String)> {
    let mut promtool = Command::new(needed("TERRA_BRIDGE_TEST_PROMTOOL")?);
    promtool.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("promtool runs");
    promtool.stdin.take().expect("stdin is piped").write_all(input.as_bytes()).expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8(said).expect("UTF-8")))
}
