//! What an operator does to topics and streams: recreates them, limits them, removes them, looks up the leader.
//! Bypasses the proxies. Whatever the cluster refuses is retried until a deadline.

use std::time::Duration;

use async_nats::jetstream::{self, stream};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::Consumer;
use rdkafka::types::RDKafkaErrorCode;

use crate::cluster::node_name;
use crate::kinds::BusName;
use crate::settings::bucket;
use crate::support::consumers::{kafka_client, runtime};
use crate::support::until;

const DONE_WITHIN: Duration = Duration::from_secs(30);
const ASK: Duration = Duration::from_secs(5);
/// Bytes of a message with its headers while the limit is lowered.
const LOWERED: i32 = 3000;
/// The limit with which the bridge creates its topics.
const KAFKA_LIMIT: i32 = 12_845_056;

pub struct Admin {
    pub bus: BusName,
    /// The brokers' addresses, bypassing the proxies.
    pub directly: String,
    /// The prefix of all topics; on NATS the stream.
    pub prefix: String,
}

impl Admin {
    /// Deletes the topic, or on NATS the stream, and recreates it, unless the bridge is faster.
    pub fn remake(&self, topic: &str) {
        if self.bus.is_nats() {
            return self.remake_stream();
        }
        let admin = self.kafka();
        until("the topic is deleted", DONE_WITHIN, || {
            let deleted = runtime().block_on(admin.delete_topics(&[topic], &options())).ok()?;
            let gone = |result: &Result<_, (_, RDKafkaErrorCode)>| match result {
                Ok(_) => true,
                Err((_, code)) => *code == RDKafkaErrorCode::UnknownTopicOrPartition,
            };
            deleted.iter().all(gone).then_some(())
        });
        let limit = KAFKA_LIMIT.to_string();
        let replication = TopicReplication::Fixed(self.bus.brokers() as i32);
        let new = NewTopic::new(topic, 1, replication).set("max.message.bytes", &limit);
        until("the topic is made", DONE_WITHIN, || {
            let made = runtime().block_on(admin.create_topics([&new], &options())).ok()?;
            let there = |result: &Result<_, (_, RDKafkaErrorCode)>| match result {
                Ok(_) => true,
                Err((_, code)) => *code == RDKafkaErrorCode::TopicAlreadyExists,
            };
            made.iter().all(there).then_some(())
        });
    }

    fn remake_stream(&self) {
        let config = self.stream().config;
        until("the stream is deleted", DONE_WITHIN, || {
            self.jetstream(async |context| context.delete_stream(&self.prefix).await.ok()).map(|_| ())
        });
        until("the stream is made", DONE_WITHIN, || {
            let there = async |context: jetstream::Context| match context.create_stream(config.clone()).await {
                Ok(_) => Some(()),
                Err(_) => context.get_stream(&self.prefix).await.ok().map(|_| ()),
            };
            self.jetstream(there)
        });
    }

    /// Lowers the largest message that the topic, or on NATS the stream, accepts; or restores it.
    pub fn limit(&self, topic: &str, lowered: bool) {
        if self.bus.is_nats() {
            until("the stream's limit is changed", DONE_WITHIN, || {
                let max_message_size = if lowered { LOWERED } else { -1 };
                let config = stream::Config { max_message_size, ..self.try_stream()?.config };
                self.jetstream(async |context| context.update_stream(&config).await.ok()).map(|_| ())
            });
            return;
        }
        let limit = if lowered { LOWERED } else { KAFKA_LIMIT }.to_string();
        let admin = self.kafka();
        until("the topic's limit is changed", DONE_WITHIN, || {
            let config = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("max.message.bytes", &limit);
            let changed = runtime().block_on(admin.alter_configs([&config], &options())).ok()?;
            changed.iter().all(Result::is_ok).then_some(())
        });
    }

    /// Which broker leads the topic's partition, or the stream.
    pub fn leader(&self, topic: &str) -> usize {
        until("there is a leader", DONE_WITHIN, || {
            if self.bus.is_nats() {
                let leader = self.try_stream()?.cluster?.leader?;
                return (0..self.bus.brokers()).find(|node| node_name(*node) == leader);
            }
            let found = kafka_client(&self.directly).fetch_metadata(Some(topic), ASK).ok()?;
            let leader = found.topics().first()?.partitions().first()?.leader();
            usize::try_from(leader - 1).ok()
        })
    }

    /// Removes what a seed left behind.
    pub fn clean_up(&self) {
        if self.bus.is_nats() {
            self.jetstream(async |context| context.delete_stream(&self.prefix).await.ok());
            self.jetstream(async |context| context.delete_object_store(bucket(&self.prefix)).await.ok());
            return;
        }
        let Ok(found) = kafka_client(&self.directly).fetch_metadata(None, ASK) else { return };
        let names = found.topics().iter().map(|topic| topic.name());
        let ours: Vec<_> = names.filter(|name| name.starts_with(&self.prefix)).collect();
        let _ = runtime().block_on(self.kafka().delete_topics(&ours, &options()));
    }

    pub fn stream(&self) -> stream::Info {
        until("the stream answers", DONE_WITHIN, || self.try_stream())
    }

    fn try_stream(&self) -> Option<stream::Info> {
        self.jetstream(async |context| Some(context.get_stream(&self.prefix).await.ok()?.cached_info().clone()))
    }

    /// `None` also if no server answers in time.
    pub fn jetstream<T>(&self, ask: impl AsyncFnOnce(jetstream::Context) -> Option<T>) -> Option<T> {
        runtime().block_on(async {
            let client = nats_client(&self.directly).await?;
            tokio::time::timeout(ASK, ask(jetstream::new(client))).await.ok().flatten()
        })
    }

    fn kafka(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.directly).create().expect("a plain client")
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ASK)).operation_timeout(Some(ASK))
}

/// Uses only the listed servers, because the servers advertise the proxies.
pub async fn nats_client(servers: &str) -> Option<async_nats::Client> {
    let options = async_nats::ConnectOptions::new().ignore_discovered_servers().request_timeout(Some(ASK));
    let servers: Vec<&str> = servers.split(',').collect();
    tokio::time::timeout(ASK, options.connect(&servers[..])).await.ok()?.ok()
}
