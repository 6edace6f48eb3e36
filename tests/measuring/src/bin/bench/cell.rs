//! What is measured.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Bytes of all bodies that are under way at once: well below `server.bytes_in_flight`, beyond which the bridge
/// refuses.
const UNDER_WAY: usize = 100_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Bus {
    Kafka,
    Nats,
    Embedded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) bus: Bus,
    /// Bytes of a body.
    pub(crate) size: usize,
    pub(crate) connections: usize,
}

impl Cell {
    pub(crate) fn new(bus: Bus, size: usize, connections: usize) -> Self {
        Self { bus, size, connections: connections.min(UNDER_WAY / size.max(1)).max(1) }
    }
}

impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kafka => "kafka",
            Self::Nats => "nats",
            Self::Embedded => "embedded",
        })
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bus, size, connections } = self;
        write!(f, "{bus}, {size} bytes, {connections} connections")
    }
}
