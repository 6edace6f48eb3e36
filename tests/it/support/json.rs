//! JSON trees as a test intends them, and every way to write them, chosen at random. Knows no Terra shapes and no
//! reader of the bridge's.

use fastrand::Rng;
use serde_json::Value;

/// A tree that keeps what a reader may lose: numbers as written, lone surrogates, duplicate keys.
#[derive(Debug, Clone)]
pub enum Json {
    /// A number, `true`, `false` or `null`, or anything else that is written unchanged.
    Raw(String),
    /// UTF-16.
    Text(Vec<u16>),
    List(Vec<Json>),
    Object(Vec<(Vec<u16>, Json)>),
}

impl Json {
    pub fn text(text: &str) -> Self {
        Self::Text(utf16(text))
    }

    /// The member with this name, if this is an object; the last of several.
    pub fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        let name = utf16(name);
        members.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// A non-blank text in valid Unicode.
    pub fn said(&self) -> Option<String> {
        let Self::Text(units) = self else { return None };
        String::from_utf16(units).ok().filter(|text| !text.is_empty())
    }

    /// The same, or a non-negative integer as written.
    pub fn id(&self) -> Option<String> {
        match self {
            Self::Raw(raw) if raw.bytes().all(|byte| byte.is_ascii_digit()) => Some(raw.clone()),
            _ => self.said(),
        }
    }

    /// The value that a reader that builds a tree should see; `None` if such a reader fails.
    pub fn value(&self) -> Option<Value> {
        Some(match self {
            Self::Raw(raw) => serde_json::from_str(raw).ok()?,
            Self::Text(units) => Value::String(String::from_utf16(units).ok()?),
            Self::List(values) => Value::Array(values.iter().map(Self::value).collect::<Option<_>>()?),
            Self::Object(members) => {
                let member = |(key, value): &(Vec<u16>, Self)| Some((String::from_utf16(key).ok()?, value.value()?));
                Value::Object(members.iter().map(member).collect::<Option<_>>()?)
            }
        })
    }
}

impl From<&Value> for Json {
    fn from(value: &Value) -> Self {
        match value {
            Value::String(text) => Self::text(text),
            Value::Array(values) => Self::List(values.iter().map(Self::from).collect()),
            Value::Object(members) => {
                Self::Object(members.iter().map(|(key, value)| (utf16(key), value.into())).collect())
            }
            other => Self::Raw(other.to_string()),
        }
    }
}

pub fn utf16(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Escapes {
    Needed,
    /// Everything beyond ASCII, as Python does.
    Ascii,
    Odd,
}

#[derive(Clone, Copy, PartialEq)]
enum Spaces {
    None,
    /// One after each comma and colon, as Python does.
    Single,
    Lines,
    Odd,
}

/// The style of one writer.
pub struct Writer<'r> {
    rng: &'r mut Rng,
    escapes: Escapes,
    spaces: Spaces,
    out: String,
}

/// Writes the tree in a random style.
pub fn written(json: &Json, rng: &mut Rng) -> String {
    let escapes = [Escapes::Needed, Escapes::Ascii, Escapes::Odd][rng.usize(..3)];
    let spaces = [Spaces::None, Spaces::Single, Spaces::Lines, Spaces::Odd][rng.usize(..4)];
    let mut writer = Writer { rng, escapes, spaces, out: String::new() };
    writer.odd();
    writer.json(json, 0);
    writer.odd();
    writer.out
}

impl Writer<'_> {
    fn json(&mut self, json: &Json, depth: usize) {
        match json {
            Json::Raw(raw) => self.out.push_str(raw),
            Json::Text(units) => self.text(units),
            Json::List(values) => {
                self.all('[', ']', values, depth, |writer, value| writer.json(value, depth + 1));
            }
            Json::Object(members) => self.all('{', '}', members, depth, |writer, (key, value)| {
                writer.text(key);
                writer.odd();
                writer.out.push(':');
                if matches!(writer.spaces, Spaces::Single | Spaces::Lines) {
                    writer.out.push(' ');
                }
                writer.odd();
                writer.json(value, depth + 1);
            }),
        }
    }

    fn all<T>(&mut self, open: char, close: char, parts: &[T], depth: usize, mut write: impl FnMut(&mut Self, &T)) {
        self.out.push(open);
        for (place, part) in parts.iter().enumerate() {
            if place > 0 {
                self.out.push(',');
                if self.spaces == Spaces::Single {
                    self.out.push(' ');
                }
            }
            self.line(depth + 1);
            write(self, part);
            self.odd();
        }
        match parts {
            [] => self.odd(),
            _ => self.line(depth),
        }
        self.out.push(close);
    }

    fn line(&mut self, depth: usize) {
        if self.spaces == Spaces::Lines {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n("  ", depth));
        }
        self.odd();
    }

    fn odd(&mut self) {
        if self.spaces == Spaces::Odd {
            for _ in 0..self.rng.usize(..3) {
                self.out.push([' ', '\t', '\n', '\r'][self.rng.usize(..4)]);
            }
        }
    }

    fn text(&mut self, units: &[u16]) {
        self.out.push('"');
        for character in char::decode_utf16(units.iter().copied()) {
            match character {
                Ok(character) => self.character(character),
                Err(half) => self.unit(half.unpaired_surrogate()),
            }
        }
        self.out.push('"');
    }

    fn character(&mut self, character: char) {
        let needed = matches!(character, '"' | '\\' | '\0'..'\u{20}');
        let odd = self.escapes == Escapes::Odd && self.rng.u8(..4) == 0;
        if !needed && !odd && (character.is_ascii() || self.escapes != Escapes::Ascii) {
            return self.out.push(character);
        }
        let short = match character {
            '"' | '\\' | '/' => Some(character),
            '\u{8}' => Some('b'),
            '\u{c}' => Some('f'),
            '\n' => Some('n'),
            '\r' => Some('r'),
            '\t' => Some('t'),
            _ => None,
        };
        match short {
            Some(short) if self.escapes != Escapes::Odd || self.rng.bool() => self.out.extend(['\\', short]),
            _ => character.encode_utf16(&mut [0; 2]).iter().for_each(|unit| self.unit(*unit)),
        }
    }

    fn unit(&mut self, unit: u16) {
        let upper = self.escapes == Escapes::Odd && self.rng.bool();
        self.out.push_str(&if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") });
    }
}
