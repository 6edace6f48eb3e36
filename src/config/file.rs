//! The TOML file: every value with its line, or the position where the text stops being TOML. Knows no key, and never
//! repeats the text, which may contain a secret.

use std::path::Path;

use serde::Deserialize;
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::{Spanned, Value};

use super::mistake::{Mistake, Source};
use super::setting::{RawValue, Settings};

/// All values in the file.
pub(super) fn read(path: &Path) -> Result<Settings, Box<Mistake>> {
    let source = |line| Source::File { path: path.to_owned(), line };
    let text = std::fs::read_to_string(path).map_err(|error| {
        Mistake::new("", &source(None), format!("cannot be read: {error}"))
            .remedy("correct --config or TERRA_BRIDGE_CONFIG, or let the user who runs the bridge read it")
    })?;
    let table = DeTable::parse(&text).map_err(|error| {
        let (line, column) = position(&text, error.span().map_or(0, |span| span.start));
        Mistake::new("", &source(Some(line)), format!("is not TOML at column {column}: {}", error.message()))
    })?;
    let mut settings = Settings::default();
    visit(table.get_ref(), "", &mut |name, value, at| {
        settings.all.push((name, RawValue::new(value, source(Some(position(&text, at).0)))));
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

/// One TOML value from an environment variable. The error says where and why.
pub(super) fn inline(text: &str) -> Result<Value, String> {
    parse_inline(text).map(convert)
}

/// The keys and values of an inline table; `None` if the value is not a table.
pub(super) fn inline_table(text: &str) -> Result<Option<Vec<(String, Value)>>, String> {
    let value = parse_inline(text)?;
    let DeValue::Table(table) = value.get_ref() else { return Ok(None) };
    let mut leaves = Vec::new();
    visit(table, "", &mut |name, value, _| leaves.push((name, value)));
    Ok(Some(leaves))
}

fn parse_inline(text: &str) -> Result<Spanned<DeValue<'_>>, String> {
    DeValue::parse(text).map_err(|error| {
        let (_, column) = position(text, error.span().map_or(0, |span| span.start));
        format!("column {column}: {}", error.message())
    })
}

/// Visits every value that is not a table, and every empty table, with the byte offset of its key.
fn visit(table: &DeTable<'_>, above: &str, each: &mut impl FnMut(String, Value, usize)) {
    for (name, value) in table {
        let full = match name.get_ref() {
            // Else its levels would look like those of other keys.
            name if above == "endpoints." && name.contains('.') => format!("{above}{name:?}"),
            name => format!("{above}{name}"),
        };
        match value.get_ref() {
            DeValue::Table(inner) if !inner.is_empty() => visit(inner, &format!("{full}."), each),
            _ => each(full, convert(value.clone()), name.span().start),
        }
    }
}

/// A number too large for TOML becomes a fraction, which no key accepts.
fn convert(value: Spanned<DeValue<'_>>) -> Value {
    Value::deserialize(ValueDeserializer::from(value)).unwrap_or(Value::Float(f64::INFINITY))
}
