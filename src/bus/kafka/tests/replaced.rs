//! A spool that is drained while its producer is replaced, against librdkafka's own pretend brokers.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Answer};
use tokio_util::sync::CancellationToken;

use super::super::open;
use super::support::{config, setup};
use crate::bus::Receipt;
use crate::clock::Clock;
use crate::config;
use crate::identity::digest;
use crate::message::Message;
use crate::spool::{Spool, drain};

const PATIENCE: Duration = Duration::from_secs(60);
const PUBLISHED_WITHIN: Duration = Duration::from_secs(5);

/// So often may batches get smaller until a message of this test does not fit into one.
const REPLACEMENTS: usize = 4;
const MESSAGES_EACH: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_is_drained_while_its_producer_is_replaced_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let spool = config::Spool {
        dir: dir.path().to_owned(),
        max_bytes: 1 << 30,
        max_age: Duration::from_secs(3600),
        reserve: 0,
    };
    let spool = Spool::open(&spool, 1000, Clock::system(), |_| {}).unwrap();
    let brokers = MockCluster::new(1).unwrap();
    brokers.create_topic("t", 1, 1).unwrap();
    let bus = open(&config(&brokers.bootstrap_servers()), setup(PUBLISHED_WITHIN, &["t"])).unwrap();
    let stop = CancellationToken::new();
    let drainer = tokio::spawn(drain(spool.clone(), Arc::clone(&bus), PUBLISHED_WITHIN, stop.clone()));
    for round in 0..REPLACEMENTS {
        // Has the producer replaced by one of smaller batches.
        brokers.request_errors(Api::Produce, &[Answer::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
        for n in 0..MESSAGES_EACH {
            let id = digest(&[&round.to_be_bytes(), &n.to_be_bytes()]);
            let message = Arc::new(Message::sample("t", &format!("k{}", n % 5), id, "x"));
            assert_eq!(spool.acquire(&message).spool(message).await, Ok(Receipt::Kept));
        }
        tokio::time::timeout(PATIENCE, spool.emptied()).await.expect("the spool empties");
    }
    let reading = spool.gauges();
    assert_eq!((reading.drained, reading.set_aside), ((REPLACEMENTS * MESSAGES_EACH) as u64, 0));
    stop.cancel();
    drainer.await.unwrap();
    bus.close().await;
}
