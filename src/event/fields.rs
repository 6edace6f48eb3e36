//! Reads the raw values of some keys of one JSON object, and decodes them as texts, ids and counts. Builds no tree.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The text of a JSON string; `None` for anything else, and for escapes that are not valid Unicode.
pub(super) fn string(raw: Option<&str>) -> Option<String> {
    serde_json::from_str(raw.filter(|raw| raw.starts_with('"'))?).ok()
}

/// A string that is not blank.
pub(super) fn filled(raw: Option<&str>) -> Option<String> {
    string(raw).filter(|text| !text.is_empty())
}

/// A string that is not blank, or an integer as it is written.
pub(super) fn id(raw: Option<&str>) -> Option<String> {
    let raw = raw?;
    if raw.bytes().all(|digit| digit.is_ascii_digit()) {
        return Some(raw.to_owned());
    }
    filled(Some(raw))
}

/// A non-negative integer in any notation: `300`, `300.0`, `3e2`, `"300"`.
pub(crate) fn count(raw: &str) -> Option<u64> {
    let text = string(Some(raw));
    let text = text.as_deref().unwrap_or(raw).trim();
    let whole = |number: &f64| *number >= 0.0 && number.fract() == 0.0;
    text.parse().ok().or_else(|| text.parse().ok().filter(whole).map(|number| number as u64))
}

/// The raw values of some keys of one JSON object. Raw, so that a number too large for any type, or nesting too deep
/// for recursion, is skipped like anything else.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a, const N: usize>(pub(super) [Option<&'a str>; N]);

impl<const N: usize> Default for Fields<'_, N> {
    fn default() -> Self {
        Self([None; N])
    }
}

impl<'a, const N: usize> Fields<'a, N> {
    /// `None` if the text is not one complete JSON object.
    pub(super) fn read(text: &'a str, keys: [&'static str; N]) -> Option<Self> {
        // A cheap check first, for numbers and arrays; whitespace as JSON defines it.
        text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{').then_some(())?;
        let mut json = serde_json::Deserializer::from_str(text);
        let fields = json.deserialize_map(Reading(keys)).ok()?;
        json.end().ok()?;
        Some(fields)
    }
}

struct Reading<const N: usize>([&'static str; N]);

impl<'de, const N: usize> Visitor<'de> for Reading<N> {
    type Value = Fields<'de, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(place) = map.next_key_seed(Place(&self.0))? {
            match place {
                Some(place) => fields.0[place] = Some(map.next_value::<&RawValue>()?.get()),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(fields)
    }
}

/// The index of a key among the wanted ones. Keys are compared as bytes: as text, an escape that is not valid Unicode
/// would make the whole body unreadable.
struct Place<'k>(&'k [&'static str]);

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Place<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bytes<E>(self, key: &[u8]) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|wanted| wanted.as_bytes() == key))
    }
}
