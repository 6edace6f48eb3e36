//! What a key may be. Comes in: a raw value. Goes out: a [`Parsed`] one, or what is wrong with it,
//! without the value wherever that may be a secret. Knows no key by name.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration as Time;

use figment::value::Value;

use super::Secret as Kept;
use super::checks::{self, Check};
use super::environment::Environment;
use super::{files, secret, units};

pub(super) const KIB: u64 = bytesize::KIB;
pub(super) const MIB: u64 = bytesize::MIB;
pub(super) const GIB: u64 = bytesize::GIB;
/// The most that any bus can be told: NATS counts in `i64`.
pub(super) const MAX: u64 = 8 * bytesize::EIB - 1;
pub(super) const MILLISECOND: u64 = 1;
pub(super) const SECOND: u64 = 1000;
pub(super) const MINUTE: u64 = 60 * SECOND;
pub(super) const HOUR: u64 = 60 * MINUTE;

/// What a whole table may be.
pub(super) const TABLE: &str = "a table, such as { name = \"value\" }";

/// Bounds are inclusive; of durations in milliseconds, of sizes in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Flag,
    Count(u64, u64),
    Duration(u64, u64),
    Size(u64, u64),
    /// Bytes a second.
    Rate(u64, u64),
    Address,
    Word(&'static [&'static str]),
    Status,
    Text(Check),
    Texts(Check),
    TopicOrFalse,
    Directory,
    /// A file that can be read.
    File,
    SystemOrFile,
    Secret,
    Secrets,
    /// A text, a number or a flag, kept as text.
    Scalar,
    /// The same, or a reference; shown to nobody.
    Property,
}

/// A value that was checked on its own.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Parsed {
    Flag(bool),
    Count(u64),
    Duration(Time),
    Size(u64),
    Rate(u64),
    Address(SocketAddr),
    Text(String),
    Texts(Vec<String>),
    /// `false` in place of a topic.
    Dropped,
    Secret(Kept),
    Secrets(Vec<Kept>),
}

impl Parsed {
    /// All of them; none where it is something else.
    pub(super) fn secrets(&self) -> &[Kept] {
        match self {
            Self::Secret(secret) => std::slice::from_ref(secret),
            Self::Secrets(secrets) => secrets,
            _ => &[],
        }
    }

    pub(super) fn secrets_mut(&mut self) -> &mut [Kept] {
        match self {
            Self::Secret(secret) => std::slice::from_mut(secret),
            Self::Secrets(secrets) => secrets,
            _ => &mut [],
        }
    }
}

/// What is wrong with a value, to be read on from its key.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) wrong: String,
    pub(super) remedy: Option<String>,
}

impl<S: Into<String>> From<S> for Wrong {
    fn from(wrong: S) -> Self {
        Self { wrong: wrong.into(), remedy: None }
    }
}

impl Kind {
    /// `lenient` where all values are text, as in the environment: flags, numbers and lists are read from it.
    pub(super) fn parse(&self, value: &Value, lenient: bool, environment: &Environment) -> Result<Parsed, Vec<Wrong>> {
        let parsed = match self {
            Self::Texts(check) => return texts(value, lenient, check),
            Self::Secrets => return secrets(value, lenient, environment),
            Self::Flag => flag(value, lenient),
            Self::Count(least, most) => count(value, lenient, *least, *most).map(Parsed::Count),
            Self::Status => count(value, lenient, 401, 503).and_then(status),
            Self::TopicOrFalse => topic_or_false(value, lenient),
            Self::Scalar => scalar(value).map(Parsed::Text),
            Self::Property => property(value, environment),
            Self::Secret => text(value).and_then(|text| secret::resolve(text, environment)).map(Parsed::Secret),
            _ => text(value).and_then(|text| self.parse_text(text)),
        };
        parsed.map_err(|wrong| vec![wrong])
    }

