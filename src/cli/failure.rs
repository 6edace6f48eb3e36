//! Why a command fails, and its exit code.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// The message for the user.
#[derive(Debug)]
pub(super) enum Failure {
    /// Wrong usage or configuration.
    Mistake(String),
    Running(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Mistake(says) | Self::Running(says)) = self;
        f.write_str(says)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Running(error.to_string())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Running(error.to_string())
    }
}

impl Failure {
    /// Appends more text.
    pub(super) fn with(self, more: &str) -> Self {
        match self {
            Self::Mistake(says) => Self::Mistake(says + more),
            Self::Running(says) => Self::Running(says + more),
        }
    }

    pub(super) fn code(&self) -> ExitCode {
        match self {
            Self::Running(_) => ExitCode::from(1),
            Self::Mistake(_) => ExitCode::from(2),
        }
    }
}
