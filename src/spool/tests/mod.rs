//! Drains to a bus that refuses as the test decides.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::bus::fakes::SlowBus;
use crate::bus::{Bus, ConnectionState, Pending, Receipt, Refusal, Scope};
use crate::clock::{Clock, Set};
use crate::config;
use crate::dedupe::DedupeEntry;
use crate::message::Message;
use crate::route::Topic;
use crate::telemetry::lines::Lines;

mod aside;

type Judge = dyn Fn(&Message, usize) -> Result<Receipt, Refusal> + Send + Sync;

/// A bus that keeps what its `judge` lets it, and answers a little later, in any order.
struct Moody {
    judge: Box<Judge>,
    asked: AtomicU64,
    kept: Mutex<Vec<(String, String)>>,
    /// Set if the test does not care what was kept.
    forgets: AtomicBool,
    /// A client may release a message after its answer.
    last: Mutex<Option<Arc<Message>>>,
    connection: watch::Sender<ConnectionState>,
}

impl Moody {
    /// The judge sees the message and the number of messages before it.
    fn new(judge: impl Fn(&Message, usize) -> Result<Receipt, Refusal> + Send + Sync + 'static) -> Arc<Self> {
        let connection = watch::Sender::new(ConnectionState::Up);
        Arc::new(Self {
            judge: Box::new(judge),
            asked: AtomicU64::new(0),
            kept: Mutex::default(),
            forgets: AtomicBool::new(false),
            last: Mutex::default(),
            connection,
        })
    }

    fn of_key(&self, key: &str) -> Vec<String> {
        let kept = self.kept.lock().unwrap();
        kept.iter().filter(|(of, _)| of == key).map(|(_, payload)| payload.clone()).collect()
    }
}

/// A newtype for the trait, so that the test keeps its own handle on the bus.
struct Shared(Arc<Moody>);

impl Bus for Shared {
    fn publish(&self, message: Arc<Message>) -> Pending<Result<Receipt, Refusal>> {
        let moody = self.0.clone();
        Box::pin(async move {
            let asked = moody.asked.fetch_add(1, Relaxed) as usize;
            for _ in 0..(asked * 7) % 5 {
                tokio::task::yield_now().await;
            }
            let answer = (moody.judge)(&message, asked);
            if answer.is_ok() && !moody.forgets.load(Relaxed) {
                let payload = String::from_utf8(message.payload().to_vec()).unwrap();
                moody.kept.lock().unwrap().push((message.key().to_owned(), payload));
            }
            *moody.last.lock().unwrap() = Some(message);
            answer
        })
    }

    fn topics(&self, _: Vec<Topic>) {}

    fn connection(&self) -> watch::Receiver<ConnectionState> {
        self.0.connection.subscribe()
    }

    fn close(&self) -> Pending<()> {
        Box::pin(std::future::ready(()))
    }
}

fn open(dir: &Path, known: impl FnMut(DedupeEntry)) -> Spool {
    let (max_age, reserve) = (Duration::from_secs(3600), 0);
    let config = config::Spool { dir: dir.to_owned(), max_bytes: 1 << 30, max_age, reserve };
    Spool::open(&config, 1000, Clock::system(), known).unwrap()
}

fn message(key: &str, n: usize) -> Arc<Message> {
    let mut id = crate::identity::digest(&[key.as_bytes()]);
    id[..8].copy_from_slice(&n.to_be_bytes());
    Arc::new(Message::sample("t", key, id, format!("{n:04}")))
}

/// Waits for a condition with a deadline.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(tokio::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn take(spool: &Spool, message: Arc<Message>) -> Result<Receipt, Refusal> {
    spool.acquire(&message).spool(message).await
}

fn path(spool: &Spool, key: &str) -> DeliveryPath {
    spool.acquire(&message(key, 1000)).path()
}

async fn drained(spool: &Spool, bus: &Arc<Moody>) {
    let stop = CancellationToken::new();
    let bus = Arc::new(Shared(bus.clone()));
    let drainer = tokio::spawn(drain(spool.clone(), bus, Duration::from_secs(5), stop.clone()));
    tokio::time::timeout(Duration::from_secs(60), spool.emptied()).await.expect("the spool empties");
    stop.cancel();
    drainer.await.unwrap();
}

fn transient() -> Refusal {
    Refusal::Transient { reason: "not now".into() }
}

fn for_good() -> Refusal {
    Refusal::TooLarge { remedy: "make it smaller".into() }
}

