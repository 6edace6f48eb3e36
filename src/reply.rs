//! How a delivery ended, and what its sender gets: the one table from [`Outcome`] to status. A reply tells the sender
//! nothing new.

use http::header::{ALLOW, CONNECTION, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use strum::{IntoStaticStr, VariantNames};

use crate::bus::Refusal;
use crate::event::Unreadable;
use crate::fetch::FetchError;
use crate::identity::DeliveryId;
use crate::server::{Reply, json_text};
use crate::signature::Rejection;

/// When to retry, in seconds. Terra follows its own schedule; proxies and people read this.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");

/// How a delivery ended.
#[derive(Debug, Clone, PartialEq, Eq, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// The bus keeps it.
    Kept(DeliveryId),
    /// The same delivery was kept before, or just now by another attempt.
    Duplicate(DeliveryId),
    /// The spool keeps it until the bus does.
    Spooled(DeliveryId),
    /// The bus keeps it as a dead letter.
    DeadLettered(DeliveryId, Unreadable),
    /// The user's own route drops this type.
    Dropped,
    /// Not signed by Terra, or outside the time limits.
    Rejected(Rejection),
    UnknownPath,
    WrongMethod,
    /// The body arrived too slowly to leave time for the bus.
    TooSlow,
    TooLarge,
    /// Signed, but with a content coding: the signature, and so the event, covers the encoded bytes.
    Encoded,
    /// The client disconnected, or broke the framing, in the middle of the body.
    Broken,
    /// The memory budget is spent.
    Overloaded,
    /// The event behind the link could not be fetched, but a retry may still succeed.
    Unfetched(FetchError),
    /// The bus refused it.
    Refused(Refusal),
    /// The bus refused it, and so did the spool.
    Unspooled(Refusal),
    /// The bus did not answer in time. It may keep the message all the same: the retry has the same id.
    Unanswered,
}

impl Outcome {
    /// A label for metrics and replies.
    pub fn as_str(&self) -> &'static str {
        self.into()
    }

    /// Whether the event is durably stored, or unwanted.
    pub fn is_success(&self) -> bool {
        self.status(StatusCode::UNAUTHORIZED).is_success()
    }

    /// `rejected` is the endpoint's choice: 401, or 503 if its sender treats other 4xx as final.
    pub(crate) fn status(&self, rejected: StatusCode) -> StatusCode {
        let final_at_their_end = rejected == StatusCode::SERVICE_UNAVAILABLE;
        match self {
            Self::Kept(_) | Self::Duplicate(_) | Self::Spooled(_) => StatusCode::OK,
            Self::DeadLettered(..) | Self::Dropped => StatusCode::OK,
            Self::Rejected(_) => rejected,
            // Until somebody fixes it, for as long as the sender retries.
            Self::TooLarge | Self::Encoded | Self::Broken if final_at_their_end => StatusCode::SERVICE_UNAVAILABLE,
            Self::UnknownPath => StatusCode::NOT_FOUND,
            Self::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Encoded => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Broken => StatusCode::BAD_REQUEST,
            Self::Overloaded | Self::Unfetched(_) | Self::Unanswered => StatusCode::SERVICE_UNAVAILABLE,
            Self::Refused(_) | Self::Unspooled(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// What the operator of the sender can do about it.
    fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Kept(_) | Self::Duplicate(_) | Self::Spooled(_) | Self::DeadLettered(..) | Self::Dropped => None,
            Self::Rejected(_) => Some("no valid signature"),
            Self::UnknownPath => Some("no endpoint has this path"),
            Self::WrongMethod => Some("deliveries are POSTed"),
            Self::TooSlow => Some("the body came too slowly"),
            Self::TooLarge => Some("the body is larger than this endpoint takes"),
            Self::Encoded => Some("only the identity content coding is taken"),
            Self::Broken => Some("the body is incomplete"),
            Self::Overloaded | Self::Unfetched(_) => Some("not kept; try again later"),
            Self::Refused(_) | Self::Unspooled(_) | Self::Unanswered => Some("not kept; try again later"),
        }
    }

    /// Whether keep-alive is allowed: only if the body was read to its end and the sender holds a secret. Otherwise a
    /// forger could hold a connection with an occasional request. A duplicate closes the connection too, because it
    /// may be a replay of a captured request.
    fn keeps_alive(&self) -> bool {
        match self {
            Self::Kept(_) | Self::Spooled(_) | Self::DeadLettered(..) | Self::Dropped => true,
            Self::Encoded | Self::Unfetched(_) => true,
            Self::Refused(_) | Self::Unspooled(_) | Self::Unanswered => true,
            Self::Rejected(_) | Self::UnknownPath | Self::WrongMethod | Self::TooSlow | Self::TooLarge => false,
            Self::Broken | Self::Overloaded | Self::Duplicate(_) => false,
        }
    }
}

/// The reply to an outcome, at an endpoint that answers `rejected` to rejected deliveries.
pub fn reply(outcome: &Outcome, rejected: StatusCode) -> Reply {
    let status = outcome.status(rejected);
    let mut reply = json_text(status, body(outcome));
    let headers = reply.headers_mut();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    }
    if *outcome == Outcome::WrongMethod {
        headers.insert(ALLOW, HeaderValue::from_static("POST"));
    }
    if !outcome.keeps_alive() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    reply
}

/// JSON: no part has a character that needs an escape.
fn body(outcome: &Outcome) -> String {
    let name = outcome.as_str();
    match outcome {
        Outcome::Kept(id) | Outcome::Duplicate(id) | Outcome::Spooled(id) | Outcome::DeadLettered(id, _) => {
            [r#"{"id":""#, &id.to_string(), r#"","outcome":""#, name, r#""}"#].concat()
        }
        _ => match outcome.reason() {
            Some(reason) => [r#"{"outcome":""#, name, r#"","reason":""#, reason, r#""}"#].concat(),
            None => [r#"{"outcome":""#, name, r#""}"#].concat(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    #[test]
    fn a_body_is_json_with_the_outcome_and_what_its_reader_can_do() {
        let id = Identity::sample([0xab; 32], [0; 32]).id;
        let of = |outcome: Outcome| serde_json::from_str::<serde_json::Value>(&body(&outcome)).unwrap();
        assert_eq!(of(Outcome::Kept(id)), serde_json::json!({"id": "ab".repeat(32), "outcome": "kept"}));
        let late = serde_json::json!({"outcome": "unanswered", "reason": "not kept; try again later"});
        assert_eq!(of(Outcome::Unanswered), late);
        assert_eq!(of(Outcome::Dropped), serde_json::json!({"outcome": "dropped"}));
        for rejection in [Rejection::Missing, Rejection::Forged] {
            let rejected = serde_json::json!({"outcome": "rejected", "reason": "no valid signature"});
            assert_eq!(of(Outcome::Rejected(rejection)), rejected);
        }
    }
}
