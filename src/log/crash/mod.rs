//! Cuts the power, kills the process and fails calls at every step in the life of a log, and checks each time what it
//! has: every record with a receipt, at its offset and with its bytes; of a commit without one, all or nothing, and
//! nothing where the log went on without it. What an opening has found stays for good.
//!
//! `model` is the file system, `life` a log on it and what it must have.

use std::ops::RangeInclusive;

use super::damage::{Dice, seeds};
use life::{Life, Step};
use model::{End, Faults};

mod life;
mod model;

/// `FROM..TO`, to try other seeds than these.
const SEEDS: &str = "TERRA_BRIDGE_TEST_CRASH_SEEDS";
const USUAL_SEEDS: std::ops::Range<u64> = 0..40;

fn steps(dice: &mut Dice, count: u64, is_spool: bool) -> Vec<Step> {
    let step = |_| match dice.below(24) {
        0..3 => Step::Roll,
        3..6 => Step::Remove,
        6 => Step::Restart,
        7..12 if is_spool => Step::Drain,
        12 if is_spool => Step::Remember,
        13 => Step::Large,
        _ => Step::Append(1 + dice.below(5)),
    };
    (0..count).map(step).collect()
}

/// Up to so many calls of those in this range.
fn some(dice: &mut Dice, most: u64, calls: RangeInclusive<u64>) -> Vec<u64> {
    (0..dice.below(most + 1)).map(|_| calls.start() + dice.below(calls.end() - calls.start() + 1)).collect()
}

/// A short life with every kind of step.
fn short(is_spool: bool) -> Vec<Step> {
    use Step::{Append, Drain, Large, Remember, Remove, Restart, Roll};
    let (one, other) =
        ([Append(3), Append(2), Drain, Roll], [Append(2), Remember, Drain, Large, Roll, Restart, Remove]);
    let all = [&one[..], &other, &one, &[Remove, Append(1)]].concat();
    all.into_iter().filter(|step| is_spool || !matches!(step, Drain | Remember)).collect()
}

/// Several processes on one log, each with its faults; the last ones without any, and after a power cut that leaves
/// nothing that was not certain.
fn live(seed: u64, is_spool: bool, first: &[Step], faults: Faults) -> Result<(), String> {
    let mut dice = Dice(seed ^ 2);
    let mut life = Life::new(seed, is_spool, dice.below(4) > 0);
    let mut faults = Some(faults);
    for generation in 0..4 {
        let steps = if generation == 0 { first.to_vec() } else { steps(&mut dice, 8, is_spool) };
        let next = || Faults {
            end: (generation < 3).then(|| 1 + dice.below(60)),
            changes: some(&mut dice, 2, 1..=60).into_iter().collect(),
            reads: some(&mut dice, 1, 1..=60).into_iter().collect(),
            ..Faults::default()
        };
        life.machine.replace_faults(faults.take().unwrap_or_else(next));
        life.process(&steps).map_err(|wrong| format!("process {generation}: {wrong}"))?;
        life.end(if dice.below(3) == 0 { End::Kill } else { End::PowerCut });
    }
    life.process(&[Step::Append(2)]).map_err(|wrong| format!("at the end: {wrong}"))
}

fn passes(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Short lives with a fault in each of the calls that `count` counts.
fn at_every_call(count: impl Fn(Faults) -> u64, fault: impl Fn(u64) -> Faults) {
    let mut wrong = Vec::new();
    for (is_spool, seed) in [(false, 0), (true, 1), (false, 2), (true, 3)] {
        let mut life = Life::new(seed, is_spool, true);
        assert_eq!(life.process(&short(is_spool)), Ok(()), "without a fault");
        for call in 1..=count(life.machine.replace_faults(Faults::default())) {
            let lived = live(seed ^ call << 32, is_spool, &short(is_spool), fault(call));
            wrong.extend(lived.err().map(|wrong| format!("seed {seed}, call {call}: {wrong}")));
        }
    }
    passes(&wrong);
}

#[test]
fn nothing_is_lost_wherever_the_process_or_the_power_ends() {
    at_every_call(|calls| calls.changed, |call| Faults { end: Some(call), ..Faults::default() });
}

#[test]
fn nothing_is_lost_whichever_write_or_fsync_fails() {
    at_every_call(|calls| calls.changed, |call| Faults { changes: [call].into(), ..Faults::default() });
}

#[test]
fn nothing_is_lost_whichever_read_fails() {
    at_every_call(|calls| calls.read, |call| Faults { reads: [call].into(), ..Faults::default() });
}

#[test]
fn nothing_is_lost_in_a_long_life_with_several_faults() {
    let mut wrong = Vec::new();
    for seed in seeds(SEEDS, USUAL_SEEDS) {
        let (mut dice, is_spool) = (Dice(seed ^ 3), seed % 2 == 1);
        let faults = Faults {
            end: Some(1 + dice.below(300)),
            changes: some(&mut dice, 6, 1..=300).into_iter().collect(),
            reads: some(&mut dice, 3, 1..=300).into_iter().collect(),
            ..Faults::default()
        };
        let lived = live(seed, is_spool, &steps(&mut dice, 60, is_spool), faults);
        wrong.extend(lived.err().map(|wrong| format!("seed {seed}: {wrong}")));
    }
    passes(&wrong);
}
