//! The status page: its JSON, its stream, and what a browser may do with it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use data_encoding::BASE64;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::support::bridge::Bridge;
use crate::support::changing::{RELOADED, Running};
use crate::support::consumers::Bus;
use crate::support::http::{self, Connection, Response, connect_within};
use crate::support::pages::page;
use crate::support::terra::{Attempt, SECRET};
use crate::support::tls::Pair;
use crate::support::until;

const WITHIN: Duration = Duration::from_secs(20);

/// As many as may watch at once.
const MOST_VIEWERS: usize = 8;

fn ready() -> (Bus, Bridge) {
    let bus = Bus::embedded().expect("needs no broker");
    let bridge = Bridge::ready(&bus.environment());
    (bus, bridge)
}

fn status(bridge: &Bridge) -> Value {
    http::get(bridge.admin, "/status").json()
}

/// The lines of a stream that is open.
fn watch(admin: SocketAddr) -> std::io::Lines<BufReader<TcpStream>> {
    let mut stream = connect_within(admin, WITHIN).expect("a connection");
    write!(stream, "GET /status/events HTTP/1.1\r\nhost: {admin}\r\n\r\n").expect("it reads");
    BufReader::new(stream).lines()
}

/// The next snapshot.
fn snapshot(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> Option<Value> {
    let event = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("data: ").map(str::to_owned))?;
    Some(serde_json::from_str(&event).expect("an event is one line of JSON"))
}

fn has<const N: usize>(response: &Response, headers: [(&str, &str); N]) {
    for (name, value) in headers {
        assert_eq!(response.header(name), Some(value), "{name}");
    }
}

#[test]
fn the_status_has_what_an_operator_asks_for() {
    let (bus, spool, pair) =
        (Bus::embedded().expect("needs no broker"), TempDir::new().expect("a directory"), Pair::new());
    let mut environment = bus.environment_with(&[("SPOOL__DIR", spool.path().to_str().expect("UTF-8"))]);
    environment.extend(pair.environment("EMBEDDED"));
    let bridge = Bridge::ready(&environment);
    let sent = ["{\"type\":\"daily\"}", "{\"type\":\"sleep\"}", "not json"].map(Attempt::of);
    let sent = sent.into_iter().chain([Attempt::of("{}").secret("another")]);
    let statuses: Vec<_> = sent.map(|attempt| attempt.post(bridge.deliveries).status).collect();
    assert_eq!(statuses, [200, 200, 200, 401]);
    let status = until("a step of the history shows them, and the disk its free space", WITHIN, || {
        let status = status(&bridge);
        let is_seen = status["dead_letters"]["total"] == 1 && status["refusals"][0]["total"] == 1;
        (is_seen && status["directories"][0]["free_bytes"].is_u64()).then_some(status)
    });
    let bus = &status["bus"];
    assert_eq!(json!([status["status"], bus["state"], bus["kind"]]), json!(["ready", "up", "embedded"]));
    let now = status["now"].as_f64().expect("Unix seconds");
    let recent = |time: &Value| time.as_f64().is_some_and(|time| (now - 600.0..=now).contains(&time));
    assert!(recent(&status["started"]) && recent(&status["bus"]["since"]), "{status}");

    let endpoint = &status["endpoints"][0];
    assert_eq!(json!([endpoint["accepted"], endpoint["rejected"], endpoint["refused"]]), json!([3, 1, 0]));
    assert!(recent(&endpoint["last_kept"]) && endpoint["accepted_per_second"].as_f64() > Some(0.0), "{endpoint}");
    assert!(
        endpoint["p50_seconds"].as_f64() > Some(0.0)
            && endpoint["p99_seconds"].as_f64() >= endpoint["p50_seconds"].as_f64()
    );
    let history = status["history"].as_array().expect("points");
    assert_eq!(endpoint["trend"].as_array().map(Vec::len), Some(history.len()));
    let accepted: f64 = history.iter().filter_map(|point| point["accepted_per_second"].as_f64()).sum();
    assert!(accepted > 0.0 && history.iter().any(|point| point["bus_p99_seconds"].is_f64()), "{history:?}");

    let refusal = &status["refusals"][0];
    assert_eq!(
        json!([refusal["outcome"], refusal["reason"], refusal["concerns"]]),
        json!(["rejected", "forged", "sender"])
    );
    assert!(recent(&refusal["last"]) && recent(&status["dead_letters"]["last"]), "{status}");
    assert_eq!(json!([status["spool"]["messages"], status["spool"]["oldest_seconds"]]), json!([0, null]));
    let directories = status["directories"].as_array().expect("directories");
    assert!(
        directories.len() == 3 && directories.iter().all(|one| one["free_bytes"].as_u64() > Some(0)),
        "{directories:?}"
    );
    assert!(
        status["certificates"][0]["name"] == "embedded" && status["certificates"][0]["expires"].as_f64() > Some(now)
    );
}

