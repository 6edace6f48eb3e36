//! The buses as their consumers see them, each through a stock client.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::bridge::Bridge;
use super::{http, needed, unique, until};

/// How long a consumer waits for an expected message.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);

/// One message as a consumer received it. Header names are in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    pub topic: String,
    pub key: Option<String>,
    pub headers: BTreeMap<String, String>,
    pub payload: Vec<u8>,
}

impl Got {
    /// A CloudEvents attribute, whatever prefix the binding uses; percent-decoded if the binding encodes.
    pub fn attribute(&self, name: &str) -> Option<String> {
        if let Some(value) = self.headers.get(&format!("ce_{name}")) {
            return Some(value.clone());
        }
        self.headers.get(&format!("ce-{name}")).map(|value| decoded(value))
    }
}

fn decoded(value: &str) -> String {
    percent_encoding::percent_decode_str(value).decode_utf8().expect("encoded UTF-8").into_owned()
}

/// A bus with topics, or a stream, of one test's own.
pub enum Bus {
    Kafka { brokers: String, prefix: String },
    Nats { server: String, prefix: String },
    Embedded { dir: tempfile::TempDir, prefix: String },
}

impl Bus {
    /// On the shared Kafka.
    pub fn kafka() -> Option<Self> {
        Some(Self::kafka_at(needed("TERRA_BRIDGE_TEST_KAFKA")?))
    }

    pub fn kafka_at(brokers: String) -> Self {
        Self::Kafka { brokers, prefix: unique() }
    }

    /// On the shared NATS.
    pub fn nats() -> Option<Self> {
        Some(Self::nats_at(needed("TERRA_BRIDGE_TEST_NATS")?))
    }

    pub fn nats_at(server: String) -> Self {
        Self::Nats { server, prefix: unique() }
    }

    pub fn embedded() -> Option<Self> {
        Some(Self::Embedded { dir: tempfile::TempDir::new().expect("a temporary directory"), prefix: unique() })
    }

    pub fn prefix(&self) -> &str {
        match self {
            Self::Kafka { prefix, .. } | Self::Nats { prefix, .. } | Self::Embedded { prefix, .. } => prefix,
        }
    }

    pub fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix())
    }

    /// The environment with which a bridge publishes here.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut environment = vec![
            ("ROUTES__TEMPLATE", format!("{}.{{type}}", self.prefix())),
            ("ROUTES__UNKNOWN", self.topic("unknown")),
            ("ROUTES__DEAD_LETTER", self.topic("dead-letter")),
        ];
        match self {
            Self::Kafka { brokers, .. } => environment.extend([
                ("BUS", "kafka".to_owned()),
                ("KAFKA__BROKERS", brokers.clone()),
                ("KAFKA__PARTITIONS", "1".to_owned()),
            ]),
            Self::Nats { server, prefix } => environment.extend([
                ("BUS", "nats".to_owned()),
                ("NATS__SERVERS", server.clone()),
                ("NATS__STREAM", prefix.clone()),
            ]),
            Self::Embedded { dir, .. } => environment.extend([
                ("EMBEDDED__DIR", dir.path().join("log").display().to_string()),
                ("EMBEDDED__LISTEN", "127.0.0.1:0".to_owned()),
            ]),
        }
        environment.into_iter().map(|(name, value)| (format!("TERRA_BRIDGE_{name}"), value)).collect()
    }

    /// The same with further settings, named as in the environment.
    pub fn environment_with(&self, settings: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut environment = self.environment();
        environment.extend(settings.iter().map(|(key, value)| (format!("TERRA_BRIDGE_{key}"), (*value).to_owned())));
        environment
    }

    /// The same for a bridge that fetches no links.
    pub fn forwarding(&self) -> Vec<(String, String)> {
        self.environment_with(&[("S3__MODE", "forward")])
    }

    /// An embedded log, and its bridge.
    pub fn embedded_with(settings: &[(&str, &str)]) -> (Self, Bridge) {
        let bus = Self::embedded().expect("needs no broker");
        let bridge = Bridge::ready(&bus.environment_with(settings));
        (bus, bridge)
    }

    /// The first `count` messages of a topic, in order.
    pub fn read(&self, bridge: &Bridge, topic: &str, count: usize) -> Vec<Got> {
        let got = self.take(bridge, topic, count);
        assert_eq!(got.len(), count, "messages on {topic}");
        got
    }

    /// The number of messages on all topics of this test.
    pub fn count(&self, bridge: &Bridge) -> usize {
        match self {
            Self::Kafka { brokers, prefix } => kafka_count(brokers, prefix),
            Self::Nats { server, prefix } => nats_count(server, prefix),
            Self::Embedded { .. } => embedded_count(bridge.reader()),
        }
    }

    fn take(&self, bridge: &Bridge, topic: &str, count: usize) -> Vec<Got> {
        match self {
            Self::Kafka { brokers, .. } => kafka_take(brokers, topic, count),
            Self::Nats { server, prefix } => nats_take(server, prefix, topic, count),
            Self::Embedded { .. } => embedded_take(bridge.reader(), topic, count),
        }
    }
}