#[tokio::test]
async fn each_key_keeps_its_order_whatever_fails() {
    const KEYS: usize = 20;
    const EACH: usize = 30;
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path(), |_| {});
    for n in 0..EACH {
        for key in 0..KEYS {
            assert_eq!(take(&spool, message(&format!("k{key}"), n)).await, Ok(Receipt::Kept));
        }
    }
    let bus = Moody::new(|_, asked| if asked * asked % 7 == 2 { Err(transient()) } else { Ok(Receipt::Kept) });
    drained(&spool, &bus).await;
    for key in 0..KEYS {
        let expected: Vec<_> = (0..EACH).map(|n| format!("{n:04}")).collect();
        assert_eq!(bus.of_key(&format!("k{key}")), expected, "key {key}");
    }
}

#[tokio::test]
async fn a_permanently_refused_message_is_set_aside_and_blocks_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path(), |_| {});
    for n in 0..10 {
        take(&spool, message("k", n)).await.unwrap();
    }
    let bus =
        Moody::new(|message, _| if &message.payload()[..] == b"0003" { Err(for_good()) } else { Ok(Receipt::Kept) });
    drained(&spool, &bus).await;
    assert_eq!(bus.of_key("k").len(), 9);
    assert_eq!((spool.gauges().messages, spool.gauges().set_aside), (0, 1));
    spool.close().await;
    let findings = inspect(&spool.0.config).unwrap();
    assert!(findings.iter().any(|finding| finding.says.contains("1 messages for t are set aside")), "{findings:?}");

    let spool = open(dir.path(), |_| {});
    assert_eq!(spool.gauges().set_aside, 1);
    take(&spool, message("other", 0)).await.unwrap();
    let mended = Moody::new(|_, _| Ok(Receipt::Kept));
    let (stop, bus) = (CancellationToken::new(), Arc::new(Shared(mended.clone())));
    let drainer = tokio::spawn(drain(spool.clone(), bus, Duration::from_secs(5), stop.clone()));
    while spool.gauges().set_aside > 0 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    drainer.await.unwrap();
    assert_eq!(mended.of_key("k"), ["0003"]);
}

#[tokio::test]
async fn a_bus_that_refuses_everything_leaves_the_spool_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path(), |_| {});
    for n in 0..10 {
        take(&spool, message("k", n)).await.unwrap();
    }
    let full = || Refusal::Permanent { scope: Scope::Bus, reason: "it is full".into(), remedy: "empty it".into() };
    let bus = Moody::new(move |_, asked| if asked < 5 { Err(full()) } else { Ok(Receipt::Kept) });
    drained(&spool, &bus).await;
    assert_eq!(bus.of_key("k"), (0..10).map(|n| format!("{n:04}")).collect::<Vec<_>>());
    assert_eq!(spool.gauges().set_aside, 0);
}

#[tokio::test]
async fn an_unconfirmed_message_is_sent_again_and_not_counted_until_confirmed() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path(), |_| {});
    for n in 0..10 {
        take(&spool, message("k", n)).await.unwrap();
    }
    let unconfirmed = || Refusal::Unconfirmed { reason: "nobody said so".into() };
    let counting = spool.clone();
    let bus = Moody::new(move |_, asked| {
        if asked < 5 {
            assert_eq!(counting.gauges().drained, 0);
            return Err(unconfirmed());
        }
        Ok(Receipt::Kept)
    });
    drained(&spool, &bus).await;
    assert_eq!(bus.of_key("k"), (0..10).map(|n| format!("{n:04}")).collect::<Vec<_>>());
    assert_eq!((spool.gauges().drained, spool.gauges().set_aside), (10, 0));
}

#[tokio::test]
async fn a_bus_that_is_down_sets_nothing_aside() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path(), |_| {});
    take(&spool, message("k", 0)).await.unwrap();
    let bus = Moody::new(|_, asked| if asked < 5 { Err(for_good()) } else { Ok(Receipt::Kept) });
    // Each change of the connection state ends a back-off.
    let stays_away = async {
        loop {
            bus.connection.send_replace(ConnectionState::Away);
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = drained(&spool, &bus) => {}
        () = stays_away => {}
    }
    assert_eq!((bus.of_key("k").len(), spool.gauges().set_aside), (1, 0));
}

