//! Damages copies of logs at seeded places, and checks what opening and reading them gives: every acknowledged record
//! with its bytes and in order, and everything that is pending in a spool; or else an error. It must never give fewer
//! or other records, panic or hang.
//!
//! `script` creates a log, `model` is what it must then contain, `active` what of it a damage may cost, `faults` damages
//! files.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use super::ReadError;
use super::entry::OpenError;
use super::store::Store;
use crate::message::Message;
use crate::record::Record;
use faults::Fault;
use model::{Held, Place};
use script::Made;

mod active;
mod faults;
mod model;
mod script;

/// `FROM..TO`, to try other seeds than these.
const SEEDS: &str = "TERRA_BRIDGE_TEST_DAMAGE_SEEDS";
const USUAL_SEEDS: std::ops::Range<u64> = 0..80;

/// How many logs are created; each is damaged in many ways.
const LOGS: u64 = 12;

/// An error names the file, and then this.
const PLACE: &str = " at byte ";

/// The time limit for opening and reading one log.
const PATIENCE: Duration = Duration::from_secs(60);

/// SplitMix64: the same seed is the same test on every machine.
#[derive(Default)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.roll() % end.max(1)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Whole,
    Refused,
    ReadError,
}

/// The error in the log's answer, or how the log protected its records.
fn judge(dir: &Path, held: &Held) -> Result<Outcome, String> {
    let settings = script::settings(held.seed, dir);
    let opened = Store::open(&settings, std::iter::empty()).and_then(|store| Ok((pending(&store)?, store)));
    let (recalled, store) = match opened {
        Ok(opened) => opened,
        Err(error) if error.0.contains("; ") && error.0.contains(PLACE) => return Ok(Outcome::Refused),
        Err(error) => return Err(format!("no place or no remedy: {error}")),
    };
    judge_pending(&recalled, held)?;
    let first = read_all(&store, held)?;
    if first == Outcome::ReadError {
        return Ok(first);
    }
    // Writing to the log must not make the damage worse.
    let last = Message::sample("another", "key", [0xff; 32], "last");
    let appended = store.append(std::iter::once(&last));
    store.close();
    if appended.is_err() {
        return Ok(Outcome::ReadError);
    }
    let store = Store::open(&settings, std::iter::empty()).map_err(|error| format!("not a second time: {error}"))?;
    let recalled = pending(&store).map_err(|error| format!("not recalled a second time: {error}"))?;
    judge_pending(&recalled, held)?;
    let second = read_all(&store, held)?;
    if second == Outcome::Whole { Ok(first) } else { Err("whole at first, and not a second time".to_owned()) }
}

/// What a spool recalls when it opens, with the digests of the keys.
fn pending(store: &Store) -> Result<BTreeMap<Place, u64>, OpenError> {
    let mut pending = BTreeMap::new();
    store.pending(|topic, offset, key| {
        pending.insert((topic.to_string(), offset), key);
    })?;
    Ok(pending)
}

fn judge_pending(recalled: &BTreeMap<Place, u64>, held: &Held) -> Result<(), String> {
    if !script::is_spool(held.seed) {
        return Ok(());
    }
    if let Some(missing) = held.pending.iter().find(|place| !recalled.contains_key(*place)) {
        return Err(format!("{missing:?} is pending no more: {} of {}", recalled.len(), held.pending.len()));
    }
    for ((topic, offset), key) in recalled {
        let number = held.topics.get(topic).and_then(|topic| topic.numbers.get(usize::try_from(*offset).ok()?));
        if number.is_some_and(|number| script::message(held.seed, *number).key_digest() != *key) {
            return Err(format!("{topic} has another key at {offset}"));
        }
    }
    Ok(())
}

/// Where an undamaged log begins. It reports nothing as pending that is done.
fn begin(dir: &Path, held: &mut Held) {
    let store = Store::open(&script::settings(held.seed, dir), std::iter::empty()).expect("unbroken");
    let mut recalled = pending(&store).expect("unbroken").into_keys();
    let again = recalled.find(|place| !held.pending.contains(place) && !held.undecided.contains(place));
    assert!(!script::is_spool(held.seed) || again.is_none(), "done, and pending again in {}: {again:?}", held.seed);
    for (topic, extent) in store.topics() {
        held.topics.entry(topic.to_string()).or_default().earliest = extent.earliest;
    }
}

fn read_all(store: &Store, held: &Held) -> Result<Outcome, String> {
    let extents: BTreeMap<_, _> = store.topics().into_iter().collect();
    for (topic, expected) in &held.topics {
        let extent = extents.get(topic.as_str()).copied().unwrap_or_default();
        if extent.next < expected.acknowledged || extent.earliest > expected.earliest {
            let super::Extent { earliest, next, .. } = extent;
            return Err(format!("{topic} has {earliest}..{next} and should have {expected:?}"));
        }
        if script::is_spool(held.seed) {
            if !has_pending(store, topic, extent.next, held)? {
                return Ok(Outcome::ReadError);
            }
            continue;
        }
        let mut from = extent.earliest;
        while from < extent.next {
            let read = match store.read(topic, from, u64::MAX, 100, 1 << 20) {
                Ok(read) => read,
                Err(ReadError::Failed(wrong)) if wrong.contains(PLACE) => return Ok(Outcome::ReadError),
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
                    && !is(record, &script::message(held.seed, *number))
                {
                    return Err(format!("{topic} has other bytes at {from}"));
                }
                from += 1;
            }
        }
    }
    Ok(Outcome::Whole)
}

