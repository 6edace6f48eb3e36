//! The reply table, row by row: the answer, what Terra and Vantage make of it, and whether the event survives. After
//! a success it is on the bus or in the spool; after anything else it is not. An outcome without a row, or a row of
//! the README that no test provokes, fails here.

use std::collections::BTreeSet;
use std::net::Shutdown;
use std::time::Duration;

use strum::VariantNames;
use terra_bridge::reply::Outcome;

use crate::support::bridge::Bridge;
use crate::support::brokers::Broker;
use crate::support::changing::{RELOADED, Running};
use crate::support::consumers::Bus;
use crate::support::http::{Connection, Response};
use crate::support::terra::{Attempt, now};
use crate::support::until;

const EVENT: &str = r#"{"event_type":"order.status_changed","event_id":"e-1","data":{"order_id":"o-1"}}"#;
const SEEN_WITHIN: Duration = Duration::from_secs(10);

/// How an attempt ends for its sender.
#[derive(Debug)]
enum Ended {
    Answered(Response),
    /// The connection was closed without an answer.
    CutOff,
    /// No broker is available to provoke it with.
    Skipped,
}

/// What its sender does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It considers the event delivered, so the bridge must have kept it.
    Done,
    /// It retries, and the event survives for as long as it does.
    Again,
    /// It gives up, and the event is lost.
    Lost,
}

use Then::{Again, Done, Lost};

/// Any 2xx acknowledges; anything else, or no answer, is retried.
fn terra(status: Option<u16>) -> Then {
    match status {
        Some(200..=299) => Done,
        _ => Again,
    }
}

/// As Terra, but any 4xx other than 408 and 429 is final.
fn vantage(status: Option<u16>) -> Then {
    match status {
        Some(200..=299) => Done,
        Some(408 | 429) => Again,
        Some(400..=499) => Lost,
        _ => Again,
    }
}

/// One way for a request to end.
struct Row {
    /// The beginning of its row in the README.
    readme: &'static str,
    /// As in the reply; `None` if hyper answers, or nobody.
    outcome: Option<&'static str>,
    status: Option<u16>,
    terra: Then,
    vantage: Then,
    /// Takes the settings of a bridge, and an event signed for it.
    provoke: fn(&[(&str, &str)], Attempt) -> Ended,
}

const KEPT: &str = "the bus keeps it";
const UNSIGNED: &str = "signature missing";
const ELSEWHERE: &str = "unknown path";
const SLOW: &str = "the body is too slow";
const AWAY: &str = "bus away";
const MALFORMED: &str = "malformed HTTP";

const fn row(
    readme: &'static str,
    outcome: &'static str,
    status: u16,
    [terra, vantage]: [Then; 2],
    provoke: fn(&[(&str, &str)], Attempt) -> Ended,
) -> Row {
    Row { readme, outcome: Some(outcome), status: Some(status), terra, vantage, provoke }
}

const fn without_outcome(
    readme: &'static str,
    status: Option<u16>,
    vantage: Then,
    provoke: fn(&[(&str, &str)], Attempt) -> Ended,
) -> Row {
    Row { readme, outcome: None, status, terra: Again, vantage, provoke }
}

const NO_SPACE: (&str, &str) = ("EMBEDDED__RESERVE", "100000 TiB");

