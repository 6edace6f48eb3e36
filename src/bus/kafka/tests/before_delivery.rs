//! Tests of what is said before any delivery comes: brokers that are not reached and why, topics that do not keep
//! what they acknowledge, and that ready means that the next message is kept.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::super::{inspect, open};
use super::support::{PATIENCE, alter, broker, config, fresh, kept, message, read, up, within};
use crate::bus::{ConnectionState, Level, Receipt, Refusal, StartPosition};
use crate::config;
use crate::telemetry::lines::Lines;

#[tokio::test(flavor = "multi_thread")]
async fn the_first_message_for_every_topic_is_kept_once_the_bus_is_up() {
    let Some(broker) = broker("the_first_message_for_every_topic_is_kept_once_the_bus_is_up") else { return };
    let topics: Vec<String> = (0..30).map(|_| fresh("first")).collect();
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let bus = open(&config(&broker), within(&names)).unwrap();
    let begun = Instant::now();
    up(&bus).await;
    eprintln!("up after {:?}", begun.elapsed());
    let answers = join_all(names.iter().map(|topic| bus.publish(message(topic, "k", "first")))).await;
    assert!(answers.iter().all(|answer| *answer == Ok(Receipt::Kept)), "{answers:?}");
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_before_its_topic_was_seen_keeps_its_order() {
    let Some(broker) = broker("what_comes_before_its_topic_was_seen_keeps_its_order") else { return };
    let (mut config, topic) = (config(&broker), fresh("order"));
    config.partitions = 1;
    // Seen at once by a bridge that comes later.
    let maker = open(&config, within(&[&topic])).unwrap();
    up(&maker).await;
    maker.close().await;
    let bus = open(&config, within(&[&topic])).unwrap();
    let sent: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    let answers = join_all(sent.iter().map(|n| bus.publish(message(&topic, "k", n.clone())))).await;
    assert!(answers.iter().all(|answer| *answer == Ok(Receipt::Kept)), "{answers:?}");
    let kept = read(&config, &topic, StartPosition::Earliest, sent.len()).await;
    let kept: Vec<_> = kept.iter().map(|record| String::from_utf8(record.payload.to_vec()).unwrap()).collect();
    assert_eq!(kept, sent);
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_forbidden_name_does_not_keep_the_bus_from_being_up() {
    let Some(broker) = broker("one_forbidden_name_does_not_keep_the_bus_from_being_up") else { return };
    let mut config = config(&broker);
    let (there, refused) = (fresh("there"), fresh("refused"));
    let bus = open(&config, within(&[&there])).unwrap();
    up(&bus).await;
    bus.close().await;
    config.replication_factor = Some(100);
    let bus = open(&config, within(&[&there, &refused])).unwrap();
    up(&bus).await;
    assert_eq!(bus.publish(message(&there, "k", "x")).await, Ok(Receipt::Kept));
    assert!(matches!(bus.publish(message(&refused, "k", "x")).await, Err(Refusal::Permanent { .. })));
    bus.close().await;
}

/// On one thread, whose lines are read.
#[tokio::test]
async fn a_topic_that_deletes_what_it_acknowledged_is_refused_until_it_is_set_otherwise() {
    let name = "a_topic_that_deletes_what_it_acknowledged_is_refused_until_it_is_set_otherwise";
    let Some(broker) = broker(name) else { return };
    let (lines, _guard) = Lines::taken();
    for (key, value) in [("cleanup.policy", "compact"), ("retention.ms", "5000"), ("retention.bytes", "4096")] {
        let (mut config, topic) = (config(&broker), fresh("forgets"));
        config.topic_config.insert(key.to_owned(), value.to_owned());
        let bus = open(&config, within(&[&topic])).unwrap();
        // The very first message, too: none is kept before the topic was seen.
        let deadline = Instant::now() + PATIENCE;
        let refusal = loop {
            match bus.publish(message(&topic, "k", "x")).await.unwrap_err() {
                Refusal::Transient { .. } if Instant::now() < deadline => {}
                refusal => break refusal,
            }
        };
        assert!(matches!(&refusal, Refusal::Permanent { reason, .. } if reason.contains(key)), "{refusal}");
        let said = lines.with("deletes what it acknowledged");
        assert!(
            said.iter().any(|line| line.contains("ERROR") && line.contains(&topic) && line.contains(key)),
            "{said:?}"
        );
        let findings = inspect(&config, &within(&[&topic])).await.unwrap();
        let of_topic = |says: &str| findings.iter().find(|one| one.about == topic && one.says.contains(says));
        let found = of_topic("every delivery is refused");
        assert!(found.is_some_and(|found| found.level == Level::Mistake && found.says.contains(key)), "{findings:?}");
        alter(&config, &topic, "retention.ms", "604800000").await;
        let deadline = Instant::now() + PATIENCE;
        while let Err(refusal) = bus.publish(message(&topic, "k", "x")).await {
            assert!(Instant::now() < deadline, "{refusal}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bus.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_for_a_topic_that_no_route_names_any_more_has_it_looked_for() {
    let Some(broker) = broker("a_message_for_a_topic_that_no_route_names_any_more_has_it_looked_for") else { return };
    let (config, routed, old) = (config(&broker), fresh("routed"), fresh("old"));
    let bus = open(&config, within(&[&routed])).unwrap();
    kept(&bus, &routed, "k", "x").await;
    kept(&bus, &old, "k", "x").await;
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inspection_has_the_brokers_say_what_they_would_not_make() {
    let Some(broker) = broker("an_inspection_has_the_brokers_say_what_they_would_not_make") else { return };
    let (mut config, there) = (config(&broker), fresh("collides"));
    let alike = there.replace('.', "_");
    let bus = open(&config, within(&[&there])).unwrap();
    up(&bus).await;
    bus.close().await;
    let of = async |config: &config::Kafka, topic: &str| {
        let findings = inspect(config, &within(&[topic])).await.unwrap();
        findings.into_iter().find(|finding| finding.about == topic).unwrap()
    };
    let collides = of(&config, &alike).await;
    assert_eq!(collides.level, Level::Mistake, "{collides:?}");
    assert!(collides.says.contains("differs only in `.` and `_`"), "{collides:?}");
    let fresh = fresh("never");
    assert!(of(&config, &fresh).await.says.contains("which the brokers would do now"));
    assert!(of(&config, &fresh).await.says.contains("does not exist yet"), "nothing was made");
    config.topic_config.insert("retention.ms".to_owned(), "soon".to_owned());
    let config_refused = of(&config, &fresh).await;
    assert!(config_refused.remedy.is_some_and(|remedy| remedy.contains("kafka.topic_config")));
    config.topic_config.clear();
    config.replication_factor = Some(100);
    let replicas = of(&config, &fresh).await;
    assert!(replicas.level == Level::Mistake && replicas.remedy.is_some_and(|remedy| remedy.contains("replication")));
}

/// Answers whoever speaks with these bytes; without any it closes at once.
async fn answering(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut heard = [0; 1024];
            let _ = stream.read(&mut heard).await;
            let _ = stream.write_all(bytes).await;
            if !bytes.is_empty() {
                tokio::spawn(async move { while stream.read(&mut heard).await.is_ok_and(|read| read > 0) {} });
            }
        }
    });
    address
}

/// On one thread, whose lines are read.
#[tokio::test]
async fn brokers_that_are_not_reached_are_named_with_the_cause_before_any_delivery_comes() {
    let (lines, _guard) = Lines::taken();
    let mut tls = config(&answering(b"").await);
    tls.tls.ca = Some("system".to_owned());
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cases = [
        (config("no-such-host.invalid:9092"), "the broker's name is not found"),
        (config("127.0.0.1:1"), "the connection is refused"),
        (config(&answering(b"HTTP/1.1 400 Bad Request\r\n\r\n").await), "what answers there is not Kafka"),
        (config(&answering(b"\x15\x03\x03\x00\x02\x02\x46\x00").await), "the port asks for TLS"),
        (config(&answering(b"").await), "the connection is closed as soon as the bridge speaks"),
        (config(&silent.local_addr().unwrap().to_string()), "nobody answers there"),
        (tls, "the port does not speak TLS"),
    ];
    let begun = Instant::now();
    let buses: Vec<_> = cases.iter().map(|(config, _)| open(config, within(&["t"])).unwrap()).collect();
    for (config, why) in &cases {
        let is_said = || lines.with("Kafka is not reached").iter().any(|line| line.contains(why));
        while !is_said() {
            assert!(begun.elapsed() < PATIENCE, "{why}: {:?} {config:?}", lines.with("Kafka is not reached"));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    eprintln!("all were said after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(15));
    let refusal = buses[1].publish(message("t", "k", "x")).await.unwrap_err();
    assert_eq!(refusal.to_string(), "no Kafka broker can be reached: the connection is refused");
    for (bus, (config, why)) in buses.iter().zip(&cases) {
        assert_eq!(*bus.connection().borrow(), ConnectionState::Waiting);
        let findings = inspect(config, &within(&["t"])).await.unwrap();
        assert!(findings.len() == 1 && findings[0].says.contains(why), "{why}: {findings:?}");
        bus.close().await;
    }
}