    /// The references that a sound value consists of: as many as there are secrets, or none.
    pub(super) fn references(&self, value: &Value, lenient: bool) -> Vec<String> {
        match self {
            Self::Secrets => list(value, lenient).unwrap_or_default(),
            Self::Secret => value.as_str().map(str::to_owned).into_iter().collect(),
            Self::Property => scalar(value).ok().filter(|text| secret::is_reference(text)).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    /// The kinds that are always written as text.
    fn parse_text(&self, text: &str) -> Result<Parsed, Wrong> {
        match self {
            Self::Duration(least, most) => {
                let value = units::parse_duration(text).map_err(|why| which(text, why))?;
                within(text, value.as_millis() as u64, *least, *most).map(|()| Parsed::Duration(value))
            }
            Self::Size(least, most) => {
                let value = units::parse_size(text).map_err(|why| which(text, why))?;
                within(text, value, *least, *most).map(|()| Parsed::Size(value))
            }
            Self::Rate(least, most) => {
                let value = units::parse_rate(text).map_err(|why| which(text, why))?;
                within(text, value, *least, *most).map(|()| Parsed::Rate(value))
            }
            Self::Address => {
                text.parse().map(Parsed::Address).map_err(|_| which(text, "is not an IP address and a port"))
            }
            Self::Word(words) if !words.contains(&text) => Err(which(text, "is none of the words allowed")),
            Self::Text(check) => judge(text, check).map(|()| Parsed::Text(text.to_owned())),
            Self::File => readable(text).map(|()| Parsed::Text(text.to_owned())),
            Self::SystemOrFile if text != "system" => readable(text).map(|()| Parsed::Text(text.to_owned())),
            _ => judge(text, &checks::ANY).map(|()| Parsed::Text(text.to_owned())),
        }
    }

    /// In words, to be read on from "allowed:".
    pub(super) fn allowed(&self) -> String {
        let duration = |ms: &u64| units::show_duration(Time::from_millis(*ms));
        match self {
            Self::Flag => "true or false".into(),
            Self::Count(least, most) => format!("a whole number from {least} to {most}"),
            Self::Duration(least, most) => {
                format!("a duration such as \"5s\" or \"1h 30m\", from {} to {}", duration(least), duration(most))
            }
            Self::Size(least, most) if *most == MAX => {
                format!("a size such as \"12 MiB\", at least {}", units::show_size(*least))
            }
            Self::Size(least, most) => {
                format!("a size such as \"12 MiB\", from {} to {}", units::show_size(*least), units::show_size(*most))
            }
            Self::Rate(least, most) => {
                let (least, most) = (units::show_size(*least), units::show_size(*most));
                format!("a rate such as \"16 KiB/s\", from {least}/s to {most}/s")
            }
            Self::Address => "an IP address and a port, such as \"127.0.0.1:8080\"".into(),
            Self::Word(words) => words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" or "),
            Self::Status => "401 or 503".into(),
            Self::Text(check) => check.allowed.into(),
            Self::Texts(check) => format!("a list, each one {}", check.allowed),
            Self::TopicOrFalse => format!("{}, or false", checks::TOPIC.allowed),
            Self::Directory => "a directory".into(),
            Self::File => "the path of a readable PEM file".into(),
            Self::SystemOrFile => "\"system\" or the path of a readable PEM file".into(),
            Self::Secret => secret::ALLOWED.into(),
            Self::Secrets => format!("a list, each one {}", secret::ALLOWED),
            Self::Scalar => "a text, a number or a flag".into(),
            Self::Property => format!("a text, a number, a flag, or a reference {}", secret::ALLOWED),
        }
    }
}

fn which(text: &str, why: &str) -> Wrong {
    if text.is_empty() {
        return "is empty".into();
    }
    format!("is {}, which {why}", quoted(text)).into()
}

/// The text as a person wrote it, unless it may have a password in it.
fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    match text {
        text if text.contains('@') => "a text".into(),
        text if text.chars().count() > LONGEST => "a long text".into(),
        text => format!("{text:?}"),
    }
}

fn within(text: &str, value: u64, least: u64, most: u64) -> Result<(), Wrong> {
    match value {
        _ if value < least => Err(which(text, "is too little")),
        _ if value > most => Err(which(text, "is too much")),
        _ => Ok(()),
    }
}

fn judge(text: &str, check: &Check) -> Result<(), Wrong> {
    (check.test)(text).map_err(|why| which(text, why))
}

fn text(value: &Value) -> Result<&str, Wrong> {
    value.as_str().ok_or_else(|| of_type(value))
}

fn of_type(value: &Value) -> Wrong {
    sort(value).into()
}

/// What sort of value it is, to be read on from its key.
pub(super) fn sort(value: &Value) -> &'static str {
    match value {
        Value::String(..) | Value::Char(..) => "is a text in quotes",
        Value::Bool(..) => "is a flag",
        Value::Num(..) => "is a number without quotes",
        Value::Empty(..) => "is a date",
        Value::Dict(..) => "is a table",
        Value::Array(..) => "is a list",
    }
}

fn flag(value: &Value, lenient: bool) -> Result<Parsed, Wrong> {
    match (value, value.as_str()) {
        (Value::Bool(_, flag), _) => Ok(Parsed::Flag(*flag)),
        (_, Some("true")) if lenient => Ok(Parsed::Flag(true)),
        (_, Some("false")) if lenient => Ok(Parsed::Flag(false)),
        (_, Some(text)) if lenient => Err(which(text, "is neither true nor false")),
        _ => Err(of_type(value)),
    }
}

