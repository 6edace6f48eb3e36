//! Runs what the READMEs show. Each fence is named in exactly one place of this file: by the test that runs it, or in
//! [`ONLY_PARSED`] with the reason why none does.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use terra_bridge::attribute::Attribute;
use terra_bridge::samples::SAMPLES;

use crate::aside::{self, large, of_nats, with_set_aside};
use crate::support::accounts::Operator;
use crate::support::bridge::{Bridge, binary, command, on_free_ports};
use crate::support::brokers::Broker;
use crate::support::measured::Everything;
use crate::support::pages::{Fence, PAGES, Page, fence, page};
use crate::support::terra::{Attempt, SECRET};
use crate::support::tls::Pair;
use crate::support::{needed, until};

const LINES: usize = 250;
const WORDS: usize = 1800;
const SHOWS_WITHIN: Duration = Duration::from_secs(60);

/// What no test runs, and why. The shell parses what is for it.
const ONLY_PARSED: &[(&str, &str)] = &[
    ("README.md#terra-bridge 1", "is a drawing"),
    ("README.md#install 1", "installs packages, and builds for minutes"),
    ("README.md#connect-terra 1", "needs a tunnel through the internet"),
    ("deploy/README.md#install 1", "installs a package and a unit; deploy/check looks into the package"),
    ("deploy/README.md#commands 1", "needs Docker; deploy/check checks the compose file"),
    ("deploy/README.md#kubernetes 1", "needs a cluster; deploy/check renders the chart and validates it"),
    ("deploy/README.md#reload 1", "needs systemd; `reload` sends the signal"),
    ("tests/README.md#tests 1", "is what runs this test"),
    ("tests/README.md#tests 2", "runs what runs this test"),
    ("tests/README.md#faults 1", "is a step of .ci/run"),
    ("tests/README.md#fuzzing 1", "is a step of .ci/run"),
    ("tests/README.md#speed 1", "is a step of .ci/run, with programs that are not optimised"),
];

/// A reader's terminal: an empty directory, the binary in the path, and free ports in place of the default ones.
struct Terminal {
    dir: TempDir,
    environment: Vec<(String, String)>,
}

impl Terminal {
    fn new() -> Self {
        let mut environment = on_free_ports();
        environment.push(("TERRA_BRIDGE_EMBEDDED__LISTEN".into(), "127.0.0.1:0".into()));
        environment.push(("TERRA_SIGNING_SECRET".into(), SECRET.into()));
        Self { dir: TempDir::new().expect("a directory"), environment }
    }

    /// Another terminal on the machine where `bridge` runs.
    fn beside(bridge: &Bridge) -> Self {
        let mut terminal = Self::new();
        for (section, at) in [("SERVER", Some(bridge.deliveries)), ("EMBEDDED", bridge.reader)] {
            terminal.environment.extend(at.map(|at| (format!("TERRA_BRIDGE_{section}__LISTEN"), at.to_string())));
        }
        terminal
    }

    fn bash(&self, script: &str) -> Command {
        let binary = binary();
        let binary = binary.parent().expect("a directory");
        let path = std::env::var("PATH").expect("a path");
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", script]).current_dir(self.dir.path()).env_clear().stdin(Stdio::null());
        bash.env("PATH", format!("{}:{path}", binary.display())).envs(self.environment.iter().cloned());
        bash
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).expect("the directory is ours");
        path
    }

    /// Runs a script whose last line is the bridge.
    fn bridge(&self, script: &str) -> Bridge {
        let script = script.strip_suffix("terra-bridge\n").expect("the bridge is its last line");
        let bridge = Bridge::run(self.bash(&format!("{script}exec terra-bridge")));
        until("the bridge is ready", SHOWS_WITHIN, || (bridge.readiness().0 == 200).then_some(()));
        bridge
    }

    /// Runs it until it has printed all of these, or has ended. Returns its output.
    fn shows(&self, script: &str, parts: &[&str]) -> String {
        shows(self.bash(script), parts)
    }
}

