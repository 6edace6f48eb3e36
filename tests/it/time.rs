//! Signature times: in seconds and in milliseconds, of retries that are signed again or not, old and new; and what an
//! operator with a wrong clock sees.

use std::time::Duration;

use crate::support::bridge::{Bridge, command, on_free_ports};
use crate::support::consumers::Bus;
use crate::support::terra::{Attempt, now};
use crate::support::until;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const UNTIMELY: &str = "rejected a delivery that Terra signed: its time is outside max_age and max_skew";
const LEAPT: &str = "the clock of this machine jumped; nothing expires by that: ages count the time that really passed";
const SAID_WITHIN: Duration = Duration::from_secs(5);

fn bridge() -> (Bus, Bridge) {
    let bus = Bus::embedded().expect("needs no broker");
    let bridge = Bridge::ready(&bus.environment());
    (bus, bridge)
}

/// Signed that many seconds ago, or in the future if negative.
fn signed(n: usize, age: i64, unit: i64) -> Attempt {
    Attempt::of(format!(r#"{{"type":"daily","user":{{"user_id":"u"}},"n":{n}}}"#)).t((now() - age) * unit)
}

fn rejections(bridge: &Bridge, reason: &str) -> u64 {
    let start = format!("terra_bridge_rejections_total{{endpoint=\"terra\",reason=\"{reason}\"}} ");
    bridge.metrics().lines().find_map(|line| line.strip_prefix(&start)?.parse().ok()).unwrap_or(0)
}

#[test]
fn a_delivery_is_taken_for_26_hours_in_seconds_and_in_milliseconds() {
    let (bus, bridge) = bridge();
    let rows = [
        (0, None),
        (5 * MINUTE, None),
        (20 * HOUR, None),
        (26 * HOUR - MINUTE, None),
        (26 * HOUR + MINUTE, Some("too_old")),
        (27 * HOUR, Some("too_old")),
        (30 * 24 * HOUR, Some("too_old")),
        (-4 * MINUTE, None),
        (-6 * MINUTE, Some("too_new")),
        (-24 * HOUR, Some("too_new")),
    ];
    let mut kept = 0;
    for (n, (age, rejected)) in rows.into_iter().enumerate() {
        for unit in [1, 1000] {
            let counted = |reason: &str| rejections(&bridge, reason);
            let before = rejected.map_or(0, counted);
            let attempt = signed(n, age, unit).header("x-terra-trace-id", &format!("{n} by {unit}"));
            let reply = attempt.post(bridge.deliveries);
            assert_eq!(reply.status, if rejected.is_some() { 401 } else { 200 }, "{age} s old, {unit} a second");
            match rejected {
                Some(reason) => assert_eq!(counted(reason), before + 1, "{age} s old, {unit} a second"),
                None => kept += 1,
            }
        }
    }
    assert_eq!(bus.count(&bridge), kept);
    assert_eq!((rejections(&bridge, "too_old"), rejections(&bridge, "too_new")), (6, 4));
    assert_eq!(rejections(&bridge, "forged") + rejections(&bridge, "malformed"), 0, "time is no forgery");
}

#[test]
fn retries_are_duplicates_whether_or_not_they_are_signed_afresh() {
    let (bus, bridge) = bridge();
    // Age and unit of the first attempt; of the retry, if it is signed again.
    let cases = [
        (0, 1, None),
        (20 * HOUR, 1, None),
        (20 * HOUR, 1000, None),
        (20 * HOUR, 1, Some((0, 1))),
        (8 * HOUR, 1, Some((0, 1000))),
        (HOUR, 1000, Some((0, 1000))),
    ];
    for (n, (age, unit, afresh)) in cases.into_iter().enumerate() {
        let trace = format!("trace-{n}");
        let first = signed(n, age, unit);
        // A retry that is not signed again is recognised by its signature alone.
        let (first, retry) = match afresh {
            Some((age, unit)) => {
                let traced = |attempt: Attempt| attempt.header("x-terra-trace-id", &trace);
                (traced(first), traced(signed(n, age, unit)))
            }
            None => (first.clone(), first),
        };
        let kept = first.post(bridge.deliveries).json();
        assert_eq!(kept["outcome"], "kept", "{n}");
        let again = retry.post(bridge.deliveries).json();
        assert_eq!((&again["outcome"], &again["id"]), (&"duplicate".into(), &kept["id"]), "{n}");
    }
    assert_eq!(bus.count(&bridge), cases.len());
}

#[test]
fn a_retry_is_taken_by_the_age_of_its_own_signature() {
    let (bus, bridge) = bridge();
    let of = |age: i64| signed(0, age, 1).header("x-terra-trace-id", "late").post(bridge.deliveries).status;
    assert_eq!(of(27 * HOUR), 401, "no attempt before it arrived");
    assert_eq!(of(0), 200, "signed afresh");
    assert_eq!(bus.count(&bridge), 1);
}

#[test]
fn a_wrong_clock_is_told_from_forgeries() {
    for (age, reason, hint) in
        [(27 * HOUR, "too_old", "clock is probably fast"), (-HOUR, "too_new", "clock is probably slow")]
    {
        let (bus, bridge) = bridge();
        for age in [0, 27 * HOUR, -HOUR] {
            assert_eq!(signed(0, age, 1).secret("another secret").post(bridge.deliveries).status, 401);
        }
        assert_eq!(rejections(&bridge, "forged"), 3, "a forgery has no age");
        assert_eq!(rejections(&bridge, reason), 0);
        assert!(bridge.said(UNTIMELY).is_empty(), "and says nothing of the clock");
        assert_eq!(signed(0, age, 1).post(bridge.deliveries).status, 401);
        assert_eq!((rejections(&bridge, reason), rejections(&bridge, "forged")), (1, 3));
        let said = until("a warning", SAID_WITHIN, || bridge.said(UNTIMELY).pop());
        assert_eq!(
            (&said["level"], &said["endpoint"], &said["reason"]),
            (&"WARN".into(), &"terra".into(), &reason.into())
        );
        assert!(said["remedy"].as_str().is_some_and(|remedy| remedy.contains(hint)), "{said}");
        assert_eq!(bus.count(&bridge), 0);
    }
}

/// Preloaded before the C library: shifts the wall clock by the seconds in a file.
const LEAPING_CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now), file = id == CLOCK_REALTIME ? open(getenv("TEST_LEAP"), O_RDONLY) : -1;
    char seconds[32] = {0};
    if (file >= 0) {
        if (read(file, seconds, sizeof seconds - 1) > 0) now->tv_sec += atoll(seconds);
        close(file);
    }
    return result;
}
"#;

