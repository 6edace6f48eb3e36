//! Kafka messages that the client library reports as delivered without confirmation: none is answered as kept.

use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::bridge::Bridge;
use crate::support::consumers::{Bus, Got};
use crate::support::http::Response;
use crate::support::kafka_proxy::{Fault, KafkaProxy};
use crate::support::terra::Attempt;
use crate::support::until;

const WITHIN: Duration = Duration::from_secs(60);

fn of_user(user: &str) -> Attempt {
    Attempt::of(format!(r#"{{"type":"daily","user":{{"user_id":"{user}"}}}}"#)).header("x-terra-trace-id", user)
}

/// A bridge that reaches the broker through a proxy, and the proxy.
fn behind_a_proxy(bus: &Bus, fault: Fault, settings: &[(&str, &str)]) -> (Bridge, KafkaProxy) {
    let Bus::Kafka { brokers, .. } = bus else { unreachable!("these tests are Kafka's") };
    let proxy = KafkaProxy::start(brokers, &bus.topic("daily"), fault);
    let mut environment = bus.environment_with(settings);
    environment.push(("TERRA_BRIDGE_KAFKA__BROKERS".into(), proxy.address()));
    (Bridge::ready(&environment), proxy)
}

fn ended(response: &Response) -> (u16, String) {
    (response.status, response.json()["outcome"].as_str().expect("an outcome").to_owned())
}

/// How `early` and `late` ended, after the broker accepted only the batch of `late`.
fn overtaken(bridge: &Bridge, proxy: &KafkaProxy, early: &Attempt, late: &Attempt) -> [(u16, String); 2] {
    // A new topic may still be unknown, and nothing may be sent to it before that.
    let struck = |response: Response| proxy.has_struck().then_some(response);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| until("it is sent", WITHIN, || struck(early.post(bridge.deliveries))));
        until("the first request is held back", WITHIN, || proxy.has_struck().then_some(()));
        let late = late.post(bridge.deliveries);
        [waiting.join().expect("an answer"), late].map(|response| ended(&response))
    })
}

/// Another producer stores one message, so that the topic exists from then on.
fn kept_before(bus: &Bus) -> Attempt {
    let (bridge, before) = (Bridge::ready(&bus.environment()), of_user("before"));
    until("it is kept", WITHIN, || (before.post(bridge.deliveries).status == 200).then_some(()));
    before
}

