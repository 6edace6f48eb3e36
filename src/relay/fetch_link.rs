//! Fetches the event behind a link. If that fails, the link itself is published with the reason, or the delivery is
//! refused if a retry by Terra may still succeed.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::pipeline::Pipeline;
use super::prepare::{LinkEvent, Prepared, run_blocking_if_large};
use super::report;
use crate::event::{Event, Link};
use crate::fetch::FetchError;
use crate::message::Message;
use crate::reply::Outcome;

/// How long a link must still be valid for a retry to fetch it: the first retry may come after five minutes.
const OPEN_FOR_A_RETRY: Duration = Duration::from_secs(6 * 60);

/// What to do with a link that could not be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Wait for Terra's retry to fetch it.
    Retry,
    /// Publish the link itself.
    PublishLink,
}

/// The best estimate: counted from when Terra emitted the event, at the latest from when it signed it.
fn open_until(event: &Event, link: &Link) -> Timestamp {
    event.delivery().emitted_at() + link.expires_in()
}

/// What a failure at `now` means for a link that is valid until `open_until`.
fn classify(error: FetchError, open_until: Timestamp, now: Timestamp) -> (FetchError, Then) {
    let error = match error {
        FetchError::Denied if open_until <= now => FetchError::Expired,
        error => error,
    };
    let retry = error.is_temporary() && now + OPEN_FOR_A_RETRY <= open_until;
    (error, if retry { Then::Retry } else { Then::PublishLink })
}

/// Fetches the event, reads and routes it, and leaves the bus its time before `deadline`. `Err`: how the delivery
/// ended with nothing to publish.
pub(super) async fn fetch_link(
    pipeline: &Arc<Pipeline>,
    link_event: LinkEvent,
    deadline: Instant,
) -> Result<Prepared, Outcome> {
    let fetched = fetch(pipeline, &link_event, deadline).await;
    let LinkEvent { event, link, topic, .. } = link_event;
    let fetched = fetched.map_err(|error| classify(error, open_until(&event, &link), Timestamp::now()));
    let endpoint = event.delivery().endpoint().clone();
    let result = fetched.as_ref().map_or_else(|(error, _)| error.as_str(), |_| "fetched");
    pipeline.of(&endpoint).metrics.fetched(result);
    let link_itself = |error: FetchError| Message::of_event(*event, topic).unfetched(error.as_str());
    match fetched {
        Ok(prepared) => Ok(Prepared { link: Some(Box::new(link_itself(FetchError::TooLarge))), ..prepared? }),
        Err((error, then)) => {
            report::link_not_fetched(&endpoint.name, error, then == Then::Retry);
            match then {
                Then::Retry => Err(Outcome::Unfetched(error)),
                Then::PublishLink => Ok(Prepared { message: link_itself(error), unreadable: None, link: None }),
            }
        }
    }
}

/// Fetches, reads and routes the event behind the link.
async fn fetch(
    pipeline: &Arc<Pipeline>,
    LinkEvent { event, link, .. }: &LinkEvent,
    deadline: Instant,
) -> Result<Result<Prepared, Outcome>, FetchError> {
    let fetcher = pipeline.fetcher.as_ref().expect("without one, no event is taken for a link");
    let payload = fetcher.fetch(link, pipeline.body_limits(deadline), &pipeline.budget).await?;
    let (pipeline, event, bytes) = (pipeline.clone(), event.clone(), payload.bytes().len());
    let read = move || match event.fetched(payload) {
        Ok(event) if event.link().is_some() => Err(FetchError::Nested),
        Ok(event) => Ok(Prepared::of_fetched(event, &pipeline.routes)),
        Err(dead_letter) => Ok(Ok(Prepared::of_dead_letter(dead_letter, &pipeline.routes))),
    };
    run_blocking_if_large(bytes, || deadline, read).await.ok_or(FetchError::TooSlow)?
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::signature::tests::delivery;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// The expiry of a link that is valid for ten minutes, signed at 1700000000.
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
            let then = |second| classify(FetchError::Unavailable, until, at(emitted + second)).1;
            assert_eq!((then(239), then(240), then(241)), (Then::Retry, Then::Retry, Then::PublishLink), "{stamp:?}");
        }
    }

    #[test]
    fn a_temporary_failure_is_left_to_a_retry_while_the_link_is_valid_for_six_more_minutes() {
        use FetchError::{
            Denied, Encoded, Expired, Malformed, Nested, NoConnection, NoRoom, NotAllowed, Redirected, TooLarge,
            TooSlow, Truncated, Unavailable, Untrusted,
        };
        let until = at(600);
        for reason in [NoConnection, NoRoom, TooSlow, Truncated, Unavailable, Untrusted] {
            for (now, then) in [
                (0, Then::Retry),
                (239, Then::Retry),
                (240, Then::Retry),
                (241, Then::PublishLink),
                (601, Then::PublishLink),
            ] {
                assert_eq!(classify(reason, until, at(now)), (reason, then), "{reason:?} after {now} s");
            }
        }
        for reason in [Encoded, Expired, Malformed, Nested, NotAllowed, Redirected, TooLarge] {
            for now in [0, 239, 240, 241, 601] {
                assert_eq!(classify(reason, until, at(now)), (reason, Then::PublishLink), "{reason:?} after {now} s");
            }
        }
        for (now, reason) in [(0, Denied), (599, Denied), (600, Expired), (601, Expired)] {
            assert_eq!(classify(Denied, until, at(now)), (reason, Then::PublishLink), "after {now} s");
        }
    }
}
