//! How the faults program plans from a seed.

use std::collections::BTreeSet;

use crate::kinds::{BusName, Kind, Target};
use crate::plan::{Narrowed, Plan, plan};
use crate::rounds::New;

#[test]
fn a_seed_has_one_plan_and_another_seed_another() {
    for narrowed in [Narrowed::default(), Narrowed { bus: Some(BusName::Kafka3), kinds: Some(vec![Kind::Cut]) }] {
        for seed in 0..50 {
            assert_eq!(plan(seed, &narrowed), plan(seed, &narrowed));
            assert_ne!(plan(seed, &narrowed), plan(seed + 5, &narrowed));
        }
    }
}

#[test]
fn thirty_seeds_have_every_kind_on_every_bus_that_knows_it() {
    let plans: Vec<_> = (1..=30).map(|seed| plan(seed, &Narrowed::default())).collect();
    for bus in BusName::ALL {
        let of_bus = plans.iter().filter(|plan| plan.bus == *bus);
        let struck: BTreeSet<_> = of_bus.flat_map(Plan::kinds).collect();
        let expected = |kind: &Kind| kind.fits(*bus) && kind.target() != Target::Traffic;
        let expected: BTreeSet<_> = Kind::ALL.iter().copied().filter(expected).collect();
        assert_eq!(struck, expected, "{bus}");
    }
}

#[test]
fn fifteen_seeds_have_every_kind_on_one_bus_at_least() {
    let plans: Vec<_> = (1..=15).map(|seed| plan(seed, &Narrowed::default())).collect();
    let struck: BTreeSet<_> = plans.iter().flat_map(Plan::kinds).collect();
    let expected = Kind::ALL.iter().copied().filter(|kind| kind.target() != Target::Traffic).collect();
    assert_eq!(struck, expected);
}

#[test]
fn faults_at_once_have_different_targets() {
    for seed in 0..200 {
        for strike in plan(seed, &Narrowed::default()).strikes {
            let [first, second] = &strike.hits[..] else { continue };
            assert_ne!(first.kind.target(), second.kind.target());
        }
    }
}

#[test]
fn a_burst_follows_the_other_deliveries_and_each_of_its_rounds_is_new_to_the_broker() {
    let narrowed = Narrowed { bus: None, kinds: Some(vec![Kind::BurstKill, Kind::BurstStop]) };
    for plan in (0..50).map(|seed| plan(seed, &narrowed)) {
        assert!(plan.deliveries.iter().enumerate().all(|(at, planned)| planned.number == at));
        assert!(!plan.burst.is_empty() && plan.strikes.is_empty());
        let (mut next, mut seen) = (plan.at_rate(), Vec::new());
        for round in &plan.burst {
            assert_eq!(round.deliveries.start, next);
            next = round.deliveries.end;
            let contents = plan.deliveries[round.deliveries.clone()].iter().map(|planned| planned.content);
            let contents: Vec<_> = contents.collect();
            match round.new {
                New::Topics => assert!(contents.iter().all(|content| !seen.contains(content))),
                New::Bridge => assert!(contents.iter().all(|content| seen.contains(content))),
            }
            seen.extend(contents);
        }
        assert_eq!(next, plan.deliveries.len());
    }
}
