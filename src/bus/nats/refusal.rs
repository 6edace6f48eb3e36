//! What the server's and the client's errors mean for one message.

use std::borrow::Cow;

use async_nats::jetstream::{self, ErrorCode};

use super::acknowledgement::NoAnswer;
use super::fault::quoted;
use crate::bus::{Refusal, Scope};
use crate::telemetry::{LOG_EVERY, Throttle};

pub(super) const AWAY: Refusal = transient("NATS is not connected; the log says why within seconds");
pub(super) const NOT_SEEN: Refusal =
    transient("the NATS stream was not seen yet; if that lasts, the log says why within seconds");
pub(super) const NOT_ADDED: Refusal = transient("the NATS stream does not take this new topic yet");
pub(super) const BUSY: Refusal =
    transient("too many acknowledgements from NATS are outstanding; check how fast the servers' disks are");
pub(super) const UNSENT: Refusal = transient("NATS takes nothing, and no more may wait for it; check the servers");

pub(super) const NO_BUCKET: Refusal =
    transient("the object store was not seen on NATS yet; if that lasts, the log says why within seconds");
pub(super) const NOT_PUT: Refusal =
    transient("the object store did not take the payload; check its limits and the account's");
pub(super) const PUT_TOO_SLOW: Refusal =
    transient("the object store did not take the payload in time; check how fast the servers are");

const fn transient(reason: &'static str) -> Refusal {
    Refusal::Transient { reason: Cow::Borrowed(reason) }
}

const fn permanent(scope: Scope, reason: &'static str, remedy: &'static str) -> Refusal {
    Refusal::Permanent { scope, reason: Cow::Borrowed(reason), remedy: Cow::Borrowed(remedy) }
}

pub(super) fn too_large(most: usize) -> Refusal {
    let remedy = format!(
        "raise `max_payload` in the NATS server's configuration above `server.max_body` (it is {most}), or set \
         `nats.object_store`"
    );
    Refusal::TooLarge { remedy: remedy.into() }
}

pub(super) fn denied(scope: Scope) -> Refusal {
    permanent(
        scope,
        "NATS denies this user a permission",
        "grant it publish on the topics, on `$JS.API.>` and, with `nats.object_store`, on `$O.BUCKET.>`, and subscribe on \
         its inbox (`_INBOX.>` or `nats.inbox_prefix`)",
    )
}

pub(super) fn lacks_subject(stream: &str) -> Refusal {
    Refusal::Permanent {
        scope: Scope::Topic,
        reason: format!("the stream `{stream}` does not take this topic").into(),
        remedy: "add the topic to the stream's subjects; `terra-bridge check --online` lists them".into(),
    }
}

/// The refusal of a message without an answer, and whether the stream may be gone. `most`: the largest message in bytes.
pub(super) fn of_silence(silence: NoAnswer, most: usize) -> (Refusal, bool) {
    match silence {
        NoAnswer::NoStream => (transient("no stream of NATS answered for this topic"), true),
        NoAnswer::TimedOut => (transient("NATS did not acknowledge in time"), false),
        NoAnswer::Closed => (transient("the connection to NATS broke"), false),
        NoAnswer::TooLarge => (too_large(most), false),
    }
}

/// The refusal of a message whose answer says nothing, and that the stream may be gone.
pub(super) fn unreadable() -> (Refusal, bool) {
    (transient("NATS refused the message"), true)
}

/// The refusal of a message that another stream acknowledged.
pub(super) fn elsewhere() -> Refusal {
    permanent(
        Scope::Topic,
        "another stream than `nats.stream`, or another domain than `nats.domain`, takes this topic",
        "name that one, or take the topic out of its subjects",
    )
}

/// The refusal of a message that the server calls a duplicate of one it has not stored yet.
pub(super) fn unconfirmed() -> Refusal {
    static UNCONFIRMED: Throttle = Throttle::new(LOG_EVERY);
    if let Some(more) = UNCONFIRMED.pass() {
        tracing::warn!(
            more,
            remedy =
                "none, the retry settles it; if it goes on, look for a stream without a leader (nats stream report)",
            "NATS calls a message the duplicate of one that it has not stored yet; it does not count as kept"
        );
    }
    Refusal::Unconfirmed { reason: "NATS has not stored an earlier copy of the message yet".into() }
}