#[tokio::test]
async fn drained_messages_and_remembered_deliveries_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path(), |_| {});
    for n in 0..100 {
        take(&spool, message(&format!("k{}", n % 9), n)).await.unwrap();
    }
    let known = DedupeEntry { kept: Timestamp::from_second(7).unwrap(), keys: [[1; 16], [2; 16]] };
    spool.remember(known).await;
    // Drains a part, as if stopped in the middle.
    let first = Moody::new(|message, _| if message.key() < "k5" { Ok(Receipt::Kept) } else { Err(transient()) });
    let (stop, bus) = (CancellationToken::new(), Arc::new(Shared(first.clone())));
    let drainer = tokio::spawn(drain(spool.clone(), bus, Duration::from_secs(5), stop.clone()));
    while spool.gauges().drained < 50 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    drainer.await.unwrap();
    let left = spool.gauges().messages;
    assert!((1..=50).contains(&left), "{left}");
    spool.close().await;

    let mut recalled = Vec::new();
    let spool = open(dir.path(), |known| recalled.push(known));
    assert_eq!((spool.gauges().messages, recalled.len()), (left, 101), "all are known, sent or not");
    assert!(
        recalled.contains(&known) && recalled.iter().any(|entry| entry.keys == message("k0", 99).identity().keys())
    );
    assert_eq!((path(&spool, "k8"), path(&spool, "k0")), (DeliveryPath::SpoolOnly, DeliveryPath::BusFirst));
    let second = Moody::new(|_, _| Ok(Receipt::Kept));
    drained(&spool, &second).await;
    assert_eq!(path(&spool, "k8"), DeliveryPath::BusFirst);
    let mut all: Vec<_> = [first, second].iter().flat_map(|bus| bus.kept.lock().unwrap().clone()).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 100);
}

#[tokio::test]
async fn a_bus_that_refused_is_not_tried_until_it_takes_a_spooled_message() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path(), |_| {});
    assert_eq!(path(&spool, "a"), DeliveryPath::BusFirst, "nothing is spooled");
    spool.bus_refused();
    assert_eq!(path(&spool, "a"), DeliveryPath::BusFirst, "nothing is spooled that would find out");
    take(&spool, message("a", 0)).await.unwrap();
    assert_eq!((path(&spool, "a"), path(&spool, "b")), (DeliveryPath::SpoolOnly, DeliveryPath::SpoolFirst));
    spool.bus_kept();
    assert_eq!(path(&spool, "b"), DeliveryPath::BusFirst);
    drained(&spool, &Moody::new(|_, _| Ok(Receipt::Kept))).await;
    assert_eq!(path(&spool, "a"), DeliveryPath::BusFirst);
}

#[tokio::test]
async fn beyond_max_age_nothing_is_taken_until_the_oldest_message_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    const HOUR: Duration = Duration::from_secs(3600);
    let (max_age, clock) = (Duration::from_secs(60), Set::new(Timestamp::now() - HOUR));
    let config = config::Spool { dir: dir.path().to_owned(), max_bytes: 1 << 30, max_age, reserve: 0 };
    let spool = Spool::open(&config, 1, clock.clock.clone(), |_| {}).unwrap();
    clock.run(HOUR);
    take(&spool, message("a", 0)).await.unwrap();
    clock.jump(jiff::SignedDuration::from_hours(30 * 24));
    assert_eq!(take(&spool, message("a", 1)).await, Ok(Receipt::Kept), "no time has passed");
    clock.run(2 * max_age);
    assert!(matches!(take(&spool, message("a", 2)).await, Err(Refusal::Transient { .. })));
    drained(&spool, &Moody::new(|_, _| Ok(Receipt::Kept))).await;
    assert_eq!(take(&spool, message("b", 0)).await, Ok(Receipt::Kept));
}

#[tokio::test]
async fn space_is_freed_once_everything_is_drained() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path(), |_| {});
    for n in 0..40 {
        let mut id = [0; 32];
        id[0] = n;
        take(&spool, Arc::new(Message::sample("t", "k", id, vec![b'0' + n; 100_000]))).await.unwrap();
    }
    assert!(spool.gauges().bytes > 4_000_000);
    let (stop, bus) = (CancellationToken::new(), Arc::new(Shared(Moody::new(|_, _| Ok(Receipt::Kept)))));
    let drainer = tokio::spawn(drain(spool.clone(), bus, Duration::from_secs(5), stop.clone()));
    while spool.gauges().bytes > 0 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    drainer.await.unwrap();
}