pub fn kafka_client(brokers: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", unique())
        .set("enable.auto.commit", "false")
        .set("fetch.message.max.bytes", "20000000")
        .create()
        .expect("a plain client")
}

fn kafka_take(brokers: &str, topic: &str, count: usize) -> Vec<Got> {
    let consumer = kafka_client(brokers);
    let mut from = TopicPartitionList::new();
    let partitions = until("the topic has partitions", ARRIVES_WITHIN, || {
        let found = consumer.fetch_metadata(Some(topic), ARRIVES_WITHIN).ok()?;
        let ids: Vec<_> = found.topics().first()?.partitions().iter().map(|partition| partition.id()).collect();
        (!ids.is_empty()).then_some(ids)
    });
    for id in partitions {
        from.add_partition_offset(topic, id, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&from).expect("an assignment");
    let end = std::time::Instant::now() + ARRIVES_WITHIN;
    let mut got = Vec::new();
    while got.len() < count && std::time::Instant::now() < end {
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        got.push(kafka_got(&message.expect("a message")));
    }
    got
}

pub fn kafka_got(message: &impl Message) -> Got {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    Got {
        topic: message.topic().to_owned(),
        key: message.key().map(text),
        headers: headers.map(|header| (header.key.to_owned(), text(header.value.unwrap_or_default()))).collect(),
        payload: message.payload().unwrap_or_default().to_vec(),
    }
}

fn kafka_count(brokers: &str, prefix: &str) -> usize {
    let consumer = kafka_client(brokers);
    let metadata = consumer.fetch_metadata(None, ARRIVES_WITHIN).expect("metadata");
    let ours = metadata.topics().iter().filter(|topic| topic.name().starts_with(prefix));
    let partitions = ours.flat_map(|topic| topic.partitions().iter().map(|partition| (topic.name(), partition.id())));
    // A new partition may have no leader yet.
    let watermarks = |topic: &str, id| consumer.fetch_watermarks(topic, id, ARRIVES_WITHIN).ok();
    let ends = partitions.map(|(topic, id)| until("watermarks", ARRIVES_WITHIN, || watermarks(topic, id)));
    ends.map(|(low, high)| (high - low) as usize).sum()
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn nats_stream(server: &str, stream: &str) -> Option<async_nats::jetstream::stream::Stream> {
    let client = async_nats::connect(server).await.expect("NATS answers");
    async_nats::jetstream::new(client).get_stream(stream).await.ok()
}

fn nats_take(server: &str, stream: &str, subject: &str, count: usize) -> Vec<Got> {
    use async_nats::jetstream::consumer::pull;
    runtime().block_on(async {
        let stream = nats_stream(server, stream).await.expect("the bridge made the stream");
        let config = pull::Config { filter_subject: subject.to_owned(), ..pull::Config::default() };
        let consumer = stream.create_consumer(config).await.expect("an ephemeral consumer");
        let mut messages = consumer.messages().await.expect("messages");
        let mut got = Vec::new();
        while got.len() < count {
            let Ok(Some(message)) = tokio::time::timeout(ARRIVES_WITHIN, messages.next()).await else { break };
            let message = message.expect("a message");
            message.ack().await.expect("an ack");
            let headers = message.headers.clone().unwrap_or_default();
            got.push(nats_got(&message.subject, &headers, &message.payload));
        }
        got
    })
}

pub fn nats_got(subject: &str, headers: &async_nats::HeaderMap, payload: &[u8]) -> Got {
    let headers: BTreeMap<_, _> =
        headers.iter().map(|(name, values)| (name.to_string().to_lowercase(), values[0].to_string())).collect();
    let key = headers.get("ce-partitionkey").map(|key| decoded(key));
    Got { topic: subject.to_owned(), key, headers, payload: payload.to_vec() }
}

/// What the Python client reads at `BUCKET/OBJECT`; `None` without Python.
pub fn object_by_python(server: &str, dataref: &str) -> Option<Vec<u8>> {
    const READ: &str = "\
import asyncio, nats, sys
async def read(server, bucket, name):
    client = await nats.connect(server)
    store = await client.jetstream().object_store(bucket)
    sys.stdout.buffer.write((await asyncio.wait_for(store.get(name), 30)).data)
    await client.close()
asyncio.run(read(*sys.argv[1:]))";
    let python = needed("TERRA_BRIDGE_TEST_PYTHON")?;
    let object = dataref.strip_prefix("nats-object:").and_then(|object| object.split_once('/'));
    let (bucket, name) = object.expect("nats-object:BUCKET/OBJECT");
    let output = std::process::Command::new(python).args(["-c", READ, server, bucket, name]).output();
    let output = output.expect("Python runs");
    assert!(output.status.success(), "{}", output.stderr.escape_ascii());
    Some(output.stdout)
}

pub fn nats_count(server: &str, stream: &str) -> usize {
    runtime().block_on(async {
        match nats_stream(server, stream).await {
            Some(mut stream) => stream.info().await.expect("the stream answers").state.messages as usize,
            None => 0,
        }
    })
}

pub fn embedded_take(reader: SocketAddr, topic: &str, count: usize) -> Vec<Got> {
    embedded_from(reader, topic, "earliest", count)
}

pub fn embedded_from(reader: SocketAddr, topic: &str, from: impl std::fmt::Display, count: usize) -> Vec<Got> {
    let target = format!("/topics/{topic}/messages?from={from}&limit={count}");
    let response = http::get(reader, &target);
    assert_eq!(response.status, 200, "{}", response.body.escape_ascii());
    let lines = response.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| embedded_got(&serde_json::from_slice(line).expect("a JSON line"))).collect()
}

pub fn embedded_got(record: &serde_json::Value) -> Got {
    let payload = match &record["payload"] {
        serde_json::Value::String(text) => text.clone().into_bytes(),
        _ => {
            let text = record["payload_base64"].as_str().expect("a payload");
            data_encoding::BASE64.decode(text.as_bytes()).expect("base64")
        }
    };
    let headers = record["headers"].as_object().expect("headers").iter();
    Got {
        topic: record["topic"].as_str().expect("a topic").to_owned(),
        key: record["key"].as_str().map(str::to_owned),
        headers: headers.map(|(name, value)| (name.to_lowercase(), value.as_str().unwrap_or("").to_owned())).collect(),
        payload,
    }
}

fn embedded_count(reader: SocketAddr) -> usize {
    let topics = http::get(reader, "/topics").json();
    let topics = topics.as_array().or_else(|| topics["topics"].as_array()).expect("a list of topics").clone();
    topics.iter().map(|topic| topic["next"].as_u64().expect("next") as usize).sum()
}
