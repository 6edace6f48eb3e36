//! Brokers that stop, freeze and come back, and a bridge that is killed.

use std::time::{Duration, Instant};

use crate::support::bridge::Bridge;
use crate::support::brokers::Broker;
use crate::support::consumers::Bus;
use crate::support::http::Connection;
use crate::support::terra::Attempt;
use crate::support::until;

/// How long an answer may take whatever the broker does: the default `server.publish_timeout` of 5 s, plus the
/// tolerance for a busy machine, below what `server.deadline` would allow.
const IN_TIME: Duration = Duration::from_secs(7);
const BACK_WITHIN: Duration = Duration::from_secs(60);

fn numbered(n: usize) -> Attempt {
    Attempt::of(format!(r#"{{"type":"daily","user":{{"user_id":"u"}},"n":{n}}}"#))
}

/// A bridge that has published. On a busy machine a new topic may have no leader yet.
fn publishing(environment: &[(String, String)]) -> Bridge {
    let bridge = Bridge::ready(environment);
    until("a delivery is kept", BACK_WITHIN, || (numbered(0).post(bridge.deliveries).status == 200).then_some(()));
    bridge
}

/// A 503 in time, which asks for a retry.
fn expect_refusal(bridge: &Bridge, attempt: &Attempt, within: Duration) {
    let asked = Instant::now();
    let response = attempt.post(bridge.deliveries);
    let took = asked.elapsed();
    assert_eq!(response.status, 503, "{:?}", response.json());
    assert!(response.header("retry-after").is_some());
    assert!(took < within, "answered after {took:?}");
}

fn stopped_broker_gets_503_and_its_return_needs_no_restart(mut broker: Broker, bus: &Bus) {
    let bridge = publishing(&bus.environment());
    broker.kill();
    expect_refusal(&bridge, &numbered(1), IN_TIME);
    until("the bus counts as away", BACK_WITHIN, || {
        let (status, body) = bridge.readiness();
        assert_eq!(status, 200, "an outage leaves the bridge ready");
        (body["bus"] == "away").then_some(())
    });
    broker.start();
    until("a delivery is kept again", BACK_WITHIN, || {
        (numbered(1).post(bridge.deliveries).status == 200).then_some(())
    });
    let got = bus.read(&bridge, &bus.topic("daily"), 2);
    assert!(got.iter().any(|got| got.payload == numbered(0).body), "what was acknowledged before is still there");
}

fn frozen_broker_gets_503_in_time(broker: Broker, bus: &Bus) {
    let bridge = publishing(&bus.environment());
    broker.freeze();
    expect_refusal(&bridge, &numbered(1), IN_TIME);
    broker.thaw();
    until("a delivery is kept again", BACK_WITHIN, || {
        (numbered(2).post(bridge.deliveries).status == 200).then_some(())
    });
}

fn a_publish_timeout_of_one_second_holds(broker: Broker, bus: &Bus) {
    let mut environment = bus.environment();
    environment.push(("TERRA_BRIDGE_SERVER__PUBLISH_TIMEOUT".into(), "1s".into()));
    let bridge = publishing(&environment);
    broker.freeze();
    // The default would be 3.5 s on Kafka, and 5 s elsewhere.
    expect_refusal(&bridge, &numbered(1), Duration::from_secs(3));
}

fn a_bridge_that_starts_before_its_broker_connects_when_it_comes(mut broker: Broker, bus: &Bus) {
    broker.kill();
    let bridge = Bridge::start(&bus.environment());
    let (status, body) = bridge.readiness();
    assert_eq!((status, body["bus"].as_str()), (503, Some("waiting")));
    expect_refusal(&bridge, &numbered(0), IN_TIME);
    broker.start();
    until("a delivery is kept", BACK_WITHIN, || (numbered(0).post(bridge.deliveries).status == 200).then_some(()));
    // The other topics may be created later than the delivery's.
    until("the bridge is ready", BACK_WITHIN, || (bridge.readiness().0 == 200).then_some(()));
}

on_a_broker_of_its_own!(kafka;
    stopped_broker_gets_503_and_its_return_needs_no_restart,
    frozen_broker_gets_503_in_time,
    a_publish_timeout_of_one_second_holds,
    a_bridge_that_starts_before_its_broker_connects_when_it_comes);
on_a_broker_of_its_own!(nats;
    stopped_broker_gets_503_and_its_return_needs_no_restart,
    frozen_broker_gets_503_in_time,
    a_publish_timeout_of_one_second_holds,
    a_bridge_that_starts_before_its_broker_connects_when_it_comes);

/// A slow body leaves less time than the client library's own timeout: the bridge answers instead.
#[test]
fn the_bridges_own_deadline_answers_where_the_broker_and_its_client_do_not() {
    /// Well before the body's time is up, or the client library notices the dead connection; its own answer would
    /// come after the limit.
    const GOES_ON: Duration = Duration::from_millis(2500);
    const LIMIT: Duration = Duration::from_secs(8);
    let Some(broker) = Broker::nats() else { return };
    let bus = Bus::nats_at(format!("nats://127.0.0.1:{}", broker.port()));
    let mut environment = bus.environment();
    for (key, value) in [("DEADLINE", "6s"), ("PUBLISH_TIMEOUT", "5900ms"), ("MIN_BODY_RATE", "1 B/s")] {
        environment.push((format!("TERRA_BRIDGE_SERVER__{key}"), value.to_owned()));
    }
    let bridge = Bridge::ready(&environment);
    broker.freeze();
    let attempt = numbered(0);
    let (start, rest) = attempt.body.split_at(10);
    let mut connection = Connection::open(bridge.deliveries).expect("a connection");
    let asked = Instant::now();
    connection.write(attempt.head(attempt.body.len()).as_bytes()).expect("the head goes out");
    connection.write(start).expect("a part goes out");
    // The slow client itself.
    until("the client goes on", IN_TIME, || (asked.elapsed() > GOES_ON).then_some(()));
    connection.write(rest).expect("the rest goes out");
    let response = connection.response().expect("an answer");
    assert_eq!((response.status, response.json()["outcome"].as_str()), (503, Some("unanswered")));
    assert!(asked.elapsed() < LIMIT, "{:?}", asked.elapsed());
}

#[test]
fn a_killed_bridge_keeps_in_its_embedded_log_what_it_acknowledged() {
    let bus = Bus::embedded().expect("needs no broker");
    let mut ids = Vec::new();
    for round in 0..3 {
        let bridge = Bridge::ready(&bus.environment());
        for n in 0..50 {
            let response = numbered(round * 50 + n).post(bridge.deliveries);
            assert_eq!(response.status, 200);
            ids.push(response.json()["id"].as_str().expect("an id").to_owned());
        }
        bridge.kill();
    }
    let bridge = Bridge::ready(&bus.environment());
    let got = bus.read(&bridge, &bus.topic("daily"), ids.len());
    let kept: Vec<_> = got.iter().filter_map(|got| got.attribute("id")).collect();
    assert_eq!(kept, ids, "all of them, in order, once");
}

#[test]
fn the_embedded_log_keeps_a_repeated_delivery_once() {
    let bus = Bus::embedded().expect("needs no broker");
    let bridge = Bridge::ready(&bus.environment());
    let attempt = numbered(0).header("x-terra-trace-id", "one");
    let outcome = |bridge: &Bridge, attempt: &Attempt| attempt.post(bridge.deliveries).json()["outcome"].clone();
    assert_eq!([(); 3].map(|()| outcome(&bridge, &attempt)), ["kept", "duplicate", "duplicate"]);
    bridge.kill();
    let bridge = Bridge::ready(&bus.environment());
    assert_eq!(outcome(&bridge, &attempt), "duplicate", "the log itself knows it");
    let captured = numbered(0).t(attempt.t).header("x-terra-trace-id", "another");
    assert_eq!(outcome(&bridge, &captured), "duplicate", "by what its signature covers");
    assert_eq!(bus.count(&bridge), 1);
}

#[test]
fn one_directory_serves_one_bridge() {
    let bus = Bus::embedded().expect("needs no broker");
    let _first = Bridge::ready(&bus.environment());
    let mut second = crate::support::bridge::command();
    second.envs(crate::support::bridge::on_free_ports()).envs(bus.environment());
    let output = second.output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("embedded.dir"), "{said}");
}

#[test]
fn the_embedded_log_takes_nothing_while_its_disk_is_short_of_space() {
    let bus = Bus::embedded().expect("needs no broker");
    let mut environment = bus.environment();
    environment.push(("TERRA_BRIDGE_EMBEDDED__RESERVE".into(), "100000 TiB".into()));
    let bridge = Bridge::start(&environment);
    expect_refusal(&bridge, &numbered(0), IN_TIME);
    until("the bus counts as away", BACK_WITHIN, || (bridge.readiness().1["bus"] == "away").then_some(()));
    let said =
        || bridge.log().lines().any(|line| line.contains("ERROR") && line.contains("embedded.reserve")).then_some(());
    until("an ERROR with the remedy", BACK_WITHIN, said);
    assert_eq!(bus.count(&bridge), 0);
}
