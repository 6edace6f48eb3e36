//! Deliveries larger than the bus's message limit.

use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use crate::support::bridge::{Bridge, command};
use crate::support::brokers::Broker;
use crate::support::consumers::{Bus, object_by_python, runtime};
use crate::support::terra::Attempt;
use crate::support::until;

const WITHIN: Duration = Duration::from_secs(30);
const BUCKET: &str = "TERRA_LARGE";

struct Nats {
    broker: Broker,
    server: String,
    bus: Bus,
}

/// With the usual limit of one mebibyte.
fn nats() -> Option<Nats> {
    let broker = Broker::nats_that_takes("1MB")?;
    let server = format!("nats://127.0.0.1:{}", broker.port());
    Some(Nats { bus: Bus::nats_at(server.clone()), broker, server })
}

impl Nats {
    fn environment(&self) -> Vec<(String, String)> {
        let mut environment = self.bus.environment();
        environment.push(("TERRA_BRIDGE_NATS__OBJECT_STORE".into(), BUCKET.into()));
        environment
    }

    /// Uses a client other than the bridge's.
    fn with_jetstream<T>(&self, ask: impl AsyncFnOnce(async_nats::jetstream::Context) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let client = async_nats::connect(&self.server).await.expect("NATS answers");
            ask(async_nats::jetstream::new(client)).await
        })
    }

    fn object(&self, name: &str) -> Vec<u8> {
        self.with_jetstream(async |context| {
            let store = context.get_object_store(BUCKET).await.expect("the bridge made the bucket");
            let mut bytes = Vec::new();
            store.get(name).await.expect("the object").read_to_end(&mut bytes).await.expect("all of it");
            bytes
        })
    }

    /// The bucket's stream: chunks, and the names that point to them.
    fn bucket(&self) -> async_nats::jetstream::stream::State {
        self.with_jetstream(async |context| {
            let stream = context.get_stream(format!("OBJ_{BUCKET}")).await.expect("the bridge made the bucket");
            stream.cached_info().state.clone()
        })
    }

    fn objects(&self) -> usize {
        use futures_util::StreamExt;
        self.with_jetstream(async |context| {
            let store = context.get_object_store(BUCKET).await.expect("the bridge made the bucket");
            store.list().await.expect("a list").count().await
        })
    }
}

