//! Health data and secrets stay inside: whatever happens to a delivery, nothing that the bridge prints, measures or
//! answers contains any of it, even with the most verbose logging.

use std::io::Write as _;
use std::time::Duration;

use tempfile::TempDir;

use crate::links::{LINK_IS_OPEN, LINK_STAYS_OPEN, SLEEP, link};
use crate::support::bridge::Bridge;
use crate::support::brokers::{Broker, free_port};
use crate::support::consumers::Bus;
use crate::support::http::{self, Connection};
use crate::support::store::{Answer, Store};
use crate::support::terra::{Attempt, SECRET, now};
use crate::support::until;

const PAYLOAD: &str = "canary-payload-7f3a";
const USER: &str = "canary-user-7f3a";
const REFERENCE: &str = "canary-reference-7f3a";
const TRACE: &str = "canary-trace-7f3a";
const PATH: &str = "canary-path-7f3a";
const QUERY: &str = "canary-query-7f3a";
const HEADER: &str = "canary-header-7f3a";
const TOKEN: &str = "canary-token-7f3a";

fn telling(text: &str) -> Vec<&'static str> {
    let canaries = [PAYLOAD, USER, REFERENCE, TRACE, PATH, QUERY, HEADER, TOKEN, SECRET, "canary"];
    canaries.into_iter().filter(|canary| text.contains(canary)).collect()
}