#[test]
fn a_hanging_disk_blocks_only_callers_that_wait_for_a_receipt() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path(), |_| {});
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(take(&spool, message("k", 0))).unwrap();
    let hanging = spool.0.spooled.log.store.hang();
    let (answer, answered) = std::sync::mpsc::channel();
    let asked = spool.clone();
    // On a thread of its own, so that the test notices one that waits for the disk instead of waiting for it.
    std::thread::spawn(move || {
        runtime.block_on(async {
            let taking = take(&asked, message("k", 1));
            assert!(tokio::time::timeout(Duration::from_millis(50), taking).await.is_err(), "it cannot be on disk");
            answer.send(asked.gauges()).unwrap();
        });
    });
    let reading = answered.recv_timeout(Duration::from_secs(30)).expect("the thread is not held up");
    assert!(reading.messages == 2 && reading.bytes > 0, "{reading:?}");
    drop(hanging);
}

#[tokio::test]
async fn a_hanging_disk_does_not_delay_a_delivery_that_the_bus_has_kept() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path(), |_| {});
    let hanging = spool.0.spooled.log.store.hang();
    let known = DedupeEntry { kept: Timestamp::from_second(7).unwrap(), keys: [[1; 16], [2; 16]] };
    tokio::time::timeout(Duration::from_secs(30), spool.remember(known)).await.expect("it is given up");
    drop(hanging);
}

#[tokio::test]
async fn a_message_refused_by_a_failing_disk_is_not_sent_until_it_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path(), |_| {});
    take(&spool, message("k", 0)).await.unwrap();
    spool.0.spooled.log.store.fail();
    assert!(take(&spool, message("k", 1)).await.is_err());
    assert_eq!((spool.gauges().messages, spool.0.held().len()), (1, 1));
    let mut retry = take(&spool, message("k", 1)).await;
    while retry.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
        retry = take(&spool, message("k", 1)).await;
    }
    take(&spool, message("k", 2)).await.unwrap();
    let bus = Moody::new(|_, _| Ok(Receipt::Kept));
    drained(&spool, &bus).await;
    assert_eq!(bus.of_key("k"), ["0000", "0001", "0002"]);
    assert_eq!((path(&spool, "k"), spool.0.held().len()), (DeliveryPath::BusFirst, 0));
}

#[tokio::test]
async fn a_message_in_flight_when_the_drain_stops_is_awaited_and_not_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path(), |_| {});
    for n in 0..3 {
        take(&spool, message("k", n)).await.unwrap();
        take(&spool, message("j", n)).await.unwrap();
    }
    let (stop, bus) = (CancellationToken::new(), Arc::new(SlowBus::default()));
    let drainer = tokio::spawn(drain(spool.clone(), bus.clone(), Duration::from_secs(60), stop.clone()));
    until("one of each key is in flight", || bus.waiting() == 2).await;
    stop.cancel();
    bus.answer(Ok(Receipt::Kept));
    bus.answer(Ok(Receipt::Kept));
    tokio::time::timeout(Duration::from_secs(30), drainer).await.expect("it ends").unwrap();
    assert_eq!(bus.waiting(), 0, "nothing more was sent");
    spool.close().await;
    assert_eq!(open(dir.path(), |_| {}).gauges().messages, 4);
}

#[tokio::test]
async fn an_unreadable_message_stays_and_blocks_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path(), |_| {});
    for n in 0..20 {
        take(&spool, message(&format!("k{n}"), n)).await.unwrap();
    }
    for offset in [0, 7, 8] {
        spool.0.spooled.log.store.lose("t", offset);
    }
    let bus = Moody::new(|_, _| Ok(Receipt::Kept));
    let (stop, shared) = (CancellationToken::new(), Arc::new(Shared(bus.clone())));
    let drainer = tokio::spawn(drain(spool.clone(), shared, Duration::from_secs(5), stop.clone()));
    until("all others have gone", || spool.gauges().messages == 3).await;
    take(&spool, message("k", 0)).await.unwrap();
    until("one that came later too", || bus.of_key("k").len() == 1 && spool.gauges().messages == 3).await;
    assert_eq!(bus.kept.lock().unwrap().len(), 18);
    stop.cancel();
    drainer.await.unwrap();
}

