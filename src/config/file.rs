//! The TOML file. Comes in: text. Goes out: [`Setting`]s, each with the line it stands on, or where
//! the text stops being TOML. Knows no key, and never repeats the text: a secret may be in it.

use std::path::Path;

use figment::value::{Dict, Empty, Tag, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::kind::Kind;
use super::mistake::{Mistake, Source};
use super::sheet::Setting;

/// Values by the names of their levels.
type Leaves = Vec<(Vec<String>, Value)>;

/// Every value of the file.
pub(super) fn read(path: &Path) -> Result<Vec<Setting>, Box<Mistake>> {
    let whole = Source::File { path: path.to_owned(), line: None };
    let text = std::fs::read_to_string(path).map_err(|error| {
        Mistake::new("", &whole, format!("cannot be read: {error}"))
            .remedy("correct --config or TERRA_BRIDGE_CONFIG, or let the user who runs the bridge read it")
    })?;
    let table = DeTable::parse(&text).map_err(|error| {
        let (line, column) = position(&text, error.span().map_or(0, |span| span.start));
        let source = Source::File { path: path.to_owned(), line: Some(line) };
        Mistake::new("", &source, format!("is not TOML at column {column}: {}", error.message()))
    })?;
    let mut settings = Vec::new();
    walk(&mut Vec::new(), table.get_ref(), &mut |names, value, at| {
        let source = Source::File { path: path.to_owned(), line: Some(position(&text, at).0) };
        settings.push(Setting::new(names.to_vec(), value, source));
    });
    Ok(settings)
}

/// Line and column, both from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// One TOML value, as in the environment. The error says where and why.
pub(super) fn inline(text: &str) -> Result<Value, String> {
    parse_inline(text).map(|value| convert(value.get_ref()))
}

/// The names below an inline table with their values; `None` where the value is no table.
pub(super) fn inline_table(text: &str) -> Result<Option<Leaves>, String> {
    let value = parse_inline(text)?;
    let DeValue::Table(table) = value.get_ref() else { return Ok(None) };
    let mut leaves = Vec::new();
    walk(&mut Vec::new(), table, &mut |names, value, _| leaves.push((names.to_vec(), value)));
    Ok(Some(leaves))
}

fn parse_inline(text: &str) -> Result<Spanned<DeValue<'_>>, String> {
    DeValue::parse(text).map_err(|error| {
        let (_, column) = position(text, error.span().map_or(0, |span| span.start));
        format!("column {column}: {}", error.message())
    })
}

/// Visits every value that is not a table, and every empty table, with the byte at which its name begins.
fn walk(names: &mut Vec<String>, table: &DeTable<'_>, visit: &mut impl FnMut(&[String], Value, usize)) {
    for (name, value) in table {
        names.push(name.get_ref().to_string());
        match value.get_ref() {
            DeValue::Table(inner) if !inner.is_empty() => walk(names, inner, visit),
            other => visit(names, convert(other), name.span().start),
        }
        names.pop();
    }
}

fn convert(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Boolean(flag) => Value::from(*flag),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::from(number),
            Err(_) => Value::from(f64::INFINITY),
        },
        DeValue::Float(number) => Value::from(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Datetime(_) => Value::Empty(Tag::Default, Empty::Unit),
        DeValue::Array(values) => {
            Value::Array(Tag::Default, values.iter().map(|value| convert(value.get_ref())).collect())
        }
        DeValue::Table(table) => {
            let convert = |(name, value): (&Spanned<_>, &Spanned<_>)| {
                let name: &toml::de::DeString<'_> = name.get_ref();
                (name.to_string(), convert(value.get_ref()))
            };
            Value::Dict(Tag::Default, table.iter().map(convert).collect::<Dict>())
        }
    }
}

/// A text as in an environment variable, written as TOML.
pub(super) fn written(kind: &Kind, text: &str) -> String {
    match kind {
        Kind::Flag | Kind::Count(..) | Kind::Status => text.to_owned(),
        Kind::Texts(_) | Kind::Secrets => {
            let parts: Vec<_> = text.split(',').map(|part| format!("{:?}", part.trim())).collect();
            format!("[{}]", parts.join(", "))
        }
        _ => format!("{text:?}"),
    }
}
