//! What the server's and the client's errors mean for a message. No text of theirs goes further: it
//! may name servers and users.

use std::borrow::Cow;
use std::error::Error as _;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};

use crate::bus::Refusal;

pub(super) const AWAY: Refusal = transient("NATS is not connected");
pub(super) const NOT_SEEN: Refusal = transient("the stream was not seen on NATS yet");
pub(super) const NOT_ADDED: Refusal = transient("the stream was not seen to take this new topic yet");
pub(super) const BUSY: Refusal = transient("too many acknowledgements are awaited from NATS");
pub(super) const UNSENT: Refusal = transient("NATS takes nothing, and there is no room for more that waits for it");

pub(super) const NO_BUCKET: Refusal = transient("the object store was not seen on NATS yet");
pub(super) const NOT_PUT: Refusal = transient("the object store did not take the payload");

const fn transient(reason: &'static str) -> Refusal {
    Refusal::Transient { reason: Cow::Borrowed(reason) }
}

const fn permanent(reason: &'static str, remedy: &'static str) -> Refusal {
    Refusal::Permanent { reason: Cow::Borrowed(reason), remedy: Cow::Borrowed(remedy) }
}

pub(super) fn too_large(most: usize) -> Refusal {
    let remedy = format!(
        "raise `max_payload` in the NATS server's configuration above `server.max_body` (it is {most}), or set \
         `nats.object_store`"
    );
    Refusal::TooLarge { remedy: remedy.into() }
}

pub(super) fn denied() -> Refusal {
    permanent(
        "NATS denies this user a permission",
        "grant it publish on the topics and on `$JS.API.>`, and subscribe on its inbox (`_INBOX.>` or `nats.inbox_prefix`)",
    )
}

pub(super) fn login() -> Refusal {
    permanent(
        "NATS refuses the login",
        "see `nats.credentials`, `nats.nkey`, `nats.user`, `nats.password`, `nats.token`",
    )
}

pub(super) fn lacks_subject(stream: &str) -> Refusal {
    Refusal::Permanent {
        reason: format!("the stream `{stream}` does not take this topic").into(),
        remedy: "add the topic to the stream's subjects; `terra-bridge check --online` lists them".into(),
    }
}

pub(super) fn forgetful_bucket(bucket: &str) -> Refusal {
    Refusal::Permanent {
        reason: format!("the object store `{bucket}` would forget the payload before the stream its message").into(),
        remedy: format!("give the stream `OBJ_{bucket}` at least the max_age of `nats.stream`").into(),
    }
}

pub(super) fn unfit(stream: &str) -> Refusal {
    Refusal::Permanent {
        reason: format!("the stream `{stream}` acknowledges what it does not keep").into(),
        remedy: "see `terra-bridge check --online`; name a stream with file storage and retention `limits`".into(),
    }
}

/// The refusal, and whether the stream may be gone. `most`: the server's `max_payload`, in bytes.
pub(super) fn of_publish(error: &PublishError, most: usize) -> (Refusal, bool) {
    let known = |refusal| (refusal, false);
    match error.kind() {
        PublishErrorKind::StreamNotFound => (transient("no stream of NATS answered for this topic"), true),
        PublishErrorKind::TimedOut => known(transient("NATS did not acknowledge in time")),
        PublishErrorKind::BrokenPipe => known(transient("the connection to NATS broke")),
        PublishErrorKind::MaxAckPending => known(BUSY),
        PublishErrorKind::MaxPayloadExceeded => known(too_large(most)),
        // The bridge expects no last id and no last sequence.
        PublishErrorKind::WrongLastMessageId | PublishErrorKind::WrongLastSequence => {
            known(transient("NATS expected another last message"))
        }
        PublishErrorKind::Other => {
            let code = error.source().and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>());
            of_code(code.map(async_nats::jetstream::Error::error_code))
        }
    }
}

fn of_code(code: Option<ErrorCode>) -> (Refusal, bool) {
    match code {
        Some(ErrorCode::STREAM_NOT_FOUND) => (transient("the stream is not there"), true),
        Some(ErrorCode::STREAM_NOT_MATCH) => (
            permanent(
                "another stream than `nats.stream` takes this topic",
                "name that stream, or take the topic out of its subjects",
            ),
            true,
        ),
        Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM) => {
            let remedy = "raise the stream's `max_msg_size` above `server.max_body`, or set `nats.object_store`";
            (Refusal::TooLarge { remedy: remedy.into() }, false)
        }
        Some(ErrorCode::STREAM_STORE_FAILED | ErrorCode::INSUFFICIENT_RESOURCES) => (
            permanent(
                "the stream is full",
                "raise its `max_bytes` or the account's limits, shorten its `max_age`, or give the server a larger disk",
            ),
            false,
        ),
        Some(_) | None => (transient("NATS refused the message"), true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_somebodys_to_mend() {
        let of = |kind| of_publish(&PublishError::new(kind), 1024).0;
        assert!(matches!(of(PublishErrorKind::TimedOut), Refusal::Transient { .. }));
        assert!(matches!(of(PublishErrorKind::MaxPayloadExceeded), Refusal::TooLarge { .. }));
        assert!(of_publish(&PublishError::new(PublishErrorKind::StreamNotFound), 0).1, "the stream may be gone");
        assert!(matches!(of_code(Some(ErrorCode::STREAM_STORE_FAILED)).0, Refusal::Permanent { .. }));
        assert!(matches!(of_code(Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM)).0, Refusal::TooLarge { .. }));
        assert!(matches!(of_code(None).0, Refusal::Transient { .. }));
    }
}