fn unconfirmed(bridge: &Bridge) -> usize {
    let metrics = bridge.metrics();
    let counted = metrics.lines().filter(|line| line.starts_with("terra_bridge_published_total"));
    let counted = counted.filter(|line| line.contains(r#"result="unconfirmed""#));
    counted.map(|line| line.rsplit(' ').next().and_then(|n| n.parse::<usize>().ok()).expect("a number")).sum()
}

/// The topic has exactly these, in any order.
fn expect_on_topic(bus: &Bus, bridge: &Bridge, attempts: &[&Attempt]) {
    let got = bus.read(bridge, &bus.topic("daily"), attempts.len());
    assert_eq!(bus.count(bridge), attempts.len());
    let sorted = |mut payloads: Vec<Vec<u8>>| {
        payloads.sort();
        payloads
    };
    let got = sorted(got.into_iter().map(|got| got.payload).collect());
    assert_eq!(got, sorted(attempts.iter().map(|attempt| attempt.body.clone()).collect()));
}

/// `before`: the other producer's messages on the topic.
fn is_refused_and_kept_at_its_retry(bus: &Bus, before: &[&Attempt]) {
    let (early, late) = (of_user("early"), of_user("late"));
    let (bridge, proxy) = behind_a_proxy(bus, Fault::Overtaken, &[]);
    let answers = overtaken(&bridge, &proxy, &early, &late);
    assert_eq!(answers, [(503, "refused".to_owned()), (200, "kept".to_owned())]);
    assert_eq!(unconfirmed(&bridge), 1);
    expect_warning(&bridge, "never confirmed an earlier one");
    assert_eq!(ended(&early.post(bridge.deliveries)), (200, "kept".to_owned()), "the retry");
    assert_eq!(ended(&early.post(bridge.deliveries)), (200, "duplicate".to_owned()));
    expect_on_topic(bus, &bridge, &[before, &[&early, &late]].concat());
}

#[test]
fn what_only_a_later_batch_vouches_for_is_not_kept_on_a_new_topic() {
    let Some(bus) = Bus::kafka() else { return };
    is_refused_and_kept_at_its_retry(&bus, &[]);
}

#[test]
fn what_only_a_later_batch_vouches_for_is_not_kept_on_a_topic_with_records() {
    let Some(bus) = Bus::kafka() else { return };
    let before = kept_before(&bus);
    is_refused_and_kept_at_its_retry(&bus, &[&before]);
}

#[test]
fn what_only_a_later_batch_vouches_for_is_spooled_and_gets_to_the_topic() {
    let Some(bus) = Bus::kafka() else { return };
    let before = kept_before(&bus);
    let dir = TempDir::new().expect("a temporary directory");
    let spool = dir.path().join("spool").display().to_string();
    let (early, late) = (of_user("early"), of_user("late"));
    let settings = [("SPOOL__DIR", spool.as_str()), ("SPOOL__RESERVE", "1 MiB")];
    let (bridge, proxy) = behind_a_proxy(&bus, Fault::Overtaken, &settings);
    let answers = overtaken(&bridge, &proxy, &early, &late);
    assert_eq!(answers, [(200, "spooled".to_owned()), (200, "kept".to_owned())]);
    let drained = || bridge.metrics().lines().any(|line| line == "terra_bridge_spool_drained_total 1").then_some(());
    until("the spool is drained", WITHIN, drained);
    assert_eq!(ended(&early.post(bridge.deliveries)), (200, "duplicate".to_owned()));
    expect_on_topic(&bus, &bridge, &[&before, &early, &late]);
}

#[test]
fn no_message_of_a_batch_that_was_accepted_without_an_offset_is_kept() {
    let Some(bus) = Bus::kafka() else { return };
    kept_before(&bus);
    // Long enough for three concurrent deliveries to become one batch.
    let settings = [("KAFKA__PROPERTIES", r#"{ "linger.ms" = 1000 }"#)];
    let (bridge, _proxy) = behind_a_proxy(&bus, Fault::WithoutOffset, &settings);
    let attempts = ["a", "b", "c"].map(of_user);
    let post_all = || {
        thread::scope(|scope| {
            let posting = attempts.each_ref().map(|attempt| scope.spawn(|| ended(&attempt.post(bridge.deliveries))));
            posting.map(|posting| posting.join().expect("an answer"))
        })
    };
    assert_eq!(post_all(), [(); 3].map(|()| (503, "refused".to_owned())));
    assert_eq!(unconfirmed(&bridge), 3);
    assert_eq!(post_all(), [(); 3].map(|()| (200, "kept".to_owned())), "the retry");
    // This broker did store them: the price is a copy of each.
    let got = bus.read(&bridge, &bus.topic("daily"), 7);
    attempts.iter().for_each(|attempt| expect_copy(&got, attempt));
}

#[test]
fn what_is_not_confirmed_in_time_may_be_on_the_topic_and_the_log_says_that_its_retry_makes_a_copy() {
    let Some(bus) = Bus::kafka() else { return };
    kept_before(&bus);
    let (bridge, proxy) = behind_a_proxy(&bus, Fault::Unanswered, &[]);
    let attempt = of_user("slow");
    assert_eq!(ended(&attempt.post(bridge.deliveries)), (503, "refused".to_owned()));
    expect_warning(&bridge, "may be on its topic all the same, and its retry then makes a copy");
    proxy.mend();
    until("the retry is kept", WITHIN, || (attempt.post(bridge.deliveries).status == 200).then_some(()));
    expect_copy(&bus.read(&bridge, &bus.topic("daily"), 3), &attempt);
}

fn expect_warning(bridge: &Bridge, words: &str) {
    let said = || bridge.log().lines().any(|line| line.contains("WARN") && line.contains(words));
    until("a WARN", WITHIN, || said().then_some(()));
}

/// Twice, under one id.
fn expect_copy(got: &[Got], attempt: &Attempt) {
    let copies = got.iter().filter(|got| got.payload == attempt.body);
    let mut ids: Vec<_> = copies.map(|got| got.attribute("id")).collect();
    assert_eq!(ids.len(), 2);
    ids.dedup();
    assert_eq!(ids.len(), 1);
}
