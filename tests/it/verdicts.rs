//! How the faults program's judge rates a handmade ledger and bus: each of its verdicts occurs. Also what its report
//! keeps and prints.

use std::collections::BTreeMap;
use std::time::Duration;

use terra_bridge::vocabulary::KNOWN;

use crate::judge::Judge;
use crate::kinds::{BusName, Kind};
use crate::ledger::{Attempt, End, Fault, Ledger};
use crate::plan::{Content, Forgery, Hit, Manner, Narrowed, Plan, Strike, plan};
use crate::report::{self, Line};
use crate::rounds::{New, Round};
use crate::support::consumers::Got;

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn answered(status: u16, outcome: &str, number: usize) -> End {
    End::Answered { status, outcome: outcome.to_owned(), id: Some(format!("id-{number}")) }
}

/// Deliveries of one user and one type, a second apart; each is answered 200 after half a second, and is on the bus
/// once.
struct Trial {
    plan: Plan,
    attempts: Vec<(usize, Attempt)>,
    faults: Vec<Fault>,
    bus: Vec<Got>,
    /// When the spool was seen empty.
    emptied: Option<Duration>,
}

impl Trial {
    fn on(bus: BusName) -> Self {
        const COUNT: usize = 3;
        let mut plan = plan(1, &Narrowed { bus: Some(bus), kinds: Some(Vec::new()) });
        plan.deliveries.truncate(COUNT);
        (plan.publish_timeout, plan.spool) = (2, false);
        let daily = KNOWN.iter().position(|known| known.name == "daily").expect("a known type");
        for planned in &mut plan.deliveries {
            (planned.content, planned.manner) = (Content::Known(daily), Manner::Plain);
            (planned.size, planned.user) = (600, 1);
        }
        let ledger = Ledger::new(&plan);
        let attempt =
            |n: usize| Attempt { begun: at(n as f64), ended: at(n as f64 + 0.5), end: answered(200, "kept", n) };
        let got = |n: usize| Got {
            topic: "t.daily".to_owned(),
            key: None,
            headers: BTreeMap::from([("ce_id".into(), format!("id-{n}")), ("ce_partitionkey".into(), "u1".into())]),
            payload: ledger.entries[n].body().to_owned(),
        };
        let attempts = (0..COUNT).map(|n| (n, attempt(n))).collect();
        Self { attempts, faults: Vec::new(), bus: (0..COUNT).map(got).collect(), emptied: None, plan }
    }

    fn fault(&mut self, kind: Kind, begun: f64, ended: f64) {
        self.faults.push(Fault { kind, begun: at(begun), ended: at(ended), topic: None, taken: None });
    }

    /// Adds one more attempt at the delivery.
    fn attempt(&mut self, number: usize, begun: f64, end: End) {
        self.attempts.push((number, Attempt { begun: at(begun), ended: at(begun + 0.5), end }));
    }

    fn doubled(&mut self, number: usize) {
        self.bus.push(self.bus[number].clone());
    }

    fn judged(self) -> Line {
        let ledger = Ledger::new(&self.plan);
        self.attempts.into_iter().for_each(|(number, attempt)| ledger.record(number, attempt));
        self.faults.into_iter().for_each(|fault| ledger.fault(fault));
        self.emptied.into_iter().for_each(|at| ledger.spool_is_empty(at, at));
        let mut judge = Judge::new(&ledger, &self.plan, "t".to_owned(), Line::default());
        self.bus.into_iter().for_each(|got| judge.sees(got));
        judge.judges()
    }
}

#[test]
fn what_is_there_once_in_time_and_in_order_breaks_nothing() {
    for bus in BusName::ALL {
        let line = Trial::on(*bus).judged();
        assert!(line.violations.is_empty(), "{:?}", line.violations);
        assert_eq!((line.sent, line.acknowledged, line.kept, line.ordered), (3, 3, 3, 3));
    }
}

