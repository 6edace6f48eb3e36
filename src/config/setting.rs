//! One value from a source, before its meaning is known.

use std::fmt;

use toml::Value;

use super::mistake::{Mistake, Source};

/// A key's value as written. It may be a secret, so no `Debug` shows it.
#[derive(Clone)]
pub(super) struct RawValue {
    pub(super) value: Value,
    pub(super) source: Source,
    /// It came from a variable that sets a whole table.
    pub(super) of_whole_table: bool,
}

impl fmt::Debug for RawValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "given by {}", self.source)
    }
}

impl RawValue {
    pub(super) fn new(value: impl Into<Value>, source: Source) -> Self {
        Self { value: value.into(), source, of_whole_table: false }
    }

    /// Whether flags, numbers and lists may be written as text, as in the environment.
    pub(super) fn is_lenient(&self) -> bool {
        !matches!(self.source, Source::File { .. })
    }
}

/// The values of a source by the full names of keys, and its mistakes.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) all: Vec<(String, RawValue)>,
    pub(super) mistakes: Vec<Mistake>,
}

impl Settings {
    pub(super) fn extend(&mut self, other: Self) {
        self.all.extend(other.all);
        self.mistakes.extend(other.mistakes);
    }

    /// Every named endpoint, with one source that names it.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = (&str, &Source)> {
        self.all.iter().filter_map(|(name, raw)| Some((endpoint_of(name)?, &raw.source)))
    }
}

/// The endpoint that a key belongs to; in quotes, where the name has dots.
pub(super) fn endpoint_of(key: &str) -> Option<&str> {
    let rest = key.strip_prefix("endpoints.")?;
    match rest.strip_prefix('"') {
        Some(quoted) => rest.get(..quoted.find('"')? + 2),
        None => rest.split('.').next(),
    }
}
