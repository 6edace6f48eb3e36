//! The directories of log and spool while a bridge runs: removed, moved, replaced; and their permissions.

use std::fs::{create_dir, remove_dir, remove_dir_all, rename};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::commands::{err, out, run};
use crate::support::bridge::{Bridge, binary, command, on_free_ports};
use crate::support::consumers::Bus;
use crate::support::terra::{Attempt, SECRET};
use crate::support::until;

const WITHIN: Duration = Duration::from_secs(60);
const GONE: &str = "the log is no longer where it was opened: messages are refused until it is back";

/// A bus with an embedded log, in a directory of this test's own.
fn embedded() -> (Bus, PathBuf) {
    let bus = Bus::embedded().expect("needs no broker");
    let Bus::Embedded { dir, .. } = &bus else { unreachable!("it is embedded") };
    let dir = dir.path().join("log");
    (bus, dir)
}

fn attempt(n: usize) -> Attempt {
    Attempt::of(format!(r#"{{"type":"daily","user":{{"user_id":"u"}},"n":{n}}}"#))
        .header("x-terra-trace-id", &format!("trace-{n}"))
}

/// The status and outcome of a delivery.
fn post(bridge: &Bridge, n: usize) -> (u16, String) {
    let response = attempt(n).post(bridge.deliveries);
    (response.status, response.json()["outcome"].as_str().expect("an outcome").to_owned())
}

fn away(dir: &Path) -> PathBuf {
    dir.with_extension("away")
}

fn remove_segments(dir: &Path) {
    for entry in dir.read_dir().expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|end| end == "log") {
            std::fs::remove_file(path).expect("the directory is ours");
        }
    }
}

/// What somebody does to a directory, and its name.
type Act = (&'static str, fn(&Path));

const ACTS: [Act; 5] = [
    ("rm -rf", |dir| remove_dir_all(dir).expect("the directory is ours")),
    ("rm -rf and mkdir", |dir| {
        remove_dir_all(dir).expect("the directory is ours");
        create_dir(dir).expect("the directory is ours");
    }),
    ("mv", |dir| rename(dir, away(dir)).expect("the directory is ours")),
    ("mv and mkdir", |dir| {
        rename(dir, away(dir)).expect("the directory is ours");
        create_dir(dir).expect("the directory is ours");
    }),
    ("rm *.log", remove_segments),
];

/// The bridge logs it, with what to do.
fn said(bridge: &Bridge, dir: &Path) {
    let said = until("an ERROR", WITHIN, || bridge.said(GONE).pop());
    let error = said["error"].as_str().expect("why");
    assert!(said["level"] == "ERROR" && error.contains("put it back") && error.contains("restart"), "{said}");
    assert!(error.contains(&dir.display().to_string()), "{said}");
}

#[test]
fn nothing_is_kept_in_a_log_that_is_not_where_it_was_opened() {
    for (act, of) in ACTS {
        let (bus, dir) = embedded();
        let bridge = Bridge::ready(&bus.environment());
        for n in 0..5 {
            assert_eq!(post(&bridge, n), (200, "kept".to_owned()), "{act}");
        }
        of(&dir);
        for n in 5..10 {
            assert_eq!(post(&bridge, n), (503, "refused".to_owned()), "{act}");
        }
        said(&bridge, &dir);
        assert_eq!(
            bus.read(&bridge, &bus.topic("daily"), 5).len(),
            5,
            "{act}: what is open is let go for nothing else"
        );
        bridge.kill();

        if act == "rm *.log" {
            let mut command = command();
            command.envs(on_free_ports()).envs(bus.environment());
            let said = Bridge::try_run(command).err().expect("it does not start with less");
            assert!(said.contains("damaged") && said.contains("restore"), "{said}");
            continue;
        }
        let moved = away(&dir).exists();
        if moved {
            let _ = remove_dir(&dir);
            rename(away(&dir), &dir).expect("the directory is ours");
        }
        let bridge = Bridge::ready(&bus.environment());
        let (there, all) = if moved { (5, 15) } else { (0, 10) };
        for n in 0..there {
            assert_eq!(post(&bridge, n), (200, "duplicate".to_owned()), "{act}: it was answered 200 before");
        }
        for n in 5..15 {
            assert_eq!(post(&bridge, n).0, 200, "{act}");
        }
        assert_eq!(bus.count(&bridge), all, "{act}");
    }
}

#[test]
fn a_log_that_is_put_back_goes_on_without_a_restart() {
    let (bus, dir) = embedded();
    let bridge = Bridge::ready(&bus.environment());
    assert_eq!(post(&bridge, 0).0, 200);
    rename(&dir, away(&dir)).expect("the directory is ours");
    assert_eq!(post(&bridge, 1).0, 503);
    said(&bridge, &dir);
    rename(away(&dir), &dir).expect("the directory is ours");
    until("it takes deliveries again", WITHIN, || (post(&bridge, 2).0 == 200).then_some(()));
    bridge.kill();
    let bridge = Bridge::ready(&bus.environment());
    for n in [0, 2] {
        assert_eq!(post(&bridge, n), (200, "duplicate".to_owned()), "{n}");
    }
}

#[test]
fn whoever_sends_while_the_directory_goes_is_not_told_that_it_is_kept_afterwards() {
    let (bus, dir) = embedded();
    let bridge = Bridge::ready(&bus.environment());
    let (gone, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for sender in 0..4 {
            let (bridge, gone, stop) = (&bridge, &gone, &stop);
            scope.spawn(move || {
                for n in (sender * 1_000_000).. {
                    let began_later = gone.load(Ordering::SeqCst);
                    let (status, _) = post(bridge, n);
                    assert!(status == 503 || !began_later, "kept in a directory that is not there");
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                }
            });
        }
        until("deliveries are kept", WITHIN, || (bus.count(&bridge) > 20).then_some(()));
        rename(&dir, away(&dir)).expect("the directory is ours");
        create_dir(&dir).expect("the directory is ours");
        gone.store(true, Ordering::SeqCst);
        said(&bridge, &dir);
        stop.store(true, Ordering::SeqCst);
    });
}

