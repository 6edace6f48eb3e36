//! How much of a large historical request has arrived, as the command reads it from the bus.

use std::io::{BufRead, BufReader};
use std::process::{Child, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};

use crate::commands::{beside, err, out, run};
use crate::support::bridge::{Bridge, command, signal};
use crate::support::brokers::Broker;
use crate::support::consumers::{Bus, runtime};
use crate::support::store::{Answer, Store};
use crate::support::terra::Attempt;
use crate::support::{unique, until};

const WITHIN: Duration = Duration::from_secs(30);

on_every_bus!(
    what_arrived_is_compared_with_what_was_announced,
    those_who_follow_see_a_request_stall_and_the_rest_arrive,
    endpoints_with_routes_of_their_own_have_requests_of_their_own
);

/// Two replicas, if a bus supports more than one.
struct Replicas(Vec<Bridge>);

impl Replicas {
    /// Waits for every topic: a bridge is ready before Kafka has created them all.
    fn of(bus: &Bus) -> Self {
        let count = if matches!(bus, Bus::Embedded { .. }) { 1 } else { 2 };
        let replicas = Self((0..count).map(|_| Bridge::ready(&bus.environment())).collect());
        let environment = beside(bus, &replicas.0[0]);
        let all = |asked: &Output| asked.status.success() && !err(asked).contains("left out");
        let asked = || all(&run(&["requests"], &environment)).then_some(());
        until("every topic can be read", WITHIN, asked);
        replicas
    }

    fn deliver(&self, nth: usize, attempt: &Attempt) {
        assert_eq!(attempt.post(self.0[nth % self.0.len()].deliveries).status, 200);
    }
}

fn processing(reference: &str) -> Attempt {
    announcement(json!({"type": "large_request_processing", "status": "processing"}), reference)
}

fn sending(reference: &str, expected: impl Into<Value>) -> Attempt {
    announcement(json!({"type": "large_request_sending", "expected_payloads": expected.into()}), reference)
}

fn announcement(mut body: Value, reference: &str) -> Attempt {
    body["reference"] = reference.into();
    body["message"] = "made up".into();
    body["user"] = json!({"user_id": "u-1", "provider": "POLAR"});
    Attempt::of(body.to_string()).header("terra-reference", reference).header("x-terra-trace-id", &unique())
}

fn chunk(reference: &str, event_type: &str, n: u32) -> Attempt {
    let body = json!({"type": event_type, "user": {"user_id": "u-1", "provider": "POLAR"}, "data": [{"n": n}]});
    let trace = format!("trace of {reference}:chunk:{n}");
    Attempt::of(body.to_string()).header("terra-reference", reference).header("x-terra-trace-id", &trace)
}

fn objects(arguments: &[&str], environment: &[(String, String)]) -> Vec<Value> {
    let output = run(&[&["requests", "--json"], arguments].concat(), environment);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    out(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn of<'a>(all: &'a [Value], reference: &str) -> &'a Value {
    let found: Vec<_> = all.iter().filter(|request| request["reference"] == reference).collect();
    assert_eq!(found.len(), 1, "{reference}: {all:?}");
    found[0]
}