fn count(value: &Value, lenient: bool, least: u64, most: u64) -> Result<u64, Wrong> {
    let (shown, count) = match (value, value.as_str()) {
        (Value::Num(..), _) if value.to_f64().is_some() => return Err("is not a whole number".into()),
        (Value::Num(..), _) => {
            let number = value.to_i128().ok_or("is not a whole number")?;
            (number.to_string(), u64::try_from(number).ok())
        }
        (_, Some(text)) if lenient => (text.to_owned(), text.parse().ok()),
        _ => return Err(of_type(value)),
    };
    let count = count.ok_or_else(|| which(&shown, "is not a whole number"))?;
    within(&shown, count, least, most).map(|()| count)
}

fn status(status: u64) -> Result<Parsed, Wrong> {
    match status {
        401 | 503 => Ok(Parsed::Count(status)),
        _ => Err(format!("is {status}").into()),
    }
}

fn topic_or_false(value: &Value, lenient: bool) -> Result<Parsed, Wrong> {
    match (value, value.as_str()) {
        (Value::Bool(_, false), _) => Ok(Parsed::Dropped),
        (_, Some("false")) if lenient => Ok(Parsed::Dropped),
        (_, Some("true" | "false")) => Err("is a flag in quotes".into()),
        (_, Some(text)) => judge(text, &checks::TOPIC).map(|()| Parsed::Text(text.to_owned())),
        _ => Err(of_type(value)),
    }
}

fn scalar(value: &Value) -> Result<String, Wrong> {
    match value {
        Value::String(_, text) => Ok(text.clone()),
        Value::Bool(_, flag) => Ok(flag.to_string()),
        Value::Num(..) => {
            let whole = value.to_i128().map(|number| number.to_string());
            whole.or_else(|| value.to_f64().map(|number| number.to_string())).ok_or_else(|| of_type(value))
        }
        _ => Err(of_type(value)),
    }
}

fn property(value: &Value, environment: &Environment) -> Result<Parsed, Wrong> {
    let text = scalar(value)?;
    if secret::is_reference(&text) {
        return secret::resolve(&text, environment).map(Parsed::Secret);
    }
    Ok(Parsed::Secret(Kept::new(text)))
}

fn readable(path: &str) -> Result<(), Wrong> {
    judge(path, &checks::ANY)?;
    let opened = files::open_regular(Path::new(path));
    opened.map(drop).map_err(|error| which(path, &format!("cannot be read: {error}")))
}

/// The parts of a list: of a TOML array, or of a text with commas.
fn list(value: &Value, lenient: bool) -> Result<Vec<String>, Wrong> {
    let array = |values: &[Value]| values.iter().map(|value| text(value).map(str::to_owned)).collect();
    match value {
        Value::Array(_, values) => array(values),
        Value::String(_, text) => {
            let inner = text.trim();
            if lenient && inner.starts_with('[') && inner.ends_with(']') {
                let parsed = super::file::inline(inner).map_err(|why| format!("is not a TOML array: {why}"))?;
                return array(parsed.as_array().ok_or("is not a TOML array")?);
            }
            Ok(inner.split(',').map(|part| part.trim().to_owned()).collect())
        }
        _ => Err(of_type(value)),
    }
}

fn texts(value: &Value, lenient: bool, check: &Check) -> Result<Parsed, Vec<Wrong>> {
    let list = list(value, lenient).map_err(|wrong| vec![wrong])?;
    each(list, "is an empty list", |text| judge(&text, check).map(|()| text)).map(Parsed::Texts)
}

fn secrets(value: &Value, lenient: bool, environment: &Environment) -> Result<Parsed, Vec<Wrong>> {
    let list = list(value, lenient).map_err(|wrong| vec![wrong])?;
    each(list, "is an empty list", |text| secret::resolve(&text, environment)).map(Parsed::Secrets)
}

/// All of a list, or everything that is wrong in it; says which part where there are several.
fn each<T>(list: Vec<String>, empty: &str, parse: impl Fn(String) -> Result<T, Wrong>) -> Result<Vec<T>, Vec<Wrong>> {
    let several = list.len() > 1;
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for (at, text) in list.into_iter().enumerate() {
        match parse(text) {
            Ok(value) => good.push(value),
            Err(Wrong { wrong, remedy }) if several => {
                bad.push(Wrong { wrong: format!("at number {}: {wrong}", at + 1), remedy });
            }
            Err(wrong) => bad.push(wrong),
        }
    }
    match (good.is_empty(), bad.is_empty()) {
        (true, true) => Err(vec![empty.into()]),
        (_, false) => Err(bad),
        _ => Ok(good),
    }
}
