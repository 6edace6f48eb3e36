//! What is too large for a message goes to an object store first, and the message says where it is.
//! Comes in: a payload. Goes out: headers with which a reader finds it and knows that it is whole.
//!
//! That the bucket keeps it is the word of [`super::object`], or, for a payload that an earlier attempt has put there, of
//! a bucket that has all its chunks under the same digest. That it stays as long as its message is what the bucket's
//! settings say.

use std::io;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::object_store::Config;
use async_nats::jetstream::stream::{self, StorageType};
use async_nats::jetstream::{Context, ErrorCode};
use bytes::{Bytes, BytesMut};
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::object::{self, Bucket, GivenUp, Unwritten};
use super::refusal::{self, Fault};
use super::settings::{self, Use};
use crate::bus::{Record, Refusal, Scope};
use crate::config;
use crate::message::Message;

/// `BUCKET/OBJECT`.
const CLAIM_CHECK: &str = "terra-claim-check";
/// Of the payload, in lower-case hex.
const SHA_256: &str = "terra-claim-check-sha256";
const BYTES: &str = "terra-claim-check-bytes";
/// In a record that was read back: why the payload is not there.
const PROBLEM: &str = "terra-claim-check-problem";

/// How long a reader waits for an object.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// Of the time for a publish: a definite refusal comes first, and the message has time as well.
const PUT_SHARE: f64 = 0.9;

/// How much sooner than its message an object may go that was put for an earlier attempt, at most; and at most
/// this part of the time for which the bucket keeps it.
const SOONER: Duration = Duration::from_secs(600);
const SOONER_PART: u32 = 20;

/// Why a payload is not there.
const MISSING: &str = "the object is not there";
const ALTERED: &str = "the object is not what the message says";
const UNREADABLE: &str = "the object cannot be read";
const SILENT: &str = "the object store did not answer in time";

/// The bucket of one adapter, as far as it is known.
pub(super) struct ClaimChecks {
    wanted: Config,
    /// For all chunks of a payload together.
    patience: Duration,
    bytes_in_flight: usize,
    state: RwLock<State>,
    /// What failed to become an object.
    given_up: GivenUp,
}

enum State {
    /// Not seen yet.
    Unknown,
    /// With how long the stream keeps the messages; zero is for ever.
    Ready(Arc<Bucket>, Duration),
    /// It does not keep objects as the stream keeps the messages that name them.
    Unfit(Refusal),
}

impl ClaimChecks {
    /// `None` where no bucket is configured. `timeout`: for a whole publish.
    pub(super) fn new(config: &config::Nats, timeout: Duration, bytes_in_flight: usize) -> Option<Self> {
        let wanted = Config {
            bucket: config.object_store.clone()?,
            description: Some("payloads that are too large for a message of terra-bridge".to_owned()),
            max_age: config.max_age,
            max_bytes: -1,
            storage: StorageType::File,
            num_replicas: config.replicas,
            ..Config::default()
        };
        Some(Self {
            wanted,
            patience: timeout.mul_f64(PUT_SHARE),
            bytes_in_flight,
            state: RwLock::new(State::Unknown),
            given_up: GivenUp::default(),
        })
    }

    pub(super) fn bucket(&self) -> &str {
        &self.wanted.bucket
    }

    /// Looks at the bucket, tidies it, and makes it where that is allowed. `stream_age`: how long the stream keeps
    /// its messages; zero is for ever.
    pub(super) async fn ensure(&self, context: &Context, create: bool, stream_age: Duration) -> Result<(), Fault> {
        let bucket = &self.wanted.bucket;
        if create && is_missing(context, bucket).await {
            let wanted = Config { max_age: stream_age, ..self.wanted.clone() };
            if let Err(error) = context.create_object_store(wanted).await {
                self.set(State::Unknown);
                let says = format!("cannot be made: {}", refusal::quoted(&error));
                return Err(Fault::new(about(bucket), says, "grant it, or make it by hand"));
            }
        }
        let Ok(stream) = context.get_stream(format!("OBJ_{bucket}")).await else {
            self.set(State::Unknown);
            let remedy = format!(
                "make it (nats object add {bucket}), grant `$JS.API.>` and `$O.{bucket}.>`, or set \
                 `nats.create_stream = true`"
            );
            return Err(Fault::new(about(bucket), "cannot be seen", remedy));
        };
        if let Some(fault) = problem(bucket, &stream.cached_info().config, stream_age, self.bytes_in_flight) {
            self.set(State::Unfit(fault.refusal(Scope::Topic)));
            return Err(fault);
        }
        self.given_up.remove(&stream).await;
        self.set(State::Ready(Arc::new(Bucket { context: context.clone(), name: bucket.clone(), stream }), stream_age));
        Ok(())
    }

