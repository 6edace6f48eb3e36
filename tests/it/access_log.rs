//! The access log: a line for each delivery, or for each that was not kept, which an attacker cannot make many of.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::bridge::Bridge;
use crate::support::changing::{BODY, RELOADED, Running};
use crate::support::consumers::Bus;
use crate::support::terra::Attempt;
use crate::support::until;

const LOGGED_WITHIN: Duration = Duration::from_secs(10);

const TRACE: &str = "5e0c-1a:chunk:3";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn lines(bridge: &Bridge, count: usize) -> Vec<Value> {
    until("a line for each", LOGGED_WITHIN, || {
        let said = bridge.said("delivery");
        (said.len() >= count).then_some(said)
    })
}

/// The line's fields that have a value, without its time.
fn told(line: &Value) -> Value {
    let mut line = line.clone();
    let fields = line.as_object_mut().expect("fields");
    assert!(fields.remove("milliseconds").is_some_and(|took| took.is_u64()), "{fields:?}");
    fields.retain(|name, value| !value.is_null() && !["message", "level"].contains(&name.as_str()));
    line
}

#[test]
fn a_refused_delivery_has_a_line_and_a_kept_one_has_none() {
    let (_bus, bridge) = Bus::embedded_with(&[]);
    assert_eq!(Attempt::of(BODY).post(bridge.deliveries).status, 200);
    let odd = Attempt::of(BODY).header("x-terra-trace-id", "a \"b\" \u{e9}").secret("wrong");
    assert_eq!(odd.post(bridge.deliveries).status, 401);
    let expected = json!({
        "endpoint": "terra", "outcome": "rejected", "reason": "forged", "terra_trace_id": "a?\"b\"???",
    });
    assert_eq!(told(&lines(&bridge, 1)[0]), expected);

    let (bus, bridge) = Bus::embedded_with(&[("EMBEDDED__RESERVE", "100000 TiB")]);
    let refused = Attempt::of(BODY).header("x-terra-trace-id", TRACE).header("traceparent", PARENT);
    assert_eq!(refused.post(bridge.deliveries).status, 503);
    let mut line = told(&lines(&bridge, 1)[0]);
    let id = line.as_object_mut().expect("fields").remove("id").expect("an id");
    assert_eq!(id.as_str().map(str::len), Some(64));
    let expected = json!({
        "endpoint": "terra", "type": "daily", "outcome": "refused", "reason": "transient",
        "topic": bus.topic("daily"), "terra_trace_id": TRACE, "bytes": BODY.len(),
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    });
    assert_eq!(line, expected);
}

#[test]
fn every_delivery_has_a_line_where_all_are_wanted() {
    let (bus, bridge) = Bus::embedded_with(&[("LOG__ACCESS", "all")]);
    let kept = Attempt::of(BODY).post(bridge.deliveries).json();
    let again = Attempt::of(BODY);
    again.post(bridge.deliveries);
    Attempt::of("no json").post(bridge.deliveries);
    Attempt::of(r#"{"type":"brand.new"}"#).post(bridge.deliveries);
    Attempt::of(BODY).path("/nowhere").post(bridge.deliveries);
    let lines: Vec<_> = lines(&bridge, 5).iter().map(told).collect();
    assert_eq!((&lines[0]["outcome"], &lines[0]["id"]), (&"kept".into(), &kept["id"]));
    assert_eq!(lines[1]["type"], "daily");
    assert_eq!((&lines[2]["outcome"], &lines[2]["reason"]), (&"dead_lettered".into(), &"not-json".into()));
    assert_eq!(lines[2]["topic"], bus.topic("dead-letter"));
    assert_eq!((&lines[3]["type"], &lines[3]["topic"]), (&"unknown".into(), &bus.topic("unknown").into()));
    assert_eq!(lines[4], json!({"outcome": "unknown_path"}));
}

#[test]
fn who_cannot_sign_causes_a_bounded_number_of_lines() {
    let (_bus, bridge) = Bus::embedded_with(&[("LOG__ACCESS", "all")]);
    for number in 0..40 {
        let body = format!(r#"{{"type":"daily","n":{number}}}"#);
        assert_eq!(Attempt::of(body.clone()).secret("wrong").post(bridge.deliveries).status, 401);
        assert_eq!(Attempt::of(body.clone()).path("/nowhere").post(bridge.deliveries).status, 404);
        assert_eq!(Attempt::of(body).post(bridge.deliveries).status, 200);
    }
    let of = |lines: &[Value], outcome: &str| lines.iter().filter(|line| line["outcome"] == outcome).count();
    let lines = until("a line for each kept one", LOGGED_WITHIN, || {
        Some(bridge.said("delivery")).filter(|lines| of(lines, "kept") == 40)
    });
    // On a busy machine the forgeries may take longer than an interval.
    let (forged, unknown) = (of(&lines, "rejected"), of(&lines, "unknown_path"));
    assert!((1..40).contains(&forged) && (1..40).contains(&unknown), "{forged} {unknown}");
}

#[test]
fn a_reload_changes_what_has_a_line() {
    let bus = Bus::embedded().expect("needs no broker");
    let running = Running::start(&bus, "[log]\naccess = \"off\"\n", &[]);
    assert_eq!(running.status(&Attempt::of(BODY).secret("wrong")), 401);
    assert_eq!(running.reload("[log]\naccess = \"all\"\n", RELOADED)["changed"], "log.access");
    assert_eq!(running.status(&Attempt::of(BODY)), 200);
    assert_eq!(lines(&running.bridge, 1)[0]["outcome"], "kept");
}
