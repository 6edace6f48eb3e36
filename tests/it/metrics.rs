//! The metrics: names that Prometheus' checker finds right, series that are there from the start, and what they count.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::bridge::Bridge;
use crate::support::changing::{RELOADED, Running};
use crate::support::consumers::Bus;
use crate::support::measured::{Everything, Measured, promtool};
use crate::support::terra::{Attempt, now};
use crate::support::tls::Pair;
use crate::support::until;

const WITHIN: Duration = Duration::from_secs(20);

/// Until when rcgen makes certificates by default.
const IN_THE_YEAR_4096: f64 = 67_090_118_400.0;

/// The text format from before OpenMetrics, which promtool reads: counters are described under their whole names.
fn classic(openmetrics: &str) -> String {
    let mut counters = BTreeSet::new();
    for line in openmetrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        counters.extend(line.strip_suffix(" counter"));
    }
    let line = |line: &str| match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
        ["#", "UNIT" | "EOF", ..] => String::new(),
        ["#", what, name, rest] if counters.contains(name) => format!("# {what} {name}_total {rest}\n"),
        _ => format!("{line}\n"),
    };
    openmetrics.lines().map(line).collect()
}

#[test]
fn the_metrics_pass_promtool() {
    let everything = Everything::ready();
    let Some(checked) = promtool(&["check", "metrics"], &classic(&everything.bridge.metrics())) else { return };
    assert_eq!(checked, (true, String::new()));
    let bad = "# HELP requests A counter.\n# TYPE requests counter\nrequests 1\n";
    assert_eq!(promtool(&["check", "metrics"], bad).map(|(fine, _)| fine), Some(false), "promtool checks");
}

const TWO_ENDPOINTS: &str = "[endpoints.one]\npath = \"/one\"\nsecrets = [\"file:DIR/one\", \"file:DIR/old\"]\n\
                             [endpoints.two]\npath = \"/two\"\nsecrets = [\"file:DIR/one\"]\n";

#[test]
fn every_series_is_there_from_the_start_at_0_also_after_a_reload() {
    let bus = Bus::embedded().expect("needs no broker");
    let one = TWO_ENDPOINTS.split_once("[endpoints.two]").expect("two").0;
    let running = Running::start(&bus, one, &[("one", "secret one"), ("old", "old secret")]);
    let sleep = bus.topic("sleep");
    let zero_for = |endpoint: &str, secrets: &[&str]| {
        let measured = Measured::of(&running.bridge);
        for (metric, label, known) in [
            ("deliveries", "outcome", &["kept", "rejected", "unanswered", "too_large"][..]),
            ("rejections", "reason", &["forged", "missing", "too_new", "address"]),
            ("fetches", "result", &["fetched", "expired", "too-large"]),
            ("verifications", "secret", secrets),
        ] {
            let name = format!("terra_bridge_{metric}_total");
            for word in known {
                let value = measured.value(&name, &[("endpoint", endpoint), (label, word)]);
                assert_eq!(value, Some(0.0), "{name} {endpoint} {word}");
            }
        }
        for (name, labels) in [
            ("terra_bridge_last_kept_timestamp_seconds", &[("endpoint", endpoint)]),
            ("terra_bridge_delivery_seconds_count", &[("endpoint", endpoint)]),
            ("terra_bridge_verify_seconds_count", &[("endpoint", endpoint)]),
        ] {
            assert_eq!(measured.value(name, labels), Some(0.0), "{name} {endpoint}");
        }
        assert_eq!(
            measured.labels("terra_bridge_verifications_total", "secret", ("endpoint", endpoint)).len(),
            secrets.len()
        );
    };
    zero_for("one", &["0", "1"]);
    let measured = Measured::of(&running.bridge);
    for result in ["kept", "duplicate", "transient", "unconfirmed", "permanent", "too_large", "unanswered"] {
        let labels = [("result", result), ("topic", sleep.as_str())];
        assert_eq!(measured.value("terra_bridge_published_total", &labels), Some(0.0), "{result}");
    }
    let refused = [("listener", "server"), ("reason", "head_too_large")];
    assert_eq!(measured.value("terra_bridge_connection_errors_total", &refused), Some(0.0));
    assert!(measured.labels("terra_bridge_deliveries_total", "endpoint", ("endpoint", "two")).is_empty());

    let moved = bus.topic("moved");
    let routed = format!("[routes.types]\nsleep = \"{moved}\"\n");
    running.reload(&(TWO_ENDPOINTS.to_owned() + &routed), RELOADED);
    zero_for("two", &["0"]);
    let kept = |topic: &str| {
        Measured::of(&running.bridge).value("terra_bridge_published_total", &[("result", "kept"), ("topic", topic)])
    };
    assert_eq!((kept(&moved), kept(&sleep)), (Some(0.0), None), "a topic that no route leads to is forgotten");

    running.reload(TWO_ENDPOINTS.split_once("[endpoints.two]").expect("two").0, RELOADED);
    let measured = Measured::of(&running.bridge);
    let of_two: Vec<_> = measured.0.keys().filter(|(_, labels)| labels.values().any(|value| value == "two")).collect();
    assert!(of_two.is_empty(), "an endpoint that is gone is forgotten: {of_two:?}");
    assert_eq!(measured.value("terra_bridge_deliveries_total", &[("endpoint", "one"), ("outcome", "kept")]), Some(0.0));
}

