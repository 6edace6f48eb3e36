//! Breaks copies of logs at seeded places, and judges what opening and reading them gives: every
//! acknowledged record with its bytes in its order, or an error; never fewer, never others, no panic,
//! no hang.
//!
//! `script` is what a log is made of and a child process that makes it, `faults` how files are broken.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use super::store::Store;
use super::{ReadError, Settings};
use crate::bus::Record;
use crate::message::Message;
use faults::Fault;
use script::{Held, Made};

mod faults;
mod script;

/// `FROM..TO`, where others than these are to be tried.
const SEEDS: &str = "TERRA_BRIDGE_TEST_DAMAGE_SEEDS";
const USUAL_SEEDS: std::ops::Range<u64> = 0..48;

/// Logs that are made; each is broken in many ways.
const LOGS: u64 = 7;

/// Opening and reading one.
const PATIENCE: Duration = Duration::from_secs(60);

/// SplitMix64: the same seed is the same test on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.roll() % end.max(1)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Whole,
    Refused,
    ReadError,
}

/// What is wrong with the log's answer, or how it protected its records.
fn judge(dir: &Path, held: &Held) -> Result<Outcome, String> {
    let settings = Settings::sample(dir);
    let store = match Store::open(&settings, std::iter::empty()) {
        Ok(store) => store,
        Err(error) if error.0.contains("; ") => return Ok(Outcome::Refused),
        Err(error) => return Err(format!("no remedy: {error}")),
    };
    let first = read_all(&store, held)?;
    if first == Outcome::ReadError {
        return Ok(first);
    }
    // What goes on from here must not make it worse.
    let last = Message::sample("another", "key", [0xff; 32], "last");
    let appended = store.append(std::iter::once(&last));
    store.close();
    if appended.is_err() {
        return Ok(Outcome::ReadError);
    }
    let store = Store::open(&settings, std::iter::empty()).map_err(|error| format!("not a second time: {error}"))?;
    let second = read_all(&store, held)?;
    if second == Outcome::Whole { Ok(first) } else { Err("whole at first, and not a second time".to_owned()) }
}

fn read_all(store: &Store, held: &Held) -> Result<Outcome, String> {
    let extents: BTreeMap<_, _> = store.topics().into_iter().collect();
    for (topic, expected) in &held.topics {
        let extent = extents.get(topic.as_str()).copied().unwrap_or_default();
        if extent.next < expected.acknowledged || extent.earliest > expected.earliest {
            let super::Extent { earliest, next, .. } = extent;
            return Err(format!("{topic} has {earliest}..{next} and should have {expected:?}"));
        }
        let mut from = extent.earliest;
        while from < extent.next {
            let read = match store.read(topic, from, u64::MAX, 100, 1 << 20) {
                Ok(read) => read,
                Err(ReadError::Failed(_)) => return Ok(Outcome::ReadError),
                Err(error) => return Err(format!("{topic} from {from}: {error}")),
            };
            if read.is_empty() {
                return Err(format!("{topic} ends at {from}, before {}", extent.next));
            }
            for record in &read {
                if record.offset != from {
                    return Err(format!("{topic} has {} at {from}", record.offset));
                }
                if let Some(number) = expected.numbers.get(usize::try_from(from).expect("few"))
                    && !is(record, topic, held.seed, *number)
                {
                    return Err(format!("{topic} has other bytes at {from}"));
                }
                from += 1;
            }
        }
    }
    Ok(Outcome::Whole)
}

fn is(record: &Record, topic: &str, seed: u64, number: u64) -> bool {
    let sent = script::message(seed, number);
    let headers = sent.nats_headers().map(|(name, value)| (name.into_owned(), value.into_owned()));
    record.topic == topic
        && record.key.as_deref() == Some(sent.key())
        && record.payload == sent.payload()
        && record.headers == headers.collect::<Vec<_>>()
}

/// Breaks a copy of one of the logs. What is wrong then, if anything, says how it was broken.
fn attempt(seed: u64, made: &[Made]) -> Result<Outcome, String> {
    let mut dice = Dice(seed);
    let made = &made[usize::try_from(dice.below(made.len() as u64)).expect("few")];
    let dir = tempfile::tempdir().expect("a directory");
    faults::copy(made.dir.path(), dir.path()).expect("it can be copied");
    let broken: Vec<Fault> = (0..=dice.below(8) / 6).map(|_| faults::strike(dir.path(), &mut dice)).collect();
    let (answer, answered) = mpsc::channel();
    let (path, held) = (dir.path().to_owned(), made.held.clone());
    std::thread::spawn(move || {
        let judged = std::panic::catch_unwind(AssertUnwindSafe(|| judge(&path, &held)));
        let _ = answer.send(judged.unwrap_or_else(|_| Err("a panic".to_owned())));
    });
    let judged = answered.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        // What hangs still has the directory.
        let _ = dir.keep();
        Err("a hang".to_owned())
    });
    judged.map_err(|wrong| format!("seed {seed}, log {}: {broken:?}: {wrong}", made.held.seed))
}

#[test]
fn a_broken_log_has_every_acknowledged_record_or_says_that_it_has_not() {
    let seeds = match std::env::var(SEEDS) {
        Ok(range) => {
            let (from, to) = range.split_once("..").expect("FROM..TO");
            from.parse().expect("a number")..to.parse().expect("a number")
        }
        Err(_) => USUAL_SEEDS,
    };
    let made: Vec<_> = (0..LOGS).map(script::make).collect();
    for made in &made {
        let dir = tempfile::tempdir().expect("a directory");
        faults::copy(made.dir.path(), dir.path()).expect("it can be copied");
        assert_eq!(judge(dir.path(), &made.held), Ok(Outcome::Whole), "unbroken");
    }
    let (mut outcomes, mut wrong) = (BTreeMap::new(), Vec::new());
    for seed in seeds {
        match attempt(seed, &made) {
            Ok(outcome) => *outcomes.entry(outcome).or_insert(0) += 1,
            Err(reason) => wrong.push(reason),
        }
    }
    println!("{outcomes:?}");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(outcomes.contains_key(&Outcome::Whole) && outcomes.contains_key(&Outcome::Refused), "{outcomes:?}");
}
