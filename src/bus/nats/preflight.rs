//! Whether the servers would let the bridge create its stream or add topics to it, as far as that can be asked
//! without a change: the account's limits, and which other streams capture the topics.

use async_nats::jetstream::account::{Account, Limits};
use async_nats::jetstream::context::{AccountErrorKind, GetStreamByNameErrorKind};
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{Context, ErrorCode};

use super::fault::Fault;
use super::stream::about;

/// What would prevent the servers from creating the stream. `standalone`: they are not a cluster.
pub(super) async fn check_create(context: &Context, wanted: &Config, standalone: bool) -> Vec<Fault> {
    let about = about(&wanted.name);
    let mut faults = Vec::new();
    if standalone && wanted.num_replicas > 1 {
        let says = format!("cannot have {} replicas: the server is no cluster", wanted.num_replicas);
        faults.push(Fault::new(&about, says, "lower `nats.replicas`, or name a cluster in `nats.servers`"));
    }
    match context.query_account().await {
        Ok(account) => faults.extend(exceeded(&account, wanted)),
        Err(error) => {
            if let AccountErrorKind::JetStream(error) = error.kind() {
                let disabled = [
                    ErrorCode::JETSTREAM_NOT_ENABLED,
                    ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT,
                    ErrorCode::NO_LIMITS,
                ];
                faults.extend(disabled.contains(&error.error_code()).then(|| Fault::refused(&about, &error)));
            }
        }
    }
    faults
}

/// The account's limits that the stream would exceed.
fn exceeded(account: &Account, wanted: &Config) -> Vec<Fault> {
    // With tiers, the account as a whole has no limits of its own.
    let tier = account.tiers.get(&format!("R{}", wanted.num_replicas));
    let (limits, reserved, streams) = match tier {
        Some(tier) => (&tier.limits, tier.reserved_storage, tier.streams),
        None => (&account.limits, account.reserved_storage, account.streams),
    };
    let about = about(&wanted.name);
    let Limits { max_storage, max_streams, max_bytes_required, storage_max_stream_bytes, .. } = *limits;
    let left = max_storage.map(|most| most.saturating_sub(i64::try_from(reserved).unwrap_or(i64::MAX)));
    let of_stream = storage_max_stream_bytes.filter(|most| *most > 0);
    let mut faults = Vec::new();
    let mut add = |is_so: bool, says: String, remedy: &str| {
        faults.extend(is_so.then(|| Fault::new(&about, says, remedy)));
    };
    let replicas = format!("has no limits in this account for {} replicas", wanted.num_replicas);
    add(!account.tiers.is_empty() && tier.is_none(), replicas, "change `nats.replicas`, or grant them");
    let unlimited = "has no size limit, which the account requires".to_owned();
    add(max_bytes_required && wanted.max_bytes <= 0, unlimited, "set `nats.max_bytes`");
    let lower = "lower `nats.max_bytes`, or raise the account's limit";
    if let Some(most) = of_stream.filter(|most| wanted.max_bytes > *most) {
        let says = format!("would be larger ({} bytes) than the account allows a stream ({most})", wanted.max_bytes);
        add(true, says, lower);
    } else if let Some(left) = left.filter(|left| *left <= 0 || wanted.max_bytes > *left) {
        add(true, format!("needs more room than the account has left ({} bytes)", left.max(0)), lower);
    }
    let one_more = format!("would be one more than the account's {streams}");
    let named = "raise that limit, or name an existing stream in `nats.stream`";
    add(max_streams.is_some_and(|most| most > 0 && streams as i64 >= most), one_more, named);
    faults
}

/// The subjects that another stream captures, each with that stream's name.
pub(super) async fn taken(
    context: &Context,
    stream: &str,
    subjects: impl IntoIterator<Item = &String>,
) -> Vec<(String, String)> {
    let mut taken = Vec::new();
    for subject in subjects {
        match context.stream_by_subject(subject.as_str()).await {
            Ok(other) if other != stream => taken.push((subject.clone(), other)),
            Ok(_) => {}
            Err(error) if error.kind() == GetStreamByNameErrorKind::NotFound => {}
            // Without the permission, or without replies, each further request would time out too.
            Err(_) => break,
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_account_limits_are_found_before_the_stream_is_created() {
        let wanted = |max_bytes| Config { name: "S".into(), max_bytes, num_replicas: 1, ..Config::default() };
        let limits = Limits { max_storage: Some(1000), storage_max_stream_bytes: Some(500), ..Limits::default() };
        let account = |limits| Account { limits, reserved_storage: 600, streams: 3, ..Account::default() };
        let says = |limits, max_bytes| {
            exceeded(&account(limits), &wanted(max_bytes))
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n")
        };
        assert_eq!(says(limits, 400), "");
        assert!(says(limits, 401).contains("400 bytes"));
        assert!(says(limits, 501).contains("(500)"));
        assert!(says(Limits { max_bytes_required: true, ..limits }, -1).contains("set `nats.max_bytes`"));
        assert!(says(Limits { max_streams: Some(3), ..limits }, 1).contains("account's 3"));
        assert_eq!(says(Limits { max_storage: None, storage_max_stream_bytes: Some(0), ..limits }, 1 << 40), "");
    }
}
