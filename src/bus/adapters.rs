//! The configured bus: the only file that names all three adapters.

use std::sync::Arc;

use super::{Bus, Finding, OpenError, ReadError, Records, Replay, Setup, StartPosition, Wanted, embedded, kafka, nats};
use crate::config;

/// A bus that was opened.
pub struct Opened {
    pub bus: Arc<dyn Bus>,
    /// Of the embedded log: how its subscribers read.
    pub api: Option<embedded::Api>,
}

/// Opens the configured bus. Needs no broker: it connects when one comes. An error is permanent
/// (a directory that cannot be opened, a certificate that cannot be read).
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
/// Where it cannot even be asked, with the remedy.
pub async fn inspect(config: &config::Bus, setup: &Setup) -> Result<Vec<Finding>, OpenError> {
    match config {
        config::Bus::Embedded(config) => embedded::inspect(config, setup).await,
        config::Bus::Kafka(config) => kafka::inspect(config, setup).await,
        config::Bus::Nats(config) => nats::inspect(config, setup).await,
    }
}

/// Those of the topics that the configured bus has, as far as this user may see them.
///
/// # Errors
/// A bus that cannot be reached.
pub async fn present(config: &config::Bus, topics: Vec<String>) -> Result<Vec<String>, ReadError> {
    match config {
        config::Bus::Embedded(config) => embedded::present(config, topics).await,
        config::Bus::Kafka(config) => kafka::present(config, topics).await,
        config::Bus::Nats(config) => nats::present(config, topics).await,
    }
}

/// Reads what the configured bus keeps, without disturbing any consumer.
///
/// # Errors
/// An unknown topic, a bus that cannot be reached.
pub async fn tail(config: &config::Bus, topics: Vec<String>, from: StartPosition) -> Result<Records, ReadError> {
    match config {
        config::Bus::Embedded(config) => embedded::tail(config, topics, from).await,
        config::Bus::Kafka(config) => kafka::tail(config, topics, from).await,
        config::Bus::Nats(config) => nats::tail(config, topics, from).await,
    }
}

/// Reads these topics from their earliest message, without disturbing any consumer. Records come without
/// their payload unless it is wanted: NATS then does not send it at all.
///
/// # Errors
/// An unknown topic, a bus that cannot be reached. In the stream: a bus that stays silent before it gave
/// all that it keeps.
pub async fn replay(config: &config::Bus, topics: Vec<String>, wanted: Wanted) -> Result<Replay, ReadError> {
    match config {
        config::Bus::Embedded(config) => embedded::replay(config, topics, wanted).await,
        config::Bus::Kafka(config) => kafka::replay(config, topics, wanted).await,
        config::Bus::Nats(config) => nats::replay(config, topics, wanted).await,
    }
}

/// A login that others on the network can read; `None` where there is none, or TLS, or the bus runs on this machine.
pub(crate) fn exposed_login(config: &config::Bus) -> Option<Finding> {
    match config {
        config::Bus::Kafka(config) => kafka::exposed_login(config),
        config::Bus::Nats(config) => nats::exposed_login(config),
        config::Bus::Embedded(_) => None,
    }
}