fn sha256(payload: &[u8]) -> String {
    Sha256::digest(payload).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The object name that `config/README.md` documents for the payload of this delivery id.
fn name(id: &str, payload: &[u8]) -> String {
    format!("{id}-{}", sha256(payload))
}

fn large(n: usize, bytes: usize) -> Attempt {
    let filling: String = (0..bytes).map(|at| char::from(b' ' + ((at * 7919 + at / 89 + n) % 94) as u8)).collect();
    let body = serde_json::json!({"type": "daily", "user": {"user_id": "u"}, "n": n, "data": [filling]});
    Attempt::of(body.to_string()).header("x-terra-trace-id", &format!("trace-{n}"))
}

/// The objects of two deliveries.
fn put_two(bridge: &Bridge) -> [String; 2] {
    [0, 1].map(|n| {
        let attempt = large(n, 2 << 20);
        name(attempt.post(bridge.deliveries).json()["id"].as_str().expect("an id"), &attempt.body)
    })
}

fn small(n: usize) -> Attempt {
    Attempt::of(format!(r#"{{"type":"daily","user":{{"user_id":"u"}},"n":{n}}}"#))
}

fn run(arguments: &[&str], environment: &[(String, String)]) -> (Option<i32>, String) {
    let output = command().args(arguments).envs(environment.iter().map(|(name, value)| (name, value))).output();
    let output = output.expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), said)
}

#[test]
fn a_payload_too_large_for_nats_is_kept_by_claim_check_byte_for_byte() {
    let Some(nats) = nats() else { return };
    let bridge = Bridge::ready(&nats.environment());
    let sizes = [900 << 10, 1 << 20, 5 << 20, 10 << 20];
    for (n, size) in sizes.into_iter().enumerate() {
        let response = large(n, size).post(bridge.deliveries);
        assert_eq!((response.status, response.json()["outcome"].as_str()), (200, Some("kept")), "{size}");
        assert_eq!(large(n, size).post(bridge.deliveries).json()["outcome"], "duplicate");
    }
    assert_eq!(small(9).post(bridge.deliveries).status, 200);
    let got = nats.bus.read(&bridge, &nats.bus.topic("daily"), 5);
    assert_eq!(got[0].payload, large(0, sizes[0]).body, "what fits is a message as any other");
    for (n, got) in got.iter().enumerate().take(4).skip(1) {
        let body = large(n, sizes[n]).body;
        assert!(got.payload.is_empty());
        let name = name(&got.attribute("id").unwrap(), &body);
        assert_eq!(got.attribute("dataref").unwrap(), format!("nats-object:{BUCKET}/{name}"));
        assert_eq!(got.attribute("terrabytes").unwrap(), body.len().to_string());
        assert_eq!(got.attribute("terradigest").unwrap(), sha256(&body));
        assert_eq!(got.attribute("type").as_deref(), Some("co.tryterra.daily"), "the headers are the same");
        assert!(nats.object(&name) == body, "object {n} differs");
    }
    assert_eq!(nats.objects(), 3);
}

/// An implementation of the object store other than the bridge's.
#[test]
fn the_python_client_reads_what_a_claim_check_leads_to() {
    let Some(nats) = nats() else { return };
    let bridge = Bridge::ready(&nats.environment());
    let attempt = large(1, 10 << 20);
    assert_eq!(attempt.post(bridge.deliveries).status, 200);
    let got = &nats.bus.read(&bridge, &nats.bus.topic("daily"), 1)[0];
    let Some(object) = object_by_python(&nats.server, &got.attribute("dataref").unwrap()) else { return };
    assert!(object == attempt.body, "{} bytes of {}", object.len(), attempt.body.len());
}

#[test]
fn a_second_copy_after_a_restart_finds_its_object_and_leaves_it_as_it_is() {
    let Some(nats) = nats() else { return };
    for outcome in ["kept", "duplicate"] {
        let bridge = Bridge::ready(&nats.environment());
        let response = large(1, 3 << 20).post(bridge.deliveries);
        assert_eq!((response.status, response.json()["outcome"].as_str()), (200, Some(outcome)));
        assert_eq!(nats.bucket().last_sequence, 5, "four chunks and their name, nothing anew");
        bridge.kill();
    }
    assert_eq!((nats.objects(), nats.bucket().messages), (1, 5));
    let bridge = Bridge::ready(&nats.environment());
    let got = &nats.bus.read(&bridge, &nats.bus.topic("daily"), 1)[0];
    let body = large(1, 3 << 20).body;
    assert!(nats.object(&name(&got.attribute("id").unwrap(), &body)) == body);
}

/// Neither replica knows what the other has stored.
#[test]
fn another_body_of_the_same_event_leaves_the_object_of_the_first() {
    let Some(nats) = nats() else { return };
    let body = |n: usize| {
        let filling = "x".repeat(2 << 20);
        Attempt::of(serde_json::json!({"type": "lab_report", "event_id": "one", "n": n, "data": filling}).to_string())
    };
    for (n, outcome) in ["kept", "duplicate", "duplicate"].into_iter().enumerate() {
        let bridge = Bridge::ready(&nats.environment());
        let response = body(n).post(bridge.deliveries);
        assert_eq!((response.status, response.json()["outcome"].as_str()), (200, Some(outcome)));
        bridge.kill();
    }
    let (code, said) = run(&["tail", "--from", "earliest", "--limit", "1", "--json"], &nats.environment());
    assert_eq!(code, Some(0), "{said}");
    let record: serde_json::Value = serde_json::from_str(said.trim()).expect("JSON");
    assert_eq!(record["problem"], serde_json::Value::Null);
    assert!(record["payload"].as_str().expect("a payload").as_bytes() == body(0).body);
}

#[test]
fn two_bodies_of_one_event_at_the_same_time_leave_one_object_for_the_message() {
    const EVENTS: usize = 10;
    let Some(nats) = nats() else { return };
    let replicas = [Bridge::ready(&nats.environment()), Bridge::ready(&nats.environment())];
    let body = |event: usize, n: usize| {
        let filling = "x".repeat(2 << 20);
        let id = format!("event-{event}");
        Attempt::of(serde_json::json!({"type": "lab_report", "event_id": id, "n": n, "data": filling}).to_string())
    };
    for event in 0..EVENTS {
        std::thread::scope(|scope| {
            for (n, replica) in replicas.iter().enumerate() {
                scope.spawn(move || {
                    let attempt = body(event, n);
                    until("it is kept", WITHIN, || (attempt.post(replica.deliveries).status == 200).then_some(()));
                });
            }
        });
    }
    let arguments = ["tail", "--from", "earliest", "--limit", &EVENTS.to_string(), "--json"];
    let (code, said) = run(&arguments, &nats.environment());
    assert_eq!(code, Some(0));
    for line in said.lines() {
        let record: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(record["problem"], serde_json::Value::Null);
    }
}

#[test]
fn two_replicas_that_get_one_delivery_at_the_same_time_leave_one_whole_object() {
    let Some(nats) = nats() else { return };
    let replicas = [Bridge::ready(&nats.environment()), Bridge::ready(&nats.environment())];
    let attempt = large(1, 5 << 20);
    std::thread::scope(|scope| {
        for replica in &replicas {
            let attempt = &attempt;
            scope.spawn(move || {
                until("it is kept", WITHIN, || (attempt.post(replica.deliveries).status == 200).then_some(()));
            });
        }
    });
    assert_eq!((nats.objects(), nats.bus.count(&replicas[0])), (1, 1));
    let got = &nats.bus.read(&replicas[0], &nats.bus.topic("daily"), 1)[0];
    assert!(nats.object(&name(&got.attribute("id").unwrap(), &attempt.body)) == attempt.body);
}

#[test]
fn a_copy_of_a_deleted_object_is_put_again() {
    let Some(nats) = nats() else { return };
    for _ in 0..2 {
        let bridge = Bridge::ready(&nats.environment());
        let attempt = large(1, 2 << 20);
        let name = name(attempt.post(bridge.deliveries).json()["id"].as_str().expect("an id"), &attempt.body);
        assert!(nats.object(&name) == attempt.body);
        nats.with_jetstream(async |context| {
            let store = context.get_object_store(BUCKET).await.expect("the bridge made the bucket");
            store.delete(&name).await.expect("deleted");
        });
        bridge.kill();
    }
}

#[test]
fn a_copy_of_an_object_that_lost_a_chunk_is_put_again() {
    let Some(nats) = nats() else { return };
    for outcome in ["kept", "duplicate"] {
        let bridge = Bridge::ready(&nats.environment());
        let response = large(1, 3 << 20).post(bridge.deliveries);
        assert_eq!((response.status, response.json()["outcome"].as_str()), (200, Some(outcome)));
        let body = large(1, 3 << 20).body;
        assert!(nats.object(&name(response.json()["id"].as_str().expect("an id"), &body)) == body);
        nats.with_jetstream(async |context| {
            let chunks = context.get_stream(format!("OBJ_{BUCKET}")).await.expect("the bucket's stream");
            let _ = chunks.delete_message(2).await;
        });
        bridge.kill();
    }
}

#[test]
fn a_payload_that_the_bucket_has_no_room_for_leaves_nothing_there() {
    let Some(nats) = nats() else { return };
    nats.with_jetstream(async |context| {
        let config = async_nats::jetstream::object_store::Config {
            bucket: BUCKET.to_owned(),
            max_bytes: 3 << 20,
            ..Default::default()
        };
        context.create_object_store(config).await.expect("a bucket");
    });
    let bridge = Bridge::ready(&nats.environment());
    assert_eq!(large(1, 5 << 20).post(bridge.deliveries).status, 503);
    assert!(nats.bucket().last_sequence > 0, "some of it was there");
    until("its chunks are removed", WITHIN, || (nats.bucket().messages == 0).then_some(()));
    assert_eq!(large(2, 2 << 20).post(bridge.deliveries).status, 200, "there is room again");
}

#[test]
fn a_payload_of_which_the_bucket_drops_a_part_as_it_comes_is_not_kept() {
    let Some(nats) = nats() else { return };
    let bridge = Bridge::ready(&nats.environment());
    assert_eq!(small(1).post(bridge.deliveries).status, 200);
    nats.with_jetstream(async |context| {
        let mut stream = context.get_stream(format!("OBJ_{BUCKET}")).await.expect("the bridge made the bucket");
        let mut config = stream.info().await.expect("it answers").config.clone();
        config.discard = async_nats::jetstream::stream::DiscardPolicy::Old;
        config.max_bytes = 3 << 20;
        context.update_stream(config).await.expect("an update");
    });
    assert_eq!(large(1, 5 << 20).post(bridge.deliveries).status, 503, "its first chunks make room for the last");
    assert_eq!(large(1, 5 << 20).post(bridge.deliveries).status, 503);
    assert_eq!(nats.bus.count(&bridge), 1, "no message leads to it");
}

#[test]
fn a_limit_that_is_lowered_sends_the_next_payload_to_the_object_store() {
    let Some(nats) = nats() else { return };
    let bridge = Bridge::ready(&nats.environment());
    assert_eq!(large(1, 500 << 10).post(bridge.deliveries).status, 200);
    assert_eq!(nats.objects(), 0);
    nats.with_jetstream(async |context| {
        let mut stream = context.get_stream(nats.bus.prefix()).await.expect("the bridge made the stream");
        let mut config = stream.info().await.expect("it answers").config.clone();
        config.max_message_size = 100 << 10;
        context.update_stream(config).await.expect("an update");
    });
    let response = large(2, 500 << 10).post(bridge.deliveries);
    assert_eq!((response.status, response.json()["outcome"].as_str()), (200, Some("kept")));
    let got = nats.bus.read(&bridge, &nats.bus.topic("daily"), 2).pop().expect("two");
    let body = large(2, 500 << 10).body;
    assert!(nats.object(&name(&got.attribute("id").unwrap(), &body)) == body);
}

#[test]
fn tail_follows_a_claim_check_and_says_what_is_wrong_with_one() {
    let Some(nats) = nats() else { return };
    let bridge = Bridge::ready(&nats.environment());
    let names = put_two(&bridge);
    nats.with_jetstream(async |context| {
        let store = context.get_object_store(BUCKET).await.expect("the bridge made the bucket");
        store.delete(&names[1]).await.expect("deleted");
    });
    let mut environment = nats.environment();
    environment.push(("TERRA_BRIDGE_LOG__FORMAT".into(), "json".into()));
    let mut command = command();
    command.args(["tail", "--from", "earliest", "--json"]).envs(environment.iter().map(|(name, value)| (name, value)));
    let mut tail = command.stdout(std::process::Stdio::piped()).spawn().expect("the binary starts");
    let lines = std::io::BufRead::lines(std::io::BufReader::new(tail.stdout.take().expect("a pipe")));
    let records: Vec<serde_json::Value> =
        lines.take(2).map(|line| serde_json::from_str(&line.expect("a line")).expect("JSON")).collect();
    tail.kill().expect("the child is ours");
    tail.wait().expect("the child is ours");
    assert!(records[0]["payload"].as_str().expect("a payload").as_bytes() == large(0, 2 << 20).body);
    assert_eq!(records[1]["problem"], "the object is not there");
    let (code, said) = run(&["tail", "--from", "earliest", "--limit", "2"], &environment);
    assert!(said.contains("problem the object is not there"), "people see it, too: {said}");
    assert_eq!(code, Some(0));
}

#[test]
fn tail_says_that_an_object_was_altered_and_goes_on() {
    let Some(nats) = nats() else { return };
    let bridge = Bridge::ready(&nats.environment());
    let names = put_two(&bridge);
    assert_eq!(small(2).post(bridge.deliveries).status, 200);
    nats.with_jetstream(async |context| {
        let store = context.get_object_store(BUCKET).await.expect("the bridge made the bucket");
        store.put(names[0].as_str(), &mut &b"something else"[..]).await.expect("replaced");
        // The second object's first chunk: one of three, after the first object's three and its name.
        let chunks = context.get_stream(format!("OBJ_{BUCKET}")).await.expect("the bucket's stream");
        chunks.delete_message(5).await.expect("deleted");
    });
    let arguments = ["tail", "--from", "earliest", "--limit", "3", "--json"];
    let (code, said) = run(&arguments, &nats.environment());
    assert_eq!(code, Some(0));
    let records: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for record in &records[..2] {
        assert_eq!(record["problem"], "the object is not what the message says");
        assert_eq!(record["payload"], "", "nothing of it is shown");
    }
    assert_eq!(records[2]["payload"].as_str().expect("a payload").as_bytes(), small(2).body);
}

#[test]
fn without_an_object_store_nothing_waits_behind_what_is_too_large() {
    let Some(nats) = nats() else { return };
    let bridge = Bridge::ready(&nats.bus.environment());
    let response = large(1, 2 << 20).post(bridge.deliveries);
    assert_eq!((response.status, response.json()["outcome"].as_str()), (503, Some("refused")));
    assert_eq!(small(1).post(bridge.deliveries).status, 200);
    for says in ["\"WARN\"", "\"ERROR\""] {
        until("it is said with the remedy", WITHIN, || {
            let log = bridge.log();
            log.lines().any(|line| line.contains(says) && line.contains("nats.object_store")).then_some(())
        });
    }
    let (code, said) = run(&["check", "--online"], &nats.bus.environment());
    assert!(said.contains("larger events get a 503") && said.contains("nats.object_store"), "{said}");
    assert_eq!(code, Some(1));
    let (_, said) = run(&["check", "--online"], &nats.environment());
    assert!(said.contains("larger payloads go to the object store"), "{said}");
}

#[test]
fn a_bucket_that_forgets_before_the_stream_takes_nothing() {
    let Some(nats) = nats() else { return };
    nats.with_jetstream(async |context| {
        let config = async_nats::jetstream::object_store::Config {
            bucket: BUCKET.to_owned(),
            max_age: Duration::from_secs(3600),
            ..Default::default()
        };
        context.create_object_store(config).await.expect("a bucket");
    });
    let bridge = Bridge::ready(&nats.environment());
    assert_eq!(large(1, 2 << 20).post(bridge.deliveries).status, 503);
    assert_eq!(small(1).post(bridge.deliveries).status, 200);
    until("an ERROR names the bucket", WITHIN, || {
        let log = bridge.log();
        log.lines().any(|line| line.contains("ERROR") && line.contains("OBJ_TERRA_LARGE")).then_some(())
    });
    let (code, said) = run(&["check", "--online"], &nats.environment());
    assert!(said.contains("keeps payloads for less time"), "{said}");
    assert_eq!(code, Some(1));
    // Fixed while the bridge runs.
    nats.with_jetstream(async |context| {
        let mut stream = context.get_stream("OBJ_TERRA_LARGE").await.expect("the bucket's stream");
        let mut config = stream.info().await.expect("it answers").config.clone();
        config.max_age = Duration::ZERO;
        context.update_stream(config).await.expect("an update");
    });
    until("it is kept", WITHIN, || (large(1, 2 << 20).post(bridge.deliveries).status == 200).then_some(()));
}

#[test]
fn a_bucket_in_memory_takes_nothing() {
    let Some(nats) = nats() else { return };
    nats.with_jetstream(async |context| {
        let config = async_nats::jetstream::object_store::Config {
            bucket: BUCKET.to_owned(),
            storage: async_nats::jetstream::stream::StorageType::Memory,
            ..Default::default()
        };
        context.create_object_store(config).await.expect("a bucket");
    });
    let bridge = Bridge::ready(&nats.environment());
    let response = large(1, 2 << 20).post(bridge.deliveries);
    assert_eq!(response.status, 503, "a restart of the server would lose it");
    assert_eq!(small(1).post(bridge.deliveries).status, 200);
    until("an ERROR names the bucket", WITHIN, || {
        let log = bridge.log();
        log.lines().any(|line| line.contains("ERROR") && line.contains(BUCKET) && line.contains("memory")).then_some(())
    });
    let (code, said) = run(&["check", "--online"], &nats.environment());
    assert!(said.contains("object store TERRA_LARGE") && said.contains("memory"), "{said}");
    assert_eq!(code, Some(1));
}

#[test]
fn a_stream_that_lacks_one_topic_still_takes_large_payloads_of_the_others() {
    let Some(nats) = nats() else { return };
    nats.with_jetstream(async |context| {
        let config = async_nats::jetstream::stream::Config {
            name: nats.bus.prefix().to_owned(),
            subjects: vec![nats.bus.topic("daily")],
            ..Default::default()
        };
        context.create_stream(config).await.expect("a stream that is not the bridge's own");
    });
    let bridge = Bridge::ready(&nats.environment());
    assert_eq!(small(1).post(bridge.deliveries).status, 200);
    until("the bucket is there, and takes it", WITHIN, || {
        (large(1, 2 << 20).post(bridge.deliveries).status == 200).then_some(())
    });
}

#[test]
fn a_bucket_that_is_deleted_is_made_again_and_takes_the_retry() {
    let Some(nats) = nats() else { return };
    let bridge = Bridge::ready(&nats.environment());
    assert_eq!(large(1, 2 << 20).post(bridge.deliveries).status, 200);
    nats.with_jetstream(async |context| context.delete_object_store(BUCKET).await.expect("deleted"));
    let begun = std::time::Instant::now();
    assert_eq!(large(2, 2 << 20).post(bridge.deliveries).status, 503);
    until("it is kept", WITHIN, || (large(2, 2 << 20).post(bridge.deliveries).status == 200).then_some(()));
    assert!(begun.elapsed() < Duration::from_secs(20), "sooner than the next look: {:?}", begun.elapsed());
}

#[test]
fn the_documented_rights_are_enough_for_a_claim_check_and_for_tail() {
    let rights = |bucket: &str| {
        format!(
            "max_payload: 1MB\nauthorization {{ users: [ {{ user: bridge, password: secret, permissions: {{ \
             publish: [\"*.*\", \"$JS.API.>\"{bucket}], subscribe: [\"_INBOX.>\"] }} }} ] }}\n"
        )
    };
    let Some(broker) = Broker::nats_with(&rights(", \"$O.TERRA_LARGE.>\"")) else { return };
    let server = format!("nats://127.0.0.1:{}", broker.port());
    let nats = Nats { bus: Bus::nats_at(server.clone()), broker, server };
    let mut environment = nats.environment();
    let login = [("USER", "bridge"), ("PASSWORD", "env:SECRET")];
    environment.extend(login.map(|(name, value)| (format!("TERRA_BRIDGE_NATS__{name}"), value.to_owned())));
    environment.push(("SECRET".into(), "secret".into()));
    let bridge = Bridge::ready(&environment);
    let attempt = large(1, 2 << 20);
    assert_eq!(attempt.post(bridge.deliveries).status, 200);
    let (code, said) = run(&["tail", "--from", "earliest", "--limit", "1", "--json"], &environment);
    assert_eq!(code, Some(0), "{said}");
    let record: serde_json::Value = serde_json::from_str(said.trim()).expect("JSON");
    assert!(record["payload"].as_str().expect("a payload").as_bytes() == attempt.body, "{}", record["headers"]);
    nats.broker.reload(&rights(""));
    until("an ERROR names the right that is gone", WITHIN, || {
        let _ = large(2, 2 << 20).post(bridge.deliveries);
        let log = bridge.log();
        log.lines().any(|line| line.contains("ERROR") && line.contains("$O.BUCKET.>")).then_some(())
    });
    assert_eq!(small(1).post(bridge.deliveries).status, 200);
}

#[test]
fn a_kafka_topic_that_takes_less_is_named_at_the_start_and_nothing_waits_behind() {
    let Some(bus) = Bus::kafka() else { return };
    let mut environment = bus.environment();
    environment.push(("TERRA_BRIDGE_KAFKA__TOPIC_CONFIG".into(), r#"{ "max.message.bytes" = 100000 }"#.into()));
    let bridge = Bridge::ready(&environment);
    until("a WARN names the topics", WITHIN, || {
        let (log, topic) = (bridge.log(), bus.topic("daily"));
        log.lines()
            .any(|line| line.contains("\"WARN\"") && line.contains("server.max_body") && line.contains(&topic))
            .then_some(())
    });
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b' ' + ((state >> 33) % 90) as u8)
    };
    let noise: String = (0..300_000).map(|_| noise()).collect();
    let noisy = Attempt::of(serde_json::json!({"type": "daily", "user": {"user_id": "u"}, "data": noise}).to_string());
    assert_eq!(noisy.post(bridge.deliveries).status, 503);
    assert_eq!(small(1).post(bridge.deliveries).status, 200);
    let alike = Attempt::of(format!(r#"{{"type":"daily","user":{{"user_id":"u"}},"data":"{}"}}"#, "x".repeat(5 << 20)));
    assert_eq!(alike.post(bridge.deliveries).status, 200, "it is compressed before it is measured");
    let got = bus.read(&bridge, &bus.topic("daily"), 2);
    assert!(got[1].payload == alike.body);
    raise(&bus, "1000000");
    until("it is kept without a restart", WITHIN, || (noisy.post(bridge.deliveries).status == 200).then_some(()));
    assert!(bus.read(&bridge, &bus.topic("daily"), 3)[2].payload == noisy.body);
}

/// `max.message.bytes` of the topic of daily events.
fn raise(bus: &Bus, bytes: &str) {
    use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
    use rdkafka::client::DefaultClientContext;
    let Bus::Kafka { brokers, .. } = bus else { unreachable!("this test is Kafka's") };
    let (topic, mut client) = (bus.topic("daily"), rdkafka::ClientConfig::new());
    let admin: AdminClient<DefaultClientContext> = client.set("bootstrap.servers", brokers).create().expect("a client");
    let altered = [AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("max.message.bytes", bytes)];
    let options = AdminOptions::new().request_timeout(Some(WITHIN));
    let results = runtime().block_on(admin.alter_configs(&altered, &options)).expect("an answer");
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}
