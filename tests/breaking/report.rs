//! One line of JSON for each seed, and a table of all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::kinds::Kind;
use crate::plan::Plan;

/// The result of one seed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Line {
    pub seed: u64,
    pub bus: String,
    /// The run's filters in command-line notation.
    pub narrowed: String,
    /// Whether the bridge was an optimised build.
    pub release: bool,
    pub planned: Vec<String>,
    /// The faults that were carried out, ordered by their end.
    pub faults: Vec<String>,
    /// The same with their times.
    pub stood: Vec<String>,
    pub skipped: Vec<String>,
    pub sent: usize,
    pub attempts: usize,
    pub acknowledged: usize,
    /// How many of those the spool took.
    pub spooled: usize,
    pub kept: usize,
    /// Acknowledged, but lost with a deleted topic.
    pub deleted: usize,
    pub lost: usize,
    pub given_up: usize,
    pub doubled_allowed: usize,
    pub doubled: usize,
    pub altered: usize,
    /// How many had their position within their key checked.
    pub ordered: usize,
    pub disordered: usize,
    /// Sent in several concurrent copies.
    pub at_once: usize,
    pub replayed: usize,
    /// Attempts whose client disconnected without an answer.
    pub left: usize,
    pub forged: usize,
    pub forged_accepted: usize,
    pub slowest_ms: u64,
    pub peak_bytes: u64,
    pub took_ms: u64,
    pub violations: Vec<String>,
    /// The bridge's last log lines, if there are violations.
    pub said: Vec<String>,
}

impl Line {
    pub fn new(plan: &Plan, narrowed: &str) -> Self {
        Self {
            seed: plan.seed,
            bus: plan.bus.to_string(),
            narrowed: narrowed.to_owned(),
            release: !cfg!(debug_assertions),
            planned: plan.kinds().map(|kind| kind.to_string()).collect(),
            ..Self::default()
        }
    }

    /// One line for people.
    pub fn short(&self) -> String {
        let verdict = if self.violations.is_empty() { "kept" } else { "BROKEN" };
        format!(
            "seed {:>4} {:<8} {:>5} sent {:>5} acknowledged {:>5} kept {:>3} doubled {:>5.1} s slowest {:>4} MiB {:>5.1} s {verdict} {}",
            self.seed,
            self.bus,
            self.sent,
            self.acknowledged,
            self.kept,
            self.doubled_allowed + self.doubled,
            self.slowest_ms as f64 / 1e3,
            self.peak_bytes >> 20,
            self.took_ms as f64 / 1e3,
            self.faults.join(" "),
        )
    }

    /// The command that runs it again.
    pub fn again(&self) -> String {
        let narrowed = if self.narrowed.is_empty() { String::new() } else { format!(" {}", self.narrowed) };
        let release = if self.release { " --release" } else { "" };
        format!("./tests/faults{release} --seed {}{narrowed}", self.seed)
    }
}

/// The lines of an earlier run; none if there is no file. A partial last line from a killed run is cut off.
pub fn read(path: &Path) -> Result<Vec<Line>, String> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(named(&error)),
    };
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if whole < bytes.len() {
        eprintln!("{}: the last line is torn; its seed is run again", path.display());
        let cut = OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(whole as u64));
        cut.map_err(|error| named(&error))?;
        bytes.truncate(whole);
    }
    let lines = bytes[..whole].split_inclusive(|byte| *byte == b'\n').map(serde_json::from_slice);
    lines.collect::<Result<_, _>>().map_err(|error| named(&error))
}

pub fn append(path: &Path, line: &Line) -> std::io::Result<()> {
    let mut text = serde_json::to_string(line).expect("plain numbers and strings");
    text.push('\n');
    OpenOptions::new().create(true).append(true).open(path)?.write_all(text.as_bytes())
}

/// Kinds of fault that one of these plans has but that were never carried out.
pub fn missing(lines: &[Line], plans: impl Iterator<Item = Plan>) -> BTreeSet<Kind> {
    let planned: BTreeSet<_> = plans.flat_map(|plan| plan.kinds().collect::<Vec<_>>()).collect();
    let struck = |kind: &Kind| lines.iter().flat_map(|line| &line.faults).any(|fault| fault == kind.name());
    planned.into_iter().filter(|kind| !struck(kind)).collect()
}

/// The table, and the failed seeds with the command to run each again.
pub fn table(lines: &[Line]) -> String {
    let sum = |of: fn(&Line) -> usize| lines.iter().map(of).sum::<usize>();
    let most = |of: fn(&Line) -> u64| lines.iter().map(of).max().unwrap_or_default();
    let mut kinds = BTreeMap::<&str, usize>::new();
    for fault in lines.iter().flat_map(|line| &line.faults) {
        *kinds.entry(fault).or_default() += 1;
    }
    let mut text = String::from("\nfaults\n");
    let order = Kind::ALL.iter().filter_map(|kind| Some((kind.name(), kinds.get(kind.name())?)));
    for (kind, count) in order {
        text += &format!("  {kind:<22}{count:>9}\n");
    }
    let skipped: BTreeSet<_> = lines.iter().flat_map(|line| &line.skipped).collect();
    for skipped in skipped {
        text += &format!("  SKIPPED {skipped}\n");
    }
    text += "deliveries\n";
    for (name, value) in [
        ("seeds", lines.len()),
        ("sent", sum(|line| line.sent)),
        ("attempts", sum(|line| line.attempts)),
        ("acknowledged", sum(|line| line.acknowledged)),
        ("of these spooled", sum(|line| line.spooled)),
        ("kept", sum(|line| line.kept)),
        ("gone with their topic", sum(|line| line.deleted)),
        ("lost", sum(|line| line.lost)),
        ("never acknowledged", sum(|line| line.given_up)),
        ("doubled, allowed", sum(|line| line.doubled_allowed)),
        ("doubled, not allowed", sum(|line| line.doubled)),
        ("altered", sum(|line| line.altered)),
        ("judged for order", sum(|line| line.ordered)),
        ("out of order", sum(|line| line.disordered)),
        ("sent several at once", sum(|line| line.at_once)),
        ("replayed", sum(|line| line.replayed)),
        ("left by their client", sum(|line| line.left)),
        ("forged", sum(|line| line.forged)),
        ("forged and accepted", sum(|line| line.forged_accepted)),
    ] {
        text += &format!("  {name:<22}{value:>9}\n");
    }
    text += &format!("  {:<22}{:>7.1} s\n", "slowest answer", most(|line| line.slowest_ms) as f64 / 1e3);
    text += &format!("  {:<22}{:>5} MiB\n", "peak memory", most(|line| line.peak_bytes) >> 20);
    for line in lines.iter().filter(|line| !line.violations.is_empty()) {
        text += &format!(
            "\nseed {} broke the promise {} times; again: {}\n",
            line.seed,
            line.violations.len(),
            line.again()
        );
        text += &format!("  faults stood: {}\n", line.stood.join(", "));
        for violation in line.violations.iter().take(SHOWN) {
            text += &format!("  {violation}\n");
        }
        for said in &line.said {
            text += &format!("  {said}\n");
        }
    }
    text
}

/// The most violations of one seed to show in the table; the report has all.
const SHOWN: usize = 10;
