//! Events that Terra sends as a link: fetched from a real HTTPS server, which is slow, broken, or lies.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::support::bridge::Bridge;
use crate::support::brokers::Broker;
use crate::support::consumers::{Bus, Got};
use crate::support::store::{Answer, Store};
use crate::support::terra::{Attempt, now};
use crate::support::until;

pub const LINK_IS_OPEN: i64 = 300;
/// Long enough for a retry to follow it.
pub const LINK_STAYS_OPEN: i64 = 600;

const LEFT_TO_A_RETRY: &str = "could not fetch what an event links to, answered 503: Terra will retry";
const LEFT_AS_A_LINK: &str =
    "could not fetch what an event links to: the link goes to its own topic, and expires within minutes";

pub const SLEEP: &str =
    "{ \"data\" : [1.50, \"\\u00e9\"],\n\"user\":{\"user_id\":\"u-7\",\"provider\":\"OURA\"}, \"type\":\"sleep\" }\n";

pub fn link(url: &str, expires_in: i64) -> Attempt {
    let body = serde_json::json!({"type": "s3_payload", "status": "success", "url": url, "expires_in": expires_in});
    emitted(Attempt::of(body.to_string()), 0)
}

fn emitted(attempt: Attempt, seconds_ago: i64) -> Attempt {
    attempt.header("x-terra-ordering-timestamp", &((now() - seconds_ago) * 1000).to_string())
}

fn bridge(bus: &Bus, store: &Store, settings: &[(&str, &str)]) -> Bridge {
    let mut environment = bus.environment_with(settings);
    environment.splice(0..0, store.environment());
    Bridge::ready(&environment)
}

fn embedded(settings: &[(&str, &str)]) -> (Bus, Store, Bridge) {
    let (bus, store) = (Bus::embedded().expect("needs no broker"), Store::start());
    let bridge = bridge(&bus, &store, settings);
    (bus, store, bridge)
}

fn kept(bridge: &Bridge, attempt: &Attempt) -> String {
    let reply = attempt.post(bridge.deliveries);
    assert_eq!((reply.status, &reply.json()["outcome"]), (200, &"kept".into()), "{}", reply.json());
    reply.json()["id"].as_str().expect("an id").to_owned()
}

/// The link itself, as published when the fetch failed.
fn unfetched(got: &Got, attempt: &Attempt, reason: &str) {
    assert_eq!(got.payload, attempt.body);
    assert_eq!(got.attribute("type").as_deref(), Some("co.tryterra.s3_payload"));
    assert_eq!(got.attribute("terraunfetched").as_deref(), Some(reason));
    assert_eq!(got.attribute("terrafetched"), None);
}