fn body(kind: &str) -> String {
    let user = format!(r#"{{"user_id":"{USER}","reference_id":"{REFERENCE}","provider":"{PAYLOAD}"}}"#);
    format!(r#"{{"type":"{kind}","user":{user},"data":[{{"url":"https://{PAYLOAD}/x?sig={PAYLOAD}"}}]}}"#)
}

fn attempt(body: impl Into<Vec<u8>>) -> Attempt {
    Attempt::of(body)
        .path(&format!("/{PATH}?{QUERY}={QUERY}"))
        .header("x-terra-trace-id", TRACE)
        .header("terra-reference", REFERENCE)
        .header("user-agent", HEADER)
        .header("cookie", HEADER)
}

fn environment(bus: &Bus) -> Vec<(String, String)> {
    let mut environment = bus.environment();
    environment.extend([
        ("TERRA_BRIDGE_LOG__FILTER".into(), "trace".into()),
        ("TERRA_BRIDGE_LOG__ACCESS".into(), "all".into()),
        ("TERRA_BRIDGE_ENDPOINTS__TERRA__PATH".into(), format!("/{PATH}")),
        ("TERRA_BRIDGE_SERVER__MAX_BODY".into(), "64 KiB".into()),
        ("READ_TOKEN".into(), TOKEN.into()),
        ("TERRA_BRIDGE_EMBEDDED__TOKEN".into(), "env:READ_TOKEN".into()),
    ]);
    environment
}

/// Provokes every outcome of a request, and returns the answers.
fn every_ending(bridge: &Bridge) -> String {
    let coded = attempt(body("daily")).header("content-encoding", HEADER);
    let forged = attempt(body("daily")).secret("canary-of-another");
    let attempts = [
        attempt(body("daily")),
        attempt(body("daily")),
        attempt(body(PAYLOAD)),
        attempt(format!("{{not json {PAYLOAD}")),
        attempt(format!(r#"["{PAYLOAD}"]"#)),
        attempt(body("daily")).t(now() - 40 * 3600),
        attempt(body("daily")).signature(&format!("t={HEADER},v1={HEADER}")),
        attempt(body("daily")).signature(""),
        attempt(body("daily")).method("PUT"),
        attempt(body("daily")).path(&format!("/{PATH}-not?{QUERY}")),
        attempt(format!(r#"{{"type":"daily","data":"{}"}}"#, PAYLOAD.repeat(5000))),
        coded,
        forged,
    ];
    let mut answers = String::new();
    for attempt in attempts {
        if let Ok(response) = attempt.try_post(bridge.deliveries) {
            answers.push_str(&format!(
                "{} {:?} {}\n",
                response.status,
                response.headers,
                String::from_utf8_lossy(&response.body)
            ));
        }
    }
    for garbage in [format!("GET /{PATH} {HEADER}\r\n\r\n"), format!("POST /{PATH} HTTP/1.1\r\n{HEADER}\r\n\r\n")] {
        let mut connection = Connection::open(bridge.deliveries).expect("a connection");
        let _ = connection.write(garbage.as_bytes());
        if let Ok(response) = connection.response() {
            answers.push_str(&format!("{:?} {}\n", response.headers, String::from_utf8_lossy(&response.body)));
        }
    }
    answers
}

fn everything_said(bridge: &Bridge) -> String {
    let admin = ["/metrics", "/readyz", "/livez", "/asyncapi", "/status", &format!("/{PATH}?{QUERY}")]
        .map(|path| String::from_utf8_lossy(&http::get(bridge.admin, path).body).into_owned());
    admin.join("\n") + &bridge.log()
}

fn expect_silence(bridge: &Bridge, answers: &str) {
    assert!(answers.lines().count() >= 10, "{answers}");
    assert_eq!(telling(answers), Vec::<&str>::new(), "in an answer: {answers}");
    // Terra's trace id stands in the access log, and nowhere else.
    let said = everything_said(bridge).replace(&format!(r#""terra_trace_id":"{TRACE}""#), "");
    assert!(said.contains(r#""body":"delivery""#), "logging is at its most talkative");
    let lines: Vec<_> = said.lines().filter(|line| !telling(line).is_empty()).collect();
    assert!(lines.is_empty(), "{lines:#?}");
}

fn nothing_tells_while_the_bus_is_there(bus: &Bus) {
    let bridge = Bridge::ready(&environment(bus));
    let answers = every_ending(&bridge);
    assert!(
        answers.contains("kept") && answers.contains("dead_lettered") && answers.contains("duplicate"),
        "{answers}"
    );
    expect_silence(&bridge, &answers);
}

#[test]
fn nothing_tells_on_kafka() {
    Bus::kafka().iter().for_each(nothing_tells_while_the_bus_is_there);
}

#[test]
fn nothing_tells_on_nats() {
    Bus::nats().iter().for_each(nothing_tells_while_the_bus_is_there);
}

#[test]
fn nothing_tells_on_the_embedded_log() {
    Bus::embedded().iter().for_each(nothing_tells_while_the_bus_is_there);
}

#[test]
fn nothing_tells_while_the_broker_is_away_and_the_spool_takes_it() {
    let Some(mut broker) = Broker::nats() else { return };
    let bus = Bus::nats_at(format!("nats://127.0.0.1:{}", broker.port()));
    let dir = TempDir::new().expect("a temporary directory");
    let mut environment = environment(&bus);
    let bridge = Bridge::ready(&environment);
    broker.kill();
    let answers = every_ending(&bridge);
    assert!(answers.contains("refused"), "{answers}");
    expect_silence(&bridge, &answers);
    drop(bridge);

    environment.push(("TERRA_BRIDGE_SPOOL__DIR".into(), dir.path().join("spool").display().to_string()));
    environment.push(("TERRA_BRIDGE_SPOOL__RESERVE".into(), "1 MiB".into()));
    let bridge = Bridge::start(&environment);
    let answers = every_ending(&bridge);
    assert!(answers.contains("spooled"), "{answers}");
    broker.start();
    until("the spool is empty", Duration::from_secs(60), || {
        bridge.metrics().contains("terra_bridge_spool_messages 0").then_some(())
    });
    expect_silence(&bridge, &answers);
}

/// Provokes every outcome of a link, and returns the answers and the outcomes.
fn every_ending_of_a_link(bridge: &Bridge, store: &Store, closed: u16) -> (String, Vec<String>) {
    let sleep = SLEEP.replace("u-7", "canary-user");
    let nested = format!(r#"{{"type":"s3_payload","url":"{}","expires_in":600}}"#, store.link("/canary-nested"));
    let slow_down = || Answer::status("503 Slow Down", "");
    let links = [
        link(&store.hold("/canary-path", [Answer::json(&sleep)]), LINK_IS_OPEN),
        link(&store.hold("/canary-denied", [Answer::status("403 Forbidden", "")]), LINK_IS_OPEN),
        link("https://canary-host.example/canary-path", LINK_IS_OPEN),
        link(&store.link("/canary-path").replace("https", "http"), LINK_IS_OPEN),
        link(&store.hold("/canary-of-another", [Answer::json(nested)]), LINK_IS_OPEN),
        link(&store.hold("/canary-letter", [Answer::json("<canary/>")]), LINK_IS_OPEN),
        link(&store.hold("/canary-patient", [slow_down()]), LINK_STAYS_OPEN),
        link(&store.hold("/canary-late", [slow_down()]), LINK_IS_OPEN),
        link(&format!("https://localhost:{closed}/canary-path?canary"), LINK_STAYS_OPEN),
        link(&format!("https://localhost:{closed}/canary-path?canary"), LINK_IS_OPEN),
    ];
    let replies: Vec<_> = links.iter().map(|link| link.post(bridge.deliveries)).collect();
    let outcomes = replies.iter().map(|reply| reply.json()["outcome"].as_str().expect("one").to_owned()).collect();
    let said = replies.iter().map(|reply| format!("{:?} {}\n", reply.headers, reply.body.escape_ascii())).collect();
    (said, outcomes)
}

#[test]
fn no_part_of_a_link_is_said_anywhere() {
    let (store, stranger, closed) = (Store::start(), Store::start(), free_port());
    let hosts = format!("{},localhost:{closed}", store.hosts());
    let ca = stranger.authority.ca().display().to_string();
    let dir = TempDir::new().expect("a temporary directory");
    let spool = dir.path().join("spool").display().to_string();
    let common = [
        ("LOG__FILTER", "trace"),
        ("S3__HOSTS", hosts.as_str()),
        ("SERVER__DEADLINE", "2s"),
        ("SERVER__PUBLISH_TIMEOUT", "1s"),
    ];
    let (kept, letter, again) = ("kept", "dead_lettered", "unfetched");
    let untrusted = [kept, kept, kept, kept, kept, kept, again, kept, again, kept];
    for (settings, expected, topics) in [
        (
            &[][..],
            [kept, kept, kept, kept, kept, letter, again, kept, again, kept],
            &[("sleep", 1), ("s3_payload", 6), ("dead-letter", 1)][..],
        ),
        (&[("S3__CA", ca.as_str())], untrusted, &[("s3_payload", 8)]),
        (&[("S3__MODE", "forward")], [kept; 10], &[("s3_payload", 10)]),
        (
            &[("EMBEDDED__RESERVE", "100000 TiB"), ("SPOOL__DIR", spool.as_str()), ("SPOOL__RESERVE", "1 MiB")],
            untrusted.map(|outcome| if outcome == kept { "spooled" } else { outcome }),
            &[],
        ),
    ] {
        let bus = Bus::embedded().expect("needs no broker");
        let mut environment = bus.environment_with(&[&common[..], settings].concat());
        environment.splice(0..0, store.environment());
        let bridge = Bridge::start(&environment);
        let (answers, outcomes) = every_ending_of_a_link(&bridge, &store, closed);
        assert_eq!(outcomes, expected, "{settings:?}");
        assert_eq!(telling(&answers), Vec::<&str>::new(), "{answers}");
        for said in [bridge.log(), bridge.metrics()] {
            let telling: Vec<_> = said.lines().filter(|line| !telling(line).is_empty()).collect();
            assert!(telling.is_empty(), "{settings:?}: {telling:#?}");
        }
        for (topic, count) in topics {
            for got in bus.read(&bridge, &bus.topic(topic), *count) {
                // The user of a fetched event is in its headers, as for any other.
                let headers = format!("{:?} {:?}", got.key, got.headers).replace("canary-user", "");
                assert_eq!(telling(&headers), Vec::<&str>::new(), "{headers}");
            }
        }
        assert_eq!(bus.count(&bridge), topics.iter().map(|(_, count)| count).sum::<usize>());
    }
}

#[test]
fn a_wrong_configuration_shows_no_secret() {
    let dir = TempDir::new().expect("a temporary directory");
    let path = dir.path().join("terra-bridge.toml");
    let mut file = std::fs::File::create(&path).expect("the directory is ours");
    let text = format!(
        "bus = \"kafka\"\n[kafka]\npassword = \"{TOKEN}\"\n[kafka.properties]\n\"sasl.password\" = \"{TOKEN}\"\n\
         [endpoints.terra]\nsecrets = [\"{TOKEN}\"]\n[embedded]\ntoken = \"{TOKEN}\"\n[nats]\nservers = [\"nats://u:{TOKEN}@h\"]\n"
    );
    file.write_all(text.as_bytes()).expect("the file is ours");
    let mut command = crate::support::bridge::command();
    let output = command.arg("--config").arg(&path).arg("check").output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("endpoints.terra.secrets") && said.contains("kafka.password"), "{said}");
    assert_eq!(telling(&said), Vec::<&str>::new(), "{said}");
}
