//! Several endpoints on one bridge, each with its own path, secret, tolerance, topics and rejected status.

use crate::support::bridge::{Bridge, command};
use crate::support::changing::{RELOADED, Running};
use crate::support::consumers::Bus;
use crate::support::terra::{Attempt, SECRET, now};

const DAY: &str = r#"{"type":"daily","user":{"user_id":"u"},"data":[]}"#;
const ORDER: &str = r#"{"event_type":"order.status_changed","event_id":"e-1","data":{"order_id":"o-1"}}"#;
const MATCH: &str = r#"{"type":"activity.dispatched","data":{}}"#;
const STRANGE: &str = r#"{"type":"brand.new"}"#;
const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;

/// `P` stands for the prefix of the test's topics, `DIR` for the directory of its secrets.
const TOML: &str = r#"
[routes.types]
body = "P.bodies"
[endpoints.testing]
path = "/hooks/testing"
secrets = ["file:DIR/testing"]
max_age = "1h"
[endpoints.testing.routes]
template = "P.{endpoint}.{type}"
unknown = "P.{endpoint}.unknown"
dead_letter = "P.{endpoint}.dead-letter"
[endpoints.staging]
path = "/hooks/staging"
secrets = ["file:DIR/staging"]
max_age = "2h"
max_skew = "30m"
routes = { unknown = false, types = { daily = "P.rehearsal", "lab_report*" = "P.{endpoint}.labs" } }
[endpoints.production]
path = "/hooks"
secrets = ["file:DIR/production"]
[endpoints.vantage]
path = "/vantage"
secrets = ["file:DIR/vantage"]
rejected_status = 503
routes.types = { "order*" = "P.orders" }
[endpoints.teams]
path = "/teams"
secrets = ["file:DIR/teams"]
routes.template = "P.matches.{type}"
"#;

/// The settings of one endpoint.
struct Own {
    name: &'static str,
    path: &'static str,
    rejected: u16,
    /// Seconds: an age that is still accepted, and one that is not.
    ages: [i64; 2],
    skews: [i64; 2],
    /// Body and topic; `None` if it is dropped.
    topics: &'static [(&'static str, Option<&'static str>)],
}

