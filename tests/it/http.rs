//! Replies, limits and slow clients.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::support::bridge::Bridge;
use crate::support::consumers::Bus;
use crate::support::http::{Connection, get};
use crate::support::terra::Attempt;
use crate::support::until;

const BODY: &str = r#"{"type":"daily","user":{"user_id":"u"}}"#;

#[test]
fn a_delivery_to_a_path_that_no_endpoint_has_is_counted_and_said() {
    let (_bus, bridge) = Bus::embedded_with(&[]);
    let warning = "answered 404 to what looks like a delivery, on a path that no endpoint has";
    assert_eq!(Attempt::of(BODY).path("/favicon.ico").signature("").post(bridge.deliveries).status, 404);
    assert!(bridge.said(warning).is_empty());
    assert_eq!(Attempt::of(BODY).path("/tera").post(bridge.deliveries).status, 404);
    until("it is said", Duration::from_secs(10), || (!bridge.said(warning).is_empty()).then_some(()));
    assert!(bridge.metrics().contains("terra_bridge_unknown_paths_total 2"), "{}", bridge.metrics());
}

#[test]
fn every_request_that_is_no_delivery_gets_its_status_and_publishes_nothing() {
    let (bus, bridge) = Bus::embedded_with(&[("SERVER__MAX_BODY", "64 KiB")]);
    let large = vec![b' '; 70_000];
    let cases = [
        (Attempt::of(BODY).path("/"), 404, "unknown_path"),
        (Attempt::of(BODY).path("/terra//"), 404, "unknown_path"),
        (Attempt::of(BODY).method("GET"), 405, "wrong_method"),
        (Attempt::of(BODY).method("PUT"), 405, "wrong_method"),
        (Attempt::of(large), 413, "too_large"),
        (Attempt::of(BODY).header("content-encoding", "gzip"), 415, "encoded"),
        (Attempt::of(BODY).header("content-encoding", "identity, gzip"), 415, "encoded"),
        (Attempt::of(BODY).signature("t=\u{e9}"), 401, "rejected"),
        (Attempt::of(BODY).header("x-terra-signature", "t=1"), 401, "rejected"),
    ];
    for (attempt, status, outcome) in cases {
        let response = attempt.post(bridge.deliveries);
        assert_eq!((response.status, response.json()["outcome"].as_str()), (status, Some(outcome)));
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert_eq!(response.header("allow").is_some(), status == 405);
    }
    assert_eq!(Attempt::of(BODY).path("/terra?from=terra").post(bridge.deliveries).status, 200, "a query is no path");
    assert_eq!(bus.count(&bridge), 1);
    for problem in ["content-encoding", "server.max_body"] {
        let said = || bridge.log().lines().any(|line| line.contains("ERROR") && line.contains(problem)).then_some(());
        until("an ERROR with the remedy", Duration::from_secs(5), said);
    }
}

