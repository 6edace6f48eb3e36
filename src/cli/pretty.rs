//! Pretty-prints JSON for people: the first lines of a text, indented, each short enough for the terminal. Changes
//! only whitespace: order, duplicates, numbers and escapes stay as they are, which no serializer of a parsed value
//! guarantees.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::terminal::one_line;

const INDENT: usize = 2;

/// At most `limit` lines of at most `width` characters, and whether that was everything. A value that fits on one
/// line stays on one. Text that is not JSON is cut, not indented.
pub(super) fn pretty(text: &str, width: usize, limit: usize) -> (Vec<String>, bool) {
    let mut page = Page { width, limit, lines: Vec::new(), is_whole: true };
    match serde_json::from_str(text) {
        Ok(value) => page.value(0, "", value, ""),
        Err(_) => text.lines().for_each(|line| page.line(0, line)),
    }
    (page.lines, page.is_whole)
}

struct Page {
    width: usize,
    limit: usize,
    lines: Vec<String>,
    is_whole: bool,
}

impl Page {
    /// `before` and `after` stand beside the value on its line.
    fn value(&mut self, depth: usize, before: &str, value: &RawValue, after: &str) {
        let room = self.width.saturating_sub(depth * INDENT + before.chars().count());
        if let Some(short) = on_one_line(value, room) {
            return self.line(depth, &format!("{before}{short}{after}"));
        }
        let Some(Parts { open, members, close }) = Parts::of(value) else {
            return self.line(depth, &format!("{before}{}{after}", value.get()));
        };
        self.line(depth, &format!("{before}{open}"));
        for (at, (key, member)) in members.iter().enumerate() {
            if self.lines.len() == self.limit {
                break;
            }
            let key = key.map(|key| format!("{key}: ")).unwrap_or_default();
            self.value(depth + 1, &key, member, if at + 1 < members.len() { "," } else { "" });
        }
        self.line(depth, &format!("{close}{after}"));
    }

    fn line(&mut self, depth: usize, line: &str) {
        if self.lines.len() == self.limit {
            self.is_whole = false;
            return;
        }
        let indent = (depth * INDENT).min(self.width);
        let room = self.width - indent;
        self.is_whole &= line.chars().count() <= room;
        self.lines.push(" ".repeat(indent) + &one_line(line, room));
    }
}

/// A scalar, or a container of at most `room` characters (one is reserved for a comma).
fn on_one_line(value: &RawValue, room: usize) -> Option<String> {
    let text = value.get();
    if !text.starts_with(['{', '[']) {
        return Some(text.to_owned());
    }
    // So that a large value is not parsed to its end.
    if text.chars().filter(|c| !c.is_whitespace()).take(room).count() == room {
        return None;
    }
    let Parts { open, members, close } = Parts::of(value)?;
    let member = |(key, member): &(Option<&str>, &RawValue)| {
        let short = on_one_line(member, room)?;
        Some(key.map_or(short.clone(), |key| format!("{key}: {short}")))
    };
    let members: Vec<String> = members.iter().map(member).collect::<Option<_>>()?;
    let short = format!("{open}{}{close}", members.join(", "));
    (short.chars().count() < room).then_some(short)
}

/// A container's brackets, and its members as written, keys with their quotes.
struct Parts<'a> {
    open: char,
    members: Vec<(Option<&'a str>, &'a RawValue)>,
    close: char,
}

impl<'a> Parts<'a> {
    fn of(container: &'a RawValue) -> Option<Self> {
        serde_json::from_str(container.get()).ok()
    }
}

impl<'de> Deserialize<'de> for Parts<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Container;

        impl<'de> Visitor<'de> for Container {
            type Value = Parts<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object or an array")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((key, value)) = map.next_entry::<&RawValue, _>()? {
                    members.push((Some(key.get()), value));
                }
                Ok(Parts { open: '{', members, close: '}' })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(value) = seq.next_element()? {
                    members.push((None, value));
                }
                Ok(Parts { open: '[', members, close: ']' })
            }
        }

        deserializer.deserialize_any(Container)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_fits_stays_on_one_line_and_the_rest_is_indented() {
        let text = r#"{"type":"daily","user":{"user_id":"u-1","provider":"GARMIN"},"data":[{"n":1.00,"n":2}],"e":[]}"#;
        let (lines, whole) = pretty(text, 60, 10);
        assert_eq!(
            lines,
            [
                "{",
                r#"  "type": "daily","#,
                r#"  "user": {"user_id": "u-1", "provider": "GARMIN"},"#,
                r#"  "data": [{"n": 1.00, "n": 2}],"#,
                r#"  "e": []"#,
                "}"
            ]
        );
        assert!(whole);
    }

    #[test]
    fn long_bodies_and_long_lines_are_cut() {
        let (lines, whole) = pretty(r#"{"a":1,"text":"abcdefghijklmnop","b":2}"#, 14, 3);
        assert_eq!(lines, ["{", r#"  "a": 1,"#, r#"  "text": "ab…"#]);
        assert!(!whole);
        assert_eq!(pretty(r#"{"a":1}"#, 14, 3), (vec![r#"{"a": 1}"#.to_owned()], true));
    }

    #[test]
    fn deep_and_odd_json_is_cut_like_any_other() {
        let deep = "[".repeat(1 << 20) + &"]".repeat(1 << 20);
        let (lines, whole) = pretty(&deep, 40, 12);
        assert_eq!((lines.len(), whole), (12, false));
        assert_eq!(lines[1], "  [");
        let (lines, whole) = pretty("{ \"a\" :\n[ 1,\r\n2 ] , \"\\ud800\": {} }", 40, 12);
        assert_eq!((lines, whole), (vec![r#"{"a": [1, 2], "\ud800": {}}"#.to_owned()], true));
    }

    #[test]
    fn strings_are_left_alone() {
        let text = r#"{"a":"x, {\"y\":[1]} \\","b":"\u00e9"}"#;
        assert_eq!(pretty(text, 80, 5), (vec![r#"{"a": "x, {\"y\":[1]} \\", "b": "\u00e9"}"#.to_owned()], true));
    }

    #[test]
    fn no_control_character_reaches_the_terminal() {
        let (lines, _) = pretty("not json \u{1b}[2J\nsecond", 80, 5);
        assert_eq!(lines, ["not json \u{fffd}[2J", "second"]);
        let (lines, _) = pretty("\"\u{9b}2J\"", 80, 5);
        assert_eq!(lines, ["\"\u{fffd}2J\""]);
    }
}
