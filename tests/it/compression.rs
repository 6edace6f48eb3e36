//! How Kafka's messages are compressed: as `kafka.compression` says, and every payload arrives byte for byte.

use std::time::Duration;

use crate::support::bridge::{Bridge, command};
use crate::support::consumers::Bus;
use crate::support::kafka_proxy::{Fault, KafkaProxy};
use crate::support::terra::Attempt;
use crate::support::until;

const WITHIN: Duration = Duration::from_secs(60);

/// Kafka's number of the codec, and a package that some consumers need for it.
fn is_compressed(compression: &str, number: u8, package: Option<&str>) {
    let Some(bus) = Bus::kafka() else { return };
    let Bus::Kafka { brokers, .. } = &bus else { unreachable!() };
    let proxy = KafkaProxy::start(brokers, &bus.topic("daily"), Fault::Unanswered);
    proxy.mend();
    let settings = [("KAFKA__BROKERS", &*proxy.address()), ("KAFKA__COMPRESSION", compression)];
    let environment = bus.environment_with(&settings);
    let bridge = Bridge::ready(&environment);
    // What does not become smaller is sent as it is.
    let body = format!(r#"{{"type":"daily","user":{{"user_id":"u"}},"data":[{}0]}}"#, "1234.5,".repeat(5000));
    let delivery = Attempt::of(body.clone());
    until("it is kept", WITHIN, || (delivery.post(bridge.deliveries).status == 200).then_some(()));
    assert_eq!(bus.read(&bridge, &bus.topic("daily"), 1)[0].payload, body.as_bytes());
    let codecs = proxy.codecs();
    assert!(!codecs.is_empty() && codecs.iter().all(|codec| *codec == number), "{compression}: {codecs:?}");

    let check = command().envs(environment).arg("check").output().expect("the binary runs");
    let (log, report) = (bridge.log(), String::from_utf8_lossy(&check.stdout).into_owned());
    let says = "consumers on kafkajs need the package";
    assert_eq!(log.matches(says).count(), usize::from(package.is_some()), "{log}");
    assert_eq!(report.matches(says).count(), usize::from(package.is_some()), "{report}");
    assert!(package.is_none_or(|package| log.contains(package) && report.contains(package)), "{report}");
}

#[test]
fn kafka_keeps_what_is_compressed_as_configured_and_consumers_are_told_what_they_need() {
    std::thread::scope(|scope| {
        for (compression, number, package) in [
            ("none", 0, None),
            ("gzip", 1, None),
            ("snappy", 2, Some("kafkajs-snappy")),
            ("lz4", 3, Some("aiokafka[lz4]")),
            ("zstd", 4, Some("kafka-python[zstd]")),
        ] {
            scope.spawn(move || is_compressed(compression, number, package));
        }
    });
}
