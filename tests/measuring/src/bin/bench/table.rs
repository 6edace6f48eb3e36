//! The table: medians of the rounds, and the bridge's ratio to the floor below each.

use std::fmt::Write;

use crate::record::{Measured, Mixed, OfProgram, Record, median};
use crate::round::Round;

const HEAD: [&str; 14] = [
    "",
    "deliv./s",
    "CPU µs",
    "user",
    "system",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "RSS MiB",
    "alloc.",
    "alloc. KiB",
    "syscalls",
    "refused",
    "acknowledged, kept",
];

type Row = [Option<f64>; 11];

pub(crate) fn draw(record: &Record) -> String {
    let mut text = format!("{}\n{}\n", record.version, record.machine);
    for cell in &record.cells {
        let _ = write!(text, "\n{}\n{}", cell.cell, block(cell));
    }
    for mixed in &record.mixed {
        let _ = writeln!(text, "\n{}, p99 of small deliveries, alone and while bodies of 10 MB pass", mixed.bus);
        text.push_str(&mixed_lines(mixed));
    }
    if let Some(start) = median(record.starts_ms.iter().copied()) {
        let _ = writeln!(text, "\nfrom start to ready on an empty embedded log: {start:.0} ms");
    }
    if record.has_lost() {
        text.push_str("\nLOST: a bus does not keep what was acknowledged\n");
    }
    text
}

fn block(measured: &Measured) -> String {
    let (floor, bridge) = (row(&measured.floor), row(&measured.bridge));
    let ratio = std::array::from_fn(|column| Some(bridge[column]? / floor[column].filter(|value| *value > 0.0)?));
    line(&HEAD.map(str::to_owned))
        + &line(&cells("floor", &floor, 1, &ends(&measured.floor)))
        + &line(&cells("terra-bridge", &bridge, 1, &ends(&measured.bridge)))
        + &line(&cells("ratio", &ratio, 2, &Default::default()))
}

fn row(program: &OfProgram) -> Row {
    let middle = |of: fn(&Round) -> f64| median(program.rounds.iter().map(of));
    [
        middle(|round| round.per_second),
        middle(|round| round.cpu_us),
        middle(|round| round.user_us),
        middle(|round| round.system_us),
        middle(|round| round.p50_ms),
        middle(|round| round.p99_ms),
        middle(|round| round.p999_ms),
        middle(|round| round.peak_rss_mib),
        program.allocations.map(|allocations| allocations.count),
        program.allocations.map(|allocations| allocations.bytes / 1024.0),
        program.syscalls.as_ref().map(|calls| calls.values().sum()),
    ]
}

/// What has no ratio.
fn ends(program: &OfProgram) -> [String; 2] {
    let refused: u64 = program.rounds.iter().map(Round::not_taken).sum();
    let acknowledged: u64 = program.rounds.iter().map(|round| round.acknowledged).sum();
    let kept: Option<u64> = program.rounds.iter().map(|round| round.kept).sum();
    [refused.to_string(), format!("{acknowledged}, {}", kept.map_or("–".to_owned(), |kept| kept.to_string()))]
}

fn cells(name: &str, row: &Row, digits: usize, ends: &[String; 2]) -> [String; 14] {
    std::array::from_fn(|column| match column {
        0 => name.to_owned(),
        1..=11 => row[column - 1].map_or("–".to_owned(), |value| number(value, digits)),
        _ => ends[column - 12].clone(),
    })
}

fn number(value: f64, digits: usize) -> String {
    let digits = if value.abs() >= 1000.0 { 0 } else { digits };
    format!("{value:.digits$}")
}

fn line(cells: &[String; 14]) -> String {
    let mut line = format!("{:<12}", cells[0]);
    for (column, cell) in cells.iter().enumerate().skip(1) {
        let width = if column == 13 { 20 } else { 10 };
        let _ = write!(line, " {cell:>width$}");
    }
    line.trim_end().to_owned() + "\n"
}

fn mixed_lines(mixed: &Mixed) -> String {
    let mut text = String::new();
    for (name, rounds) in [("floor", &mixed.floor), ("terra-bridge", &mixed.bridge)] {
        let alone = median(rounds.iter().map(|(alone, _)| alone.p99_ms)).unwrap_or_default();
        let beside = median(rounds.iter().map(|(_, beside)| beside.p99_ms)).unwrap_or_default();
        let refused: u64 = rounds.iter().map(|(_, beside)| beside.not_taken()).sum();
        let _ = writeln!(
            text,
            "{name:<12} {alone:>8.1} ms {beside:>8.1} ms  ratio {:.2}, refused {refused}",
            beside / alone.max(0.001)
        );
    }
    text
}
