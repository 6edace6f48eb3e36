//! SIGHUP while deliveries are in flight.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::bridge::{STARTS_WITHIN, command, on_free_ports, signal};
use crate::support::changing::{BODY, Load, RELOADED, RELOADS_WITHIN, ROTATES_WITHIN, Running};
use crate::support::consumers::Bus;
use crate::support::http::{Connection, get};
use crate::support::terra::{Attempt, SECRET};
use crate::support::until;

const REFUSED: &str = "the new configuration has mistakes; nothing was changed";
const UNFIT: &str = "the new configuration does not fit what only a restart changes; nothing was changed";
const LEFT: &str = "restart to apply: server.listen, server.max_body";

/// The first bytes of [`BODY`]; a busy machine may send the rest much later.
const HALF: usize = BODY.len() / 2;
/// A body in two halves is too slow only beyond the whole deadline.
const PATIENT: &str = "[server]\nmin_body_rate = \"1 B/s\"\n";

fn embedded() -> Bus {
    Bus::embedded().expect("needs no broker")
}

macro_rules! on_each_bus {
    ($($bus:ident),*) => {$(
        mod $bus {
            use super::*;

            #[test]
            fn the_next_delivery_goes_to_the_new_topic() {
                if let Some(bus) = Bus::$bus() {
                    super::the_next_delivery_goes_to_the_new_topic(&bus);
                }
            }
        }
    )*};
}

on_each_bus!(kafka, nats, embedded);

