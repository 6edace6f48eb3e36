//! The binary as a person or a script uses it: configuration, `check`, `send`, `tail`, exit codes.

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use terra_bridge::samples::SAMPLES;

use crate::support::bridge::{Bridge, command, on_free_ports};
use crate::support::consumers::Bus;
use crate::support::terra::Attempt;
use crate::support::{needed, until};

const BODY: &str = r#"{"type":"daily","user":{"user_id":"reader"}}"#;
/// Creating a topic takes time on a busy broker.
const BUS_KEEPS_WITHIN: Duration = Duration::from_secs(60);

pub fn run(arguments: &[&str], environment: &[(String, String)]) -> Output {
    let mut command = command();
    command.args(arguments).envs(environment.iter().map(|(name, value)| (name, value)));
    command.output().expect("the binary runs")
}

pub fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The environment in which a command finds the running bridge.
pub fn beside(bus: &Bus, bridge: &Bridge) -> Vec<(String, String)> {
    let mut environment = bus.environment();
    environment.retain(|(name, _)| name != "TERRA_BRIDGE_EMBEDDED__LISTEN");
    environment.push(("TERRA_BRIDGE_SERVER__LISTEN".into(), bridge.deliveries.to_string()));
    environment.push(("TERRA_BRIDGE_ADMIN__LISTEN".into(), bridge.admin.to_string()));
    if let Some(reader) = bridge.reader {
        environment.push(("TERRA_BRIDGE_EMBEDDED__LISTEN".into(), reader.to_string()));
    }
    environment
}

#[test]
fn a_file_is_read_and_the_environment_stands_above_it() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let file = dir.path().join("bridge.toml");
    let log = dir.path().join("log");
    let text = format!(
        "[endpoints.staging]\npath = \"/staging\"\nsecrets = [\"env:TERRA_SIGNING_SECRET\"]\n\
         [endpoints.production]\npath = \"/from-the-file\"\nsecrets = [\"file:{secret}\"]\n\
         [routes]\ntemplate = \"t.{{endpoint}}.{{type}}\"\n\
         [embedded]\ndir = {log:?}\nlisten = \"127.0.0.1:0\"\n",
        secret = dir.path().join("secret").display(),
    );
    std::fs::write(&file, text).expect("the directory is ours");
    std::fs::write(dir.path().join("secret"), "of production\n").expect("the directory is ours");
    let mut bridge = command();
    bridge.arg("--config").arg(&file).envs(on_free_ports());
    bridge.env("TERRA_BRIDGE_ENDPOINTS__PRODUCTION__PATH", "/production");
    let bridge = Bridge::run(bridge);
    let status = |attempt: Attempt| attempt.post(bridge.deliveries).status;
    assert_eq!(status(Attempt::of(BODY).path("/staging")), 200);
    assert_eq!(status(Attempt::of(BODY).path("/production").secret("of production")), 200);
    assert_eq!(status(Attempt::of(BODY).path("/production")), 401, "a secret of one opens no other");
    assert_eq!(status(Attempt::of(BODY).path("/from-the-file").secret("of production")), 404);
    assert_eq!(status(Attempt::of(BODY)), 404, "the default endpoint is there only where none is named");
    let topics = crate::support::http::get(bridge.reader(), "/topics").json();
    assert!(topics.to_string().contains("t.staging.daily") && topics.to_string().contains("t.production.daily"));
}

