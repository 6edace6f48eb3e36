//! Matches the servers' answers to messages: each message names a reply subject of its own, under one inbox of the
//! adapter's. Refuses to know what an answer means.
//!
//! The client library does the same, at the price of a timer, a random token and three hash lookups for each message.

use std::collections::VecDeque;
use std::future::ready;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::client::traits::Publisher as _;
use async_nats::client::{PublishError, PublishErrorKind};
use async_nats::message::OutboundMessage;
use async_nats::{Client, HeaderMap, Message, StatusCode, Subject};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// No stream takes the subject.
    NoStream,
    TimedOut,
    /// The client has ended.
    Closed,
    /// More than the server's `max_payload`.
    TooLarge,
}

impl From<PublishError> for NoAnswer {
    fn from(error: PublishError) -> Self {
        match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => Self::TooLarge,
            // A subject is a route's topic, which has no blanks.
            PublishErrorKind::Send | PublishErrorKind::InvalidSubject => Self::Closed,
        }
    }
}

type Answer = Result<Bytes, NoAnswer>;

/// Sends messages, and waits for their answers.
pub(super) struct Acknowledgements {
    client: Client,
    /// With its final dot.
    inbox: String,
    waiting: Arc<Mutex<Waiting>>,
    /// The subscription keeps the connection open.
    _answers: AbortOnDropHandle<()>,
}

impl Acknowledgements {
    /// `within`: how long a message waits. Needs a tokio runtime.
    pub(super) fn new(client: Client, within: Duration) -> Self {
        let inbox = client.new_inbox() + ".";
        let waiting = Arc::new(Mutex::new(Waiting { within, messages: VecDeque::new(), first: 0 }));
        let answers = receive(client.clone(), inbox.clone(), waiting.clone());
        Self { client, inbox, waiting, _answers: AbortOnDropHandle::new(tokio::spawn(answers)) }
    }

    /// The answer to the message: the payload of what came to its reply subject.
    pub(super) async fn request(&self, subject: &str, headers: HeaderMap, payload: Bytes) -> Answer {
        let (token, mut answer) = lock(&self.waiting).add(Instant::now());
        let reply = Some(Subject::from(format!("{}{token}", self.inbox)));
        let message = OutboundMessage { subject: subject.into(), reply, payload, headers: Some(headers) };
        tokio::select! {
            biased;
            sent = self.client.publish_message(message) => sent?,
            // Its time has passed while the client takes nothing.
            answer = &mut answer => return answer.unwrap_or(Err(NoAnswer::Closed)),
        }
        answer.await.unwrap_or(Err(NoAnswer::Closed))
    }
}

/// Passes on what comes to the inbox, and ends what waits for too long. The client subscribes again after a reconnect.
async fn receive(client: Client, inbox: String, waiting: Arc<Mutex<Waiting>>) {
    let Ok(answers) = client.subscribe(format!("{inbox}*")).await else { return };
    let within = lock(&waiting).within;
    let mut received = pin!(answers.for_each(|message| {
        let token = message.subject.get(inbox.len()..).and_then(|token| token.parse().ok());
        if let Some(answered) = token.and_then(|token| lock(&waiting).remove(token)) {
            // Nobody waits any more where the caller's deadline passed first.
            let _ = answered.send(of_message(message));
        }
        ready(())
    }));
    let mut overdue = pin!(sleep(within));
    loop {
        tokio::select! {
            // First, since tokio lets a task wait only so often at a time, and answers may come without a pause.
            biased;
            () = &mut overdue => overdue.as_mut().reset(lock(&waiting).expire(Instant::now())),
            () = &mut received => break,
        }
    }
    lock(&waiting).messages.clear();
}

fn of_message(message: Message) -> Answer {
    if message.status == Some(StatusCode::NO_RESPONDERS) { Err(NoAnswer::NoStream) } else { Ok(message.payload) }
}

/// Messages without an answer. Their tokens are numbers that are never used twice, so that a late answer to one
/// message is never taken for another's.
struct Waiting {
    within: Duration,
    /// Oldest first. An answered message stays, as `None`, until all before it are gone.
    messages: VecDeque<Option<Sent>>,
    /// The token of the oldest.
    first: u64,
}