    fn set(&self, state: State) {
        *self.state.write().expect("no holder of this lock can panic") = state;
    }

    /// Puts the payload into the bucket, unless it is there already. `Ok` means that the bucket keeps it: the
    /// headers then lead to it. `max_payload`: what the server takes at once.
    pub(super) async fn put(
        &self,
        message: &Message,
        max_payload: usize,
    ) -> Result<[(&'static str, String); 3], Refusal> {
        let (bucket, stream_age) = match &*self.state.read().expect("no holder of this lock can panic") {
            State::Ready(bucket, stream_age) => (bucket.clone(), *stream_age),
            State::Unknown => return Err(refusal::NO_BUCKET),
            State::Unfit(refusal) => return Err(refusal.clone()),
        };
        let (id, payload) = (message.id().to_string(), message.payload().clone());
        let digested = payload.clone();
        let sha256 = tokio::task::spawn_blocking(move || Sha256::digest(digested));
        let sha256 = sha256.await.map_err(|_| refusal::NOT_PUT)?;
        let keeping = self.keep(&bucket, stream_age, &id, &payload, &sha256, max_payload);
        let name = tokio::time::timeout(self.patience, keeping).await;
        let name = name.map_err(|_| refusal::PUT_TOO_SLOW)?.map_err(|unwritten| match unwritten {
            Unwritten::Dropped => drops(&bucket.name).refusal(Scope::Topic),
            Unwritten::Overtaken | Unwritten::Failed => refusal::NOT_PUT,
        })?;
        let place = format!("{}/{name}", bucket.name);
        Ok([(CLAIM_CHECK, place), (SHA_256, HEXLOWER.encode(&sha256)), (BYTES, payload.len().to_string())])
    }

    /// The name under which the bucket keeps the payload: the delivery's id, and a longer one where that leads
    /// to another payload. Two bodies may tell of one event, and a message that is kept may lead to the first.
    async fn keep(
        &self,
        bucket: &Bucket,
        stream_age: Duration,
        id: &str,
        payload: &Bytes,
        sha256: &[u8],
        max_payload: usize,
    ) -> Result<String, Unwritten> {
        let (digest, kept_for) = (object::digest(sha256), bucket.stream.cached_info().config.max_age);
        let longer = format!("{id}-{}", HEXLOWER.encode(&sha256[..8]));
        // The second look at a name sees what came in between.
        for name in [id, id, &longer, &longer] {
            let found = bucket.find(name).await?;
            match &found {
                Some(found) if found.digest.as_ref() == Some(&digest) && !found.deleted => {
                    if lasts(age(found.since), kept_for, stream_age) && bucket.has_all_of(found).await? {
                        return Ok(name.to_owned());
                    }
                }
                Some(found) if !found.deleted => continue,
                Some(_) | None => {}
            }
            let written = bucket.write(name, found.as_ref(), payload, &digest, max_payload, &self.given_up);
            match written.await {
                Ok(()) => return Ok(name.to_owned()),
                Err(Unwritten::Overtaken) => {}
                Err(failed) => return Err(failed),
            }
        }
        Err(Unwritten::Overtaken)
    }
}

fn age(since: Timestamp) -> Duration {
    Timestamp::now().duration_since(since).try_into().unwrap_or_default()
}

/// Whether an object of this age is there for as long as a message that comes now, or nearly.
fn lasts(age: Duration, kept_for: Duration, message_for: Duration) -> bool {
    kept_for.is_zero() || age + message_for <= kept_for + SOONER.min(kept_for / SOONER_PART)
}

fn about(bucket: &str) -> String {
    format!("the object store `{bucket}`")
}

/// Of a bucket that was seen to drop what it had acknowledged a moment before.
fn drops(bucket: &str) -> Fault {
    let remedy = format!(
        "raise or remove the limits of its stream (nats stream edit OBJ_{bucket}: max_bytes, max_msgs, \
         max_msgs_per_subject), or name another bucket in `nats.object_store`"
    );
    Fault::new(about(bucket), "drops a part of a payload as soon as it has it", remedy)
}

/// What keeps the stream of a bucket from keeping payloads as the stream of events keeps its messages.
pub(super) fn problem(
    bucket: &str,
    settings: &stream::Config,
    stream_age: Duration,
    bytes_in_flight: usize,
) -> Option<Fault> {
    let used = Use { key: "nats.object_store", what: "object store", name: bucket, bytes_in_flight, subjects: &[] };
    let short = || {
        let name = &settings.name;
        (!outlives(settings.max_age, stream_age)).then(|| {
            let remedy = format!(
                "give its stream `{name}` at least the max_age of `nats.stream` (nats stream edit {name} --max-age)"
            );
            Fault::new(about(bucket), "keeps payloads for less time than the stream its messages", remedy)
        })
    };
    settings::unfit(settings, used).or_else(short)
}

/// Whether what is kept for `age` is there for as long as what is kept for `other`. Zero is for ever.
fn outlives(age: Duration, other: Duration) -> bool {
    age.is_zero() || (!other.is_zero() && age >= other)
}

/// How the bucket's stream is set up; `None` where it cannot be seen.
pub(super) async fn settings(context: &Context, bucket: &str) -> Option<stream::Config> {
    let stream = context.get_stream(format!("OBJ_{bucket}")).await.ok()?;
    Some(stream.cached_info().config.clone())
}

/// Whether the server itself says that there is no such bucket.
pub(super) async fn is_missing(context: &Context, bucket: &str) -> bool {
    let asked = context.get_stream(format!("OBJ_{bucket}")).await;
    asked.is_err_and(|error| match error.kind() {
        GetStreamErrorKind::JetStream(error) => error.error_code() == ErrorCode::STREAM_NOT_FOUND,
        _ => false,
    })
}

/// The record with the payload that its claim check leads to. What cannot be fetched, or is not what
/// was put there, is said in a header of the record.
pub(super) async fn redeem(context: &Context, mut record: Record) -> Record {
    let header = |name: &str| {
        let found = record.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone())
    };
    let Some(place) = header(CLAIM_CHECK) else { return record };
    let (digest, bytes) = (header(SHA_256).unwrap_or_default(), header(BYTES).and_then(|bytes| bytes.parse().ok()));
    let fetched = tokio::time::timeout(READ_WITHIN, fetch(context, &place, bytes.unwrap_or(0))).await;
    let problem = match fetched {
        Ok(Ok(payload)) if HEXLOWER.encode(&Sha256::digest(&payload)) == digest => {
            record.payload = payload;
            return record;
        }
        Ok(Ok(_)) => ALTERED,
        Ok(Err(problem)) => problem,
        Err(_) => SILENT,
    };
    record.headers.push((PROBLEM.to_owned(), problem.to_owned()));
    record
}