#[test]
fn every_mistake_is_told_at_once_and_no_port_opens() {
    let environment = [
        ("TERRA_BRIDGE_BUS", "kafka"),
        ("TERRA_BRIDGE_SERVER__MAX_BODY", "12"),
        ("TERRA_BRIDGE_SERVER__LISTN", "127.0.0.1:0"),
        ("TERRA_BRIDGE_SERVER__DEADLINE", "30s"),
        ("TERRA_BRIDGE_KAFKA__PROPERTIES__ACKS", "1"),
        ("TERRA_BRIDGE_ROUTES__TYPES", "{ daily = \"a.b\", sleep = \"a_b\" }"),
        ("TERRA_BRIDGE_ENDPOINTS__TERRA__SECRETS", "the literal secret"),
    ];
    let environment: Vec<_> = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    for arguments in [&["check"][..], &["serve"], &[]] {
        let output = run(arguments, &environment);
        assert_eq!(output.status.code(), Some(2));
        let said = err(&output);
        for part in [
            "kafka.brokers",
            "server.max_body (TERRA_BRIDGE_SERVER__MAX_BODY)",
            "server.listn",
            "server.deadline",
            "kafka.properties.acks (TERRA_BRIDGE_KAFKA__PROPERTIES__ACKS)",
            "the topic `a_b`, which differs only in `.` and `_` from `a.b`",
            "endpoints.terra.secrets",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains("literal"), "{said}");
    }
}

#[test]
fn a_missing_secret_says_what_to_do() {
    let output = command().env_remove("TERRA_SIGNING_SECRET").output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("TERRA_SIGNING_SECRET"), "{}", err(&output));
    let output = command().env("TERRA_SIGNING_SECRET", "").output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(2), "an empty one is none");
}

#[test]
fn check_shows_each_value_with_its_source_and_every_route() {
    let environment = [
        ("TERRA_BRIDGE_SERVER__LISTEN".to_owned(), "127.0.0.1:9".to_owned()),
        ("TERRA_BRIDGE_PORT".to_owned(), "tcp://10.0.0.1:80".to_owned()),
        ("TERRA_BRIDGE_ROUTES__TYPES__LAB_REPORT__COMPLETED".to_owned(), "labs".to_owned()),
    ];
    let output = run(&["check"], &environment);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let said = out(&output);
    let line = |part: &str| said.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {said}"));
    assert!(line("server.listen").contains("TERRA_BRIDGE_SERVER__LISTEN"));
    assert!(line("server.deadline").contains("7.5s") && line("server.deadline").contains("default"));
    assert!(line("endpoints.terra.secrets").contains("bytes") && !said.contains(crate::support::terra::SECRET));
    assert!(line("lab_report.completed ").contains("labs"));
    assert!(line(" daily ").contains("terra.daily"));
    assert!(said.contains("TERRA_BRIDGE_PORT"), "ignored variables are listed");
}

#[test]
fn check_says_how_much_memory_the_configuration_takes_in_words_and_alone_as_a_number() {
    let environment = [("TERRA_BRIDGE_SERVER__MAX_CONNECTIONS".to_owned(), "2000".to_owned())];
    let said = out(&run(&["check"], &environment));
    let number = out(&run(&["check", "--memory"], &environment));
    let bytes: u64 = number.trim_end().parse().expect("only a number");
    assert!(said.contains(&format!("\nMemory\n\n  at most {} MiB ({bytes} bytes)", bytes.div_ceil(1 << 20))), "{said}");
    assert!(said.contains(" MiB  server.max_connections: 2000 × "), "{said}");
}

#[test]
fn what_begins_as_its_own_variables_do_and_is_ignored_is_said_at_the_start() {
    const SAID: &str = "unknown TERRA_BRIDGE_ variables are ignored";
    let bus = Bus::embedded().expect("needs no broker");
    let mut environment = bus.environment();
    environment.push(("TERRA_BRIDGE_PORT".into(), "tcp://10.0.0.1:80".into()));
    assert!(Bridge::start(&environment).said(SAID).is_empty(), "Kubernetes set it, nobody else");
    environment.push(("TERRA_BRIDGE_SERVER_MAX_BODY".into(), "1 MiB, and a secret".into()));
    environment.push(("TERRA_BRIDGE_RUOTES".into(), "{}".into()));
    let bridge = Bridge::start(&environment);
    let said = bridge.said(SAID);
    assert_eq!(said.len(), 1, "{said:?}");
    let named = "TERRA_BRIDGE_RUOTES, TERRA_BRIDGE_SERVER_MAX_BODY; did you mean TERRA_BRIDGE_SERVER__MAX_BODY?";
    assert_eq!((&said[0]["variables"], &said[0]["level"]), (&named.into(), &"WARN".into()));
    assert!(!bridge.log().contains("and a secret"));
}

