//! Deliveries to a slow bus, which answers when the test tells it to.

use std::time::Duration;

use http::HeaderMap;
use tokio::sync::oneshot;

use super::*;
use crate::bus::Receipt;
use crate::bus::fakes::SlowBus;
use crate::clock::Clock;
use crate::dedupe::Dedupe;
use crate::metrics::{Metrics, Readings};
use crate::payload::Budget;
use crate::signature::tests::delivery;
use crate::spool::Spool;

fn pipeline() -> (Arc<SlowBus>, Arc<Pipeline>) {
    pipeline_with(None)
}

fn pipeline_with(spool: Option<config::Spool>) -> (Arc<SlowBus>, Arc<Pipeline>) {
    let environment = [("TERRA_SIGNING_SECRET".into(), "secret".into())];
    let mut config = config::read(config::Purpose::Serve, None, environment.into_iter(), false)
        .unwrap()
        .finish()
        .unwrap()
        .config()
        .clone();
    if spool.is_some() {
        // No test that uses one depends on it running out.
        config.server.publish_timeout = LONG;
    }
    config.spool = spool;
    let spool = config.spool.as_ref().map(|spool| Spool::open(spool, 10, Clock::trusted(), |_| {}).unwrap());
    let routes = Arc::new(RouteTable::of(&config).unwrap());
    let (bus, dedupe) = (Arc::new(SlowBus::default()), Dedupe::new(Duration::from_secs(60), 10, Clock::system()));
    let (budget, metrics) = (Budget::new(1 << 20), Metrics::new(Readings::default()));
    let stages = Stages { routes, fetcher: None, dedupe, bus: bus.clone(), spool, budget, metrics, tracing: None };
    let relay = Relay::new(&config, stages);
    (bus, relay.pipeline())
}

