//! The adapter against a real broker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use rdkafka::admin::{AdminClient, AdminOptions};
use tokio::sync::watch;

use super::super::client::{self, QueryContext};
use super::super::producer::Producer;
use super::super::status::Status;
use super::super::topics::{HEALTHY_INTERVAL, Topics};
use super::super::{inspect, open, settings};
use super::support::{PATIENCE, broker, config, fresh, is_refused, kept, message, read, setup, up, within};
use crate::bus::{ConnectionState, Level, Payloads, Receipt, Refusal, StartPosition, Step};
use crate::config;
use crate::telemetry::lines::Lines;

async fn delete(config: &config::Kafka, topic: &str) {
    let admin: AdminClient<QueryContext> =
        client::create(&settings::admin(config).unwrap(), QueryContext::default()).unwrap();
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(5)));
    admin.delete_topics(&[topic], &options).await.unwrap()[0].as_ref().unwrap();
    tokio::task::spawn_blocking(move || drop(admin)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_arrive_with_exact_bytes_key_and_headers() {
    let Some(broker) = broker("messages_arrive_with_exact_bytes_key_and_headers") else { return };
    let (config, topic) = (config(&broker), fresh("arrive"));
    let bus = open(&config, within(&[&topic])).unwrap();
    assert_eq!(*bus.connection().borrow(), ConnectionState::Waiting);
    up(&bus).await;

    let large: Vec<u8> = (0..10 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let payloads = [b"{ \"type\":\"daily\" }\n".to_vec(), vec![0xff, 0, 0xfe], Vec::new(), large];
    for payload in &payloads {
        kept(&bus, &topic, "user-1", payload.clone()).await;
    }
    let records = read(&config, &topic, StartPosition::Earliest, payloads.len()).await;
    for (at, (record, payload)) in records.iter().zip(&payloads).enumerate() {
        assert!(record.payload == payload[..], "payload {at}");
        assert_eq!((record.offset, record.partition), (at as u64, records[0].partition));
        assert_eq!(record.key.as_deref(), Some("user-1"));
        for (name, value) in [("ce_type", "co.tryterra.daily"), ("content-type", "application/json")] {
            assert!(record.headers.contains(&(name.to_owned(), value.to_owned())), "{:?}", record.headers);
        }
        let age = jiff::Timestamp::now().as_second() - record.time.as_second();
        assert!((-5..60).contains(&age), "{age} s");
    }
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_refused_at_once_until_somebody_makes_it() {
    let Some(broker) = broker("a_missing_topic_is_refused_at_once_until_somebody_makes_it") else { return };
    let (mut config, topic) = (config(&broker), fresh("missing"));
    config.create_topics = false;
    let bus = open(&config, within(&[&topic])).unwrap();
    up(&bus).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let begun = Instant::now();
        let refusal = bus.publish(message(&topic, "k", "x")).await.unwrap_err();
        assert!(matches!(refusal, Refusal::Permanent { .. }), "{refusal}");
        if begun.elapsed() < Duration::from_millis(20) {
            break;
        }
        assert!(Instant::now() < deadline);
    }

    config.create_topics = true;
    let maker = open(&config, within(&[&topic])).unwrap();
    kept(&maker, &topic, "k", "x").await;
    maker.close().await;
    let deadline = Instant::now() + PATIENCE;
    while let Err(refusal) = bus.publish(message(&topic, "k", "x")).await {
        assert!(Instant::now() < deadline, "{refusal}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_deleted_under_load_is_made_again_without_a_restart() {
    let Some(broker) = broker("a_topic_deleted_under_load_is_made_again_without_a_restart") else { return };
    let (config, topic) = (config(&broker), fresh("deleted"));
    let bus = open(&config, within(&[&topic])).unwrap();
    kept(&bus, &topic, "k", "before").await;
    let (rounds, mut done) = watch::channel(0);
    let load = tokio::spawn({
        let (bus, topic) = (Arc::clone(&bus), topic.clone());
        async move {
            loop {
                let all = (0..50).map(|at| bus.publish(message(&topic, &at.to_string(), "load")));
                drop(futures_util::future::join_all(all).await);
                rounds.send_modify(|rounds| *rounds += 1);
            }
        }
    });
    let mut after = async |more: u64| {
        let enough = *done.borrow() + more;
        tokio::time::timeout(PATIENCE, done.wait_for(|rounds| *rounds >= enough)).await.unwrap().unwrap();
    };
    after(5).await;
    delete(&config, &topic).await;
    after(20).await;
    let begun = Instant::now();
    kept(&bus, &topic, "k", "after").await;
    eprintln!("kept again {:?} after twenty rounds that followed the deletion", begun.elapsed());
    load.abort();
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_larger_than_the_topic_takes_names_the_setting() {
    let Some(broker) = broker("a_message_larger_than_the_topic_takes_names_the_setting") else { return };
    let (mut config, topic) = (config(&broker), fresh("small"));
    config.topic_config.insert("max.message.bytes".to_owned(), "2000".to_owned());
    let setup = within(&[&topic]);
    let bus = open(&config, setup.clone()).unwrap();
    kept(&bus, &topic, "k", "small").await;
    let noise: Vec<u8> = (0..50_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    // At first it may have been among others in a batch.
    let deadline = Instant::now() + PATIENCE;
    let refusal = loop {
        match bus.publish(message(&topic, "k", noise.clone())).await.unwrap_err() {
            Refusal::Transient { .. } if Instant::now() < deadline => {}
            refusal => break refusal,
        }
    };
    assert!(matches!(&refusal, Refusal::TooLarge { remedy } if remedy.contains("max.message.bytes")), "{refusal}");

    let findings = inspect(&config, &setup).await.unwrap();
    let size = findings.iter().find(|finding| finding.says.contains("server.max_body")).unwrap();
    assert_eq!((size.level, &size.about), (Level::Mistake, &topic));
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_brokers_refuse_to_create_is_refused_with_the_key_to_correct() {
    let Some(broker) = broker("what_the_brokers_refuse_to_create_is_refused_with_the_key_to_correct") else { return };
    let (mut config, topic) = (config(&broker), fresh("replicas"));
    config.replication_factor = Some(100);
    let bus = open(&config, within(&[&topic])).unwrap();
    up(&bus).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match bus.publish(message(&topic, "k", "x")).await.unwrap_err() {
            Refusal::Permanent { remedy, .. } => {
                break assert!(remedy.contains("kafka.replication_factor"), "{remedy}");
            }
            refusal => assert!(Instant::now() < deadline, "{refusal}"),
        }
    }
    bus.close().await;
}

/// On one thread, whose lines are read.
#[tokio::test]
async fn what_cannot_be_created_is_asked_for_ever_more_rarely_and_what_exists_is_measured() {
    let name = "what_cannot_be_created_is_asked_for_ever_more_rarely_and_what_exists_is_measured";
    let Some(broker) = broker(name) else { return };
    let (mut config, small, refused) = (config(&broker), fresh("small"), fresh("replicas"));
    config.topic_config.insert("max.message.bytes".to_owned(), "2000".to_owned());
    let maker = open(&config, within(&[&small])).unwrap();
    kept(&maker, &small, "k", "x").await;
    maker.close().await;

    config.replication_factor = Some(100);
    let (lines, _guard) = Lines::taken();
    let setup = within(&[&small, &refused]);
    let status = Arc::new(Status::new(true));
    let producer = settings::producer(&config, &setup).unwrap();
    let producer = Arc::new(Producer::open(producer, Arc::clone(&status)).unwrap());
    let mut topics = Topics::new(config, &setup);
    let deadline = Instant::now() + PATIENCE;
    while !is_refused(&status, &refused) {
        assert!(Instant::now() < deadline);
        topics.reconcile(&producer, &status, Duration::from_secs(2)).await;
    }
    let begun = Instant::now();
    let asked = || lines.with("Kafka is asked to create topics").len();
    let before = asked();
    for _ in 0..40 {
        let reconciled = topics.reconcile(&producer, &status, Duration::from_secs(2)).await;
        assert!(reconciled.ready && reconciled.next < HEALTHY_INTERVAL, "{reconciled:?}");
        assert!(is_refused(&status, &refused), "refused between two attempts, too");
    }
    // The pauses double from a second on: so many have their end in this time.
    let most = 1 + (begun.elapsed().as_secs() + 1).ilog2() as usize;
    assert!(asked() - before <= most, "{} times in {:?}", asked() - before, begun.elapsed());

    assert_eq!(status.batch_limit(), 2000);
    let sizes = lines.with("Kafka topics take less than server.max_body");
    assert!(sizes.len() == 1 && sizes[0].contains(&small) && !sizes[0].contains(&refused), "{sizes:?}");
    let named = lines.with("there are fewer brokers than replicas asked for");
    assert!(named.len() == 1 && named[0].contains(&refused), "{named:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_begins_where_it_is_told_and_says_where_it_cannot() {
    let Some(broker) = broker("a_tail_begins_where_it_is_told_and_says_where_it_cannot") else { return };
    let (mut config, topic) = (config(&broker), fresh("tail"));
    config.partitions = 1;
    config.properties.insert("enable.partition.eof".to_owned(), config::Secret::new("false"));
    let bus = open(&config, within(&[&topic])).unwrap();
    for payload in ["0", "1", "2"] {
        kept(&bus, &topic, "k", payload).await;
    }
    assert_eq!(read(&config, &topic, StartPosition::Offset(1), 2).await[0].payload, "1");
    let open =
        async |from| super::super::read(&config, vec![topic.clone(), fresh("unknown")], from, Payloads::All).await;
    let reading = open(StartPosition::Latest).await.unwrap();
    assert!(reading.skipped.len() == 1 && reading.skipped[0].1.0.contains("does not exist"), "{:?}", reading.skipped);
    let mut latest = reading.steps;
    let mut next = async || tokio::time::timeout(PATIENCE, latest.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(next().await, Step::CaughtUp));
    kept(&bus, &topic, "k", "3").await;
    assert!(matches!(next().await, Step::Record(record) if record.payload[..] == *b"3" && record.offset == 3));

    let beyond = open(StartPosition::Offset(9)).await.err().unwrap();
    assert!(beyond.0.contains("no offset 9"), "{beyond}");
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inspection_says_what_an_acknowledgement_is_worth() {
    let Some(broker) = broker("an_inspection_says_what_an_acknowledgement_is_worth") else { return };
    let (config, topic, other) = (config(&broker), fresh("inspect"), fresh("inspect-later"));
    let bus = open(&config, within(&[&topic])).unwrap();
    kept(&bus, &topic, "k", "x").await;
    let findings = inspect(&config, &within(&[&topic, &other])).await.unwrap();
    for finding in &findings {
        eprintln!(
            "{:?} {}: {} -- {}",
            finding.level,
            finding.about,
            finding.says,
            finding.remedy.as_deref().unwrap_or("-")
        );
    }
    assert_eq!(findings[0].about, "cluster");
    assert!(findings.iter().any(|finding| finding.about == topic && finding.says.contains("6 partitions")));
    assert!(findings.iter().any(|finding| finding.about == other && finding.says.contains("does not exist yet")));
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_waits_for_the_receipts() {
    let Some(broker) = broker("a_close_waits_for_the_receipts") else { return };
    let (config, topic) = (config(&broker), fresh("close"));
    let bus = open(&config, within(&[&topic])).unwrap();
    kept(&bus, &topic, "k", "first").await;
    let receipts: Vec<_> = (0..500).map(|at: u32| bus.publish(message(&topic, &at.to_string(), "x"))).collect();
    bus.close().await;
    for receipt in receipts {
        assert_eq!(receipt.await, Ok(Receipt::Kept));
    }
    assert!(matches!(bus.publish(message(&topic, "k", "late")).await, Err(Refusal::Transient { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_the_refusal_comes_in_time_and_the_bus_is_waited_for() {
    let nobody = config("127.0.0.1:1");
    for seconds in [1, 5] {
        let timeout = Duration::from_secs(seconds);
        let bus = open(&nobody, setup(timeout, &["t"])).unwrap();
        let begun = Instant::now();
        let refusal = bus.publish(message("t", "k", "x")).await.unwrap_err();
        eprintln!("publish_timeout {timeout:?}: {refusal} after {:?}", begun.elapsed());
        assert!(matches!(refusal, Refusal::Transient { .. }), "{refusal}");
        // librdkafka finds an overdue message within a second, which a timeout of 1 s has not.
        assert!(begun.elapsed() < timeout.max(Duration::from_secs(2)), "{:?}", begun.elapsed());
        assert_eq!(*bus.connection().borrow(), ConnectionState::Waiting);
        bus.close().await;
    }
    let findings = inspect(&nobody, &within(&["t"])).await.unwrap();
    assert!(findings.len() == 1 && findings[0].level == Level::Mistake, "{findings:?}");
}
