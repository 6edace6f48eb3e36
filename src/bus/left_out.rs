//! Stands in for the adapter of a bus that the program is built without. No configuration gets as far as this: one with
//! such a bus is a mistake, which names the bus.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Bus, Finding, OpenError, Payloads, ReadError, Reading, Setup, StartPosition};
use crate::config::{Compression, Secret};

fn error() -> OpenError {
    OpenError("this terra-bridge is built without the configured bus".to_owned())
}

pub(super) fn open<C>(_: &C, _: Setup) -> Result<Arc<dyn Bus>, OpenError> {
    Err(error())
}

pub(super) async fn inspect<C>(_: &C, _: &Setup) -> Result<Vec<Finding>, OpenError> {
    Err(error())
}

pub(super) async fn read<C>(_: &C, _: Vec<String>, _: StartPosition, _: Payloads) -> Result<Reading, ReadError> {
    Err(error().into())
}

pub(super) fn exposed_login<C>(_: &C) -> Option<Finding> {
    None
}

pub(super) fn needed_packages(_: Compression) -> Option<Finding> {
    None
}

pub(super) fn check_properties(_: &BTreeMap<String, Secret>, _: Duration, _: usize) -> Vec<(String, String, String)> {
    Vec::new()
}

pub(super) fn is_printable(_: &str) -> bool {
    false
}

pub(super) fn client_version() -> Option<String> {
    None
}