/// A reader of the bus needs no signing secret.
fn reading_needs_no_signing_secret(bus: &Bus) {
    let bridge = Bridge::ready(&bus.environment());
    let environment = beside(bus, &bridge);
    let sent = || run(&["send", "large_request_sending"], &environment).status.success().then_some(());
    until("the bus keeps one", BUS_KEEPS_WITHIN, sent);
    for arguments in [&["tail", "--from", "earliest", "--limit", "1"][..], &["requests"], &["health"]] {
        let mut reading = command();
        reading.env_remove("TERRA_SIGNING_SECRET").args(arguments);
        let output = reading.envs(environment.iter().cloned()).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", err(&output));
        assert_eq!(out(&output).is_empty(), arguments == ["health"], "{arguments:?}");
    }
    for arguments in [&["check"][..], &["send", "daily"]] {
        let mut serving = command();
        serving.env_remove("TERRA_SIGNING_SECRET").args(arguments);
        let output = serving.envs(environment.iter().cloned()).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            err(&output).contains("the environment variable TERRA_SIGNING_SECRET, which is not set"),
            "{arguments:?}"
        );
    }
}

/// Some terminals obey U+0080 to U+009F like an escape.
fn no_json_drives_the_terminal(bus: &Bus) {
    const HOSTILE: &str = "{\"type\":\"large_request_sending\",\"expected_payloads\":2,\
                           \"user\":{\"user_id\":\"\u{9d}0;u\u{9c}\",\"provider\":\"\u{9b}2J\u{7f}\"}}";
    let bridge = Bridge::ready(&bus.environment());
    let sent = Attempt::of(HOSTILE).header("terra-reference", "r");
    until("the bus keeps it", BUS_KEEPS_WITHIN, || (sent.post(bridge.deliveries).status == 200).then_some(()));
    let environment = beside(bus, &bridge);
    let topic = bus.topic("large_request_sending");
    let says = |arguments: &[&str]| {
        let output = run(arguments, &environment);
        let said = String::from_utf8(output.stdout.clone()).expect("UTF-8");
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        assert!(said.ends_with('\n') && said.matches(char::is_control).count() == 1, "{said:?}");
        serde_json::from_str::<serde_json::Value>(&said).expect("JSON")
    };
    assert_eq!(says(&["tail", &topic, "--from", "earliest", "--limit", "1", "--json"])["payload"], HOSTILE);
    let request = says(&["requests", "--json"]);
    let provider = request["provider"].as_str().expect("a provider");
    assert!(provider.starts_with("sha256:"), "no attribute has control characters: {provider}");
}

fn check_online_speaks_of_durability(bus: &Bus) {
    let bridge = Bridge::ready(&bus.environment());
    let output = run(&["check", "--online"], &beside(bus, &bridge));
    let said = out(&output) + &err(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("\nBus\n") && said.contains("→"), "{said}");
}

