//! Publishes captured records on the bus that this process has open, each under its own id. What is remembered as kept
//! is a duplicate.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::bus::{Bus, Receipt, Refusal, in_order};
use crate::dedupe::{Admission, Dedupe};
use crate::message::Message;
use crate::record::Record;
use crate::reply::Outcome;
use crate::route::Topic;

/// Keys at once.
const AT_ONCE: usize = 64;

const NO_ANSWER: &str = "the bus did not confirm the message in time";
const IN_FLIGHT: &str = "the same delivery is in flight";

/// What came of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Published {
    Kept,
    /// It was kept before.
    Duplicate,
    Refused {
        reason: String,
        /// No retry helps.
        is_final: bool,
    },
    /// One before it, of the same key, was refused.
    Untried,
    /// No bridge wrote it, or its payload is missing.
    NotAMessage,
}

pub(crate) struct Publisher {
    bus: Arc<dyn Bus>,
    /// `None`: this process remembers nothing, and the bus itself may or may not.
    dedupe: Option<Dedupe<Outcome>>,
    publish_timeout: Duration,
    topics: Mutex<BTreeSet<Topic>>,
    /// One batch at a time, so that its memory is bounded.
    turn: tokio::sync::Mutex<()>,
}

impl Publisher {
    pub(crate) fn new(
        bus: Arc<dyn Bus>,
        dedupe: Option<Dedupe<Outcome>>,
        publish_timeout: Duration,
        topics: Vec<Topic>,
    ) -> Self {
        Self {
            bus,
            dedupe,
            publish_timeout,
            topics: Mutex::new(topics.into_iter().collect()),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Take a turn before the records are read.
    pub(super) async fn turn(&self) -> impl Drop {
        self.turn.lock().await
    }

    /// The answers are in the records' order.
    pub(super) async fn publish(&self, records: Vec<Record>) -> Vec<Published> {
        let messages: Vec<Option<Message>> = records.iter().map(Message::of_record).collect();
        self.register(messages.iter().flatten().map(|message| message.topic().clone()));
        let is_message: Vec<bool> = messages.iter().map(Option::is_some).collect();
        let items = messages.into_iter().flatten().map(|message| (message.key_digest(), message)).collect();
        let mut answers = in_order(items, AT_ONCE, |message| self.publish_one(message)).await.into_iter();
        let answer = |is_message| match is_message {
            false => Published::NotAMessage,
            true => match answers.next().flatten() {
                Some(Ok(Receipt::Kept)) => Published::Kept,
                Some(Ok(Receipt::Duplicate)) => Published::Duplicate,
                Some(Err(refusal)) => {
                    Published::Refused { reason: refusal.to_string(), is_final: refusal.is_message_specific() }
                }
                None => Published::Untried,
            },
        };
        is_message.into_iter().map(answer).collect()
    }

    /// Tells the bus of topics that no route leads to.
    fn register(&self, topics: impl Iterator<Item = Topic>) {
        let mut known = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.len();
        known.extend(topics);
        if known.len() > before {
            self.bus.topics(known.iter().cloned().collect());
        }
    }

    async fn publish_one(&self, message: Message) -> Result<Receipt, Refusal> {
        let (id, transient) = (message.id(), |reason: &'static str| Refusal::Transient { reason: reason.into() });
        let ticket = match self.dedupe.as_ref().map(|dedupe| dedupe.admit(message.identity(), Timestamp::now())) {
            None => None,
            Some(Admission::First(ticket)) => Some(ticket),
            Some(Admission::Kept) => return Ok(Receipt::Duplicate),
            Some(Admission::Wait(_)) => return Err(transient(IN_FLIGHT)),
        };
        let answer = timeout(self.publish_timeout, self.bus.publish(Arc::new(message))).await;
        let answer = answer.unwrap_or_else(|_| Err(transient(NO_ANSWER)));
        match (&answer, ticket) {
            (Ok(_), Some(ticket)) => ticket.kept(Timestamp::now(), Outcome::Duplicate(id)),
            (Err(refusal), Some(ticket)) => ticket.refused(Outcome::Refused(refusal.clone())),
            (_, None) => {}
        }
        answer
    }
}