#[test]
fn the_secret_that_fits_is_counted_by_its_place_until_the_list_changes() {
    let bus = Bus::embedded().expect("needs no broker");
    let running = Running::start(&bus, TWO_ENDPOINTS, &[("one", "secret one"), ("old", "old secret")]);
    let counts = || {
        let measured = Measured::of(&running.bridge);
        ["0", "1"]
            .map(|place| measured.value("terra_bridge_verifications_total", &[("endpoint", "one"), ("secret", place)]))
    };
    let send = |secret: &str, n: usize| {
        let attempt = Attempt::of(format!(r#"{{"type":"daily","n":{n}}}"#)).path("/one").secret(secret);
        running.status(&attempt)
    };
    let since = now() as f64;
    assert_eq!(
        [send("old secret", 1), send("old secret", 2), send("secret one", 3), send("other", 4)],
        [200, 200, 200, 401]
    );
    assert_eq!(counts(), [Some(1.0), Some(2.0)]);
    let kept = |endpoint: &str| {
        Measured::of(&running.bridge).value("terra_bridge_last_kept_timestamp_seconds", &[("endpoint", endpoint)])
    };
    assert!((since..since + 600.0).contains(&kept("one").expect("a time")), "{:?}", kept("one"));
    assert_eq!(kept("two"), Some(0.0));

    running.reload(&(TWO_ENDPOINTS.to_owned() + "max_skew = \"1m\"\n"), RELOADED);
    assert_eq!(counts(), [Some(1.0), Some(2.0)], "the same secrets");
    let other = TWO_ENDPOINTS.replacen(", \"file:DIR/old\"", "", 1);
    running.reload(&other, RELOADED);
    assert_eq!(counts(), [Some(0.0), None]);
}

#[test]
fn reloads_are_counted_by_their_result_and_the_last_success_is_known() {
    let bus = Bus::embedded().expect("needs no broker");
    let running = Running::start(&bus, "", &[]);
    let metric = |name: &str, labels: &[(&str, &str)]| {
        Measured::of(&running.bridge).value(&format!("terra_bridge_config_{name}"), labels).expect("a value")
    };
    let state = || {
        let count = |result| metric("reloads_total", &[("result", result)]);
        (count("applied"), count("refused"), metric("last_reload_successful", &[]))
    };
    let since_start = metric("last_reload_success_timestamp_seconds", &[]);
    assert!(since_start > 1.7e9, "the start counts");
    assert_eq!(state(), (0.0, 0.0, 1.0));
    running.reload("[routes.types]\ndaily = ", "the new configuration has mistakes; nothing was changed");
    until("it is counted", WITHIN, || (state() == (0.0, 1.0, 0.0)).then_some(()));
    assert_eq!(metric("last_reload_success_timestamp_seconds", &[]), since_start);
    running.reload("[endpoints.terra]\nmax_skew = \"1m\"\n", RELOADED);
    until("it is counted", WITHIN, || (state() == (1.0, 1.0, 1.0)).then_some(()));
    assert!(metric("last_reload_success_timestamp_seconds", &[]) > since_start);
}

#[test]
fn process_disks_and_certificates_are_measured() {
    let everything = Everything::ready();
    let measured = Measured::of(&everything.bridge);
    let value = |name: &str, labels: &[(&str, &str)]| {
        measured.value(name, labels).unwrap_or_else(|| panic!("{name} {labels:?} is not measured"))
    };
    let memory = everything.bridge.memory() as f64;
    let resident = value("process_resident_memory_bytes", &[]);
    assert!((memory / 4.0..memory * 4.0).contains(&resident), "{resident} of {memory}");
    assert!(value("process_virtual_memory_bytes", &[]) > resident);
    assert!((now() as f64 - value("process_start_time_seconds", &[])).abs() < 600.0);
    assert!(value("process_open_fds", &[]) > 5.0 && value("process_max_fds", &[]) > value("process_open_fds", &[]));
    assert!(value("process_threads", &[]) > 2.0 && value("process_cpu_seconds_total", &[]) > 0.0);
    for directory in ["embedded", "spool", "set_aside"] {
        let of = |what: &str| value(&format!("terra_bridge_directory_{what}"), &[("directory", directory)]);
        assert!(of("bytes") < of("limit_bytes") && of("free_bytes") > 0.0 && of("reserve_bytes") > 0.0, "{directory}");
    }
    let expires = value("terra_bridge_certificate_expiration_timestamp_seconds", &[("certificate", "server")]);
    assert_eq!(expires, IN_THE_YEAR_4096);
    assert_eq!(value("terra_bridge_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
}

#[test]
fn the_certificate_that_a_bus_knows_the_bridge_by_is_measured() {
    for (bus, servers, section) in [("kafka", "KAFKA__BROKERS", "KAFKA"), ("nats", "NATS__SERVERS", "NATS")] {
        let pair = Pair::new();
        let mut environment = pair.environment(section);
        // Nobody listens there.
        for (key, value) in [("BUS", bus), (servers, "127.0.0.1:1"), (&format!("{section}__TLS__CA"), "system")] {
            environment.push((format!("TERRA_BRIDGE_{key}"), value.to_owned()));
        }
        let measured = Measured::of(&Bridge::start(&environment));
        let name = "terra_bridge_certificate_expiration_timestamp_seconds";
        assert_eq!(measured.value(name, &[("certificate", bus)]), Some(IN_THE_YEAR_4096), "{bus}");
        assert_eq!(measured.value("terra_bridge_bus_up", &[]), Some(0.0));
        assert!(!measured.names().iter().any(|name| name.contains("_spool_") || name.contains("_reader")), "{bus}");
    }
}
