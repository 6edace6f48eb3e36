//! What is set aside: listed, sent again, discarded, and cut off in the middle of either.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::bus::{Bus, Receipt};
use crate::log::ReadError;

/// A spool with these messages set aside.
async fn with_set_aside(dir: &Path, messages: &[(&str, usize)]) -> Spool {
    let spool = open(dir, |_| {});
    for (key, n) in messages {
        take(&spool, message(key, *n)).await.unwrap();
    }
    drained(&spool, &Moody::new(|_, _| Err(for_good()))).await;
    assert_eq!(spool.gauges().set_aside, messages.len() as u64);
    spool
}

fn payloads(spool: &Spool, which: Which) -> Vec<String> {
    let mut all = Vec::new();
    let read = spool.held(which, |held| {
        all.push(String::from_utf8(held.record.payload.to_vec()).unwrap());
        true
    });
    read.unwrap();
    // Keys are set aside in any order.
    all.sort();
    all
}

fn id(key: &str, n: usize) -> String {
    message(key, n).id().to_string()
}

fn place(spool: &Spool, key: &str, n: usize) -> Place {
    let (wanted, mut found) = (id(key, n), None);
    let find = |held: Held| {
        let (id, record) = (held.id().unwrap(), held.record);
        found = found.take().or((id == wanted).then_some(Place { topic: record.topic, offset: record.offset, id }));
        true
    };
    spool.held(Which::SetAside, find).unwrap();
    found.expect("it is set aside")
}

async fn retry(spool: &Spool, bus: &Arc<Moody>, ids: Option<Vec<String>>) -> Retried {
    let bus: Arc<dyn Bus> = Arc::new(Shared(bus.clone()));
    spool.retry(bus, Duration::from_secs(5), CancellationToken::new(), ids).await.unwrap()
}

#[tokio::test]
async fn what_waits_and_what_is_set_aside_is_listed_with_the_last_reason() {
    let dir = tempfile::tempdir().unwrap();
    let spool = with_set_aside(dir.path(), &[("a", 0), ("b", 1)]).await;
    take(&spool, message("c", 2)).await.unwrap();
    assert_eq!(payloads(&spool, Which::SetAside), ["0000", "0001"]);
    assert_eq!(payloads(&spool, Which::Waiting), ["0002"]);
    assert_eq!(payloads(&spool, Which::All).len(), 3);
    let reasons = |spool: &Spool| {
        let mut all = std::collections::BTreeMap::new();
        spool
            .held(Which::SetAside, |held| {
                assert!(held.record.headers.iter().all(|(name, _)| name != crate::message::SET_ASIDE));
                let set_aside = held.set_aside.unwrap();
                all.insert(held.record.key.unwrap(), (set_aside.reason, set_aside.last_try > held.record.time));
                true
            })
            .unwrap();
        all
    };
    let first = (for_good().to_string(), false);
    let of = |a: &(String, bool), b: &(String, bool)| [("a".to_owned(), a.clone()), ("b".to_owned(), b.clone())].into();
    assert_eq!(reasons(&spool), of(&first, &first));
    let retried = retry(&spool, &Moody::new(|_, _| Err(transient())), Some(vec![id("b", 1)])).await;
    assert_eq!((retried.sent, retried.left, retried.reasons["not now"]), (0, 1, 1));
    assert_eq!(reasons(&spool), of(&first, &("not now".to_owned(), true)));
    spool.0.set_aside.log.store.lose("t", 1);
    let (mut unreadable, mut seen) = (0, 0);
    let read = spool.held(Which::SetAside, |held| {
        seen += 1;
        unreadable += u32::from(held.record.problem.is_some());
        true
    });
    read.unwrap();
    assert_eq!((seen, unreadable), (2, 1), "a damaged one is named and hides no other");
    spool.close().await;
    assert!(matches!(spool.held(Which::All, |_| true), Err(ReadError::Closed) | Ok(())));
}

