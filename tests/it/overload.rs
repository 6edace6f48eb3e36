//! More load than fits: memory stays below the limit that the configuration implies, whatever does not fit gets a 503
//! at once, and whatever fits is served. By hand: `TERRA_BRIDGE_TEST_CROWD` sets more clients,
//! `TERRA_BRIDGE_TEST_MIB` larger bodies, `TERRA_BRIDGE_TEST_TLS` HTTPS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, version};

use crate::support::bridge::Bridge;
use crate::support::brokers::Broker;
use crate::support::consumers::Bus;
use crate::support::crowd::{Client, count, runtime, statuses};
use crate::support::store::{Answer, Store};
use crate::support::terra::Attempt;
use crate::support::tls::{Pair, connect};
use crate::support::until;

const HONEST: &str = r#"{"type":"daily","user":{"user_id":"u"}}"#;
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// The defaults, which the tests do not change.
const MAX_HEADER_BYTES: usize = 16 * KIB;
const MAX_HEADERS: usize = 100;

/// How many bodies of the largest size fit at once.
const ROOM: usize = 12;

/// What the tests set: `server.max_body`.
fn max_body() -> usize {
    count("TERRA_BRIDGE_TEST_MIB", 1) * MIB
}

fn bytes_in_flight() -> usize {
    ROOM * max_body()
}

/// A refusal for lack of memory waits only for a busy machine's processor; a delivery that fits waits for the bus, 5
/// s if that is frozen.
const AT_ONCE: Duration = Duration::from_secs(4);

/// The limit in `deploy/README.md`. `copies` of a body: 2 with the embedded log, 3 with a broker's client.
fn bound(max_connections: usize, copies: usize, tls: bool) -> usize {
    let connection = 2 * MAX_HEADER_BYTES + 160 * MAX_HEADERS + if tls { 56 * KIB } else { 16 * KIB };
    48 * MIB + max_connections * connection + copies * bytes_in_flight()
}

fn environment(bus: &Bus, max_connections: usize) -> Vec<(String, String)> {
    let mut environment = bus.environment();
    for (key, value) in [
        ("MAX_CONNECTIONS", max_connections.to_string()),
        ("MAX_BODY", format!("{} B", max_body())),
        ("IDLE_TIMEOUT", "2s".to_owned()),
        ("HEADER_TIMEOUT", "12s".to_owned()),
        ("BYTES_IN_FLIGHT", format!("{} B", bytes_in_flight())),
    ] {
        environment.push((format!("TERRA_BRIDGE_SERVER__{key}"), value));
    }
    environment
}

/// A misbehaving client. Returns the statuses that it got.
async fn misuse(to: SocketAddr, kind: usize) -> Vec<u16> {
    let mut client = Client::open(to).await;
    let large = Attempt::of(vec![b' '; max_body()]).secret("another secret");
    match kind {
        // Most of a large head with many lines.
        0 => {
            let lines: String = (0..90).map(|n| format!("x-{n}: {}\r\n", "a".repeat(150))).collect();
            client.write(format!("POST /terra HTTP/1.1\r\nhost: b\r\n{lines}").as_bytes()).await;
        }
        // The beginning of a body.
        1 => {
            client.write(large.head(max_body()).as_bytes()).await;
            client.write(&large.body[..60 * KIB]).await;
        }
        // An endless chunked body.
        2 => {
            let head = large.head(0).replace("content-length: 0", "transfer-encoding: chunked");
            client.write(head.as_bytes()).await;
            let chunk = [b"10000\r\n".as_slice(), &[b' '; 64 * KIB], b"\r\n"].concat();
            for _ in 0..8 {
                client.write(&chunk).await;
            }
        }
        // Many requests at once; replies are read only after the last.
        _ => {
            let request = Attempt::of("").secret("another secret");
            let many = request.head(0).repeat(200);
            client.write(many.as_bytes()).await;
        }
    }
    client.ended().await.statuses
}

/// A forged body, complete and fast, so that read buffers grow; then the beginning of another request, and silence.
/// Returns the connection.
async fn rest_after_a_large_body(to: SocketAddr) -> Client {
    let large = Attempt::of(vec![b' '; max_body()]).secret("another secret");
    let mut client = Client::open_fast(to).await;
    client.write(&[large.head(max_body()).as_bytes(), &large.body].concat()).await;
    assert_eq!(statuses(&client.read(1).await), [401]);
    client.write(b"P").await;
    client
}

