//! The bus that keeps messages, independent of its kind: a [`Message`] becomes a [`Receipt`], which means that the
//! bus keeps it, or a [`Refusal`].
//!
//! Only `adapters` knows `kafka`, `nats` and `embedded`, and which of the first two are built in; `left_out` stands in
//! for what is not. An adapter translates and classifies; deadline and metrics
//! of a publish exist once, in `relay`.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use strum::{IntoStaticStr, VariantNames};
use tokio::sync::watch;

use crate::log;
use crate::message::Message;
use crate::route::Topic;

pub mod adapters;
pub mod embedded;
#[cfg(any(feature = "kafka", feature = "nats"))]
mod error_log;
mod in_order;
#[cfg(test)]
pub(crate) mod fakes;
mod integrity;
#[cfg(feature = "kafka")]
mod kafka;
#[allow(dead_code, reason = "what of it is asked depends on what is left out")]
mod left_out;
#[cfg(any(feature = "kafka", feature = "nats"))]
mod loopback;
#[cfg(feature = "nats")]
mod nats;
mod read;

pub use crate::record::Record;
pub(crate) use in_order::in_order;
pub(crate) use integrity::integrity;
pub use read::{Payloads, ReadError, Reading, Skipped, StartPosition, Step, Steps};

/// A boxed future, so that an adapter can stand behind `dyn`.
pub type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The interface of an adapter.
pub trait Bus: Send + Sync + 'static {
    /// Submits the message at once, whether or not the future is polled later; Kafka does so once it has seen the
    /// topic. `Ok` means that the bus keeps it. Dropping the future does not take the message back. The caller sets
    /// the deadline; an adapter derives its client's own timeouts from [`Setup::publish_timeout`], so that the
    /// definite error comes first.
    fn publish(&self, message: Arc<Message>) -> Pending<Result<Receipt, Refusal>>;

    /// From now on messages go to these topics instead of [`Setup::topics`]. Returns at once; a message that arrives
    /// before its topic exists is refused as transient.
    fn topics(&self, topics: Vec<Topic>);

    /// Whether the bus is connected, kept current by the adapter.
    fn connection(&self) -> watch::Receiver<ConnectionState>;

    /// Waits until every submitted message has its receipt or refusal, then closes the client. The caller sets a time
    /// limit.
    fn close(&self) -> Pending<()>;
}

/// What an adapter needs besides its own configuration.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Every topic that a message can go to.
    pub topics: Vec<Topic>,
    pub publish_timeout: Duration,
    /// Bytes.
    pub max_body: usize,
    /// The most payload bytes in flight at once.
    pub bytes_in_flight: usize,
}

/// The bus's confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    Kept,
    /// The bus had already kept this delivery id, and still does.
    Duplicate,
}

/// Why the bus did not take a message. Says nothing of its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum Refusal {
    /// A retry may succeed.
    #[error("{reason}")]
    Transient { reason: Cow<'static, str> },
    /// The client library reported success, but no server of the bus confirmed it. The message may be there or not,
    /// so a retry may create a copy.
    #[error("{reason}")]
    Unconfirmed { reason: Cow<'static, str> },
    /// No retry helps until an operator acts.
    #[error("{reason}; {remedy}")]
    Permanent { scope: Scope, reason: Cow<'static, str>, remedy: Cow<'static, str> },
    /// Larger than the bus currently accepts.
    #[error("the message is larger than the bus takes; {remedy}")]
    TooLarge { remedy: Cow<'static, str> },
}

impl From<log::NotKept> for Refusal {
    fn from(log::NotKept(reason): log::NotKept) -> Self {
        Self::Transient { reason }
    }
}

impl Refusal {
    /// A label for metrics.
    pub fn as_str(&self) -> &'static str {
        self.into()
    }

    /// Whether the bus may take other messages all the same, so that none needs to wait behind this one.
    pub fn is_message_specific(&self) -> bool {
        match self {
            Self::Permanent { scope, .. } => *scope == Scope::Topic,
            Self::TooLarge { .. } => true,
            Self::Transient { .. } | Self::Unconfirmed { .. } => false,
        }
    }
}

/// What else is refused for the same reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// This message, or everything for its topic.
    Topic,
    /// Every message: a retry helps as soon as the bus is fixed.
    Bus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// Not connected since the start.
    Waiting,
    Up,
    Away,
}

/// Why a bus cannot be opened at all, with the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);

impl From<log::OpenError> for OpenError {
    fn from(log::OpenError(reason): log::OpenError) -> Self {
        Self(reason)
    }
}

impl From<OpenError> for ReadError {
    fn from(error: OpenError) -> Self {
        Self(error.0)
    }
}

/// What `check --online` found about one topic, one stream or the whole bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A topic, a stream, or "cluster".
    pub about: String,
    pub level: Level,
    /// What was found, and what it means for durability.
    pub says: String,
    pub remedy: Option<String>,
}

impl Finding {
    pub(crate) fn fine(about: impl Into<String>, says: impl Into<String>) -> Self {
        Self { about: about.into(), level: Level::Fine, says: says.into(), remedy: None }
    }

    pub(crate) fn advice(about: impl Into<String>, says: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { about: about.into(), level: Level::Advice, says: says.into(), remedy: Some(remedy.into()) }
    }

    pub(crate) fn mistake(about: impl Into<String>, says: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Mistake, ..Self::advice(about, says, remedy) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Fine,
    Advice,
    Mistake,
}
