//! What becomes of an event that lies elsewhere. Comes in: an [`Event`] that is a link. Goes out: what it
//! leads to, ready for the bus; or the link itself with the reason why not; or a refusal, where a retry
//! of Terra's still finds the link open.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::Line;
use super::read::{Letter, aside, of_dead_letter, of_event};
use super::report::unfollowed;
use crate::event::{Event, Link};
use crate::fetch::{Bounds, Fetcher, Unfetched};
use crate::message::origin;
use crate::reply::Outcome;

/// What a link has to stay open so that a retry may still follow it: the first may come after five minutes.
const OPEN_FOR_A_RETRY: Duration = Duration::from_secs(6 * 60);

/// Follows the link, and leaves the bus its time before `deadline`. `Err`: how it ended with nothing to
/// publish.
pub(super) async fn follow(line: &Arc<Line>, event: Event, link: Link, deadline: Instant) -> Result<Letter, Outcome> {
    let open_until = origin(&event).1 + link.expires_in();
    let fetched = match &line.fetcher {
        Some(fetcher) => content(line, fetcher, &event, &link, deadline).await,
        None => return of_event(&line.routes, event),
    };
    let fetched = fetched.map_err(|reason| match reason {
        Unfetched::Denied if open_until <= Timestamp::now() => Unfetched::Expired,
        reason => reason,
    });
    let result = fetched.as_ref().map_or_else(|unfetched| unfetched.as_str(), |_| "fetched");
    line.metrics.fetched(&event.delivery().endpoint().name, result);
    let itself = |reason: Unfetched| {
        let mut letter = of_event(&line.routes, event)?;
        letter.message = letter.message.unfetched(reason.as_str());
        Ok(letter)
    };
    match fetched {
        Ok(Ok(letter)) => {
            Ok(Letter { link: itself(Unfetched::TooLarge).ok().map(|link| Box::new(link.message)), ..letter })
        }
        Ok(Err(outcome)) => Err(outcome),
        Err(reason) => {
            let again = reason.is_temporary() && Timestamp::now() + OPEN_FOR_A_RETRY <= open_until;
            unfollowed(reason, again);
            if again { Err(Outcome::Unfetched(reason)) } else { itself(reason) }
        }
    }
}

/// What the link leads to, read and routed.
async fn content(
    line: &Arc<Line>,
    fetcher: &Fetcher,
    event: &Event,
    link: &Link,
    deadline: Instant,
) -> Result<Result<Letter, Outcome>, Unfetched> {
    let bounds = Bounds {
        max: line.limits.max_body,
        min_rate: line.limits.min_body_rate,
        deadline: line.body_deadline(deadline),
    };
    let payload = fetcher.fetch(link, bounds, &line.budget).await?;
    let (reading, link, bytes) = (line.clone(), event.clone(), payload.bytes().len());
    let read = move || match link.follow(payload) {
        Ok(event) if event.link().is_some() => Err(Unfetched::Nested),
        Ok(event) => Ok(of_event(&reading.routes, event)),
        Err(letter) => Ok(Ok(of_dead_letter(&reading.routes, letter))),
    };
    aside(bytes, deadline, read).await.ok_or(Unfetched::TooSlow)?
}
