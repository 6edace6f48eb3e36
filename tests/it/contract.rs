//! What every bus must do, each against the real one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use terra_bridge::samples::SAMPLES;

use crate::support::bridge::Bridge;
use crate::support::consumers::{Bus, Got};
use crate::support::expected::Sent;
use crate::support::http::Connection;
use crate::support::terra::{Attempt, now};

macro_rules! contract {
    ($($bus:ident),*) => {$(
        mod $bus {
            use super::*;

            contract!(@tests $bus:
                every_known_type_and_a_stranger_arrive_byte_for_byte,
                bodies_of_all_sizes_arrive_byte_for_byte,
                odd_json_arrives_as_it_was_written,
                forged_and_stale_deliveries_publish_nothing,
                what_nobody_can_read_is_kept_as_a_dead_letter,
                what_the_users_route_drops_gets_a_200_and_is_nowhere,
                header_values_that_a_header_cannot_carry_are_encoded,
                the_trace_context_of_a_request_reaches_the_consumer,
                a_drain_under_load_loses_nothing_acknowledged,
                retries_and_captures_are_one_message,
                one_delivery_on_many_connections_at_once_is_one_message
            );
        }
    )*};
    (@tests $bus:ident: $($test:ident),*) => {$(
        #[test]
        fn $test() {
            if let Some(bus) = Bus::$bus() {
                super::$test(&bus);
            }
        }
    )*};
}

contract!(kafka, nats, embedded);

fn every_known_type_and_a_stranger_arrive_byte_for_byte(bus: &Bus) {
    let bridge = Bridge::ready(&bus.forwarding());
    for sample in SAMPLES {
        let json: serde_json::Value = serde_json::from_str(sample.body).unwrap();
        let mut sent = Sent::new(sample.body, (&json).into());
        (sent.trace, sent.reference) = (Some(format!("trace-{}", sample.name)), Some("ref 1".into()));
        let response = sent.attempt().post(bridge.deliveries);
        assert_eq!(response.status, 200, "{}: {:?}", sample.name, response.json());
        assert_eq!(response.json()["outcome"], "kept");
        let got = &bus.read(&bridge, &bus.topic(sample.name), 1)[0];
        let differences = sent.differences(got, response.json()["id"].as_str().unwrap(), bus);
        assert!(differences.is_empty(), "{}: {differences:#?}", sample.name);
        let received = got.attribute("recordedtime").expect("always there");
        assert!(received.len() == 24 && received.ends_with('Z') && received.parse::<jiff::Timestamp>().is_ok());
    }
    let stranger = r#"{"type":"brand.new","user":{"user_id":"u-1","provider":"OURA","reference_id":"customer-7"}}"#;
    assert_eq!(Attempt::of(stranger).post(bridge.deliveries).status, 200);
    let got = &bus.read(&bridge, &bus.topic("unknown"), 1)[0];
    assert_eq!(got.payload, stranger.as_bytes());
    assert_eq!(got.attribute("type").unwrap(), "co.tryterra.brand.new");
    assert_eq!(got.key.as_deref(), Some("u-1"));
    assert_eq!(got.attribute("terraprovider").as_deref(), Some("OURA"));
    assert!(!format!("{:?}", got.headers).contains("customer-7"), "the customer's id stays in the payload");
    assert_eq!(bus.count(&bridge), SAMPLES.len() + 1);
    assert!(!bridge.log().contains("u-1") && !bridge.metrics().contains("u-1"), "no id in logs and metrics");
}

