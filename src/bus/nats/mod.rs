//! The nats adapter.

use std::sync::Arc;

use super::{Bus, Finding, From, OpenError, Records, Setup, TailError};
use crate::config;

/// Opens the adapter; see [`super::open`].
pub fn open(config: &config::Nats, setup: Setup) -> Result<Arc<dyn Bus>, OpenError> {
    let _ = (config, setup);
    unimplemented!()
}

/// What `check --online` reports.
pub async fn inspect(config: &config::Nats, setup: &Setup) -> Result<Vec<Finding>, OpenError> {
    let _ = (config, setup);
    unimplemented!()
}

/// Reads kept messages without disturbing any consumer.
pub async fn tail(config: &config::Nats, topics: Vec<String>, from: From) -> Result<Records, TailError> {
    let _ = (config, topics, from);
    unimplemented!()
}
