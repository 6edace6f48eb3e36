//! How the value of a key is written: each format parses, shows and explains itself. Knows no key.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use toml::Value;

use super::mistake::Problem;
use super::secret::{self, Secret};
use super::secret_source::{Context, SecretSource};
use super::texts::{self, Form, TOPIC};
use super::{file, units};

pub(super) const KIB: u64 = bytesize::KIB;
pub(super) const MIB: u64 = bytesize::MIB;
pub(super) const GIB: u64 = bytesize::GIB;
/// The maximum that every bus accepts: NATS counts in `i64`.
pub(super) const MAX: u64 = 8 * bytesize::EIB - 1;
pub(super) const MILLISECOND: u64 = 1;
pub(super) const SECOND: u64 = 1000;
pub(super) const MINUTE: u64 = 60 * SECOND;
pub(super) const HOUR: u64 = 60 * MINUTE;
pub(super) const DAY: u64 = 24 * HOUR;

pub(super) struct Format<T> {
    /// What a value may be; continues after "allowed:".
    pub(super) allowed: String,
    notation: Notation,
    parse: Box<Parse<T>>,
}

type Parse<T> = dyn Fn(&Value, &mut Context<'_>) -> Outcome<T>;
type Outcome<T> = Result<Parsed<T>, Vec<Problem>>;

/// A valid value, and how it is displayed: as TOML, unless it is a secret.
#[derive(Debug)]
pub(super) struct Parsed<T> {
    pub(super) value: T,
    pub(super) shown: String,
}

/// How the text of an environment variable is written in TOML.
#[derive(Clone, Copy)]
enum Notation {
    Bare,
    Quoted,
    List,
}

impl<T> Format<T> {
    fn new(
        allowed: impl Into<String>,
        notation: Notation,
        parse: impl Fn(&Value, &mut Context<'_>) -> Outcome<T> + 'static,
    ) -> Self {
        Self { allowed: allowed.into(), notation, parse: Box::new(parse) }
    }

    /// For a value that is always written as text.
    fn of_text<F>(allowed: impl Into<String>, parse: F) -> Self
    where
        F: Fn(&str, &mut Context<'_>) -> Result<Parsed<T>, Problem> + 'static,
    {
        Self::new(allowed, Notation::Quoted, move |raw, context| {
            let text = raw.as_str().ok_or_else(|| wrong_type(raw))?;
            Ok(parse(text, context)?)
        })
    }

    /// Parses a TOML value, or a text if `context` is lenient. Problems name no secret.
    pub(super) fn parse(&self, raw: &Value, context: &mut Context<'_>) -> Outcome<T> {
        (self.parse)(raw, context)
    }

    /// The value of a default or an example. Secrets are empty.
    pub(super) fn stand_in(&self, text: &str) -> T {
        let parsed = self.parse(&Value::from(text), &mut Context::new("", true, SecretSource::Nothing));
        parsed.unwrap_or_else(|wrong| unreachable!("a default or an example is mistaken: {wrong:?}")).value
    }

    /// The text of an environment variable, written as TOML.
    pub(super) fn in_toml(&self, text: &str) -> String {
        match self.notation {
            Notation::Bare => text.to_owned(),
            Notation::Quoted => format!("{text:?}"),
            Notation::List => format!("{:?}", text.split(',').map(str::trim).collect::<Vec<_>>()),
        }
    }
}

fn shown_as<T, E>(value: T, shown: impl Display) -> Result<Parsed<T>, E> {
    Ok(Parsed { value, shown: shown.to_string() })
}

fn quoted<T, E>(value: T, text: &str) -> Result<Parsed<T>, E> {
    shown_as(value, format_args!("{text:?}"))
}

pub(super) fn flag() -> Format<bool> {
    Format::new("true or false", Notation::Bare, |raw, context| {
        let flag = match (raw, raw.as_str().filter(|_| context.lenient)) {
            (Value::Boolean(flag), _) => *flag,
            (_, Some("true")) => true,
            (_, Some("false")) => false,
            (_, Some(text)) => return Err(which(text, "is neither true nor false").into()),
            _ => return Err(wrong_type(raw).into()),
        };
        shown_as(flag, flag)
    })
}

/// A whole number; the bounds are inclusive, here and below.
pub(super) fn count<T: TryFrom<u64>>(least: u64, most: u64) -> Format<T> {
    Format::new(format!("a whole number from {least} to {most}"), Notation::Bare, move |raw, context| {
        let (written, number) = match raw {
            Value::Float(_) => return Err(Problem::from("is not a whole number").into()),
            Value::Integer(number) => (number.to_string(), u64::try_from(*number).ok()),
            Value::String(text) if context.lenient => (text.clone(), text.parse().ok()),
            _ => return Err(wrong_type(raw).into()),
        };
        let number = number.ok_or_else(|| which(&written, "is not a whole number"))?;
        within(&written, number, least, most)?;
        shown_as(fitting(number), number)
    })
}

/// A part of a whole.
pub(super) fn share() -> Format<f64> {
    Format::new("a number from 0 to 1", Notation::Bare, |raw, context| {
        let (written, number) = match raw {
            Value::Float(number) => (number.to_string(), Some(*number)),
            Value::Integer(number) => (number.to_string(), Some(*number as f64)),
            Value::String(text) if context.lenient => (text.clone(), text.parse().ok()),
            _ => return Err(wrong_type(raw).into()),
        };
        let number = number.filter(|number| (0.0..=1.0).contains(number));
        let number = number.ok_or_else(|| which(&written, "is not from 0 to 1"))?;
        shown_as(number, format_args!("{number:?}"))
    })
}

/// The status for a rejected delivery.
pub(super) fn rejected_status() -> Format<StatusCode> {
    let number = count::<u16>(401, 503);
    Format::new("401 or 503", Notation::Bare, move |raw, context| {
        let Parsed { value, shown } = number.parse(raw, context)?;
        match StatusCode::from_u16(value) {
            Ok(status @ (StatusCode::UNAUTHORIZED | StatusCode::SERVICE_UNAVAILABLE)) => shown_as(status, shown),
            _ => Err(Problem::from(format!("is {value}")).into()),
        }
    })
}

/// Bounds in milliseconds.
pub(super) fn duration(least: u64, most: u64) -> Format<Duration> {
    let parse = |text: &str| units::parse_duration(text).map(|duration| duration.as_millis() as u64);
    let show = |millis| units::show_duration(Duration::from_millis(millis));
    quantity("a duration such as \"5s\" or \"1h 30m\"", least, most, parse, show, Duration::from_millis)
}

/// Bounds in bytes.
pub(super) fn size<T: TryFrom<u64> + 'static>(least: u64, most: u64) -> Format<T> {
    quantity("a size such as \"12 MiB\"", least, most, units::parse_size, units::show_size, fitting)
}

/// Bounds in bytes per second.
pub(super) fn rate(least: u64, most: u64) -> Format<u64> {
    quantity("a rate such as \"16 KiB/s\"", least, most, units::parse_rate, units::show_rate, fitting)
}

fn quantity<T: 'static>(
    such_as: &str,
    least: u64,
    most: u64,
    parse: fn(&str) -> Result<u64, &'static str>,
    show: fn(u64) -> String,
    of: fn(u64) -> T,
) -> Format<T> {
    let allowed = match most {
        MAX => format!("{such_as}, at least {}", show(least)),
        _ => format!("{such_as}, from {} to {}", show(least), show(most)),
    };
    Format::of_text(allowed, move |text, _| {
        let amount = parse(text).map_err(|why| which(text, why))?;
        within(text, amount, least, most)?;
        quoted(of(amount), &show(amount))
    })
}

fn fitting<T: TryFrom<u64>>(number: u64) -> T {
    T::try_from(number).unwrap_or_else(|_| unreachable!("the bounds of each key fit its type"))
}

/// One of a few words, each with its meaning.
pub(super) fn choice<T: Copy + 'static, const N: usize>(words: [(&'static str, T); N]) -> Format<T> {
    let allowed = words.each_ref().map(|(word, _)| format!("{word:?}")).join(" or ");
    Format::of_text(allowed, move |text, _| {
        let chosen = words.iter().find(|(word, _)| *word == text);
        let (word, value) = chosen.ok_or_else(|| which(text, "is none of the words allowed"))?;
        quoted(*value, word)
    })
}

