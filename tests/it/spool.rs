//! The spool: what the bus refuses for the moment is answered with 200 and reaches the bus in the end.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use tempfile::TempDir;

use crate::support::bridge::{Bridge, command};
use crate::support::brokers::Broker;
use crate::support::consumers::{Bus, runtime};
use crate::support::terra::Attempt;
use crate::support::until;

const WITHIN: Duration = Duration::from_secs(60);

fn environment(bus: &Bus, dir: &TempDir) -> Vec<(String, String)> {
    let mut environment = bus.environment();
    environment.push(("TERRA_BRIDGE_SPOOL__DIR".into(), dir.path().join("spool").display().to_string()));
    // A developer's disk may be fuller than a server's.
    environment.push(("TERRA_BRIDGE_SPOOL__RESERVE".into(), "1 MiB".into()));
    environment
}

fn of_user(user: usize, n: usize) -> Attempt {
    Attempt::of(format!(r#"{{"type":"daily","user":{{"user_id":"u{user}"}},"n":{n}}}"#))
        .header("x-terra-trace-id", &format!("{user}-{n}"))
}

fn expect_outcome(bridge: &Bridge, attempt: &Attempt, outcome: &str) {
    let response = attempt.post(bridge.deliveries);
    assert_eq!((response.status, response.json()["outcome"].as_str()), (200, Some(outcome)));
}

fn metric(bridge: &Bridge, name: &str) -> u64 {
    let metrics = bridge.metrics();
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("{name} is measured")).parse().expect("a whole number")
}

fn until_drained(bridge: &Bridge) {
    until("the spool is empty", WITHIN, || (metric(bridge, "terra_bridge_spool_messages") == 0).then_some(()));
}

fn an_outage_is_answered_200_and_drained_in_order_after_kill_9(mut broker: Broker, bus: &Bus) {
    const USERS: usize = 3;
    let dir = TempDir::new().expect("a temporary directory");
    let environment = environment(bus, &dir);
    let bridge = Bridge::ready(&environment);
    expect_outcome(&bridge, &of_user(0, 0), "kept");
    broker.kill();
    for n in 1..=20 {
        (0..USERS).for_each(|user| expect_outcome(&bridge, &of_user(user, n), "spooled"));
    }
    expect_outcome(&bridge, &of_user(1, 7), "duplicate");
    assert_eq!(metric(&bridge, "terra_bridge_spool_messages"), 60);
    bridge.kill();

    let bridge = Bridge::start(&environment);
    assert_eq!(metric(&bridge, "terra_bridge_spool_messages"), 60);
    expect_outcome(&bridge, &of_user(0, 0), "duplicate");
    expect_outcome(&bridge, &of_user(1, 7), "duplicate");
    for n in 21..=30 {
        (0..USERS).for_each(|user| expect_outcome(&bridge, &of_user(user, n), "spooled"));
    }
    broker.start();
    until_drained(&bridge);
    expect_outcome(&bridge, &of_user(0, 31), "kept");

    let got = bus.read(&bridge, &bus.topic("daily"), 2 + 30 * USERS);
    assert_eq!(bus.count(&bridge), 2 + 30 * USERS, "each of them once");
    for user in 0..USERS {
        let payloads = got.iter().filter(|got| got.key == Some(format!("u{user}"))).map(|got| got.payload.clone());
        let first = if user == 0 { 0 } else { 1 };
        let sent = (first..=if user == 0 { 31 } else { 30 }).map(|n| of_user(user, n).body);
        assert!(payloads.eq(sent), "the order of user {user}");
    }
    let one = &got[5];
    assert!(one.attribute("id").is_some() && one.attribute("terratraceid").is_some(), "{:?}", one.headers);
    assert_eq!(one.headers["content-type"], "application/json");
}

fn what_the_bus_kept_is_known_again_after_kill_9(_broker: Broker, bus: &Bus) {
    let dir = TempDir::new().expect("a temporary directory");
    let bridge = Bridge::ready(&environment(bus, &dir));
    (0..50).for_each(|n| expect_outcome(&bridge, &of_user(0, n), "kept"));
    bridge.kill();
    let bridge = Bridge::ready(&environment(bus, &dir));
    (0..50).for_each(|n| expect_outcome(&bridge, &of_user(0, n), "duplicate"));
    assert_eq!(bus.count(&bridge), 50);
}

fn a_full_spool_is_answered_503_and_empties(mut broker: Broker, bus: &Bus) {
    const MIB: usize = 1 << 20;
    let dir = TempDir::new().expect("a temporary directory");
    let mut environment = environment(bus, &dir);
    environment.push(("TERRA_BRIDGE_SPOOL__MAX_BYTES".into(), "16 MiB".into()));
    let bridge = Bridge::ready(&environment);
    broker.kill();
    let large = |n: usize| Attempt::of(format!(r#"{{"type":"daily","n":{n},"data":"{}"}}"#, "x".repeat(MIB)));
    let mut spooled = Vec::new();
    let refused = until("the spool is full", WITHIN, || {
        let response = large(spooled.len()).post(bridge.deliveries);
        if response.status == 200 {
            spooled.push(response.json()["id"].as_str().expect("an id").to_owned());
        }
        (response.status != 200).then_some(response)
    });
    assert_eq!((refused.status, refused.json()["outcome"].as_str()), (503, Some("unspooled")));
    assert!((12..=16).contains(&spooled.len()), "{}", spooled.len());
    until("an ERROR", WITHIN, || {
        bridge.log().lines().any(|line| line.contains("ERROR") && line.contains("neither the bus")).then_some(())
    });
    assert!(metric(&bridge, "terra_bridge_spool_oldest_seconds") < WITHIN.as_secs());
    broker.start();
    until_drained(&bridge);
    assert_eq!(metric(&bridge, "terra_bridge_spool_drained_total"), spooled.len() as u64);
    until("the spool has given its space back", WITHIN, || {
        (metric(&bridge, "terra_bridge_directory_bytes{directory=\"spool\"}") < MIB as u64).then_some(())
    });
    assert_eq!(bus.count(&bridge), spooled.len());
}

fn a_drain_on_sigterm_empties_the_spool_or_says_what_is_left(mut broker: Broker, bus: &Bus) {
    let dir = TempDir::new().expect("a temporary directory");
    let mut environment = environment(bus, &dir);
    environment.push(("TERRA_BRIDGE_SERVER__DRAIN_TIMEOUT".into(), "2s".into()));
    let mut bridge = Bridge::ready(&environment);
    broker.kill();
    (0..5).for_each(|n| expect_outcome(&bridge, &of_user(0, n), "spooled"));
    bridge.signal("TERM");
    assert_eq!(bridge.ended(WITHIN).code(), Some(0));
    assert!(bridge.log().contains("messages stay in the spool"), "{}", bridge.log());
    environment.last_mut().expect("the drain timeout").1 = "60s".into();
    let mut bridge = Bridge::start(&environment);
    bridge.signal("TERM");
    broker.start();
    assert_eq!(bridge.ended(WITHIN).code(), Some(0));
    assert!(!bridge.log().contains("messages stay in the spool"), "{}", bridge.log());
    let bridge = Bridge::ready(&environment);
    assert_eq!(bus.count(&bridge), 5);
}

on_a_broker_of_its_own!(kafka;
    an_outage_is_answered_200_and_drained_in_order_after_kill_9,
    what_the_bus_kept_is_known_again_after_kill_9);
on_a_broker_of_its_own!(nats;
    an_outage_is_answered_200_and_drained_in_order_after_kill_9,
    what_the_bus_kept_is_known_again_after_kill_9,
    a_full_spool_is_answered_503_and_empties,
    a_drain_on_sigterm_empties_the_spool_or_says_what_is_left);

#[test]
fn what_kafka_refuses_for_good_is_set_aside_and_sent_once_that_is_mended() {
    let Some(bus) = Bus::kafka() else { return };
    let dir = TempDir::new().expect("a temporary directory");
    let mut environment = environment(&bus, &dir);
    environment.push(("TERRA_BRIDGE_KAFKA__TOPIC_CONFIG".into(), r#"{ "max.message.bytes" = 20000 }"#.into()));
    let mut bridge = Bridge::ready(&environment);
    // Bytes that lz4 cannot compress.
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b' ' + ((state >> 33) % 90) as u8)
    };
    let noise: String = (0..60_000).map(|_| noise()).collect();
    let large = Attempt::of(serde_json::json!({"type": "daily", "user": {"user_id": "u0"}, "data": noise}).to_string());
    expect_outcome(&bridge, &large, "spooled");
    until("it is set aside", WITHIN, || (metric(&bridge, "terra_bridge_spool_set_aside") == 1).then_some(()));
    until_drained(&bridge);
    expect_outcome(&bridge, &of_user(0, 1), "kept");
    expect_outcome(&bridge, &large, "duplicate");
    assert!(bridge.log().lines().any(|line| line.contains("ERROR") && line.contains("set aside")), "{}", bridge.log());
    bridge.signal("TERM");
    assert_eq!(bridge.ended(WITHIN).code(), Some(0));

    let output = command().arg("check").envs(environment.iter().map(|(name, value)| (name, value))).output();
    let output = output.expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("1 messages for") && said.contains("max.message.bytes"), "{said}");
    assert!(said.contains("outlive"), "{said}");
    assert_eq!(output.status.code(), Some(1));

    raise_limit(&bus.topic("daily"));
    let bridge = Bridge::ready(&environment);
    let got = bus.read(&bridge, &bus.topic("daily"), 2);
    assert!(got.iter().any(|got| got.payload == large.body && !got.headers.contains_key("set-aside-reason")));
    until("nothing is set aside", WITHIN, || (metric(&bridge, "terra_bridge_spool_set_aside") == 0).then_some(()));
}

fn raise_limit(topic: &str) {
    let brokers = std::env::var("TERRA_BRIDGE_TEST_KAFKA").expect("it was there before");
    let admin: AdminClient<rdkafka::client::DefaultClientContext> =
        rdkafka::ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a plain client");
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("max.message.bytes", "20000000");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let changed = runtime.block_on(admin.alter_configs([&change], &AdminOptions::new())).expect("the broker answers");
    assert!(changed.iter().all(Result::is_ok), "{changed:?}");
}

#[test]
fn what_a_full_stream_refuses_waits_in_the_spool_in_its_order() {
    let Some(bus) = Bus::nats() else { return };
    let Bus::Nats { server, prefix } = &bus else { unreachable!("this test is NATS's") };
    let limit = async |bytes: i64| {
        let client = async_nats::connect(server).await.expect("NATS answers");
        let context = async_nats::jetstream::new(client);
        let mut stream = context.get_stream(prefix).await.expect("the bridge made the stream");
        let mut config = stream.info().await.expect("it answers").config.clone();
        config.max_bytes = bytes;
        context.update_stream(config).await.expect("an update");
    };
    let dir = TempDir::new().expect("a temporary directory");
    let mut environment = environment(&bus, &dir);
    environment.push(("TERRA_BRIDGE_LOG__FILTER".into(), "debug".into()));
    let bridge = Bridge::ready(&environment);
    expect_outcome(&bridge, &of_user(0, 0), "kept");
    runtime().block_on(limit(64));
    (1..=20).for_each(|n| expect_outcome(&bridge, &of_user(0, n), "spooled"));
    until("the drainer met the full stream", WITHIN, || {
        let batches = bridge.said("sent a batch from the spool");
        (batches.iter().filter(|batch| batch["stuck"] == 1).count() > 1).then_some(())
    });
    assert_eq!(metric(&bridge, "terra_bridge_spool_set_aside"), 0);
    runtime().block_on(limit(-1));
    until_drained(&bridge);
    assert_eq!(metric(&bridge, "terra_bridge_spool_set_aside"), 0);
    let got = bus.read(&bridge, &bus.topic("daily"), 21);
    assert!(got.iter().map(|got| got.payload.clone()).eq((0..=20).map(|n| of_user(0, n).body)));
}
