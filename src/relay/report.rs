//! What is counted and said of an outcome. Comes in: how a delivery ended. Goes out: metrics, and at
//! most one line of a kind in ten seconds. Says nothing of what was in the delivery.

use std::time::Duration;

use crate::bus::Refusal;
use crate::fetch::Unfetched;
use crate::metrics::Metrics;
use crate::reply::Outcome;
use crate::signature::Rejection;
use crate::telemetry::Throttle;

/// Lines of one kind in the log, at most one in this time.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The same for what any scanner on the internet brings about.
const LOG_SELDOM: Duration = Duration::from_secs(3600);

/// Counts an outcome, and says aloud what somebody should hear of.
pub(super) fn report(metrics: &Metrics, endpoint: &str, outcome: &Outcome, took: Duration) {
    static OVERSIZED: Throttle = Throttle::new(LOG_EVERY);
    static ENCODED: Throttle = Throttle::new(LOG_EVERY);
    static UNTIMELY: Throttle = Throttle::new(LOG_EVERY);
    static UNSIGNED: Throttle = Throttle::new(LOG_SELDOM);
    static ELSEWHERE: Throttle = Throttle::new(LOG_EVERY);
    // One for each, or what a retry mends would keep silent what only a person can.
    static REFUSED: Throttle = Throttle::new(LOG_EVERY);
    static REFUSED_FOR_GOOD: Throttle = Throttle::new(LOG_EVERY);
    static UNSPOOLED: Throttle = Throttle::new(LOG_EVERY);
    static UNANSWERED: Throttle = Throttle::new(LOG_EVERY);
    static OVERLOADED: Throttle = Throttle::new(LOG_EVERY);
    static UNREADABLE: Throttle = Throttle::new(LOG_EVERY);
    static SLOW: Throttle = Throttle::new(LOG_EVERY);
    static BROKEN: Throttle = Throttle::new(LOG_EVERY);
    metrics.ended(endpoint, outcome.as_str(), took);
    tracing::debug!(endpoint, outcome = outcome.as_str(), milliseconds = took.as_millis() as u64, "delivery ended");
    match outcome {
        Outcome::Kept(_) | Outcome::Duplicate(_) | Outcome::Spooled(_) | Outcome::Dropped => {}
        // Was said where it happened.
        Outcome::UnknownPath | Outcome::WrongMethod | Outcome::Unfetched(_) => {}
        Outcome::Refused(Refusal::Unconfirmed { .. }) => {}
        Outcome::TooSlow => {
            if let Some(more) = SLOW.pass() {
                let remedy = "see to the network between sender and bridge, or lower `server.min_body_rate`";
                tracing::warn!(
                    endpoint,
                    more,
                    remedy,
                    "answered 408: the body came too slowly to leave time for the bus"
                );
            }
        }
        Outcome::Broken => {
            if let Some(more) = BROKEN.pass() {
                let remedy = "compare the timeouts and body limits of what stands in front of the bridge";
                tracing::warn!(
                    endpoint,
                    more,
                    remedy,
                    "the client left, or broke the framing, in the middle of a body"
                );
            }
        }
        Outcome::DeadLettered(_, reason) => {
            if let Some(more) = UNREADABLE.pass() {
                let reason = reason.as_str();
                tracing::warn!(endpoint, reason, more, "kept as a dead letter: Terra signed what nobody can read");
            }
        }
        Outcome::Rejected(reason) => {
            metrics.rejected(endpoint, reason.as_str());
            let untimely = matches!(reason, Rejection::TooOld | Rejection::TooNew);
            if let Some(more) = untimely.then(|| UNTIMELY.pass()).flatten() {
                let remedy = match reason {
                    Rejection::TooNew => {
                        "this machine's clock is probably slow: compare it, and then `max_skew` of the endpoint"
                    }
                    _ => {
                        "this machine's clock is probably fast, or a retry came later than `max_age` of the endpoint allows: compare both"
                    }
                };
                let reason = reason.as_str();
                tracing::warn!(endpoint, reason, more, remedy, "rejected what Terra signed, for its time alone");
            }
            let unsigned = matches!(reason, Rejection::Missing | Rejection::Malformed);
            if let Some(more) = unsigned.then(|| UNSIGNED.pass()).flatten() {
                let remedy = "if Terra sent it, see what in front of the bridge takes `terra-signature` away; a scanner looks the same";
                let reason = reason.as_str();
                tracing::warn!(
                    endpoint,
                    reason,
                    more,
                    remedy,
                    "rejected a request without a signature that can be read"
                );
            }
            let elsewhere = *reason == Rejection::Address;
            if let Some(more) = elsewhere.then(|| ELSEWHERE.pass()).flatten() {
                let remedy = "if Terra sent it, add its address to `server.allow`, and the proxies in front of the bridge to `server.trusted_proxies`";
                tracing::warn!(
                    endpoint,
                    more,
                    remedy,
                    "rejected a delivery for its sender's address; nobody looked at its signature"
                );
            }
        }
        Outcome::TooLarge => {
            if let Some(more) = OVERSIZED.pass() {
                let remedy = "if it was Terra's, raise `server.max_body`: some senders do not try again after a 413";
                tracing::error!(endpoint, more, remedy, "refused a body with a signature: larger than server.max_body");
            }
        }
        Outcome::Encoded => {
            if let Some(more) = ENCODED.pass() {
                let remedy = "let nothing between Terra and the bridge compress requests";
                tracing::error!(endpoint, more, remedy, "refused a signed body with a content-encoding");
            }
        }
        Outcome::Refused(refusal @ Refusal::Transient { .. }) => {
            if let Some(more) = REFUSED.pass() {
                tracing::warn!(endpoint, more, reason = %refusal, "not kept, answered 503: Terra will try again");
            }
        }
        Outcome::Refused(refusal @ (Refusal::Permanent { .. } | Refusal::TooLarge { .. })) => {
            if let Some(more) = REFUSED_FOR_GOOD.pass() {
                tracing::error!(endpoint, more, reason = %refusal, "not kept, answered 503: no retry helps until this is mended");
            }
        }
        Outcome::Unspooled(refusal) => {
            if let Some(more) = UNSPOOLED.pass() {
                let remedy = "see to the bus, so that the spool empties, or give the spool more room";
                tracing::error!(endpoint, more, remedy, reason = %refusal, "neither the bus nor the spool took it, answered 503");
            }
        }
        Outcome::Unanswered => {
            if let Some(more) = UNANSWERED.pass() {
                tracing::warn!(endpoint, more, "the bus did not confirm in time, answered 503: Terra will try again");
            }
        }
        Outcome::Overloaded => {
            if let Some(more) = OVERLOADED.pass() {
                let remedy = "raise `server.bytes_in_flight`, or run more bridges";
                tracing::warn!(endpoint, more, remedy, "no room for another body, answered 503");
            }
        }
    }
}

