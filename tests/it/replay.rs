//! `replay`, `dead-letters` and `find`: captured, brought back under the same ids, and found.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::commands::{beside, err, out, run};
use crate::support::bridge::{Bridge, command};
use crate::support::consumers::{Bus, Got, embedded_take};
use crate::support::terra::Attempt;
use crate::support::until;

const WITHIN: Duration = Duration::from_secs(60);
const EVENTS: usize = 12;
const USERS: usize = 3;

fn event(n: usize) -> Attempt {
    let kind = ["daily", "sleep"][n % 2];
    let body = json!({"type": kind, "user": {"user_id": format!("u{}", n % USERS)}, "n": n});
    Attempt::of(body.to_string())
        .header("x-terra-trace-id", &format!("trace-{n}"))
        .header("terra-reference", &format!("reference-{}", n % 2))
}

fn kept(bridge: &Bridge, attempt: &Attempt) -> String {
    let reply =
        until("it is kept", WITHIN, || Some(attempt.post(bridge.deliveries)).filter(|reply| reply.status == 200));
    reply.json()["id"].as_str().expect("an id").to_owned()
}

/// A bridge with [`EVENTS`], its environment for commands, and the ids.
fn with_events(bus: &Bus) -> (Bridge, Vec<(String, String)>, Vec<String>) {
    let bridge = Bridge::ready(&bus.environment());
    let ids = (0..EVENTS).map(|n| kept(&bridge, &event(n))).collect();
    let environment = beside(bus, &bridge);
    (bridge, environment, ids)
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn path(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).display().to_string()
}

fn ok(arguments: &[&str], environment: &[(String, String)]) -> String {
    let output = run(arguments, environment);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}{}", out(&output), err(&output));
    out(&output)
}

/// An embedded log of its own, with another bus's topics.
fn embedded(dir: &TempDir) -> Vec<(String, String)> {
    let settings = [("EMBEDDED__DIR", path(dir, "log")), ("EMBEDDED__LISTEN", "127.0.0.1:0".to_owned())];
    settings.map(|(key, value)| (format!("TERRA_BRIDGE_{key}"), value)).into()
}

fn of_each_user<'g>(got: impl IntoIterator<Item = &'g Got>) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut users: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for got in got {
        users.entry(got.key.clone().expect("a key")).or_default().push(got.payload.clone());
    }
    users
}

fn what_is_captured_comes_back_once_under_its_ids_in_order(bus: &Bus) {
    let (bridge, environment, ids) = with_events(bus);
    let dir = TempDir::new().expect("a directory");
    let capture = path(&dir, "capture.ndjson");
    let said = ok(&["replay", "--into", &capture], &environment);
    assert!(said.starts_with(&format!("replayed {EVENTS}: {EVENTS} written")), "{said}");
    let captured = std::fs::read_to_string(&capture).expect("the capture");
    assert_eq!(lines(&captured).len(), EVENTS);
    let again = run(&["replay", "--into", &capture], &environment);
    assert_eq!(again.status.code(), Some(1), "a file is never replaced");
    let one = ok(&["replay", "--type", "sleep", "--user", "u1", "--into", &capture, "--dry-run"], &environment);
    assert!(one.contains("2 would be replayed"), "{one}");

    // Into the same bus: known by its id, but for Kafka.
    let said = ok(&["replay", "--file", &capture, "--into", "bus"], &environment);
    let expected = match bus {
        Bus::Kafka { .. } => format!("{EVENTS} kept"),
        Bus::Nats { .. } | Bus::Embedded { .. } => format!("{EVENTS} duplicate"),
    };
    assert!(said.contains(&expected), "{said}");
    let copies = if let Bus::Kafka { .. } = bus { 2 } else { 1 };
    assert_eq!(bus.count(&bridge), EVENTS * copies);
    let got = bus.read(&bridge, &bus.topic("daily"), EVENTS / 2 * copies);
    let got_ids: BTreeSet<_> = got.iter().map(|got| got.attribute("id").expect("an id")).collect();
    assert_eq!(got_ids, ids.iter().step_by(2).cloned().collect(), "copies have the same ids");

    // Into an empty log, with no bridge on it; and a second time.
    let target = embedded(&dir);
    for outcome in ["kept", "duplicate"] {
        let said = ok(&["replay", "--file", &capture, "--into", "bus"], &target);
        assert!(said.contains(&format!("{EVENTS} {outcome}")), "{said}");
    }
    let other = Bridge::ready(&target);
    for (kind, parity) in [("daily", 0), ("sleep", 1)] {
        let got = embedded_take(other.reader(), &bus.topic(kind), EVENTS);
        let sent = (parity..EVENTS).step_by(2).map(event);
        let mut expected: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        for (attempt, n) in sent.zip((parity..).step_by(2)) {
            expected.entry(format!("u{}", n % USERS)).or_default().push(attempt.body);
        }
        assert_eq!(of_each_user(&got), expected, "{kind}");
        let headers = |got: &Got| (got.attribute("id"), got.attribute("terratraceid"), got.attribute("recordedtime"));
        let original = bus.read(&bridge, &bus.topic(kind), EVENTS / 2);
        let sorted = |all: &[Got]| all.iter().map(headers).collect::<BTreeSet<_>>();
        assert_eq!(sorted(&got), sorted(&original), "{kind}");
    }
}

