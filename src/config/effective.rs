//! The value and the source of each key, for display and comparison; of a secret only that it is set, and its length.

use std::fmt;

use super::mistake::{Ignored, Source};

/// Prints as aligned lines, in the order of the reference file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effective {
    pub lines: Vec<Line>,
    pub ignored: Vec<Ignored>,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub key: String,
    /// In TOML notation, unless it is a secret or has no value.
    pub value: String,
    pub source: Source,
    pub(super) state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Set,
    NotSet,
    /// Belongs to a bus that is not in use; neither parsed nor checked.
    Unused,
}

impl Effective {
    /// The line of a key with a valid value.
    pub(super) fn get(&self, key: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.key == key && line.state == State::Set)
    }
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// A longer value shifts only its own source.
        const WIDEST: usize = 40;
        let width = |of: fn(&Line) -> &str| self.lines.iter().map(|line| of(line).chars().count()).max().unwrap_or(0);
        let key = width(|line| &line.key);
        let value = width(|line| &line.value).min(WIDEST);
        self.lines.iter().try_for_each(|line| writeln!(f, "{:key$}  {:value$}  {}", line.key, line.value, line.source))
    }
}