/// Counts what no endpoint has a path for, and says so where it `looks_signed`.
pub(super) fn astray(metrics: &Metrics, looks_signed: bool) {
    static ASTRAY: Throttle = Throttle::new(LOG_EVERY);
    metrics.astray();
    if let Some(more) = looks_signed.then(|| ASTRAY.pass()).flatten() {
        let remedy = "compare the URL in the sender's settings with the paths of `endpoints`";
        tracing::warn!(more, remedy, "answered 404 to what looks like a delivery, on a path that no endpoint has");
    }
}

/// Says that a request came by another method than POST, where it `looks_signed`.
pub(super) fn wrong_method(endpoint: &str, looks_signed: bool) {
    static METHOD: Throttle = Throttle::new(LOG_EVERY);
    if let Some(more) = looks_signed.then(|| METHOD.pass()).flatten() {
        let remedy = "have the sender use the final URL: a redirect in front of the bridge makes a GET of a POST";
        tracing::warn!(
            endpoint,
            more,
            remedy,
            "answered 405 to what looks like a delivery, by another method than POST"
        );
    }
}

/// Counts and says that a delivery's ordering timestamp cannot be Terra's.
pub(super) fn disbelieved(metrics: &Metrics, endpoint: &str) {
    static DISBELIEVED: Throttle = Throttle::new(LOG_EVERY);
    metrics.ordering_timestamp_ignored(endpoint);
    if let Some(more) = DISBELIEVED.pass() {
        let remedy =
            "somebody may be sending a captured delivery again: no header is signed; see who can read Terra's requests";
        tracing::warn!(
            endpoint,
            more,
            remedy,
            "ignored an ordering timestamp: no Unix milliseconds up to the signature's time"
        );
    }
}

/// Says that a link of Terra's led to nothing. `again`: Terra's retry will follow it.
pub(super) fn unfollowed(endpoint: &str, reason: Unfetched, again: bool) {
    static PUT_OFF: Throttle = Throttle::new(LOG_EVERY);
    static UNFOLLOWED: Throttle = Throttle::new(LOG_EVERY);
    let Some(more) = (if again { &PUT_OFF } else { &UNFOLLOWED }).pass() else { return };
    let (reason, remedy) = (reason.as_str(), reason.remedy());
    match again {
        true => tracing::warn!(
            endpoint,
            reason,
            more,
            remedy,
            "could not fetch what an event links to, answered 503: Terra will try again"
        ),
        false => tracing::warn!(
            endpoint,
            reason,
            more,
            remedy,
            "could not fetch what an event links to: the link goes to its own topic, and expires within minutes"
        ),
    }
}
