//! The settings of a log: its directory, its limits and its clock.

use std::path::PathBuf;

use super::retention::{Retention, segment_bytes};
use crate::clock::Clock;

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The configuration section that has its `dir`, `reserve` and `max_bytes`.
    pub(crate) section: &'static str,
    pub(crate) dir: PathBuf,
    /// With less free space than this many bytes, the log takes nothing more.
    pub(crate) reserve: u64,
    pub(crate) keep: Keep,
    /// The clock that ages its records.
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

/// What is removed from a log, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The oldest segment, when it is too old or the log is too large.
    For(Retention),
    /// Each record once it is done. Beyond `bytes` the log takes nothing more.
    UntilDone {
        bytes: u64,
        /// How many stored deliveries to remember.
        known: usize,
    },
}

impl Keep {
    /// Bytes of a segment; a larger commit has one to itself.
    pub(super) fn segment_bytes(&self) -> u64 {
        match self {
            Self::For(retention) => segment_bytes(retention.bytes),
            Self::UntilDone { bytes, .. } => segment_bytes(*bytes),
        }
    }
}
