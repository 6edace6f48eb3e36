//! Where a log is, and what it keeps for how long.

use std::path::PathBuf;

use super::retention::Retention;
use crate::clock::Clock;

/// Where a log lies and what it keeps.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The section of the configuration whose `dir`, `reserve` and `max_bytes` these are.
    pub(crate) section: &'static str,
    pub(crate) dir: PathBuf,
    /// Bytes of free space below which nothing more is taken.
    pub(crate) reserve: u64,
    pub(crate) keep: Keep,
    /// By which its records get old.
    pub(crate) clock: Clock,
}

#[cfg(test)]
impl Settings {
    pub(crate) fn sample(dir: &std::path::Path) -> Self {
        let retention = Retention { age: std::time::Duration::from_secs(7 * 24 * 3600), bytes: 1 << 30 };
        let (dir, keep) = (dir.to_owned(), Keep::For(retention));
        Self { section: "embedded", dir, reserve: 0, keep, clock: Clock::system() }
    }
}

/// What goes from a log, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The oldest goes when it is too old or the log too large.
    For(Retention),
    /// Each record until it is said to be done; beyond `bytes` nothing more is taken.
    UntilDone {
        bytes: u64,
        /// Kept deliveries to keep in mind.
        known: usize,
    },
}