/// A bridge with a spool, whose bus is down.
fn spooling(dir: &TempDir) -> (Vec<(String, String)>, PathBuf) {
    let spool = dir.path().join("spool");
    let shown = spool.display().to_string();
    let bus = Bus::kafka_at("127.0.0.1:1".to_owned());
    (bus.environment_with(&[("SPOOL__DIR", &shown), ("SPOOL__RESERVE", "1 MiB")]), spool)
}

fn spooled_messages(bridge: &Bridge) -> usize {
    let metrics = bridge.metrics();
    let line = metrics.lines().find_map(|line| line.strip_prefix("terra_bridge_spool_messages ")).expect("a metric");
    line.parse().expect("a number")
}

#[test]
fn nothing_is_spooled_where_it_is_not_found_again() {
    for (act, of) in ACTS {
        let dir = TempDir::new().expect("a temporary directory");
        let (environment, spool) = spooling(&dir);
        let bridge = Bridge::start(&environment);
        for n in 0..5 {
            assert_eq!(post(&bridge, n), (200, "spooled".to_owned()), "{act}");
        }
        of(&spool);
        for n in 5..8 {
            assert_eq!(post(&bridge, n), (503, "unspooled".to_owned()), "{act}");
        }
        said(&bridge, &spool);
        bridge.kill();
        if act == "rm *.log" {
            continue;
        }
        let moved = away(&spool).exists();
        if moved {
            let _ = remove_dir(&spool);
            rename(away(&spool), &spool).expect("the directory is ours");
        }
        let bridge = Bridge::start(&environment);
        assert!(spooled_messages(&bridge) >= if moved { 5 } else { 0 }, "{act}");
        assert_eq!(post(&bridge, 9).0, 200, "{act}");
    }
}

#[test]
fn a_spool_whose_set_aside_is_gone_says_so_and_goes_on() {
    let dir = TempDir::new().expect("a temporary directory");
    let (environment, spool) = spooling(&dir);
    let bridge = Bridge::start(&environment);
    remove_dir_all(spool.join("set-aside")).expect("the directory is ours");
    said(&bridge, &spool.join("set-aside"));
    assert_eq!(post(&bridge, 0), (200, "spooled".to_owned()));
    bridge.kill();
    assert_eq!(spooled_messages(&Bridge::start(&environment)), 1);
}

/// Each half of the manifest begins with a hash over the rest of it; its sixteenth byte is the directory's format.
fn set_format(dir: &Path, format: u8) {
    let file = dir.join("manifest");
    let mut bytes = std::fs::read(&file).expect("a log has one");
    let half = bytes.len() / 2;
    for half in bytes.chunks_mut(half).filter(|half| half.iter().any(|byte| *byte != 0)) {
        half[15] = format;
        let hash = xxhash_rust::xxh3::xxh3_64(&half[8..]);
        half[..8].copy_from_slice(&hash.to_le_bytes());
    }
    std::fs::write(file, bytes).expect("the directory is ours");
}