#[test]
fn a_clock_that_leaps_erases_nothing_and_has_nothing_kept_twice() {
    const MONTH: i64 = 30 * 24 * HOUR;
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let (library, leap) = (dir.path().join("clock.so"), dir.path().join("leap"));
    std::fs::write(dir.path().join("clock.c"), LEAPING_CLOCK).expect("the directory is ours");
    std::fs::write(&leap, "0").expect("the directory is ours");
    let mut gcc = std::process::Command::new("gcc");
    gcc.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(dir.path().join("clock.c")).arg("-ldl");
    assert!(gcc.status().expect("what builds the bridge is here").success());
    let bus = Bus::embedded().expect("needs no broker");
    let mut command = command();
    command.envs(on_free_ports()).envs(bus.environment()).env("LD_PRELOAD", &library).env("TEST_LEAP", &leap);
    let bridge = Bridge::run(command);
    let post = |n: usize, later: i64| {
        let reply = signed(n, -later, 1).header("x-terra-trace-id", &format!("trace-{n}")).post(bridge.deliveries);
        reply.json()["outcome"].as_str().expect("an outcome").to_owned()
    };
    for n in 0..5 {
        assert_eq!(post(n, 0), "kept");
    }
    for (by, way) in [(MONTH, "ahead"), (-MONTH, "back")] {
        let later = by.max(0);
        std::fs::write(&leap, later.to_string()).expect("the directory is ours");
        let leapt = || bridge.said(LEAPT).into_iter().find(|said| said["way"] == way);
        let said = until("a warning", SAID_WITHIN, leapt);
        assert!(said["seconds"].as_i64().is_some_and(|seconds| (seconds - MONTH).abs() < 60), "{said}");
        // Retention would have removed anything before this delivery gets its receipt.
        let n = if by > 0 { 5 } else { 6 };
        assert_eq!(post(n, later), "kept", "{way}");
        assert!((0..5).all(|n| post(n, later) == "duplicate"), "{way}");
        assert_eq!(bus.read(&bridge, &bus.topic("daily"), n + 1).len(), n + 1, "{way}");
    }
}