fn send_and_tail_show_every_sample(bus: &Bus) {
    let bridge = Bridge::ready(&bus.environment());
    let environment = beside(bus, &bridge);
    let output = run(&["send", "--all"], &environment);
    assert_eq!(output.status.code(), Some(0), "{}{}", out(&output), err(&output));
    let ignored = "terra_bridge_ordering_timestamps_ignored_total{endpoint=\"terra\"} 0\n";
    assert!(bridge.metrics().contains(ignored), "each is believed to be of now");
    let count = SAMPLES.len().to_string();
    let output = run(&["tail", "--from", "earliest", "--json", "--limit", &count], &environment);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let records: Vec<serde_json::Value> =
        out(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let topics: BTreeSet<_> = records.iter().map(|record| record["topic"].as_str().unwrap().to_owned()).collect();
    assert_eq!(topics, SAMPLES.iter().map(|sample| bus.topic(sample.name)).collect());
    for record in &records {
        let keys: BTreeSet<_> = record.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = ["topic", "key", "partition", "offset", "time", "headers", "payload"];
        assert_eq!(keys, expected.into());
    }
    let daily = bus.topic("daily");
    let output = run(&["tail", &daily, "--from", "earliest", "--limit", "1"], &environment);
    assert!(out(&output).contains(&daily) && out(&output).contains("type daily"), "{}", out(&output));
}

/// For example, one that a newer configuration routes to.
fn a_topic_that_is_not_there_is_left_out_unless_it_was_named(bus: &Bus) {
    let bridge = Bridge::ready(&bus.environment());
    let mut environment = beside(bus, &bridge);
    assert_eq!(run(&["send", "daily"], &environment).status.code(), Some(0));
    for name in ["SLEEP", "LARGE_REQUEST_SENDING"] {
        environment.push((format!("TERRA_BRIDGE_ROUTES__TYPES__{name}"), bus.topic("nowhere")));
    }
    for arguments in [&["tail", "--from", "earliest", "--limit", "1"][..], &["requests"]] {
        let output = run(arguments, &environment);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        assert!(err(&output).contains(&bus.topic("nowhere")), "{}", err(&output));
    }
    let named = run(&["tail", &bus.topic("daily"), &bus.topic("nowhere"), "--from", "earliest"], &environment);
    assert_eq!(named.status.code(), Some(1), "{}", err(&named));
}

on_every_bus!(
    reading_needs_no_signing_secret,
    no_json_drives_the_terminal,
    check_online_speaks_of_durability,
    send_and_tail_show_every_sample,
    a_topic_that_is_not_there_is_left_out_unless_it_was_named
);

#[test]
fn send_counts_many_and_a_forged_one_is_refused() {
    let bus = Bus::embedded().expect("needs no broker");
    let bridge = Bridge::ready(&bus.environment());
    let environment = beside(&bus, &bridge);
    let output = run(&["send", "daily", "--count", "100", "--concurrency", "4"], &environment);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(out(&output).contains("100") && out(&output).contains("p99"), "{}", out(&output));
    assert_eq!(bus.count(&bridge), 100, "each is an event of its own");
    assert_eq!(run(&["send", "daily", "--forge"], &environment).status.code(), Some(0));
    assert_eq!(bus.count(&bridge), 100);
    assert_eq!(run(&["health"], &environment).status.code(), Some(0));
}

#[test]
fn send_says_what_a_rejection_may_come_from() {
    let bus = Bus::embedded().expect("needs no broker");
    for status in ["401", "503"] {
        let mut environment = bus.environment();
        environment.push(("TERRA_BRIDGE_ENDPOINTS__TERRA__REJECTED_STATUS".into(), status.into()));
        let bridge = Bridge::ready(&environment);
        let mut environment = beside(&bus, &bridge);
        environment.push(("TERRA_SIGNING_SECRET".into(), "another one of the tests".into()));
        let output = run(&["send", "daily", "sleep"], &environment);
        let said = err(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("another signing secret than the first of endpoints.terra.secrets here"), "{said}");
        assert!(!said.contains("another one of the tests"), "{said}");
    }
}

#[test]
fn what_answers_in_place_of_the_bridge_is_told_from_it() {
    let bus = Bus::embedded().expect("needs no broker");
    let bridge = Bridge::ready(&bus.environment());
    let environment = beside(&bus, &bridge);
    let send = |url: String| {
        let output = run(&["send", "daily", "--url", &url], &environment);
        assert_eq!(output.status.code(), Some(1), "{url}: {}", out(&output));
        err(&output)
    };
    let (deliveries, admin) = (bridge.deliveries, bridge.admin);
    for (url, hint) in [
        (format!("http://{deliveries}/tera"), "that of the endpoint here is /terra"),
        (format!("http://{admin}/terra"), "something else listens there"),
        (format!("https://{deliveries}/terra"), "does not speak TLS"),
    ] {
        let said = send(url);
        assert!(said.contains(hint), "{hint}: {said}");
    }
    let named = run(&["tail", "daily", "--from", "earliest"], &environment);
    assert!(err(&named).contains(&format!("did you mean {}?", bus.topic("daily"))), "{}", err(&named));
    let mut elsewhere = environment.clone();
    elsewhere.push(("TERRA_BRIDGE_ADMIN__LISTEN".into(), deliveries.to_string()));
    elsewhere.retain(|(name, _)| name != "TERRA_BRIDGE_SERVER__LISTEN");
    let health = run(&["health"], &elsewhere);
    assert_eq!(health.status.code(), Some(1));
    assert!(err(&health).contains("admin.listen") && err(&health).contains("404"), "{}", err(&health));
}

#[test]
fn one_file_of_production_serves_a_laptop() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let file = dir.path().join("bridge.toml");
    let text = "bus = \"kafka\"\n[kafka]\nbrokers = [\"kafka.internal:9092\"]\nusername = \"u\"\n\
                password = \"file:/run/secrets/kafka\"\ntls.ca = \"/run/secrets/ca.pem\"\n";
    std::fs::write(&file, text).expect("ours");
    let check = |more: &[(&str, &str)]| {
        let mut check = command();
        check.arg("check").arg("--config").arg(&file).envs(more.iter().copied());
        check.output().expect("the binary runs")
    };
    assert_eq!(check(&[]).status.code(), Some(2), "the bus that is used has to be whole");
    let output = check(&[("TERRA_BRIDGE_BUS", "embedded")]);
    let said = out(&output);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    for key in ["kafka.brokers", "kafka.username", "kafka.password", "kafka.tls.ca"] {
        let line = said.lines().find(|line| line.contains(key)).unwrap_or_else(|| panic!("{key}: {said}"));
        assert!(line.contains("unused while bus is another") && line.contains("bridge.toml:"), "{line}");
    }
    std::fs::write(&file, text.replace("username", "usrname")).expect("ours");
    let output = check(&[("TERRA_BRIDGE_BUS", "embedded")]);
    assert!(err(&output).contains("did you mean kafka.username?"), "{}", err(&output));
}