/// Whether everything that is pending can be read. What was sent may be gone.
fn has_pending(store: &Store, topic: &str, next: u64, held: &Held) -> Result<bool, String> {
    let wanted = |offset, _| held.pending.contains(&(topic.to_owned(), offset));
    let read = match store.read_pending(topic, 0..next, usize::MAX, usize::MAX, wanted) {
        Ok(chunk) if chunk.damaged.is_empty() => chunk.records,
        Ok(_) => return Ok(false),
        Err(ReadError::Failed(wrong)) if wrong.contains(PLACE) => return Ok(false),
        Err(error) => return Err(format!("{topic}: {error}")),
    };
    let pending = held.pending.iter().filter(|place| place.0 == topic);
    for (place, record) in pending.clone().zip(&read) {
        let number = held.topics[topic].numbers[usize::try_from(place.1).expect("few")];
        if record.offset != place.1 || !is(record, &script::message(held.seed, number)) {
            return Err(format!("{topic} has another at {}", place.1));
        }
    }
    if pending.count() == read.len() { Ok(true) } else { Err(format!("{topic} has fewer that are pending")) }
}

pub(super) fn is(record: &Record, sent: &Message) -> bool {
    let headers = sent.nats_headers().map(|(name, value)| (name.to_owned(), value.into_owned()));
    record.topic == **sent.topic()
        && record.key.as_deref() == Some(sent.key())
        && record.payload == sent.payload()
        && record.headers == headers.collect::<Vec<_>>()
}

/// Damages a copy of one of the logs. An error says how the copy was damaged.
fn attempt(seed: u64, made: &[Made]) -> Result<Outcome, String> {
    let mut dice = Dice(seed);
    let made = &made[usize::try_from(dice.below(made.len() as u64)).expect("few")];
    let dir = tempfile::tempdir().expect("a directory");
    faults::copy(made.dir.path(), dir.path()).expect("it can be copied");
    let broken: Vec<Fault> = (0..=dice.below(8) / 6).map(|_| faults::strike(dir.path(), &mut dice)).collect();
    let (answer, answered) = mpsc::channel();
    let (path, held) = (dir.path().to_owned(), made.held.clone().cut(&made.active.losable(&broken)));
    std::thread::spawn(move || {
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| judge(&path, &held)));
        let _ = answer.send(result.unwrap_or_else(|_| Err("a panic".to_owned())));
    });
    let result = answered.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        // A hung thread still uses the directory.
        let _ = dir.keep();
        Err("a hang".to_owned())
    });
    result.map_err(|wrong| format!("seed {seed}, log {}: {broken:?}: {wrong}", made.held.seed))
}

/// The seeds that this variable says, or else the usual ones.
pub(super) fn seeds(variable: &str, usual: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(range) = std::env::var(variable) else { return usual };
    let (from, to) = range.split_once("..").expect("FROM..TO");
    from.parse().expect("a number")..to.parse().expect("a number")
}

#[test]
fn a_damaged_log_has_every_acknowledged_record_or_reports_the_damage() {
    let mut made: Vec<_> = (0..LOGS).map(script::make).collect();
    for made in &mut made {
        let dir = tempfile::tempdir().expect("a directory");
        faults::copy(made.dir.path(), dir.path()).expect("it can be copied");
        begin(dir.path(), &mut made.held);
        assert_eq!(judge(dir.path(), &made.held), Ok(Outcome::Whole), "unbroken {}", made.held.seed);
    }
    let (mut outcomes, mut wrong) = (BTreeMap::new(), Vec::new());
    for seed in seeds(SEEDS, USUAL_SEEDS) {
        match attempt(seed, &made) {
            Ok(outcome) => *outcomes.entry(outcome).or_insert(0) += 1,
            Err(reason) => wrong.push(reason),
        }
    }
    println!("{outcomes:?}");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(outcomes.contains_key(&Outcome::Whole) && outcomes.contains_key(&Outcome::Refused), "{outcomes:?}");
}

#[test]
fn a_lost_manifest_is_reported_also_where_no_record_is_left() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = || Store::open(&super::Settings::sample(dir.path()), std::iter::empty());
    let store = open().expect("it is new");
    store.append(std::iter::once(&Message::sample("t", "k", [1; 32], "x"))).expect("it takes writes");
    store.roll().expect("it takes writes");
    store.remove_oldest(1).expect("it takes writes");
    store.close();
    std::fs::remove_file(dir.path().join("manifest")).expect("ours");
    let error = open().err().expect("the offsets would begin anew").0;
    assert!(error.contains("1.log") && error.contains(PLACE), "{error}");
}