#[tokio::test]
async fn a_stuck_message_blocks_neither_later_ones_nor_those_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path(), |_| {});
    take(&spool, message("aside", 0)).await.unwrap();
    drained(&spool, &Moody::new(|_, _| Err(for_good()))).await;
    take(&spool, message("stuck", 0)).await.unwrap();
    take(&spool, message("stuck", 1)).await.unwrap();
    let refusing = Arc::new(AtomicBool::new(true));
    let judge = refusing.clone();
    let bus = Moody::new(move |message, _| match message.key() {
        "stuck" if judge.load(Relaxed) => Err(transient()),
        _ => Ok(Receipt::Kept),
    });
    let (stop, shared) = (CancellationToken::new(), Arc::new(Shared(bus.clone())));
    let drainer = tokio::spawn(drain(spool.clone(), shared, Duration::from_secs(5), stop.clone()));
    until("what was set aside has gone", || spool.gauges().set_aside == 0).await;
    for n in 0..10 {
        take(&spool, message("k", n)).await.unwrap();
        until("it has gone", || spool.gauges().messages == 2).await;
    }
    assert_eq!((bus.of_key("aside").len(), bus.of_key("k").len(), bus.of_key("stuck").len()), (1, 10, 0));
    refusing.store(false, Relaxed);
    until("it is empty", || spool.gauges().messages == 0).await;
    assert_eq!(bus.of_key("stuck"), ["0000", "0001"]);
    stop.cancel();
    drainer.await.unwrap();
}

#[tokio::test]
async fn a_stuck_message_does_not_fill_the_spool_with_sent_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (max_age, max_bytes) = (Duration::from_secs(3600), 16 << 20);
    let config = config::Spool { dir: dir.path().to_owned(), max_bytes, max_age, reserve: 0 };
    let spool = Spool::open(&config, 1, Clock::system(), |_| {}).unwrap();
    let large = |key: &str, n: usize| {
        let mut id = crate::identity::digest(&[key.as_bytes()]);
        id[..8].copy_from_slice(&n.to_be_bytes());
        Arc::new(Message::sample("t", key, id, vec![n as u8; 500_000]))
    };
    take(&spool, large("stuck", 0)).await.unwrap();
    let bus = Moody::new(|message, _| if message.key() == "stuck" { Err(transient()) } else { Ok(Receipt::Kept) });
    bus.forgets.store(true, Relaxed);
    let (stop, shared) = (CancellationToken::new(), Arc::new(Shared(bus)));
    let drainer = tokio::spawn(drain(spool.clone(), shared, Duration::from_secs(5), stop.clone()));
    for n in 0..80 {
        let end = tokio::time::Instant::now() + Duration::from_secs(60);
        while take(&spool, large("k", n)).await.is_err() {
            assert!(tokio::time::Instant::now() < end, "it stays full: {:?}", spool.gauges());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    until("all but what is stuck has gone", || spool.gauges().messages == 1).await;
    assert!(spool.gauges().bytes < 8 << 20, "{:?}", spool.gauges());
    stop.cancel();
    drainer.await.unwrap();
    spool.close().await;
    assert_eq!(Spool::open(&config, 1, Clock::system(), |_| {}).unwrap().gauges().messages, 1);
}

#[tokio::test]
async fn a_spool_whose_writer_has_ended_reports_it() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path(), |_| {});
    let ended = spool.clone();
    let ended = tokio::spawn(async move { ended.ended().await });
    take(&spool, message("k", 0)).await.unwrap();
    assert!(!ended.is_finished());
    spool.close().await;
    tokio::time::timeout(Duration::from_secs(30), ended).await.unwrap().unwrap();
}

/// Single-threaded, so that its log lines can be captured; the paused clock advances when nothing else runs.
#[tokio::test(start_paused = true)]
async fn an_unconfirmed_message_is_sent_again_within_seconds_and_logged() {
    const CONFIRMS_WITHIN: Duration = Duration::from_secs(5);
    let (lines, _guard) = Lines::taken();
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path(), |_| {});
    take(&spool, message("k", 0)).await.unwrap();
    let bus = Arc::new(SlowBus::default());
    let stop = CancellationToken::new();
    let drainer = tokio::spawn(drain(spool.clone(), bus.clone(), CONFIRMS_WITHIN, stop.clone()));
    let mut asked = tokio::time::Instant::now();
    for times in 1..=6 {
        until("it is sent again", || bus.waiting() == times).await;
        let since = asked.elapsed();
        assert!(since < CONFIRMS_WITHIN + Duration::from_secs(10), "sent again after {since:?}");
        asked = tokio::time::Instant::now();
    }
    assert_eq!(lines.with("the bus did not take a spooled message").len(), 1);
    (1..6).for_each(|_| bus.forget());
    bus.answer(Ok(Receipt::Kept));
    spool.emptied().await;
    stop.cancel();
    drainer.await.unwrap();
}
