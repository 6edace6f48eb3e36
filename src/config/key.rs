//! What is declared of each key, and the list of all of them: unknown names, suggestions, the reference file and
//! reload go by it.

use super::mistake::Source;
use super::setting::{RawValue, endpoint_of};

/// What a whole table may be.
pub(super) const TABLE: &str = "a table, such as { name = \"value\" }";

/// The endpoint that exists where no other is named.
pub(super) const TERRA: &str = "terra";

/// The sections of which one is used.
pub(super) const BUSES: [&str; 3] = ["embedded", "kafka", "nats"];

/// A key as it was declared.
#[derive(Debug)]
pub(super) struct Key {
    /// In full. A part in angle brackets stands for any name; the last part for all that follows, dots included.
    pub(super) name: String,
    /// One line, without a full stop.
    pub(super) doc: &'static str,
    pub(super) default: KeyDefault,
    /// The default or the example, in TOML.
    pub(super) toml: String,
    /// Whether a reload takes it over. Everything else takes effect at the next start.
    pub(super) reloadable: bool,
}

/// What a key is where nobody gives it. The texts are as in an environment variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyDefault {
    Value(&'static str),
    /// The same, for the endpoint `terra` alone; every other one has to say it.
    ValueOfTerra(&'static str),
    /// Nothing; the text is an example.
    Unset(&'static str),
    /// A mistake where its section is used; the text is an example.
    Required(&'static str),
}

impl KeyDefault {
    pub(super) fn text(self) -> &'static str {
        let (Self::Value(text) | Self::ValueOfTerra(text) | Self::Unset(text) | Self::Required(text)) = self;
        text
    }
}

impl Key {
    /// What it is where nobody gives it, if anything.
    pub(super) fn default_value(&self) -> Option<RawValue> {
        match self.default {
            KeyDefault::ValueOfTerra(_) if endpoint_of(&self.name) != Some(TERRA) => None,
            KeyDefault::Value(text) | KeyDefault::ValueOfTerra(text) => Some(RawValue::new(text, Source::Default)),
            KeyDefault::Unset(_) | KeyDefault::Required(_) => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Keys(Vec<Key>);

impl Keys {
    pub(super) fn new(keys: Vec<Key>) -> Self {
        Self(keys)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }

    /// The key of that name.
    pub(super) fn find(&self, name: &str) -> Option<&Key> {
        self.iter().find(|key| fits(&key.name, name, key.name.ends_with('>')))
    }

    /// Whether there are keys below that name.
    pub(super) fn is_table(&self, name: &str) -> bool {
        let fits_above = |key: &Key| key.name.match_indices('.').any(|(end, _)| fits(&key.name[..end], name, false));
        self.iter().any(fits_above)
    }

    /// Whether a reload takes that key over.
    pub(super) fn is_reloadable(&self, name: &str) -> bool {
        self.find(name).is_some_and(|key| key.reloadable)
    }
}

/// Whether a name is what was declared. `open`: the last part takes all the rest.
fn fits(declared: &str, name: &str, open: bool) -> bool {
    let count = declared.split('.').count();
    let parts: Vec<&str> = name.splitn(if open { count } else { usize::MAX }, '.').collect();
    let any = |declared: &str, part: &str| declared.starts_with('<') && !part.is_empty();
    parts.len() == count
        && declared.split('.').zip(parts).all(|(declared, part)| declared == part || any(declared, part))
}