#[test]
fn memory_stays_below_its_bound_whatever_clients_do_and_an_honest_one_is_served() {
    let crowd = count("TERRA_BRIDGE_TEST_CROWD", 400);
    let bus = Bus::embedded().expect("needs no broker");
    let runtime = runtime();
    let bridge = Bridge::ready(&environment(&bus, crowd + 10));
    let to = bridge.deliveries;
    let resting: Vec<_> = (0..crowd / 2).map(|_| runtime.block_on(rest_after_a_large_body(to))).collect();
    let clients: Vec<_> = (0..crowd / 2).map(|n| runtime.spawn(misuse(to, n % 4))).collect();
    let others = std::thread::spawn(move || {
        runtime.block_on(async {
            let mut statuses = Vec::new();
            for client in clients {
                statuses.extend(client.await.expect("no client panics"));
            }
            statuses
        })
    });
    let mut kept = 0;
    while !others.is_finished() {
        let asked = Instant::now();
        let response = Attempt::of(HONEST).post(to);
        assert!(matches!(response.status, 200 | 503), "{}", response.status);
        assert!(asked.elapsed() < AT_ONCE, "{} after {:?}", response.status, asked.elapsed());
        kept += usize::from(response.status == 200);
    }
    let statuses = others.join().expect("the others end");
    assert!(kept > 20, "an honest client was served {kept} times");
    assert!(statuses.iter().all(|status| matches!(status, 401 | 408 | 503)), "{statuses:?}");
    assert!(statuses.contains(&503), "what had no room was told so");
    let (peak, bound) = (bridge.peak_memory(), bound(crowd + 10, 2, false));
    drop(resting);
    eprintln!("{crowd} clients: peak {} MiB, bound {} MiB, honest {kept}", peak / MIB, bound / MIB);
    assert!(peak < bound, "{peak} of {bound} bytes");
}

fn tls_by_hand() -> bool {
    std::env::var_os("TERRA_BRIDGE_TEST_TLS").is_some()
}

/// What concurrent fetches add to the limit.
const FETCHES: usize = 32 * MIB;

#[test]
fn links_into_a_store_that_hangs_stay_within_the_bound_and_an_honest_client_is_served() {
    let crowd = count("TERRA_BRIDGE_TEST_CROWD", 400);
    let (bus, store) = (Bus::embedded().expect("needs no broker"), Store::start());
    let mut environment = environment(&bus, crowd + 10);
    environment.extend(store.environment());
    let bridge = Bridge::ready(&environment);
    let to = bridge.deliveries;
    // A few bytes, and then nothing.
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", max_body());
    let url = store.hold("/hangs", [Answer::Stall([head.as_bytes(), &[b' '; 8 * KIB]].concat())]);
    let runtime = runtime();
    let links = (0..crowd).map(|n| {
        let body = serde_json::json!({"type": "s3_payload", "url": url, "expires_in": 300, "n": n});
        let mut attempt = Attempt::of(body.to_string()).header("connection", "close");
        // A large head with many lines, of which a waiting link keeps three.
        attempt.headers.extend((0..90).map(|n| (format!("x-{n}"), "a".repeat(150))));
        let whole = [attempt.head(attempt.body.len()).as_bytes(), &attempt.body].concat();
        runtime.spawn(deliver(to, None, Arc::new(whole)))
    });
    let links: Vec<_> = links.collect();
    let links = std::thread::spawn(move || {
        runtime.block_on(async {
            let mut kept = 0;
            for link in links {
                let statuses = link.await.expect("no client panics").0;
                // A fetch may last until the deadline: on a busy machine no time is left for the bus then.
                assert!(matches!(statuses[..], [200 | 503]), "{statuses:?}");
                kept += usize::from(statuses == [200]);
            }
            kept
        })
    });
    until("fetches run", Duration::from_secs(20), || (store.asked("/hangs").len() > crowd / 4).then_some(()));
    let asked = Instant::now();
    assert_eq!(Attempt::of(HONEST).post(to).status, 200);
    assert!(asked.elapsed() < AT_ONCE, "after {:?}", asked.elapsed());
    let kept = links.join().expect("the links end");
    assert!(kept > crowd / 2, "{kept} of {crowd} links themselves are kept");
    let (peak, bound) = (bridge.peak_memory(), bound(crowd + 10, 2, false) + FETCHES);
    eprintln!("{crowd} links: peak {} MiB, bound {} MiB", peak / MIB, bound / MIB);
    assert!(peak < bound, "{peak} of {bound} bytes");
}

