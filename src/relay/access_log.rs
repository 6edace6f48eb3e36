//! The access log: one line for each request to an endpoint's listener, or only for those that were not kept.

use std::fmt;
use std::time::Duration;

use http::HeaderValue;

use super::summary::Ended;
use crate::bus::Refusal;
use crate::config::Access;
use crate::reply::Outcome;
use crate::telemetry::{LOG_EVERY, Throttles};

/// Lines of one outcome at one endpoint within [`LOG_EVERY`], where anybody can cause that outcome.
const UNSIGNED_LINES: u32 = 10;

/// Bytes of Terra's trace id.
const MAX_TRACE_ID: usize = 128;

static THROTTLES: Throttles = Throttles::new(UNSIGNED_LINES);

/// Writes the line, if the setting wants it. `endpoint` is empty where the path has none.
pub(super) fn log(access: Access, endpoint: &str, ended: &Ended, took: Duration) {
    let Ended { outcome, summary } = ended;
    let wanted = match access {
        Access::Off => false,
        Access::Refused => !outcome.is_success(),
        Access::All => true,
    };
    if !wanted {
        return;
    }
    let left_out = match is_proven(outcome) {
        true => 0,
        false => match THROTTLES.pass(endpoint, outcome.as_str(), LOG_EVERY) {
            Some(left_out) => left_out,
            None => return,
        },
    };
    tracing::info!(
        endpoint = (!endpoint.is_empty()).then_some(endpoint),
        "type" = summary.event_type,
        outcome = outcome.as_str(),
        reason = reason(outcome),
        topic = summary.topic.as_deref(),
        id = summary.id.map(tracing::field::display),
        terra_trace_id = summary.terra_trace_id.as_ref().map(|id| tracing::field::display(Cleaned(id))),
        bytes = summary.bytes,
        milliseconds = took.as_millis() as u64,
        trace_id = summary.trace_id().map(tracing::field::display),
        left_out = (left_out > 0).then_some(left_out),
        "delivery"
    );
}

/// Whether only the holder of a secret can bring this outcome about, or somebody who replays what one signed.
fn is_proven(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Kept(_) | Outcome::Duplicate(_) | Outcome::Spooled(_) | Outcome::DeadLettered(..) => true,
        Outcome::Dropped | Outcome::Encoded | Outcome::Unfetched(_) => true,
        Outcome::Refused(_) | Outcome::Unspooled(_) | Outcome::Unanswered => true,
        Outcome::Rejected(_) | Outcome::UnknownPath | Outcome::WrongMethod => false,
        Outcome::TooSlow | Outcome::TooLarge | Outcome::Broken | Outcome::Overloaded => false,
    }
}

fn reason(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Rejected(rejection) => Some(rejection.as_str()),
        Outcome::DeadLettered(_, unreadable) => Some(unreadable.as_str()),
        Outcome::Unfetched(error) => Some(error.as_str()),
        Outcome::Refused(refusal) | Outcome::Unspooled(refusal) => Some(Refusal::as_str(refusal)),
        Outcome::Kept(_) | Outcome::Duplicate(_) | Outcome::Spooled(_) | Outcome::Dropped => None,
        Outcome::UnknownPath | Outcome::WrongMethod | Outcome::TooSlow | Outcome::TooLarge => None,
        Outcome::Encoded | Outcome::Broken | Outcome::Overloaded | Outcome::Unanswered => None,
    }
}

/// Visible ASCII, at most so long: whoever sends the header chooses its bytes.
struct Cleaned<'v>(&'v HeaderValue);

impl fmt::Display for Cleaned<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        let bytes = self.0.as_bytes().iter().take(MAX_TRACE_ID);
        bytes
            .map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' })
            .try_for_each(|c| f.write_char(c))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_id_is_visible_ascii_of_a_bounded_length() {
        let cleaned = |bytes: &[u8]| Cleaned(&HeaderValue::from_bytes(bytes).unwrap()).to_string();
        assert_eq!(cleaned(b"5e0c-1a:chunk:3"), "5e0c-1a:chunk:3");
        assert_eq!(cleaned(b"a b\xff\"\tc"), "a?b?\"?c");
        assert_eq!(cleaned(&[b'x'; 4000]).len(), MAX_TRACE_ID);
    }
}