#[test]
fn a_directory_of_another_version_is_refused_with_what_to_do() {
    let ((bus, log), above) = (embedded(), TempDir::new().expect("a temporary directory"));
    let (of_spool, spool) = spooling(&above);
    for (environment, dir, outcome, remedy) in [
        (bus.environment(), log, "kept", "read it with that version, and give this one an empty directory"),
        (of_spool, spool, "spooled", "start that version until its terra_bridge_spool_messages and _set_aside are 0"),
    ] {
        let bridge = Bridge::start(&environment);
        assert_eq!(post(&bridge, 0), (200, outcome.to_owned()));
        bridge.kill();
        for (format, writer) in [(2, "an earlier version"), (4, "a later version")] {
            set_format(&dir, format);
            let started = run(&["serve"], &[on_free_ports(), environment.clone()].concat());
            let said = out(&started) + &err(&started);
            assert_eq!(started.status.code(), Some(1), "{said}");
            assert!(said.contains(writer) && said.contains(remedy), "{said}");
        }
        set_format(&dir, 3);
        let bridge = Bridge::start(&environment);
        assert_eq!(post(&bridge, 0), (200, "duplicate".to_owned()), "it holds what it held");
    }
}

#[test]
fn every_record_of_a_log_is_verified_beside_a_running_bridge_and_damage_is_named() {
    let (bus, dir) = embedded();
    let bridge = Bridge::ready(&bus.environment());
    (0..3).for_each(|n| assert_eq!(post(&bridge, n), (200, "kept".to_owned())));
    let verify = || run(&["log", "verify", dir.to_str().expect("UTF-8")], &[]);
    let verified = verify();
    assert!(verified.status.success() && out(&verified).starts_with("0.log  3 records, "), "{}", out(&verified));
    bridge.kill();

    let segment = dir.join("0.log");
    let mut bytes = std::fs::read(&segment).expect("a log has one");
    // Within the first record, which others follow.
    bytes[500] ^= 1;
    std::fs::write(&segment, bytes).expect("the directory is ours");
    let verified = verify();
    let (said, why) = (out(&verified), err(&verified));
    assert_eq!(verified.status.code(), Some(1), "{said}{why}");
    assert!(said.contains("0.log  DAMAGED: 0.log at byte ") && why.contains("restore"), "{said}{why}");
    let checked = out(&run(&["check", "--online"], &[bus.environment()].concat()));
    assert!(checked.contains("0.log is damaged"), "{checked}");
    let refused = run(&["serve"], &[on_free_ports(), bus.environment()].concat());
    assert!(err(&refused).contains("0.log at byte "), "{}", err(&refused));
}

/// Everything below that others than its owner can access.
fn open_to_others(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in dir.read_dir().expect("a directory") {
        let path = entry.expect("an entry").path();
        let metadata = path.metadata().expect("it is there");
        if metadata.permissions().mode() & 0o077 != 0 {
            found.push(path.clone());
        }
        if metadata.is_dir() {
            found.extend(open_to_others(&path));
        }
    }
    found
}

#[test]
fn what_a_bridge_holds_is_its_own_whatever_umask_and_limits_are() {
    let (bus, dir) = embedded();
    let above = dir.parent().expect("a directory of the test's");
    let mut shell = Command::new("/bin/sh");
    let script = "umask 0; ulimit -c unlimited 2>/dev/null; exec \"$0\"";
    shell.args(["-c", script]).arg(binary()).env_clear().env("TERRA_SIGNING_SECRET", SECRET);
    shell.envs(on_free_ports()).envs(bus.environment()).current_dir(above);
    let mut bridge = Bridge::run(shell);
    assert_eq!(post(&bridge, 0).0, 200);
    assert_eq!(open_to_others(above), Vec::<PathBuf>::new());
    bridge.signal("ABRT");
    assert!(!bridge.ended(WITHIN).core_dumped());
}

#[test]
fn a_directory_that_others_may_read_is_named_with_the_remedy() {
    let (bus, dir) = embedded();
    let spool = TempDir::new().expect("a temporary directory");
    let (shown, kafka) = (spool.path().display().to_string(), Bus::kafka_at("127.0.0.1:1".to_owned()));
    let of_spool = kafka.environment_with(&[("SPOOL__DIR", &shown), ("SPOOL__RESERVE", "1 MiB")]);
    create_dir(&dir).expect("the directory is ours");
    for (dir, environment) in [(&*dir, bus.environment()), (spool.path(), of_spool)] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o750)).expect("the directory is ours");
        let remedy = format!("chmod 700 {}", dir.display());
        let checked = out(&run(&["check"], &environment));
        assert!(checked.contains("advice") && checked.contains(&remedy), "{checked}");
        let bridge = Bridge::start(&environment);
        let warned = |line: &str| line.contains("WARN") && line.contains(&remedy) && line.contains("mode 750");
        assert!(bridge.log().lines().any(warned), "{}", bridge.log());
    }
}