fn the_next_delivery_goes_to_the_new_topic(bus: &Bus) {
    let running = Running::start(bus, "", &[]);
    assert_eq!(running.status(&Attempt::of(r#"{"type":"sleep"}"#)), 200);
    let load = Load::start(running.bridge.deliveries, SECRET);
    load.more(20);
    let moved = bus.topic("moved");
    let info = running.reload(&format!("[routes.types]\nsleep = \"{moved}\"\n"), RELOADED);
    assert_eq!(info["changed"], "routes.types.sleep");
    let attempt = Attempt::of(r#"{"type":"sleep","moved":true}"#);
    until("the new topic is there", RELOADS_WITHIN, || match running.status(&attempt) {
        200 => Some(()),
        503 => None,
        other => panic!("{other}"),
    });
    load.more(20);
    let beside = load.end().len();
    assert_eq!(bus.read(&running.bridge, &moved, 1)[0].payload, attempt.body);
    assert_eq!(bus.count(&running.bridge), beside + 2, "all that was kept, nothing on the topic of before");
}

#[test]
fn a_file_with_mistakes_changes_nothing_and_all_of_them_are_said() {
    let bus = embedded();
    let running = Running::start(&bus, "", &[]);
    let attempt = Attempt::of(BODY);
    for (broken, mistakes) in [
        ("[routes.types]\ndaily = \"moved\"\n[server]\nmax_body = \"12 M\"\ndeadline = \"7\"\n", 2),
        ("[routes.types]\ndaily = \"moved\"\n[endpoints.terra]\nsecrets = [\"file:DIR/none\"]\n", 1),
        ("[routes.types]\ndaily = ", 1),
    ] {
        let error = running.reload(broken, REFUSED);
        assert_eq!((&error["level"], &error["count"]), (&"ERROR".into(), &mistakes.into()), "{error}");
        let mut check = command();
        check.arg("check").arg("--config").arg(running.dir.path().join("bridge.toml"));
        let output = check.output().expect("the binary runs");
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        for mistake in error["mistakes"].as_str().expect("a text").split(" | ") {
            assert!(said.contains(mistake), "{mistake:?} is not as at start: {said}");
        }
        assert_eq!(running.status(&attempt), 200);
    }
    assert_eq!(bus.read(&running.bridge, &bus.topic("daily"), 1).len(), bus.count(&running.bridge));
    fs::remove_file(running.dir.path().join("bridge.toml")).expect("ours");
    running.bridge.signal("HUP");
    until("an error", RELOADS_WITHIN, || running.bridge.said(REFUSED).get(3).cloned());
    assert!(running.bridge.said(RELOADED).is_empty());
}

#[test]
fn what_cannot_change_is_named_and_left_and_the_rest_is_taken_over() {
    let bus = embedded();
    let before = "[server]\nlisten = \"127.0.0.1:0\"\n";
    let running = Running::start(&bus, before, &[]);
    let after = "[server]\nlisten = \"127.0.0.1:1\"\nmax_body = \"1 KiB\"\n\
                 [log]\nfilter = \"info,terra_bridge::relay::access_log=off\"\n\
                 [endpoints.terra]\nrejected_status = 503\n";
    for _ in 0..2 {
        let warning = running.reload(after, LEFT);
        assert_eq!(warning["level"], "WARN");
    }
    let infos = running.bridge.said(RELOADED);
    assert_eq!(infos[0]["changed"], "endpoints.terra.rejected_status, log.filter");
    assert_eq!((&infos[1]["changed"], &infos[1]["level"]), (&serde_json::Value::Null, &"INFO".into()), "once");
    assert_eq!(running.status(&Attempt::of(vec![b' '; 5000])), 200, "the old address, the old limit");
    assert_eq!(running.status(&Attempt::of(BODY).secret("wrong")), 503);
    running.reload(before, RELOADED);
    assert_eq!(running.bridge.said(LEFT).len(), 2, "back to what counts");
    assert_eq!(running.status(&Attempt::of(BODY).secret("wrong")), 401);
    let lines =
        until("a line", RELOADS_WITHIN, || Some(running.bridge.said("delivery")).filter(|lines| !lines.is_empty()));
    assert_eq!(lines.len(), 1, "the filter suppressed that of the first");
}

#[test]
fn what_does_not_go_with_what_cannot_change_is_refused_as_a_whole() {
    let bus = embedded();
    let running = Running::start(&bus, "", &[]);
    let longer = "[endpoints.terra]\nmax_age = \"40h\"\nrejected_status = 503\n[dedupe]\nwindow = \"41h\"\n";
    let error = running.reload(longer, UNFIT);
    assert_eq!((&error["level"], &error["count"]), (&"ERROR".into(), &1.into()));
    assert!(error["mistakes"].as_str().is_some_and(|said| said.starts_with("dedupe.window (")), "{error}");
    assert_eq!(running.status(&Attempt::of(BODY).secret("wrong")), 401);
}

#[test]
fn who_may_try_is_taken_over() {
    let bus = embedded();
    let running = Running::start(&bus, "", &[]);
    let allow = "[server]\nallow = \"203.0.113.0/24\"\n";
    running.reload(allow, RELOADED);
    assert_eq!(running.status(&Attempt::of(BODY)), 401);
    running.reload(&format!("{allow}trusted_proxies = \"127.0.0.1\"\n"), RELOADED);
    assert_eq!(running.status(&Attempt::of(BODY).header("x-forwarded-for", "203.0.113.7")), 200);
    let info = running.reload("", RELOADED);
    assert_eq!(info["changed"], "server.allow, server.trusted_proxies");
    assert_eq!(running.status(&Attempt::of(BODY)), 200);
}

#[test]
fn an_endpoint_comes_another_goes_and_its_running_request_finishes() {
    let bus = embedded();
    let endpoint =
        |name: &str| format!("[endpoints.{name}]\npath = \"/{name}\"\nsecrets = [\"env:TERRA_SIGNING_SECRET\"]\n");
    let running = Running::start(&bus, &(endpoint("stays") + &endpoint("goes") + PATIENT), &[]);
    let to = running.bridge.deliveries;
    let attempt = Attempt::of(BODY).path("/goes");
    let mut connection = Connection::open(to).expect("a connection");
    connection.write(attempt.head(attempt.body.len()).as_bytes()).expect("the head goes out");
    connection.write(&attempt.body[..HALF]).expect("half of the body goes out");
    until_a_request_runs(&running.bridge);
    let info = running.reload(&(endpoint("stays") + &endpoint("comes") + PATIENT), RELOADED);
    assert_eq!((&info["endpoints_added"], &info["endpoints_removed"]), (&"comes".into(), &"goes".into()));
    for (path, status) in [("/goes", 404), ("/comes", 200), ("/stays", 200)] {
        assert_eq!(running.status(&Attempt::of(BODY).path(path)), status, "{path}");
    }
    connection.write(&attempt.body[HALF..]).expect("the rest goes out");
    assert_eq!(connection.response().expect("an answer").status, 200, "it keeps what it began with");
    assert_eq!(attempt.post_on(&mut connection).expect("the connection stays").status, 404);
    let daily = bus.read(&running.bridge, &bus.topic("daily"), 3).len();
    assert_eq!(daily, bus.count(&running.bridge), "and goes where its type went then");
    assert!(!running.bridge.log().contains("/goes"), "no path of an endpoint in the log");
}

#[test]
fn fifty_reloads_under_load_lose_nothing() {
    let bus = embedded();
    let running = Running::start(&bus, "", &[]);
    let load = Load::start(running.bridge.deliveries, SECRET);
    let (moved, daily) = (bus.topic("moved"), bus.topic("daily"));
    for n in 0..50 {
        let topic = if n % 2 == 0 { &moved } else { &daily };
        running.reload(&format!("[routes.types]\ndaily = \"{topic}\"\n"), RELOADED);
        load.more(10);
    }
    let acknowledged = load.end();
    let on = |topic: &str| {
        let head = format!("GET /topics/{topic}/messages?from=earliest HTTP/1.1\r\nhost: localhost\r\n\r\n");
        let got =
            Connection::open(running.bridge.reader()).and_then(|mut to| to.request(&head, b"")).expect("an answer");
        String::from_utf8(got.body).expect("UTF-8")
    };
    let (moved, daily) = (on(&moved), on(&daily));
    assert!(!moved.is_empty() && !daily.is_empty(), "both were used");
    let kept = moved + &daily;
    let lost = acknowledged.iter().filter(|id| !kept.contains(*id)).count();
    assert_eq!(lost, 0, "of {} acknowledged", acknowledged.len());
}

#[test]
fn reloads_leave_no_memory_behind() {
    /// A table with this many routes takes about 200 KB, and each reload creates one: all of them would be 10 MB.
    const ROUTES: usize = 1000;
    const MOST: usize = 6 << 20;
    let bus = embedded();
    let running = Running::start(&bus, "", &[]);
    let toml = |n: usize| {
        let routes: String = (0..ROUTES).map(|route| format!("\"a_rather_long_type_{n}_{route}\" = false\n")).collect();
        format!("[routes.types]\n{routes}")
    };
    let reload = |rounds: usize| (0..rounds).for_each(|n| drop(running.reload(&toml(n), RELOADED)));
    reload(10);
    let before = running.bridge.memory();
    reload(50);
    let after = running.bridge.memory();
    eprintln!("{before} bytes before, {after} after 50 reloads");
    assert!(after < before + MOST, "{before} bytes before, {after} after 50 reloads");
}

#[test]
fn a_signal_during_the_start_ends_nothing_and_is_not_lost() {
    let bus = embedded();
    let dir = TempDir::new().expect("a directory");
    let (pipe, log) = (dir.path().join("bridge.toml"), dir.path().join("log"));
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let mut command = command();
    command.envs(on_free_ports()).envs(bus.environment()).arg("--config").arg(&pipe);
    let mut child =
        Ended(command.stdout(fs::File::create(&log).expect("ours")).stderr(Stdio::inherit()).spawn().expect("starts"));
    let said = |what: &str| fs::read_to_string(&log).expect("ours").contains(what).then_some(());
    // The configuration's reader has nothing open yet.
    let mut to = reader_of(&pipe);
    signal(child.0.id(), "HUP");
    to.write_all(b"# nothing\n").expect("the bridge reads");
    drop(to);
    until("the bridge starts", STARTS_WITHIN, || said("\"started\""));
    drop(reader_of(&pipe));
    until("the signal is heard", RELOADS_WITHIN, || said(RELOADED));
    assert!(child.0.try_wait().expect("ours").is_none());
}

#[test]
fn a_configuration_that_cannot_be_read_in_time_is_said_and_the_next_one_is_taken_over() {
    const HANGS: &str = "the new configuration could not be read in time; nothing was changed";
    let bus = embedded();
    let toml = "[endpoints.terra]\nsecrets = [\"file:DIR/signing\"]\n";
    let running = Running::start(&bus, toml, &[("signing", "the first of all")]);
    let file = running.dir.path().join("bridge.toml");
    fs::remove_file(&file).expect("ours");
    assert!(Command::new("mkfifo").arg(&file).status().expect("mkfifo runs").success());
    running.bridge.signal("HUP");
    let warning = until("a warning", RELOADS_WITHIN, || running.bridge.said(HANGS).pop());
    assert_eq!(warning["level"], "WARN");
    running.replace("signing", "the second of all");
    let second = Attempt::of(BODY).secret("the second of all");
    until("secrets are looked at", ROTATES_WITHIN, || (running.status(&second) == 200).then_some(()));
    fs::remove_file(&file).expect("ours");
    running.reload(&format!("{toml}rejected_status = 503\n"), RELOADED);
    assert_eq!(running.status(&Attempt::of(BODY).secret("wrong")), 503);
}

/// A process that the test started and has to end.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Opens a pipe once somebody reads from it.
fn reader_of(pipe: &PathBuf) -> fs::File {
    const O_NONBLOCK: i32 = 0o4000;
    until("somebody reads the pipe", STARTS_WITHIN, || {
        fs::OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(pipe).ok()
    })
}

/// A part of its body has arrived.
fn until_a_request_runs(bridge: &crate::support::bridge::Bridge) {
    let none = |line: &str| line == "terra_bridge_bytes_in_flight 0";
    until("the request runs", RELOADS_WITHIN, || (!bridge.metrics().lines().any(none)).then_some(()));
}

#[test]
fn a_signal_during_the_drain_is_ignored() {
    let bus = embedded();
    let mut running = Running::start(&bus, PATIENT, &[]);
    let attempt = Attempt::of(BODY);
    let mut connection = Connection::open(running.bridge.deliveries).expect("a connection");
    connection.write(attempt.head(attempt.body.len()).as_bytes()).expect("the head goes out");
    connection.write(&attempt.body[..HALF]).expect("half of the body goes out");
    until_a_request_runs(&running.bridge);
    running.bridge.signal("TERM");
    until("it drains", RELOADS_WITHIN, || (running.bridge.readiness().1["status"] == "draining").then_some(()));
    running.write(&format!("{PATIENT}[routes.types]\ndaily = false\n"));
    running.bridge.signal("HUP");
    // A reload takes less time than this many requests.
    for _ in 0..100 {
        assert_eq!(get(running.bridge.admin, "/livez").status, 200);
    }
    connection.write(&attempt.body[HALF..]).expect("the rest goes out");
    let response = connection.response().expect("an answer");
    assert_eq!((response.status, response.json()["outcome"].as_str()), (200, Some("kept")));
    assert_eq!(running.bridge.ended(RELOADS_WITHIN).code(), Some(0));
    assert!(running.bridge.said(RELOADED).is_empty());
}