fn the_real_event_is_on_its_topic(bus: &Bus) {
    let store = Store::start();
    let bridge = bridge(bus, &store, &[]);
    let attempt = link(&store.hold("/sleep", [Answer::json(SLEEP)]), LINK_IS_OPEN);
    let attempt = attempt.header("x-terra-trace-id", "trace-1").header("terra-reference", "r-1");
    let id = kept(&bridge, &attempt);
    let got = &bus.read(&bridge, &bus.topic("sleep"), 1)[0];
    assert_eq!(got.payload, SLEEP.as_bytes(), "as fetched, to the byte");
    assert_eq!((got.key.as_deref(), got.attribute("partitionkey").as_deref()), (Some("u-7"), Some("u-7")));
    assert_eq!(got.attribute("id"), Some(id.clone()));
    assert_eq!(got.attribute("type").as_deref(), Some("co.tryterra.sleep"));
    for (name, value) in [
        ("terrafetched", "true"),
        ("terratraceid", "trace-1"),
        ("correlationid", "r-1"),
        ("subject", "u-7"),
        ("terraprovider", "OURA"),
        ("sequence", &attempt.headers[1].1),
    ] {
        assert_eq!(got.attribute(name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(got.attribute("terraunfetched"), None);
    let retry = attempt.post(bridge.deliveries).json();
    assert_eq!((&retry["outcome"], &retry["id"]), (&"duplicate".into(), &id.into()));
    let asked = store.asked("/sleep");
    assert_eq!(asked.len(), 1, "a duplicate is not fetched again");
    let head = asked[0].to_ascii_lowercase();
    assert!(head.contains("accept-encoding: identity\r\n"), "{head}");
    assert!(bridge.metrics().contains("terra_bridge_fetches_total{endpoint=\"terra\",result=\"fetched\"} 1"));
}

on_every_bus!(the_real_event_is_on_its_topic);

#[test]
fn a_link_that_leads_to_nothing_is_kept_with_the_reason() {
    let (bus, store, bridge) = embedded(&[("SERVER__MAX_BODY", "100 KiB")]);
    let redirect = format!("location: {}\r\n", store.hold("/elsewhere", [Answer::json(SLEEP)]));
    let large = vec![b' '; 200 << 10];
    let nested = r#"{"type":"s3_payload","status":"success","url":"https://localhost/","expires_in":600}"#;
    let held = |path: &str, answer: Answer| store.hold(path, [answer]);
    let cases = [
        ("denied", held("/denied", Answer::status("403 Forbidden", ""))),
        ("denied", store.link("/missing")),
        ("denied", held("/no-content", Answer::status("204 No Content", ""))),
        ("redirected", held("/redirect", Answer::status("302 Found", &redirect))),
        ("redirected", held("/moved", Answer::status("307 Temporary Redirect", &redirect))),
        ("too-large", held("/large", Answer::json(&large))),
        ("too-large", held("/chunked", Answer::chunked(&large))),
        ("too-large", held("/liar", Answer::lying(1 << 40, "{}"))),
        ("encoded", held("/gzip", Answer::with("content-encoding: gzip\r\n", SLEEP))),
        ("nested", held("/nested", Answer::json(nested))),
        ("malformed", store.link("/sleep").replace("https", "http")),
        ("malformed", String::new()),
        ("malformed", store.link("/sleep").replace("localhost", "me@localhost")),
        ("not-allowed", store.link("/sleep").replace("localhost", "127.0.0.2")),
        ("not-allowed", "https://localhost/sleep".to_owned()),
        ("not-allowed", "https://bucket.example.com/sleep".to_owned()),
    ];
    for (_, url) in &cases {
        kept(&bridge, &link(url, LINK_STAYS_OPEN));
    }
    let got = bus.read(&bridge, &bus.topic("s3_payload"), cases.len());
    for ((reason, url), got) in cases.iter().zip(&got) {
        let body = serde_json::from_slice::<serde_json::Value>(&got.payload).expect("the link's own JSON");
        assert_eq!(body["url"], *url);
        assert_eq!(got.attribute("terraunfetched").as_deref(), Some(*reason), "{url}");
    }
    assert!(store.asked("/elsewhere").is_empty(), "nobody follows a redirect");
    let said = bridge.said(LEFT_AS_A_LINK);
    assert_eq!(said.len(), 1, "in ten seconds");
    assert_eq!(
        (&said[0]["level"], &said[0]["endpoint"], &said[0]["reason"]),
        (&"WARN".into(), &"terra".into(), &"denied".into())
    );
}

#[test]
fn a_link_that_the_store_denies_after_its_time_is_expired() {
    let (bus, store, bridge) = embedded(&[]);
    let url = store.hold("/late", [Answer::status("403 Forbidden", "")]);
    let body = link(&url, LINK_IS_OPEN).body;
    let attempt = emitted(Attempt::of(body), LINK_IS_OPEN + 1);
    kept(&bridge, &attempt);
    unfetched(&bus.read(&bridge, &bus.topic("s3_payload"), 1)[0], &attempt, "expired");
}

#[test]
fn no_name_leads_into_an_inner_network() {
    // The host is allowed, but its address is this machine's.
    let (bus, store) = (Bus::embedded().expect("needs no broker"), Store::start());
    let settings = [("S3__ALLOW_NETWORKS", "10.0.0.0/8")];
    let bridge = bridge(&bus, &store, &settings);
    for host in ["localhost", "127.0.0.1"] {
        let attempt = link(&store.hold("/inner", [Answer::json(SLEEP)]).replace("localhost", host), LINK_STAYS_OPEN);
        kept(&bridge, &attempt);
    }
    for got in bus.read(&bridge, &bus.topic("s3_payload"), 2) {
        assert_eq!(got.attribute("terraunfetched").as_deref(), Some("not-allowed"));
    }
    assert!(store.asked("/inner").is_empty());
}

#[test]
fn what_fails_for_the_moment_is_fetched_again_within_the_deadline() {
    let (bus, store, bridge) = embedded(&[]);
    let truncated = Answer::lying(SLEEP.len() + 100, SLEEP);
    for (n, failures) in [
        vec![Answer::status("503 Slow Down", ""), Answer::status("500 Internal Server Error", "")],
        vec![Answer::status("429 Too Many Requests", "")],
        vec![truncated],
        vec![Answer::Raw(Vec::new())],
        vec![Answer::Raw(b"nonsense".to_vec())],
        vec![Answer::Stall(b"HTTP/1.1 200 OK\r\n".to_vec())],
        vec![Answer::Raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{".to_vec())],
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/{n}");
        let attempts = failures.len() + 1;
        let answers = [failures, vec![Answer::json(SLEEP)]].concat();
        kept(&bridge, &link(&store.hold(&path, answers), LINK_IS_OPEN));
        assert_eq!(store.asked(&path).len(), attempts, "{path}");
        assert_eq!(bus.read(&bridge, &bus.topic("sleep"), n + 1)[n].payload, SLEEP.as_bytes());
    }
}

#[test]
fn a_store_that_stays_in_trouble_gets_a_503_while_the_link_stays_open_for_a_retry() {
    let (bus, store, bridge) = embedded(&[("SERVER__DEADLINE", "2s"), ("SERVER__PUBLISH_TIMEOUT", "1s")]);
    let Answer::Raw(whole) = Answer::json(SLEEP) else { panic!("it is raw") };
    for (n, (reason, answer)) in [
        ("unavailable", Answer::status("503 Slow Down", "")),
        ("too-slow", Answer::Stall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec())),
        ("too-slow", Answer::Trickle(whole)),
    ]
    .into_iter()
    .enumerate()
    {
        let url = store.hold(&format!("/{n}"), [answer]);
        let patient = link(&url, LINK_STAYS_OPEN);
        let asked = Instant::now();
        let reply = patient.post(bridge.deliveries);
        assert_eq!((reply.status, &reply.json()["outcome"]), (503, &"unfetched".into()));
        assert!(reply.header("retry-after").is_some());
        assert!(asked.elapsed() < Duration::from_secs(3), "within the deadline of 2 s: {:?}", asked.elapsed());
        // The same delivery later, when the link is about to expire.
        let late = emitted(Attempt::of(patient.body.clone()), LINK_STAYS_OPEN - 5 * 60);
        kept(&bridge, &late);
        unfetched(&bus.read(&bridge, &bus.topic("s3_payload"), 2 * n + 1)[2 * n], &late, reason);
        kept(&bridge, &link(&url, LINK_IS_OPEN));
        let got = bus.read(&bridge, &bus.topic("s3_payload"), 2 * n + 2);
        assert_eq!(got[2 * n + 1].attribute("terraunfetched").as_deref(), Some(reason));
    }
    let said = bridge.said(LEFT_TO_A_RETRY);
    let of_first = said.first().map(|line| (&line["level"], &line["endpoint"], &line["reason"]));
    assert_eq!(of_first, Some((&"WARN".into(), &"terra".into(), &"unavailable".into())));
    // A retry fetches a link that is still valid.
    let url = store.hold("/mended", [Answer::status("503 Slow Down", "")]);
    let attempt = link(&url, LINK_STAYS_OPEN);
    assert_eq!(attempt.post(bridge.deliveries).status, 503);
    store.hold("/mended", [Answer::json(SLEEP)]);
    kept(&bridge, &attempt);
    assert_eq!(bus.read(&bridge, &bus.topic("sleep"), 1)[0].payload, SLEEP.as_bytes());
}

#[test]
fn a_store_that_takes_connections_and_never_speaks_is_given_up_in_time() {
    let (bus, store) = (Bus::embedded().expect("needs no broker"), Store::start());
    // Nobody accepts: the kernel completes the connection, and no answer comes.
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let host = format!("127.0.0.1:{}", silent.local_addr().expect("is bound").port());
    let settings = [("S3__HOSTS", host.as_str()), ("SERVER__DEADLINE", "2s"), ("SERVER__PUBLISH_TIMEOUT", "1s")];
    let bridge = bridge(&bus, &store, &settings);
    let asked = Instant::now();
    let attempt = link(&format!("https://{host}/sleep"), LINK_IS_OPEN);
    kept(&bridge, &attempt);
    assert!(asked.elapsed() < Duration::from_secs(3), "within the deadline of 2 s: {:?}", asked.elapsed());
    unfetched(&bus.read(&bridge, &bus.topic("s3_payload"), 1)[0], &attempt, "too-slow");
}

#[test]
fn a_store_that_nobody_vouches_for_or_that_is_vouched_for_by_another_name_is_not_trusted() {
    let stranger = Store::start();
    let ca = stranger.authority.ca().display().to_string();
    for (store, settings) in [
        (Store::start(), vec![("S3__CA", ca.as_str())]),
        (Store::with_certificate_for(&["store.example.com", "127.0.0.2"]), Vec::new()),
    ] {
        let bus = Bus::embedded().expect("needs no broker");
        let bridge = bridge(&bus, &store, &settings);
        let by_name = link(&store.hold("/sleep", [Answer::json(SLEEP)]), LINK_IS_OPEN);
        let by_address = link(&store.link("/sleep").replace("localhost", "127.0.0.1"), LINK_IS_OPEN);
        for attempt in [&by_name, &by_address] {
            kept(&bridge, attempt);
        }
        let got = bus.read(&bridge, &bus.topic("s3_payload"), 2);
        unfetched(&got[0], &by_name, "untrusted");
        unfetched(&got[1], &by_address, "untrusted");
        assert!(store.asked("/sleep").is_empty());
    }
}

#[test]
fn fetches_are_counted_for_each_endpoint() {
    let staging = [("ENDPOINTS__TERRA__PATH", "/terra"), ("ENDPOINTS__STAGING__PATH", "/staging")];
    let secrets = ("ENDPOINTS__STAGING__SECRETS", "env:TERRA_SIGNING_SECRET");
    let (_bus, store, bridge) = embedded(&[&staging[..], &[secrets]].concat());
    kept(&bridge, &link(&store.hold("/sleep", [Answer::json(SLEEP)]), LINK_IS_OPEN));
    for path in ["/one", "/two"] {
        kept(&bridge, &link(&store.hold(path, [Answer::json(SLEEP)]), LINK_IS_OPEN).path("/staging"));
    }
    kept(&bridge, &link(&store.link("/missing"), LINK_IS_OPEN).path("/staging"));
    let metrics = bridge.metrics();
    let mut counted: Vec<_> = metrics.lines().filter(|line| line.starts_with("terra_bridge_fetches_total{")).collect();
    counted.retain(|line| !line.ends_with(" 0"));
    counted.sort_unstable();
    let expected = [
        "terra_bridge_fetches_total{endpoint=\"staging\",result=\"denied\"} 1",
        "terra_bridge_fetches_total{endpoint=\"staging\",result=\"fetched\"} 2",
        "terra_bridge_fetches_total{endpoint=\"terra\",result=\"fetched\"} 1",
    ];
    assert_eq!(counted, expected);
}

#[test]
fn what_nobody_can_read_of_what_was_fetched_is_a_dead_letter() {
    let (bus, store, bridge) = embedded(&[]);
    for (n, (reason, body, answer)) in [
        ("not-json", "<Error/>", Answer::json("<Error/>")),
        ("no-type", "{}", Answer::json("{}")),
        ("not-an-object", "[]", Answer::json("[]")),
        ("not-json", &SLEEP[..20], Answer::lying(20, SLEEP)),
    ]
    .into_iter()
    .enumerate()
    {
        let reply = link(&store.hold(&format!("/{n}"), [answer]), LINK_IS_OPEN).post(bridge.deliveries);
        assert_eq!((reply.status, &reply.json()["outcome"]), (200, &"dead_lettered".into()));
        let got = &bus.read(&bridge, &bus.topic("dead-letter"), n + 1)[n];
        assert_eq!(got.payload, body.as_bytes());
        assert_eq!(got.attribute("terradeadletter").as_deref(), Some(reason));
        assert_eq!(got.attribute("terrafetched").as_deref(), Some("true"));
    }
}

#[test]
fn a_type_that_is_dropped_is_dropped_also_when_fetched() {
    let (bus, store, bridge) = embedded(&[("ROUTES__TYPES", "{ sleep = false }")]);
    let reply = link(&store.hold("/sleep", [Answer::json(SLEEP)]), LINK_IS_OPEN).post(bridge.deliveries);
    assert_eq!((reply.status, &reply.json()["outcome"]), (200, &"dropped".into()));
    kept(&bridge, &link(&store.hold("/daily", [Answer::json(SLEEP.replace("sleep", "daily"))]), LINK_IS_OPEN));
    assert_eq!(bus.count(&bridge), 1);
}

#[test]
fn a_link_whose_own_type_is_dropped_is_not_followed() {
    let (bus, store, bridge) = embedded(&[("ROUTES__TYPES", "{ s3_upload = false }")]);
    let upload = |url: &str| {
        let attempt = link(url, LINK_STAYS_OPEN);
        let body = String::from_utf8(attempt.body.clone()).expect("text").replace("s3_payload", "s3_upload");
        attempt.body(body)
    };
    let failing = store.hold("/failing", [Answer::status("503 Slow Down", "")]);
    for url in [store.hold("/dropped", [Answer::json(SLEEP)]), store.link("/missing"), failing, String::new()] {
        let reply = upload(&url).post(bridge.deliveries);
        assert_eq!((reply.status, &reply.json()["outcome"]), (200, &"dropped".into()), "{url}");
    }
    for path in ["/dropped", "/missing", "/failing"] {
        assert!(store.asked(path).is_empty(), "{path}");
    }
    kept(&bridge, &link(&store.hold("/payload", [Answer::json(SLEEP)]), LINK_IS_OPEN));
    assert_eq!(bus.read(&bridge, &bus.topic("sleep"), 1)[0].payload, SLEEP.as_bytes(), "the other type's are");
    assert_eq!(bus.count(&bridge), 1);
}

#[test]
fn a_link_is_forwarded_where_the_user_wants_that() {
    let (bus, store, bridge) = embedded(&[("S3__MODE", "forward")]);
    let attempt = link(&store.hold("/sleep", [Answer::json(SLEEP)]), LINK_IS_OPEN);
    kept(&bridge, &attempt);
    let got = &bus.read(&bridge, &bus.topic("s3_payload"), 1)[0];
    assert_eq!(got.payload, attempt.body);
    assert_eq!((got.attribute("terrafetched"), got.attribute("terraunfetched")), (None, None));
    assert!(store.asked("/sleep").is_empty());
}

#[test]
fn fetched_bytes_share_the_memory_of_all_bodies() {
    let settings = [("SERVER__MAX_BODY", "1 MiB"), ("SERVER__BYTES_IN_FLIGHT", "1 MiB"), ("SERVER__DEADLINE", "2s")];
    let settings = [&settings[..], &[("SERVER__PUBLISH_TIMEOUT", "1s")]].concat();
    let (bus, store, bridge) = embedded(&settings);
    let body = format!("{{\"type\":\"sleep\",\"filling\":\"{}\"}}", "x".repeat((1 << 20) - 100));
    let attempt = link(&store.hold("/large", [Answer::json(body)]), LINK_IS_OPEN);
    kept(&bridge, &attempt);
    unfetched(&bus.read(&bridge, &bus.topic("s3_payload"), 1)[0], &attempt, "no-room");
}

#[test]
fn what_is_too_large_for_the_bus_leaves_the_link_to_its_consumers() {
    let Some(broker) = Broker::nats_that_takes("1MB") else { return };
    let bus = Bus::nats_at(format!("nats://127.0.0.1:{}", broker.port()));
    let store = Store::start();
    let bridge = bridge(&bus, &store, &[]);
    let body = format!("{{\"type\":\"sleep\",\"filling\":\"{}\"}}", "x".repeat(2 << 20));
    let attempt = link(&store.hold("/large", [Answer::json(body)]), LINK_IS_OPEN);
    kept(&bridge, &attempt);
    unfetched(&bus.read(&bridge, &bus.topic("s3_payload"), 1)[0], &attempt, "too-large");
}

#[test]
fn what_is_too_large_for_the_bus_is_set_aside_where_there_is_a_spool() {
    let Some(broker) = Broker::nats_that_takes("1MB") else { return };
    let bus = Bus::nats_at(format!("nats://127.0.0.1:{}", broker.port()));
    let store = Store::start();
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let dir = dir.path().join("spool").display().to_string();
    let bridge = bridge(&bus, &store, &[("SPOOL__DIR", &dir), ("SPOOL__RESERVE", "1 MiB")]);
    let body = format!("{{\"type\":\"sleep\",\"filling\":\"{}\"}}", "x".repeat(2 << 20));
    let reply = link(&store.hold("/large", [Answer::json(body)]), LINK_IS_OPEN).post(bridge.deliveries);
    assert_eq!((reply.status, &reply.json()["outcome"]), (200, &"spooled".into()));
    let aside = || bridge.metrics().contains("terra_bridge_spool_set_aside 1").then_some(());
    until("it is set aside", Duration::from_secs(30), aside);
    assert_eq!(bus.count(&bridge), 0, "nor is the link published");
}

#[test]
fn what_was_fetched_and_is_too_large_for_a_message_has_the_headers_of_both() {
    const BUCKET: &str = "TERRA_FETCHED";
    let Some(broker) = Broker::nats_that_takes("1MB") else { return };
    let bus = Bus::nats_at(format!("nats://127.0.0.1:{}", broker.port()));
    let store = Store::start();
    let bridge = bridge(&bus, &store, &[("NATS__OBJECT_STORE", BUCKET)]);
    let body =
        format!("{{\"type\":\"sleep\",\"user\":{{\"user_id\":\"u-7\"}},\"filling\":\"{}\"}}", "x".repeat(2 << 20));
    let attempt = link(&store.hold("/large", [Answer::json(&body)]), LINK_IS_OPEN);
    let attempt = attempt.header("x-terra-trace-id", "trace-1:chunk:4");
    let id = kept(&bridge, &attempt);
    let got = &bus.read(&bridge, &bus.topic("sleep"), 1)[0];
    assert!(got.payload.is_empty());
    assert_eq!(got.attribute("partitionkey").as_deref(), Some("u-7"));
    let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(&body));
    for (name, value) in [
        ("dataref", format!("nats-object:{BUCKET}/{id}-{digest}")),
        ("terradigest", digest),
        ("terrabytes", body.len().to_string()),
        ("terrafetched", "true".to_owned()),
        ("terrachunk", "4".to_owned()),
    ] {
        assert_eq!(got.attribute(name), Some(value), "{name}");
    }
    assert_eq!(got.attribute("terraunfetched"), None);
}

#[test]
fn what_was_fetched_outlives_an_outage_in_the_spool() {
    let Some(mut broker) = Broker::nats() else { return };
    let bus = Bus::nats_at(format!("nats://127.0.0.1:{}", broker.port()));
    let store = Store::start();
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let dir = dir.path().join("spool").display().to_string();
    let bridge = bridge(&bus, &store, &[("SPOOL__DIR", &dir), ("SERVER__PUBLISH_TIMEOUT", "1s")]);
    broker.kill();
    let reply = link(&store.hold("/sleep", [Answer::json(SLEEP)]), LINK_IS_OPEN).post(bridge.deliveries);
    assert_eq!((reply.status, &reply.json()["outcome"]), (200, &"spooled".into()));
    store.hold("/sleep", [Answer::status("403 Forbidden", "")]);
    broker.start();
    let got = &bus.read(&bridge, &bus.topic("sleep"), 1)[0];
    assert_eq!((got.payload.as_slice(), got.attribute("terrafetched").as_deref()), (SLEEP.as_bytes(), Some("true")));
}
