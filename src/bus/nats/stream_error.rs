//! What servers say of a stream that they do not make, change or show, with the key that helps.

use async_nats::jetstream::{self, ErrorCode};

use super::refusal::{Fault, quoted};

/// What to do about a refusal of JetStream's; its own words come with it.
pub(super) fn refused(about: &str, error: &jetstream::Error) -> Fault {
    let remedy = match error.error_code() {
        ErrorCode::STREAM_SUBJECT_OVERLAP => {
            "another stream takes some of its topics: name that stream in `nats.stream`, or change `routes`"
        }
        ErrorCode::CLUSTER_NO_PEERS | ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED => {
            "lower `nats.replicas` to the number of servers that have room, or add servers"
        }
        ErrorCode::STREAM_MAX_BYTES_REQUIRED => "set `nats.max_bytes`: the account wants to know how large it may grow",
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
        _ if passes(error) => "wait for the cluster's leader, or see the servers' logs",
        _ if error.to_string().contains("duplicates window") => {
            "lower `nats.duplicate_window`; consumers deduplicate by `ce-id` beyond it"
        }
        _ if error.to_string().contains("max age") => "change `nats.max_age`",
        _ => "see the server's log",
    };
    Fault::new(about, format!("is refused by the servers: {}", quoted(error)), remedy)
}

/// Whether JetStream says that it is not there for the moment: between two leaders, or at a cluster's start.
pub(super) fn passes(error: &jetstream::Error) -> bool {
    matches!(
        error.error_code(),
        ErrorCode::CLUSTER_NOT_AVAILABLE | ErrorCode::CLUSTER_NOT_LEADER | ErrorCode::CLUSTER_INCOMPLETE
    )
}

/// Why JetStream gives no answer. `denied`: a server has just said that this user may not do something.
pub(super) fn silence(about: &str, denied: bool) -> Fault {
    match denied {
        true => Fault::new(
            about,
            "cannot be seen: this user may not use JetStream",
            "grant publish on `$JS.API.>` and subscribe on its inbox",
        ),
        false => Fault::new(about, "cannot be seen: JetStream does not answer", "enable it, and see `nats.domain`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_limit_is_said_with_the_key_that_helps() {
        let of = |code: u64, description: &str| {
            let error = serde_json::json!({"code": 400, "err_code": code, "description": description});
            refused("the stream `S`", &serde_json::from_value(error).expect("an error of JetStream's")).to_string()
        };
        for (code, description, key) in [
            (10113, "account requires a stream config to have max bytes set", "`nats.max_bytes`"),
            (10122, "stream max bytes exceeds account limit max stream bytes", "`nats.max_bytes`"),
            (10052, "duplicates window can not be larger then server limit of 1h0m0s", "`nats.duplicate_window`"),
            (10120, "no JetStream default or applicable tiered limit present", "`nats.replicas`"),
            (19999, "whatever comes next", "see the server's log"),
        ] {
            let says = of(code, description);
            assert!(says.contains(description) && says.contains(key), "{says}");
        }
    }
}