/// A text of that form.
pub(super) fn text((allowed, check): Form<()>) -> Format<String> {
    Format::of_text(allowed, move |text, _| {
        check(text).map_err(|why| which(text, why))?;
        quoted(text.to_owned(), text)
    })
}

/// The value that a text of that form stands for.
pub(super) fn written<T: 'static>((allowed, parse): Form<T>) -> Format<T> {
    Format::of_text(allowed, move |text, _| quoted(parse(text).map_err(|why| which(text, why))?, text))
}

/// A TOML array, or a text with commas.
pub(super) fn list<T: 'static>(item: Format<T>) -> Format<Vec<T>> {
    list_shown_as(item, |shown| format!("[{}]", shown.join(", ")))
}

fn list_shown_as<T: 'static>(item: Format<T>, show: fn(&[String]) -> String) -> Format<Vec<T>> {
    Format::new(format!("a list, each one {}", item.allowed), Notation::List, move |raw, context| {
        let items = items(raw, context.lenient)?;
        let (mut values, mut shown, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        for (at, raw) in items.iter().enumerate() {
            match item.parse(raw, context) {
                Ok(item) => {
                    values.push(item.value);
                    shown.push(item.shown);
                }
                Err(wrong) if items.len() == 1 => problems.extend(wrong),
                Err(wrong) => problems.extend(wrong.into_iter().map(|problem| {
                    let wrong = format!("at number {}: {}", at + 1, problem.wrong);
                    Problem { wrong, ..problem }
                })),
            }
        }
        if items.is_empty() {
            problems.push("is an empty list".into());
        }
        if problems.is_empty() { shown_as(values, show(&shown)) } else { Err(problems) }
    })
}