/// Runs a command until it has printed all of these, or has ended; then ends it with whatever it started.
fn shows(mut command: Command, parts: &[&str]) -> String {
    let mut child = command.process_group(0).stdout(Stdio::piped()).spawn().expect("it runs");
    let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let (mut said, end) = (String::new(), Instant::now() + SHOWS_WITHIN);
    while parts.is_empty() || !parts.iter().all(|part| said.contains(part)) {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => said.extend([line.as_str(), "\n"]),
            Err(RecvTimeoutError::Timeout) => break,
            Err(RecvTimeoutError::Disconnected) => {
                let status = child.wait().expect("the child is ours");
                assert!(status.success(), "{status}: {said}");
                break;
            }
        }
    }
    if child.try_wait().expect("the child is ours").is_none() {
        let group = format!("-{}", child.id());
        let _ = Command::new("kill").args(["-TERM", "--", &group]).status();
        child.wait().expect("the child is ours");
    }
    assert!(parts.iter().all(|part| said.contains(part)), "{parts:?} are not all in: {said}");
    said
}

#[test]
fn every_fence_is_named_once_by_the_test_that_runs_it() {
    let here = include_str!("readme.rs");
    for Fence { name, .. } in PAGES.iter().flat_map(Page::fences) {
        assert_eq!(here.matches(&format!("\"{name}\"")).count(), 1, "{name} is run by no test, or by several");
    }
}

#[test]
fn what_no_test_runs_is_at_least_parsed() {
    for (name, _why) in ONLY_PARSED {
        let fence = fence(name);
        if fence.language == "mermaid" {
            assert!(fence.text.starts_with("flowchart LR\n"), "{name}");
            continue;
        }
        assert_eq!(fence.language, "sh", "{name}");
        let parsed = Command::new("bash").args(["-n", "-c", &fence.text]).status().expect("bash runs");
        assert!(parsed.success(), "{name}");
        for word in fence.text.split_whitespace().filter(|word| word.starts_with("./")) {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(word);
            assert!(script.is_file(), "{name}: there is no {word}");
        }
    }
}

#[test]
fn the_packages_to_install_are_those_of_the_container_file() {
    let packages = |text: &str| -> BTreeSet<String> {
        let (_, rest) = text.split_once("apt-get install -y ").expect("a line that installs");
        let words = rest.lines().next().expect("a line").split_whitespace();
        words.filter(|word| !word.starts_with("--") && *word != "\\").map(str::to_owned).collect()
    };
    assert_eq!(packages(page("README.md").text), packages(include_str!("../../deploy/Containerfile")));
}

#[test]
fn the_readme_is_read_in_one_sitting() {
    let text = page("README.md").text;
    let (lines, words) = (text.lines().count(), text.split_whitespace().count());
    assert!(lines <= LINES && words <= WORDS, "{lines} lines, {words} words");
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for Page { path, .. } in &PAGES {
        for link in page(path).links().into_iter().filter(|link| !link.starts_with("https://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { root.join(path) } else { root.join(path).with_file_name(file) };
            let target = target.canonicalize().unwrap_or_else(|error| panic!("{path}: {link}: {error}"));
            let name = target.strip_prefix(root).expect("within the repository").to_str().expect("UTF-8");
            assert!(anchor.is_empty() || page(name).anchors().contains(&anchor.to_owned()), "{path}: {link}");
        }
    }
}

/// Every key in `config/terra-bridge.toml`, which a unit test compares with the declarations.
fn keys() -> BTreeSet<String> {
    let (mut keys, mut section) = (BTreeSet::new(), "");
    for line in include_str!("../../config/terra-bridge.toml").lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
            keys.insert(section.to_owned());
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.contains(' ')) {
            keys.insert(format!("{section}.{key}").trim_start_matches('.').to_owned());
        }
    }
    keys
}

