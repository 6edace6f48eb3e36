//! Allowed addresses: the check adds to the signature, and a refused sender learns nothing from it.

use std::io::Read;

use crate::support::bridge::Bridge;
use crate::support::consumers::Bus;
use crate::support::http::Connection;
use crate::support::terra::Attempt;

const BODY: &str = r#"{"type":"daily","user":{"user_id":"u"}}"#;
const ALLOWED: &str = "198.51.100.7";

fn through(hops: &str) -> Attempt {
    Attempt::of(BODY).header("x-forwarded-for", hops)
}

/// All bytes of a connection until the bridge closes it, without the `Date`.
fn wire(bridge: &Bridge, attempt: &Attempt) -> String {
    let mut connection = Connection::open(bridge.deliveries).expect("a connection");
    let whole = [attempt.head(attempt.body.len()).as_bytes(), &attempt.body].concat();
    connection.write(&whole).expect("a request");
    let mut text = String::new();
    connection.stream().read_to_string(&mut text).expect("text");
    text.lines().map(|line| if line.starts_with("date: ") { "date: now" } else { line }).collect::<Vec<_>>().join("\n")
}

fn rejections(bridge: &Bridge, reason: &str) -> u64 {
    let start = format!("terra_bridge_rejections_total{{endpoint=\"terra\",reason=\"{reason}\"}} ");
    bridge.metrics().lines().find_map(|line| line.strip_prefix(&start)?.parse().ok()).unwrap_or(0)
}

#[test]
fn a_refused_address_gets_byte_for_byte_what_a_forger_gets() {
    for status in ["401", "503"] {
        let (bus, bridge) = Bus::embedded_with(&[
            ("SERVER__ALLOW", ALLOWED),
            ("SERVER__TRUSTED_PROXIES", "127.0.0.1"),
            ("SERVER__MAX_BODY", "1 KiB"),
            ("ENDPOINTS__TERRA__REJECTED_STATUS", status),
        ]);
        let elsewhere = || through("203.0.113.9");
        let forged = wire(&bridge, &through(ALLOWED).secret("another secret"));
        assert!(forged.starts_with(&format!("HTTP/1.1 {status} ")) && forged.contains("connection: close"), "{forged}");
        assert_eq!(wire(&bridge, &through(ALLOWED).signature("")), forged);
        let large = elsewhere().body(vec![b' '; 2000]);
        let encoded = elsewhere().header("content-encoding", "gzip");
        for refused in [elsewhere(), elsewhere().secret("another secret"), encoded, large, elsewhere().signature("")] {
            assert_eq!(wire(&bridge, &refused), forged);
        }
        assert_eq!(["address", "forged", "missing"].map(|reason| rejections(&bridge, reason)), [4, 1, 2]);
        assert_eq!(bus.count(&bridge), 0);
        let log = bridge.log();
        let warnings: Vec<_> = log.lines().filter(|line| line.contains("server.allow")).collect();
        assert_eq!(warnings.len(), 1, "one for all: {log}");
        assert!(warnings[0].contains("WARN") && warnings[0].contains("server.trusted_proxies"), "{log}");
        assert!(!log.contains("203.0.113.9"), "{log}");
        assert_eq!(through(ALLOWED).post(bridge.deliveries).status, 200);
        assert_eq!(bus.count(&bridge), 1);
    }
}

#[test]
fn a_refused_address_is_answered_before_a_byte_of_its_body_is_taken() {
    let (_bus, bridge) = Bus::embedded_with(&[("SERVER__ALLOW", ALLOWED)]);
    let attempt = through(ALLOWED);
    let mut connection = Connection::open(bridge.deliveries).expect("a connection");
    connection.write(attempt.head(attempt.body.len()).as_bytes()).expect("the head goes out");
    assert_eq!(connection.response().expect("an answer").status, 401);
}

#[test]
fn a_proxy_that_is_not_trusted_speaks_for_nobody() {
    let (bus, bridge) = Bus::embedded_with(&[("SERVER__ALLOW", ALLOWED), ("SERVER__TRUSTED_PROXIES", "192.0.2.1")]);
    assert_eq!(through(ALLOWED).post(bridge.deliveries).status, 401);
    assert_eq!(bus.count(&bridge), 0);
}

#[test]
fn a_trusted_proxy_is_believed_as_far_as_it_vouches() {
    let (bus, bridge) =
        Bus::embedded_with(&[("SERVER__ALLOW", ALLOWED), ("SERVER__TRUSTED_PROXIES", "127.0.0.0/8,10.0.0.0/8")]);
    let status = |attempt: Attempt| attempt.post(bridge.deliveries).status;
    assert_eq!(status(through(ALLOWED)), 200);
    assert_eq!(status(through("198.51.100.7:4567, 10.0.0.1")), 200);
    assert_eq!(status(through("nonsense, 198.51.100.7").header("x-forwarded-for", "10.0.0.1")), 200);
    assert_eq!(status(through("198.51.100.7, 203.0.113.9")), 401);
    assert_eq!(status(through("198.51.100.7, unknown")), 401);
    assert_eq!(status(Attempt::of(BODY)), 401);
    assert_eq!(bus.count(&bridge), 1, "one delivery, three attempts");
}

#[test]
fn a_peer_that_is_allowed_itself_needs_no_proxy() {
    let (bus, bridge) = Bus::embedded_with(&[("SERVER__ALLOW", "127.0.0.1")]);
    assert_eq!(Attempt::of(BODY).post(bridge.deliveries).status, 200);
    assert_eq!(through("203.0.113.9").post(bridge.deliveries).status, 200);
    assert_eq!(Attempt::of(BODY).secret("another secret").post(bridge.deliveries).status, 401, "never instead of it");
    assert_eq!(bus.count(&bridge), 1);
}
