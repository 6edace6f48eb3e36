//! The effective configuration, for people. Comes in: the values that count. Goes out: one line for each
//! key with its value and its source; of a secret only that it is set and how long it is.

use std::fmt;
use std::fmt::Write as _;

use super::keys::{KEYS, Key};
use super::kind::{Kind, Parsed};
use super::mistake::Ignored;
use super::values::{Held, Values};
use super::{Secret, units};
use crate::bus;

/// Prints as aligned lines, in the order of the reference file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    pub lines: Vec<Line>,
    pub ignored: Vec<Ignored>,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub key: String,
    /// As in TOML, unless it is a secret or not set.
    pub value: String,
    pub source: String,
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// A longer value moves its own source and nobody else's.
        const WIDEST: usize = 40;
        let width = |of: fn(&Line) -> &str| self.lines.iter().map(|line| of(line).chars().count()).max().unwrap_or(0);
        let key = width(|line| &line.key);
        let value = width(|line| &line.value).min(WIDEST);
        for line in &self.lines {
            writeln!(f, "{:key$}  {:value$}  {}", line.key, line.value, line.source)?;
        }
        Ok(())
    }
}

pub(super) fn effective(values: &Values, ignored: Vec<Ignored>) -> Effective {
    let lines = KEYS.iter().flat_map(|key| lines(values, key)).collect();
    Effective { lines, ignored }
}

fn lines(values: &Values, key: &Key) -> Vec<Line> {
    if !values.uses(key.name.split('.').next().unwrap_or_default()) {
        let of_key = values.unused.iter().filter(|(_, (of, _))| std::ptr::eq(*of, key));
        return of_key.map(|(name, (_, source))| line(name, "unused while bus is another", source)).collect();
    }
    let of_key = values.held.iter().filter(|(_, held)| std::ptr::eq(held.key, key));
    let lines: Vec<Line> = of_key.map(|(name, held)| line(name, &show(name, held), &held.source)).collect();
    if lines.is_empty() && !key.name.contains('<') {
        return vec![line(key.name, "not set", &super::Source::Default)];
    }
    lines
}

fn line(key: &str, value: &str, source: &super::Source) -> Line {
    Line { key: key.to_owned(), value: value.to_owned(), source: source.to_string() }
}

fn show(name: &str, held: &Held) -> String {
    match &held.parsed {
        Parsed::Flag(flag) => flag.to_string(),
        Parsed::Count(count) => count.to_string(),
        Parsed::Duration(duration) => format!("{:?}", units::show_duration(*duration)),
        Parsed::Size(bytes) => format!("{:?}", units::show_size(*bytes)),
        Parsed::Rate(bytes) => format!("\"{}/s\"", units::show_size(*bytes)),
        Parsed::Address(address) => format!("\"{address}\""),
        Parsed::Text(text) => format!("{text:?}"),
        Parsed::Texts(texts) => format!("{texts:?}"),
        Parsed::Dropped => "false".to_owned(),
        Parsed::Secret(secret) if matches!(held.key.kind, Kind::Property) && harmless(name) => {
            format!("{:?}", String::from_utf8_lossy(secret.expose()))
        }
        Parsed::Secret(secret) => format!("{secret:?}"),
        Parsed::Secrets(secrets) => several(secrets),
    }
}

fn several(secrets: &[Secret]) -> String {
    let mut shown = String::new();
    for (at, secret) in secrets.iter().enumerate() {
        let _ = write!(shown, "{}{secret:?}", if at == 0 { "" } else { "; " });
    }
    shown
}

/// Whether anybody may see the value of this librdkafka property.
fn harmless(name: &str) -> bool {
    name.strip_prefix("kafka.properties.").is_some_and(bus::kafka::is_printable)
}
