//! `spool`: what the bus refused for good is seen, sent again, exported and discarded, with and without a bridge.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tempfile::TempDir;

use crate::commands::{err, out, run};
use crate::support::bridge::{Bridge, command};
use crate::support::brokers::Broker;
use crate::support::consumers::{Bus, nats_count};
use crate::support::terra::Attempt;
use crate::support::until;

const WITHIN: Duration = Duration::from_secs(60);

/// What the server takes at first, and what is larger.
const SMALL: &str = "64KB";
const LARGE: usize = 100_000;

pub fn environment(bus: &Bus, dir: &TempDir) -> Vec<(String, String)> {
    let spool = dir.path().join("spool").display().to_string();
    bus.environment_with(&[("SPOOL__DIR", &spool), ("SPOOL__RESERVE", "1 MiB"), ("SERVER__DRAIN_TIMEOUT", "1s")])
}

pub fn large(user: usize, n: usize) -> Attempt {
    let filler = "x".repeat(LARGE);
    Attempt::of(format!(r#"{{"type":"daily","user":{{"user_id":"u{user}"}},"n":{n},"filler":"{filler}"}}"#))
        .header("x-terra-trace-id", &format!("{user}-{n}"))
}

/// A bridge that has set these aside, with their ids.
pub fn with_set_aside(environment: &[(String, String)], attempts: &[Attempt]) -> (Bridge, Vec<String>) {
    let bridge = Bridge::ready(environment);
    let mut ids = Vec::new();
    for attempt in attempts {
        let response = attempt.post(bridge.deliveries).json();
        assert_eq!(response["outcome"], "spooled", "{response}");
        ids.push(response["id"].as_str().expect("an id").to_owned());
    }
    until("all are set aside", WITHIN, || {
        let metrics = bridge.metrics();
        metrics.contains(&format!("terra_bridge_spool_set_aside {}\n", attempts.len())).then_some(())
    });
    (bridge, ids)
}

fn lines(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

pub fn of_nats() -> Option<(Broker, Bus, TempDir)> {
    let broker = Broker::nats_that_takes(SMALL)?;
    let bus = Bus::nats_at(format!("nats://127.0.0.1:{}", broker.port()));
    Some((broker, bus, TempDir::new().expect("a temporary directory")))
}

#[test]
fn a_running_bridge_shows_sends_exports_and_discards_what_it_set_aside() {
    let Some((mut broker, bus, dir)) = of_nats() else { return };
    let environment = environment(&bus, &dir);
    let all = [large(0, 0), large(0, 1), large(1, 2), large(2, 3)];
    let (bridge, ids) = with_set_aside(&environment, &all);
    let spool = |arguments: &[&str]| run(&[&["spool"], arguments].concat(), &environment);
    let socket = dir.path().join("spool/admin.sock");
    assert_eq!(socket.metadata().expect("a socket").permissions().mode() & 0o777, 0o600);

    let listed = spool(&["list"]);
    assert_eq!(listed.status.code(), Some(0), "{}", err(&listed));
    for id in &ids {
        assert!(out(&listed).contains(&id[..12]), "{}", out(&listed));
    }
    assert!(out(&listed).contains("max_payload") && err(&listed).contains("4 set aside, 0 wait"), "{listed:?}");
    assert!(!out(&listed).contains("u0") && !out(&listed).contains("xxxx"));
    let objects = lines(&out(&spool(&["list", "--json"])));
    assert_eq!((objects.len(), objects[0]["type"].as_str()), (4, Some("daily")));
    assert!(objects.iter().all(|line| line["record"]["payload"] == "" && line["bytes"].as_u64() > Some(LARGE as u64)));

    let shown = out(&spool(&["show", &ids[2][..12]]));
    assert!(shown.contains("u1") && shown.contains("set aside:") && !shown.contains("xxxx"), "{shown}");
    assert!(out(&spool(&["show", &ids[2], "--payload"])).contains(&String::from_utf8_lossy(&all[2].body).into_owned()));
    let unknown = spool(&["show", "0123456789"]);
    assert_eq!(unknown.status.code(), Some(1), "{}", err(&unknown));

    let exported = lines(&out(&spool(&["export"])));
    let payloads: BTreeSet<_> =
        exported.iter().map(|line| line["payload"].as_str().expect("text").as_bytes()).collect();
    assert_eq!(payloads, all.iter().map(|attempt| &attempt.body[..]).collect::<BTreeSet<_>>());

    let refused = spool(&["retry", &ids[0]]);
    assert_eq!(refused.status.code(), Some(1), "{}", out(&refused));
    assert!(err(&refused).contains("1 stay set aside") && err(&refused).contains("max_payload"), "{}", err(&refused));

    let asked = spool(&["discard", &ids[3]]);
    assert_eq!(asked.status.code(), Some(2), "nobody can answer: {}", err(&asked));
    let file = dir.path().join("discarded.ndjson");
    let discarded = spool(&["discard", &ids[3], "--yes", "--file", &file.display().to_string()]);
    assert_eq!(discarded.status.code(), Some(0), "{}", err(&discarded));
    let kept = std::fs::read_to_string(&file).expect("the file of what was discarded");
    assert_eq!(lines(&kept)[0]["payload"].as_str().map(str::as_bytes), Some(&all[3].body[..]));
    assert_eq!(file.metadata().expect("a file").permissions().mode() & 0o777, 0o600);
    let again = spool(&["discard", &ids[2], "--yes", "--file", &file.display().to_string()]);
    assert_eq!(again.status.code(), Some(1), "a file is never replaced: {}", out(&again));

    broker.restart_with("");
    until("the bus is back", WITHIN, || (bridge.readiness().1["bus"] == "up").then_some(()));
    let sent = until("they are sent", WITHIN, || {
        let sent = spool(&["retry", "--all"]);
        (sent.status.code() == Some(0)).then(|| out(&sent))
    });
    assert!(sent.contains("sent") || sent.contains("nothing is set aside"), "{sent}");
    let got = bus.read(&bridge, &bus.topic("daily"), 3);
    let expected: BTreeSet<_> = all[..3].iter().map(|attempt| attempt.body.clone()).collect();
    assert_eq!(got.iter().map(|got| got.payload.clone()).collect::<BTreeSet<_>>(), expected);
    assert_eq!(bus.count(&bridge), 3, "each once, and what was discarded never");
    let log = bridge.log();
    assert!(log.contains("were discarded") && ids.iter().any(|id| log.contains(id.as_str())), "{log}");
    assert!(!log.contains("\"u0\"") && !log.contains("xxxx"));
}

#[test]
fn without_a_bridge_the_command_opens_the_spool_itself() {
    let Some((mut broker, bus, dir)) = of_nats() else { return };
    let environment = environment(&bus, &dir);
    let (mut bridge, ids) = with_set_aside(&environment, &[large(0, 0), large(1, 1)]);
    let spool = |arguments: &[&str]| run(&[&["spool"], arguments].concat(), &environment);
    bridge.signal("TERM");
    assert_eq!(bridge.ended(WITHIN).code(), Some(0));
    assert!(!dir.path().join("spool/admin.sock").exists());
    assert_eq!(lines(&out(&spool(&["list", "--json"]))).len(), 2);
    let refused = spool(&["retry", "--all"]);
    assert_eq!(refused.status.code(), Some(1), "{}", out(&refused));
    broker.restart_with("");
    let sent = spool(&["retry", &ids[1]]);
    assert_eq!((sent.status.code(), out(&sent).as_str()), (Some(0), "sent 1\n"), "{}", err(&sent));
    assert_eq!(lines(&out(&spool(&["list", "--json"]))).len(), 1);
    let bridge = Bridge::ready(&environment);
    until("the bridge sends the other", WITHIN, || (bus.count(&bridge) == 2).then_some(()));
}

#[test]
fn kill_9_in_the_middle_of_a_retry_loses_and_doubles_nothing() {
    const MESSAGES: usize = 60;
    let Some((mut broker, bus, dir)) = of_nats() else { return };
    let environment = environment(&bus, &dir);
    let all: Vec<Attempt> = (0..MESSAGES).map(|n| large(n % 7, n)).collect();
    let (mut bridge, _) = with_set_aside(&environment, &all);
    bridge.signal("TERM");
    assert_eq!(bridge.ended(WITHIN).code(), Some(0));
    broker.restart_with("");
    for round in 0..4_u64 {
        let mut retry = command();
        retry.args(["spool", "retry", "--all"]).envs(environment.iter().map(|(name, value)| (name, value)));
        let mut retry = retry.spawn().expect("the binary runs");
        let before = bus_count(&bus);
        until("some are sent", WITHIN, || {
            let has_ended = retry.try_wait().expect("the child is ours").is_some();
            (has_ended || bus_count(&bus) > before + round as usize).then_some(())
        });
        let _ = retry.kill();
        retry.wait().expect("the child is ours");
        let left = lines(&out(&run(&["spool", "list", "--json"], &environment))).len();
        assert!(left + bus_count(&bus) >= MESSAGES, "{left} are left");
    }
    let rest = run(&["spool", "retry", "--all"], &environment);
    assert_eq!(rest.status.code(), Some(0), "{}", err(&rest));
    let bridge = Bridge::ready(&environment);
    assert_eq!(bus.count(&bridge), MESSAGES, "each once, by its id");
    let got = bus.read(&bridge, &bus.topic("daily"), MESSAGES);
    for user in 0..7 {
        let of_user = got.iter().filter(|got| got.key.as_deref() == Some(&format!("u{user}")));
        let sent = (0..MESSAGES).filter(|n| n % 7 == user).map(|n| large(user, n).body);
        assert!(of_user.map(|got| got.payload.clone()).eq(sent), "the order of user {user}");
    }
}

fn bus_count(bus: &Bus) -> usize {
    let Bus::Nats { server, prefix } = bus else { unreachable!("these tests are NATS's") };
    nats_count(server, prefix)
}