#[tokio::test]
async fn a_retry_sends_the_named_ones_behind_the_earlier_ones_of_their_key() {
    let dir = tempfile::tempdir().unwrap();
    let all = [("a", 0), ("a", 1), ("a", 2), ("b", 0)];
    let spool = with_set_aside(dir.path(), &all).await;
    let bus = Moody::new(|_, _| Ok(Receipt::Kept));
    let retried = retry(&spool, &bus, Some(vec![id("a", 1)])).await;
    assert_eq!((retried.sent, retried.left), (1, 0));
    assert_eq!((bus.of_key("a"), bus.of_key("b").len()), (vec!["0000".into(), "0001".into(), "0002".into()], 0));
    assert_eq!((payloads(&spool, Which::SetAside), spool.gauges().set_aside), (vec!["0000".to_owned()], 1));
    assert_eq!(retry(&spool, &bus, Some(vec!["0123456789".to_owned()])).await, Retried::default());
    assert_eq!(retry(&spool, &bus, None).await.sent, 1);
    spool.close().await;
    assert!(payloads(&open(dir.path(), |_| {}), Which::All).is_empty());
}

#[tokio::test]
async fn a_refused_message_stays_set_aside_and_those_behind_it_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let spool = with_set_aside(dir.path(), &[("a", 0), ("a", 1), ("b", 2)]).await;
    let bus = Moody::new(|message, _| if message.key() == "a" { Err(for_good()) } else { Ok(Receipt::Kept) });
    let retried = retry(&spool, &bus, None).await;
    assert_eq!((retried.sent, retried.left, retried.reasons.len()), (1, 2, 2));
    assert_eq!(payloads(&spool, Which::SetAside), ["0000", "0001"]);
    bus.connection.send_replace(ConnectionState::Away);
    let retried = retry(&spool, &bus, None).await;
    assert!(retried.untried.is_some() && bus.asked.load(Relaxed) == 2, "nothing is tried while the bus is away");
}

#[tokio::test]
async fn only_what_is_named_by_place_and_id_is_discarded() {
    let dir = tempfile::tempdir().unwrap();
    let spool = with_set_aside(dir.path(), &[("a", 0), ("b", 1), ("c", 2)]).await;
    let (one, other) = (place(&spool, "b", 1), place(&spool, "c", 2));
    let wrong = Place { id: id("a", 0), ..other };
    assert_eq!(spool.discard(vec![one.clone(), wrong]).await.unwrap(), 1);
    assert_eq!(spool.discard(vec![one]).await.unwrap(), 0, "it is gone");
    for _ in 0..2 {
        assert_eq!((payloads(&spool, Which::SetAside).len(), spool.gauges().set_aside), (2, 2));
    }
    spool.close().await;
    let spool = open(dir.path(), |_| {});
    assert_eq!(payloads(&spool, Which::SetAside), ["0000", "0002"]);
    let bus = Moody::new(|_, _| Ok(Receipt::Kept));
    assert_eq!(retry(&spool, &bus, None).await.sent, 2);
    assert!(bus.of_key("b").is_empty());
}

#[tokio::test]
async fn the_drain_goes_on_beside_a_retry_and_waits_for_it_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let spool = with_set_aside(dir.path(), &[("a", 0)]).await;
    let (bus, stop) = (Arc::new(SlowBus::default()), CancellationToken::new());
    let (asking, to, stopped) = (spool.clone(), bus.clone(), stop.clone());
    let retrying = tokio::spawn(async move { asking.retry(to, Duration::from_secs(60), stopped, None).await.unwrap() });
    until("the retry is in flight", || bus.waiting() == 1).await;
    let drainer = tokio::spawn(drain(spool.clone(), bus.clone(), Duration::from_secs(60), stop.clone()));
    take(&spool, message("b", 1)).await.unwrap();
    until("the drain sends as well", || bus.waiting() == 2).await;
    assert_eq!(bus.payloads(), ["0000", "0001"], "and nothing twice");
    stop.cancel();
    let slow = bus.clone();
    tokio::spawn(async move {
        tokio::task::yield_now().await;
        slow.answer(Ok(Receipt::Kept));
        slow.answer(Ok(Receipt::Kept));
    });
    tokio::time::timeout(Duration::from_secs(30), drainer).await.expect("it ends").unwrap();
    assert_eq!(retrying.await.unwrap().sent, 1);
    assert_eq!((spool.gauges().messages, spool.gauges().set_aside), (0, 0));
}

