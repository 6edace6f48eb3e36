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
use crate::reply::Outcome;

/// What a link has to stay open so that a retry may still follow it: the first may come after five minutes.
const OPEN_FOR_A_RETRY: Duration = Duration::from_secs(6 * 60);

/// What becomes of a link that led to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Terra's retry may follow it.
    Again,
    /// The link itself goes to the bus.
    Itself,
}

/// As far as anybody knows: from when Terra emitted the event, at the latest from when it signed it.
fn open_until(event: &Event, link: &Link) -> Timestamp {
    event.delivery().emitted_at() + link.expires_in()
}

/// What a failure `now` means for a link that is open until then.
fn judged(reason: Unfetched, open_until: Timestamp, now: Timestamp) -> (Unfetched, Then) {
    let reason = match reason {
        Unfetched::Denied if open_until <= now => Unfetched::Expired,
        reason => reason,
    };
    let again = reason.is_temporary() && now + OPEN_FOR_A_RETRY <= open_until;
    (reason, if again { Then::Again } else { Then::Itself })
}

/// Follows the link, and leaves the bus its time before `deadline`. `Err`: how it ended with nothing to
/// publish.
pub(super) async fn follow(line: &Arc<Line>, event: Event, link: Link, deadline: Instant) -> Result<Letter, Outcome> {
    let open_until = open_until(&event, &link);
    let fetched = match &line.fetcher {
        Some(fetcher) => content(line, fetcher, &event, &link, deadline).await,
        None => return of_event(&line.routes, event),
    };
    let fetched = fetched.map_err(|reason| judged(reason, open_until, Timestamp::now()));
    let result = fetched.as_ref().map_or_else(|(reason, _)| reason.as_str(), |_| "fetched");
    let endpoint = event.delivery().endpoint().clone();
    line.metrics.fetched(&endpoint.name, result);
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
        Err((reason, then)) => {
            unfollowed(&endpoint.name, reason, then == Then::Again);
            match then {
                Then::Again => Err(Outcome::Unfetched(reason)),
                Then::Itself => itself(reason),
            }
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

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::signature::tests::delivery;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Of a link that is good for ten minutes, signed at 1700000000.
    fn good_until(ordering_timestamp: Option<&'static str>) -> Timestamp {
        let stamp = ordering_timestamp.map(HeaderValue::from_static);
        let headers: HeaderMap =
            stamp.map(|stamp| ("x-terra-ordering-timestamp".parse().unwrap(), stamp)).into_iter().collect();
        let body = br#"{"type":"s3_payload","url":"https://a","expires_in":600}"#;
        let Ok(event) = Event::read(delivery(body, headers)) else { panic!("readable") };
        open_until(&event, &event.link().expect("a link"))
    }

    #[test]
    fn a_link_is_open_from_its_ordering_timestamp_or_else_from_its_signature() {
        for (stamp, emitted) in [
            (Some("1699999900000"), 1_699_999_900),
            (Some("1700000100000"), 1_700_000_100),
            (Some("1700000100"), 1_700_000_000),
            (Some("1700000301000"), 1_700_000_000),
            (Some("4102444799999"), 1_700_000_000),
            (Some("soon"), 1_700_000_000),
            (None, 1_700_000_000),
        ] {
            let until = good_until(stamp);
            assert_eq!(until, at(emitted + 600), "{stamp:?}");
            let then = |second| judged(Unfetched::Unavailable, until, at(emitted + second)).1;
            assert_eq!((then(239), then(240), then(241)), (Then::Again, Then::Again, Then::Itself), "{stamp:?}");
        }
    }

    #[test]
    fn a_retry_is_left_what_fails_for_the_moment_while_the_link_stays_open_for_six_minutes() {
        use Unfetched::{
            Denied, Encoded, Expired, Malformed, Nested, NoConnection, NoRoom, NotAllowed, Redirected, TooLarge,
            TooSlow, Truncated, Unavailable, Untrusted,
        };
        let until = at(600);
        for reason in [NoConnection, NoRoom, TooSlow, Truncated, Unavailable, Untrusted] {
            for (now, then) in
                [(0, Then::Again), (239, Then::Again), (240, Then::Again), (241, Then::Itself), (601, Then::Itself)]
            {
                assert_eq!(judged(reason, until, at(now)), (reason, then), "{reason:?} after {now} s");
            }
        }
        for reason in [Encoded, Expired, Malformed, Nested, NotAllowed, Redirected, TooLarge] {
            for now in [0, 239, 240, 241, 601] {
                assert_eq!(judged(reason, until, at(now)), (reason, Then::Itself), "{reason:?} after {now} s");
            }
        }
        for (now, reason) in [(0, Denied), (599, Denied), (600, Expired), (601, Expired)] {
            assert_eq!(judged(Denied, until, at(now)), (reason, Then::Itself), "after {now} s");
        }
    }
}