#[rustfmt::skip]
const ROWS: &[Row] = &[
    row(KEPT, "kept", 200, [Done, Done], |settings, event| post(settings, &event)),
    row(KEPT, "duplicate", 200, [Done, Done], dedupe_hit),
    row(KEPT, "spooled", 200, [Done, Done], |settings, event| spooling(settings, &event, "1 MiB")),
    row(KEPT, "dead_lettered", 200, [Done, Done], |settings, event| post(settings, &event.body("[]"))),
    row(KEPT, "dropped", 200, [Done, Done], |settings, event| post(&with(settings, &[("ROUTES__TYPES", "{ \"*\" = false }")]), &event)),
    row(UNSIGNED, "rejected", 401, [Again, Lost], |settings, event| post(settings, &event.secret("not installed yet"))),
    row(UNSIGNED, "rejected", 401, [Again, Lost], |settings, event| post(settings, &event.signature(""))),
    row(UNSIGNED, "rejected", 401, [Again, Lost], |settings, event| post(settings, &event.signature("t=1,v1=beef"))),
    row(UNSIGNED, "rejected", 401, [Again, Lost], |settings, event| post(settings, &event.t(now() - 27 * 3600))),
    row(UNSIGNED, "rejected", 401, [Again, Lost], |settings, event| post(settings, &event.t(now() + 3600))),
    row(UNSIGNED, "rejected", 401, [Again, Lost], |settings, event| post(&with(settings, &[("SERVER__ALLOW", "203.0.113.0/24")]), &event)),
    row(ELSEWHERE, "unknown_path", 404, [Again, Lost], |settings, event| post(settings, &event.path("/elsewhere"))),
    row(ELSEWHERE, "wrong_method", 405, [Again, Lost], |settings, event| post(settings, &event.method("PUT"))),
    row(SLOW, "too_slow", 408, [Again, Again], half_a_body),
    without_outcome(SLOW, None, Again, half_a_head),
    row("larger than", "too_large", 413, [Again, Lost], |settings, event| {
        post(&with(settings, &[("SERVER__MAX_BODY", "1 KiB")]), &event.body(vec![b' '; 2000]))
    }),
    row("a `content-encoding`", "encoded", 415, [Again, Lost], |settings, event| post(settings, &event.header("content-encoding", "gzip"))),
    row(MALFORMED, "broken", 400, [Again, Lost], broken_framing),
    without_outcome(MALFORMED, Some(400), Lost, |settings, _| send(settings, "nonsense\r\n\r\n")),
    without_outcome(MALFORMED, Some(414), Lost, |settings, event| {
        post(&with(settings, &[("SERVER__MAX_HEADER_BYTES", "100 KiB")]), &event.path(&format!("/{}", "x".repeat(70_000))))
    }),
    without_outcome(MALFORMED, Some(431), Lost, |settings, event| {
        post(&with(settings, &[("SERVER__MAX_HEADER_BYTES", "8 KiB")]), &event.header("large", &"x".repeat(20_000)))
    }),
    row(AWAY, "refused", 503, [Again, Again], |settings, event| post(&with(settings, &[NO_SPACE]), &event)),
    row(AWAY, "unspooled", 503, [Again, Again], |settings, event| spooling(settings, &event, "100000 TiB")),
    row(AWAY, "unanswered", 503, [Again, Again], frozen_bus),
    row(AWAY, "unfetched", 503, [Again, Again], dead_link),
    row(AWAY, "overloaded", 503, [Again, Again], no_room),
];

fn with<'s>(settings: &[(&'s str, &'s str)], more: &[(&'s str, &'s str)]) -> Vec<(&'s str, &'s str)> {
    [settings, more].concat()
}

fn start(bus: &Bus, settings: &[(&str, &str)]) -> Bridge {
    Bridge::start(&bus.environment_with(settings))
}

/// A bridge with an embedded log of its own.
fn embedded(settings: &[(&str, &str)]) -> (Bus, Bridge) {
    let bus = Bus::embedded().expect("needs no broker");
    let bridge = start(&bus, settings);
    (bus, bridge)
}

fn ended(answer: std::io::Result<Response>) -> Ended {
    answer.map_or(Ended::CutOff, Ended::Answered)
}

/// How it ended, after checking that what is kept agrees with the answer.
fn held(bus: &Bus, bridge: &Bridge, attempt: &Attempt, answer: std::io::Result<Response>) -> Ended {
    let success = answer.as_ref().ok().filter(|response| response.status == 200).map(Response::json);
    let outcome = success.as_ref().and_then(|json| json["outcome"].as_str());
    let topic = match outcome {
        Some("kept" | "duplicate") => Some("order.status_changed"),
        Some("dead_lettered") => Some("dead-letter"),
        Some("spooled" | "dropped") | None => None,
        Some(other) => panic!("{other}: no success that is known"),
    };
    if let Some(topic) = topic {
        let got = &bus.read(bridge, &bus.topic(topic), 1)[0];
        assert_eq!(
            (&got.payload, got.attribute("id").as_deref()),
            (&attempt.body, success.as_ref().unwrap()["id"].as_str())
        );
    }
    assert_eq!(bus.count(bridge), usize::from(topic.is_some()), "{outcome:?}");
    let spooled = bridge.metrics().lines().any(|line| line == "terra_bridge_spool_messages 1");
    assert_eq!(spooled, outcome == Some("spooled"), "{outcome:?}");
    ended(answer)
}

fn post(settings: &[(&str, &str)], attempt: &Attempt) -> Ended {
    let (bus, bridge) = embedded(settings);
    let answer = attempt.try_post(bridge.deliveries);
    held(&bus, &bridge, attempt, answer)
}

fn send(settings: &[(&str, &str)], bytes: &str) -> Ended {
    let (_bus, bridge) = embedded(settings);
    ended(Connection::open(bridge.deliveries).and_then(|mut connection| connection.request(bytes, b"")))
}

