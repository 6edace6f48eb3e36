//! What is wrong with the stream or the object store, as text for the log, for refusals and for `check --online`; and
//! what JetStream's own errors about them mean, with the key that helps.

use std::fmt;

use async_nats::jetstream::{self, ErrorCode};

use crate::bus::{Refusal, Scope};

/// How many characters of a server's text are quoted.
const QUOTED: usize = 200;

/// A server's text without control characters that a terminal or a log would interpret.
pub(super) fn quoted(text: &dyn fmt::Display) -> String {
    let text = text.to_string();
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(QUOTED).collect()
}

/// A problem that an operator has to fix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The stream, or the object store.
    pub about: String,
    /// The rest of the sentence that begins with `about`.
    pub says: String,
    pub remedy: String,
}

impl Fault {
    pub(super) fn new(about: impl Into<String>, says: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { about: about.into(), says: says.into(), remedy: remedy.into() }
    }

    /// JetStream does not show, create or change it; its own text is quoted with what to do.
    pub(super) fn refused(about: &str, error: &jetstream::Error) -> Self {
        Self::new(about, format!("is refused by the servers: {}", quoted(error)), remedy(error))
    }

    /// JetStream does not answer. `denied`: a server has just said that this user lacks a permission.
    pub(super) fn silent(about: &str, denied: bool) -> Self {
        let (says, remedy) = match denied {
            true => (
                "cannot be seen: this user may not use JetStream",
                "grant publish on `$JS.API.>` and subscribe on its inbox",
            ),
            false => ("cannot be seen: JetStream does not answer", "enable it, and check `nats.domain`"),
        };
        Self::new(about, says, remedy)
    }

    /// The refusal of messages until an operator acts.
    pub(super) fn refusal(&self, scope: Scope) -> Refusal {
        let reason = format!("{} {}", self.about, self.says).into();
        Refusal::Permanent { scope, reason, remedy: self.remedy.clone().into() }
    }

    /// The refusal of messages when the problem may be temporary.
    pub(super) fn transient(&self) -> Refusal {
        Refusal::Transient { reason: self.to_string().into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}; {}", self.about, self.says, self.remedy)
    }
}

/// Whether JetStream reports a temporary absence: during a leader election, or at a cluster's start.
pub(super) fn is_transient(error: &jetstream::Error) -> bool {
    matches!(
        error.error_code(),
        ErrorCode::CLUSTER_NOT_AVAILABLE | ErrorCode::CLUSTER_NOT_LEADER | ErrorCode::CLUSTER_INCOMPLETE
    )
}

fn remedy(error: &jetstream::Error) -> &'static str {
    match error.error_code() {
        ErrorCode::STREAM_SUBJECT_OVERLAP => {
            "another stream takes some of its topics: name that stream in `nats.stream`, or change `routes`"
        }
        ErrorCode::CLUSTER_NO_PEERS | ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED => {
            "lower `nats.replicas` to the number of servers that have room, or add servers"
        }
        ErrorCode::STREAM_MAX_BYTES_REQUIRED => {
            "set `nats.max_bytes`: the account requires a limit of the stream's size"
        }
        ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED => {
            "lower `nats.max_bytes`, or raise the account's limit for a stream"
        }
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::INSUFFICIENT_RESOURCES => {
            "lower `nats.max_bytes` or `nats.replicas`, or raise JetStream's limits of the account and the servers"
        }
        ErrorCode::NO_LIMITS => "give the account JetStream limits for `nats.replicas`",
        ErrorCode::MAXIMUM_STREAMS_LIMIT => {
            "raise the number of streams that the account may have, or name an existing one in `nats.stream`"
        }
        ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => {
            "enable JetStream for the server and the account"
        }
        ErrorCode::STREAM_SEALED => "name another stream in `nats.stream`",
        _ if is_transient(error) => "wait for the cluster's leader, or check the servers' logs",
        _ if error.to_string().contains("duplicates window") => {
            "lower `nats.duplicate_window`; consumers deduplicate by `ce-id` beyond it"
        }
        _ if error.to_string().contains("max age") => "change `nats.max_age`",
        _ => "check the server's log",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_limit_is_reported_with_the_key_that_helps() {
        let of = |code: u64, description: &str| {
            let error = serde_json::json!({"code": 400, "err_code": code, "description": description});
            Fault::refused("the stream `S`", &serde_json::from_value(error).expect("an error of JetStream's"))
                .to_string()
        };
        for (code, description, key) in [
            (10113, "account requires a stream config to have max bytes set", "`nats.max_bytes`"),
            (10122, "stream max bytes exceeds account limit max stream bytes", "`nats.max_bytes`"),
            (10052, "duplicates window can not be larger then server limit of 1h0m0s", "`nats.duplicate_window`"),
            (10120, "no JetStream default or applicable tiered limit present", "`nats.replicas`"),
            (19999, "whatever comes next", "check the server's log"),
        ] {
            let says = of(code, description);
            assert!(says.contains(description) && says.contains(key), "{says}");
        }
    }

    #[test]
    fn a_long_server_text_is_truncated() {
        assert_eq!(quoted(&" x\u{1b}[31m\n"), "x [31m");
        assert!(quoted(&"x".repeat(5000)).len() <= QUOTED);
    }
}
