//! The topics and streams that are published to: as the bridge makes them, counted, and removed.

use std::time::Duration;

use async_nats::jetstream::{self, stream};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;

pub type Error = Box<dyn std::error::Error + Send + Sync>;

const PATIENCE: Duration = Duration::from_secs(30);
/// Of a topic, as `kafka.partitions` has it.
const PARTITIONS: i32 = 6;
/// Bytes: `server.max_body` and headers.
pub const LARGEST_MESSAGE: &str = "12845056";

/// Makes a topic where there is none of the name.
pub async fn create_topic(brokers: &str, topic: &str) -> Result<(), Error> {
    let new = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(-1)).set("max.message.bytes", LARGEST_MESSAGE);
    match &admin(brokers)?.create_topics([&new], &options()).await?[..] {
        [Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))] => Ok(()),
        other => Err(format!("no topic: {other:?}").into()),
    }
}

pub async fn remove_topics(brokers: &str, topics: &[&str]) -> Result<(), Error> {
    admin(brokers)?.delete_topics(topics, &options()).await?;
    Ok(())
}

/// Messages in a topic. Blocks.
pub fn count_topic(brokers: &str, topic: &str) -> Result<u64, Error> {
    let consumer: BaseConsumer = client(brokers).create()?;
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    let partitions = metadata.topics().first().ok_or("no topic")?.partitions();
    partitions.iter().try_fold(0, |count, partition| {
        let (low, high) = consumer.fetch_watermarks(topic, partition.id(), PATIENCE)?;
        Ok(count + u64::try_from(high - low)?)
    })
}

fn admin(brokers: &str) -> Result<AdminClient<DefaultClientContext>, Error> {
    Ok(client(brokers).create()?)
}

fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("metadata.broker.list", brokers);
    config
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE))
}

/// Makes a stream of these subjects where there is none of the name.
pub async fn create_stream(url: &str, name: &str, subjects: &str) -> Result<(), Error> {
    let config = stream::Config {
        name: name.into(),
        subjects: vec![subjects.into()],
        discard: stream::DiscardPolicy::New,
        max_age: Duration::from_secs(7 * 86400),
        duplicate_window: Duration::from_secs(2 * 3600),
        ..stream::Config::default()
    };
    jetstream(url).await?.get_or_create_stream(config).await?;
    Ok(())
}

pub async fn remove_stream(url: &str, name: &str) -> Result<(), Error> {
    jetstream(url).await?.delete_stream(name).await?;
    Ok(())
}

/// Messages in a stream.
pub async fn count_stream(url: &str, name: &str) -> Result<u64, Error> {
    Ok(jetstream(url).await?.get_stream(name).await?.cached_info().state.messages)
}

async fn jetstream(url: &str) -> Result<jetstream::Context, Error> {
    Ok(jetstream::new(async_nats::connect(url).await?))
}
