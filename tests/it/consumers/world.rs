//! A broker, a bridge that publishes there, and one program that reads.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tempfile::TempDir;
use terra_bridge::samples::SAMPLES;

use super::programs::Start;
use super::tables::Tables;
use crate::support::bridge::{self, Bridge};
use crate::support::brokers::Broker;
use crate::support::consumers::{Bus, Got, runtime};
use crate::support::expected::{Meaning, Sent};
use crate::support::terra::now;
use crate::support::{needed, unique, until};

/// Of a program, after SIGTERM.
const STOPS_WITHIN: Duration = Duration::from_secs(30);
const BUCKET: &str = "TERRA_LARGE";
const GROUP: &str = "example";
/// Bytes: NATS' usual limit of one mebibyte makes this a claim check.
const LARGE: usize = 9 << 20;

pub struct World {
    bus: Bus,
    broker: Option<Broker>,
    bridge: Bridge,
    group: String,
    start: Start,
    dir: TempDir,
}

impl World {
    /// On the shared Kafka; `None` if this machine lacks something.
    pub fn kafka(start: Start) -> Option<Self> {
        Self::on(Bus::kafka()?, None, start)
    }

    /// On a NATS server with the usual message limit, and with an object store for what is larger.
    pub fn nats(start: Start) -> Option<Self> {
        let broker = Broker::nats_that_takes("1MB")?;
        Self::on(Bus::nats_at(format!("nats://127.0.0.1:{}", broker.port())), Some(broker), start)
    }

    fn on(bus: Bus, broker: Option<Broker>, start: Start) -> Option<Self> {
        let dir = TempDir::new().expect("a temporary directory");
        needed("TERRA_BRIDGE_TEST_PYTHON")?;
        start(dir.path())?;
        let object_store = broker.is_some().then_some(("NATS__OBJECT_STORE", BUCKET));
        let bridge = Bridge::ready(&bus.environment_with(&Vec::from_iter(object_store)));
        Some(Self { group: format!("{GROUP}-{}", unique()), bus, broker, bridge, start, dir })
    }

    pub fn is_kafka(&self) -> bool {
        self.broker.is_none()
    }

