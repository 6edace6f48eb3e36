//! What a delivery costs on any machine, counted by `./tests/bench`: allocations beyond the floor's, and system calls.
//! Deliveries come one after the other, so that none shares a batch with another and the counts are the same each time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::needed;

/// The most of each; lower them with the figures.
struct Bounds {
    /// Beyond the floor's.
    allocations: f64,
    /// Of the bridge.
    syscalls: f64,
    fsyncs: f64,
}

fn a_delivery_on(bus: &str, broker: Option<&str>, bounds: &Bounds) {
    if broker.is_some_and(|variable| needed(variable).is_none()) {
        return;
    }
    let Some(programs) = needed("TERRA_BRIDGE_TEST_MEASURING").map(PathBuf::from) else { return };
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let record = dir.path().join("record.json");
    let mut bench = Command::new(programs.join("bench"));
    bench.args(["--rounds", "0", "--size", "1600", "--connections", "1", "--bus", bus]);
    bench.arg("--programs").arg(&programs).arg("--counted").arg(&programs).arg("--record").arg(&record);
    let output = bench.output().expect("the bench runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(record).expect("a record")).expect("JSON");
    let (floor, bridge) = (&record["cells"][0]["floor"], &record["cells"][0]["bridge"]);

    let count = |program: &serde_json::Value| program["allocations"]["count"].as_f64().expect("a count");
    let (of_floor, of_bridge) = (count(floor), count(bridge));
    assert!(of_floor > 1.0, "the floor is not counted: {of_floor}");
    assert!(of_bridge - of_floor <= bounds.allocations, "{of_bridge} allocations, the floor's are {of_floor}");

    let Some(calls) = bridge["syscalls"].as_object() else {
        assert!(std::env::var_os("CI").is_none(), "strace is not installed: run ./tests/run");
        return eprintln!("SKIPPED: strace is not installed; ./tests/run installs it");
    };
    let calls_of = |name: &str| calls.get(name).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
    assert!(calls_of("recvfrom") > 0.9, "the bridge is not traced: {calls:?}");
    let all: f64 = calls.values().filter_map(serde_json::Value::as_f64).sum();
    assert!(all <= bounds.syscalls, "{all} system calls: {calls:?}");
    let fsyncs = calls_of("fsync") + calls_of("fdatasync");
    assert!(fsyncs <= bounds.fsyncs, "{fsyncs} times to the disk: {calls:?}");
}

#[test]
fn a_delivery_to_kafka_costs_few_allocations_and_system_calls() {
    let bounds = Bounds { allocations: 20.0, syscalls: 30.0, fsyncs: 0.0 };
    a_delivery_on("kafka", Some("TERRA_BRIDGE_TEST_KAFKA"), &bounds);
}

#[test]
fn a_delivery_to_nats_costs_few_allocations_and_system_calls() {
    let bounds = Bounds { allocations: 20.0, syscalls: 11.0, fsyncs: 0.0 };
    a_delivery_on("nats", Some("TERRA_BRIDGE_TEST_NATS"), &bounds);
}

#[test]
fn a_delivery_to_the_embedded_log_costs_few_allocations_and_system_calls_and_one_fsync() {
    let bounds = Bounds { allocations: 25.0, syscalls: 19.0, fsyncs: 1.05 };
    a_delivery_on("embedded", None, &bounds);
}

#[test]
fn the_floor_has_the_bridges_versions_of_everything() {
    let locked = |file: &str| -> BTreeSet<(String, String)> {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("a lock file");
        let lock: toml::Table = text.parse().expect("TOML");
        let of = |package: &toml::Value, key| package[key].as_str().expect("a string").to_owned();
        let packages = lock["package"].as_array().expect("packages");
        packages.iter().map(|package| (of(package, "name"), of(package, "version"))).collect()
    };
    let mut others = &locked("tests/measuring/Cargo.lock") - &locked("Cargo.lock");
    others.retain(|(name, _)| name != "measuring");
    assert!(others.is_empty(), "copy Cargo.lock to tests/measuring and build there: {others:?}");
}
