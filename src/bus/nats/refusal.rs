//! What the server's and the client's errors mean for a message. No text of theirs goes further: it
//! may name servers and users.

use std::borrow::Cow;
use std::error::Error as _;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::{ConnectError, ConnectErrorKind, rustls};

use super::claim_check::Problem;
use crate::bus::{Refusal, Scope};
use crate::telemetry::Throttle;

/// Lines of one kind in the log, at most one in this time.
const LOG_EVERY: Duration = Duration::from_secs(10);

pub(super) const AWAY: Refusal = transient("NATS is not connected");
pub(super) const NOT_SEEN: Refusal = transient("the stream was not seen on NATS yet");
pub(super) const NOT_ADDED: Refusal = transient("the stream was not seen to take this new topic yet");
pub(super) const BUSY: Refusal = transient("too many acknowledgements are awaited from NATS");
pub(super) const UNSENT: Refusal = transient("NATS takes nothing, and there is no room for more that waits for it");

pub(super) const NO_BUCKET: Refusal = transient("the object store was not seen on NATS yet");
pub(super) const NOT_PUT: Refusal = transient("the object store did not take the payload");
pub(super) const PUT_TOO_SLOW: Refusal = transient("the object store did not take the payload in time");

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

/// Why no connection comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// A server refuses the login.
    Login,
    /// No TLS connection comes about.
    Tls,
    /// No server is there, or it hangs up: what a server does whose TLS wants a client certificate, too.
    Away,
}

impl Trouble {
    /// A failed handshake is an I/O error to the client library; rustls' own error stands below it.
    pub(super) fn of(error: &ConnectError) -> Self {
        let mut source = error.source();
        while let Some(error) = source {
            let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            if error.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
                return Self::Tls;
            }
            source = error.source();
        }
        Self::of_kind(error.kind())
    }

    pub(super) fn of_kind(kind: ConnectErrorKind) -> Self {
        match kind {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => Self::Login,
            ConnectErrorKind::Tls => Self::Tls,
            ConnectErrorKind::ServerParse
            | ConnectErrorKind::Dns
            | ConnectErrorKind::TimedOut
            | ConnectErrorKind::Io
            | ConnectErrorKind::MaxReconnects => Self::Away,
        }
    }

    /// Whether it stays so until somebody acts.
    pub(super) fn needs_somebody(self) -> bool {
        self != Self::Away
    }

    pub(super) fn says(self) -> &'static str {
        match self {
            Self::Login => "NATS refuses the login",
            Self::Tls => "no TLS connection to NATS comes about",
            Self::Away => "NATS cannot be reached",
        }
    }

    pub(super) fn remedy(self) -> &'static str {
        match self {
            Self::Login => "see `nats.credentials`, `nats.nkey`, `nats.user`, `nats.password`, `nats.token`",
            Self::Tls => {
                "check that `nats.tls.ca` signed the servers' certificates, that these name the hosts in \
                 `nats.servers`, and `nats.tls.certificate` and `nats.tls.key` where servers ask for them"
            }
            Self::Away => {
                "check that `nats.servers` are up; where they ask for a client's certificate, set \
                 `nats.tls.certificate` and `nats.tls.key`"
            }
        }
    }

    pub(super) fn refusal(self) -> Refusal {
        if self.needs_somebody() { permanent(Scope::Bus, self.says(), self.remedy()) } else { AWAY }
    }
}

pub(super) fn lacks_subject(stream: &str) -> Refusal {
    Refusal::Permanent {
        scope: Scope::Topic,
        reason: format!("the stream `{stream}` does not take this topic").into(),
        remedy: "add the topic to the stream's subjects; `terra-bridge check --online` lists them".into(),
    }
}

pub(super) fn unfit_bucket(bucket: &str, problem: Problem) -> Refusal {
    Refusal::Permanent {
        scope: Scope::Topic,
        reason: format!("the object store `{bucket}` {}", problem.says).into(),
        remedy: problem.remedy.into(),
    }
}

pub(super) fn unfit(stream: &str) -> Refusal {
    Refusal::Permanent {
        scope: Scope::Bus,
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

/// Of a message that another stream answers for.
pub(super) fn elsewhere() -> Refusal {
    permanent(
        Scope::Topic,
        "another stream than `nats.stream`, or another domain than `nats.domain`, takes this topic",
        "name that one, or take the topic out of its subjects",
    )
}

/// Of a message that the server calls a copy of one that it has not stored yet.
pub(super) fn unconfirmed() -> Refusal {
    static UNCONFIRMED: Throttle = Throttle::new(LOG_EVERY);
    if let Some(more) = UNCONFIRMED.pass() {
        tracing::warn!(
            more,
            remedy =
                "none, its retry finds out; where it goes on, look for a stream without a leader (nats stream report)",
            "NATS calls a message the duplicate of one that it has not stored yet: it does not count as kept"
        );
    }
    Refusal::Unconfirmed { reason: "NATS has not stored an earlier copy of the message yet".into() }
}

fn of_code(code: Option<ErrorCode>) -> (Refusal, bool) {
    match code {
        Some(ErrorCode::STREAM_NOT_FOUND) => (transient("the stream is not there"), true),
        Some(ErrorCode::STREAM_NOT_MATCH) => (elsewhere(), true),
        Some(ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT) => (unconfirmed(), false),
        Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM) => {
            let remedy = "raise the stream's `max_msg_size` above `server.max_body`, or set `nats.object_store`";
            (Refusal::TooLarge { remedy: remedy.into() }, false)
        }
        // Also how a store says whatever else is wrong with it; and what is full gets room as messages grow old.
        Some(
            ErrorCode::STREAM_STORE_FAILED
            | ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ) => (
            permanent(
                Scope::Bus,
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
        let full = of_code(Some(ErrorCode::STREAM_STORE_FAILED)).0;
        assert!(matches!(full, Refusal::Permanent { .. }) && !full.concerns_this_alone());
        assert!(of_code(Some(ErrorCode::STREAM_NOT_MATCH)).0.concerns_this_alone());
        assert!(matches!(of_code(Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM)).0, Refusal::TooLarge { .. }));
        assert!(matches!(of_code(None).0, Refusal::Transient { .. }));
    }
}
