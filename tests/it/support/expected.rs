//! What a delivery has to become, derived independently of the bridge: compares a message with the intended event and
//! headers. Shares nothing with the bridge but the vocabulary.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};
use terra_bridge::vocabulary::known;

use super::consumers::{Bus, Got};
use super::json::Json;
use super::terra::{Attempt, now};

/// Longer values are replaced by their digest, as are those that CloudEvents forbids.
const MAX_VALUE: usize = 1024;

#[derive(Debug, Clone)]
pub enum Meaning {
    Event(Json),
    /// Why it cannot be read.
    Unreadable(&'static str),
}

/// A delivery and its intended meaning.
#[derive(Debug, Clone)]
pub struct Sent {
    pub body: Vec<u8>,
    pub meaning: Meaning,
    /// Unix seconds.
    pub t: i64,
    pub trace: Option<String>,
    pub reference: Option<String>,
    /// Unix milliseconds.
    pub ordered_at: Option<i64>,
}

impl Sent {
    /// An event, or a body without a type.
    pub fn new(body: impl Into<Vec<u8>>, json: Json) -> Self {
        let meaning = if event_type(&json).is_some() { Meaning::Event(json) } else { Meaning::Unreadable("no-type") };
        Self { body: body.into(), meaning, t: now(), trace: None, reference: None, ordered_at: None }
    }

    pub fn attempt(&self) -> Attempt {
        let ordered_at = self.ordered_at.map(|time| time.to_string());
        let headers = [
            ("x-terra-trace-id", &self.trace),
            ("terra-reference", &self.reference),
            ("x-terra-ordering-timestamp", &ordered_at),
        ];
        let headers = headers.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        headers.fold(Attempt::of(self.body.clone()).t(self.t), |attempt, (name, value)| attempt.header(name, value))
    }

    pub fn outcome(&self) -> &'static str {
        match self.meaning {
            Meaning::Event(_) => "kept",
            Meaning::Unreadable(_) => "dead_lettered",
        }
    }

    /// The type's part of its topic name.
    pub fn topic(&self) -> String {
        match self.event() {
            Some(json) => known(&event_type(json).expect("an event")).map_or("unknown", |known| known.name).to_owned(),
            None => "dead-letter".to_owned(),
        }
    }

    /// Type and event id, for types whose deliveries with the same id are duplicates.
    pub fn event_id(&self) -> Option<(String, String)> {
        let json = self.event()?;
        let event_type = event_type(json).filter(|name| known(name).is_some_and(|known| known.identified_by_event_id));
        Some((event_type?, json.get("event_id")?.id()?))
    }

    fn event(&self) -> Option<&Json> {
        match &self.meaning {
            Meaning::Event(json) => Some(json),
            Meaning::Unreadable(_) => None,
        }
    }

    /// The key of its message.
    pub fn key(&self, id: &str) -> String {
        let Some(json) = self.event() else { return id.to_owned() };
        let of = |path: &[&str]| at(json, path);
        let direct = [
            ["user", "user_id"],
            ["new_user", "user_id"],
            ["data", "order_id"],
            ["coach", "coach_id"],
            ["data", "coach_id"],
        ];
        let reference = || of(&["data", "reference_id"]).or_else(|| of(&["reference_id"]));
        let hashed = || reference().map(|reference| digest(&["reference", "terra", &reference]));
        let found = direct.iter().find_map(|path| of(path)).or_else(|| coach_of_all(json)).or_else(hashed);
        let found = found.or_else(|| of(&["data", "session_id"]));
        bounded(found.or_else(|| self.trace.clone()).unwrap_or_else(|| id.to_owned()))
    }

    /// The type of its message, without a dead letter's.
    pub fn event_type(&self) -> Option<String> {
        Some(bounded(format!("co.tryterra.{}", event_type(self.event()?)?)))
    }

