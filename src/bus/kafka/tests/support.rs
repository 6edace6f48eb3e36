//! What the tests of the adapter share. Those against a real broker need `TERRA_BRIDGE_TEST_KAFKA` to name one: elsewhere
//! they say that they were skipped, and fail where `CI` is set.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use tokio::sync::watch;

use super::super::client::{self, QueryContext};
use super::super::settings;
use super::super::status::{Status, TopicStatus};
use crate::bus::{Bus, ConnectionState, Payloads, Receipt, Record, Refusal, Setup, StartPosition, Step};
use crate::config;
use crate::message::Message;

/// Everything as it is by default.
pub(crate) fn config(brokers: &str) -> config::Kafka {
    config::Kafka {
        brokers: brokers.split(',').map(str::to_owned).collect(),
        username: None,
        password: None,
        sasl_mechanism: None,
        tls: config::Tls::default(),
        oauth: None,
        create_topics: true,
        partitions: 6,
        replication_factor: None,
        compression: config::Compression::Lz4,
        topic_config: BTreeMap::new(),
        properties: BTreeMap::new(),
    }
}

pub(crate) fn setup(publish_timeout: Duration, topics: &[&str]) -> Setup {
    Setup {
        topics: topics.iter().map(|topic| (*topic).into()).collect(),
        publish_timeout,
        max_body: 12 << 20,
        bytes_in_flight: 256 << 20,
    }
}

pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn broker(test: &str) -> Option<String> {
    let broker = std::env::var("TERRA_BRIDGE_TEST_KAFKA").ok();
    if broker.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{test}: CI is set and TERRA_BRIDGE_TEST_KAFKA is not");
        eprintln!("SKIPPED {test}: TERRA_BRIDGE_TEST_KAFKA names no broker (./tests/run starts one)");
    }
    broker
}

/// Whether nothing may go to this topic until somebody acts.
pub(super) fn is_refused(status: &Status, topic: &str) -> bool {
    matches!(status.topic(&topic.into()), Some(TopicStatus::Refused(_)))
}

/// A name that no other test or run has.
pub(super) fn fresh(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_micros();
    format!("terra-test.{name}.{now}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn within(topics: &[&str]) -> Setup {
    setup(Duration::from_secs(5), topics)
}

pub(super) fn message(topic: &str, key: &str, payload: impl Into<bytes::Bytes>) -> Arc<Message> {
    Arc::new(Message::sample(topic, key, [7; 32], payload))
}

/// Publishes again and again while the refusal is transient.
pub(super) async fn kept(bus: &Arc<dyn Bus>, topic: &str, key: &str, payload: impl Into<bytes::Bytes>) {
    let (payload, deadline) = (payload.into(), Instant::now() + PATIENCE);
    loop {
        match bus.publish(message(topic, key, payload.clone())).await {
            Ok(receipt) => return assert_eq!(receipt, Receipt::Kept),
            Err(Refusal::Transient { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(refusal) => panic!("{refusal}"),
        }
    }
}

pub(super) async fn up(bus: &Arc<dyn Bus>) {
    reaches(bus.connection(), ConnectionState::Up).await;
}

pub(super) async fn reaches(mut connection: watch::Receiver<ConnectionState>, wanted: ConnectionState) {
    tokio::time::timeout(PATIENCE, connection.wait_for(|connection| *connection == wanted)).await.unwrap().unwrap();
}

pub(super) async fn read(config: &config::Kafka, topic: &str, from: StartPosition, count: usize) -> Vec<Record> {
    let steps = super::super::read(config, vec![topic.to_owned()], from, Payloads::All).await.unwrap().steps;
    let records = steps.filter_map(|step| async {
        match step.unwrap() {
            Step::Record(record) => Some(record),
            Step::CaughtUp => None,
        }
    });
    tokio::time::timeout(PATIENCE, records.take(count).collect()).await.unwrap()
}

/// Changes one setting of a topic.
pub(super) async fn alter(config: &config::Kafka, topic: &str, key: &str, value: &str) {
    let admin: AdminClient<QueryContext> =
        client::create(&settings::admin(config).unwrap(), QueryContext::default()).unwrap();
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(key, value);
    let options = AdminOptions::new().request_timeout(Some(PATIENCE));
    admin.alter_configs(&[change], &options).await.unwrap()[0].as_ref().unwrap();
    tokio::task::spawn_blocking(move || drop(admin)).await.unwrap();
}
