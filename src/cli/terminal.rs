//! Terminal output of the commands: removes control characters, and knows the width and whether to use colours.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::failure::Failure;

/// How text looks on stdout.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    /// Characters per line; `None` if stdout is not a terminal.
    pub(super) width: Option<usize>,
    pub(super) has_colours: bool,
}

impl Style {
    /// Colours only on a terminal, and never with `NO_COLOR` set.
    pub(super) fn of_stdout() -> Self {
        let is_terminal = io::stdout().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let (columns, _) = size();
        Self { width: columns.filter(|_| is_terminal), has_colours: is_terminal && !no_color }
    }

    /// `code` is that of the SGR sequence, such as `2` for faint.
    pub(super) fn paint(self, code: &str, text: &str) -> String {
        if self.has_colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Columns and rows of the terminal, if stdout is one that reports them.
pub(super) fn size() -> (Option<usize>, Option<usize>) {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
    let known = |length: u16| (length > 0).then_some(usize::from(length));
    (size.and_then(|size| known(size.ws_col)), size.and_then(|size| known(size.ws_row)))
}

/// Prints at once. A reader that stops early, as `head` does, is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    quiet_on_broken_pipe(write(text))
}

/// Prints at once, and lets other tasks run if that blocks.
pub(super) fn write_from_task(text: &str) -> io::Result<()> {
    tokio::task::block_in_place(|| write(text))
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

pub(super) fn quiet_on_broken_pipe(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// One line, cut with `…` if it is longer than `width` characters. Control characters, which could drive the
/// terminal, become `�`.
pub(super) fn one_line(text: &str, width: usize) -> String {
    let mut rest = text.trim().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
    let mut line: String = rest.by_ref().take(width).collect();
    if rest.next().is_some() {
        line.pop();
        line.push('…');
    }
    line
}

/// Several lines without characters that could drive the terminal.
pub(super) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// A value as JSON on one line. Control characters that JSON does not escape (DEL and U+0080 to U+009F, which some
/// terminals obey) are escaped too: the same value, without terminal commands.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_reaches_the_terminal() {
        assert_eq!(harmless("one\u{9b}2J\u{1b}[2J\ntwo"), "one\u{fffd}2J\u{fffd}[2J\ntwo");
        assert_eq!(one_line("one\u{1b}[2J\ntwo", 80), "one\u{fffd}[2J\u{fffd}two");
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
