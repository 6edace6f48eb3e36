//! The topics as an AsyncAPI document: valid for the specification's own parser, and true of what is published.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use terra_bridge::samples::SAMPLES;

use crate::commands::{beside, err, out, run};
use crate::support::bridge::{Bridge, command};
use crate::support::brokers::Broker;
use crate::support::changing::{RELOADED, RELOADS_WITHIN, Running};
use crate::support::consumers::Bus;
use crate::support::http::{Connection, get};
use crate::support::terra::Attempt;
use crate::support::{needed, until};

const CHECKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/asyncapi.mjs");
const TRACE_PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Has AsyncAPI's parser and a JSON Schema validator find no fault with documents, each with messages of its topics.
fn assert_true(documents: &[(String, Vec<Value>)]) {
    let tools = ["TERRA_BRIDGE_TEST_NODE", "TERRA_BRIDGE_TEST_ASYNCAPI"].map(needed);
    let [Some(node), Some(modules)] = tools else { return };
    let mut checker = Command::new(node)
        .args([CHECKER, &modules])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Node runs");
    let pair = |(document, messages): &(String, Vec<Value>)| json!({ "document": document, "messages": messages });
    let asked = Value::from_iter(documents.iter().map(pair)).to_string();
    checker.stdin.take().expect("a pipe").write_all(asked.as_bytes()).expect("the checker reads");
    let output = checker.wait_with_output().expect("the checker ends");
    assert!(output.status.success(), "{}", output.status);
    let problems: Vec<String> = serde_json::from_slice(&output.stdout).expect("a list");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// What the command prints.
fn document(environment: &[(String, String)]) -> String {
    let output = run(&["asyncapi"], environment);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    out(&output)
}

fn what_is_published_is_what_the_document_says(bus: &Bus) {
    let routes = format!("{{ daily = \"{0}\", sleep = \"{0}\", \"new.*\" = \"{0}\" }}", bus.topic("days"));
    let bridge = Bridge::ready(&bus.environment_with(&[("ROUTES__TYPES", &routes)]));
    let mut environment = beside(bus, &bridge);
    environment.push(("TERRA_BRIDGE_ROUTES__TYPES".into(), routes));
    assert_eq!(run(&["send", "--all"], &environment).status.code(), Some(0));
    assert_eq!(run(&["send", "--large-request", "2"], &environment).status.code(), Some(0));
    let traced = |body: &str| Attempt::of(body).header("traceparent", TRACE_PARENT).header("tracestate", "a=1");
    for attempt in [
        traced(r#"{"type":"new.thing","user":{"user_id":"a \"é"}}"#),
        traced(r#"{"event_type":"brand.new"}"#),
        Attempt::of(r#"{"type":"#),
        Attempt::of("[]"),
    ] {
        assert_eq!(attempt.post(bridge.deliveries).status, 200);
    }
    let count = (SAMPLES.len() + 4 + 4).to_string();
    let tail = run(&["tail", "--from", "earliest", "--json", "--limit", &count], &environment);
    assert_eq!(tail.status.code(), Some(0), "{}", err(&tail));
    let messages: Vec<Value> = out(&tail).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_true(&[(document(&environment), messages)]);
}

on_every_bus!(what_is_published_is_what_the_document_says);

#[test]
fn a_claim_check_is_what_the_document_says() {
    let Some(broker) = Broker::nats_that_takes("1MB") else { return };
    let bus = Bus::nats_at(format!("nats://127.0.0.1:{}", broker.port()));
    let environment = bus.environment_with(&[("NATS__OBJECT_STORE", "TERRA_LARGE")]);
    let bridge = Bridge::ready(&environment);
    let (large, unreadable) = (format!(r#"{{"type":"daily","data":"{}"}}"#, "x".repeat(2 << 20)), "x".repeat(2 << 20));
    let attempts = [(Attempt::of(large), "daily"), (Attempt::of(unreadable), "dead-letter")];
    let messages = attempts.map(|(attempt, topic)| {
        assert_eq!(attempt.post(bridge.deliveries).status, 200);
        let got = &bus.read(&bridge, &bus.topic(topic), 1)[0];
        assert_eq!(got.payload, b"");
        json!({ "topic": got.topic, "headers": got.headers, "payload": "" })
    });
    assert_true(&[(document(&environment), messages.into())]);
}

#[test]
fn the_document_of_every_configuration_is_valid_and_tells_no_secret() {
    // Few types: the parser takes its time.
    const ENDPOINTS: &str = "\
[endpoints.production]\npath = \"/production\"\n[endpoints.staging]\npath = \"/staging\"\n\
[endpoints.staging.routes]\nunknown = false\ndead_letter = \"{endpoint}.unreadable\"\n\
[endpoints.staging.routes.types]\nsleep = \"{endpoint}.sleep\"\n\"a/b\" = \"odd\"\n\"c*\" = \"odd\"\n\"*\" = false\n\
[routes.types]\ndaily = \"days\"\nsleep = \"days\"\ns3_upload = \"links\"\n\"brand.new\" = \"new\"\nauth = false\n\"*\" = false\n";
    const SECRET: &str = "of-nobody-else";
    let dir = tempfile::TempDir::new().expect("a directory");
    let file = dir.path().join("bridge.toml");
    let kafka = "bus = \"kafka\"\n[kafka]\nbrokers = [\"one:9092\", \"two:9092\"]\nreplication_factor = 3\n";
    let login = "username = \"bridge\"\npassword = \"env:OURS\"\n";
    let nats = "bus = \"nats\"\n[nats]\nservers = [\"one\", \"tls://two:4222/\"]\n";
    let mut documents = Vec::new();
    for bus in [
        kafka.to_owned(),
        format!("{kafka}{login}"),
        format!(
            "{kafka}create_topics = false\nsasl_mechanism = \"SCRAM-SHA-512\"\n{login}[kafka.tls]\nca = \"system\"\n"
        ),
        nats.to_owned(),
        format!("{nats}object_store = \"TERRA_LARGE\"\ndomain = \"hub\"\ntoken = \"env:OURS\"\n"),
        format!("{nats}user = \"bridge\"\npassword = \"env:OURS\"\n"),
        format!("{nats}nkey = \"env:OURS\"\n"),
        "[embedded]\nlisten = \"0.0.0.0:8082\"\ntoken = \"env:OURS\"\n".to_owned(),
    ] {
        std::fs::write(&file, format!("{bus}{ENDPOINTS}")).expect("the directory is ours");
        // A reader needs no signing secret.
        let mut asyncapi = command();
        asyncapi.env_remove("TERRA_SIGNING_SECRET").env("OURS", SECRET).arg("asyncapi").arg("--config").arg(&file);
        let output = asyncapi.output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(0), "{bus}: {}", err(&output));
        assert!(!out(&output).contains(SECRET), "{bus}");
        documents.push((out(&output), Vec::new()));
    }
    assert_true(&documents);
}

#[test]
fn both_listeners_serve_what_the_command_prints_and_follow_a_reload() {
    let bus = Bus::embedded().expect("needs no broker");
    let token = |token: &str| format!("[embedded]\ntoken = \"file:DIR/{token}\"\n");
    let running = Running::start(&bus, &token("token"), &[("token", "sesame")]);
    let admin = || get(running.bridge.admin, "/asyncapi");
    let reader = |method: &str, token: &str| {
        let head = format!("{method} /asyncapi HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n");
        let mut connection = Connection::open(running.bridge.reader()).expect("a connection");
        connection.request(&head, b"").expect("a response")
    };
    let printed = || {
        let mut environment = bus.environment();
        environment.push(("TERRA_BRIDGE_CONFIG".into(), running.dir.path().join("bridge.toml").display().to_string()));
        document(&environment)
    };
    let before = printed();
    for response in [admin(), reader("GET", "sesame")] {
        assert_eq!(response.status, 200);
        assert_eq!(response.header("content-type"), Some("application/asyncapi+json;version=3.0.0"));
        assert!(response.body == before.as_bytes(), "{}", String::from_utf8_lossy(&response.body));
    }
    assert_eq!(reader("GET", "wrong").status, 401);
    assert_eq!(reader("POST", "sesame").status, 405);
    running.reload(&format!("{}[routes.types]\nsleep = \"nights\"\n", token("token")), RELOADED);
    let after = printed();
    assert!(before != after && after.contains("\"#/channels/nights\""));
    until("the new document", RELOADS_WITHIN, || (admin().body == after.as_bytes()).then_some(()));
    assert!(reader("GET", "sesame").body == after.as_bytes());
}
