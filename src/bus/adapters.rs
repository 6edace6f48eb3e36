//! The configured bus: the only file that names all three adapters, and that knows which of them are built in.

use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "kafka")]
use super::kafka;
#[cfg(not(feature = "kafka"))]
use super::left_out as kafka;
#[cfg(not(feature = "nats"))]
use super::left_out as nats;
#[cfg(feature = "nats")]
use super::nats;
use super::{Bus, Finding, OpenError, Payloads, ReadError, Reading, Setup, StartPosition, embedded};
use crate::config;

/// The buses that this program is built without.
pub(crate) const LEFT_OUT: &[&str] = &[
    #[cfg(not(feature = "kafka"))]
    "kafka",
    #[cfg(not(feature = "nats"))]
    "nats",
];

/// The name and version of each client library that is no crate.
pub(crate) fn client_versions() -> Option<String> {
    kafka::client_version()
}

/// An opened bus.
pub struct Opened {
    pub bus: Arc<dyn Bus>,
    /// Only for the embedded log: how its subscribers read.
    pub api: Option<embedded::Api>,
}

/// Opens the configured bus. Needs no broker: it connects when one becomes available. An error is permanent (a
/// directory that cannot be opened, a certificate that cannot be read).
pub fn open(config: &config::Bus, setup: Setup) -> Result<Opened, OpenError> {
    let without_api = |bus| Opened { bus, api: None };
    match config {
        config::Bus::Embedded(config) => embedded::open(config, setup).map(|(bus, api)| Opened { bus, api: Some(api) }),
        config::Bus::Kafka(config) => kafka::open(config, setup).map(without_api),
        config::Bus::Nats(config) => nats::open(config, setup).map(without_api),
    }
}

/// What `check --online` reports of the configured bus.
///
/// # Errors
/// The bus cannot be checked at all; the error names the remedy.
pub async fn inspect(config: &config::Bus, setup: &Setup) -> Result<Vec<Finding>, OpenError> {
    match config {
        config::Bus::Embedded(config) => embedded::inspect(config, setup).await,
        config::Bus::Kafka(config) => kafka::inspect(config, setup).await,
        config::Bus::Nats(config) => nats::inspect(config, setup).await,
    }
}

/// Reads topics without disturbing any consumer.
///
/// # Errors
/// The bus cannot be reached, or a partition does not have the start position.
pub async fn read(
    config: &config::Bus,
    topics: Vec<String>,
    from: StartPosition,
    payloads: Payloads,
) -> Result<Reading, ReadError> {
    match config {
        config::Bus::Embedded(config) => embedded::read(config, topics, from, payloads).await,
        config::Bus::Kafka(config) => kafka::read(config, topics, from, payloads).await,
        config::Bus::Nats(config) => nats::read(config, topics, from, payloads).await,
    }
}

/// What consumers need beside their usual client to read what the bus keeps; `None` if nothing.
pub(crate) fn needed_packages(config: &config::Bus) -> Option<Finding> {
    match config {
        config::Bus::Kafka(config) => kafka::needed_packages(config.compression),
        config::Bus::Nats(_) | config::Bus::Embedded(_) => None,
    }
}

/// Warns of a login that others on the network can read; `None` if there is no login, or TLS protects it, or the bus
/// runs on this machine.
pub(crate) fn exposed_login(config: &config::Bus) -> Option<Finding> {
    match config {
        config::Bus::Kafka(config) => kafka::exposed_login(config),
        config::Bus::Nats(config) => nats::exposed_login(config),
        config::Bus::Embedded(_) => None,
    }
}

/// The mistakes among the properties of the bus's client: the name, what is wrong with it, and the remedy. `within`: how
/// long the bus may take to answer; `max_body`: bytes of the largest message.
pub(crate) fn check_properties(
    config: &config::Bus,
    within: Duration,
    max_body: usize,
) -> Vec<(String, String, String)> {
    match config {
        config::Bus::Kafka(config) => kafka::check_properties(&config.properties, within, max_body),
        config::Bus::Nats(_) | config::Bus::Embedded(_) => Vec::new(),
    }
}

/// Whether anybody may see the value of this property of the bus's client.
pub(crate) fn is_printable(property: &str) -> bool {
    kafka::is_printable(property)
}
