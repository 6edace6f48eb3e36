//! The kafka adapter.

use std::sync::Arc;

use super::{Bus, Finding, From, OpenError, Records, Setup, TailError};
use crate::config;

/// Opens the adapter; see [`super::open`].
pub fn open(config: &config::Kafka, setup: Setup) -> Result<Arc<dyn Bus>, OpenError> {
    let _ = (config, setup);
    unimplemented!()
}

/// What `check --online` reports.
pub async fn inspect(config: &config::Kafka, setup: &Setup) -> Result<Vec<Finding>, OpenError> {
    let _ = (config, setup);
    unimplemented!()
}

/// Reads kept messages without disturbing any consumer.
pub async fn tail(config: &config::Kafka, topics: Vec<String>, from: From) -> Result<Records, TailError> {
    let _ = (config, topics, from);
    unimplemented!()
}