#[test]
fn a_secret_that_looks_wrong_is_said_by_check_and_at_the_start() {
    const SAID: &str = "something in the configuration is probably not what you meant";
    let bus = Bus::embedded().expect("needs no broker");
    let mut environment = bus.environment();
    assert!(Bridge::start(&environment).said(SAID).is_empty());
    environment.push(("TERRA_SIGNING_SECRET".into(), "\"canary\"\n".into()));
    let bridge = Bridge::start(&environment);
    let said = bridge.said(SAID);
    assert_eq!(said.len(), 1, "{said:?}");
    let about = "endpoints.terra.secrets (env:TERRA_SIGNING_SECRET)";
    assert_eq!((&said[0]["about"], &said[0]["level"]), (&about.into(), &"WARN".into()));
    assert_eq!(said[0]["says"], "ends in a newline and is in quotes");
    let output = run(&["check"], &environment);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let line = format!("advice   {about}: ends in a newline and is in quotes");
    assert!(out(&output).contains(&line), "{}", out(&output));
    assert!(!bridge.log().contains("canary") && !out(&output).contains("canary"));
}

#[test]
fn nothing_that_listens_and_wrong_usage_have_their_exit_codes() {
    let nowhere = [("TERRA_BRIDGE_SERVER__LISTEN".to_owned(), "127.0.0.1:1".to_owned())];
    assert_eq!(run(&["send", "daily"], &nowhere).status.code(), Some(1));
    assert_eq!(
        run(&["tail"], &[("TERRA_BRIDGE_EMBEDDED__LISTEN".to_owned(), "127.0.0.1:1".into())]).status.code(),
        Some(1)
    );
    assert_eq!(run(&["send", "dayly"], &[]).status.code(), Some(2));
    assert_eq!(run(&["sned"], &[]).status.code(), Some(2));
    assert_eq!(run(&["--config", "/nowhere/at/all.toml"], &[]).status.code(), Some(2));
    let version = run(&["--version"], &[]);
    assert!(out(&version).contains("librdkafka 2.") && out(&version).contains("commit"), "{}", out(&version));
    assert!(out(&run(&["completions", "bash"], &[])).contains("terra-bridge"));
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("UTF-8");
    assert_eq!(run(&["man", path], &[]).status.code(), Some(0));
    let help = out(&run(&["--help"], &[]));
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<_> = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    assert!(commands.contains(&"serve") && commands.contains(&"man"), "{commands:?}");
    for command in commands.into_iter().filter(|command| !command.is_empty() && *command != "help") {
        let page = dir.path().join(format!("terra-bridge-{command}.1"));
        let page = std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        assert!(page.contains(".SH DESCRIPTION"), "{command}: {page}");
    }
    let nowhere = run(&["man", "/nowhere"], &[]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(err(&nowhere).contains("/nowhere"), "{}", err(&nowhere));
}

#[test]
fn a_tail_of_a_topic_that_is_none_says_so() {
    let bus = Bus::embedded().expect("needs no broker");
    let bridge = Bridge::ready(&bus.environment());
    let output = run(&["tail", "no.such.topic", "--from", "earliest"], &beside(&bus, &bridge));
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("no.such.topic"), "{}", err(&output));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let bus = Bus::embedded().expect("needs no broker");
    let mut bridge = Bridge::ready(&bus.environment());
    // A request that never ends would delay the drain.
    let mut held = crate::support::http::Connection::open(bridge.deliveries).expect("a connection");
    held.write(Attempt::of(vec![b' '; 1000]).head(1000).as_bytes()).expect("the head goes out");
    bridge.signal("TERM");
    until("it drains", Duration::from_secs(5), || (bridge.readiness().0 == 503).then_some(()));
    bridge.signal("TERM");
    assert_eq!(bridge.ended(Duration::from_secs(3)).code(), Some(0));
}