/// Deliveries of the largest size, several times more than fit.
fn what_a_frozen_broker_leaves_no_room_for_gets_503_at_once(broker: Broker, bus: &Bus, tls: bool) {
    const USUAL_CROWD: usize = 100;
    let crowd = count("TERRA_BRIDGE_TEST_CROWD", USUAL_CROWD);
    let pair = tls.then(Pair::new);
    let runtime = runtime();
    let mut environment = environment(bus, crowd + 10);
    environment.extend(pair.iter().flat_map(|pair| pair.environment("SERVER")));
    let bridge = Bridge::ready(&environment);
    let to = bridge.deliveries;
    let honest = || match &pair {
        None => Attempt::of(HONEST).post(to).status,
        Some(pair) => {
            let mut connection = connect(to, &pair.root(), &[&version::TLS13]).expect("a connection");
            Attempt::of(HONEST).post_on(&mut connection).expect("an answer").status
        }
    };
    assert_eq!(honest(), 200);
    broker.freeze();
    let mut large = Attempt::of(format!(r#"{{"type":"daily","x":"{}"}}"#, "x".repeat(max_body() - 64)));
    large = large.header("connection", "close");
    let whole = Arc::new([large.head(large.body.len()).as_bytes(), &large.body].concat());
    let tls = pair.as_ref().map(Pair::client);
    let clients: Vec<_> = (0..crowd).map(|_| runtime.spawn(deliver(to, tls.clone(), whole.clone()))).collect();
    let (mut at_once, mut slow, mut unanswered) = (0, 0, 0);
    runtime.block_on(async {
        for client in clients {
            let (statuses, took) = client.await.expect("no client panics");
            // If the crowd is too large for this machine, some bodies arrive too slowly.
            assert!(statuses.iter().all(|status| matches!(status, 503 | 408)), "{statuses:?}");
            slow += usize::from(statuses.contains(&408));
            unanswered += usize::from(statuses.is_empty());
            at_once += usize::from(took < AT_ONCE);
        }
    });
    let metrics = bridge.metrics();
    let overloaded = |line: &str| line.contains("outcome=\"overloaded\"") && !line.ends_with(" 0");
    assert!(metrics.lines().any(overloaded), "{metrics}");
    let (peak, bound) = (bridge.peak_memory(), bound(crowd + 10, 3, pair.is_some()));
    eprintln!(
        "{crowd} bodies: peak {} MiB, bound {} MiB, at once {at_once}, 408 {slow}, none {unanswered}",
        peak / MIB,
        bound / MIB
    );
    assert!(at_once >= crowd - 2 * ROOM || crowd > USUAL_CROWD, "{at_once} of {crowd} were answered at once");
    assert!(peak < bound, "{peak} of {bound} bytes");
    broker.thaw();
    until("a delivery is kept again", Duration::from_secs(60), || (honest() == 200).then_some(()));
}

async fn deliver(to: SocketAddr, tls: Option<Arc<ClientConfig>>, whole: Arc<Vec<u8>>) -> (Vec<u16>, Duration) {
    let mut client = match Client::try_open(to, tls.as_ref()).await {
        Ok(client) => client,
        Err(ended) => return (ended.statuses, ended.after_writing),
    };
    client.write(&whole).await;
    let ended = client.ended().await;
    (ended.statuses, ended.after_writing)
}

#[test]
fn what_a_frozen_nats_leaves_no_room_for_gets_503_at_once() {
    let Some(broker) = Broker::nats() else { return };
    let bus = Bus::nats_at(format!("nats://127.0.0.1:{}", broker.port()));
    what_a_frozen_broker_leaves_no_room_for_gets_503_at_once(broker, &bus, tls_by_hand());
}

#[test]
fn what_a_frozen_nats_leaves_no_room_for_gets_503_at_once_over_https_as_well() {
    let Some(broker) = Broker::nats() else { return };
    let bus = Bus::nats_at(format!("nats://127.0.0.1:{}", broker.port()));
    what_a_frozen_broker_leaves_no_room_for_gets_503_at_once(broker, &bus, true);
}

#[test]
fn what_a_frozen_kafka_leaves_no_room_for_gets_503_at_once() {
    let Some(broker) = Broker::kafka() else { return };
    let bus = Bus::kafka_at(format!("127.0.0.1:{}", broker.port()));
    what_a_frozen_broker_leaves_no_room_for_gets_503_at_once(broker, &bus, tls_by_hand());
}
