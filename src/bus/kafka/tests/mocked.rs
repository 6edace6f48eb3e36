//! The adapter against librdkafka's own pretend brokers, which fail when told to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Answer};

use super::super::producer::Producer;
use super::super::reconciler::Reconciler;
use super::super::status::Status;
use super::super::topics::{HEALTHY_INTERVAL, Topics};
use super::super::{open, settings};
use super::support::{PATIENCE, config, is_refused, reaches, within};
use crate::bus::{Bus, ConnectionState, Receipt, Refusal, Setup};
use crate::config;
use crate::message::Message;
use crate::telemetry::lines::Lines;

type Brokers = MockCluster<'static, DefaultProducerContext>;

fn message() -> Arc<Message> {
    sized(1)
}

fn sized(bytes: usize) -> Arc<Message> {
    Arc::new(Message::sample("t", "k", [7; 32], vec![b'x'; bytes]))
}

/// With a topic `t` and a bridge that has published to it.
async fn connected() -> (Brokers, Arc<dyn Bus>) {
    let brokers = MockCluster::new(1).unwrap();
    brokers.create_topic("t", 1, 1).unwrap();
    let bus = open(&config(&brokers.bootstrap_servers()), within(&["t"])).unwrap();
    reaches(bus.connection(), ConnectionState::Up).await;
    kept(&bus).await;
    (brokers, bus)
}