fn what_arrived_is_compared_with_what_was_announced(bus: &Bus) {
    let replicas = Replicas::of(bus);
    let environment = beside(bus, &replicas.0[0]);
    assert_eq!(objects(&[], &environment), Vec::<Value>::new(), "nothing is kept");
    // Payloads before their announcement, out of order, some lost, some twice.
    for (nth, n) in [12, 1, 9, 5, 4, 2, 11, 6, 10].into_iter().enumerate() {
        replicas.deliver(nth, &chunk("half done %41", if n % 2 == 0 { "daily" } else { "sleep" }, n));
    }
    let copy = chunk("half done %41", "sleep", 5);
    replicas.deliver(0, &copy);
    replicas.deliver(1, &copy);
    replicas.deliver(0, &sending("half done %41", 12).header("x-terra-ordering-timestamp", "1784012470001"));
    replicas.deliver(1, &sending("half done %41", 15).header("x-terra-ordering-timestamp", "1784012470000"));
    replicas.deliver(1, &processing("half done %41"));
    replicas.deliver(1, &sending("done", "2"));
    replicas.deliver(0, &chunk("done", "body", 1));
    replicas.deliver(1, &chunk("done", "brand.new", 0));
    replicas.deliver(0, &processing("assembled"));
    replicas.deliver(0, &chunk("forgotten", "daily", 3));
    let single = Attempt::of(r#"{"type":"daily","user":{"user_id":"u-2"}}"#).header("terra-reference", "single");
    replicas.deliver(0, &single);

    let all = objects(&[], &environment);
    assert_eq!(all.len(), 4, "{all:?}");
    let half = of(&all, "half done %41");
    assert_eq!((&half["state"], &half["arrived"], &half["expected"]), (&"sending".into(), &9.into(), &12.into()));
    assert_eq!((&half["missing"], &half["missing_chunks"]), (&3.into(), &json!([[3, 3], [7, 8]])));
    assert_eq!((&half["provider"], &half["endpoint"]), (&"POLAR".into(), &"terra".into()));
    let time = |name: &str| half[name].as_str().expect(name).parse::<jiff::Timestamp>().expect("a time");
    assert!(time("first_arrival") < time("last_arrival") && time("last_arrival") < jiff::Timestamp::now());
    let done = of(&all, "done");
    assert_eq!((&done["state"], &done["arrived"], &done["missing"]), (&"finished".into(), &2.into(), &0.into()));
    let assembled = of(&all, "assembled");
    assert_eq!((&assembled["state"], &assembled["expected"]), (&"processing".into(), &Value::Null));
    assert_eq!(of(&all, "forgotten")["state"], "unannounced");

    let stalled = objects(&["--stalled-after", "1ms"], &environment);
    assert_eq!(of(&stalled, "half done %41")["state"], "stalled");
    assert_eq!(of(&stalled, "done")["state"], "finished");
    let single = objects(&["--reference", "single"], &environment);
    assert_eq!((single.len(), of(&single, "single")["arrived"].as_u64()), (1, Some(1)));

    let output = run(&["requests"], &environment);
    let line = out(&output).lines().find(|line| line.contains("half done")).expect("a line").to_owned();
    assert!(line.contains("█████████░░░ 9/12") && line.ends_with("3, 7-8"), "{line}");
    let output = run(&["requests", "--reference", "nobody's"], &environment);
    assert_eq!((output.status.code(), out(&output).as_str()), (Some(0), ""));
    assert!(err(&output).contains("no such request"), "{}", err(&output));
    let got = &bus.read(&replicas.0[0], &bus.topic("body"), 1)[0];
    assert_eq!(got.attribute("terrachunk").as_deref(), Some("1"));
    let said: String = replicas.0.iter().map(|bridge| bridge.log() + &bridge.metrics()).collect();
    assert!(!said.contains("half done"), "no reference in logs and metrics");
}

/// The command with `--follow`, and the lines that it printed.
struct Following(Child, Arc<Mutex<Vec<String>>>);

impl Following {
    fn start(arguments: &[&str], environment: &[(String, String)]) -> Self {
        let mut command = command();
        command.args(["requests", "--follow"]).args(arguments).stdout(Stdio::piped());
        let mut child = command.envs(environment.iter().cloned()).spawn().expect("the binary starts");
        let (lines, from) = (Arc::new(Mutex::new(Vec::new())), child.stdout.take().expect("it is piped"));
        let gathered = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                gathered.lock().unwrap().push(line);
            }
        });
        Self(child, lines)
    }

    fn says(&self, what: &str) {
        let says = || self.1.lock().unwrap().iter().any(|line| line.contains(what)).then_some(());
        until(&format!("the line `{what}`"), WITHIN, says);
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        if std::thread::panicking() {
            eprintln!("it said: {:#?}", self.1.lock().unwrap());
        }
    }
}