/// At most a byte more than `bytes`, or why not.
async fn fetch(context: &Context, place: &str, bytes: usize) -> Result<Bytes, &'static str> {
    let (bucket, name) = place.split_once('/').ok_or(MISSING)?;
    let store = context.get_object_store(bucket).await.map_err(|_| MISSING)?;
    let mut object = store.get(name).await.map_err(|_| MISSING)?.take(bytes as u64 + 1);
    let mut payload = BytesMut::new();
    // The client library compares with the digest that the bucket has.
    let broken = |error: io::Error| if error.kind() == io::ErrorKind::InvalidData { ALTERED } else { UNREADABLE };
    while object.read_buf(&mut payload).await.map_err(broken)? > 0 {}
    Ok(payload.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_ever_outlives_everything_and_is_outlived_by_nothing_else() {
        let hour = Duration::from_secs(3600);
        assert!(outlives(Duration::ZERO, Duration::ZERO) && outlives(Duration::ZERO, hour) && outlives(hour, hour));
        assert!(!outlives(hour, Duration::ZERO) && !outlives(hour, 2 * hour));
    }

    #[test]
    fn an_object_of_an_earlier_attempt_serves_only_where_it_lasts_as_long_as_the_message() {
        let (minute, day) = (Duration::from_secs(60), Duration::from_secs(86_400));
        assert!(lasts(minute, day, day) && !lasts(60 * minute, day, day));
        assert!(lasts(day, 2 * day, day) && !lasts(day, 10 * minute, 10 * minute));
        assert!(!lasts(minute, 10 * minute, 10 * minute), "it would be gone much sooner");
        assert!(lasts(1000 * day, Duration::ZERO, day) && lasts(1000 * day, Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn a_bucket_keeps_payloads_in_files_and_as_long_as_the_stream() {
        let hour = Duration::from_secs(3600);
        let settings = stream::Config { storage: StorageType::File, max_age: hour, ..stream::Config::default() };
        assert!(problem("b", &settings, hour, 1).is_none());
        assert!(problem("b", &settings, 2 * hour, 1).is_some_and(|problem| problem.says.contains("less time")));
        let memory = stream::Config { storage: StorageType::Memory, ..settings };
        assert!(problem("b", &memory, hour, 1).is_some_and(|problem| problem.says.contains("memory")));
    }
}