#[test]
fn an_empty_content_encoding_and_a_list_of_identity_alone_are_identity() {
    let (bus, bridge) = Bus::embedded_with(&[]);
    for (n, coding) in ["", "identity", "identity, Identity", ",identity ,"].into_iter().enumerate() {
        let attempt = Attempt::of(format!(r#"{{"type":"daily","n":{n}}}"#)).header("content-encoding", coding);
        assert_eq!(attempt.post(bridge.deliveries).status, 200, "{coding:?}");
    }
    assert_eq!(bus.count(&bridge), 4);
}

#[test]
fn a_path_with_and_without_its_final_slash_is_one_path() {
    for path in ["/terra", "/terra/"] {
        let (bus, bridge) = Bus::embedded_with(&[("ENDPOINTS__TERRA__PATH", path)]);
        for (n, asked) in ["/terra", "/terra/"].into_iter().enumerate() {
            let attempt = Attempt::of(format!(r#"{{"type":"daily","n":{n}}}"#)).path(asked);
            assert_eq!(attempt.post(bridge.deliveries).status, 200, "{asked} at {path}");
        }
        assert_eq!(bus.count(&bridge), 2);
    }
}

/// One line for each, with what to do about it.
#[test]
fn what_is_refused_on_the_way_is_said_once_in_a_while() {
    let (_bus, bridge) = Bus::embedded_with(&[("SERVER__MIN_BODY_RATE", "1 MiB/s")]);
    let to = bridge.deliveries;
    for _ in 0..3 {
        assert_eq!(Attempt::of(BODY).method("GET").post(to).status, 405);
        assert_eq!(Attempt::of(BODY).signature("").post(to).status, 401);
        let mut broken = Connection::open(to).unwrap();
        broken.write(Attempt::of(BODY).head(BODY.len()).as_bytes()).unwrap();
        broken.stream().shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(broken.response().unwrap().status, 400);
    }
    let mut slow = Connection::open(to).unwrap();
    slow.write(Attempt::of(BODY).head(BODY.len()).as_bytes()).unwrap();
    assert_eq!(slow.response().unwrap().status, 408);
    assert_eq!(Attempt::of(BODY).method("GET").signature("").post(to).status, 405, "no delivery");
    for message in [
        "answered 405 to what looks like a delivery, by another method than POST",
        "rejected a request without a readable signature",
        "the client left, or broke the framing, in the middle of a body",
        "answered 408: the body came too slowly to leave time for the bus",
    ] {
        until(message, Duration::from_secs(5), || (!bridge.said(message).is_empty()).then_some(()));
        let said = bridge.said(message);
        assert_eq!(said.len(), 1, "{message}");
        assert!(said[0]["level"] == "WARN" && said[0]["remedy"].is_string(), "{}", said[0]);
    }
}

#[test]
fn rejected_status_is_the_endpoints_choice() {
    let (_bus, bridge) = Bus::embedded_with(&[("ENDPOINTS__TERRA__REJECTED_STATUS", "503")]);
    let response = Attempt::of(BODY).secret("wrong").post(bridge.deliveries);
    assert_eq!((response.status, response.header("retry-after").is_some()), (503, true));
}

#[test]
fn a_body_of_unknown_length_is_held_to_the_limit_as_it_comes() {
    let (_bus, bridge) = Bus::embedded_with(&[("SERVER__MAX_BODY", "64 KiB")]);
    let send = |chunks: usize| {
        let body = vec![b' '; chunks * 1000];
        let attempt = Attempt::of(body);
        let head = attempt.head(0).replace("content-length: 0", "transfer-encoding: chunked");
        let mut wire = Vec::new();
        for _ in 0..chunks {
            wire.extend_from_slice(b"3e8\r\n");
            wire.extend_from_slice(&[b' '; 1000]);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\n\r\n");
        Connection::open(bridge.deliveries).unwrap().request(&head, &wire).unwrap().status
    };
    assert_eq!(send(60), 200, "blanks are a dead letter");
    assert_eq!(send(200), 413);
}

#[test]
fn hypers_own_refusals_are_as_documented() {
    let (_bus, bridge) = Bus::embedded_with(&[("SERVER__MAX_HEADERS", "20"), ("SERVER__MAX_HEADER_BYTES", "8 KiB")]);
    let status = |request: &str| {
        let mut connection = Connection::open(bridge.deliveries).unwrap();
        connection.request(request, b"").map(|response| response.status).ok()
    };
    assert_eq!(status("nonsense\r\n\r\n"), Some(400));
    let many: String = (0..30).map(|n| format!("h{n}: x\r\n")).collect();
    assert_eq!(status(&format!("POST /terra HTTP/1.1\r\nhost: b\r\n{many}\r\n")), Some(431));
    let large = "x".repeat(20_000);
    assert_eq!(status(&format!("POST /terra HTTP/1.1\r\nhost: b\r\nlarge: {large}\r\n\r\n")), Some(431));
    let target = "x".repeat(70_000);
    assert!(matches!(status(&format!("POST /{target} HTTP/1.1\r\nhost: b\r\n\r\n")), Some(414 | 431)));
}

#[test]
fn one_connection_carries_many_deliveries() {
    let (bus, bridge) = Bus::embedded_with(&[]);
    let mut connection = Connection::open(bridge.deliveries).unwrap();
    for n in 0..20 {
        let attempt = Attempt::of(format!(r#"{{"type":"daily","n":{n}}}"#));
        assert_eq!(attempt.post_on(&mut connection).unwrap().status, 200);
    }
    // Two requests in one write are answered in order.
    let first = Attempt::of(r#"{"type":"daily","n":"a"}"#);
    let second = Attempt::of(r#"{"type":"daily","n":"b"}"#);
    let mut wire = Vec::new();
    for attempt in [&first, &second] {
        wire.extend_from_slice(attempt.head(attempt.body.len()).as_bytes());
        wire.extend_from_slice(&attempt.body);
    }
    connection.write(&wire).unwrap();
    assert_eq!(connection.response().unwrap().status, 200);
    assert_eq!(connection.response().unwrap().status, 200);
    assert_eq!(bus.count(&bridge), 22);
}

#[test]
fn slow_clients_of_four_kinds_are_cut_off_and_hurt_nobody() {
    let (_bus, bridge) = Bus::embedded_with(&[
        ("SERVER__HEADER_TIMEOUT", "1s"),
        ("SERVER__IDLE_TIMEOUT", "2s"),
        ("SERVER__MIN_BODY_RATE", "1 MiB/s"),
        ("SERVER__DEADLINE", "4s"),
        ("SERVER__PUBLISH_TIMEOUT", "2s"),
    ]);
    let to = bridge.deliveries;
    let silent = std::thread::spawn(move || closed_after(to, b""));
    let half_a_head = std::thread::spawn(move || closed_after(to, b"POST /terra HTTP/1.1\r\nhost: b\r\nx-slow"));
    let idle = std::thread::spawn(move || {
        let mut connection = Connection::open(to).unwrap();
        // Not a duplicate of the honest client's delivery, which would close the connection.
        assert_eq!(Attempt::of(r#"{"type":"daily","n":1}"#).post_on(&mut connection).unwrap().status, 200);
        let since = Instant::now();
        assert!(connection.closed());
        since.elapsed()
    });
    let stalled_body = std::thread::spawn(move || {
        let attempt = Attempt::of(vec![b' '; 100_000]);
        let mut connection = Connection::open(to).unwrap();
        let since = Instant::now();
        connection.write(attempt.head(100_000).as_bytes()).unwrap();
        connection.write(&[b' '; 10]).unwrap();
        let response = connection.response().unwrap();
        assert_eq!((response.status, response.header("connection")), (408, Some("close")));
        since.elapsed()
    });
    for _ in 0..20 {
        assert_eq!(Attempt::of(BODY).post(to).status, 200, "an honest client beside them");
    }
    // The default timeouts of a head and of a whole delivery are just above the first two and the last.
    let limits = [(silent, 1..5), (half_a_head, 1..5), (idle, 2..20), (stalled_body, 1..7)];
    for (place, (client, seconds)) in limits.into_iter().enumerate() {
        let took = client.join().unwrap().as_secs_f64();
        assert!(took > f64::from(seconds.start) * 0.9 && took < f64::from(seconds.end), "kind {place}: {took} s");
    }
}

fn closed_after(to: std::net::SocketAddr, bytes: &[u8]) -> Duration {
    let mut connection = Connection::open(to).unwrap();
    let since = Instant::now();
    connection.write(bytes).unwrap();
    assert!(connection.closed());
    since.elapsed()
}

/// A proxy may open connections long before it uses them.
#[test]
fn the_deadline_begins_with_a_requests_first_byte_and_leaves_the_bus_its_time() {
    let (bus, bridge) = Bus::embedded_with(&[("SERVER__DEADLINE", "2s"), ("SERVER__PUBLISH_TIMEOUT", "1s")]);
    let attempt = Attempt::of(BODY);
    let whole = [attempt.head(attempt.body.len()).as_bytes(), &attempt.body].concat();
    let after = |first: usize| {
        let mut connection = Connection::open(bridge.deliveries).unwrap();
        let since = Instant::now();
        connection.write(&whole[..first]).unwrap();
        let late = || (since.elapsed() > Duration::from_millis(1500)).then_some(());
        until("more than the body's part of the deadline has passed", Duration::from_secs(5), late);
        connection.write(&whole[first..]).unwrap();
        connection.response().unwrap().status
    };
    assert_eq!(after(10), 408, "what a slow head leaves is too little");
    assert_eq!(bus.count(&bridge), 0);
    assert_eq!(after(0), 200);
    assert_eq!(bus.count(&bridge), 1);
}

#[test]
fn announced_bytes_cost_nothing_and_sent_ones_are_bounded() {
    let (_bus, bridge) = Bus::embedded_with(&[("SERVER__MAX_BODY", "1 MiB"), ("SERVER__BYTES_IN_FLIGHT", "1 MiB")]);
    // Twenty clients announce 1 MiB each and send none of it.
    let silent: Vec<_> = (0..20)
        .map(|_| {
            let mut connection = Connection::open(bridge.deliveries).unwrap();
            connection.write(Attempt::of(vec![b' '; 1 << 20]).head(1 << 20).as_bytes()).unwrap();
            connection
        })
        .collect();
    assert_eq!(Attempt::of(vec![b' '; 900_000]).post(bridge.deliveries).status, 200);
    drop(silent);
    // A body's share is returned a moment after its answer.
    let none = |line: &str| line == "terra_bridge_bytes_in_flight 0";
    until("nothing is taken", Duration::from_secs(5), || bridge.metrics().lines().any(none).then_some(()));
    // One client sends most of the budget and stops; the same amount no longer fits.
    let mut holder = Connection::open(bridge.deliveries).unwrap();
    holder.write(Attempt::of(vec![b' '; 1 << 20]).head(1 << 20).as_bytes()).unwrap();
    holder.write(&vec![b' '; 900_000]).unwrap();
    let taken = || {
        let metrics = bridge.metrics();
        let line = metrics.lines().find(|line| line.starts_with("terra_bridge_bytes_in_flight "))?.to_owned();
        line.rsplit(' ').next()?.parse::<usize>().ok().filter(|bytes| *bytes >= 900_000)
    };
    until("the budget is taken", Duration::from_secs(5), taken);
    let response = Attempt::of(vec![b' '; 900_000]).post(bridge.deliveries);
    assert_eq!((response.status, response.json()["outcome"].as_str()), (503, Some("overloaded")));
    drop(holder);
    until("the budget is given back", Duration::from_secs(5), || {
        (Attempt::of(vec![b' '; 900_000]).post(bridge.deliveries).status == 200).then_some(())
    });
}

#[test]
fn a_client_that_leaves_does_not_undo_its_publish() {
    let (bus, bridge) = Bus::embedded_with(&[]);
    let attempt = Attempt::of(BODY);
    for _ in 0..10 {
        let mut connection = Connection::open(bridge.deliveries).unwrap();
        connection.write(attempt.head(attempt.body.len()).as_bytes()).unwrap();
        connection.stream().write_all(&attempt.body).unwrap();
        drop(connection);
    }
    until("the publish is done", Duration::from_secs(5), || (bus.count(&bridge) >= 1).then_some(()));
}

#[test]
fn an_early_answer_is_readable_even_while_the_body_is_still_being_sent() {
    let (_bus, bridge) = Bus::embedded_with(&[("SERVER__MAX_BODY", "64 KiB")]);
    for attempt in [Attempt::of(vec![b' '; 8 << 20]), Attempt::of(vec![b' '; 8 << 20]).signature("")] {
        let response = attempt.post(bridge.deliveries);
        assert!(matches!(response.status, 413 | 401));
        assert_eq!(response.header("connection"), Some("close"));
    }
}

#[test]
fn a_bridge_whose_lines_nobody_reads_answers_counts_what_it_drops_and_ends_in_time() {
    const AT_ONCE: usize = 100;
    /// Enough lines to fill the pipe and the bridge's queue of 8192, one per request, with some to spare.
    const ENOUGH: usize = 20_000;
    const WITHIN: Duration = Duration::from_secs(20);
    let dropped_type = ("ROUTES__TYPES", r#"{ "processing" = false }"#);
    let (bus, mut bridge) = Bus::embedded_with(&[("LOG__ACCESS", "all"), dropped_type]);
    bridge.leave_unread();
    let dropped = |bridge: &Bridge| {
        let metrics = bridge.metrics();
        let lines = metrics.lines().find_map(|line| line.strip_prefix("terra_bridge_log_lines_dropped_total "));
        lines.expect("it is a metric").parse::<usize>().expect("a number")
    };
    let mut connection = Connection::open(bridge.deliveries).unwrap();
    // The route drops these.
    let unwanted = Attempt::of(r#"{"type":"processing"}"#);
    let unwanted = (unwanted.head(unwanted.body.len()) + r#"{"type":"processing"}"#).repeat(AT_ONCE);
    let mut asked = 0;
    while dropped(&bridge) == 0 {
        assert!(asked < ENOUGH, "nothing is dropped");
        connection.write(unwanted.as_bytes()).unwrap();
        for _ in 0..AT_ONCE {
            assert_eq!(connection.response().unwrap().status, 200);
        }
        asked += AT_ONCE;
    }
    for n in 0..20 {
        let since = Instant::now();
        let attempt = Attempt::of(format!(r#"{{"type":"daily","n":{n}}}"#));
        assert_eq!(attempt.post_on(&mut connection).unwrap().status, 200);
        assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
    }
    assert_eq!(bus.count(&bridge), 20);
    assert!(dropped(&bridge) >= 20);
    bridge.signal("TERM");
    assert_eq!(bridge.ended(WITHIN).code(), Some(0));
}

#[test]
fn the_admin_listener_tells_health_to_this_machine_alone() {
    let (_bus, bridge) = Bus::embedded_with(&[]);
    assert_eq!(get(bridge.admin, "/livez").status, 200);
    assert_eq!(get(bridge.admin, "/nothing").status, 404);
    assert_eq!(bridge.readiness().1["bus"], "up");
    let metrics = bridge.metrics();
    for name in ["bus_up 1", "connections", "bytes_in_flight", "publishes_in_flight", "log_lines_dropped_total 0"] {
        assert!(metrics.contains(&format!("terra_bridge_{name}")), "{name}: {metrics}");
    }
    for listener in [bridge.admin, bridge.reader()] {
        let mut connection = Connection::open(listener).unwrap();
        let rebound = "GET /topics HTTP/1.1\r\nhost: attacker.example\r\n\r\n";
        assert_eq!(connection.request(rebound, b"").unwrap().status, 403, "no DNS rebinding");
    }
}

#[test]
fn a_loopback_address_written_as_ipv6_is_one() {
    let (_bus, bridge) = Bus::embedded_with(&[("ADMIN__LISTEN", "[::ffff:127.0.0.1]:0")]);
    let status = |host: &str| {
        let mut connection = Connection::open(bridge.admin).unwrap();
        connection.request(&format!("GET /livez HTTP/1.1\r\nhost: {host}\r\n\r\n"), b"").unwrap().status
    };
    assert_eq!(["attacker.example", "localhost", "[::ffff:127.0.0.1]"].map(status), [403, 200, 200]);
}