fn those_who_follow_see_a_request_stall_and_the_rest_arrive(bus: &Bus) {
    let replicas = Replicas::of(bus);
    let environment = beside(bus, &replicas.0[0]);
    replicas.deliver(0, &sending("r", 4));
    replicas.deliver(0, &chunk("r", "daily", 0));
    replicas.deliver(1, &chunk("r", "sleep", 2));
    let mut following = Following::start(&["--stalled-after", "3s"], &environment);
    following.says("r  POLAR  terra  stalled  2/4  missing 1, 3");
    replicas.deliver(1, &chunk("r", "sleep", 1));
    following.says("r  POLAR  terra  sending  3/4  missing 3");
    replicas.deliver(0, &chunk("r", "sleep", 1));
    replicas.deliver(0, &chunk("r", "daily", 3));
    following.says("r  POLAR  terra  finished  4/4");
    replicas.deliver(0, &processing("another"));
    following.says("another  POLAR  terra  processing  0/?");
    let lines = following.1.lock().unwrap().clone();
    assert_eq!(lines.iter().filter(|line| line.contains("3/4")).count(), 1, "a copy is no change: {lines:?}");
    signal(following.0.id(), "INT");
    let ended = until("it ends", WITHIN, || following.0.try_wait().expect("the child is ours"));
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn who_follows_in_json_gets_an_object_a_line_for_what_is_there_and_for_each_change() {
    let bus = Bus::embedded().expect("needs no broker");
    let replicas = Replicas::of(&bus);
    replicas.deliver(0, &sending("r", 2));
    replicas.deliver(0, &chunk("r", "daily", 0));
    let following = Following::start(&["--json"], &beside(&bus, &replicas.0[0]));
    following.says(r#""arrived":1"#);
    replicas.deliver(0, &chunk("r", "daily", 1));
    following.says(r#""state":"finished""#);
    let lines = following.1.lock().unwrap().clone();
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let told: Vec<_> = lines.iter().map(|line| (line["state"].as_str().unwrap(), line["arrived"].as_u64())).collect();
    assert_eq!(told, [("sending", Some(1)), ("finished", Some(2))]);
    for line in &lines {
        assert_eq!(
            (&line["reference"], &line["endpoint"], &line["expected"]),
            (&"r".into(), &"terra".into(), &2.into())
        );
        assert_eq!(line.as_object().expect("an object").len(), 11);
    }
}

fn endpoints_with_routes_of_their_own_have_requests_of_their_own(bus: &Bus) {
    let environment = bus.environment_with(&[
        ("ENDPOINTS__TERRA__PATH", "/terra"),
        ("ENDPOINTS__STAGING__PATH", "/staging"),
        ("ENDPOINTS__STAGING__SECRETS", "env:TERRA_SIGNING_SECRET"),
        ("ENDPOINTS__STAGING__ROUTES__TEMPLATE", &bus.topic("{endpoint}.{type}")),
        ("ENDPOINTS__STAGING__ROUTES__UNKNOWN", &bus.topic("strangers")),
        ("ENDPOINTS__STAGING__ROUTES__TYPES", &format!("{{ sleep = {:?} }}", bus.topic("nights"))),
        ("ROUTES__TYPES", &format!("{{ daily = {:?} }}", bus.topic("days"))),
    ]);
    let bridge = Bridge::ready(&environment);
    let mut environment = environment;
    environment.retain(|(name, _)| !name.ends_with("__LISTEN"));
    environment.extend(beside(bus, &bridge).into_iter().filter(|(name, _)| name.ends_with("__LISTEN")));
    let deliver = |path: &str, attempt: Attempt| {
        let reply = attempt.path(path).post(bridge.deliveries);
        assert_eq!((reply.status, &reply.json()["outcome"]), (200, &"kept".into()));
    };
    // The same reference at both.
    deliver("/terra", sending("r", 2));
    deliver("/terra", chunk("r", "daily", 0));
    deliver("/staging", sending("r", 3));
    for (n, event_type) in ["daily", "sleep", "brand.new"].into_iter().enumerate() {
        deliver("/staging", chunk("r", event_type, n as u32));
    }
    for topic in ["days", "staging.daily", "nights", "strangers"] {
        bus.read(&bridge, &bus.topic(topic), 1);
    }
    let mut all = objects(&[], &environment);
    all.sort_by_key(|request| request["endpoint"].to_string());
    let told: Vec<_> = all.iter().map(|of| (of["endpoint"].as_str().unwrap(), of["state"].as_str().unwrap())).collect();
    assert_eq!(told, [("staging", "finished"), ("terra", "sending")]);
    assert_eq!((&all[0]["arrived"], &all[1]["arrived"]), (&3.into(), &1.into()));
}

#[test]
fn links_count_followed_or_not_and_dead_letters_do_not() {
    let bus = Bus::embedded().expect("needs no broker");
    let store = Store::start();
    let mut environment = bus.environment();
    environment.extend(store.environment());
    let bridge = Bridge::ready(&environment);
    let linked = |n: u32, url: &str| {
        let body = json!({"type": "s3_payload", "status": "success", "url": url, "expires_in": 300});
        chunk("r", "s3_payload", n).body(body.to_string())
    };
    let daily = r#"{"type":"daily","user":{"user_id":"u-1","provider":"POLAR"},"data":[]}"#;
    let outcome = |attempt: &Attempt| attempt.post(bridge.deliveries).json()["outcome"].clone();
    assert_eq!(outcome(&sending("r", 4)), "kept");
    assert_eq!(outcome(&chunk("r", "daily", 0)), "kept");
    assert_eq!(outcome(&linked(1, &store.hold("/1", [Answer::json(daily)]))), "kept");
    assert_eq!(outcome(&linked(2, &store.link("/missing"))), "kept");
    assert_eq!(outcome(&linked(3, &store.hold("/3", [Answer::json("<Error/>")]))), "dead_lettered");
    for (topic, n, fetched) in [("daily", 1, Some("true")), ("s3_payload", 0, None)] {
        let got = &bus.read(&bridge, &bus.topic(topic), n + 1)[n];
        let number = if fetched.is_some() { "1" } else { "2" };
        assert_eq!(
            (got.attribute("terrafetched").as_deref(), got.attribute("terrachunk").as_deref()),
            (fetched, Some(number))
        );
    }
    let all = objects(&[], &beside(&bus, &bridge));
    let request = of(&all, "r");
    assert_eq!((&request["state"], &request["arrived"]), (&"sending".into(), &3.into()), "{request}");
    // Whether 3 or 4 is missing is unknown, because the first number is unknown.
    assert_eq!(request["missing"], 1);
}

#[test]
fn a_request_with_a_type_that_is_dropped_never_finishes() {
    let bus = Bus::embedded().expect("needs no broker");
    let dropping = ("TERRA_BRIDGE_ROUTES__TYPES".to_owned(), "{ sleep = false }".to_owned());
    let bridge = Bridge::ready(&[bus.environment(), vec![dropping.clone()]].concat());
    let outcome = |attempt: &Attempt| attempt.post(bridge.deliveries).json()["outcome"].clone();
    assert_eq!(outcome(&sending("r", 2)), "kept");
    assert_eq!(outcome(&chunk("r", "daily", 0)), "kept");
    assert_eq!(outcome(&chunk("r", "sleep", 1)), "dropped");
    let environment = [beside(&bus, &bridge), vec![dropping]].concat();
    let all = objects(&["--stalled-after", "1ms"], &environment);
    assert_eq!((&of(&all, "r")["state"], &of(&all, "r")["arrived"]), (&"stalled".into(), &1.into()));
}

#[test]
fn a_group_of_kafka_stays_where_it_is() {
    let Some(bus) = Bus::kafka() else { return };
    let Bus::Kafka { brokers, .. } = &bus else { panic!("it is Kafka") };
    let replicas = Replicas::of(&bus);
    replicas.deliver(0, &sending("r", 3));
    (0..3).for_each(|n| replicas.deliver(n as usize, &chunk("r", "daily", n)));
    let member = |group: &str| -> rdkafka::consumer::BaseConsumer {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("group.id", group).set("enable.auto.commit", "false");
        config.create().expect("a consumer")
    };
    let (topic, group) = (bus.topic("daily"), unique());
    let mut place = TopicPartitionList::new();
    place.add_partition_offset(&topic, 0, Offset::Offset(1)).expect("an offset");
    let consumer = member(&group);
    consumer.commit(&place, CommitMode::Sync).expect("a commit");
    assert_eq!(objects(&[], &beside(&bus, &replicas.0[0]))[0]["state"], "finished");
    let committed = |of: &rdkafka::consumer::BaseConsumer| {
        let mut asked = TopicPartitionList::new();
        asked.add_partition(&topic, 0);
        let found = of.committed_offsets(asked, WITHIN).expect("an answer");
        found.find_partition(&topic, 0).expect("it was asked for").offset()
    };
    assert_eq!(committed(&consumer), Offset::Offset(1));
    assert_eq!(committed(&member("terra-bridge-tail")), Offset::Invalid, "nor did the command leave a place");
}

/// A transaction marker takes an offset but is not a record.
#[test]
fn partitions_that_end_in_the_mark_of_a_transaction_are_read_to_their_end_at_once() {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let Some(broker) = Broker::kafka() else { return };
    let brokers = format!("127.0.0.1:{}", broker.port());
    let bus = Bus::kafka_at(brokers.clone());
    let replicas = Replicas::of(&bus);
    replicas.deliver(0, &sending("r", 2));
    replicas.deliver(0, &chunk("r", "daily", 0));
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &brokers).set("transactional.id", unique());
    let producer: BaseProducer = config.create().expect("a producer");
    producer.init_transactions(WITHIN).expect("a coordinator");
    producer.begin_transaction().expect("begun");
    for topic in ["daily", "sleep", "large_request_sending"] {
        let topic = bus.topic(topic);
        producer.send(BaseRecord::<str, str>::to(&topic).partition(0).payload("of another program")).expect("room");
    }
    producer.flush(WITHIN).expect("sent");
    producer.commit_transaction(WITHIN).expect("committed");
    let began = Instant::now();
    let all = objects(&[], &beside(&bus, &replicas.0[0]));
    assert_eq!((&of(&all, "r")["arrived"], &of(&all, "r")["expected"]), (&1.into(), &2.into()));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[test]
fn a_durable_consumer_of_nats_stays_where_it_is() {
    use async_nats::jetstream::consumer::pull;
    use futures_util::StreamExt;
    let Some(bus) = Bus::nats() else { return };
    let Bus::Nats { server, prefix } = &bus else { panic!("it is NATS") };
    let replicas = Replicas::of(&bus);
    replicas.deliver(0, &sending("r", 3));
    (0..3).for_each(|n| replicas.deliver(n as usize, &chunk("r", "daily", n)));
    let place = |info: &async_nats::jetstream::consumer::Info| {
        (info.delivered.stream_sequence, info.ack_floor.stream_sequence, info.num_ack_pending, info.num_pending)
    };
    let (runtime, environment) = (runtime(), beside(&bus, &replicas.0[0]));
    let (stream, mut consumer, before) = runtime.block_on(async {
        let client = async_nats::connect(server).await.expect("NATS answers");
        let stream = async_nats::jetstream::new(client).get_stream(prefix).await.expect("the bridge made it");
        let config = pull::Config { durable_name: Some("scores".to_owned()), ..pull::Config::default() };
        let mut consumer = stream.create_consumer(config).await.expect("a consumer");
        let message = consumer.fetch().max_messages(1).messages().await.expect("messages").next().await;
        message.expect("a message").expect("a message").double_ack().await.expect("an ack");
        let before = place(consumer.info().await.expect("an answer"));
        (stream, consumer, before)
    });
    assert_eq!(objects(&[], &environment)[0]["state"], "finished");
    runtime.block_on(async {
        assert_eq!(place(consumer.info().await.expect("an answer")), before);
        let durable: Vec<_> = stream.consumers().map(|found| found.expect("it").config.durable_name).collect().await;
        assert_eq!(durable.into_iter().flatten().collect::<Vec<_>>(), ["scores"], "nor did the command leave one");
    });
}

#[test]
fn a_chunk_too_large_for_nats_counts_even_where_its_payload_is_gone() {
    const BUCKET: &str = "TERRA_CHUNKS";
    let Some(broker) = Broker::nats_that_takes("1MB") else { return };
    let server = format!("nats://127.0.0.1:{}", broker.port());
    let bus = Bus::nats_at(server.clone());
    let with_bucket = |mut environment: Vec<(String, String)>| {
        environment.push(("TERRA_BRIDGE_NATS__OBJECT_STORE".into(), BUCKET.into()));
        environment
    };
    let bridge = Bridge::ready(&with_bucket(bus.environment()));
    assert_eq!(sending("r", 2).post(bridge.deliveries).status, 200);
    let mut large = chunk("r", "daily", 1);
    large.body = json!({"type": "daily", "data": ["x".repeat(2 << 20)]}).to_string().into();
    assert_eq!(large.post(bridge.deliveries).status, 200);
    runtime().block_on(async {
        let client = async_nats::connect(&server).await.expect("NATS answers");
        async_nats::jetstream::new(client).delete_object_store(BUCKET).await.expect("the bridge made the bucket");
    });
    let all = objects(&[], &with_bucket(beside(&bus, &bridge)));
    assert_eq!((&of(&all, "r")["arrived"], &of(&all, "r")["expected"]), (&1.into(), &2.into()));
}

#[test]
fn a_request_that_is_sent_for_a_try_is_finished() {
    let bus = Bus::embedded().expect("needs no broker");
    let bridge = Bridge::ready(&bus.environment());
    let environment = beside(&bus, &bridge);
    let output = run(&["send", "--large-request", "12"], &environment);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let all = objects(&[], &environment);
    assert_eq!((all.len(), &all[0]["state"], &all[0]["arrived"]), (1, &"finished".into(), &12.into()), "{all:?}");
    assert_eq!(run(&["send", "--large-request", "12", "--count", "2"], &environment).status.code(), Some(2));
}

#[test]
fn what_cannot_be_read_has_an_exit_code() {
    let nowhere = [("TERRA_BRIDGE_EMBEDDED__LISTEN".to_owned(), "127.0.0.1:1".to_owned())];
    let output = run(&["requests"], &nowhere);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("is the bridge running"), "{}", err(&output));
    let output = run(&["requests", "--stalled-after", "10"], &nowhere);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("has no unit"), "{}", err(&output));
}