    pub fn dead_letter_reason(&self) -> Option<&'static str> {
        match self.meaning {
            Meaning::Event(_) => None,
            Meaning::Unreadable(reason) => Some(reason),
        }
    }

    /// Every attribute except the time of receipt.
    fn attributes(&self, id: &str) -> Vec<(&'static str, Option<String>)> {
        let event_type = self.event().and_then(event_type).unwrap_or_else(|| "dead-letter".to_owned());
        let time = jiff::Timestamp::from_millisecond(self.ordered_at.unwrap_or(self.t * 1000)).expect("a time");
        let of = |path: &[&str]| at(self.event()?, path).map(bounded);
        let either = |name| of(&["user", name]).or_else(|| of(&["new_user", name]));
        vec![
            ("specversion", Some("1.0".to_owned())),
            ("id", Some(id.to_owned())),
            ("source", Some("/terra/terra".to_owned())),
            ("type", Some(bounded(format!("co.tryterra.{event_type}")))),
            ("time", Some(format!("{time:.3}"))),
            ("subject", either("user_id").or_else(|| of(&["data", "order_id"]))),
            ("partitionkey", Some(self.key(id))),
            ("sequence", self.ordered_at.map(|time| time.to_string())),
            ("correlationid", self.reference.clone()),
            ("terratraceid", self.trace.clone()),
            ("terraeventid", of(&["event_id"])),
            ("terraprovider", either("provider")),
            ("terradeadletter", self.dead_letter_reason().map(str::to_owned)),
        ]
    }

    /// The differences between the message and the expected one; `id` is the reply's.
    pub fn differences(&self, got: &Got, id: &str, bus: &Bus) -> Vec<String> {
        let content_type = if self.event().is_some() { "application/json" } else { "application/octet-stream" };
        let mut compared = vec![
            ("topic", Some(got.topic.clone()), Some(bus.topic(&self.topic()))),
            ("key", got.key.clone(), Some(self.key(id))),
            ("content-type", got.headers.get("content-type").cloned(), Some(content_type.to_owned())),
        ];
        let attributes = self.attributes(id);
        compared.extend(attributes.iter().map(|(name, value)| (*name, got.attribute(name), value.clone())));
        let differ = compared.into_iter().filter(|(_, got, expected)| got != expected);
        let mut differences: Vec<_> =
            differ.map(|(what, got, expected)| format!("{what}: {got:?} instead of {expected:?}")).collect();
        if got.payload != self.body {
            differences.push(format!("payload: {}", got.payload.escape_ascii()));
        }
        let foreseen = |name: &str| {
            let unlisted = ["recordedtime", "datacontenttype"].contains(&name);
            unlisted || attributes.iter().any(|(known, _)| *known == name)
        };
        let names = got.headers.keys().filter_map(|header| header.strip_prefix("ce_").or(header.strip_prefix("ce-")));
        differences.extend(names.filter(|name| !foreseen(name)).map(|name| format!("an attribute {name}")));
        differences
    }
}

fn event_type(json: &Json) -> Option<String> {
    ["type", "event_type"].iter().find_map(|name| json.get(name)?.said())
}

fn at(json: &Json, path: &[&str]) -> Option<String> {
    path.iter().try_fold(json, |json, name| json.get(name))?.id()
}

/// The coach that a list of registered athletes has in common.
fn coach_of_all(json: &Json) -> Option<String> {
    let Some(Json::List(athletes)) =
        json.get("data").filter(|_| event_type(json).as_deref() == Some("athlete.registered"))
    else {
        return None;
    };
    let coaches: BTreeSet<_> = athletes.iter().map(|athlete| athlete.get("coach_id").and_then(Json::id)).collect();
    if coaches.len() == 1 { coaches.into_iter().next()? } else { None }
}

/// Over each field, preceded by its length.
fn digest(fields: &[&str]) -> String {
    let mut hash = Sha256::new();
    for field in fields {
        hash.update((field.len() as u64).to_be_bytes());
        hash.update(field);
    }
    data_encoding::HEXLOWER.encode(&hash.finalize())
}

fn bounded(value: String) -> String {
    let is_forbidden = |c: char| {
        let code = u32::from(c);
        code < 0x20 || (0x7F..0xA0).contains(&code) || (0xFDD0..0xFDF0).contains(&code) || code % 0x10000 >= 0xFFFE
    };
    if value.len() <= MAX_VALUE && !value.contains(is_forbidden) {
        return value;
    }
    format!("sha256:{}", data_encoding::HEXLOWER.encode(&Sha256::digest(value)))
}
