//! What the faults program makes of a seed.

use std::collections::BTreeSet;

use crate::kinds::{BusName, Kind, Target};
use crate::plan::{Narrowed, plan};

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
        let struck: BTreeSet<_> =
            of_bus.flat_map(|plan| &plan.strikes).flat_map(|strike| &strike.hits).map(|hit| hit.kind).collect();
        let expected = |kind: &Kind| kind.fits(*bus) && kind.target() != Target::Traffic;
        let expected: BTreeSet<_> = Kind::ALL.iter().copied().filter(expected).collect();
        assert_eq!(struck, expected, "{bus}");
    }
}

#[test]
fn fifteen_seeds_have_every_kind_on_one_bus_at_least() {
    let strikes = (1..=15).flat_map(|seed| plan(seed, &Narrowed::default()).strikes);
    let struck: BTreeSet<_> = strikes.flat_map(|strike| strike.hits).map(|hit| hit.kind).collect();
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
