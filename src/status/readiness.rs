//! Whether the bridge can take deliveries.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::bus::ConnectionState;

#[derive(Clone)]
pub struct Readiness {
    pub connection: watch::Receiver<ConnectionState>,
    /// Cancelled when the bridge drains.
    pub stop: CancellationToken,
    /// Not ready during a later outage either.
    pub needs_bus: bool,
}

impl Readiness {
    /// A later outage keeps the bridge ready: a sidecar that turns unready takes its whole pod out of service, and
    /// Terra retries whatever gets a 503.
    pub fn is_ready(&self) -> bool {
        let connection = *self.connection.borrow();
        let reached = connection == ConnectionState::Up || (connection == ConnectionState::Away && !self.needs_bus);
        reached && !self.stop.is_cancelled()
    }

    pub fn as_str(&self) -> &'static str {
        if self.stop.is_cancelled() {
            "draining"
        } else if self.is_ready() {
            "ready"
        } else {
            "not ready"
        }
    }

    pub fn bus(&self) -> &'static str {
        match *self.connection.borrow() {
            ConnectionState::Waiting => "waiting",
            ConnectionState::Up => "up",
            ConnectionState::Away => "away",
        }
    }
}
