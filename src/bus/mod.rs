//! The bus that keeps messages, without knowing which one it is: a [`Message`] becomes a [`Receipt`], which
//! means that the bus keeps it, or a [`Refusal`].
//!
//! `adapters` alone knows `kafka`, `nats` and `embedded`. An adapter translates and classifies; deadline and
//! metrics of a publish stand once, in `relay`.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::log;
use crate::message::Message;
use crate::route::Topic;

pub mod adapters;
pub mod embedded;
mod error_log;
#[cfg(test)]
pub(crate) mod fakes;
pub(crate) mod kafka;
mod loopback;
mod nats;
mod read;

pub use crate::record::Record;
pub use read::{Payloads, ReadError, Reading, Skipped, StartPosition, Step, Steps};

/// A boxed future, so that an adapter can stand behind `dyn`.
pub type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What each adapter does.
pub trait Bus: Send + Sync + 'static {
    /// Hands the message over at once, whether or not the future is polled later; Kafka does so once the
    /// topic was seen, where that was not yet.
    /// `Ok` means that the bus keeps it. Dropping the future does not take the message back.
    /// Not bounded in time as such: the caller has the deadline, though an adapter derives its
    /// client's own timeouts from [`Setup::publish_timeout`], so that the definite error comes first.
    fn publish(&self, message: Arc<Message>) -> Pending<Result<Receipt, Refusal>>;

    /// From now on messages go to these topics, where [`Setup::topics`] told of others. Returns at
    /// once; a message that comes before its topic is there is refused as transient.
    fn topics(&self, topics: Vec<Topic>);

    /// Whether the bus is reached, kept current by the adapter.
    fn connection(&self) -> watch::Receiver<ConnectionState>;

    /// Waits until all that was handed over has its receipt or refusal, then lets the client go.
    /// The caller bounds it in time.
    fn close(&self) -> Pending<()>;
}

/// What an adapter needs to know beside its own configuration.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Every topic that a message can go to.
    pub topics: Vec<Topic>,
    pub publish_timeout: Duration,
    /// Bytes.
    pub max_body: usize,
    /// Bytes of all payloads handed over at once, at most.
    pub bytes_in_flight: usize,
}

/// The bus's confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    Kept,
    /// The bus kept this delivery id before and keeps it still.
    Duplicate,
}

impl From<log::Receipt> for Receipt {
    fn from(receipt: log::Receipt) -> Self {
        match receipt {
            log::Receipt::Kept => Self::Kept,
            log::Receipt::Duplicate => Self::Duplicate,
        }
    }
}

/// Why the bus did not take a message. Says nothing of what was in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The same message may well be taken later.
    #[error("{reason}")]
    Transient { reason: Cow<'static, str> },
    /// The client library took it for kept, but no server of the bus said so: it may be there or not, so that a
    /// retry may make a copy.
    #[error("{reason}")]
    Unconfirmed { reason: Cow<'static, str> },
    /// No retry helps until somebody acts.
    #[error("{reason}; {remedy}")]
    Permanent { scope: Scope, reason: Cow<'static, str>, remedy: Cow<'static, str> },
    /// Larger than the bus takes, as it is set up now.
    #[error("the message is larger than the bus takes; {remedy}")]
    TooLarge { remedy: Cow<'static, str> },
}

impl From<log::NotKept> for Refusal {
    fn from(log::NotKept(reason): log::NotKept) -> Self {
        Self::Transient { reason }
    }
}

impl Refusal {
    /// A word for metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Transient { .. } => "transient",
            Self::Unconfirmed { .. } => "unconfirmed",
            Self::Permanent { .. } => "permanent",
            Self::TooLarge { .. } => "too_large",
        }
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
    /// This message, or whatever goes to its topic.
    Topic,
    /// Whatever is sent: a retry helps as soon as the bus is fixed.
    Bus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// Not reached since the start.
    Waiting,
    Up,
    Away,
}

/// Why a bus cannot even be opened, with the remedy.
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
    /// In words: what is, and what it means for durability.
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
