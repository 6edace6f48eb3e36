//! Late retries of old deliveries: `sequence` reaches the consumer as Terra set it, and the README's
//! rule (overwrite only if newer or equal) leaves the newest state, on every bus.

use std::collections::BTreeMap;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::bridge::Bridge;
use crate::support::brokers::Broker;
use crate::support::consumers::{Bus, Got};
use crate::support::http::Connection;
use crate::support::terra::{Attempt, now};
use crate::support::until;

const DRAINED_WITHIN: Duration = Duration::from_secs(60);
const SAID_WITHIN: Duration = Duration::from_secs(10);
const HOUR: i64 = 3600;

/// Terra's event for one day of one user, with an ordering timestamp that many seconds ago.
fn day(steps: u64, trace: &str, stamped: i64) -> Attempt {
    let body =
        format!(r#"{{"type":"daily","user":{{"user_id":"u"}},"data":[{{"day":"2026-01-01","steps":{steps}}}]}}"#);
    let stamp = (now() - stamped) * 1000 + 7;
    Attempt::of(body).header("x-terra-trace-id", trace).header("x-terra-ordering-timestamp", &stamp.to_string())
}

fn stamp(attempt: &Attempt) -> &str {
    &attempt.headers.iter().find(|(name, _)| name == "x-terra-ordering-timestamp").expect("stamped").1
}

/// An attempt whose connection ends without an answer.
fn cut_off(bridge: &Bridge, attempt: &Attempt) {
    let mut connection = Connection::open(bridge.deliveries).expect("a connection");
    connection.write(attempt.head(attempt.body.len()).as_bytes()).expect("the head goes out");
    connection.write(&attempt.body[..10]).expect("some of the body goes out");
}

fn expect_outcome(bridge: &Bridge, attempt: &Attempt, outcome: &str) {
    let reply = attempt.post(bridge.deliveries);
    assert_eq!((reply.status, reply.json()["outcome"].as_str()), (200, Some(outcome)));
}

/// A consumer that keeps one state for each key.
#[derive(Default)]
struct Consumer(BTreeMap<String, (i64, Vec<u8>)>);

impl Consumer {
    fn take(&mut self, got: &Got, by_the_rule: bool) {
        let stamp = got.attribute("sequence").expect("a stamp").parse().expect("milliseconds");
        let key = got.key.clone().expect("a key");
        let stale = self.0.get(&key).is_some_and(|(held, _)| stamp < *held);
        if !(stale && by_the_rule) {
            self.0.insert(key, (stamp, got.payload.clone()));
        }
    }

    fn steps(&self) -> u64 {
        let event: serde_json::Value = serde_json::from_slice(&self.0["u"].1).expect("JSON");
        event["data"][0]["steps"].as_u64().expect("steps")
    }
}

/// These messages arrived in this order; checks the consumer's state with and without the rule.
fn expect_states(bus: &Bus, bridge: &Bridge, arrived: &[&Attempt], [with, without]: [u64; 2]) {
    let got = bus.read(bridge, &bus.topic("daily"), arrived.len());
    assert_eq!(bus.count(bridge), arrived.len(), "each of them once");
    let (mut consumer, mut careless) = (Consumer::default(), Consumer::default());
    for (got, attempt) in got.iter().zip(arrived) {
        assert_eq!(got.payload, attempt.body);
        assert_eq!(got.attribute("sequence").as_deref(), Some(stamp(attempt)));
        consumer.take(got, true);
        careless.take(got, false);
    }
    assert_eq!([consumer.steps(), careless.steps()], [with, without]);
}

fn an_old_delivery_that_is_retried_late_overwrites_nothing_newer(bus: Option<Bus>) {
    let Some(bus) = bus else { return };
    let bridge = Bridge::ready(&bus.environment());
    let (old, older) = (day(10, "old", 4 * HOUR), day(5, "older", 8 * HOUR));
    let new = day(20, "new", HOUR);
    // With equal timestamps, the later arrival counts.
    let mut corrected = day(21, "corrected", HOUR);
    corrected.headers[2].1 = stamp(&new).to_owned();
    cut_off(&bridge, &older);
    cut_off(&bridge, &old);
    expect_outcome(&bridge, &new, "kept");
    expect_outcome(&bridge, &corrected, "kept");
    expect_outcome(&bridge, &old, "kept");
    expect_outcome(&bridge, &old.clone().t(now() + 1), "duplicate");
    // Signed again for the retry.
    expect_outcome(&bridge, &older.clone().t(now() + 1), "kept");
    expect_states(&bus, &bridge, &[&new, &corrected, &old, &older], [21, 5]);
}

/// Only `t` and the body are signed. A copy with other headers is a different event to a bridge that does not know
/// the first one (the embedded log recognises the signed content). It must not block later events at a consumer.
fn a_captured_delivery_with_other_headers_freezes_no_consumer(bus: Option<Bus>) {
    const CENTURY: &str = "4102444799999";
    let Some(bus) = bus else { return };
    let bridge = Bridge::ready(&bus.environment());
    let captured = day(10, "captured", HOUR);
    expect_outcome(&bridge, &captured, "kept");
    bridge.kill();
    let bridge = Bridge::ready(&bus.environment());
    let mut copy = captured.clone();
    for ((_, value), other) in copy.headers[1..].iter_mut().zip(["another", CENTURY]) {
        *value = other.to_owned();
    }
    expect_outcome(&bridge, &copy.header("terra-reference", "another"), "kept");
    let next = day(20, "next", 0);
    expect_outcome(&bridge, &next, "kept");
    let got = bus.read(&bridge, &bus.topic("daily"), 3);
    let (mut consumer, mut stamps) = (Consumer::default(), Vec::new());
    for got in &got {
        let stamp = got.attribute("sequence");
        assert!(!got.attribute("time").expect("a time").starts_with("2099"), "{got:?}");
        if stamp.is_some() {
            consumer.take(got, true);
        }
        stamps.push(stamp);
    }
    assert_eq!(consumer.steps(), 20);
    assert_eq!(stamps, [Some(stamp(&captured).to_owned()), None, Some(stamp(&next).to_owned())]);
    let counted = "terra_bridge_ordering_timestamps_ignored_total{endpoint=\"terra\"} 1";
    assert!(bridge.metrics().lines().any(|line| line == counted), "{}", bridge.metrics());
    until("it is said", SAID_WITHIN, || bridge.log().contains("ignored an ordering timestamp").then_some(()));
}

/// The same through the spool: the bus is down while the deliveries arrive, and the bridge is killed before it is
/// back.
fn spooled_deliveries_keep_their_stamps_and_the_rule_holds(bus: &Bus, away: &[(String, String)], back: impl FnOnce()) {
    let dir = TempDir::new().expect("a temporary directory");
    let mut environment = bus.environment();
    environment.push(("TERRA_BRIDGE_SPOOL__DIR".into(), dir.path().join("spool").display().to_string()));
    environment.push(("TERRA_BRIDGE_SPOOL__RESERVE".into(), "1 MiB".into()));
    let bridge = Bridge::start(&[&environment, away].concat());
    let (old, new) = (day(10, "old", 4 * HOUR), day(20, "new", HOUR));
    cut_off(&bridge, &old);
    expect_outcome(&bridge, &new, "spooled");
    expect_outcome(&bridge, &old, "spooled");
    bridge.kill();
    back();
    let bridge = Bridge::start(&environment);
    let empty = |line: &str| line == "terra_bridge_spool_messages 0";
    until("the spool is empty", DRAINED_WITHIN, || bridge.metrics().lines().any(empty).then_some(()));
    expect_outcome(&bridge, &old.clone().t(now() + 1), "duplicate");
    expect_states(bus, &bridge, &[&new, &old], [20, 10]);
}

mod embedded {
    use super::*;

    #[test]
    fn an_old_delivery_that_is_retried_late_overwrites_nothing_newer() {
        super::an_old_delivery_that_is_retried_late_overwrites_nothing_newer(Bus::embedded());
    }

    #[test]
    fn spooled_deliveries_keep_their_stamps_and_the_rule_holds() {
        let bus = Bus::embedded().expect("needs no broker");
        let no_space = ("TERRA_BRIDGE_EMBEDDED__RESERVE".to_owned(), "100000 TiB".to_owned());
        super::spooled_deliveries_keep_their_stamps_and_the_rule_holds(&bus, &[no_space], || {});
    }
}

mod kafka {
    use super::*;

    #[test]
    fn a_captured_delivery_with_other_headers_freezes_no_consumer() {
        super::a_captured_delivery_with_other_headers_freezes_no_consumer(Bus::kafka());
    }

    #[test]
    fn an_old_delivery_that_is_retried_late_overwrites_nothing_newer() {
        super::an_old_delivery_that_is_retried_late_overwrites_nothing_newer(Bus::kafka());
    }

    #[test]
    fn spooled_deliveries_keep_their_stamps_and_the_rule_holds() {
        let Some(mut broker) = Broker::kafka() else { return };
        let bus = Bus::kafka_at(format!("127.0.0.1:{}", broker.port()));
        broker.kill();
        super::spooled_deliveries_keep_their_stamps_and_the_rule_holds(&bus, &[], || broker.start());
    }
}

mod nats {
    use super::*;

    #[test]
    fn a_captured_delivery_with_other_headers_freezes_no_consumer() {
        super::a_captured_delivery_with_other_headers_freezes_no_consumer(Bus::nats());
    }

    #[test]
    fn an_old_delivery_that_is_retried_late_overwrites_nothing_newer() {
        super::an_old_delivery_that_is_retried_late_overwrites_nothing_newer(Bus::nats());
    }

    #[test]
    fn spooled_deliveries_keep_their_stamps_and_the_rule_holds() {
        let Some(mut broker) = Broker::nats() else { return };
        let bus = Bus::nats_at(format!("nats://127.0.0.1:{}", broker.port()));
        broker.kill();
        super::spooled_deliveries_keep_their_stamps_and_the_rule_holds(&bus, &[], || broker.start());
    }
}