    pub fn database(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the program with this database.
    pub fn start(&self, database: &str) -> Program {
        let mut command = (self.start)(self.dir.path()).expect("it was there a moment ago");
        command.env("DATABASE", self.database(database)).env("GROUP", &self.group);
        match &self.bus {
            Bus::Kafka { brokers, .. } => {
                let names = SAMPLES.iter().map(|sample| sample.name).chain(["unknown", "dead-letter"]);
                let topics: Vec<_> = names.map(|name| self.bus.topic(name)).collect();
                command.env("KAFKA_BROKERS", brokers).env("TOPICS", topics.join(","))
            }
            Bus::Nats { server, prefix } => {
                command.env("NATS_URL", server).env("STREAM", prefix).env("TOPICS", self.bus.topic(">"))
            }
            Bus::Embedded { .. } => unreachable!("no program reads the embedded log"),
        };
        let output = self.dir.path().join("output");
        let file = File::create(&output).expect("the directory is ours");
        command.stdout(file.try_clone().expect("a second handle")).stderr(file);
        Program { child: command.spawn().expect("the program starts"), database: self.database(database), output }
    }

    /// Checks that a database has these tables, now that no program runs.
    pub fn expect(&self, database: &str, tables: &Tables) {
        if let Err(differences) = tables.await_in(&self.database(database), Duration::ZERO, || false) {
            panic!("{database}:{differences}");
        }
    }

    /// Every type, a stranger, retries that come late, copies, a large event, dead letters, and what is no event.
    pub fn deliver_everything(&self, tables: &mut Tables) {
        for sample in SAMPLES {
            self.deliver(&event(sample.body, Some(3000)), tables);
        }
        self.deliver(&event(r#"{"type":"brand.new","user":{"user_id":"ü 100%"},"data":[]}"#, Some(2000)), tables);
        self.deliver(&daily("retried", 20, Some(100)), tables);
        self.deliver(&daily("retried", 10, Some(200)), tables);
        self.deliver(&daily("unstamped", 20, None), tables);
        self.deliver(&daily("unstamped", 10, Some(50)), tables);
        self.deliver(&daily("stamped", 10, Some(50)), tables);
        self.deliver(&daily("stamped", 20, None), tables);
        let first = daily("copied", 1, Some(100));
        let mut second = daily("copied", 2, Some(100));
        second.ordered_at = first.ordered_at;
        let id = self.deliver(&first, tables);
        self.deliver(&second, tables);
        self.copy(&id);
        self.deliver(&large(), tables);
        for (body, reason) in [
            (&b"\xff\xfe"[..], "not-utf8"),
            (br#"{"type":"daily","#, "not-json"),
            (b"[]", "not-an-object"),
            (br#"{"no":"type"}"#, "no-type"),
        ] {
            let sent = Sent { meaning: Meaning::Unreadable(reason), ..daily("nobody", 0, None) };
            self.deliver(&Sent { body: body.to_vec(), ..sent }, tables);
        }
        let place = self.publish(&self.bus.topic("daily"), BTreeMap::new(), b"no event");
        tables.set_aside(&place, "not-an-event", b"no event");
        self.deliver(&daily("last", 1, Some(1)), tables);
    }

    pub fn deliver_one_more(&self, tables: &mut Tables) {
        self.deliver(&daily("one more", fastrand::u64(1..50_000), None), tables);
    }

    fn deliver(&self, sent: &Sent, tables: &mut Tables) -> String {
        let reply = sent.attempt().post(self.bridge.deliveries);
        assert_eq!((reply.status, reply.json()["outcome"].as_str()), (200, Some(sent.outcome())));
        let id = reply.json()["id"].as_str().expect("an id").to_owned();
        tables.deliver(sent, &id);
        id
    }

    /// Publishes a message of [`Self::deliver`] a second time, as after a receipt that was lost.
    fn copy(&self, id: &str) {
        let topic = self.bus.topic("daily");
        let is_it = |got: &Got| got.attribute("id").as_deref() == Some(id);
        let count = (1..).find(|count| is_it(self.bus.read(&self.bridge, &topic, *count).last().expect("it is there")));
        let got = self.bus.read(&self.bridge, &topic, count.expect("it is there")).pop().expect("it is there");
        let headers = got.headers.into_iter().filter(|(name, _)| !name.starts_with("nats-"));
        self.publish(&topic, headers.collect(), &got.payload);
    }

    /// Publishes without the bridge; returns where the message is: `topic/partition/offset`, or `stream/sequence`.
    fn publish(&self, topic: &str, headers: BTreeMap<String, String>, payload: &[u8]) -> String {
        match &self.bus {
            Bus::Kafka { brokers, .. } => runtime().block_on(async {
                let client = ClientConfig::new().set("bootstrap.servers", brokers).create::<FutureProducer>();
                let client = client.expect("a plain client");
                let headers = headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                    headers.insert(Header { key, value: Some(value) })
                });
                let key = "copied";
                let record = FutureRecord::to(topic).headers(headers).key(key).payload(payload);
                let kept = client.send(record, STOPS_WITHIN).await.expect("Kafka keeps it");
                format!("{topic}/{}/{}", kept.partition, kept.offset)
            }),
            Bus::Nats { server, .. } => runtime().block_on(async {
                let client = async_nats::connect(server).await.expect("NATS answers");
                let jetstream = async_nats::jetstream::new(client);
                let mut fields = async_nats::HeaderMap::new();
                headers.iter().for_each(|(name, value)| fields.insert(name.as_str(), value.as_str()));
                let kept = jetstream.publish_with_headers(topic.to_owned(), fields, payload.to_vec().into()).await;
                let kept = kept.expect("sent").await.expect("NATS keeps it");
                format!("{}/{}", kept.stream, kept.sequence)
            }),
            Bus::Embedded { .. } => unreachable!("no program reads the embedded log"),
        }
    }

    pub fn deliver_a_claim_check_whose_object_differs(&self) {
        let id = self.deliver(&large(), &mut Tables::default());
        self.with_jetstream(async |jetstream| {
            use futures_util::StreamExt;
            let store = jetstream.get_object_store(BUCKET).await.expect("the bridge made the bucket");
            let mut objects = store.list().await.expect("a list");
            while let Some(object) = objects.next().await {
                let name = object.expect("an object").name;
                if name.starts_with(&id) {
                    store.put(name.as_str(), &mut &b"another object"[..]).await.expect("stored");
                }
            }
        });
    }

    /// How many messages NATS has sent to the program without an acknowledgement.
    pub fn unacknowledged(&self) -> usize {
        self.with_jetstream(async |jetstream| {
            let stream = jetstream.get_stream(self.bus.prefix()).await.expect("the bridge made the stream");
            stream.consumer_info(&self.group).await.expect("the program made its consumer").num_ack_pending
        })
    }

    pub fn until_unacknowledged(&self, count: usize) {
        until("a message is with the program", STOPS_WITHIN, || (self.unacknowledged() == count).then_some(()));
    }

    fn with_jetstream<T>(&self, ask: impl AsyncFnOnce(async_nats::jetstream::Context) -> T) -> T {
        let Bus::Nats { server, .. } = &self.bus else { panic!("only NATS has a JetStream") };
        runtime().block_on(async {
            ask(async_nats::jetstream::new(async_nats::connect(server).await.expect("NATS answers"))).await
        })
    }
}

fn event(body: impl Into<String>, seconds_ago: Option<i64>) -> Sent {
    let body = body.into();
    let json: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let ordered_at = seconds_ago.map(|seconds| (now() - seconds) * 1000 + 7);
    Sent { trace: Some(unique()), ordered_at, ..Sent::new(body, (&json).into()) }
}

fn daily(user: &str, steps: u64, seconds_ago: Option<i64>) -> Sent {
    event(format!(r#"{{"type":"daily","user":{{"user_id":"{user}"}},"data":[{{"steps":{steps}}}]}}"#), seconds_ago)
}

/// A second one is another event, also within a second.
fn large() -> Sent {
    let filling: String = (0..LARGE).map(|at| char::from(b'0' + ((at * 7919 + at / 89) % 10) as u8)).collect();
    let n = fastrand::u64(..);
    event(format!(r#"{{"type":"daily","user":{{"user_id":"large"}},"n":{n},"data":["{filling}"]}}"#), Some(100))
}

/// A running program; killed when dropped.
pub struct Program {
    child: Child,
    database: PathBuf,
    output: PathBuf,
}

impl Program {
    /// Waits until its database has these tables.
    pub fn reaches(&mut self, tables: &Tables, within: Duration) {
        let runs = || self.child.try_wait().expect("the child is ours").is_none();
        if let Err(differences) = tables.await_in(&self.database, within, runs) {
            panic!("the tables:{differences}\nthe program said:\n{}", self.said());
        }
    }

    /// SIGTERM, after which it ends of itself, without an error.
    pub fn stop(mut self) {
        bridge::signal(self.child.id(), "TERM");
        let status = self.ends(STOPS_WITHIN);
        assert!(status.success(), "{status}:\n{}", self.said());
    }

    /// Waits until it ends of itself, with an error.
    pub fn fails(mut self, within: Duration) {
        let status = self.ends(within);
        assert!(status.code().is_some_and(|code| code != 0), "{status}:\n{}", self.said());
    }

    pub fn kill(mut self) {
        self.child.kill().expect("the child is ours");
    }

    fn ends(&mut self, within: Duration) -> std::process::ExitStatus {
        until("the program ends", within, || self.child.try_wait().expect("the child is ours"))
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
