//! The declaration of each key, and the list of all keys, used for unknown names, suggestions, the reference file and
//! reload.

use super::mistake::Source;
use super::setting::{RawValue, endpoint_of};

/// The allowed values of a whole table.
pub(super) const TABLE: &str = "a table, such as { name = \"value\" }";

/// The endpoint that exists if no other is named.
pub(super) const TERRA: &str = "terra";

/// The bus sections, of which one is used.
pub(super) const BUSES: [&str; 3] = ["embedded", "kafka", "nats"];

/// A key as it was declared.
#[derive(Debug)]
pub(super) struct Key {
    /// The full name. A part in angle brackets stands for any name; as the last part it stands for everything that
    /// follows, including dots.
    pub(super) name: String,
    /// One line, without a full stop.
    pub(super) doc: &'static str,
    pub(super) default: KeyDefault,
    /// The default or the example, in TOML.
    pub(super) toml: String,
    /// Whether a reload applies it. Any other change takes effect at the next start.
    pub(super) reloadable: bool,
}

/// The value of a key that is not given. The texts are as in an environment variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyDefault {
    Value(&'static str),
    /// The same, but only for the endpoint `terra`; every other one has to set it.
    ValueOfTerra(&'static str),
    /// Nothing; the text is an example.
    Unset(&'static str),
    /// A mistake if its section is used; the text is an example.
    Required(&'static str),
}

impl KeyDefault {
    pub(super) fn text(self) -> &'static str {
        let (Self::Value(text) | Self::ValueOfTerra(text) | Self::Unset(text) | Self::Required(text)) = self;
        text
    }
}

impl Key {
    /// The default value, if there is one.
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

    /// Whether a reload applies that key.
    pub(super) fn is_reloadable(&self, name: &str) -> bool {
        self.find(name).is_some_and(|key| key.reloadable)
    }
}

/// Whether a name matches its declaration. `open`: the last part matches everything that follows.
fn fits(declared: &str, name: &str, open: bool) -> bool {
    let count = declared.split('.').count();
    let parts: Vec<&str> = name.splitn(if open { count } else { usize::MAX }, '.').collect();
    let any = |declared: &str, part: &str| declared.starts_with('<') && !part.is_empty();
    parts.len() == count
        && declared.split('.').zip(parts).all(|(declared, part)| declared == part || any(declared, part))
}
