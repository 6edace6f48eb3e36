//! NATS streams that others made or changed: what the bridge adds to them, what it leaves, what it refuses.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::bridge::Bridge;
use crate::support::consumers::{Bus, runtime};
use crate::support::terra::Attempt;
use crate::support::until;

const WITHIN: Duration = Duration::from_secs(30);

/// Asks JetStream in its own words: no client's idea of a stream comes in between.
fn ask(bus: &Bus, request: &str, body: &Value) -> Value {
    let Bus::Nats { server, .. } = bus else { unreachable!("these tests are NATS's") };
    let answer = runtime().block_on(async {
        let client = async_nats::connect(server).await.expect("NATS answers");
        client.request(format!("$JS.API.{request}"), body.to_string().into()).await.expect("JetStream answers")
    });
    let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    assert!(answer["error"].is_null(), "{request}: {answer}");
    answer
}

/// A stream that carries the bridge's mark, so that the bridge may add subjects to it.
fn ours(bus: &Bus, more: &Value) -> Value {
    let mut config = json!({
        "name": bus.prefix(),
        "subjects": [bus.topic("daily")],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "num_replicas": 1,
        "metadata": {"terra-bridge": "0.0.0"},
    });
    config.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    ask(bus, &format!("STREAM.CREATE.{}", bus.prefix()), &config)["config"].clone()
}

fn is_kept(bridge: &Bridge, kind: &str) {
    until("it is kept", WITHIN, || {
        let attempt = Attempt::of(format!(r#"{{"type":"{kind}","user":{{"user_id":"u"}}}}"#));
        (attempt.post(bridge.deliveries).status == 200).then_some(())
    });
}

#[test]
fn topics_are_added_and_nothing_else_of_a_stream_changes() {
    let Some(bus) = Bus::nats() else { return };
    let more = json!({
        "allow_atomic": true,
        "allow_batched": true,
        "allow_msg_ttl": true,
        "allow_rollup_hdrs": true,
        "allow_direct": true,
        "compression": "s2",
        "max_msg_size": 1 << 20,
        "max_age": 86_400_000_000_000_u64,
        "duplicate_window": 3_600_000_000_000_u64,
        "consumer_limits": {"max_ack_pending": 1000},
        "subject_delete_marker_ttl": 60_000_000_000_u64,
        "description": "somebody's",
    });
    let mut before = ours(&bus, &more);
    for (key, value) in more.as_object().expect("an object") {
        assert_eq!(&before[key], value, "this server knows {key}");
    }
    let bridge = Bridge::ready(&bus.environment());
    is_kept(&bridge, "sleep");
    let mut after = ask(&bus, &format!("STREAM.INFO.{}", bus.prefix()), &json!({}))["config"].clone();
    let has = |config: &Value| config["subjects"].as_array().expect("subjects").len();
    assert!(has(&after) > 1);
    for config in [&mut before, &mut after] {
        config["subjects"] = Value::Null;
    }
    assert_eq!(before, after);
}

#[test]
fn a_topic_that_another_stream_takes_keeps_out_no_other() {
    let Some(bus) = Bus::nats() else { return };
    ours(&bus, &json!({}));
    let other = format!("{}-other", bus.prefix());
    ask(&bus, &format!("STREAM.CREATE.{other}"), &json!({"name": other, "subjects": [bus.topic("sleep")]}));
    let bridge = Bridge::ready(&bus.environment());
    is_kept(&bridge, "body");
    is_kept(&bridge, "daily");
    let sleep = Attempt::of(r#"{"type":"sleep","user":{"user_id":"u"}}"#);
    assert_eq!(sleep.post(bridge.deliveries).status, 503);
    until("an ERROR says which and why", WITHIN, || {
        let (log, topic) = (bridge.log(), bus.topic("sleep"));
        let says = |line: &str| line.contains("ERROR") && line.contains("another stream") && line.contains(&topic);
        log.lines().any(says).then_some(())
    });
}

#[test]
fn a_stream_that_acknowledges_before_it_stores_takes_nothing() {
    let Some(bus) = Bus::nats() else { return };
    ours(&bus, &json!({"persist_mode": "async"}));
    let bridge = Bridge::start(&bus.environment());
    until("an ERROR names it", WITHIN, || {
        let log = bridge.log();
        log.lines().any(|line| line.contains("ERROR") && line.contains("persist_mode")).then_some(())
    });
    assert_eq!(Attempt::of(r#"{"type":"daily"}"#).post(bridge.deliveries).status, 503);
}
