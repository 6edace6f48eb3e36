//! The bucket for payloads that are too large for a message: created if that is allowed, else only checked, and
//! refused if its settings do not keep a payload as long as the stream keeps its message.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::object_store::Config;
use async_nats::jetstream::stream::{self, StorageType};

use super::client::{Lookup, find_stream};
use super::fault::{Fault, quoted};
use super::object::{AbandonedChunks, Bucket};
use super::refusal;
use super::settings::{self, Use};
use crate::bus::{Refusal, Scope};
use crate::config;

/// The bucket of one adapter, as far as it is known.
pub(super) struct ObjectStore {
    wanted: Config,
    bytes_in_flight: usize,
    /// Or why nothing is stored there.
    bucket: RwLock<Result<Arc<Bucket>, Refusal>>,
    abandoned: AbandonedChunks,
}

impl ObjectStore {
    /// `None` if no bucket is configured.
    pub(super) fn new(config: &config::Nats, bytes_in_flight: usize) -> Option<Self> {
        let wanted = Config {
            bucket: config.object_store.clone()?,
            description: Some("payloads that are too large for a message of terra-bridge".to_owned()),
            max_bytes: -1,
            storage: StorageType::File,
            num_replicas: config.replicas,
            ..Config::default()
        };
        let bucket = RwLock::new(Err(refusal::NO_BUCKET));
        Some(Self { wanted, bytes_in_flight, bucket, abandoned: AbandonedChunks::default() })
    }

    pub(super) fn name(&self) -> &str {
        &self.wanted.bucket
    }

    pub(super) fn bucket(&self) -> Result<Arc<Bucket>, Refusal> {
        self.bucket.read().expect("no holder of this lock can panic").clone()
    }

    /// Checks the bucket, creates it if that is allowed, and removes abandoned chunks. `message_age` is how long the
    /// stream keeps its messages; zero means for ever.
    pub(super) async fn reconcile(&self, context: &Context, create: bool, message_age: Duration) -> Result<(), Fault> {
        let (bucket, fault) = match self.look(context, create, message_age).await {
            Ok(bucket) => (Ok(Arc::new(bucket)), None),
            Err((refusal, fault)) => (Err(refusal), Some(fault)),
        };
        *self.bucket.write().expect("no holder of this lock can panic") = bucket;
        fault.map_or(Ok(()), Err)
    }

    async fn look(&self, context: &Context, create: bool, message_age: Duration) -> Result<Bucket, (Refusal, Fault)> {
        let name = self.name();
        let mut found = find_stream(context, &stream_name(name)).await;
        if create && matches!(found, Lookup::Missing) {
            let wanted = Config { max_age: message_age, ..self.wanted.clone() };
            context.create_object_store(wanted).await.map_err(|error| {
                let says = format!("cannot be created: {}", quoted(&error));
                let remedy = "grant that to this user, or create it by hand";
                (refusal::NO_BUCKET, Fault::new(about(name), says, remedy))
            })?;
            found = find_stream(context, &stream_name(name)).await;
        }
        let Lookup::Found(stream) = found else {
            let remedy = format!("{}, or set `nats.create_stream = true`", create_or_grant(name));
            return Err((refusal::NO_BUCKET, Fault::new(about(name), "cannot be seen", remedy)));
        };
        if let Some(fault) = fault(name, &stream.cached_info().config, message_age, self.bytes_in_flight) {
            return Err((fault.refusal(Scope::Topic), fault));
        }
        self.abandoned.remove(&stream).await;
        let (context, abandoned) = (context.clone(), self.abandoned.clone());
        Ok(Bucket { context, name: name.to_owned(), stream: *stream, message_age, abandoned })
    }
}

fn about(bucket: &str) -> String {
    format!("the object store `{bucket}`")
}

pub(super) fn stream_name(bucket: &str) -> String {
    format!("OBJ_{bucket}")
}

/// What to do about a bucket that cannot be seen.
pub(super) fn create_or_grant(bucket: &str) -> String {
    format!("create it (nats object add {bucket}), grant `$JS.API.>` and `$O.{bucket}.>`")
}

/// The fault of a bucket that dropped what it had just acknowledged.
pub(super) fn drops_chunks(bucket: &str) -> Fault {
    let remedy = format!(
        "raise or remove the limits of its stream (nats stream edit {}: max_bytes, max_msgs, \
         max_msgs_per_subject), or name another bucket in `nats.object_store`",
        stream_name(bucket)
    );
    Fault::new(about(bucket), "drops a part of a payload as soon as it has it", remedy)
}

/// Why the bucket's stream does not keep payloads as safely as the events' stream keeps its messages.
pub(super) fn fault(
    bucket: &str,
    settings: &stream::Config,
    message_age: Duration,
    bytes_in_flight: usize,
) -> Option<Fault> {
    let used = Use { key: "nats.object_store", what: "object store", name: bucket, bytes_in_flight, subjects: &[] };
    let too_short = || {
        let name = &settings.name;
        let remedy = format!(
            "give its stream `{name}` at least the max_age of `nats.stream` (nats stream edit {name} --max-age)"
        );
        let says = "keeps payloads for less time than the stream its messages";
        (!outlives(settings.max_age, message_age)).then(|| Fault::new(about(bucket), says, remedy))
    };
    settings::unfit(settings, used).or_else(too_short)
}

/// Whether a retention of `age` is at least as long as `other`. Zero means for ever.
fn outlives(age: Duration, other: Duration) -> bool {
    age.is_zero() || (!other.is_zero() && age >= other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_ever_outlives_everything_and_only_for_ever_outlives_it() {
        let hour = Duration::from_secs(3600);
        assert!(outlives(Duration::ZERO, Duration::ZERO) && outlives(Duration::ZERO, hour) && outlives(hour, hour));
        assert!(!outlives(hour, Duration::ZERO) && !outlives(hour, 2 * hour));
    }

    #[test]
    fn a_bucket_keeps_payloads_in_files_and_as_long_as_the_stream() {
        let hour = Duration::from_secs(3600);
        let settings = stream::Config { storage: StorageType::File, max_age: hour, ..stream::Config::default() };
        assert!(fault("b", &settings, hour, 1).is_none());
        assert!(fault("b", &settings, 2 * hour, 1).is_some_and(|fault| fault.says.contains("less time")));
        let memory = stream::Config { storage: StorageType::Memory, ..settings };
        assert!(fault("b", &memory, hour, 1).is_some_and(|fault| fault.says.contains("memory")));
    }
}