fn the_trace_context_of_a_request_reaches_the_consumer(bus: &Bus) {
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let bridge = Bridge::ready(&bus.environment());
    for parent in [PARENT, "00-0-0-00"] {
        let event = Attempt::of(format!(r#"{{"type":"daily","data":"{parent}"}}"#));
        let traced = event.header("traceparent", parent).header("tracestate", "a=1,b=2");
        assert_eq!(traced.post(bridge.deliveries).status, 200);
    }
    let got = bus.read(&bridge, &bus.topic("daily"), 2);
    let mut contexts: Vec<_> =
        got.iter().map(|got| (got.attribute("traceparent"), got.attribute("tracestate"))).collect();
    contexts.sort();
    let expected = [(None, None), (Some(PARENT.to_owned()), Some("a=1,b=2".to_owned()))];
    assert_eq!(contexts, expected);
    // And as the header that instrumented clients read: the bridge itself exports no span.
    let header = |got: &Got, name: &str| got.headers.get(name).cloned();
    let mut contexts: Vec<_> = got.iter().map(|got| (header(got, "traceparent"), header(got, "tracestate"))).collect();
    contexts.sort();
    assert_eq!(contexts, expected);
}

fn bodies_of_all_sizes_arrive_byte_for_byte(bus: &Bus) {
    let bridge = Bridge::ready(&bus.environment());
    let sizes = [1_usize << 10, 1 << 20, 10 << 20];
    for (place, size) in sizes.into_iter().enumerate() {
        let filling: String = (0..size).map(|at| char::from(b' ' + ((at * 7919 + at / 89) % 94) as u8)).collect();
        let body = serde_json::json!({"type": "daily", "user": {"user_id": "big"}, "data": [filling]}).to_string();
        let response = Attempt::of(body.clone()).post(bridge.deliveries);
        assert_eq!(response.status, 200, "{size}: {:?}", response.json());
        let got = bus.read(&bridge, &bus.topic("daily"), place + 1).pop().unwrap();
        assert!(got.payload == body.as_bytes(), "{size} bytes differ");
    }
}

fn odd_json_arrives_as_it_was_written(bus: &Bus) {
    let bridge = Bridge::ready(&bus.environment());
    let deep = format!(r#"{{"data":{}{},"type":"daily"}}"#, "[".repeat(20_000), "]".repeat(20_000));
    let bodies = [
        "\r\n { \"type\" :\t\"daily\" , \"data\" : [ ] } \n",
        r#"{"\u0074ype":"\u0064aily","data":["\ud83d\ude00","\/"]}"#,
        r#"{"type":"sleep","type":"daily","user":null,"user":{"user_id":"second"}}"#,
        r#"{"data":[{"n":123456789012345678901234567890,"m":1E-400,"k":-0.0}],"type":"daily"}"#,
        r#"{"type":"daily","user":{"user_id":"ünïcode 😀 %41"},"data":[]}"#,
        &deep,
    ];
    for (place, body) in bodies.iter().enumerate() {
        assert_eq!(Attempt::of(*body).post(bridge.deliveries).status, 200, "{place}");
    }
    let got = bus.read(&bridge, &bus.topic("daily"), bodies.len());
    let mut payloads: Vec<_> = got.iter().map(|got| String::from_utf8(got.payload.clone()).unwrap()).collect();
    payloads.sort();
    let mut expected = bodies.map(str::to_owned);
    expected.sort();
    assert_eq!(payloads, expected);
    let keys: Vec<_> = got.iter().filter_map(|got| got.key.as_deref()).collect();
    assert!(keys.contains(&"second") && keys.contains(&"ünïcode 😀 %41"), "{keys:?}");
}

fn forged_and_stale_deliveries_publish_nothing(bus: &Bus) {
    let bridge = Bridge::ready(&bus.environment());
    let body = r#"{"type":"daily","user":{"user_id":"u"}}"#;
    let honest = || Attempt::of(body);
    let mut altered = honest();
    let signature = format!("t={},v1={}", altered.t, altered.v1());
    altered.body[20] ^= 1;
    let attempts = [
        honest().secret("another secret"),
        honest().signature(""),
        honest().signature("t=1,v1=beef"),
        honest().signature(&format!("t={},v1={}", now(), "0".repeat(64))),
        altered.signature(&signature),
        honest().t(now() - 27 * 3600),
        honest().t((now() - 27 * 3600) * 1000),
        honest().t(now() + 3600),
    ];
    for (place, attempt) in attempts.iter().enumerate() {
        let response = attempt.post(bridge.deliveries);
        assert_eq!(response.status, 401, "{place}");
        assert_eq!(response.json()["reason"], "no valid signature", "one answer for all");
    }
    assert_eq!(bus.count(&bridge), 0);
    for (reason, count) in [("forged", 3), ("missing", 1), ("malformed", 1), ("too_old", 2), ("too_new", 1)] {
        let line = format!("terra_bridge_rejections_total{{endpoint=\"terra\",reason=\"{reason}\"}} {count}");
        assert!(bridge.metrics().contains(&line), "{line}");
    }
    // A delivery that is 20 hours old is a retry.
    assert_eq!(honest().t(now() - 20 * 3600).post(bridge.deliveries).status, 200);
    assert_eq!(bus.count(&bridge), 1);
}

fn what_nobody_can_read_is_kept_as_a_dead_letter(bus: &Bus) {
    let bridge = Bridge::ready(&bus.environment());
    let letters: [(&[u8], &str); 5] = [
        (b"", "not-json"),
        (b"not json", "not-json"),
        (b"[1]", "not-an-object"),
        (b"{\"data\":[]}", "no-type"),
        (b"{\"type\":\"daily\",\"x\":\"\xff\xfe\"}", "not-utf8"),
    ];
    for (place, (body, reason)) in letters.iter().enumerate() {
        let response = Attempt::of(*body).post(bridge.deliveries);
        assert_eq!((response.status, response.json()["outcome"].as_str()), (200, Some("dead_lettered")), "{reason}");
        let got = bus.read(&bridge, &bus.topic("dead-letter"), place + 1).pop().unwrap();
        assert_eq!(got.payload, *body);
        assert_eq!(got.attribute("type").as_deref(), Some("co.tryterra.dead-letter"));
        assert_eq!(got.headers["content-type"], "application/octet-stream");
        assert_eq!(got.attribute("terradeadletter").as_deref(), Some(*reason));
        assert_eq!(got.key, got.attribute("id"));
    }
    assert_eq!(bus.count(&bridge), letters.len());
}

fn what_the_users_route_drops_gets_a_200_and_is_nowhere(bus: &Bus) {
    let mut environment = bus.environment();
    environment.push(("TERRA_BRIDGE_ROUTES__TYPES".into(), r#"{ "lab_report.*" = false, sleep = "T" }"#.into()));
    environment.last_mut().unwrap().1 = format!(r#"{{ "lab_report.*" = false, sleep = "{}" }}"#, bus.topic("nights"));
    let bridge = Bridge::ready(&environment);
    let response = Attempt::of(r#"{"type":"lab_report.completed"}"#).post(bridge.deliveries);
    assert_eq!((response.status, response.json()["outcome"].as_str()), (200, Some("dropped")));
    assert_eq!(bus.count(&bridge), 0);
    assert_eq!(Attempt::of(r#"{"type":"sleep"}"#).post(bridge.deliveries).status, 200);
    assert_eq!(bus.read(&bridge, &bus.topic("nights"), 1)[0].attribute("type").as_deref(), Some("co.tryterra.sleep"));
}

fn header_values_that_a_header_cannot_carry_are_encoded(bus: &Bus) {
    let bridge = Bridge::ready(&bus.environment());
    let long = "x".repeat(5000);
    let users = ["\"quoted\" 100%", "日本", "line\nbreak", "\u{0}\u{7f}", &long];
    for user in users {
        let body = serde_json::json!({"type": "body", "user": {"user_id": user, "provider": user}}).to_string();
        let attempt = Attempt::of(body).header("x-terra-trace-id", "caf\u{e9} \"1\"");
        assert_eq!(attempt.post(bridge.deliveries).status, 200, "{user:?}");
    }
    let got = bus.read(&bridge, &bus.topic("body"), users.len());
    for user in &users[..2] {
        let one = got.iter().find(|got| got.key.as_deref() == Some(user)).unwrap_or_else(|| panic!("{user:?}"));
        assert_eq!(one.attribute("terraprovider").as_deref(), Some(*user));
        assert_eq!(one.attribute("terratraceid").as_deref(), Some("caf\u{e9} \"1\""));
    }
    let digests = got.iter().filter(|got| got.attribute("subject").is_some_and(|user| user.starts_with("sha256:")));
    assert_eq!(digests.count(), 3, "CloudEvents has no control characters; what is long fits in no header");
}

fn a_drain_under_load_loses_nothing_acknowledged(bus: &Bus) {
    let mut bridge = Bridge::ready(&bus.environment());
    let to = bridge.deliveries;
    let (kept, enough) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let senders: Vec<_> = (0..8)
        .map(|sender| {
            let (kept, enough) = (kept.clone(), enough.clone());
            std::thread::spawn(move || send_until_refused(to, sender, &kept, &enough))
        })
        .collect();
    crate::support::until("load", Duration::from_secs(30), || (kept.lock().unwrap().len() > 200).then_some(()));
    bridge.signal("TERM");
    assert_eq!(bridge.ended(Duration::from_secs(25)).code(), Some(0));
    enough.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.join().unwrap();
    }
    let kept = kept.lock().unwrap().clone();
    let bridge = Bridge::ready(&bus.environment());
    let count = bus.count(&bridge);
    let got = bus.read(&bridge, &bus.topic("daily"), count);
    let ids: std::collections::HashSet<_> = got.iter().filter_map(|got| got.attribute("id")).collect();
    let lost = kept.iter().filter(|id| !ids.contains(*id)).count();
    assert_eq!(lost, 0, "of {} acknowledged", kept.len());
}

fn send_until_refused(to: std::net::SocketAddr, sender: usize, kept: &Mutex<Vec<String>>, enough: &AtomicBool) {
    for n in 0.. {
        let body = format!(r#"{{"type":"daily","user":{{"user_id":"u{sender}"}},"n":{n}}}"#);
        let answer = Connection::open(to).and_then(|mut connection| Attempt::of(body).post_on(&mut connection));
        match answer {
            Ok(response) if response.status == 200 => {
                kept.lock().unwrap().push(response.json()["id"].as_str().expect("an id").to_owned());
            }
            _ if enough.load(Ordering::Relaxed) => return,
            Ok(_) | Err(_) => std::thread::yield_now(),
        }
    }
}

fn retries_and_captures_are_one_message(bus: &Bus) {
    let bridge = Bridge::ready(&bus.environment());
    let body = r#"{"type":"daily","user":{"user_id":"u"},"data":[1]}"#;
    let attempt = |t: i64, trace: &str| Attempt::of(body).t(t).header("x-terra-trace-id", trace);
    let first = now() - 60;
    let outcomes = [
        ("the first", attempt(first, "a"), "kept"),
        ("a retry", attempt(first, "a"), "duplicate"),
        ("a retry signed anew", attempt(first + 1, "a"), "duplicate"),
        ("a capture of the first with other headers", attempt(first, "b"), "duplicate"),
        ("a capture of the retry with other headers", attempt(first + 1, "c"), "duplicate"),
        ("a capture without headers", Attempt::of(body).t(first), "duplicate"),
        ("another delivery of the same bytes", attempt(first + 2, "d"), "kept"),
    ];
    for (what, attempt, outcome) in outcomes {
        let response = attempt.post(bridge.deliveries);
        assert_eq!((response.status, response.json()["outcome"].as_str()), (200, Some(outcome)), "{what}");
    }
    assert_eq!(bus.count(&bridge), 2);
    assert!(bridge.metrics().contains("terra_bridge_dedupe_hits_total 5"), "{}", bridge.metrics());
    assert!(bridge.metrics().contains("terra_bridge_dedupe_entries 3"), "{}", bridge.metrics());
}

fn one_delivery_on_many_connections_at_once_is_one_message(bus: &Bus) {
    const CONNECTIONS: usize = 16;
    const DELIVERIES: usize = 50;
    let bridge = Bridge::ready(&bus.environment());
    let (to, t, together) = (bridge.deliveries, now(), Arc::new(std::sync::Barrier::new(CONNECTIONS)));
    let senders: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let together = together.clone();
            std::thread::spawn(move || {
                let mut outcomes = Vec::new();
                for n in 0..DELIVERIES {
                    let attempt = Attempt::of(format!(r#"{{"type":"daily","n":{n}}}"#)).t(t);
                    // A duplicate closes the connection.
                    let mut connection = Connection::open(to).unwrap();
                    together.wait();
                    let response = attempt.header("x-terra-trace-id", "same").post_on(&mut connection).unwrap();
                    assert_eq!(response.status, 200);
                    outcomes.push(response.json()["outcome"].as_str().unwrap().to_owned());
                }
                outcomes
            })
        })
        .collect();
    let outcomes: Vec<Vec<String>> = senders.into_iter().map(|sender| sender.join().unwrap()).collect();
    for n in 0..DELIVERIES {
        let kept = outcomes.iter().filter(|of_one| of_one[n] == "kept").count();
        let duplicate = outcomes.iter().filter(|of_one| of_one[n] == "duplicate").count();
        assert_eq!((kept, duplicate), (1, CONNECTIONS - 1), "delivery {n}");
    }
    assert_eq!(bus.count(&bridge), DELIVERIES);
}
