//! Counts and logs how deliveries ended: at most one line per kind and endpoint in ten seconds. Logs nothing of a
//! delivery's content.

use std::time::Duration;

use super::access_log;
use super::pipeline::Pipeline;
use super::spans;
use super::summary::Ended;
use crate::bus::Refusal;
use crate::event::Unreadable;
use crate::fetch::FetchError;
use crate::metrics::EndpointMetrics;
use crate::reply::Outcome;
use crate::signature::Rejection;
use crate::telemetry::{LOG_EVERY, Throttles};

/// The interval between two lines about something that any internet scanner causes.
const SCANNER_EVERY: Duration = Duration::from_secs(3600);

static THROTTLES: Throttles = Throttles::new(1);

/// One log line.
struct Line {
    is_error: bool,
    every: Duration,
    message: &'static str,
    reason: Option<String>,
    remedy: Option<&'static str>,
}

impl Line {
    fn warn(message: &'static str) -> Self {
        Self { is_error: false, every: LOG_EVERY, message, reason: None, remedy: None }
    }

    /// An event is lost, or only an operator can fix it.
    fn error(message: &'static str) -> Self {
        Self { is_error: true, ..Self::warn(message) }
    }

    fn reason(self, reason: impl ToString) -> Self {
        Self { reason: Some(reason.to_string()), ..self }
    }

    fn remedy(self, remedy: &'static str) -> Self {
        Self { remedy: Some(remedy), ..self }
    }

    /// Logs the line, unless the endpoint had one of the same kind a moment ago.
    fn log(self, endpoint: Option<&str>) {
        let Self { is_error, every, message, reason, remedy } = self;
        match THROTTLES.pass(endpoint.unwrap_or_default(), message, every) {
            Some(more) if is_error => tracing::error!(endpoint, more, reason, remedy, "{message}"),
            Some(more) => tracing::warn!(endpoint, more, reason, remedy, "{message}"),
            None => {}
        }
    }
}

/// Counts an outcome, and logs it if an operator should know.
pub(super) fn report(pipeline: &Pipeline, metrics: &EndpointMetrics, endpoint: &str, ended: &Ended, took: Duration) {
    let outcome = &ended.outcome;
    metrics.ended(outcome.as_str(), took);
    match outcome {
        Outcome::Kept(_) | Outcome::Spooled(_) | Outcome::DeadLettered(..) => metrics.kept(),
        Outcome::Rejected(reason) => metrics.rejected(reason.as_str()),
        _ => {}
    }
    access_log::log(pipeline.access, endpoint, ended, took);
    spans::server(pipeline, endpoint, ended, took);
    if let Some(line) = line(outcome) {
        line.log(Some(endpoint));
    }
}

fn line(outcome: &Outcome) -> Option<Line> {
    Some(match outcome {
        Outcome::Kept(_) | Outcome::Duplicate(_) | Outcome::Spooled(_) | Outcome::Dropped => return None,
        // Already logged at its source.
        Outcome::UnknownPath | Outcome::WrongMethod | Outcome::Unfetched(_) => return None,
        Outcome::Refused(Refusal::Unconfirmed { .. }) => return None,
        Outcome::TooSlow => Line::warn("answered 408: the body came too slowly to leave time for the bus")
            .remedy("check the network between sender and bridge, or lower `server.min_body_rate`"),
        Outcome::Broken => Line::warn("the client left, or broke the framing, in the middle of a body")
            .remedy("check the timeouts and body limits of the proxies in front of the bridge"),
        Outcome::DeadLettered(_, reason) => Line::warn(dead_letter(*reason)).reason(reason.as_str()),
        Outcome::Rejected(reason) => return rejected(*reason),
        Outcome::TooLarge => Line::error("refused a body with a signature: larger than server.max_body")
            .remedy("if it was Terra's, raise `server.max_body`: some senders do not retry after a 413"),
        Outcome::Encoded => Line::error("refused a signed body with a content-encoding")
            .remedy("let no proxy between Terra and the bridge compress requests"),
        Outcome::Refused(refusal @ Refusal::Transient { .. }) => {
            Line::warn("not kept, answered 503: Terra will retry").reason(refusal)
        }
        Outcome::Refused(refusal @ (Refusal::Permanent { .. } | Refusal::TooLarge { .. })) => {
            Line::error("not kept, answered 503: no retry helps until this is fixed").reason(refusal)
        }
        Outcome::Unspooled(refusal) => Line::error("not kept, answered 503: neither the bus nor the spool took it")
            .reason(refusal)
            .remedy("fix the bus, so that the spool drains, or give the spool more space"),
        Outcome::Unanswered => Line::warn("not kept, answered 503: the bus did not confirm in time; Terra will retry"),
        Outcome::Overloaded => {
            Line::warn("not read, answered 503: bodies in flight take all of server.bytes_in_flight")
                .remedy("raise `server.bytes_in_flight`, or run more bridges")
        }
    })
}

