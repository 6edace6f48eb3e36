//! Every shape of the vendor's: one example of each on every bus, and thousands of deliveries generated from the
//! shapes on the embedded one. `TERRA_BRIDGE_TEST_GENERATED` sets how many, `_SEED` the seed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use fastrand::Rng;
use serde_json::Value;
use terra_bridge::vocabulary::KNOWN;

use crate::support::bridge::Bridge;
use crate::support::consumers::{Bus, Got, embedded_from};
use crate::support::expected::{Meaning, Sent};
use crate::support::http::Connection;
use crate::support::json::{Json, written};
use crate::support::shapes::Shapes;

/// About two hundred of each shape.
const USUAL: u64 = 8_000;

/// How many are in memory at once.
const ROUND: u64 = 4_000;

const CONNECTIONS: usize = 32;

#[test]
fn every_example_arrives_byte_for_byte_on_kafka() {
    Bus::kafka().iter().for_each(every_example_arrives_byte_for_byte);
}

#[test]
fn every_example_arrives_byte_for_byte_on_nats() {
    Bus::nats().iter().for_each(every_example_arrives_byte_for_byte);
}

#[test]
fn every_example_arrives_byte_for_byte_on_the_embedded_log() {
    Bus::embedded().iter().for_each(every_example_arrives_byte_for_byte);
}

fn every_example_arrives_byte_for_byte(bus: &Bus) {
    let bridge = Bridge::ready(&bus.forwarding());
    let mut arriving: BTreeMap<String, Vec<(Sent, String)>> = BTreeMap::new();
    for (place, example) in examples().enumerate() {
        let json: Value = serde_json::from_str(example).expect("an example is JSON");
        let forms = [example.to_owned(), serde_json::to_string_pretty(&json).expect("JSON")];
        for (form, body) in forms.into_iter().enumerate() {
            // For an event with an id of its own, the second form is a duplicate of the first.
            if form == 1 && json.get("event_id").is_some() {
                continue;
            }
            let mut sent = Sent::new(body, (&json).into());
            sent.trace = Some(format!("trace-{place}-{form}"));
            sent.ordered_at = (form == 0).then_some(1_784_012_470_123 + place as i64);
            let id = kept(&sent, &mut Connection::open(bridge.deliveries).expect("a connection"));
            arriving.entry(sent.topic()).or_default().push((sent, id.expect("it is kept")));
        }
    }
    assert!(!arriving.contains_key("unknown") && !arriving.contains_key("dead-letter"));
    for (topic, sent) in &arriving {
        let got = bus.read(&bridge, &bus.topic(topic), sent.len());
        for ((sent, id), got) in sent.iter().zip(&got) {
            let differences = sent.differences(got, id, bus);
            assert!(differences.is_empty(), "{topic}: {differences:#?}");
        }
    }
    assert_eq!(bus.count(&bridge), arriving.values().map(Vec::len).sum::<usize>());
}

fn examples() -> impl Iterator<Item = &'static str> {
    include_str!("examples.jsonl").lines()
}

#[test]
fn every_known_type_has_a_shape_and_every_published_one_an_example() {
    let known: HashSet<_> = KNOWN.iter().map(|known| known.name).collect();
    let shaped: HashSet<_> = Shapes::read().events().into_iter().map(|(_, name)| name).collect();
    assert_eq!(shaped, known);
    let examples =
        examples().map(|line| Sent::new(line, (&serde_json::from_str::<Value>(line).unwrap()).into()).topic());
    let examples: HashSet<_> = examples.collect();
    let published = KNOWN.iter().filter(|known| known.source.starts_with("openapi-"));
    let without: Vec<_> = published.map(|known| known.name).filter(|name| !examples.contains(*name)).collect();
    assert!(without.is_empty(), "{without:?}");
}