fn items(raw: &Value, lenient: bool) -> Result<Vec<Value>, Problem> {
    match raw {
        Value::Array(values) => Ok(values.clone()),
        Value::String(text) if lenient && text.trim().starts_with('[') && text.trim().ends_with(']') => {
            let array = file::inline(text.trim()).map_err(|why| format!("is not a TOML array: {why}"))?;
            Ok(array.as_array().ok_or("is not a TOML array")?.clone())
        }
        Value::String(text) => Ok(text.split(',').map(|item| Value::from(item.trim())).collect()),
        _ => Err(wrong_type(raw)),
    }
}

/// `None` for `false`, which drops the events.
pub(super) fn topic_or_false() -> Format<Option<String>> {
    let topic = text(TOPIC);
    Format::new(format!("{}, or false", topic.allowed), Notation::Quoted, move |raw, context| {
        match (raw, raw.as_str()) {
            (Value::Boolean(false), _) => shown_as(None, false),
            (_, Some("false")) if context.lenient => shown_as(None, false),
            (_, Some("true" | "false")) => Err(Problem::from("is a flag in quotes").into()),
            _ => topic.parse(raw, context).map(|Parsed { value, shown }| Parsed { value: Some(value), shown }),
        }
    })
}

/// A PEM file that can be read.
pub(super) fn pem_file() -> Format<PathBuf> {
    Format::of_text("the path of a readable PEM file", |text, context| open(text, context, text.into()))
}

/// A PEM file, or the word for the machine's own authorities.
pub(super) fn system_or_pem_file() -> Format<String> {
    Format::of_text("\"system\" or the path of a readable PEM file", |text, context| match text {
        "system" => quoted(text.into(), text),
        _ => open(text, context, text.into()),
    })
}

fn open<T>(path: &str, context: &Context<'_>, value: T) -> Result<Parsed<T>, Problem> {
    texts::not_empty(path).map_err(|why| which(path, why))?;
    context.open(path.as_ref()).map_err(|error| which(path, &format!("cannot be read: {error}")))?;
    quoted(value, path)
}

/// A reference to a secret.
pub(super) fn secret() -> Format<Secret> {
    Format::of_text(secret::ALLOWED, |text, context| hidden(context.follow(text)?))
}

pub(super) fn secrets() -> Format<Vec<Secret>> {
    list_shown_as(secret(), |shown| shown.join("; "))
}

fn hidden<E>(secret: Secret) -> Result<Parsed<Secret>, E> {
    let shown = format!("{secret:?}");
    shown_as(secret, shown)
}

/// A text, a number or a flag, stored as text.
pub(super) fn scalar() -> Format<String> {
    Format::new("a text, a number or a flag", Notation::Quoted, |raw, _| {
        let text = match raw {
            Value::String(text) => text.clone(),
            Value::Boolean(flag) => flag.to_string(),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            _ => return Err(wrong_type(raw).into()),
        };
        let shown = format!("{text:?}");
        shown_as(text, shown)
    })
}

/// The value of a librdkafka property, or a reference to it. Any value may be a secret, as far as is known here.
pub(super) fn property() -> Format<Secret> {
    let (scalar, allowed) = (scalar(), format!("a text, a number, a flag, or a reference {}", secret::ALLOWED));
    Format::new(allowed, Notation::Quoted, move |raw, context| {
        let text = scalar.parse(raw, context)?.value;
        hidden(if secret::is_reference(&text) { context.follow(&text)? } else { context.literal(text) })
    })
}

fn wrong_type(raw: &Value) -> Problem {
    type_in_words(raw).into()
}

/// The type of a value; continues a sentence that begins with its key.
pub(super) fn type_in_words(raw: &Value) -> &'static str {
    match raw {
        Value::String(_) => "is a text in quotes",
        Value::Boolean(_) => "is a flag",
        Value::Integer(_) | Value::Float(_) => "is a number without quotes",
        Value::Datetime(_) => "is a date",
        Value::Table(_) => "is a table",
        Value::Array(_) => "is a list",
    }
}

/// The text as the user wrote it, unless it may contain a password.
fn which(text: &str, why: &str) -> Problem {
    const LONGEST: usize = 80;
    match text {
        "" => "is empty".into(),
        text if text.contains('@') => format!("is a text, which {why}").into(),
        text if text.chars().count() > LONGEST => format!("is a long text, which {why}").into(),
        text => format!("is {text:?}, which {why}").into(),
    }
}

fn within(text: &str, value: u64, least: u64, most: u64) -> Result<(), Problem> {
    match value {
        _ if value < least => Err(which(text, "is too little")),
        _ if value > most => Err(which(text, "is too much")),
        _ => Ok(()),
    }
}