#[test]
fn every_key_and_variable_that_they_name_exists() {
    let keys = keys();
    // These tables take any name.
    let open = ["routes.types.", "kafka.topic_config.", "kafka.properties."];
    let known = |name: &str| {
        let name = name.replace("endpoints.*", "endpoints.terra").replace("endpoints.eu_staging", "endpoints.terra");
        let within =
            |key: &String| key.strip_prefix(&name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        keys.iter().any(within) || open.iter().any(|table| name.starts_with(table))
    };
    let sections: BTreeSet<_> = keys.iter().filter_map(|key| key.split_once('.')).map(|(section, _)| section).collect();
    for page in &PAGES {
        for span in page.code_spans() {
            let name = span.split([' ', '"']).next().expect("one part").trim_end_matches('.');
            let is_key = name.split_once('.').is_some_and(|(section, key)| {
                sections.contains(section) && !key.is_empty() && !name.ends_with(".toml")
            });
            assert!(!is_key || known(name), "{}: there is no key {span}", page.path);
        }
        for name in page.text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let Some(variable) = name.strip_prefix("TERRA_BRIDGE_") else { continue };
            let is_other = variable.is_empty() || variable == "CONFIG" || variable.starts_with("TEST_");
            let key = variable.to_lowercase().replace("__", ".");
            assert!(is_other || known(&key), "{}: no key has the variable {name}", page.path);
        }
    }
}

/// Checks a configuration with every secret and file in its place.
fn check(name: &str, toml: &str) {
    let (terminal, pair) = (Terminal::new(), Pair::new());
    let read = |name: &str| fs::read_to_string(pair.path(name)).expect("just written");
    let (certificate, key) = (read("tls.crt"), read("tls.key"));
    for (file, text) in [
        ("tls.crt", &certificate),
        ("tls.key", &key),
        ("ca.pem", &certificate),
        ("service.cert", &certificate),
        ("service.key", &key),
        ("nats.creds", &Operator::new().account().user(json!({})).0),
        ("terra-new", &SECRET.to_owned()),
        ("terra-old", &SECRET.to_owned()),
    ] {
        terminal.file(file, text);
    }
    let here = terminal.dir.path().to_str().expect("UTF-8");
    let places = ["/run/secrets", "/etc/terra-bridge", "/var/lib"];
    let toml = places.iter().fold(toml.to_owned(), |toml, place| toml.replace(place, here));
    let mut check = command();
    for reference in toml.split("env:").skip(1) {
        check.env(reference.split('"').next().expect("a variable"), SECRET);
    }
    let output = check.args(["check", "--config"]).arg(terminal.file("bridge.toml", &toml)).output().expect("it runs");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_configuration_has_no_mistake() {
    for name in [
        "config/README.md#files-environment-secrets 2",
        "config/README.md#endpoints 1",
        "config/README.md#topics 1",
        "config/README.md#topics 2",
        "config/README.md#spool 1",
        "config/README.md#traces 1",
        "config/README.md#kafka 1",
        "config/README.md#nats 1",
        "config/README.md#embedded-log 1",
        "config/README.md#oauth-oauthbearer-oidc 1",
        "config/README.md#confluent-cloud 1",
        "config/README.md#confluent-cloud 2",
        "config/README.md#azure-event-hubs 1",
        "config/README.md#azure-event-hubs 2",
        "config/README.md#amazon-msk 1",
        "config/README.md#aiven 1",
        "config/README.md#redpanda-cloud 1",
        "config/README.md#warpstream 1",
        "config/README.md#synadia-cloud 1",
        "deploy/README.md#https 1",
    ] {
        let fence = fence(name);
        assert_eq!(fence.language, "toml", "{name}");
        check(name, &fence.text);
    }
}

#[test]
fn a_table_in_a_variable_is_taken_as_it_is_shown() {
    let variable = fence("config/README.md#files-environment-secrets 1").text;
    let said = Terminal::new().shows(&format!("export {variable}terra-bridge check"), &[]);
    let goes = |event_type: &str, topic: &str| {
        said.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == ["terra", event_type, topic])
    };
    assert!(goes("lab_report.failed", "labs") && goes("activity", "workouts"), "{said}");
    assert!(goes("processing", "(dropped)"), "{said}");
}