/// What somebody does with a spool.
#[derive(Debug, Clone)]
enum Deed {
    Retry { refuses: u8 },
    Discard(usize),
    Reopen,
}

fn deeds() -> impl Strategy<Value = Vec<(Deed, usize)>> {
    let deed = prop_oneof![
        any::<u8>().prop_map(|refuses| Deed::Retry { refuses }),
        (0..12_usize).prop_map(Deed::Discard),
        Just(Deed::Reopen),
    ];
    // Each is cut off after so many polls.
    prop::collection::vec((deed, 0..60_usize), 1..12)
}

/// Polls the future so often at most, then drops it.
async fn cut_off<T>(future: impl Future<Output = T>, polls: usize) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut left = polls;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return std::task::Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_wherever_a_retry_or_a_discard_is_cut_off(deeds in deeds()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let wrong = runtime.block_on(lives(deeds));
        prop_assert!(wrong.is_ok(), "{wrong:?}");
    }
}

async fn lives(deeds: Vec<(Deed, usize)>) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let keys = ["a", "b", "c"];
    let all: Vec<(&str, usize)> = (0..12).map(|n| (keys[n % 3], n)).collect();
    let mut spool = with_set_aside(dir.path(), &all).await;
    let refuses = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let (judge, forgives) = (refuses.clone(), AtomicBool::new(false));
    let bus = Moody::new(move |_, asked| {
        let is_refused = judge.load(Relaxed) >> (asked % 8) & 1 == 1 && !forgives.load(Relaxed);
        if is_refused { Err(for_good()) } else { Ok(Receipt::Kept) }
    });
    let mut discarded = BTreeSet::new();
    for (deed, polls) in deeds {
        match deed {
            Deed::Retry { refuses: bits } => {
                refuses.store(bits.into(), Relaxed);
                let to: Arc<dyn Bus> = Arc::new(Shared(bus.clone()));
                let stop = CancellationToken::new();
                cut_off(spool.retry(to, Duration::from_secs(5), stop, None), polls).await;
            }
            Deed::Discard(n) => {
                let (wanted, mut places) = (id(all[n].0, n), Vec::new());
                let find = |held: Held| {
                    let id = held.id().unwrap();
                    if id == wanted {
                        places.push(Place { topic: held.record.topic, offset: held.record.offset, id });
                    }
                    true
                };
                spool.held(Which::SetAside, find).unwrap();
                discarded.insert(format!("{n:04}"));
                cut_off(spool.discard(places), polls).await;
            }
            Deed::Reopen => {
                spool.close().await;
                spool = open(dir.path(), |_| {});
            }
        }
        let there: BTreeSet<String> = payloads(&spool, Which::SetAside).into_iter().collect();
        let sent: BTreeSet<String> = keys.iter().flat_map(|key| bus.of_key(key)).collect();
        for (_, n) in &all {
            let payload = format!("{n:04}");
            let is_kept = there.contains(&payload) || sent.contains(&payload) || discarded.contains(&payload);
            if !is_kept {
                return Err(format!("{payload} is lost"));
            }
        }
    }
    refuses.store(0, Relaxed);
    let left = retry(&spool, &bus, None).await.left;
    if left > 0 { Err(format!("{left} cannot be sent")) } else { Ok(()) }
}
