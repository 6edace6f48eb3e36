//! Many readers of the embedded log that take nothing: their memory has one limit, and an honest reader beside them
//! continues. By hand: `TERRA_BRIDGE_TEST_READERS` sets more readers, `TERRA_BRIDGE_TEST_MIB` larger events.

use std::time::{Duration, Instant};

use crate::support::bridge::Bridge;
use crate::support::consumers::Bus;
use crate::support::crowd::{Client, count, runtime};
use crate::support::http;
use crate::support::terra::Attempt;
use crate::support::until;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const WITHIN: Duration = Duration::from_secs(120);

/// The limit in `deploy/README.md` for all readers of the embedded log together: 64 MiB for what they read, a few
/// pieces for each, and freed memory that the allocator keeps.
const BOUND: usize = 192 * MIB;

const EVENTS: usize = 3;

#[test]
fn streams_that_nobody_reads_hold_no_more_than_their_bound_and_leave_room_for_an_honest_reader() {
    let (unread, mib) = (count("TERRA_BRIDGE_TEST_READERS", 40), count("TERRA_BRIDGE_TEST_MIB", 4));
    let (bus, bridge) = Bus::embedded_with(&[]);
    let topic = bus.topic("daily");
    for n in 0..EVENTS {
        let items = format!(r#""{}","#, "x".repeat(1021)).repeat(mib * KIB);
        let body = format!(r#"{{"type":"daily","n":{n},"data":[{items}0]}}"#);
        assert_eq!(Attempt::of(body).post(bridge.deliveries).status, 200);
    }
    let before = bridge.peak_memory();
    let runtime = runtime();
    let streams: Vec<_> = (0..unread)
        .map(|n| {
            let target = match n % 4 {
                0 => format!("/topics/{topic}/messages/{}", n % EVENTS),
                _ => format!("/topics/{topic}/messages?from=earliest&follow=true"),
            };
            let head = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n");
            runtime.block_on(async {
                let mut client = Client::open(bridge.reader()).await;
                assert!(client.write(head.as_bytes()).await);
                client
            })
        })
        .collect();
    until("they hold room", WITHIN, || (held(&bridge) > 0).then_some(()));
    let began = Instant::now();
    for n in 0..EVENTS {
        let target = format!("/topics/{topic}/messages?from={n}&limit=1");
        let response = get(&bridge, &target);
        assert_eq!(response.status, 200);
        let line: serde_json::Value = serde_json::from_slice(&response.body).expect("a whole line");
        assert_eq!(line["offset"], n);
        if n == 0 {
            let payload = get(&bridge, &format!("/topics/{topic}/messages/{n}"));
            assert_eq!(Some(std::str::from_utf8(&payload.body).expect("UTF-8")), line["payload"].as_str());
        }
    }
    let took = began.elapsed();
    let after = bridge.peak_memory();
    eprintln!(
        "peak {} MiB before {unread} streams, {} MiB after; an honest reader took {took:?}",
        before / MIB,
        after / MIB
    );
    assert!(took < WITHIN, "{took:?}");
    assert!(after < before + BOUND, "{} MiB before, {} MiB after", before / MIB, after / MIB);
    drop(streams);
}

/// Retries when there is no memory, as any reader does.
fn get(bridge: &Bridge, target: &str) -> http::Response {
    let head = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    until("an honest reader has its answer", WITHIN, || {
        let stream = http::connect_within(bridge.reader(), WITHIN).expect("a connection");
        http::Connection::over(stream).request(&head, b"").ok().filter(|response| response.status != 503)
    })
}

fn held(bridge: &Bridge) -> usize {
    let metrics = bridge.metrics();
    let value = metrics.lines().find_map(|line| line.strip_prefix("terra_bridge_reader_bytes "));
    value.expect("it is measured").parse().expect("a number")
}

#[test]
fn whoever_is_denied_does_not_keep_the_connection() {
    let (_bus, bridge) = Bus::embedded_with(&[]);
    for target in ["/topics", "/topics/none/messages", "/"] {
        let mut connection = http::Connection::open(bridge.reader()).expect("a connection");
        let head = format!("GET {target} HTTP/1.1\r\nhost: evil.example\r\n\r\n");
        let response = connection.request(&head, b"").expect("an answer");
        assert_eq!((response.status, response.header("connection")), (403, Some("close")));
        assert!(connection.closed());
    }
}