#[test]
fn the_first_event_arrives_and_the_embedded_log_is_read() {
    let terminal = Terminal::new();
    let bridge = terminal.bridge(&fence("README.md#the-first-event 1").text);
    let other = Terminal::beside(&bridge);
    other.shows(&fence("README.md#the-first-event 2").text, &["kept", "terra.daily", "terra.sleep", "user_id"]);
    if !has_tool("curl") {
        return;
    }
    let curls = fence("deploy/README.md#read-the-embedded-log 1").text;
    let curls = curls.replace("127.0.0.1:8082", &bridge.reader().to_string());
    let parts = ["\"topic\":\"terra.daily\"", "\"offset\":0", "data: {", "\"type\":\"daily\""];
    assert_eq!(curls.lines().count(), parts.len());
    for (curl, part) in curls.lines().zip(parts) {
        other.shows(curl, &[part]);
    }
}

#[test]
fn a_delivery_that_a_reader_signs_is_kept() {
    let terminal = Terminal::new();
    let bridge = terminal.bridge("terra-bridge\n");
    if has_tool("curl") && has_tool("openssl") {
        let lines = fence("config/README.md#what-terra-sends 1").text;
        let lines = lines.replace("localhost:8080", &bridge.deliveries.to_string());
        Terminal::beside(&bridge).shows(&lines, &["\"outcome\":\"kept\""]);
    }
}

#[test]
fn what_was_set_aside_is_shown_discarded_and_sent() {
    let Some((mut broker, bus, dir)) = of_nats() else { return };
    let settings = aside::environment(&bus, &dir);
    let (bridge, ids) = with_set_aside(&settings, &[large(0, 0), large(1, 1)]);
    let mut other = Terminal::beside(&bridge);
    other.environment.extend(settings);
    let lines = fence("deploy/README.md#what-was-set-aside 1").text.replace("3fa9b2c1d4e5", &ids[0][..12]);
    let (first, retry) = lines.trim_end().rsplit_once('\n').expect("several lines");
    other.shows(first, &[&ids[1][..12], "\"user_id\":\"u0\"", "discarded 1"]);
    let exported = fs::read_to_string(other.dir.path().join("set-aside.ndjson")).expect("it was exported");
    assert_eq!(exported.lines().count(), 2);
    broker.restart_with("");
    until("the bus is back", SHOWS_WITHIN, || (bridge.readiness().1["bus"] == "up").then_some(()));
    let said = other.shows(retry, &[]);
    assert!(said.contains("sent 1") || said.contains("nothing is set aside"), "{said}");
}

