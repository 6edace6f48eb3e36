//! Creates a log from a seed: the directory that a child process wrote, usually until `kill -9`, and what it
//! acknowledged.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::super::store::Store;
use super::super::{Keep, Retention, Settings};
use super::Dice;
use super::active::Active;
use super::model::Held;
use crate::message::Message;

const TOPICS: u64 = 3;
const KEYS: u64 = 5;
/// Logs from this seed on are spools.
const FIRST_SPOOL: u64 = 7;
/// Seeds with large messages, which fill segments.
const LARGE: [u64; 2] = [6, 11];
const LONGEST_BATCH: u64 = 12;

const CHILD: &str = "log::damage::script::child_that_writes_a_log_until_it_is_killed";
const CHILD_DIR: &str = "TERRA_BRIDGE_TEST_DAMAGE_DIR";
const CHILD_SEED: &str = "TERRA_BRIDGE_TEST_DAMAGE_LOG";

/// One step in the life of a log.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// That many messages in one commit.
    Append(u64),
    /// Spools only: marks some records as done; the seed decides which.
    Drain(u64),
    Roll,
    /// What retention removes, or what a spool has sent.
    Remove,
    Restart,
}

pub(super) struct Made {
    pub(super) dir: TempDir,
    pub(super) held: Held,
    pub(super) active: Active,
}

pub(super) fn is_spool(seed: u64) -> bool {
    seed >= FIRST_SPOOL
}

pub(super) fn settings(seed: u64, dir: &Path) -> Settings {
    let settings = Settings::sample(dir);
    match settings.keep {
        Keep::For(retention) if !is_spool(seed) => {
            Settings { keep: Keep::For(Retention { bytes: 1 << 19, ..retention }), ..settings }
        }
        _ => Settings { section: "spool", keep: Keep::UntilDone { bytes: 1 << 19, known: 100 }, ..settings },
    }
}

pub(super) fn topic(seed: u64, number: u64) -> String {
    format!("topic-{}", Dice(seed ^ (number << 20)).below(TOPICS))
}

/// Always the same for the same numbers. Many have equal lengths, so that one could pass for another.
pub(super) fn message(seed: u64, number: u64) -> Message {
    let mut dice = Dice(seed ^ (number << 20) ^ 1);
    let len = match dice.below(4) {
        0 if LARGE.contains(&seed) => 30_000,
        0 => dice.below(200),
        1 => 4096 + dice.below(20_000),
        _ => 2000,
    };
    let payload: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| dice.roll().to_le_bytes()).collect();
    let mut id = [0; 32];
    id[..8].copy_from_slice(&number.to_be_bytes());
    id[8..16].copy_from_slice(&seed.to_be_bytes());
    let key = format!("key-{}", dice.below(KEYS));
    Message::sample(&topic(seed, number), &key, id, payload)
}

fn steps(seed: u64) -> Vec<Step> {
    let mut dice = Dice(seed ^ 2);
    let count = 30 + dice.below(60);
    let step = |_| match dice.below(24) {
        0 | 1 => Step::Roll,
        2 => Step::Remove,
        3 => Step::Restart,
        7..10 if is_spool(seed) => Step::Drain(dice.roll()),
        _ => Step::Append(1 + dice.below(LONGEST_BATCH)),
    };
    (0..count).map(step).collect()
}

/// What it has after that many steps.
fn held(seed: u64, acknowledged: usize) -> Held {
    let mut held = Held::new(seed);
    for (index, step) in steps(seed).into_iter().enumerate().take(acknowledged + 1) {
        match step {
            Step::Append(count) => drop(held.append(count, index < acknowledged)),
            Step::Drain(roll) => drop(held.drain(roll, index < acknowledged)),
            Step::Roll | Step::Remove | Step::Restart => {}
        }
    }
    held
}

/// A log whose last steps were cut off; every third log was closed instead.
pub(super) fn make(seed: u64) -> Made {
    let dir = tempfile::tempdir().expect("a directory");
    let mut child = Command::new(std::env::current_exe().expect("a test"))
        .args(["--exact", "--nocapture", CHILD])
        .env(CHILD_DIR, dir.path())
        .env(CHILD_SEED, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let until = match seed % 3 {
        0 => usize::MAX,
        _ => 20 + usize::try_from(Dice(seed ^ 3).below(steps(seed).len() as u64 - 25)).expect("few"),
    };
    let mut acknowledged = 0;
    for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
        let line = line.expect("text");
        let Some(step) = line.strip_prefix("acknowledged ").and_then(|step| step.parse::<usize>().ok()) else {
            continue;
        };
        acknowledged = step + 1;
        if acknowledged == until {
            child.kill().expect("it is ours");
        }
    }
    child.wait().expect("it is ours");
    assert!(acknowledged >= until.min(steps(seed).len()), "the child acknowledged {acknowledged} of log {seed}");
    let active = Active::read(dir.path());
    Made { dir, held: held(seed, acknowledged), active }
}

/// Not a test: [`make`] runs it as a child process.
#[test]
fn child_that_writes_a_log_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let seed = std::env::var(CHILD_SEED).expect("with the directory").parse().expect("a number");
    let opened = || Store::open(&settings(seed, Path::new(&dir)), std::iter::empty()).expect("it is whole");
    let mut store = opened();
    let mut held = Held::new(seed);
    for (index, step) in steps(seed).into_iter().enumerate() {
        match step {
            Step::Append(count) => {
                let messages: Vec<_> = held.append(count, true).map(|number| message(seed, number)).collect();
                store.append(messages.iter()).expect("it takes writes");
            }
            Step::Drain(roll) => {
                for (topic, offsets) in held.drain(roll, true) {
                    store.done(&topic, &offsets).expect("it takes writes");
                }
            }
            Step::Roll => store.roll().expect("it takes writes"),
            Step::Remove if is_spool(seed) => drop(store.remove_done().expect("it takes writes")),
            Step::Remove => drop(store.remove_oldest(1).expect("it takes writes")),
            Step::Restart => {
                store.close();
                store = opened();
            }
        }
        println!("\nacknowledged {index}");
        std::io::stdout().flush().expect("somebody reads");
    }
    store.close();
}
