//! What becomes of a delivery whose bus takes its time, on a bus that answers when the test says so.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::*;
use crate::bus::Link;
use crate::metrics::Readings;
use crate::route::Topic;
use crate::signature::tests::{delivery, endpoint};

/// Answers in the order in which it was asked, when the test says so.
#[derive(Default)]
struct Slow(Mutex<VecDeque<oneshot::Sender<Result<Receipt, Refusal>>>>);

impl Slow {
    fn asked(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn answer(&self, answer: Result<Receipt, Refusal>) {
        self.0.lock().unwrap().pop_front().expect("was asked").send(answer).expect("somebody waits");
    }
}

impl Bus for Slow {
    fn publish(&self, _: Arc<Message>) -> Pending<Result<Receipt, Refusal>> {
        let (answer, answered) = oneshot::channel();
        self.0.lock().unwrap().push_back(answer);
        Box::pin(async move { answered.await.expect("the test answers") })
    }

    fn topics(&self, _: Vec<Topic>) {}

    fn link(&self) -> watch::Receiver<Link> {
        watch::channel(Link::Up).1
    }

    fn close(&self) -> Pending<()> {
        Box::pin(std::future::ready(()))
    }
}

fn line() -> (Arc<Slow>, Arc<Line>) {
    let environment = [("TERRA_SIGNING_SECRET".into(), "secret".into())];
    let config = config::load(None, environment.into_iter(), false).unwrap().config;
    let routes = Arc::new(Table::of(&config).unwrap());
    let (bus, dedupe) = (Arc::new(Slow::default()), Dedupe::new(Duration::from_secs(60), 10));
    let (budget, metrics) = (Budget::new(1 << 20), Metrics::new(Readings::default()));
    let stages = Stages { routes, fetcher: None, dedupe, bus: bus.clone(), spool: None, budget, metrics };
    let relay = Relay::new(&config, stages);
    (bus, relay.line())
}

/// An attempt at always the same delivery, with five seconds for the bus.
fn attempt(line: &Arc<Line>) -> oneshot::Receiver<Outcome> {
    assert_eq!(endpoint(&["secret"]).name, "terra");
    let delivery = delivery(br#"{"type":"daily"}"#, HeaderMap::new());
    let (to, outcome) = oneshot::channel();
    let arrived = Instant::now();
    let answer = Answer { to, metrics: line.metrics.clone(), endpoint: endpoint(&["secret"]), arrived };
    line.publishes.spawn(keep(line.clone(), delivery, arrived + Duration::from_secs(5), answer));
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
    let (bus, line) = line();
    assert_eq!(attempt(&line).await, Ok(Outcome::Unanswered));
    let retry = attempt(&line);
    settled().await;
    assert_eq!(bus.asked(), 1, "the bus still has the first");
    bus.answer(Ok(Receipt::Kept));
    assert!(matches!(retry.await, Ok(Outcome::Duplicate(_))));
    assert!(matches!(attempt(&line).await, Ok(Outcome::Duplicate(_))));
    assert_eq!(bus.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_second_attempt_shares_the_refusal_and_a_third_asks_again() {
    let (bus, line) = line();
    let (first, second) = (attempt(&line), attempt(&line));
    settled().await;
    assert_eq!(bus.asked(), 1);
    bus.answer(transient());
    assert!(matches!(first.await, Ok(Outcome::Refused(_))));
    assert!(matches!(second.await, Ok(Outcome::Refused(_))));
    let third = attempt(&line);
    settled().await;
    bus.answer(Ok(Receipt::Kept));
    assert!(matches!(third.await, Ok(Outcome::Kept(_))));
}

#[tokio::test(start_paused = true)]
async fn a_second_attempt_waits_for_the_first_no_longer_than_its_own_deadline() {
    let (bus, line) = line();
    let first = attempt(&line);
    settled().await;
    tokio::time::advance(Duration::from_secs(4)).await;
    let asked = Instant::now();
    assert_eq!(attempt(&line).await, Ok(Outcome::Unanswered));
    assert_eq!(asked.elapsed(), Duration::from_secs(5));
    assert_eq!(first.await, Ok(Outcome::Unanswered));
    assert_eq!(bus.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_becomes_of_a_delivery_is_counted_also_where_its_client_left() {
    let (bus, line) = line();
    let counted = || line.metrics.text().contains(r#"endpoint="terra",outcome="kept"} 1"#);
    let kept = attempt(&line);
    drop(kept);
    settled().await;
    assert!(!counted());
    bus.answer(Ok(Receipt::Kept));
    settled().await;
    assert!(counted(), "{}", line.metrics.text());
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_never_answers_is_given_up_and_asked_again() {
    let (bus, line) = line();
    assert_eq!(attempt(&line).await, Ok(Outcome::Unanswered));
    tokio::time::sleep(Duration::from_secs(6)).await;
    let again = attempt(&line);
    settled().await;
    assert_eq!(bus.asked(), 2);
    bus.0.lock().unwrap().pop_front();
    bus.answer(Ok(Receipt::Kept));
    assert!(matches!(again.await, Ok(Outcome::Kept(_))));
}