fn a_delivery_is_found_by_all_that_names_it(bus: &Bus) {
    let (bridge, environment, ids) = with_events(bus);
    let dead = kept(&bridge, &Attempt::of("no JSON").header("x-terra-trace-id", "trace-dead"));
    let found = |arguments: &[&str]| lines(&ok(&[&["find", "--json"], arguments].concat(), &environment));
    for arguments in [["--id", &ids[3][..12]], ["--trace", "trace-3"]] {
        let found = found(&arguments);
        assert_eq!((found.len(), found[0]["where"].as_str()), (1, Some("bus")), "{arguments:?}");
        assert_eq!(
            (&found[0]["record"]["topic"], &found[0]["record"]["payload"]),
            (&bus.topic("sleep").into(), &"".into())
        );
    }
    assert_eq!(found(&["--user", "u1"]).len(), EVENTS / USERS);
    assert_eq!(found(&["--reference", "reference-1"]).len(), EVENTS / 2);
    let letter = found(&["--trace", "trace-dead"]);
    assert_eq!(letter[0]["where"], "dead letter (not-json)");
    assert!(ok(&["find", "--id", &dead], &environment).contains(&dead));
    let nowhere = run(&["find", "--trace", "trace"], &environment);
    assert_eq!(nowhere.status.code(), Some(1), "{}", out(&nowhere));
}

fn dead_letters_are_listed_shown_and_replayed_once_they_can_be_read(bus: &Bus) {
    let bridge = Bridge::ready(&bus.environment());
    let environment = beside(bus, &bridge);
    let unreadable = kept(&bridge, &Attempt::of("no JSON <x>").header("x-terra-trace-id", "trace-dead"));
    // One that an older version could not read.
    let dir = TempDir::new().expect("a directory");
    let file = path(&dir, "letter.ndjson");
    let id = "ab".repeat(32);
    let headers = json!({
        "ce_specversion": "1.0", "ce_id": id, "ce_source": "/terra/terra", "ce_type": "co.tryterra.dead-letter",
        "ce_terradeadletter": "not-json", "ce_partitionkey": id, "content-type": "application/octet-stream",
    });
    let letter = json!({
        "topic": bus.topic("dead-letter"), "key": id, "partition": 0, "offset": 0, "time": "2026-01-01T00:00:00Z",
        "headers": headers, "payload": r#"{"type":"daily","user":{"user_id":"u9"}}"#,
    });
    std::fs::write(&file, letter.to_string()).expect("the directory is ours");
    ok(&["replay", "--file", &file, "--into", "bus"], &environment);

    let listed = ok(&["dead-letters", "list"], &environment);
    assert!(listed.contains(&unreadable[..12]) && listed.contains(&id[..12]) && !listed.contains("<x>"), "{listed}");
    let shown = ok(&["dead-letters", "show", &unreadable[..12]], &environment);
    assert!(shown.contains("trace-dead") && !shown.contains("<x>"), "{shown}");
    assert!(ok(&["dead-letters", "show", &unreadable, "--payload"], &environment).contains("no JSON <x>"));
    for (arguments, outcome) in [(&["--dry-run"][..], "1 can be read"), (&[], "1 kept"), (&[], "1 duplicate")] {
        let replayed = run(&[&["dead-letters", "replay", "--all"], arguments].concat(), &environment);
        assert_eq!(replayed.status.code(), Some(1), "one stays unreadable");
        let said = out(&replayed);
        assert!(said.contains(outcome) && said.contains("still unreadable: not-json"), "{said}");
    }
    let got = bus.read(&bridge, &bus.topic("daily"), 1);
    assert_eq!(got[0].key.as_deref(), Some("u9"));
    assert_eq!(got[0].attribute("terratraceid"), Some(format!("{id}:dead-letter")));
}

