//! terra-bridge: receives Terra's deliveries, verifies their signatures, and keeps every event on a bus.
//!
//! The path of one delivery, from the socket to the bus; each step uses the types of the steps before it:
//!
//! ```text
//! server       connections, limits, deadlines, TLS
//! relay        one delivery from request to reply, in this order:
//!   allow_list, signature    authenticate: a request becomes a Delivery
//!   event, headers           read: what the delivery reports
//!   route                    which topic it goes to
//!   identity, dedupe         whether it was kept before, or is in flight
//!   fetch                    the event that a link leads to
//!   message                  topic, key, CloudEvents headers, payload
//!   bus, spool               deliver: kafka, nats, embedded; or the disk until the bus is back
//!   reply                    outcome and status
//! ```
//!
//! Besides that path: `cli` (one file or folder per command; `serve` wires everything together), `config`, `admin`
//! (health, metrics and the status page), `admin_socket` (for the commands), `asyncapi` (the topics as a document),
//! `metrics`, `status` (what the page shows), `telemetry` (logs and spans). Foundations: `log` (the durable log under the
//! embedded bus and the spool), `attribute` (CloudEvents' names), `certificate` (when one expires), `clock`, `payload`,
//! `record`, `samples`, `trace` (W3C Trace Context), `trust` (of servers), `vocabulary` (Terra's event types).

pub mod server;
pub mod relay;
pub mod allow_list;
pub mod signature;
pub mod headers;
pub mod event;
pub mod route;
pub mod identity;
pub mod dedupe;
pub mod fetch;
pub mod message;
pub mod bus;
pub mod spool;
pub mod reply;

pub mod admin;
mod admin_socket;
pub mod asyncapi;
pub mod cli;
pub mod config;
pub mod metrics;
pub mod status;
pub mod telemetry;

pub mod attribute;
mod certificate;
pub mod clock;
mod log;
pub mod payload;
mod record;
pub mod samples;
pub mod trace;
mod trust;
pub mod vocabulary;
