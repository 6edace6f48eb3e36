//! Errors of a log on disk: whether to retry, and what an operator has to do.

use std::io;
use std::panic::AssertUnwindSafe;

use super::codec::Corrupt;
use super::directory::Gone;
use super::disk;
use super::entry::OpenError;
use super::extent::Extent;
use super::settings::{Keep, Settings};

/// Why nothing was stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    /// Nothing was written; a retry may succeed.
    #[error("the disk is behind with its writes")]
    Behind,
    /// Some of it may be on disk. The log takes nothing more until it is reopened.
    #[error("{0}")]
    Failed(String),
    /// It may be on disk, in a place where nothing will find it.
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

impl From<fjall::Error> for ReadError {
    fn from(error: fjall::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<Corrupt> for ReadError {
    fn from(error: Corrupt) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Why the log was not opened, or takes nothing more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Fjall(fjall::Error),
    #[error("{0}")]
    Corrupt(#[from] Corrupt),
    #[error("what the journal held could not be written anew")]
    Rewrite,
    /// Acknowledged messages are missing.
    #[error("acknowledged messages are missing from its end, {0} of them")]
    Short(u64),
    #[error("{0}")]
    Watermark(#[from] io::Error),
    #[error("its format is {found}")]
    OtherFormat { found: u8, ours: u8 },
}

impl From<fjall::Error> for Failure {
    fn from(error: fjall::Error) -> Self {
        Self::Fjall(error)
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

impl Failure {
    pub(super) fn explain(&self, settings: &Settings) -> OpenError {
        let Settings { section, dir, .. } = settings;
        let dir_shown = dir.display();
        match self {
            Self::Fjall(fjall::Error::Io(error)) | Self::Watermark(error) if !is_damage(error) => {
                disk::unusable(section, dir, error)
            }
            Self::Fjall(fjall::Error::Locked) => OpenError(format!(
                "another process uses {section}.dir {dir_shown}; stop it, or give each bridge a directory of its own"
            )),
            Self::Fjall(fjall::Error::InvalidVersion(_)) => OpenError(format!(
                "{section}.dir {dir_shown} holds a database of another version of fjall; choose an empty directory"
            )),
            Self::OtherFormat { found, ours } => OpenError(other_format(*found, *ours, settings)),
            Self::Rewrite => {
                OpenError(format!("{section}.dir {dir_shown} does not take writes; free some space there"))
            }
            _ => OpenError(format!(
                "the log in {section}.dir {dir_shown} is damaged: {self}; restore the directory from a copy, or move it \
                 aside and start with an empty one"
            )),
        }
    }
}

fn other_format(found: u8, ours: u8, settings: &Settings) -> String {
    let Settings { section, dir, keep, .. } = settings;
    let writer = if found < ours { "an earlier" } else { "a later" };
    let remedy = match keep {
        Keep::For(_) => "read it with that version, and give this one an empty directory",
        Keep::UntilDone { .. } => {
            "start that version until its terra_bridge_spool_messages and _set_aside are 0, and give this one an empty \
             directory"
        }
    };
    format!(
        "{section}.dir {} was written by {writer} version of terra-bridge (format {found}, this one has {ours}); {remedy}",
        dir.display()
    )
}

/// Whether the content of files is missing; otherwise the disk is at fault.
fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, InvalidData, NotFound, UnexpectedEof};
    matches!(error.kind(), AlreadyExists | InvalidData | NotFound | UnexpectedEof)
}

/// fjall panics on some damage; this turns the panic into an error.
pub(super) fn guarded<T, E: From<Corrupt>>(asked: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let answer = std::panic::catch_unwind(AssertUnwindSafe(asked));
    answer.unwrap_or_else(|_| Err(Corrupt("something that fjall reads").into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_caused_by_damage_is_an_error() {
        let read: Result<(), ReadError> = guarded(|| panic!("value handle did not match any blob"));
        assert!(matches!(read, Err(ReadError::Failed(_))));
    }
}