#[test]
fn generated_deliveries_arrive_as_what_they_are() {
    let (count, seed) = (number("TERRA_BRIDGE_TEST_GENERATED", USUAL), number("TERRA_BRIDGE_TEST_GENERATED_SEED", 1));
    let bus = Bus::embedded().expect("a directory");
    let bridge = Bridge::ready(&bus.forwarding());
    let shapes = Shapes::read();
    let events = shapes.events();
    let mut read = BTreeMap::new();
    let mut seen = HashSet::new();
    let (mut total, mut letters) = (0, 0);
    for first in (0..count).step_by(ROUND as usize) {
        let round = (first..count.min(first + ROUND)).filter_map(|n| {
            let (shape, _) = events[n as usize % events.len()];
            let sent = generated(&shapes, shape, &mut Rng::with_seed(seed << 32 | n));
            let fresh = seen.insert(hashed(&sent.body)) && sent.event_id().is_none_or(|id| seen.insert(hashed(id)));
            fresh.then_some((n, sent))
        });
        let round: Vec<_> = round.collect();
        total += round.len();
        letters += round.iter().filter(|(_, sent)| matches!(sent.meaning, Meaning::Unreadable(_))).count();
        let ids = all_kept(&round, bridge.deliveries, seed);
        let got = new_messages(&round, &bus, bridge.reader(), &mut read);
        for (n, sent) in &round {
            let id = &ids[n];
            let told = |what: &dyn std::fmt::Debug| {
                format!("delivery {n} of seed {seed}: {what:#?}\nof {}", sent.body.escape_ascii())
            };
            let got = got.get(id).unwrap_or_else(|| panic!("{}", told(&"not on its topic")));
            let differences = sent.differences(got, id, &bus);
            assert!(differences.is_empty(), "{}", told(&differences));
        }
    }
    assert_eq!(bus.count(&bridge), total, "seed {seed}");
    assert!(total as u64 >= count * 9 / 10 && letters as u64 >= count / 50, "{total} generated, {letters} unreadable");
    eprintln!("{total} deliveries of {} shapes, {letters} of them unreadable; seed {seed}", events.len());
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

/// Equal for two deliveries that the bridge would take for the same one.
fn hashed(what: impl Hash) -> u64 {
    let mut hash = DefaultHasher::new();
    what.hash(&mut hash);
    hash.finish()
}

fn generated(shapes: &Shapes, shape: &str, rng: &mut Rng) -> Sent {
    let json = shapes.body(shape, rng);
    let text = written(&json, rng);
    if let (Some(meant), Ok(read)) = (json.value(), serde_json::from_str::<Value>(&text)) {
        assert_eq!(read, meant, "the test writes what it means: {text}");
    }
    let mark = rng.u64(..);
    let mut sent = if rng.u8(..100) < 5 { spoilt(text, rng) } else { Sent::new(text, json) };
    sent.t -= rng.i64(0..20 * 3600);
    sent.trace = rng.bool().then(|| format!("5a0c1d7e-{mark:016x}"));
    sent.reference = rng.bool().then(|| format!("request {mark:x} é\"%\""));
    sent.ordered_at = rng.bool().then(|| 1_784_012_470_000 + rng.i64(0..1_000_000_000));
    sent
}

/// No longer a JSON object, in one of several ways.
fn spoilt(text: String, rng: &mut Rng) -> Sent {
    let mut body = text.trim().as_bytes().to_vec();
    let reason = match rng.u8(..7) {
        0 => {
            body.splice(0..0, *b"\xef\xbb\xbf");
            "not-json"
        }
        1 => {
            // Without its last brace, the object is not closed.
            body.truncate(rng.usize(..body.len()));
            if std::str::from_utf8(&body).is_ok() { "not-json" } else { "not-utf8" }
        }
        2 => {
            body.extend_from_slice([&b"}"[..], b",", b"{}", b"\0", b"x"][rng.usize(..5)]);
            "not-json"
        }
        3 => {
            body.insert(rng.usize(..=body.len()), [0xff, 0xc0, 0xfe][rng.usize(..3)]);
            "not-utf8"
        }
        4 => {
            body.insert(0, b'[');
            body.push(b']');
            "not-an-object"
        }
        5 => {
            body = written(&Json::text(&text), rng).into_bytes();
            "not-an-object"
        }
        _ => {
            body = ["null", "true", "7", "-1.5e3", "[]", "\"daily\""][rng.usize(..6)].into();
            body.extend(std::iter::repeat_n(b' ', rng.usize(..5000)));
            "not-an-object"
        }
    };
    Sent { meaning: Meaning::Unreadable(reason), ..Sent::new(body, Json::Raw("null".into())) }
}

/// The id in the reply.
fn kept(sent: &Sent, connection: &mut Connection) -> Result<String, String> {
    let response = sent.attempt().post_on(connection).map_err(|error| error.to_string())?;
    let answer = response.json();
    if (response.status, answer["outcome"].as_str()) != (200, Some(sent.outcome())) {
        return Err(format!("{} {answer}", response.status));
    }
    Ok(answer["id"].as_str().expect("an id").to_owned())
}

fn all_kept(round: &[(u64, Sent)], to: SocketAddr, seed: u64) -> HashMap<u64, String> {
    let (next, ids) = (AtomicUsize::new(0), Mutex::new(HashMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                let mut connection = Connection::open(to).expect("a connection");
                while let Some((n, sent)) = round.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let id = kept(sent, &mut connection);
                    let id = id.unwrap_or_else(|why| panic!("{n} of seed {seed}: {why}: {}", sent.body.escape_ascii()));
                    ids.lock().unwrap().insert(*n, id);
                }
            });
        }
    });
    ids.into_inner().unwrap()
}

/// The new messages of a round on its topics, by id.
fn new_messages(
    round: &[(u64, Sent)],
    bus: &Bus,
    reader: SocketAddr,
    read: &mut BTreeMap<String, usize>,
) -> HashMap<String, Got> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (_, sent) in round {
        *counts.entry(sent.topic()).or_default() += 1;
    }
    let mut messages = HashMap::new();
    for (topic, count) in counts {
        let from = read.entry(topic.clone()).or_default();
        let got = embedded_from(reader, &bus.topic(&topic), *from, count);
        *from += got.len();
        messages.extend(got.into_iter().map(|got| (got.attribute("id").expect("an id"), got)));
    }
    messages
}
