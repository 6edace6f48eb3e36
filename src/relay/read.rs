//! What a delivery turns out to be. Comes in: a [`Delivery`], or what its link led to. Goes out: a message
//! with its topic, or a link to follow first.

use tokio::time::Instant;

use super::Line;
use crate::event::{DeadLetter, Event, Link, Unreadable};
use crate::message::Message;
use crate::reply::Outcome;
use crate::route::{Route, Table};
use crate::signature::Delivery;

/// Bytes. A larger body takes longer to read than other connections should wait for a worker.
const READ_ASIDE_FROM: usize = 256 << 10;

/// What a delivery turned out to be.
pub(super) enum Read {
    Letter(Letter),
    /// The event lies elsewhere.
    Link(Box<Event>, Link),
}

/// A message on its way to the bus.
pub(super) struct Letter {
    pub(super) message: Message,
    pub(super) unreadable: Option<Unreadable>,
    /// Of what a link led to, the link: better than nothing where the message is too large for the bus.
    pub(super) link: Option<Box<Message>>,
}

/// Event, route, link or message. `Err`: how it ended with nothing to publish.
pub(super) fn read(line: &Line, delivery: Delivery) -> Result<Read, Outcome> {
    match Event::read(delivery) {
        // Before a link: nobody follows one that the user does not want.
        Ok(event) if *route(&line.routes, &event) == Route::Drop => Err(Outcome::Dropped),
        Ok(event) => match event.link().filter(|_| line.fetcher.is_some()) {
            Some(link) => Ok(Read::Link(Box::new(event), link)),
            None => of_event(&line.routes, event).map(Read::Letter),
        },
        Err(letter) => Ok(Read::Letter(of_dead_letter(&line.routes, letter))),
    }
}

fn route<'r>(routes: &'r Table, event: &Event) -> &'r Route {
    routes.resolve(&event.delivery().endpoint().name, &event.facts().event_type)
}

pub(super) fn of_event(routes: &Table, event: Event) -> Result<Letter, Outcome> {
    match route(routes, &event) {
        Route::To(topic) => {
            Ok(Letter { message: Message::of_event(event, topic.clone()), unreadable: None, link: None })
        }
        Route::Drop => Err(Outcome::Dropped),
    }
}

pub(super) fn of_dead_letter(routes: &Table, letter: DeadLetter) -> Letter {
    let unreadable = Some(letter.reason());
    let topic = routes.dead_letter(&letter.delivery().endpoint().name).clone();
    Letter { message: Message::of_dead_letter(letter, topic), unreadable, link: None }
}

/// Reads `bytes` of them here where that is quick, and aside where others would wait for it; `None`
/// where that did not end in time.
pub(super) async fn aside<T: Send + 'static>(
    bytes: usize,
    deadline: Instant,
    read: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if bytes < READ_ASIDE_FROM {
        return Some(read());
    }
    tokio::time::timeout_at(deadline, tokio::task::spawn_blocking(read)).await.ok()?.ok()
}
