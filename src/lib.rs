//! terra-bridge: receives Terra's deliveries, proves who sent them, and keeps every event on a bus.
//!
//! The rooms, in the order in which a delivery passes them; then those beside the line.

pub mod server;
pub mod relay;
pub mod payload;
pub mod headers;
pub mod signature;
pub mod allow_list;
pub mod event;
pub mod fetch;
pub mod identity;
pub mod vocabulary;
pub mod route;
pub mod message;
pub mod dedupe;
pub mod bus;
pub mod spool;
pub mod reply;

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
mod log;
pub mod metrics;
mod record;
pub mod samples;
pub mod telemetry;
