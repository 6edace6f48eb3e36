//! Clients that occupy slots: idle, silent or denied connections make room at once, on every listener. Health, log
//! and bus keep their file descriptors however many clients there are.

use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::bridge::{Bridge, command, on_free_ports};
use crate::support::brokers::Broker;
use crate::support::consumers::Bus;
use crate::support::crowd::runtime;
use crate::support::http::{Connection, get};
use crate::support::terra::Attempt;
use crate::support::until;

const PLACES: usize = 20;
/// Much less than the idle timeout and the head timeout in these tests.
const SOON: Duration = Duration::from_secs(10);
const PATIENT: [(&str, &str); 3] =
    [("SERVER__MAX_CONNECTIONS", "20"), ("SERVER__IDLE_TIMEOUT", "1h"), ("SERVER__HEADER_TIMEOUT", "1m")];

const CROWDED: &str = "too many connections: closed the one that was idle longest";

fn numbered(n: usize) -> Attempt {
    Attempt::of(format!(r#"{{"type":"daily","user":{{"user_id":"u"}},"n":{n}}}"#))
}

fn errors(bridge: &Bridge, listener: &str, reason: &str) -> u64 {
    let start = format!("terra_bridge_connection_errors_total{{listener=\"{listener}\",reason=\"{reason}\"}} ");
    bridge.metrics().lines().find_map(|line| line.strip_prefix(&start)?.parse().ok()).unwrap_or(0)
}

fn open(to: SocketAddr, bytes: &[u8]) -> Connection {
    let mut connection = Connection::open(to).expect("a connection");
    connection.write(bytes).expect("it goes out");
    connection
}

/// Delivers on new connections while these stay open.
fn expect_fresh_deliveries_beside(bridge: &Bridge, held: Vec<Connection>) {
    let since = Instant::now();
    for n in 1000..1003 {
        assert_eq!(numbered(n).post(bridge.deliveries).status, 200);
    }
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    assert!(errors(bridge, "server", "closed_for_room") >= 1);
    let said = || (!bridge.said(CROWDED).is_empty()).then_some(());
    until("it is said", SOON, said);
    drop(held);
}

#[test]
fn connections_that_rest_make_room_for_a_fresh_delivery() {
    let (_bus, bridge) = Bus::embedded_with(&PATIENT);
    let resting = |n| {
        let mut connection = Connection::open(bridge.deliveries).expect("a connection");
        assert_eq!(numbered(n).post_on(&mut connection).expect("an answer").status, 200);
        connection
    };
    let mut held: Vec<_> = (0..PLACES).map(resting).collect();
    assert_eq!(numbered(100).post(bridge.deliveries).status, 200);
    assert!(held[0].closed(), "who rested longest had to go");
    assert_eq!(numbered(101).post_on(&mut held[PLACES - 1]).expect("an answer").status, 200, "and nobody else");
    expect_fresh_deliveries_beside(&bridge, held);
}

#[test]
fn silent_connections_make_room_for_a_fresh_delivery() {
    let (_bus, bridge) = Bus::embedded_with(&PATIENT);
    let held = (0..3 * PLACES).map(|_| open(bridge.deliveries, b"")).collect();
    expect_fresh_deliveries_beside(&bridge, held);
}

#[test]
fn half_heads_make_room_for_a_fresh_delivery() {
    let (_bus, bridge) = Bus::embedded_with(&PATIENT);
    let held = (0..3 * PLACES).map(|_| open(bridge.deliveries, b"POST /terra HTTP/1.1\r\nx-slow")).collect();
    expect_fresh_deliveries_beside(&bridge, held);
}

#[test]
fn requests_at_work_leave_for_nobody_and_who_waits_for_them_is_told_of() {
    let (bus, bridge) = Bus::embedded_with(&[("SERVER__MAX_CONNECTIONS", "2")]);
    // Each has sent everything but the last byte.
    let halves: Vec<_> = (0..2)
        .map(|n| {
            let attempt = numbered(n);
            let whole = [attempt.head(attempt.body.len()).as_bytes(), &attempt.body].concat();
            let (rest, all) = (whole[whole.len() - 1], &whole[..whole.len() - 1]);
            (open(bridge.deliveries, all), rest)
        })
        .collect();
    let to = bridge.deliveries;
    let fresh = std::thread::spawn(move || numbered(2).post(to).status);
    until("somebody waits", SOON, || (errors(&bridge, "server", "no_place") == 1).then_some(()));
    let said = || (!bridge.said("all connections are busy: new ones wait").is_empty()).then_some(());
    until("it is said", SOON, said);
    for (mut half, rest) in halves {
        half.write(&[rest]).expect("it goes out");
        assert_eq!(half.response().expect("an answer").status, 200);
    }
    assert_eq!(fresh.join().expect("no panic"), 200);
    assert_eq!(bus.count(&bridge), 3);
}

#[test]
fn whoever_sends_a_copy_is_answered_and_let_go() {
    let (_bus, bridge) = Bus::embedded_with(&[]);
    let captured = numbered(0);
    assert_eq!(captured.post(bridge.deliveries).status, 200);
    let mut connection = Connection::open(bridge.deliveries).expect("a connection");
    let since = Instant::now();
    let response = captured.post_on(&mut connection).expect("an answer");
    assert_eq!((response.status, response.json()["outcome"].as_str()), (200, Some("duplicate")));
    assert_eq!(response.header("connection"), Some("close"));
    assert!(connection.closed() && since.elapsed() < SOON);
}

#[test]
fn a_crowd_on_the_admin_listener_keeps_nobody_from_asking_for_health() {
    const MORE_THAN_PLACES: usize = 1100;
    // Raises this process's limit of descriptors.
    drop(runtime());
    let (_bus, bridge) = Bus::embedded_with(&[]);
    for (host, status) in [("localhost", 200), ("attacker.example", 403)] {
        let held: Vec<_> = (0..MORE_THAN_PLACES)
            .map(|_| {
                let mut connection = Connection::open(bridge.admin).expect("a connection");
                let request = format!("GET /livez HTTP/1.1\r\nhost: {host}\r\n\r\n");
                let response = connection.request(&request, b"").expect("an answer");
                assert_eq!((response.status, response.header("connection").is_some()), (status, status != 200));
                connection
            })
            .collect();
        let since = Instant::now();
        assert_eq!(get(bridge.admin, "/livez").status, 200);
        assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
        drop(held);
    }
    assert!(errors(&bridge, "admin", "closed_for_room") >= 1);
}

#[test]
fn who_is_denied_by_the_reader_is_let_go() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let token = dir.path().join("token");
    std::fs::write(&token, "a token of the tests").expect("the directory is ours");
    let (_bus, bridge) = Bus::embedded_with(&[("EMBEDDED__TOKEN", &format!("file:{}", token.display()))]);
    let mut connection = Connection::open(bridge.reader()).expect("a connection");
    let response = connection.request("GET /topics HTTP/1.1\r\nhost: localhost\r\n\r\n", b"").expect("an answer");
    assert_eq!((response.status, response.header("connection")), (401, Some("close")));
    assert!(connection.closed());
}

/// The real binary with a low limit of open files.
fn with_descriptors(limit: usize, environment: &[(String, String)]) -> Bridge {
    let mut limited = Command::new("sh");
    let bridge = command();
    limited.args(["-c", &format!("ulimit -n {limit}; exec \"$0\"")]).arg(bridge.get_program());
    limited.env_clear();
    limited.envs(bridge.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited.envs(on_free_ports()).envs(environment.iter().map(|(name, value)| (name, value)));
    Bridge::run(limited)
}

#[test]
fn few_descriptors_are_left_to_health_log_and_bus_however_many_clients_rest() {
    let Some(mut broker) = Broker::nats() else { return };
    let bus = Bus::nats_at(format!("nats://127.0.0.1:{}", broker.port()));
    let bridge = with_descriptors(64, &bus.environment());
    let ready = || (bridge.readiness().0 == 200).then_some(());
    until("the bridge is ready", SOON, ready);
    let limited = "the limit of open files leaves fewer connections than server.max_connections";
    until("the limit is said", SOON, || (bridge.said(limited).len() == 1).then_some(()));
    let held: Vec<_> = [bridge.deliveries, bridge.admin].into_iter().flat_map(|to| (0..100).map(move |_| to)).collect();
    let held: Vec<_> = held.into_iter().map(|to| open(to, b"")).collect();
    assert_eq!(bridge.readiness().0, 200);
    assert_eq!(numbered(0).post(bridge.deliveries).status, 200);
    // The bus reconnects beside them.
    broker.kill();
    until("the bus is away", SOON, || (bridge.readiness().1["bus"] == "away").then_some(()));
    broker.start();
    until("the bus is back", 3 * SOON, || (bridge.readiness().1["bus"] == "up").then_some(()));
    let kept = || (numbered(1).post(bridge.deliveries).status == 200).then_some(());
    until("a delivery is kept", 3 * SOON, kept);
    let log = bridge.log();
    assert!(!log.contains("could not accept"), "{log}");
    assert!(log.lines().filter(|line| line.contains("WARN")).count() < 20, "{log}");
    drop(held);
}

#[test]
fn check_compares_the_limit_of_open_files_with_the_connections() {
    let mut limited = Command::new("sh");
    let bridge = command();
    limited.args(["-c", "ulimit -n 256; exec \"$0\" check"]).arg(bridge.get_program()).env_clear();
    limited.envs(bridge.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = limited.output().expect("it runs");
    let said = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{said}");
    assert!(said.contains("server.max_connections: is 10000, but the limit of open files here (256)"), "{said}");
}

#[test]
fn a_client_that_half_closes_after_a_whole_request_gets_its_answer() {
    let (bus, bridge) = Bus::embedded_with(&[]);
    let attempt = numbered(0);
    let mut connection = open(bridge.deliveries, attempt.head(attempt.body.len()).as_bytes());
    connection.stream().write_all(&attempt.body).expect("it goes out");
    connection.stream().shutdown(Shutdown::Write).expect("the connection is open");
    assert_eq!(connection.response().expect("an answer").status, 200);
    assert!(connection.closed());
    assert_eq!(bus.count(&bridge), 1);
}

/// With a bus that does not answer, a client that is gone looks like one that only half-closed, until the answer.
#[test]
fn a_client_that_leaves_is_noticed_within_the_deadline() {
    let Some(broker) = Broker::nats() else { return };
    let bus = Bus::nats_at(format!("nats://127.0.0.1:{}", broker.port()));
    let times = [("SERVER__DEADLINE", "3s"), ("SERVER__PUBLISH_TIMEOUT", "2s"), ("SERVER__IDLE_TIMEOUT", "1h")];
    let bridge = Bridge::ready(&bus.environment_with(&times));
    broker.freeze();
    for n in 0..10 {
        let attempt = numbered(n);
        let whole = [attempt.head(attempt.body.len()).as_bytes(), &attempt.body].concat();
        drop(open(bridge.deliveries, &whole));
    }
    let none = |line: &str| line == "terra_bridge_connections 0";
    let ended =
        |line: &str| line.strip_prefix("terra_bridge_deliveries_total{")?.rsplit(' ').next()?.parse::<u64>().ok();
    until("all had their outcome, and are gone", SOON, || {
        let metrics = bridge.metrics();
        let all = metrics.lines().filter_map(ended).sum::<u64>() == 10;
        (all && metrics.lines().any(none)).then_some(())
    });
}

#[test]
fn what_no_request_can_be_read_from_is_counted_by_its_kind_and_said_with_the_remedy() {
    let settings =
        [("SERVER__HEADER_TIMEOUT", "1s"), ("SERVER__MAX_HEADER_BYTES", "100 KiB"), ("SERVER__MAX_HEADERS", "20")];
    let (_bus, bridge) = Bus::embedded_with(&settings);
    let long = format!("GET /{} HTTP/1.1\r\nhost: b\r\n\r\n", "x".repeat(70_000));
    let large = format!("GET / HTTP/1.1\r\nhost: b\r\n{}\r\n", "x: x\r\n".repeat(30));
    let signed = numbered(0);
    let signed = [signed.head(signed.body.len()).as_bytes(), &signed.body].concat();
    let proxied = [&b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"[..], &signed].concat();
    let proxied_too = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\0\0\0\0\0\0\0\0\0\0\0\0"[..], &signed].concat();
    // As much as a client sends before the server's hello.
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and what follows";
    let kinds: [(&str, &str, &[u8]); 9] = [
        ("malformed", "server.listen", b"nonsense\r\n\r\n"),
        ("uri_too_long", "check who sends it", long.as_bytes()),
        ("head_too_large", "server.max_header_bytes", large.as_bytes()),
        ("proxy_protocol", "a proxy in front speaks PROXY protocol", &proxied),
        ("proxy_protocol", "a proxy in front speaks PROXY protocol", &proxied_too),
        ("http2", "a proxy in front speaks HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
        ("tls", "a proxy in front speaks HTTPS", hello),
        ("head_incomplete", "server.header_timeout", b"POST /terra HTTP/1.1\r\nx-slow"),
        ("silent", "", b""),
    ];
    for (reason, remedy, bytes) in kinds {
        let before = errors(&bridge, "server", reason);
        let mut held = open(bridge.deliveries, bytes);
        until(reason, SOON, || (errors(&bridge, "server", reason) == before + 1).then_some(()));
        while !held.closed() {}
        let said = |line: &str| line.contains("WARN") && line.contains(remedy) && !remedy.is_empty();
        until("it is said", SOON, || (remedy.is_empty() || bridge.log().lines().any(said)).then_some(()));
    }
    let metrics = bridge.metrics();
    let counted = metrics.lines().filter(|line| line.contains("connection_errors_total{") && !line.ends_with(" 0"));
    assert_eq!(counted.count(), 8, "{metrics}");
}