#[test]
fn every_way_to_break_the_promise_is_one_violation_and_counted() {
    type Case = (&'static str, fn(&mut Trial), fn(&Line) -> usize);
    let cases: &[Case] = &[
        ("is lost", |trial| drop(trial.bus.remove(1)), |line| line.lost),
        ("is there 2 times, allowed 1", |trial| trial.doubled(1), |line| line.doubled),
        (
            "that nobody sent",
            |trial| {
                trial.doubled(1);
                trial.bus[3].payload[20] ^= 1;
            },
            |line| line.altered,
        ),
        (
            "forged delivery 1 is on `daily`",
            |trial| {
                trial.plan.deliveries[1].manner = Manner::Forged(Forgery::OtherSecret);
                trial.attempts[1].1.end = answered(401, "rejected", 1);
            },
            |line| line.forged_accepted,
        ),
        (
            "forged delivery 1 was answered 2xx",
            |trial| {
                trial.plan.deliveries[1].manner = Manner::Forged(Forgery::Unsigned);
                trial.bus.remove(1);
            },
            |line| line.forged_accepted,
        ),
        ("never got a 2xx", |trial| trial.attempts[1].1.end = answered(503, "unanswered", 1), |line| line.given_up),
        (
            "was answered 200 after 5.1s",
            |trial| trial.attempts[1].1.ended = at(6.1),
            |line| line.slowest_ms as usize / 5100,
        ),
        ("had no answer", |trial| trial.attempt(1, 0.1, End::Unanswered), |_| 1),
        ("lost its connection", |trial| trial.attempt(1, 0.1, End::Broken), |_| 1),
        ("belongs on `daily` and is on `sleep`", |trial| trial.bus[1].topic = "t.sleep".into(), |_| 1),
        ("has 2 ids", |trial| drop(trial.bus[1].headers.insert("ce_id".into(), "another".into())), |_| 1),
        ("has 2 ids", |trial| drop(trial.bus[1].headers.remove("ce_id")), |_| 1),
        ("comes after it", |trial| trial.bus.swap(0, 1), |line| line.disordered),
    ];
    for (says, breaks, counted) in cases {
        let mut trial = Trial::on(BusName::Kafka);
        breaks(&mut trial);
        let line = trial.judged();
        assert!(matches!(&line.violations[..], [one] if one.contains(says)), "{says}: {:?}", line.violations);
        assert_eq!(counted(&line), 1, "{says}");
    }
}

#[test]
fn only_who_waits_for_a_processor_may_be_late() {
    let violations = |kind| {
        let mut trial = Trial::on(BusName::Kafka);
        trial.attempts[1].1.ended = at(6.1);
        trial.fault(kind, 3.0, 4.0);
        trial.judged().violations.len()
    };
    assert_eq!((violations(Kind::CpuStarved), violations(Kind::BrokerStop)), (0, 1));
}

#[test]
fn a_second_copy_needs_a_fault_between_bus_and_sender_and_a_bus_that_does_not_see_it() {
    let doubled = |bus, kind: Kind, begun| {
        let mut trial = Trial::on(bus);
        trial.doubled(1);
        trial.fault(kind, begun, begun + 1.0);
        trial.judged().doubled
    };
    for kind in [Kind::BridgeKill, Kind::BrokerStop, Kind::LeaderKill, Kind::Cut, Kind::Delay, Kind::TopicDeleted] {
        assert_eq!(doubled(BusName::Kafka, kind, 1.2), 0, "{kind}");
        assert_eq!(doubled(BusName::Kafka, kind, 10.0), 1, "{kind} much later");
        assert_eq!(doubled(BusName::Nats, kind, 1.2), 1, "{kind} on NATS");
        assert_eq!(doubled(BusName::Embedded, kind, 1.2), 1, "{kind} on the embedded log");
    }
    for kind in [Kind::TopicLimit, Kind::DiskFull, Kind::StdoutBlocked, Kind::SecretRotated, Kind::SighupBroken] {
        assert_eq!(doubled(BusName::Kafka, kind, 1.2), 1, "{kind}");
    }
}

#[test]
fn a_second_copy_is_excused_too_while_kafka_keeps_another_delivery_waiting_in_vain() {
    let doubled = |bus, refused_after| {
        let mut trial = Trial::on(bus);
        trial.doubled(1);
        let end = answered(503, "refused", 2);
        trial.attempts.insert(2, (2, Attempt { begun: at(1.2), ended: at(1.2 + refused_after), end }));
        trial.judged().doubled
    };
    assert_eq!(doubled(BusName::Kafka, 1.1), 0);
    assert_eq!(doubled(BusName::Kafka, 0.1), 1, "it was refused at once");
    assert_eq!(doubled(BusName::Nats, 1.1), 1, "NATS knows copies");
}

#[test]
fn what_was_spooled_is_sent_again_only_by_a_fault_before_it_has_left_the_spool() {
    let doubled = |copies: usize, emptied: f64, kind, begun| {
        let mut trial = Trial::on(BusName::Kafka);
        trial.plan.spool = true;
        trial.attempts[1].1.end = answered(200, "spooled", 1);
        trial.emptied = Some(at(emptied));
        trial.fault(kind, begun, begun + 1.0);
        (1..copies).for_each(|_| trial.doubled(1));
        let line = trial.judged();
        assert_eq!(line.spooled, 1);
        line.doubled
    };
    assert_eq!(doubled(3, 30.0, Kind::BrokerKill, 20.0), 0, "it was still in the spool");
    assert_eq!(doubled(2, 19.0, Kind::BrokerKill, 20.0), 1, "it had left");
    assert_eq!(doubled(50, 30.0, Kind::BrokerKill, 20.0), 1, "there was no time for so many");
    assert_eq!(doubled(2, 19.0, Kind::PowerLoss, 20.0), 0, "that it had left was lost");
}

#[test]
fn an_obligation_ends_with_its_topic_and_no_later() {
    let lost = |topic, acknowledged: f64| {
        let mut trial = Trial::on(BusName::Kafka);
        trial.bus.remove(1);
        (trial.attempts[1].1.begun, trial.attempts[1].1.ended) = (at(acknowledged), at(acknowledged + 0.1));
        let (kind, begun, ended) = (Kind::TopicDeleted, at(2.0), at(3.0));
        trial.faults.push(Fault { kind, begun, ended, topic: Some(topic), taken: None });
        let line = trial.judged();
        (line.lost, line.deleted)
    };
    assert_eq!(lost("daily", 1.0), (0, 1));
    assert_eq!(lost("daily", 3.1), (1, 0));
    assert_eq!(lost("sleep", 1.0), (1, 0));
}

#[test]
fn an_obligation_ends_with_the_directory_that_had_it_and_no_later() {
    let lost = |bus, outcome, acknowledged: f64| {
        let mut trial = Trial::on(bus);
        trial.bus.remove(1);
        let attempt =
            Attempt { begun: at(acknowledged), ended: at(acknowledged + 0.1), end: answered(200, outcome, 1) };
        trial.attempts[1].1 = attempt;
        let (begun, taken, ended) = (at(2.0), Some(at(2.1)), at(9.0));
        trial.faults.push(Fault { kind: Kind::DirectoryReplaced, begun, ended, topic: None, taken });
        let line = trial.judged();
        (line.lost, line.deleted)
    };
    assert_eq!(lost(BusName::Embedded, "kept", 1.0), (0, 1));
    assert_eq!(lost(BusName::Embedded, "kept", 2.2), (1, 0), "the new directory was there");
    assert_eq!(lost(BusName::Embedded, "duplicate", 2.2), (1, 0), "of nothing before");
    assert_eq!(lost(BusName::Kafka, "spooled", 1.0), (0, 1));
    assert_eq!(lost(BusName::Kafka, "spooled", 2.2), (1, 0), "the new directory was there");
    assert_eq!(lost(BusName::Kafka, "kept", 1.0), (1, 0), "Kafka had it");
}

#[test]
fn of_a_burst_what_was_never_sent_is_owed_by_nobody() {
    let trial = |burst: bool| {
        let mut trial = Trial::on(BusName::Kafka);
        trial.attempts.pop();
        trial.bus.pop();
        let (kind, new, deliveries) = (Kind::BurstKill, New::Topics, 1..3);
        let round = Round { kind, new, starved: false, deliveries, after: 1, hold: 0 };
        trial.plan.burst = if burst { vec![round] } else { Vec::new() };
        trial
    };
    assert_eq!(trial(false).judged().given_up, 1);
    let line = trial(true).judged();
    assert!(line.violations.is_empty(), "{:?}", line.violations);
    assert_eq!((line.sent, line.kept), (2, 2));
    let mut lost = trial(true);
    lost.bus.pop();
    assert_eq!(lost.judged().lost, 1, "it was sent and acknowledged");
}

#[test]
fn a_replay_has_an_id_of_its_own_on_the_bus_only_where_the_bridge_forgot() {
    let violations = |killed| {
        let mut trial = Trial::on(BusName::Kafka);
        trial.plan.deliveries[1].manner = Manner::Replayed;
        trial.attempt(1, 10.0, answered(200, "kept", 100));
        trial.doubled(1);
        trial.bus[3].headers.insert("ce_id".into(), "id-100".into());
        if killed {
            trial.fault(Kind::BridgeKill, 8.0, 8.5);
        }
        trial.judged().violations.len()
    };
    assert_eq!((violations(true), violations(false)), (0, 2), "two ids, and two copies");
}

#[test]
fn the_report_counts_what_was_carried_out_and_names_what_never_was() {
    let mut trial = Trial::on(BusName::Kafka);
    trial.fault(Kind::Cut, 10.0, 11.0);
    let hit = |kind| Hit { kind, hold: 0, pick: 0 };
    trial.plan.strikes = vec![Strike { after: 1, hits: vec![hit(Kind::Cut), hit(Kind::DiskFull)] }];
    let plan = trial.plan.clone();
    let lines = [trial.judged()];
    let table = report::table(&lines);
    assert!(table.contains("cut  ") && !table.contains("disk_full"), "{table}");
    assert_eq!(report::missing(&lines, [plan].into_iter()).into_iter().collect::<Vec<_>>(), [Kind::DiskFull]);
}

#[test]
fn a_report_whose_last_line_is_torn_is_gone_on_with() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("report");
    let line = |seed| Line { seed, narrowed: "--bus kafka".to_owned(), release: true, ..Line::default() };
    assert!(report::read(&path).expect("no report yet").is_empty());
    for seed in 1..=2 {
        report::append(&path, &line(seed)).expect("the directory is ours");
    }
    let whole = std::fs::read(&path).expect("just written");
    std::fs::write(&path, &whole[..whole.len() - 5]).expect("the directory is ours");
    let seeds = || report::read(&path).expect("a report").iter().map(|line| line.seed).collect::<Vec<_>>();
    assert_eq!(seeds(), [1]);
    report::append(&path, &line(3)).expect("the directory is ours");
    assert_eq!(seeds(), [1, 3]);
    assert_eq!(line(3).again(), "./tests/faults --release --seed 3 --bus kafka");
}
