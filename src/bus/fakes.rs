//! A bus for the unit tests of the modules in front of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::{oneshot, watch};

use super::{Bus, ConnectionState, Pending, Receipt, Refusal};
use crate::message::Message;
use crate::route::Topic;

/// A bus that answers when the test tells it to, and is always connected.
pub(crate) struct SlowBus {
    waiting: Mutex<VecDeque<Publish>>,
    connection: watch::Sender<ConnectionState>,
}

struct Publish {
    payload: String,
    answer: oneshot::Sender<Result<Receipt, Refusal>>,
}

impl Default for SlowBus {
    fn default() -> Self {
        Self { waiting: Mutex::default(), connection: watch::Sender::new(ConnectionState::Up) }
    }
}

impl SlowBus {
    /// How many publishes wait for an answer.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.lock().unwrap().len()
    }

    /// The payloads of the waiting publishes, oldest first.
    pub(crate) fn payloads(&self) -> Vec<String> {
        self.waiting.lock().unwrap().iter().map(|publish| publish.payload.clone()).collect()
    }

    /// Answers the oldest publish.
    pub(crate) fn answer(&self, answer: Result<Receipt, Refusal>) {
        let publish = self.waiting.lock().unwrap().pop_front().expect("a publish waits");
        publish.answer.send(answer).expect("somebody waits");
    }

    /// Never answers the oldest publish.
    pub(crate) fn forget(&self) {
        self.waiting.lock().unwrap().pop_front().expect("a publish waits");
    }
}

impl Bus for SlowBus {
    fn publish(&self, message: Arc<Message>) -> Pending<Result<Receipt, Refusal>> {
        let (answer, answered) = oneshot::channel();
        let payload = String::from_utf8(message.payload().to_vec()).unwrap();
        self.waiting.lock().unwrap().push_back(Publish { payload, answer });
        Box::pin(async move { answered.await.expect("the test answers") })
    }

    fn topics(&self, _: Vec<Topic>) {}

    fn connection(&self) -> watch::Receiver<ConnectionState> {
        self.connection.subscribe()
    }

    fn close(&self) -> Pending<()> {
        Box::pin(std::future::ready(()))
    }
}