fn dead_letter(reason: Unreadable) -> &'static str {
    match reason {
        Unreadable::NotUtf8 => "stored as a dead letter: the body is not UTF-8",
        Unreadable::NotJson => "stored as a dead letter: the body is not valid JSON",
        Unreadable::NotAnObject => "stored as a dead letter: the body is not a JSON object",
        Unreadable::NoType => "stored as a dead letter: the body names no event type",
    }
}

/// `None` for forged ones: `signature_log` tells them from a wrong secret.
fn rejected(reason: Rejection) -> Option<Line> {
    const UNTIMELY: &str = "rejected a delivery that Terra signed: its time is outside max_age and max_skew";
    let line = match reason {
        Rejection::Forged => return None,
        Rejection::TooNew => Line::warn(UNTIMELY)
            .remedy("this machine's clock is probably slow: check it, then the endpoint's `max_skew`"),
        Rejection::TooOld => Line::warn(UNTIMELY).remedy(
            "this machine's clock is probably fast, or a retry came later than the endpoint's `max_age`: check both",
        ),
        Rejection::Missing | Rejection::Malformed => Line {
            every: SCANNER_EVERY,
            ..Line::warn("rejected a request without a readable signature")
                .remedy("if Terra sent it, check which proxy removes `terra-signature`; a scanner looks the same")
        },
        Rejection::Address => {
            return Some(
                Line::warn("rejected a delivery for its sender's address; its signature was not checked").remedy(
                    "if Terra sent it, add its address to `server.allow`, and your proxies to `server.trusted_proxies`",
                ),
            );
        }
    };
    Some(line.reason(reason.as_str()))
}

/// Counts a request to an unknown path, and logs it louder if it is signed.
pub(super) fn unknown_path(pipeline: &Pipeline, ended: &Ended, is_signed: bool, took: Duration) {
    pipeline.metrics.unknown_path();
    access_log::log(pipeline.access, "", ended, took);
    if is_signed {
        Line::warn("answered 404 to what looks like a delivery, on a path that no endpoint has")
            .remedy("compare the URL in the sender's settings with the paths of `endpoints`")
            .log(None);
    }
}

/// Logs a signed request with another method than POST.
pub(super) fn wrong_method(endpoint: &str, is_signed: bool) {
    if is_signed {
        Line::warn("answered 405 to what looks like a delivery, by another method than POST")
            .remedy("give the sender the final URL: a redirect in front of the bridge turns a POST into a GET")
            .log(Some(endpoint));
    }
}

/// Counts and logs an ordering timestamp that cannot be Terra's.
pub(super) fn ordering_timestamp_ignored(metrics: &EndpointMetrics, endpoint: &str) {
    metrics.ordering_timestamp_ignored();
    Line::warn("ignored an ordering timestamp: no Unix milliseconds up to the signature's time")
        .remedy(
            "check who sends it: Terra's has 13 digits, and no header is signed, so that whoever can read Terra's \
             requests can send another",
        )
        .log(Some(endpoint));
}

/// Logs that a link from Terra could not be fetched. `retry`: Terra's retry will fetch it.
pub(super) fn link_not_fetched(endpoint: &str, error: FetchError, retry: bool) {
    let message = if retry {
        "could not fetch what an event links to, answered 503: Terra will retry"
    } else {
        "could not fetch what an event links to: the link goes to its own topic, and expires within minutes"
    };
    Line::warn(message).reason(error.as_str()).remedy(error.remedy()).log(Some(endpoint));
}
