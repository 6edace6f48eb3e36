//! HTTPS: deliveries and readers over TLS, certificates that change, and half a handshake.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustls::version;
use tempfile::TempDir;

use crate::support::bridge::{Bridge, command};
use crate::support::changing::RELOADED;
use crate::support::consumers::Bus;
use crate::support::terra::Attempt;
use crate::support::tls::{Pair, connect};
use crate::support::until;

const WITHIN: Duration = Duration::from_secs(20);

fn bridge(pair: &Pair, settings: &[(&str, &str)]) -> (Bus, Bridge) {
    let bus = Bus::embedded().expect("needs no broker");
    let mut environment = bus.environment_with(settings);
    environment.extend(pair.environment("SERVER"));
    let bridge = Bridge::ready(&environment);
    (bus, bridge)
}

fn numbered(n: usize) -> Attempt {
    Attempt::of(format!(r#"{{"type":"daily","user":{{"user_id":"u"}},"n":{n}}}"#))
}

fn served(to: SocketAddr, pair: &Pair) -> bool {
    connect(to, &pair.root(), &[&version::TLS13]).is_ok()
}

#[test]
fn deliveries_are_kept_over_both_versions_and_large_bodies_too() {
    let pair = Pair::new();
    let (bus, bridge) = bridge(&pair, &[]);
    for (at, version) in [&version::TLS12, &version::TLS13].into_iter().enumerate() {
        let mut connection = connect(bridge.deliveries, &pair.root(), &[version]).expect("a connection");
        for n in 0..3 {
            let response = numbered(10 * at + n).post_on(&mut connection).expect("an answer");
            assert_eq!(response.status, 200, "{:?}", response.json());
        }
        let large = Attempt::of(format!(r#"{{"type":"daily","n":{at},"data":"{}"}}"#, "x".repeat(5 << 20)));
        assert_eq!(large.post_on(&mut connection).expect("an answer").status, 200);
        assert_eq!(numbered(0).secret("wrong").post_on(&mut connection).expect("an answer").status, 401);
    }
    assert_eq!(bus.count(&bridge), 8);
}

#[test]
fn plain_http_gets_nothing_from_a_tls_port_and_the_other_way_round() {
    let pair = Pair::new();
    let (bus, bridge) = bridge(&pair, &[]);
    let answer = std::panic::catch_unwind(|| numbered(0).try_post(bridge.deliveries));
    assert!(!matches!(answer, Ok(Ok(response)) if response.status < 400));
    assert_eq!(bus.count(&bridge), 0);
    until("the failed handshake is counted", WITHIN, || {
        bridge.metrics().contains(&failed("plain_http", 1)).then_some(())
    });
    let said =
        |bridge: &Bridge, remedy: &str| bridge.log().lines().any(|line| line.contains("WARN") && line.contains(remedy));
    until("it is said", WITHIN, || said(&bridge, "a proxy in front speaks plain HTTP").then_some(()));
    // An untrusted certificate.
    assert!(connect(bridge.deliveries, &Pair::new().root(), &[&version::TLS13]).is_err());
    until("the failed handshake is counted", WITHIN, || {
        bridge.metrics().contains(&failed("tls_handshake", 1)).then_some(())
    });
    let untrusted = "that the client trusts the certificate of `server.tls`";
    until("it is said", WITHIN, || said(&bridge, untrusted).then_some(()));
    let plain = Bridge::ready(&bus_environment());
    assert!(connect(plain.deliveries, &pair.root(), &[&version::TLS13]).is_err());
    until("it is said", WITHIN, || said(&plain, "a proxy in front speaks HTTPS").then_some(()));
}

/// The line of the metric.
fn failed(reason: &str, count: usize) -> String {
    format!("terra_bridge_connection_errors_total{{listener=\"server\",reason=\"{reason}\"}} {count}\n")
}

fn bus_environment() -> Vec<(String, String)> {
    let dir = TempDir::new().expect("a temporary directory").keep();
    vec![
        ("TERRA_BRIDGE_EMBEDDED__DIR".into(), dir.display().to_string()),
        ("TERRA_BRIDGE_EMBEDDED__LISTEN".into(), "127.0.0.1:0".into()),
    ]
}

#[test]
fn half_a_handshake_is_cut_off_while_an_honest_client_is_served() {
    const HALVES: usize = 50;
    let pair = Pair::new();
    let (_bus, bridge) = bridge(&pair, &[("SERVER__HEADER_TIMEOUT", "1s")]);
    // The beginning of a ClientHello.
    let halves: Vec<_> = (0..HALVES)
        .map(|_| {
            let mut socket = TcpStream::connect(bridge.deliveries).expect("a connection");
            socket.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00]).expect("goes out");
            socket
        })
        .collect();
    let mut connection = connect(bridge.deliveries, &pair.root(), &[&version::TLS13]).expect("a connection");
    assert_eq!(numbered(0).post_on(&mut connection).expect("an answer").status, 200);
    let began = Instant::now();
    for mut half in halves {
        half.set_read_timeout(Some(WITHIN)).expect("a timeout");
        assert!(matches!(half.read(&mut [0; 64]), Ok(0) | Err(_)), "cut off without an answer");
    }
    assert!(began.elapsed() < WITHIN, "{:?}", began.elapsed());
    let line = failed("tls_handshake", HALVES);
    until("all of them are counted", WITHIN, || bridge.metrics().contains(&line).then_some(()));
}

#[test]
fn a_new_certificate_is_served_to_new_connections_and_a_broken_one_to_none() {
    let pair = Pair::new();
    let (_bus, bridge) = bridge(&pair, &[]);
    let mut open = connect(bridge.deliveries, &pair.root(), &[&version::TLS13]).expect("a connection");
    assert_eq!(numbered(0).post_on(&mut open).expect("an answer").status, 200);

    let before = pair.root();
    pair.replace();
    until("the new certificate is served", WITHIN, || served(bridge.deliveries, &pair).then_some(()));
    assert!(connect(bridge.deliveries, &before, &[&version::TLS13]).is_err(), "the old one is not");
    assert_eq!(numbered(1).post_on(&mut open).expect("an answer").status, 200, "the open connection goes on");

    let served_now = pair.root();
    let other = Pair::new();
    std::fs::copy(other.path("tls.crt"), pair.path("tls.crt")).expect("both directories are ours");
    until("an ERROR", WITHIN, || {
        let log = bridge.log();
        log.lines().any(|line| line.contains("ERROR") && line.contains("server.tls.key")).then_some(())
    });
    assert!(connect(bridge.deliveries, &served_now, &[&version::TLS13]).is_ok(), "the one before still is");
    std::fs::copy(other.path("tls.key"), pair.path("tls.key")).expect("both directories are ours");
    until("the pair that fits is served", WITHIN, || served(bridge.deliveries, &other).then_some(()));
}

#[test]
fn readers_get_the_new_certificate_of_the_embedded_log() {
    let readers = Pair::new();
    let bus = Bus::embedded().expect("needs no broker");
    let mut environment = bus.environment();
    environment.extend(readers.environment("EMBEDDED"));
    let bridge = Bridge::ready(&environment);
    let before = readers.root();
    assert!(served(bridge.reader(), &readers));
    readers.replace();
    until("the new certificate is served", WITHIN, || served(bridge.reader(), &readers).then_some(()));
    assert!(connect(bridge.reader(), &before, &[&version::TLS13]).is_err(), "the old one is not");
}

#[test]
fn a_signal_has_the_certificates_looked_at_before_the_reload_is_said() {
    const UNFIT: &str = "the new certificate and key cannot be used; the old pair stays in use";
    let (pair, readers, other) = (Pair::new(), Pair::new(), Pair::new());
    let bus = Bus::embedded().expect("needs no broker");
    let mut environment = bus.environment();
    environment.extend(pair.environment("SERVER"));
    environment.extend(readers.environment("EMBEDDED"));
    let bridge = Bridge::ready(&environment);
    let reload = || {
        let before = bridge.said(RELOADED).len();
        bridge.signal("HUP");
        until(RELOADED, WITHIN, || (bridge.said(RELOADED).len() > before).then_some(()));
    };
    // Several times: once, the bridge may have checked the files by itself just then.
    for _ in 0..5 {
        pair.replace();
        readers.replace();
        reload();
        assert!(served(bridge.deliveries, &pair) && served(bridge.reader(), &readers));
    }
    let before = pair.root();
    std::fs::copy(other.path("tls.key"), pair.path("tls.key")).expect("both directories are ours");
    readers.replace();
    reload();
    let errors = bridge.said(UNFIT);
    let of_the_key =
        |line: &serde_json::Value| line["error"].as_str().is_some_and(|said| said.contains("server.tls.key"));
    assert!(errors.iter().any(|line| line["level"] == "ERROR" && of_the_key(line)), "{errors:?}");
    assert!(connect(bridge.deliveries, &before, &[&version::TLS13]).is_ok(), "the one before still is served");
    assert!(served(bridge.reader(), &readers), "and keeps no other from being taken over");
}

#[test]
fn a_pair_that_cannot_be_served_is_said_before_a_port_opens() {
    let (pair, other) = (Pair::new(), Pair::new());
    std::fs::copy(other.path("tls.key"), pair.path("tls.key")).expect("both directories are ours");
    for arguments in [&["check"][..], &[][..]] {
        let output = command().args(arguments).envs(bus_environment()).envs(pair.environment("SERVER")).output();
        let output = output.expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("server.tls.key") && said.contains("not the key of the certificate"), "{said}");
        assert!(!output.status.success() && !said.contains("listening for deliveries"), "{said}");
    }
}

#[test]
fn send_and_tail_know_the_bridge_by_the_certificate_that_they_share() {
    let pair = Pair::new();
    let bus = Bus::embedded().expect("needs no broker");
    let mut environment = bus.environment();
    environment.extend(pair.environment("SERVER"));
    environment.extend(pair.environment("EMBEDDED"));
    let bridge = Bridge::ready(&environment);
    environment.push(("TERRA_BRIDGE_SERVER__LISTEN".into(), bridge.deliveries.to_string()));
    environment.push(("TERRA_BRIDGE_EMBEDDED__LISTEN".into(), bridge.reader().to_string()));
    let run = |arguments: &[&str], environment: &[(String, String)]| {
        let variables = environment.iter().map(|(name, value)| (name, value));
        command().args(arguments).envs(variables).output().expect("the binary runs")
    };
    let sent = run(&["send", "daily", "sleep"], &environment);
    assert_eq!(sent.status.code(), Some(0), "{}", String::from_utf8_lossy(&sent.stderr));
    let mut reader = connect(bridge.reader(), &pair.root(), &[&version::TLS13]).expect("a connection");
    let topics = reader.request("GET /topics HTTP/1.1\r\nhost: localhost\r\n\r\n", b"").expect("an answer");
    assert_eq!(topics.status, 200);
    let checked = run(&["check", "--online"], &environment);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(said.contains("a bridge has it open: 2 messages"), "{said}");

    // Another certificate in the configuration is not the bridge's.
    let other = Pair::new();
    environment.extend(other.environment("SERVER"));
    let sent = run(&["send", "daily"], &environment);
    assert_eq!(sent.status.code(), Some(1));
}