#[test]
fn a_delivery_is_found_and_events_are_replayed_as_shown() {
    let terminal = Terminal::new();
    let bridge = terminal.bridge("terra-bridge\n");
    let reply = Attempt::of(r#"{"type":"daily","user":{"user_id":"u"}}"#).header("x-terra-trace-id", "trace-1");
    let id = reply.post(bridge.deliveries).json()["id"].as_str().expect("an id").to_owned();
    let letter = Attempt::of("no JSON").post(bridge.deliveries).json()["id"].as_str().expect("an id").to_owned();
    let mut other = Terminal::beside(&bridge);
    let log = terminal.dir.path().join("terra-bridge-data").display().to_string();
    other.environment.push(("TERRA_BRIDGE_EMBEDDED__DIR".into(), log));
    let find = fence("deploy/README.md#find-one-delivery 1").text;
    let find = find.replace("5a0c1d7e-dd0d-472a-b906-d50a48e7400d", "trace-1").replace("3fa9b2c1d4e5", &id[..12]);
    assert_eq!(other.shows(&find, &[]).matches(&id).count(), 2);
    let replay = fence("deploy/README.md#replay 1").text;
    let replay = replay.replace("127.0.0.1:8080", &bridge.deliveries.to_string());
    other.shows(&replay, &["1 written", "1 would be replayed", "1 duplicate"]);
    let letters = fence("deploy/README.md#dead-letters 1").text.replace("3fa9b2c1d4e5", &letter[..12]);
    // It is still unreadable.
    let said = other.shows(&format!("{} || true", letters.trim_end()), &[]);
    assert!(said.contains("no JSON") && said.contains("still unreadable"), "{said}");
}

#[test]
fn the_topics_are_printed_and_served_as_a_document() {
    let terminal = Terminal::new();
    let bridge = terminal.bridge("terra-bridge\n");
    if !has_tool("curl") {
        return;
    }
    let lines = fence("deploy/README.md#the-topics-as-a-document 1").text;
    let lines = lines.replace("127.0.0.1:8081", &bridge.admin.to_string());
    let other = Terminal::beside(&bridge);
    let served = other.shows(&lines, &[]);
    let printed = fs::read_to_string(other.dir.path().join("topics.json")).expect("it was printed");
    let document = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    assert_eq!(document(&served)["channels"], document(&printed)["channels"]);
    assert_eq!(document(&served)["asyncapi"], "3.0.0");
}

#[test]
fn a_large_request_is_shown_as_documented() {
    let terminal = Terminal::new();
    let bridge = terminal.bridge("terra-bridge\n");
    let said = Terminal::beside(&bridge).shows(&fence("deploy/README.md#large-historical-requests 2").text, &[]);
    let shown = fence("deploy/README.md#large-historical-requests 1").text;
    // The columns, and how long each word is in the row of a finished request.
    let table = |text: &str| -> (Vec<String>, Vec<usize>) {
        let row = |of: &str| text.lines().find(|line| line.contains(of)).expect("a row").split_whitespace();
        (row("REFERENCE").map(str::to_owned).collect(), row("finished").map(str::len).collect())
    };
    assert_eq!(table(&said), table(&shown));
}

#[test]
fn the_table_of_metrics_is_what_a_bridge_measures() {
    let everything = Everything::ready();
    let metrics = everything.bridge.metrics();
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let measured: BTreeSet<_> = types
        .map(|line| match line.split_once(' ').expect("a name and a type") {
            (name, "counter") => format!("{name}_total"),
            (name, _) => name.to_owned(),
        })
        .collect();
    let rows = page("deploy/README.md").table("| metric | answers | by |");
    let names = rows.iter().flat_map(|row| row[0].split('`').skip(1).step_by(2));
    assert_eq!(names.map(str::to_owned).collect::<BTreeSet<_>>(), measured);
}

#[test]
fn the_table_of_commands_is_what_help_says() {
    let help = |arguments: &[&str]| {
        let output = command().args(arguments).arg("--help").output().expect("the binary runs");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let mut named = BTreeSet::new();
    for row in page("deploy/README.md").table("| command | does |") {
        let span = row[0].rsplit("`terra-bridge ").next().expect("one part");
        let name = span.split([' ', '`']).next().expect("a name");
        named.insert(name.to_owned());
        let options = row[1].split('`').filter(|span| span.starts_with("--"));
        for option in options.map(|span| span.split(' ').next().expect("an option")) {
            assert!(help(&[name]).contains(option), "{name} {option}");
        }
    }
    let all = help(&[]);
    let (_, listed) = all.split_once("Commands:\n").expect("a list of commands");
    let listed = listed.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
    assert_eq!(named, listed.filter(|name| *name != "help").map(str::to_owned).collect());
}

#[test]
fn the_table_of_attributes_is_what_the_code_declares() {
    let rows = page("config/README.md").table("| attribute | value |");
    let shown: Vec<_> = rows.iter().map(|row| (row[0].trim_matches('`'), row[1])).collect();
    let declared: Vec<_> = Attribute::ALL.iter().map(|attribute| (attribute.name(), attribute.meaning())).collect();
    assert_eq!(shown, declared);
}

#[test]
fn larger_runs_name_variables_and_tests_that_exist() {
    let tests = Command::new(std::env::current_exe().expect("this program")).arg("--list").output().expect("it lists");
    let tests = String::from_utf8(tests.stdout).expect("UTF-8");
    let sources = [include_str!("forging.rs"), include_str!("shapes.rs"), include_str!("slow.rs")];
    let runs = fence("tests/README.md#larger-runs 1").text;
    assert_eq!(runs.lines().count(), sources.len());
    for (run, source) in runs.lines().zip(sources) {
        let variable = run.split('=').next().expect("a variable");
        let filter = run.split(' ').next_back().expect("a filter");
        assert!(source.contains(variable) && tests.contains(filter), "{run}");
    }
}

/// Without it the test fails if `CI` is set, and is skipped loudly otherwise.
fn has_tool(name: &str) -> bool {
    let found = Command::new(name).arg("--version").stdout(Stdio::null()).status().is_ok();
    assert!(found || std::env::var_os("CI").is_none(), "{name} is not installed");
    if !found {
        eprintln!("SKIPPED: {name} is not installed");
    }
    found
}

#[test]
fn the_lines_for_kafka_and_its_consumers_work() {
    let Some(broker) = Broker::kafka() else { return };
    let brokers = format!("127.0.0.1:{}", broker.port());
    let shown = |name: &str| fence(name).text.replace("host:9092", &brokers);
    let terminal = Terminal::new();
    let lines = shown("README.md#kafka 1");
    let bridge = terminal.bridge(&lines);
    send_and_tail(&bridge, &lines);
    for program in [
        python(&shown("README.md#python-kafka 1")),
        java(&terminal, &shown("README.md#java-kafka 1")),
        go(&terminal, &shown("README.md#go-kafka 1")),
    ] {
        program.map(|program| shows(program, &[sleeper()]));
    }
}

#[test]
fn the_lines_for_nats_and_its_consumer_work() {
    let Some(broker) = Broker::nats() else { return };
    let server = format!("nats://127.0.0.1:{}", broker.port());
    let shown = |name: &str| fence(name).text.replace("nats://host:4222", &server);
    let terminal = Terminal::new();
    let lines = shown("README.md#nats 1");
    let bridge = terminal.bridge(&lines);
    send_and_tail(&bridge, &lines);
    node(&terminal, &shown("README.md#node-nats 1")).map(|program| shows(program, &[sleeper()]));
}

/// In another terminal with the same exports.
fn send_and_tail(bridge: &Bridge, lines: &str) {
    let exports: String = lines.split_inclusive('\n').filter(|line| line.starts_with("export ")).collect();
    let script = format!("{exports}terra-bridge send sleep\nterra-bridge tail --from earliest");
    Terminal::beside(bridge).shows(&script, &["kept", sleeper()]);
}

/// The user in the sample of `sleep`, as each consumer prints it.
fn sleeper() -> &'static str {
    let sample = SAMPLES.iter().find(|sample| sample.name == "sleep").expect("a sample");
    sample.body.split_once("user_id").and_then(|(_, rest)| rest.split('"').nth(2)).expect("a user")
}

fn python(source: &str) -> Option<Command> {
    let mut python = Command::new(needed("TERRA_BRIDGE_TEST_PYTHON")?);
    python.args(["-u", "-c", source]);
    Some(python)
}

fn java(terminal: &Terminal, source: &str) -> Option<Command> {
    let libraries = needed("TERRA_BRIDGE_TEST_CONSUMERS_JAVA")? + "/*";
    let mut java = Command::new(needed("TERRA_BRIDGE_TEST_JAVA")?);
    java.args(["-cp", &libraries]).arg(terminal.file("Scores.java", source)).stderr(Stdio::null());
    Some(java)
}

fn node(terminal: &Terminal, source: &str) -> Option<Command> {
    let modules = needed("TERRA_BRIDGE_TEST_NODE_MODULES")?;
    std::os::unix::fs::symlink(modules, terminal.dir.path().join("node_modules")).expect("the directory is ours");
    let mut node = Command::new(needed("TERRA_BRIDGE_TEST_NODE")?);
    node.arg(terminal.file("scores.mjs", source));
    Some(node)
}

fn go(terminal: &Terminal, source: &str) -> Option<Command> {
    let mut go = Command::new(needed("TERRA_BRIDGE_TEST_GO")?);
    for file in ["go.mod", "go.sum"] {
        let theirs = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/consumers/go").join(file);
        fs::copy(theirs, terminal.dir.path().join(file)).expect("a file to copy");
    }
    terminal.file("scores.go", source);
    // As tests/setup.sh builds the others: what they share is compiled already.
    go.args(["run", "-gcflags=all=-N -l", "scores.go"]).current_dir(terminal.dir.path());
    go.envs([("GOTOOLCHAIN", "local"), ("GOFLAGS", "-buildvcs=false")]);
    Some(go)
}