fn dedupe_hit(settings: &[(&str, &str)], event: Attempt) -> Ended {
    let (bus, bridge) = embedded(settings);
    assert_eq!(event.post(bridge.deliveries).status, 200);
    let answer = event.try_post(bridge.deliveries);
    held(&bus, &bridge, &event, answer)
}

fn spooling(settings: &[(&str, &str)], event: &Attempt, reserve: &str) -> Ended {
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let dir = dir.path().join("spool").display().to_string();
    post(&with(settings, &[NO_SPACE, ("SPOOL__DIR", &dir), ("SPOOL__RESERVE", reserve)]), event)
}

fn half_a_body(settings: &[(&str, &str)], event: Attempt) -> Ended {
    let (_bus, bridge) = embedded(&with(settings, &[("SERVER__MIN_BODY_RATE", "1 MiB/s")]));
    let mut connection = Connection::open(bridge.deliveries).expect("a connection");
    connection.write(event.head(event.body.len()).as_bytes()).expect("the head goes out");
    ended(connection.request("", &event.body[..10]))
}

fn half_a_head(settings: &[(&str, &str)], event: Attempt) -> Ended {
    let (_bus, bridge) = embedded(&with(settings, &[("SERVER__HEADER_TIMEOUT", "200ms")]));
    let mut connection = Connection::open(bridge.deliveries).expect("a connection");
    ended(connection.request(event.head(0).trim_end(), b""))
}

fn broken_framing(settings: &[(&str, &str)], event: Attempt) -> Ended {
    let (_bus, bridge) = embedded(settings);
    let mut connection = Connection::open(bridge.deliveries).expect("a connection");
    connection.write(event.head(event.body.len()).as_bytes()).expect("the head goes out");
    connection.write(&event.body[..10]).expect("some of the body goes out");
    connection.stream().shutdown(Shutdown::Write).expect("the connection is open");
    ended(connection.response())
}

/// A slow body leaves less time than the client library's own timeout, so the bridge has to answer.
fn frozen_bus(settings: &[(&str, &str)], event: Attempt) -> Ended {
    let Some(broker) = Broker::nats() else { return Ended::Skipped };
    let bus = Bus::nats_at(format!("nats://127.0.0.1:{}", broker.port()));
    let times = [("SERVER__DEADLINE", "3s"), ("SERVER__PUBLISH_TIMEOUT", "2900ms")];
    let bridge = start(&bus, &with(settings, &times));
    until("the bus is reached", SEEN_WITHIN, || (bridge.readiness().0 == 200).then_some(()));
    broker.freeze();
    let (first, rest) = event.body.split_at(1);
    let mut connection = Connection::open(bridge.deliveries).expect("a connection");
    let asked = std::time::Instant::now();
    connection.write(event.head(event.body.len()).as_bytes()).expect("the head goes out");
    connection.write(first).expect("a byte goes out");
    until("the client goes on", SEEN_WITHIN, || (asked.elapsed() > Duration::from_millis(1500)).then_some(()));
    ended(connection.request("", rest))
}

/// A link that is valid for long, but leads nowhere yet.
fn dead_link(settings: &[(&str, &str)], event: Attempt) -> Ended {
    let closed = crate::support::brokers::free_port();
    let (host, url) = (format!("localhost:{closed}"), format!("https://localhost:{closed}/x"));
    let link = serde_json::json!({"type": "s3_payload", "status": "success", "url": url, "expires_in": 600});
    let attempt = event.body(link.to_string()).header("x-terra-ordering-timestamp", &(now() * 1000).to_string());
    let open = [("S3__HOSTS", host.as_str()), ("S3__ALLOW_NETWORKS", "127.0.0.0/8,::1"), ("SERVER__DEADLINE", "2s")];
    post(&with(settings, &[&open[..], &[("SERVER__PUBLISH_TIMEOUT", "1s")]].concat()), &attempt)
}

fn no_room(settings: &[(&str, &str)], event: Attempt) -> Ended {
    const MOST: usize = 1 << 20;
    let room = [("SERVER__MAX_BODY", "1 MiB"), ("SERVER__BYTES_IN_FLIGHT", "1 MiB")];
    let (_bus, bridge) = embedded(&with(settings, &room));
    let large = event.body(vec![b' '; MOST]);
    let mut holder = Connection::open(bridge.deliveries).expect("a connection");
    holder.write(large.head(MOST).as_bytes()).expect("the head goes out");
    holder.write(&large.body[..900_000]).expect("most of the body goes out");
    let taken = |line: &str| line.strip_prefix("terra_bridge_bytes_in_flight ").and_then(|n| n.parse::<usize>().ok());
    until("the room is taken", SEEN_WITHIN, || {
        bridge.metrics().lines().find_map(taken).filter(|bytes| *bytes >= 900_000)
    });
    ended(large.try_post(bridge.deliveries))
}

