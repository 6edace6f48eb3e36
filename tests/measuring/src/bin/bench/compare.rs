//! What changed between two records, and by how much more than the rounds of each differ.

use std::fmt::Write;

use crate::record::{Measured, OfProgram, Record, median};
use crate::round::Round;

type OfRound = fn(&Round) -> f64;
type Counted = fn(&OfProgram) -> Option<f64>;

/// Figures of a round that are compared as the bridge's ratio to the floor beside it: the machine may be another one, or
/// in another mood.
const RATIOS: [(&str, OfRound); 4] = [
    ("deliveries/s", |round| round.per_second),
    ("CPU", |round| round.cpu_us),
    ("p99", |round| round.p99_ms),
    ("peak RSS", |round| round.peak_rss_mib),
];

/// Figures that do not depend on the machine.
const COUNTS: [(&str, Counted); 2] = [
    ("allocations", |program| program.allocations.map(|allocations| allocations.count)),
    ("syscalls", |program| program.syscalls.as_ref().map(|calls| calls.values().sum())),
];

pub(crate) fn differences(before: &Record, now: &Record) -> String {
    let mut text = format!("\nfrom {} to {}: the bridge's ratio to the floor\n", before.version, now.version);
    for new in &now.cells {
        let Some(old) = before.cells.iter().find(|old| old.cell == new.cell) else { continue };
        let _ = writeln!(text, "{}", new.cell);
        for (name, of) in RATIOS {
            if let (Some(old), Some(new)) = (Figure::of(old, of), Figure::of(new, of)) {
                let _ = writeln!(text, "  {name:<14} {}", change(&old, &new));
            }
        }
        for (name, of) in COUNTS {
            if let (Some(old), Some(new)) = (of(&old.bridge), of(&new.bridge)) {
                let _ = writeln!(text, "  {name:<14} {old:.1} → {new:.1} for a delivery of the bridge");
            }
        }
    }
    text
}

/// The bridge's ratio to the floor, over the rounds.
struct Figure {
    middle: f64,
    /// By how much the rounds differ, as a share of the middle; `None` of a single one.
    spread: Option<f64>,
}

impl Figure {
    fn of(measured: &Measured, figure: OfRound) -> Option<Self> {
        let pairs = measured.bridge.rounds.iter().zip(&measured.floor.rounds);
        let ratios: Vec<_> = pairs.map(|(bridge, floor)| figure(bridge) / figure(floor)).collect();
        let middle = median(ratios.iter().copied())?;
        let most = ratios.iter().copied().fold(f64::MIN, f64::max);
        let least = ratios.iter().copied().fold(f64::MAX, f64::min);
        Some(Self { middle, spread: (ratios.len() > 1).then_some((most - least) / middle) })
    }
}

fn change(old: &Figure, new: &Figure) -> String {
    let change = new.middle / old.middle - 1.0;
    let verdict = match old.spread.zip(new.spread).map(|(old, new)| old.max(new)) {
        None => "a single round: nothing to judge it by".to_owned(),
        Some(spread) if change.abs() <= spread => format!("no more than rounds differ, {:.0} %", spread * 100.0),
        Some(spread) => format!("{:.1} × what rounds differ, {:.0} %", change.abs() / spread, spread * 100.0),
    };
    format!("{:.2} → {:.2}, {:+.0} %: {verdict}", old.middle, new.middle, change * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(middle: f64, spread: f64) -> Figure {
        Figure { middle, spread: Some(spread) }
    }

    #[test]
    fn a_change_within_the_spread_of_either_is_none() {
        let said = change(&figure(2.0, 0.3), &figure(1.6, 0.05));
        assert_eq!(said, "2.00 → 1.60, -20 %: no more than rounds differ, 30 %");
    }

    #[test]
    fn a_change_beyond_the_spread_of_both_is_told_in_spreads() {
        let said = change(&figure(2.0, 0.1), &figure(1.4, 0.05));
        assert_eq!(said, "2.00 → 1.40, -30 %: 3.0 × what rounds differ, 10 %");
    }
}
