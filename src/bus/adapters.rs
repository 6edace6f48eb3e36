//! The configured bus: the only file that names all three adapters.

use std::sync::Arc;

use super::{Bus, Finding, OpenError, Payloads, ReadError, Reading, Setup, StartPosition, embedded, kafka, nats};
use crate::config;

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