/// Every row behaves as its table says, at an endpoint with this `rejected_status`.
fn every_row_is_answered(rejected_status: u16) {
    let status_is = rejected_status.to_string();
    let settings = [("ENDPOINTS__TERRA__REJECTED_STATUS", status_is.as_str())];
    for (n, row) in ROWS.iter().enumerate() {
        let case = format!("row {n}, {}", row.outcome.unwrap_or(row.readme));
        let theirs = matches!(row.outcome, Some("rejected" | "too_large" | "encoded" | "broken"));
        let again = theirs && rejected_status == 503;
        let (expected, at_vantage) = if again { (Some(503), Again) } else { (row.status, row.vantage) };
        let status = match (row.provoke)(&settings, Attempt::of(EVENT)) {
            Ended::Skipped => continue,
            Ended::CutOff => None,
            Ended::Answered(response) => {
                if let Some(outcome) = row.outcome {
                    assert_eq!(response.json()["outcome"], outcome, "{case}");
                }
                let headers = (response.header("retry-after").is_some(), response.header("allow").is_some());
                assert_eq!(headers, (response.status == 503, response.status == 405), "{case}");
                Some(response.status)
            }
        };
        assert_eq!(status, expected, "{case}");
        assert_eq!((terra(status), vantage(status)), (row.terra, at_vantage), "{case}");
    }
}

#[test]
fn every_row_is_answered_as_terra_and_vantage_need_it() {
    every_row_is_answered(401);
}

#[test]
fn every_row_is_answered_where_rejected_status_is_503() {
    every_row_is_answered(503);
}

#[test]
fn every_outcome_has_a_row() {
    let rows: BTreeSet<_> = ROWS.iter().filter_map(|row| row.outcome).collect();
    assert_eq!(rows, Outcome::VARIANTS.iter().copied().collect());
}

#[test]
fn every_row_of_the_readme_is_provoked_with_the_status_that_it_names() {
    let readme = include_str!("../../README.md");
    let (_, table) = readme.split_once("| case | status |\n|---|---|\n").expect("the reply table");
    let (table, _) = table.split_once("\n\n").expect("its end");
    let said: Vec<(&str, &str)> =
        table.lines().map(|line| line.trim_matches([' ', '|']).rsplit_once(" | ").expect("two columns")).collect();
    for (case, statuses) in &said {
        let rows: Vec<_> = ROWS.iter().filter(|row| case.starts_with(row.readme)).collect();
        assert!(!rows.is_empty(), "nothing provokes: {case}");
        for status in rows.iter().filter_map(|row| row.status) {
            assert!(statuses.contains(&status.to_string()), "{status} is not said of: {case}");
        }
        let numbers = statuses.split(|c: char| !c.is_ascii_digit()).filter(|number| number.len() == 3);
        for number in numbers {
            assert!(
                rows.iter().any(|row| row.status.is_some_and(|status| status.to_string() == number)),
                "{case}: {number}"
            );
        }
    }
    for row in ROWS {
        assert_eq!(said.iter().filter(|(case, _)| case.starts_with(row.readme)).count(), 1, "{}", row.readme);
    }
}

/// The right secret is installed after the first attempt: shows what a final answer loses, and a 503 saves.
#[test]
fn an_order_that_vantage_would_lose_at_a_401_survives_at_a_503() {
    for (rejected_status, survivors) in [(401, 0), (503, 1)] {
        let bus = Bus::embedded().expect("needs no broker");
        let toml = format!("[endpoints.terra]\nsecrets = [\"file:DIR/secret\"]\nrejected_status = {rejected_status}\n");
        let running = Running::start(&bus, &toml, &[("secret", "before the reset")]);
        let order = Attempt::of(EVENT).secret("after the reset");
        let answered = running.status(&order);
        assert_eq!(answered, rejected_status);
        running.replace("secret", "after the reset");
        running.reload(&toml, RELOADED);
        if vantage(Some(answered)) == Again {
            assert_eq!(vantage(Some(running.status(&order))), Done);
        }
        assert_eq!(bus.count(&running.bridge), survivors, "rejected_status = {rejected_status}");
        // Terra retries after either.
        assert_eq!(terra(Some(answered)), Again);
    }
}
