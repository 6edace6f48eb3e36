//! terra-bridge: receives Terra's deliveries, proves who sent them, and keeps every event on a bus.
//!
//! The rooms, in the order in which a delivery passes them.

pub mod bus;
pub mod message;
pub mod route;
pub mod server;

pub mod cli;
pub mod config;
