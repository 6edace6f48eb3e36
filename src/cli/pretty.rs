//! JSON for people's eyes. Comes in: JSON text. Goes out: its first lines, indented, each short
//! enough for the terminal. Changes whitespace alone: order, duplicates and numbers stay as they are.

use std::iter::Peekable;
use std::str::CharIndices;

use serde::Serialize;

const INDENT: usize = 2;

/// At most `lines` lines of at most `width` characters, and whether that was all of it.
/// What fits on one line stays on one. Text that is not JSON is cut, not indented.
pub(super) fn pretty(text: &str, width: usize, lines: usize) -> (Vec<String>, bool) {
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    let mut page = Page { width, limit: lines, lines: Vec::new(), line: String::new(), depth: 0 };
    let whole = if is_json { page.json(text) } else { page.plain(text) };
    (page.lines, whole)
}

/// One line, cut with `…` where it is longer than `width` characters; control characters, which
/// could drive the terminal, shown as `�`.
pub(super) fn one_line(text: &str, width: usize) -> String {
    let mut rest = text.trim().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
    let mut line: String = rest.by_ref().take(width).collect();
    if rest.next().is_some() {
        line.pop();
        line.push('…');
    }
    line
}

/// A value as JSON on one line. Control characters that JSON leaves as they are (DEL and U+0080 to U+009F, which
/// some terminals obey) are escaped: the same value, and no command.
pub(super) fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    let json = serde_json::to_string(value)?;
    let mut line = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        // Outside of strings JSON has none.
        if c.is_control() {
            line += &format!("\\u{:04x}", u32::from(c));
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    Ok(line)
}

/// Several lines, in which no character could drive the terminal.
pub(super) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

struct Page {
    width: usize,
    limit: usize,
    lines: Vec<String>,
    line: String,
    depth: usize,
}

impl Page {
    fn plain(&mut self, text: &str) -> bool {
        let mut whole = true;
        for line in text.lines() {
            if self.lines.len() == self.limit {
                return false;
            }
            whole &= line.chars().count() <= self.width;
            self.lines.push(one_line(line, self.width));
        }
        whole
    }

    fn json(&mut self, text: &str) -> bool {
        let mut tokens = Tokens { text, at: text.char_indices().peekable() };
        let mut whole = true;
        loop {
            let before = tokens.clone();
            let Some(token) = tokens.next() else { break };
            match token {
                "{" | "[" => {
                    let room = self.width.saturating_sub(self.line.chars().count());
                    if let Some((short, after)) = on_one_line(before, room) {
                        self.line += &short;
                        tokens = after;
                    } else {
                        self.line += token;
                        self.depth += 1;
                        whole &= self.end_line();
                    }
                }
                "}" | "]" => {
                    self.depth -= 1;
                    whole &= self.end_line();
                    self.line += token;
                }
                "," => {
                    self.line += token;
                    whole &= self.end_line();
                }
                ":" => self.line += ": ",
                scalar => self.line += scalar,
            }
            if self.lines.len() == self.limit {
                // At the least a closing bracket is still to come.
                return false;
            }
        }
        whole && self.end_line()
    }

    /// Whether the line fitted.
    fn end_line(&mut self) -> bool {
        let fitted = self.line.chars().count() <= self.width;
        self.lines.push(one_line_keeping_indent(&self.line, self.width));
        self.line = " ".repeat(self.depth * INDENT);
        fitted
    }
}

fn one_line_keeping_indent(line: &str, width: usize) -> String {
    let indent = line.len() - line.trim_start().len();
    format!("{}{}", &line[..indent.min(width)], one_line(line, width.saturating_sub(indent)))
}

/// The container that begins there, and what follows it, where it takes at most `room` characters
/// (one is kept for a comma).
fn on_one_line(mut tokens: Tokens<'_>, room: usize) -> Option<(String, Tokens<'_>)> {
    let mut short = String::new();
    let mut depth = 0usize;
    loop {
        let token = tokens.next()?;
        match token {
            "{" | "[" => depth += 1,
            "}" | "]" => depth -= 1,
            _ => {}
        }
        short += token;
        if matches!(token, "," | ":") {
            short.push(' ');
        }
        if short.chars().count() >= room {
            return None;
        }
        if depth == 0 {
            return Some((short, tokens));
        }
    }
}

/// The tokens of valid JSON, as they stand in the text.
#[derive(Clone)]
struct Tokens<'a> {
    text: &'a str,
    at: Peekable<CharIndices<'a>>,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        while self.at.next_if(|(_, c)| c.is_ascii_whitespace()).is_some() {}
        let (start, first) = self.at.next()?;
        match first {
            '"' => self.string(),
            '{' | '}' | '[' | ']' | ',' | ':' => {}
            _ => while self.at.next_if(|(_, c)| !c.is_ascii_whitespace() && !"{}[],:".contains(*c)).is_some() {},
        }
        let end = self.at.peek().map_or(self.text.len(), |(end, _)| *end);
        Some(&self.text[start..end])
    }
}

impl Tokens<'_> {
    fn string(&mut self) {
        while let Some((_, c)) = self.at.next() {
            match c {
                '\\' => drop(self.at.next()),
                '"' => return,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_stays_on_one_line_and_the_rest_is_indented() {
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
    fn strings_are_left_alone() {
        let text = r#"{"a":"x, {\"y\":[1]} \\","b":"\u00e9"}"#;
        assert_eq!(pretty(text, 80, 5), (vec![r#"{"a": "x, {\"y\":[1]} \\", "b": "\u00e9"}"#.to_owned()], true));
    }

    #[test]
    fn nothing_reaches_the_terminal_as_a_command() {
        let (lines, _) = pretty("not json \u{1b}[2J\nsecond", 80, 5);
        assert_eq!(lines, ["not json \u{fffd}[2J", "second"]);
        let (lines, _) = pretty("\"\u{9b}2J\"", 80, 5);
        assert_eq!(lines, ["\"\u{fffd}2J\""]);
        assert_eq!(harmless("one\u{9b}2J\u{1b}[2J\ntwo"), "one\u{fffd}2J\u{fffd}[2J\ntwo");
    }

    #[test]
    fn every_control_character_is_escaped_in_json_and_the_value_is_the_same() {
        let all: String = (0..=0x11f).filter_map(char::from_u32).collect();
        let line = json_line(&[all.as_str()]).unwrap();
        let (line, end) = line.split_at(line.len() - 1);
        assert_eq!(end, "\n");
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(line.contains("\\u007f\\u0080") && line.contains("\\u009f\u{a0}"), "{line}");
        assert_eq!(serde_json::from_str::<[String; 1]>(line).unwrap(), [all]);
    }
}