on_every_bus!(
    what_is_captured_comes_back_once_under_its_ids_in_order,
    a_delivery_is_found_by_all_that_names_it,
    dead_letters_are_listed_shown_and_replayed_once_they_can_be_read,
);

#[test]
fn a_bridge_gets_signed_deliveries_and_knows_them_again() {
    let (bus, from) = Bus::embedded_with(&[]);
    let ids: Vec<String> = (0..EVENTS).map(|n| kept(&from, &event(n))).collect();
    let dir = TempDir::new().expect("a directory");
    let capture = path(&dir, "capture.ndjson");
    ok(&["replay", "--into", &capture], &beside(&bus, &from));
    let (other, to) = Bus::embedded_with(&[]);
    let url = format!("http://{}/terra", to.deliveries);
    for outcome in ["kept", "duplicate"] {
        let said = ok(&["replay", "--file", &capture, "--into", &url, "--rate", "1000"], &beside(&other, &to));
        assert!(said.contains(&format!("{EVENTS} {outcome}")) && !said.contains("another id"), "{said}");
    }
    let topics = ["daily", "sleep"].map(|kind| other.read(&to, &other.topic(kind), EVENTS / 2));
    let got: BTreeSet<String> = topics.iter().flatten().map(|got| got.attribute("id").expect("an id")).collect();
    assert_eq!(got, ids.into_iter().collect());
    let mut environment = beside(&other, &to);
    environment.push(("TERRA_SIGNING_SECRET".into(), "another".into()));
    let rejected = run(&["replay", "--file", &capture, "--into", &url], &environment);
    assert_eq!(rejected.status.code(), Some(1));
    assert!(err(&rejected).contains("401") && err(&rejected).contains("were not taken"), "{}", err(&rejected));
}

#[test]
fn another_configuration_names_the_bus_to_read() {
    let (bus, from) = Bus::embedded_with(&[]);
    (0..EVENTS).for_each(|n| drop(kept(&from, &event(n))));
    let dir = TempDir::new().expect("a directory");
    let source = path(&dir, "old.toml");
    let prefix = bus.prefix();
    let toml = format!(
        "[embedded]\nlisten = \"{}\"\n[routes]\ntemplate = \"{prefix}.{{type}}\"\nunknown = \"{prefix}.unknown\"\n\
         dead_letter = \"{prefix}.dead-letter\"\n",
        from.reader()
    );
    std::fs::write(&source, toml).expect("the directory is ours");
    let said = ok(&["replay", "--source", &source, "--into", "bus"], &embedded(&dir));
    assert!(said.contains(&format!("{EVENTS} kept")), "{said}");
    let itself = run(&["replay", "--into", "bus"], &embedded(&dir));
    assert_eq!(itself.status.code(), Some(2), "{}", err(&itself));
}

/// Many records in a file.
fn generated(file: &Path, topic: &str, count: usize) {
    let line = |n: usize| {
        let id = format!("{n:032x}").repeat(2);
        let headers = json!({
            "ce_specversion": "1.0", "ce_id": id, "ce_source": "/terra/terra", "ce_type": "co.tryterra.daily",
            "ce_subject": format!("u{}", n % 7), "ce_partitionkey": format!("u{}", n % 7),
            "content-type": "application/json",
        });
        let record = json!({
            "topic": topic, "key": format!("u{}", n % 7), "partition": 0, "offset": n, "time": "2026-01-01T00:00:00Z",
            "headers": headers, "payload": format!("{{\"n\":{n}}}"),
        });
        format!("{record}\n")
    };
    std::fs::write(file, (0..count).map(line).collect::<String>()).expect("the directory is ours");
}

