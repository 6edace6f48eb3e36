//! The signals that a bridge takes.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::StartError;

/// SIGHUP, which no longer ends the process from now on.
///
/// # Errors
/// The system refuses the signal handler.
pub(in crate::cli) fn hangup() -> Result<Signal, StartError> {
    signal(SignalKind::hangup()).map_err(StartError::Signals)
}

pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