async fn kept(bus: &Arc<dyn Bus>) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(refusal) = bus.publish(message()).await {
        assert!(Instant::now() < deadline, "{refusal}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_fails_for_good_is_replaced() {
    let brokers = MockCluster::new(1).unwrap();
    brokers.create_topic("t", 1, 1).unwrap();
    brokers.request_errors(Api::InitProducerId, &[Answer::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED]);
    let bus = open(&config(&brokers.bootstrap_servers()), within(&["t"])).unwrap();
    kept(&bus).await;
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_without_the_right_to_idempotence_is_told_what_to_grant() {
    let brokers = MockCluster::new(1).unwrap();
    brokers.create_topic("t", 1, 1).unwrap();
    brokers.request_errors(Api::InitProducerId, &[Answer::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED; 100]);
    let bus = open(&config(&brokers.bootstrap_servers()), within(&["t"])).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match bus.publish(message()).await {
            Err(Refusal::Permanent { remedy, .. }) if remedy.contains("IdempotentWrite") => break,
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_go_and_come_are_seen_without_a_restart() {
    let (brokers, bus) = connected().await;
    brokers.broker_down(1).unwrap();
    let begun = Instant::now();
    let refusal = bus.publish(message()).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Transient { .. }), "{refusal}");
    assert!(begun.elapsed() < Duration::from_millis(4800), "{:?}", begun.elapsed());
    reaches(bus.connection(), ConnectionState::Away).await;
    brokers.broker_up(1).unwrap();
    kept(&bus).await;
    assert_eq!(*bus.connection().borrow(), ConnectionState::Up);
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_fall_silent_are_missed_within_seconds_though_no_message_is_under_way() {
    let (brokers, bus) = connected().await;
    brokers.broker_round_trip_time(1, Duration::from_secs(600)).unwrap();
    let begun = Instant::now();
    reaches(bus.connection(), ConnectionState::Away).await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_the_broker_are_told_apart() {
    let (brokers, bus) = connected().await;
    brokers.request_errors(Api::Produce, &[Answer::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    let refusal = bus.publish(sized(300_000)).await.unwrap_err();
    assert!(matches!(refusal, Refusal::TooLarge { .. }), "{refusal}");

    brokers.request_errors(Api::Produce, &[Answer::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    let refusal = bus.publish(message()).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Permanent { .. }), "{refusal}");

    // librdkafka keeps such an answer in mind until it asked for the topic again.
    kept(&bus).await;
    brokers.request_errors(Api::Produce, &[Answer::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS]);
    assert_eq!(bus.publish(message()).await, Ok(Receipt::Kept), "a passing error is retried within the timeout");
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broker_calls_a_duplicate_is_not_kept_by_any_message_of_its_batch() {
    let brokers = MockCluster::new(1).unwrap();
    brokers.create_topic("t", 1, 1).unwrap();
    let mut config = config(&brokers.bootstrap_servers());
    // Long enough for three messages that are handed over at once.
    config.properties.insert("linger.ms".to_owned(), config::Secret::new("500"));
    let bus = open(&config, within(&["t"])).unwrap();
    reaches(bus.connection(), ConnectionState::Up).await;
    kept(&bus).await;
    brokers.request_errors(Api::Produce, &[Answer::RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER]);
    for answer in join_all([bus.publish(message()), bus.publish(message()), bus.publish(message())]).await {
        let refusal = answer.unwrap_err();
        assert_eq!(refusal.as_str(), "unconfirmed", "{refusal}");
        assert!(!refusal.is_message_specific(), "it is sent again, not set aside");
    }
    kept(&bus).await;
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_message_that_was_alone_in_its_batch_is_too_large() {
    let (brokers, bus) = connected().await;
    let refused = async |bytes| {
        brokers.request_errors(Api::Produce, &[Answer::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
        bus.publish(sized(bytes)).await.unwrap_err()
    };
    let refusal = refused(1).await;
    assert!(matches!(refusal, Refusal::Transient { .. }), "{refusal}");
    let deadline = Instant::now() + PATIENCE;
    while !matches!(refused(100_000).await, Refusal::TooLarge { .. }) {
        assert!(Instant::now() < deadline, "the batches get no smaller");
    }
    let refusal = refused(1).await;
    assert!(matches!(refusal, Refusal::Transient { .. }), "{refusal}");
    kept(&bus).await;
    bus.close().await;
}

/// Of a bridge that makes no topics.
fn parts(brokers: &Brokers, setup: &Setup) -> (Arc<Producer>, Arc<Status>, Topics) {
    let config = config::Kafka { create_topics: false, ..config(&brokers.bootstrap_servers()) };
    let status = Arc::new(Status::new(false));
    let producer = Producer::open(settings::producer(&config, setup).unwrap(), Arc::clone(&status)).unwrap();
    (Arc::new(producer), status, Topics::new(config, setup))
}

#[tokio::test(flavor = "multi_thread")]
async fn many_topics_of_distant_brokers_are_all_looked_for_at_once() {
    let brokers = MockCluster::new(1).unwrap();
    let names: Vec<String> = (0..200).map(|at| format!("terra.{at}")).collect();
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    // One after the other they would take 12 s: more than there is for a look.
    brokers.broker_round_trip_time(1, Duration::from_millis(60)).unwrap();
    let (producer, status, mut topics) = parts(&brokers, &within(&names));
    let reconciled = topics.reconcile(&producer, &status, Duration::from_secs(2)).await;
    assert!(reconciled.ready && reconciled.next < HEALTHY_INTERVAL, "{reconciled:?}");
    assert!(names.iter().all(|name| is_refused(&status, name)));
}

#[tokio::test(flavor = "multi_thread")]
async fn looks_at_topics_that_only_somebody_else_can_create_are_rarer_until_others_are_set() {
    let brokers = MockCluster::new(1).unwrap();
    let (producer, status, mut topics) = parts(&brokers, &within(&["missing"]));
    let rest = async |topics: &mut Topics| topics.reconcile(&producer, &status, Duration::from_secs(2)).await.next;
    assert!(!rest(&mut topics).await.is_zero());
    let deadline = Instant::now() + PATIENCE;
    while rest(&mut topics).await <= Duration::from_secs(1) {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(rest(&mut topics).await < HEALTHY_INTERVAL, "somebody may create it");
    topics.replace(vec!["missing too".into()]);
    assert!(rest(&mut topics).await <= Duration::from_secs(1));
}

/// On one thread, whose lines are read.
#[tokio::test]
async fn brokers_that_do_not_show_their_defaults_are_named_once() {
    // These know neither the question nor the creation, which is tried again at each look.
    let brokers = MockCluster::new(1).unwrap();
    let (lines, _guard) = Lines::taken();
    let setup = within(&["missing"]);
    let (producer, status, _) = parts(&brokers, &setup);
    let mut topics = Topics::new(config(&brokers.bootstrap_servers()), &setup);
    for _ in 0..3 {
        topics.reconcile(&producer, &status, Duration::from_secs(2)).await;
    }
    assert_eq!(lines.with("Kafka is asked to create topics").len(), 3);
    assert_eq!(lines.with("default replication cannot be seen").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bus_is_up_once_every_topic_was_seen_and_what_was_seen_before_counts() {
    let brokers = MockCluster::new(1).unwrap();
    brokers.create_topic("t", 1, 1).unwrap();
    // No broker is even asked for this name.
    let unseen = "unseen\0";
    let (producer, status, topics) = parts(&brokers, &within(&["t", unseen, "missing"]));
    let reconciler = Reconciler::new(producer, Arc::clone(&status), topics, Duration::from_secs(2));
    let reconciler = tokio::spawn(reconciler.run());
    let refuses = async |topic: &str| {
        let deadline = Instant::now() + PATIENCE;
        while !is_refused(&status, topic) {
            assert!(Instant::now() < deadline, "{topic}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    refuses("missing").await;
    // Seen in a later round, so that the first is over.
    status.set_topics(within(&["t", unseen, "missing too"]).topics);
    refuses("missing too").await;
    assert_eq!(*status.connection().borrow(), ConnectionState::Waiting);
    status.set_topics(within(&["t"]).topics);
    reaches(status.connection(), ConnectionState::Up).await;
    reconciler.abort();
}
