//! The stream that keeps the events, shared by publishes and the reconciler: whether it takes messages, and how large
//! they may be.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use tokio::sync::{Notify, watch};

use super::acknowledgement::Acknowledgements;
use super::events::Events;
use super::object_store::ObjectStore;
use super::refusal;
use super::settings::Use;
use crate::bus::{Refusal, Setup};
use crate::config;

/// In the stream's metadata: the bridge created it, and may add subjects to it.
pub(super) const MARK: &str = "terra-bridge";

/// Bytes. More than a message's headers need.
pub(super) const HEADROOM: usize = 16 << 10;

pub(super) struct EventStream {
    pub context: Context,
    /// The context's own, which it clones for each question.
    pub client: Client,
    pub acknowledgements: Acknowledgements,
    pub name: String,
    /// `nats.domain`.
    pub domain: Option<String>,
    /// The timeout of a publish, and of each request to the servers.
    pub publish_timeout: Duration,
    /// For payloads that are too large for a message.
    pub object_store: Option<ObjectStore>,
    pub events: Arc<Events>,
    /// Wakes the reconciler: a publish found that the stream may be gone.
    pub recheck: Notify,
    pub status: RwLock<StreamStatus>,
    /// The largest message in bytes that the stream takes; 0 means any.
    max_message: AtomicUsize,
}

/// Whether messages may go to the stream, or why not.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StreamStatus {
    /// Not looked up yet.
    Unknown(Refusal),
    /// It keeps what it acknowledges.
    Ready {
        /// The topics that it does not take.
        refused: BTreeMap<String, Refusal>,
    },
    /// It takes nothing, or acknowledges what it does not keep, until an operator acts.
    Unfit(Refusal),
}

impl EventStream {
    pub(super) fn new(config: &config::Nats, context: Context, events: Arc<Events>, setup: &Setup) -> Self {
        let client = context.client();
        Self {
            context,
            acknowledgements: Acknowledgements::new(client.clone(), setup.publish_timeout),
            client,
            name: config.stream.clone(),
            domain: config.domain.clone(),
            publish_timeout: setup.publish_timeout,
            object_store: ObjectStore::new(config, setup.bytes_in_flight),
            events,
            recheck: Notify::new(),
            status: RwLock::new(StreamStatus::Unknown(refusal::NOT_SEEN)),
            max_message: AtomicUsize::new(0),
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Checks what is known of a message's topic without asking the server.
    pub(super) fn check(&self, topic: &str) -> Result<(), Refusal> {
        if !self.is_connected() {
            // The client would buffer the message and send it on reconnect, long after the 503.
            return Err(self.events.unconnected().unwrap_or(refusal::AWAY));
        }
        match &*self.status.read().expect(UNPOISONED) {
            StreamStatus::Unknown(refusal) | StreamStatus::Unfit(refusal) => Err(refusal.clone()),
            StreamStatus::Ready { refused } => refused.get(topic).cloned().map_or(Ok(()), Err),
        }
    }

    /// From now on, messages go to these subjects.
    pub(super) fn set_subjects(&self, sender: &watch::Sender<Vec<String>>, subjects: Vec<String>) {
        // The reconciler reads changes under the same lock.
        let mut status = self.status.write().expect(UNPOISONED);
        status.add_subjects(&sender.borrow(), &subjects);
        sender.send_replace(subjects);
    }

    /// The largest message in bytes that server and stream take, including headers.
    pub(super) fn max_size(&self) -> usize {
        let (server, stream) = (self.client.max_payload(), self.max_message.load(Ordering::Relaxed));
        [server, stream].into_iter().filter(|most| *most > 0).min().unwrap_or(usize::MAX)
    }

    pub(super) fn set_max_message(&self, found: &Config) {
        self.max_message.store(usize::try_from(found.max_message_size).unwrap_or(0), Ordering::Relaxed);
    }
}

impl StreamStatus {
    /// The subjects change from `before` to `now`. A new one is refused until the stream takes it.
    fn add_subjects(&mut self, before: &[String], now: &[String]) {
        if let Self::Ready { refused } = self {
            let new = now.iter().filter(|subject| !before.contains(subject));
            refused.extend(new.map(|subject| (subject.clone(), refusal::NOT_ADDED)));
        }
    }
}

/// The stream as the bridge would create it.
pub(super) fn wanted(config: &config::Nats, setup: &Setup) -> Config {
    Config {
        name: config.stream.clone(),
        subjects: setup.topics.iter().map(ToString::to_string).collect(),
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        // A full stream refuses new messages: the other policy would drop unread ones.
        discard: DiscardPolicy::New,
        num_replicas: config.replicas,
        max_age: config.max_age,
        max_bytes: config.max_bytes.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(-1),
        duplicate_window: config.duplicate_window,
        metadata: HashMap::from([(MARK.to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
        ..Config::default()
    }
}

/// The stream's name in the log, in refusals and in `check`.
pub(super) fn about(stream: &str) -> String {
    format!("the stream `{stream}`")
}

/// What the bridge uses the `wanted` stream for.
pub(super) fn used(wanted: &Config, bytes_in_flight: usize) -> Use<'_> {
    Use { key: "nats.stream", what: "stream", name: &wanted.name, bytes_in_flight, subjects: &wanted.subjects }
}

pub(super) const UNPOISONED: &str = "no holder of this lock can panic";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_subjects_wait_for_the_stream_and_the_others_do_not() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut status = StreamStatus::Ready { refused: BTreeMap::new() };
        status.add_subjects(&names(&["a"]), &names(&["a", "b"]));
        status.add_subjects(&names(&["a", "b"]), &names(&["b", "c"]));
        let refused = names(&["b", "c"]).into_iter().map(|name| (name, refusal::NOT_ADDED)).collect();
        assert_eq!(status, StreamStatus::Ready { refused });
        let mut unknown = StreamStatus::Unknown(refusal::NOT_SEEN);
        unknown.add_subjects(&[], &names(&["a"]));
        assert_eq!(unknown, StreamStatus::Unknown(refusal::NOT_SEEN));
    }
}