const USUAL_AGES: [i64; 2] = [26 * HOUR - MINUTE, 26 * HOUR + MINUTE];
const USUAL_SKEWS: [i64; 2] = [4 * MINUTE, 6 * MINUTE];
const OWN: [Own; 5] = [
    Own {
        name: "testing",
        path: "/hooks/testing",
        rejected: 401,
        ages: [59 * MINUTE, 61 * MINUTE],
        skews: USUAL_SKEWS,
        topics: &[
            (DAY, Some("testing.daily")),
            (r#"{"type":"body"}"#, Some("testing.body")),
            (STRANGE, Some("testing.unknown")),
            ("[]", Some("testing.dead-letter")),
        ],
    },
    Own {
        name: "staging",
        path: "/hooks/staging",
        rejected: 401,
        ages: [119 * MINUTE, 121 * MINUTE],
        skews: [29 * MINUTE, 31 * MINUTE],
        topics: &[
            (DAY, Some("rehearsal")),
            (r#"{"type":"sleep"}"#, Some("sleep")),
            (r#"{"type":"body"}"#, Some("bodies")),
            (r#"{"type":"lab_report.failed"}"#, Some("staging.labs")),
            (STRANGE, None),
            ("[]", Some("dead-letter")),
        ],
    },
    Own {
        name: "production",
        path: "/hooks",
        rejected: 401,
        ages: USUAL_AGES,
        skews: USUAL_SKEWS,
        topics: &[
            (DAY, Some("daily")),
            (r#"{"type":"body"}"#, Some("bodies")),
            (STRANGE, Some("unknown")),
            ("[]", Some("dead-letter")),
        ],
    },
    Own {
        name: "vantage",
        path: "/vantage",
        rejected: 503,
        ages: USUAL_AGES,
        skews: USUAL_SKEWS,
        topics: &[(ORDER, Some("orders")), (STRANGE, Some("unknown"))],
    },
    Own {
        name: "teams",
        path: "/teams",
        rejected: 401,
        ages: USUAL_AGES,
        skews: USUAL_SKEWS,
        topics: &[(MATCH, Some("matches.activity.dispatched")), (STRANGE, Some("unknown"))],
    },
];

impl Own {
    /// Signed for this endpoint.
    fn attempt(&self, body: &str) -> Attempt {
        Attempt::of(body).path(self.path).secret(&secret_of(self.name))
    }
}

fn secret_of(endpoint: &str) -> String {
    format!("the secret of {endpoint}")
}

fn toml(bus: &Bus) -> String {
    TOML.replace("\"P.", &format!("\"{}.", bus.prefix()))
}

fn five_on(bus: &Bus) -> Running {
    let secrets: Vec<_> = OWN.iter().map(|own| (own.name, secret_of(own.name))).collect();
    let secrets: Vec<_> = secrets.iter().map(|(name, secret)| (*name, secret.as_str())).collect();
    Running::start(bus, &toml(bus), &secrets)
}

fn metric(bridge: &Bridge, name: &str, labels: &[(&str, &str)]) -> u64 {
    let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    let line = format!("terra_bridge_{name}{{{}}} ", labels.join(","));
    bridge.metrics().lines().find_map(|metric| metric.strip_prefix(&line)?.parse().ok()).unwrap_or(0)
}

fn each_has_its_path_secret_topics_and_metrics(bus: &Bus) {
    let running = five_on(bus);
    let mut on_topic = std::collections::BTreeMap::new();
    for own in &OWN {
        for (body, topic) in own.topics {
            let reply = own.attempt(body).post(running.bridge.deliveries);
            assert_eq!(reply.status, 200, "{body} to {}: {}", own.name, reply.json());
            let Some(topic) = topic else {
                assert_eq!(reply.json()["outcome"], "dropped");
                continue;
            };
            let place: &mut usize = on_topic.entry(topic).or_default();
            *place += 1;
            let got = bus.read(&running.bridge, &bus.topic(topic), *place).pop().expect("as many as asked for");
            assert_eq!(got.payload, body.as_bytes(), "{topic}");
            assert_eq!(got.attribute("source"), Some(format!("/terra/{}", own.name)));
        }
        let ended = |outcome: &str| {
            let labels = [("endpoint", own.name), ("outcome", outcome)];
            metric(&running.bridge, "deliveries_total", &labels)
        };
        let all = ended("kept") + ended("dead_lettered") + ended("dropped");
        assert_eq!(all, own.topics.len() as u64, "deliveries of {}", own.name);
        let timed = metric(&running.bridge, "delivery_seconds_count", &[("endpoint", own.name)]);
        assert_eq!(timed, own.topics.len() as u64, "times of {}", own.name);
    }
    assert_eq!(bus.count(&running.bridge), on_topic.values().sum::<usize>(), "and nothing elsewhere");
}

on_every_bus!(each_has_its_path_secret_topics_and_metrics);

#[test]
fn each_has_its_tolerance() {
    let bus = Bus::embedded().expect("needs no broker");
    let running = five_on(&bus);
    for own in &OWN {
        let aged = |seconds: i64| running.status(&own.attempt(r#"{"type":"sleep"}"#).t(now() - seconds));
        assert_eq!(own.ages.map(aged), [200, own.rejected], "{}", own.name);
        assert_eq!(own.skews.map(|ahead| aged(-ahead)), [200, own.rejected], "{}", own.name);
        for reason in ["too_old", "too_new"] {
            let labels = [("endpoint", own.name), ("reason", reason)];
            assert_eq!(metric(&running.bridge, "rejections_total", &labels), 1, "{reason} at {}", own.name);
        }
    }
}

#[test]
fn a_secret_of_one_never_opens_another() {
    let bus = Bus::embedded().expect("needs no broker");
    let running = five_on(&bus);
    let captured: Vec<_> = OWN.iter().map(|own| own.attempt(DAY)).collect();
    for (own, attempt) in OWN.iter().zip(&captured) {
        assert_eq!(running.status(attempt), 200, "{} itself", own.name);
    }
    for own in &OWN {
        for attempt in captured.iter().filter(|attempt| attempt.path != own.path) {
            let reply = attempt.clone().path(own.path).post(running.bridge.deliveries);
            assert_eq!((reply.status, &reply.json()["outcome"]), (own.rejected, &"rejected".into()), "{}", own.name);
        }
        let labels = [("endpoint", own.name), ("reason", "forged")];
        assert_eq!(metric(&running.bridge, "rejections_total", &labels), OWN.len() as u64 - 1, "{}", own.name);
    }
    assert_eq!(bus.count(&running.bridge), OWN.len(), "nothing but what each endpoint's own secret signed");
}

#[test]
fn a_secret_that_is_changed_opens_its_own_endpoint_alone() {
    let bus = Bus::embedded().expect("needs no broker");
    let running = five_on(&bus);
    running.replace("staging", "a new secret");
    running.reload(&toml(&bus), RELOADED);
    for own in &OWN {
        let with = |secret: &str| running.status(&own.attempt(DAY).secret(secret));
        let staging = own.name == "staging";
        assert_eq!(with("a new secret"), if staging { 200 } else { own.rejected }, "{}", own.name);
        assert_eq!(with(&secret_of(own.name)), if staging { 401 } else { 200 }, "{}", own.name);
    }
}

#[test]
fn the_environment_alone_makes_endpoints_with_routes() {
    let bus = Bus::embedded().expect("needs no broker");
    let mut environment = bus.environment();
    let types = format!("{{ \"lab_report.*\" = false, daily = \"{}\" }}", bus.topic("{endpoint}.days"));
    let variables = [
        ("ENDPOINTS__EU_STAGING__PATH", "/eu"),
        ("ENDPOINTS__EU_STAGING__SECRETS", "env:STAGING"),
        ("ENDPOINTS__EU_STAGING__ROUTES__TYPES", &types),
        ("ENDPOINTS__TERRA__REJECTED_STATUS", "503"),
    ];
    environment.extend(variables.map(|(name, value)| (format!("TERRA_BRIDGE_{name}"), value.to_owned())));
    environment.push(("STAGING".into(), "another secret".into()));
    let bridge = Bridge::ready(&environment);
    let eu = |body: &str| Attempt::of(body).path("/eu").secret("another secret").post(bridge.deliveries);
    assert_eq!(eu(DAY).status, 200);
    assert_eq!(eu(r#"{"type":"lab_report.completed"}"#).json()["outcome"], "dropped");
    assert_eq!(Attempt::of(DAY).secret(SECRET).post(bridge.deliveries).status, 200);
    assert_eq!(Attempt::of(DAY).secret("another secret").post(bridge.deliveries).status, 503);
    for (topic, endpoint) in [("eu_staging.days", "eu_staging"), ("daily", "terra")] {
        assert_eq!(bus.read(&bridge, &bus.topic(topic), 1)[0].attribute("source"), Some(format!("/terra/{endpoint}")));
    }
    assert_eq!(bus.count(&bridge), 2);
}

#[test]
fn routes_of_one_endpoint_are_reloaded_and_those_of_another_stay() {
    let bus = Bus::embedded().expect("needs no broker");
    let running = five_on(&bus);
    let moved = toml(&bus).replace(&bus.topic("rehearsal"), &bus.topic("moved"));
    assert_eq!(running.reload(&moved, RELOADED)["changed"], "endpoints.staging.routes.types.daily");
    for own in &OWN[1..3] {
        assert_eq!(running.status(&own.attempt(DAY)), 200);
    }
    for (topic, endpoint) in [("moved", "staging"), ("daily", "production")] {
        let got = &bus.read(&running.bridge, &bus.topic(topic), 1)[0];
        assert_eq!(got.attribute("source"), Some(format!("/terra/{endpoint}")));
    }
    assert_eq!(bus.count(&running.bridge), 2);
}

#[test]
fn check_shows_the_routes_of_each_and_advises_against_a_secret_for_two() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let file = dir.path().join("bridge.toml");
    for own in &OWN {
        let secret = if own.name == "teams" { "production" } else { own.name };
        std::fs::write(dir.path().join(own.name), secret_of(secret)).expect("ours");
    }
    let toml = TOML.replace("DIR", dir.path().to_str().expect("a path in UTF-8"));
    std::fs::write(&file, toml).expect("ours");
    let output = command().arg("check").arg("--config").arg(&file).output().expect("the binary runs");
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(output.status.code(), Some(0), "{said}{}", output.stderr.escape_ascii());
    let rows: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
    for row in [
        ["testing", "daily", "P.testing.daily"],
        ["testing", "body", "P.testing.body"],
        ["staging", "daily", "P.rehearsal"],
        ["staging", "lab_report*", "P.staging.labs"],
        ["production", "daily", "terra.daily"],
        ["production", "body", "P.bodies"],
        ["vantage", "order.status_changed", "P.orders"],
        ["teams", "activity.dispatched", "P.matches.activity.dispatched"],
        ["testing", "(unreadable)", "P.testing.dead-letter"],
        ["production", "(unreadable)", "terra.dead-letter"],
    ] {
        assert!(rows.contains(&row.to_vec()), "{row:?} in\n{said}");
    }
    assert!(said.contains("advice   endpoints.production and endpoints.teams: have a secret in common"), "{said}");
    assert_eq!(said.matches("in common").count(), 1, "{said}");
    assert!(!said.contains("the secret of"), "{said}");
}

#[test]
fn check_says_what_a_dropped_link_takes_with_it() {
    let said = |settings: &[(&str, &str)]| {
        let settings = settings.iter().map(|(key, value)| (format!("TERRA_BRIDGE_{key}"), *value));
        let output = command().arg("check").envs(settings).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let advice = "what such links lead to is dropped with them";
    let dropped = ("ROUTES__TYPES", "{ s3_upload = false }");
    let expected = format!("advice   endpoints.terra: drops s3_upload: {advice}");
    assert!(said(&[dropped]).contains(&expected), "{}", said(&[dropped]));
    let all = said(&[("ENDPOINTS__TERRA__ROUTES__TYPES", "{ \"s3_*\" = false }")]);
    assert!(all.contains("endpoints.terra: drops s3_payload and s3_upload: "), "{all}");
    for settings in [&[][..], &[dropped, ("S3__MODE", "forward")], &[("ROUTES__TYPES", "{ processing = false }")]] {
        assert!(!said(settings).contains(advice), "{settings:?}");
    }
}

#[test]
fn the_documented_example_does_what_it_says() {
    let page = include_str!("../../config/README.md");
    let from = page.find("[endpoints.production]").expect("the example");
    let (toml, _) = page[from..].split_once("```").expect("its end");
    let bus = Bus::embedded().expect("needs no broker");
    let dir = tempfile::TempDir::new().expect("a directory");
    std::fs::write(dir.path().join("bridge.toml"), toml).expect("ours");
    let mut environment = bus.environment();
    // The example's file defines its own topics.
    environment.retain(|(name, _)| !name.starts_with("TERRA_BRIDGE_ROUTES__"));
    environment.extend(["STAGING", "VANTAGE"].map(|name| (format!("{name}_SIGNING_SECRET"), name.to_owned())));
    environment.push(("TERRA_BRIDGE_CONFIG".into(), dir.path().join("bridge.toml").display().to_string()));
    let bridge = Bridge::ready(&environment);
    for (path, secret, event_type, topic) in [
        ("/terra", SECRET, "daily", "terra.daily"),
        ("/terra", SECRET, "lab_report.failed", "terra.lab_report.failed"),
        ("/terra-staging", "STAGING", "daily", "terra.staging.daily"),
        ("/terra-staging", "STAGING", "lab_report.completed", "staging-labs"),
        ("/vantage", "VANTAGE", "order.status_changed", "terra.order.status_changed"),
    ] {
        let attempt = Attempt::of(format!(r#"{{"type":"{event_type}"}}"#)).path(path).secret(secret);
        assert_eq!(attempt.post(bridge.deliveries).status, 200, "{event_type} to {path}");
        assert_eq!(bus.read(&bridge, topic, 1)[0].payload, attempt.body);
        let refused = if path == "/vantage" { 503 } else { 401 };
        assert_eq!(attempt.secret("another").post(bridge.deliveries).status, refused, "{path}");
    }
    let dropped = Attempt::of(r#"{"type":"rate_limit_hit"}"#).path("/terra-staging").secret("STAGING");
    assert_eq!(dropped.post(bridge.deliveries).json()["outcome"], "dropped");
}
