//! Batches against a real broker: what becomes of them where a topic takes less, and what their size costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};

use super::super::producer::Producer;
use super::super::status::Status;
use super::super::{open, settings};
use super::support::{PATIENCE, alter, broker, config, fresh, kept, message, within};
use crate::bus::Refusal;
use crate::config;

/// Text that lz4 makes little smaller.
fn noise(length: usize, seed: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed as u64);
    (0..length).map(|_| rng.u8(b' '..=b'~')).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_lowered_below_a_batch_refuses_no_small_message_for_good() {
    let Some(broker) = broker("a_limit_lowered_below_a_batch_refuses_no_small_message_for_good") else { return };
    let (mut config, topic) = (config(&broker), fresh("lowered"));
    config.partitions = 1;
    let bus = open(&config, within(&[&topic])).unwrap();
    kept(&bus, &topic, "k", "first").await;
    alter(&config, &topic, "max.message.bytes", "20000").await;
    let deadline = Instant::now() + PATIENCE;
    while bus.publish(message(&topic, "k", noise(50_000, 0))).await.is_ok() {
        assert!(Instant::now() < deadline, "the limit stays as it was");
    }
    let mut left: Vec<usize> = (0..200).collect();
    while !left.is_empty() {
        let all = left.iter().map(|at| bus.publish(message(&topic, "k", noise(2000, *at))));
        let answers = join_all(all).await;
        assert!(Instant::now() < deadline, "{answers:?}");
        let refused = |answer: &Result<_, Refusal>| match answer {
            Ok(_) => false,
            Err(Refusal::Transient { .. }) => true,
            Err(refusal) => panic!("{refusal}"),
        };
        left = left.into_iter().zip(&answers).filter(|(_, answer)| refused(answer)).map(|(at, _)| at).collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bus.close().await;
}

/// With `TERRA_BRIDGE_TEST_BATCHED=20000` and `--nocapture` it says how many messages a second batches of each
/// size carry, as many at once as a stall leaves behind, by turns so that the machine's load is shared.
#[tokio::test(flavor = "multi_thread")]
async fn batches_of_every_size_keep_what_is_in_them() {
    const SIZES: [&str; 4] = ["1000000", "262144", "65536", "16384"];
    const ROUNDS: usize = 5;
    const USUAL: usize = 500;
    const AT_ONCE: usize = 5_000;
    let Some(broker) = broker("batches_of_every_size_keep_what_is_in_them") else { return };
    let asked = std::env::var("TERRA_BRIDGE_TEST_BATCHED").ok();
    let messages = asked.and_then(|number| number.parse().ok()).unwrap_or(USUAL);
    let topic = fresh("cost");
    let mut buses = Vec::new();
    for size in SIZES {
        let mut config = config(&broker);
        config.properties.insert("batch.size".to_owned(), config::Secret::new(size));
        let bus = open(&config, within(&[&topic])).unwrap();
        kept(&bus, &topic, "k", "first").await;
        buses.push(bus);
    }
    // Half of it as a delivery repeats itself, half of it as figures.
    let payloads: Vec<Vec<u8>> = (0..messages)
        .map(|at| [&br#"{"timestamp":"2026-01-01","#.repeat(40)[..1000], &noise(1000, at)].concat())
        .collect();
    let mut rates = [const { Vec::new() }; SIZES.len()];
    for _ in 0..ROUNDS {
        for (bus, rates) in buses.iter().zip(&mut rates) {
            let begun = Instant::now();
            let sending = payloads.iter().enumerate();
            let answers = stream::iter(sending)
                .map(|(at, payload)| bus.publish(message(&topic, &at.to_string(), payload.clone())))
                .buffer_unordered(AT_ONCE);
            answers.for_each(|answer| async move { assert!(answer.is_ok(), "{answer:?}") }).await;
            rates.push(messages as f64 / begun.elapsed().as_secs_f64());
        }
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[ROUNDS / 2]
    };
    let rates = rates.each_mut().map(median);
    for (size, rate) in SIZES.iter().zip(rates) {
        eprintln!("batch.size {size}: {rate:.0} messages/s, {:.2} of {}", rate / rates[0], SIZES[0]);
    }
    for bus in buses {
        bus.close().await;
    }
}

/// Each message has its report, whatever client it was handed to, and the last client delivers.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_replaced_twice_in_a_row_under_traffic_owes_no_report() {
    const ROUNDS: usize = 10;
    const SENDERS: usize = 16;
    let Some(broker) = broker("a_client_that_is_replaced_twice_in_a_row_under_traffic_owes_no_report") else { return };
    let (config, topic) = (config(&broker), fresh("replaced"));
    let maker = open(&config, within(&[&topic])).unwrap();
    kept(&maker, &topic, "k", "first").await;
    maker.close().await;
    let producer = settings::producer(&config, &within(&[&topic])).unwrap();
    let producer = Arc::new(Producer::open(producer, Arc::new(Status::new(false))).unwrap());
    let ended = Arc::new(AtomicBool::new(false));
    let sender = |at: usize| {
        let (producer, topic, ended) = (Arc::clone(&producer), topic.clone(), Arc::clone(&ended));
        async move {
            let (mut kept, mut refused) = (0, 0);
            while !ended.load(Ordering::Relaxed) {
                let report = producer.send(message(&topic, &at.to_string(), noise(2000, at)));
                match tokio::time::timeout(PATIENCE, report).await.expect("a report in time").expect("a report") {
                    Ok(_) => kept += 1,
                    Err(Refusal::Transient { .. }) => refused += 1,
                    Err(refusal) => panic!("{refusal}"),
                }
            }
            (kept, refused)
        }
    };
    let senders: Vec<_> = (0..SENDERS).map(|at| tokio::spawn(sender(at))).collect();
    for _ in 0..ROUNDS {
        let replacing = Arc::clone(&producer);
        let twice = move || [1, 2].map(|_| replacing.replace(Duration::from_secs(2)));
        tokio::task::spawn_blocking(twice).await.unwrap();
        let begun = Instant::now();
        while !matches!(producer.send(message(&topic, "k", "after")).await, Ok(Ok(_))) {
            assert!(begun.elapsed() < Duration::from_secs(10), "the last client delivers nothing");
        }
    }
    ended.store(true, Ordering::Relaxed);
    let (kept, refused) = join_all(senders)
        .await
        .into_iter()
        .map(Result::unwrap)
        .fold((0, 0), |sum: (u32, u32), one| (sum.0 + one.0, sum.1 + one.1));
    eprintln!("{kept} kept, {refused} refused over {} replacements", 2 * ROUNDS);
    assert!(kept > 0);
    tokio::task::spawn_blocking(move || producer.close(PATIENCE)).await.unwrap();
}