/// Starts an attempt at always the same delivery, with five seconds for the bus.
fn attempt(pipeline: &Arc<Pipeline>) -> oneshot::Receiver<Outcome> {
    attempt_at(pipeline, r#"{"type":"daily"}"#, Duration::from_secs(5))
}

/// With that much time for bus and spool.
fn attempt_at(pipeline: &Arc<Pipeline>, body: &str, within: Duration) -> oneshot::Receiver<Outcome> {
    let delivery = delivery(body.as_bytes(), HeaderMap::new());
    let (mut to, outcome) = oneshot::channel();
    let arrived = Instant::now();
    let outliving = outliving(pipeline.clone(), delivery, arrived, arrived + within, Summary::default());
    // Dropped with its client, as hyper does.
    tokio::spawn(async move {
        tokio::select! {
            ended = outliving => drop(to.send(ended.outcome)),
            () = to.closed() => {}
        }
    });
    outcome
}

async fn settled() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn transient() -> Result<Receipt, Refusal> {
    Err(Refusal::Transient { reason: "away".into() })
}

#[tokio::test(start_paused = true)]
async fn a_receipt_that_comes_too_late_makes_the_retry_a_duplicate() {
    let (bus, pipeline) = pipeline();
    assert_eq!(attempt(&pipeline).await, Ok(Outcome::Unanswered));
    let retry = attempt(&pipeline);
    settled().await;
    assert_eq!(bus.waiting(), 1, "the bus still has the first");
    bus.answer(Ok(Receipt::Kept));
    assert!(matches!(retry.await, Ok(Outcome::Duplicate(_))));
    assert!(matches!(attempt(&pipeline).await, Ok(Outcome::Duplicate(_))));
    assert_eq!(bus.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_second_attempt_shares_the_refusal_and_a_third_publishes_again() {
    let (bus, pipeline) = pipeline();
    let (first, second) = (attempt(&pipeline), attempt(&pipeline));
    settled().await;
    assert_eq!(bus.waiting(), 1);
    bus.answer(transient());
    assert!(matches!(first.await, Ok(Outcome::Refused(_))));
    assert!(matches!(second.await, Ok(Outcome::Refused(_))));
    let third = attempt(&pipeline);
    settled().await;
    bus.answer(Ok(Receipt::Kept));
    assert!(matches!(third.await, Ok(Outcome::Kept(_))));
}

#[tokio::test(start_paused = true)]
async fn an_unconfirmed_message_is_counted_as_such_and_not_remembered() {
    let (bus, pipeline) = pipeline();
    let first = attempt(&pipeline);
    settled().await;
    bus.answer(Err(Refusal::Unconfirmed { reason: "nobody said so".into() }));
    let outcome = first.await.unwrap();
    assert!(!outcome.is_success(), "{outcome:?}");
    let counted = r#"terra_bridge_published_total{topic="terra.daily",result="unconfirmed"} 1"#;
    assert!(pipeline.metrics.text().contains(counted), "{}", pipeline.metrics.text());
    let retry = attempt(&pipeline);
    settled().await;
    bus.answer(Ok(Receipt::Kept));
    assert!(matches!(retry.await, Ok(Outcome::Kept(_))));
}

#[tokio::test(start_paused = true)]
async fn a_second_attempt_waits_for_the_first_no_longer_than_its_own_deadline() {
    let (bus, pipeline) = pipeline();
    let first = attempt(&pipeline);
    settled().await;
    tokio::time::advance(Duration::from_secs(4)).await;
    let asked = Instant::now();
    assert_eq!(attempt(&pipeline).await, Ok(Outcome::Unanswered));
    assert_eq!(asked.elapsed(), Duration::from_secs(5));
    assert_eq!(first.await, Ok(Outcome::Unanswered));
    assert_eq!(bus.waiting(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_outcome_is_counted_even_if_its_client_disconnected() {
    let (bus, pipeline) = pipeline();
    let counted = || pipeline.metrics.text().contains(r#"endpoint="terra",outcome="kept"} 1"#);
    let kept = attempt(&pipeline);
    settled().await;
    drop(kept);
    settled().await;
    assert!(!counted());
    bus.answer(Ok(Receipt::Kept));
    settled().await;
    assert!(counted(), "{}", pipeline.metrics.text());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_bridge_waits_for_deliveries_whose_client_disconnected() {
    let (bus, pipeline) = pipeline();
    let kept = attempt(&pipeline);
    settled().await;
    drop(kept);
    pipeline.deliveries.close();
    let deliveries = pipeline.deliveries.clone();
    let drained = tokio::spawn(async move { deliveries.wait().await });
    settled().await;
    assert!(!drained.is_finished());
    bus.answer(Ok(Receipt::Kept));
    drained.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_panic_costs_its_delivery_the_outcome_and_the_next_attempt_nothing() {
    let (bus, pipeline) = pipeline();
    let first = attempt(&pipeline);
    settled().await;
    // Its publish panics then.
    bus.forget();
    assert_eq!(first.await, Ok(Outcome::Unanswered));
    let retry = attempt(&pipeline);
    settled().await;
    bus.answer(Ok(Receipt::Kept));
    assert!(matches!(retry.await, Ok(Outcome::Kept(_))));
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_never_answers_times_out_and_is_tried_again() {
    let (bus, pipeline) = pipeline();
    assert_eq!(attempt(&pipeline).await, Ok(Outcome::Unanswered));
    tokio::time::sleep(Duration::from_secs(6)).await;
    let again = attempt(&pipeline);
    settled().await;
    assert_eq!(bus.waiting(), 2);
    bus.forget();
    bus.answer(Ok(Receipt::Kept));
    assert!(matches!(again.await, Ok(Outcome::Kept(_))));
}

fn spool(dir: &tempfile::TempDir, max_age: Duration) -> Option<config::Spool> {
    Some(config::Spool { dir: dir.path().to_owned(), max_bytes: 1 << 30, max_age, reserve: 0 })
}

fn of_user(user: &str, n: usize) -> String {
    format!(r#"{{"type":"daily","user":{{"user_id":"{user}"}},"n":{n}}}"#)
}

/// So long that no test waits for it to end.
const LONG: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_full_spool_leaves_only_the_bus() {
    let dir = tempfile::tempdir().unwrap();
    let (bus, pipeline) = pipeline_with(spool(&dir, Duration::ZERO));
    let first = attempt_at(&pipeline, &of_user("a", 0), LONG);
    until("the bus is asked", || bus.waiting() == 1).await;
    bus.answer(transient());
    assert!(matches!(first.await, Ok(Outcome::Spooled(_))));
    let held = pipeline.destination.spool.as_ref().unwrap();
    until("it is too old", || !held.gauges().oldest.is_zero()).await;

    let other = attempt_at(&pipeline, &of_user("b", 0), LONG);
    until("the bus is asked", || bus.waiting() == 1).await;
    bus.answer(transient());
    assert!(matches!(other.await, Ok(Outcome::Unspooled(_))));
    let other = attempt_at(&pipeline, &of_user("b", 1), LONG);
    until("the bus is asked again", || bus.waiting() == 1).await;
    bus.answer(Ok(Receipt::Kept));
    assert!(matches!(other.await, Ok(Outcome::Kept(_))));
    let behind = attempt_at(&pipeline, &of_user("a", 1), LONG);
    assert!(matches!(behind.await, Ok(Outcome::Unspooled(_))), "the bus must not have it first");
    assert_eq!(bus.waiting(), 0);
}

#[tokio::test]
async fn a_message_is_not_spooled_while_the_bus_holds_an_earlier_one_of_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let (bus, pipeline) = pipeline_with(spool(&dir, HOUR));
    let held = pipeline.destination.spool.clone().unwrap();
    let other = attempt_at(&pipeline, &of_user("b", 0), LONG);
    until("the bus is asked", || bus.waiting() == 1).await;
    let first = attempt_at(&pipeline, &of_user("a", 0), LONG);
    until("the bus is asked for both", || bus.waiting() == 2).await;
    bus.answer(transient());
    assert!(matches!(other.await, Ok(Outcome::Spooled(_))));
    let later: Vec<_> = (1..4).map(|n| attempt_at(&pipeline, &of_user("a", n), LONG)).collect();
    let beside = attempt_at(&pipeline, &of_user("c", 0), LONG);
    assert!(matches!(beside.await, Ok(Outcome::Spooled(_))), "the bus has not taken anything since");
    assert_eq!((held.gauges().messages, bus.waiting()), (2, 1));
    bus.answer(transient());
    assert!(matches!(first.await, Ok(Outcome::Spooled(_))));
    for later in later {
        assert!(matches!(later.await, Ok(Outcome::Spooled(_))));
    }

    let stop = tokio_util::sync::CancellationToken::new();
    let drainer = tokio::spawn(crate::spool::drain(held.clone(), pipeline.destination.bus.clone(), LONG, stop.clone()));
    let mut sent = Vec::new();
    while held.gauges().messages > 0 {
        until("more is sent, or all has gone", || bus.waiting() > 0 || held.gauges().messages == 0).await;
        sent.extend(bus.payloads());
        (0..bus.waiting()).for_each(|_| bus.answer(Ok(Receipt::Kept)));
    }
    sent.retain(|payload| payload.contains(r#""a""#));
    assert_eq!(sent, (0..4).map(|n| of_user("a", n)).collect::<Vec<_>>());
    stop.cancel();
    drainer.await.unwrap();
}

#[tokio::test]
async fn a_bus_without_time_left_is_not_tried_and_not_counted_as_refusing() {
    let dir = tempfile::tempdir().unwrap();
    let (bus, pipeline) = pipeline_with(spool(&dir, HOUR));
    let mut hurried = Pipeline::clone(&pipeline);
    hurried.destination.spool_time = LONG;
    let hurried = Arc::new(hurried);
    let late = attempt_at(&hurried, &of_user("a", 0), LONG);
    assert!(matches!(late.await, Ok(Outcome::Spooled(_))));
    assert_eq!(bus.waiting(), 0);
    let timely = attempt_at(&pipeline, &of_user("b", 0), LONG);
    until("the bus is asked", || bus.waiting() == 1).await;
    bus.answer(Ok(Receipt::Kept));
    assert!(matches!(timely.await, Ok(Outcome::Kept(_))));
}