/// The refusal that the stream answers with, and whether the stream may be gone.
pub(super) fn of_answer(error: &jetstream::Error) -> (Refusal, bool) {
    match error.error_code() {
        ErrorCode::STREAM_NOT_FOUND => (transient("the stream is not there"), true),
        ErrorCode::STREAM_NOT_MATCH => (elsewhere(), true),
        ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT => (unconfirmed(), false),
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => {
            let remedy = "raise the stream's `max_msg_size` above `server.max_body`, or set `nats.object_store`";
            (Refusal::TooLarge { remedy: remedy.into() }, false)
        }
        ErrorCode::STREAM_SEALED => {
            (permanent(Scope::Bus, "the stream is sealed", "name another stream in `nats.stream`"), true)
        }
        ErrorCode::MESSAGE_INCR_MISSING => {
            (permanent(Scope::Bus, "the stream takes only counters", "name another stream in `nats.stream`"), true)
        }
        ErrorCode::STREAM_STORE_FAILED => (not_stored(error), false),
        ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED => {
            (full(error, "raise JetStream's limits of the account or of the servers, or give them larger disks"), false)
        }
        _ => (Refusal::Transient { reason: format!("NATS refused the message: {}", quoted(error)).into() }, true),
    }
}

/// A full stream frees space as messages expire. The server uses one code for every such case and distinguishes them
/// only by text.
fn not_stored(error: &jetstream::Error) -> Refusal {
    let text = error.to_string();
    if text.contains("maximum messages per subject exceeded") {
        return permanent(
            Scope::Topic,
            "the stream has as many events of this topic as it takes (`max_msgs_per_subject`)",
            "raise the stream's `max_msgs_per_subject`, or shorten its `max_age`",
        );
    }
    if text.contains("message too large") {
        return Refusal::TooLarge {
            remedy: "set `nats.object_store`: the servers' storage takes no such message".into(),
        };
    }
    if text.contains("maximum messages exceeded") {
        return full(error, "raise its `max_msgs`, or shorten its `max_age`");
    }
    full(
        error,
        "raise its `max_bytes` or the account's limits, shorten its `max_age`, or give the server a larger disk",
    )
}

fn full(error: &jetstream::Error, remedy: &'static str) -> Refusal {
    let reason = format!("the stream is full: {}", quoted(error));
    Refusal::Permanent { scope: Scope::Bus, reason: reason.into(), remedy: remedy.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_without_an_answer_may_succeed_later_unless_it_is_too_large() {
        for silence in [NoAnswer::NoStream, NoAnswer::TimedOut, NoAnswer::Closed] {
            let (refusal, recheck) = of_silence(silence, 1024);
            assert!(matches!(refusal, Refusal::Transient { .. }), "{refusal}");
            assert_eq!(recheck, silence == NoAnswer::NoStream, "{silence:?}");
        }
        assert!(matches!(of_silence(NoAnswer::TooLarge, 1024).0, Refusal::TooLarge { .. }));
        assert!(matches!(unreadable(), (Refusal::Transient { .. }, true)));
    }

    fn answer(code: ErrorCode, description: &str) -> (Refusal, bool) {
        let error = serde_json::json!({"code": 503, "err_code": code, "description": description});
        of_answer(&serde_json::from_value(error).expect("an error of JetStream's"))
    }

    #[test]
    fn full_streams_are_distinguished_by_the_servers_text() {
        let (full, recheck) = answer(ErrorCode::STREAM_STORE_FAILED, "maximum bytes exceeded");
        assert!(!recheck && !full.is_message_specific());
        assert!(
            full.to_string().contains("maximum bytes exceeded") && full.to_string().contains("`max_bytes`"),
            "{full}"
        );
        let full = answer(ErrorCode::STREAM_STORE_FAILED, "maximum messages exceeded").0;
        assert!(full.to_string().contains("`max_msgs`") && !full.is_message_specific(), "{full}");
        let topic = answer(ErrorCode::STREAM_STORE_FAILED, "maximum messages per subject exceeded").0;
        assert!(topic.to_string().contains("`max_msgs_per_subject`") && topic.is_message_specific(), "{topic}");
        let large = answer(ErrorCode::STREAM_STORE_FAILED, "message too large").0;
        assert!(matches!(large, Refusal::TooLarge { .. }));
        let account = answer(ErrorCode::ACCOUNT_RESOURCES_EXCEEDED, "resource limits exceeded for account").0;
        assert!(account.to_string().contains("resource limits exceeded for account"), "{account}");
        assert!(answer(ErrorCode::STREAM_NOT_MATCH, "").0.is_message_specific());
        assert!(matches!(answer(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM, "").0, Refusal::TooLarge { .. }));
    }

    #[test]
    fn a_sealed_stream_needs_an_operator() {
        let (sealed, recheck) = answer(ErrorCode::STREAM_SEALED, "invalid operation on sealed stream");
        assert!(matches!(&sealed, Refusal::Permanent { remedy, .. } if remedy.contains("another stream")), "{sealed}");
        assert!(recheck && !sealed.is_message_specific());
    }

    #[test]
    fn an_unknown_server_text_is_quoted_without_control_bytes() {
        let unknown = answer(ErrorCode(19_999), "the moon\u{1b}[31m is\u{9b} wrong\n").0.to_string();
        assert!(unknown.contains("the moon [31m is  wrong"), "{unknown}");
    }
}