struct Sent {
    until: Instant,
    answer: oneshot::Sender<Answer>,
}

impl Waiting {
    fn add(&mut self, now: Instant) -> (u64, oneshot::Receiver<Answer>) {
        let (answer, receiver) = oneshot::channel();
        self.messages.push_back(Some(Sent { until: now + self.within, answer }));
        (self.first + self.messages.len() as u64 - 1, receiver)
    }

    /// `None`: nobody waits for this answer any more, or ever did.
    fn remove(&mut self, token: u64) -> Option<oneshot::Sender<Answer>> {
        let at = usize::try_from(token.checked_sub(self.first)?).ok()?;
        let sent = self.messages.get_mut(at)?.take()?;
        self.forget_answered();
        Some(sent.answer)
    }

    /// Ends the wait of all that are overdue. Returns when the next can be.
    fn expire(&mut self, now: Instant) -> Instant {
        while let Some(oldest) = self.messages.front_mut() {
            if oldest.as_ref().is_some_and(|oldest| oldest.until > now) {
                break;
            }
            if let Some(overdue) = oldest.take() {
                let _ = overdue.answer.send(Err(NoAnswer::TimedOut));
            }
            self.forget_answered();
        }
        self.messages.front().and_then(Option::as_ref).map_or(now + self.within, |oldest| oldest.until)
    }

    fn forget_answered(&mut self) {
        while self.messages.front().is_some_and(Option::is_none) {
            self.messages.pop_front();
            self.first += 1;
        }
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(5);

    fn waiting() -> Waiting {
        Waiting { within: WITHIN, messages: VecDeque::new(), first: 0 }
    }

    fn answer(waiting: &mut Waiting, token: u64, text: &'static str) -> bool {
        waiting.remove(token).is_some_and(|answer| answer.send(Ok(text.into())).is_ok())
    }

    #[test]
    fn each_message_gets_its_own_answer_in_whatever_order_they_come() {
        let (mut waiting, now) = (waiting(), Instant::now());
        let mut sent: Vec<_> = (0..4).map(|_| waiting.add(now)).collect();
        for (at, text) in [(2, "c"), (0, "a"), (3, "d"), (1, "b")] {
            assert!(answer(&mut waiting, sent[at].0, text));
        }
        let answers = sent.iter_mut().map(|(_, answer)| answer.try_recv().unwrap().unwrap());
        assert_eq!(answers.collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        assert!(waiting.messages.is_empty());
    }

    #[test]
    fn an_answer_that_nobody_waits_for_is_nobody_elses() {
        let (mut waiting, now) = (waiting(), Instant::now());
        let (first, gone) = waiting.add(now);
        drop(gone);
        assert!(!answer(&mut waiting, first, "late"));
        let (second, mut answered) = waiting.add(now);
        for token in [first, second + 1, u64::MAX] {
            assert!(!answer(&mut waiting, token, "not this one's"));
        }
        assert!(answer(&mut waiting, second, "its own") && !answer(&mut waiting, second, "twice"));
        assert_eq!(answered.try_recv().unwrap().unwrap(), "its own");
    }

    #[test]
    fn what_is_overdue_ends_and_its_late_answer_counts_for_nothing() {
        let (mut waiting, begun) = (waiting(), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(waiting.expire(begun), begun + WITHIN, "nobody waits");
        let ((first, mut overdue), (answered, _answer)) = (waiting.add(begun), waiting.add(begun));
        let (_, mut later) = waiting.add(begun + second);
        assert!(answer(&mut waiting, answered, "in time"));
        assert_eq!(waiting.expire(begun + WITHIN - second), begun + WITHIN);
        assert!(overdue.try_recv().is_err(), "not yet");
        assert_eq!(waiting.expire(begun + WITHIN), begun + second + WITHIN);
        assert_eq!(overdue.try_recv().unwrap(), Err(NoAnswer::TimedOut));
        assert!(!answer(&mut waiting, first, "late"));
        assert!(later.try_recv().is_err(), "not yet");
        waiting.expire(begun + second + WITHIN);
        assert_eq!(later.try_recv().unwrap(), Err(NoAnswer::TimedOut));
        assert!(waiting.messages.is_empty());
    }
}