fn kill_9_in_the_middle_of_a_replay_loses_nothing(bus: &Bus) {
    const RECORDS: usize = 2000;
    const KILLS: usize = 3;
    /// What is sent between two checkpoints.
    const BATCH: usize = 256;
    let dir = TempDir::new().expect("a directory");
    let (file, checkpoint) = (path(&dir, "records.ndjson"), path(&dir, "checkpoint"));
    let topic = bus.topic("daily");
    generated(Path::new(&file), &topic, RECORDS);
    // Makes the topics.
    Bridge::ready(&bus.environment()).kill();
    let environment = bus.environment();
    let arguments = ["replay", "--file", &file, "--into", "bus", "--checkpoint", &checkpoint, "--rate", "2500"];
    let replayed = || -> u64 {
        let text = std::fs::read_to_string(&checkpoint).unwrap_or_default();
        serde_json::from_str::<Value>(&text).map_or(0, |stored| stored["replayed"].as_u64().unwrap_or(0))
    };
    for _ in 0..KILLS {
        let mut replay = command();
        replay.args(arguments).envs(environment.iter().map(|(name, value)| (name, value)));
        let mut replay = replay.stdout(std::process::Stdio::null()).spawn().expect("the binary runs");
        let before = replayed();
        until("some are replayed", WITHIN, || {
            let has_ended = replay.try_wait().expect("the child is ours").is_some();
            (has_ended || replayed() > before).then_some(())
        });
        let _ = replay.kill();
        replay.wait().expect("the child is ours");
    }
    assert!((replayed() as usize) < RECORDS, "the last one was not killed in the middle");
    ok(&arguments, &environment);
    assert!(ok(&arguments, &environment).contains("is finished"));
    let bridge = Bridge::ready(&environment);
    let all = bus.count(&bridge);
    let most = if let Bus::Kafka { .. } = bus { RECORDS + KILLS * BATCH } else { RECORDS };
    assert!((RECORDS..=most).contains(&all), "{all}");
    let mut seen = BTreeSet::new();
    let got = bus.read(&bridge, &topic, all);
    let firsts: Vec<Got> = got.into_iter().filter(|got| seen.insert(got.attribute("id"))).collect();
    for (user, payloads) in of_each_user(&firsts) {
        let user: usize = user[1..].parse().expect("a number");
        let expected = (0..RECORDS).filter(|n| n % 7 == user).map(|n| format!("{{\"n\":{n}}}").into_bytes());
        assert!(payloads.into_iter().eq(expected), "the order of user {user}");
    }
    assert_eq!(seen.len(), RECORDS);
}

on_every_bus!(kill_9_in_the_middle_of_a_replay_loses_nothing);

#[test]
fn kill_9_while_a_file_is_written_leaves_each_record_once() {
    const RECORDS: usize = 2000;
    let dir = TempDir::new().expect("a directory");
    let (file, target, checkpoint) = (path(&dir, "from"), path(&dir, "to"), path(&dir, "checkpoint"));
    generated(Path::new(&file), "t", RECORDS);
    let arguments = ["replay", "--file", &file, "--into", &target, "--checkpoint", &checkpoint, "--rate", "2000"];
    for size in [1, 200_000] {
        let mut replay = command().args(arguments).spawn().expect("the binary runs");
        let has_grown = || std::fs::metadata(&target).is_ok_and(|file| file.len() > size);
        until("some are written", WITHIN, || has_grown().then_some(()));
        let _ = replay.kill();
        replay.wait().expect("the child is ours");
    }
    ok(&arguments, &[]);
    let read = |path: &str| std::fs::read_to_string(path).expect("a file");
    let ids = |text: String| lines(&text).into_iter().map(|line| line["payload"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(read(&target)), ids(read(&file)));
}