/// As in the README: the stock Python clients.
fn python(script: &str, arguments: &[&str]) -> Option<String> {
    let python = needed("TERRA_BRIDGE_TEST_PYTHON")?;
    let output = Command::new(python).arg("-c").arg(script).args(arguments).stdin(Stdio::null()).output();
    let output = output.expect("Python runs");
    assert!(output.status.success(), "{}", err(&output));
    Some(out(&output))
}

#[test]
fn a_python_consumer_of_kafka_reads_the_event() {
    let Some(bus) = Bus::kafka() else { return };
    let Bus::Kafka { brokers, .. } = &bus else { panic!("it is Kafka") };
    let bridge = Bridge::ready(&bus.environment());
    assert_eq!(Attempt::of(BODY).post(bridge.deliveries).status, 200);
    let script = "
import confluent_kafka, json, sys
consumer = confluent_kafka.Consumer({'bootstrap.servers': sys.argv[1], 'group.id': 'g', 'auto.offset.reset': 'earliest'})
consumer.subscribe([sys.argv[2]])
message = consumer.poll(30)
headers = dict(message.headers())
print(json.loads(message.value())['type'], message.key().decode(), headers['ce_type'].decode(), len(headers['ce_id']))
consumer.close()
";
    let Some(said) = python(script, &[brokers, &bus.topic("daily")]) else { return };
    assert_eq!(said.trim(), "daily reader co.tryterra.daily 64");
}

#[test]
fn a_python_consumer_of_nats_reads_the_event() {
    let Some(bus) = Bus::nats() else { return };
    let Bus::Nats { server, .. } = &bus else { panic!("it is NATS") };
    let bridge = Bridge::ready(&bus.environment());
    assert_eq!(Attempt::of(BODY).post(bridge.deliveries).status, 200);
    let script = "
import asyncio, json, nats, sys
async def main():
    connection = await nats.connect(sys.argv[1])
    subscription = await connection.jetstream().subscribe(sys.argv[2], durable='scores')
    message = await subscription.next_msg(timeout=30)
    print(json.loads(message.data)['type'], message.headers['ce-partitionkey'], len(message.headers['ce-id']))
    await message.ack()
    await connection.close()
asyncio.run(main())
";
    let Some(said) = python(script, &[server, &bus.topic("daily")]) else { return };
    assert_eq!(said.trim(), "daily reader 64");
}
