//! Reads and routes: a [`Delivery`] becomes a message with its topic, or a link to fetch first.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::pipeline::Pipeline;
use crate::event::{DeadLetter, Event, Link, Unreadable};
use crate::identity::Identity;
use crate::message::Message;
use crate::reply::Outcome;
use crate::route::{Route, RouteTable, Topic};
use crate::signature::Delivery;

/// Bytes. A larger body takes longer to parse than other connections should wait for a worker.
const BLOCKING_FROM: usize = 256 << 10;

/// What a delivery contains.
pub(super) enum Content {
    Message(Prepared),
    /// The event has to be fetched first.
    Link(LinkEvent),
}

/// A message that is ready for the bus.
pub(super) struct Prepared {
    pub(super) message: Message,
    pub(super) unreadable: Option<Unreadable>,
    /// For a fetched event, its link: published instead if the event is too large for the bus.
    pub(super) link: Option<Box<Message>>,
}

/// An event that only says where the real one can be fetched.
pub(super) struct LinkEvent {
    pub(super) event: Box<Event>,
    pub(super) link: Link,
    /// The topic of the link itself, for when the fetch fails.
    pub(super) topic: Topic,
    identity: Identity,
}

impl Content {
    pub(super) fn identity(&self) -> &Identity {
        match self {
            Self::Message(prepared) => prepared.message.identity(),
            Self::Link(link) => &link.identity,
        }
    }
}

/// Reads and routes the event. `Err`: how the delivery ended with nothing to publish.
pub(super) async fn prepare(
    pipeline: &Arc<Pipeline>,
    delivery: Delivery,
    deadline: Instant,
) -> Result<Content, Outcome> {
    let bytes = delivery.payload().bytes().len();
    let reading = pipeline.clone();
    let read = move || content(&reading, delivery);
    run_blocking_if_large(bytes, || pipeline.publish_deadline(deadline), read).await.unwrap_or(Err(Outcome::Unanswered))
}

fn content(pipeline: &Pipeline, delivery: Delivery) -> Result<Content, Outcome> {
    let routes = &*pipeline.routes;
    let event = match Event::read(delivery) {
        Ok(event) => event,
        Err(dead_letter) => return Ok(Content::Message(Prepared::of_dead_letter(dead_letter, routes))),
    };
    // Before the fetch: an event that the user's route drops is not fetched.
    let topic = topic(&event, routes)?.clone();
    match event.link().filter(|_| pipeline.fetcher.is_some()) {
        Some(link) => {
            let identity = Identity::of(event.delivery(), Some(event.signed_facts()));
            Ok(Content::Link(LinkEvent { event: Box::new(event), link, topic, identity }))
        }
        None => Ok(Content::Message(Prepared::of_event(event, topic))),
    }
}

fn topic<'r>(event: &Event, routes: &'r RouteTable) -> Result<&'r Topic, Outcome> {
    match routes.resolve(&event.delivery().endpoint().name, &event.facts().event_type) {
        Route::To(topic) => Ok(topic),
        Route::Drop => Err(Outcome::Dropped),
    }
}

impl Prepared {
    /// Prepares a fetched event, which is routed by its own type.
    pub(super) fn of_fetched(event: Event, routes: &RouteTable) -> Result<Self, Outcome> {
        let topic = topic(&event, routes)?.clone();
        Ok(Self::of_event(event, topic))
    }

    fn of_event(event: Event, topic: Topic) -> Self {
        Self { message: Message::of_event(event, topic), unreadable: None, link: None }
    }

    pub(super) fn of_dead_letter(dead_letter: DeadLetter, routes: &RouteTable) -> Self {
        let unreadable = Some(dead_letter.reason());
        let topic = routes.dead_letter(&dead_letter.delivery().endpoint().name).clone();
        Self { message: Message::of_dead_letter(dead_letter, topic), unreadable, link: None }
    }
}

/// Runs `read`, which reads that many bytes, on a blocking thread if it would delay others; `None` if it did not end
/// in time.
pub(super) async fn run_blocking_if_large<T: Send + 'static>(
    bytes: usize,
    deadline: impl FnOnce() -> Instant,
    read: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if bytes < BLOCKING_FROM {
        return Some(read());
    }
    timeout_at(deadline(), tokio::task::spawn_blocking(read)).await.ok()?.ok()
}