#[test]
fn the_operators_guide_names_every_part_of_the_status() {
    let (_bus, bridge) = ready();
    let guide = page("deploy/README.md").text;
    let section = guide.split("\n## ").find(|section| section.starts_with("Status page")).expect("a section");
    let parts: BTreeSet<_> = status(&bridge).as_object().expect("an object").keys().cloned().collect();
    let missing: Vec<_> = parts.iter().filter(|part| !section.contains(&format!("`{part}`"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_page_may_run_its_own_script_and_style_and_nothing_else() {
    let (_bus, bridge) = ready();
    let response = http::get(bridge.admin, "/");
    has(
        &response,
        [
            ("content-type", "text/html; charset=utf-8"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("cross-origin-resource-policy", "same-origin"),
        ],
    );
    let text = std::str::from_utf8(&response.body).expect("UTF-8");
    let hash = |element: &str| {
        let begun = text.find(&format!("<{element}>")).expect("it begins") + element.len() + 2;
        let ended = text.find(&format!("</{element}>")).expect("it ends");
        format!("{element}-src 'sha256-{}'", BASE64.encode(&Sha256::digest(&text[begun..ended])))
    };
    let policy = response.header("content-security-policy").expect("a policy");
    let rules: BTreeSet<_> = policy.split("; ").collect();
    let (script, style) = (hash("script"), hash("style"));
    let expected = [
        "default-src 'none'",
        &script,
        &style,
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ];
    assert_eq!(rules, BTreeSet::from(expected));
    assert!(!text.contains("://"), "the page leads nowhere else");
    let links = text.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
    for link in links.filter(|link| *link != "data:,") {
        assert_eq!(http::get(bridge.admin, link).status, 200, "{link}");
    }
}

#[test]
fn snapshots_arrive_while_somebody_watches_and_end_with_the_drain() {
    let (_bus, mut bridge) = ready();
    let mut lines = watch(bridge.admin);
    let head: Vec<_> = lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    assert!(head[0].contains("200") && head.contains(&"content-type: text/event-stream".to_owned()), "{head:?}");
    let mut accepted = || {
        let status = snapshot(&mut lines).expect("a snapshot");
        assert_eq!(status["status"], "ready");
        status["endpoints"][0]["accepted"].as_u64().expect("a count")
    };
    assert_eq!(accepted(), 0);
    assert_eq!(Attempt::of("{\"type\":\"daily\"}").post(bridge.deliveries).status, 200);
    assert!((0..5).any(|_| accepted() == 1));
    bridge.signal("TERM");
    let last = std::iter::from_fn(|| snapshot(&mut lines)).take(10).last().expect("the last one");
    assert_eq!(last["status"], "draining");
    assert!(bridge.ended(WITHIN).success());
}

#[test]
fn only_so_many_watch_at_once_and_the_probes_still_answer() {
    let (_bus, bridge) = ready();
    let mut watching: Vec<_> = (0..MOST_VIEWERS).map(|_| watch(bridge.admin)).collect();
    assert!(watching.iter_mut().all(|lines| snapshot(lines).is_some()));
    let refused = http::get(bridge.admin, "/status/events");
    assert_eq!(refused.status, 503);
    assert!(refused.json()["reason"].as_str().is_some_and(|reason| reason.contains("close another")));
    assert_eq!((http::get(bridge.admin, "/livez").status, http::get(bridge.admin, "/status").status), (200, 200));
    drop(watching.pop());
    until("one that left makes room", WITHIN, || watch(bridge.admin).next()?.ok()?.contains("200").then_some(()));
}

#[test]
fn a_page_of_another_name_reads_nothing() {
    let (_bus, bridge) = ready();
    for target in ["/", "/status", "/status/events"] {
        let head = format!("GET {target} HTTP/1.1\r\nhost: rebound.example\r\nconnection: close\r\n\r\n");
        let response = Connection::open(bridge.admin).and_then(|mut it| it.request(&head, b"")).expect("an answer");
        assert_eq!(response.status, 403, "{target}");
        let head = format!("POST {target} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n");
        let response = Connection::open(bridge.admin).and_then(|mut it| it.request(&head, b"")).expect("an answer");
        assert_eq!(response.status, 405, "{target}");
    }
}

#[test]
fn the_configuration_is_the_one_in_use_without_secrets_and_paths() {
    let bus = Bus::embedded().expect("needs no broker");
    let toml = "[endpoints.one]\npath = \"/hard-to-guess\"\nsecrets = [\"file:DIR/one\"]\n";
    let running = Running::start(&bus, toml, &[("one", "the secret of one")]);
    let value = |key: &str| {
        let status = status(&running.bridge);
        let settings = status["configuration"].as_array().expect("settings").clone();
        let of_key = settings.into_iter().find(|setting| setting["key"] == key);
        of_key.map(|setting| setting["value"].as_str().expect("text").to_owned())
    };
    let all = String::from_utf8(http::get(running.bridge.admin, "/status").body).expect("UTF-8");
    for secret in ["the secret of one", SECRET, "hard-to-guess"] {
        assert!(!all.contains(secret), "{secret}");
    }
    assert_eq!(value("endpoints.one.max_skew").as_deref(), Some("\"5m\""));
    running.reload(&(toml.to_owned() + "max_skew = \"1m\"\n"), RELOADED);
    until("the page shows the new value", WITHIN, || (value("endpoints.one.max_skew")? == "\"1m\"").then_some(()));
}
