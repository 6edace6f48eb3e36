//! Errors of a log on disk: whether to retry, and what an operator has to do.

use std::io;

use super::codec::{Corrupt, FORMAT};
use super::disk;
use super::entry::OpenError;
use super::extent::Extent;
use super::files::Gone;
use super::settings::{Keep, Settings};

/// Why nothing was stored. Some of it may be on disk, where nothing will read it. The log takes nothing more until it
/// goes on in another segment.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    #[error("{0}")]
    Failed(#[from] io::Error),
    /// It is in a place where the next start does not look.
    #[error("{0}")]
    Gone(#[from] Gone),
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("no such topic")]
    UnknownTopic,
    /// Retention has removed it.
    #[error("the log begins at offset {}", .0.earliest)]
    Gone(Extent),
    #[error("the log is closed")]
    Closed,
    #[error("{0}")]
    Failed(String),
}

impl From<Failure> for ReadError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure.to_string())
    }
}

/// Why the log was not opened, or not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Corrupt(#[from] Corrupt),
    #[error("{file} at byte {at}: {what}")]
    Damaged { file: String, at: u64, what: String },
    #[error("another process uses it")]
    Locked,
    #[error("its format is {found}")]
    OtherFormat { found: u8 },
}

impl Failure {
    pub(super) fn damaged(file: impl Into<String>, at: u64, what: impl Into<String>) -> Self {
        Self::Damaged { file: file.into(), at, what: what.into() }
    }

    pub(super) fn explain(&self, settings: &Settings) -> OpenError {
        let Settings { section, dir, .. } = settings;
        let dir_shown = dir.display();
        match self {
            Self::Io(error) if !is_damage(error) => disk::unusable(section, dir, error),
            Self::Locked => OpenError(format!(
                "another process uses {section}.dir {dir_shown}; stop it, or give each bridge a directory of its own"
            )),
            Self::OtherFormat { found } => OpenError(other_format(*found, settings)),
            Self::Io(_) | Self::Corrupt(_) | Self::Damaged { .. } => OpenError(format!(
                "the log in {section}.dir {dir_shown} is damaged: {self}; restore the directory from a copy, or move it \
                 aside and start with an empty one"
            )),
        }
    }
}

impl Gone {
    /// For the cases where an operator must decide: opening what is left would hide a loss.
    pub(super) fn explain(&self, settings: &Settings) -> OpenError {
        OpenError(format!(
            "{}.dir: {self}; put it back, and the log goes on by itself, or restart the bridge: it begins with what is \
             there then, and what lay only in what is gone is lost",
            settings.section
        ))
    }
}

fn other_format(found: u8, settings: &Settings) -> String {
    let Settings { section, dir, keep, .. } = settings;
    let writer = if found < FORMAT { "an earlier" } else { "a later" };
    let remedy = match keep {
        Keep::For(_) => "read it with that version, and give this one an empty directory",
        Keep::UntilDone { .. } => {
            "start that version until its terra_bridge_spool_messages and _set_aside are 0, and give this one an empty \
             directory"
        }
    };
    format!(
        "{section}.dir {} was written by {writer} version of terra-bridge (format {found}, this one has {FORMAT}); {remedy}",
        dir.display()
    )
}

/// Whether the content of files is missing; otherwise the disk is at fault.
fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, InvalidData, NotFound, UnexpectedEof};
    matches!(error.kind(), AlreadyExists | InvalidData | NotFound | UnexpectedEof)
}
