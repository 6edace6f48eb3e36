//! What is too large for a message goes to an object store first, and the message says where it is.
//! Comes in: a payload. Goes out: headers with which a reader finds it and knows that it is whole.

use std::io::{self, Cursor};
use std::sync::RwLock;
use std::time::Duration;

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::object_store::{Config, ObjectMetadata, ObjectStore};
use async_nats::jetstream::stream::{self, StorageType};
use async_nats::jetstream::{Context, ErrorCode};
use bytes::{Bytes, BytesMut};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::refusal;
use super::stream::unfit;
use crate::bus::{Record, Refusal};
use crate::config;
use crate::message::Message;

/// `BUCKET/OBJECT`.
const CLAIM_CHECK: &str = "terra-claim-check";
/// Of the payload, in lower-case hex.
const SHA_256: &str = "terra-claim-check-sha256";
const BYTES: &str = "terra-claim-check-bytes";
/// In a record that was read back: why the payload is not there.
const PROBLEM: &str = "terra-claim-check-problem";

/// Larger chunks need fewer acknowledgements: a third of the time that the client's own 128 KiB take.
const CHUNK: usize = 1000 << 10;

/// What a message has to spare for the protocol.
const CHUNK_MARGIN: usize = 1 << 10;

/// How long a reader waits for an object.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// Of the time for a publish: a definite refusal comes first, and the message has time as well.
const PUT_SHARE: f64 = 0.9;

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
    state: RwLock<State>,
}

enum State {
    /// Not seen yet.
    Unknown,
    Ready(Box<ObjectStore>),
    /// It does not keep objects as the stream keeps the messages that name them.
    Unfit(Refusal),
}

impl ClaimChecks {
    /// `None` where no bucket is configured. `timeout`: for a whole publish.
    pub(super) fn new(config: &config::Nats, timeout: Duration) -> Option<Self> {
        let wanted = Config {
            bucket: config.object_store.clone()?,
            description: Some("payloads that are too large for a message of terra-bridge".to_owned()),
            max_age: config.max_age,
            max_bytes: -1,
            storage: StorageType::File,
            num_replicas: config.replicas,
            ..Config::default()
        };
        Some(Self { wanted, patience: timeout.mul_f64(PUT_SHARE), state: RwLock::new(State::Unknown) })
    }

    pub(super) fn bucket(&self) -> &str {
        &self.wanted.bucket
    }

    /// Looks at the bucket, and makes it where that is allowed. `stream_age`: how long the stream keeps
    /// its messages; zero is for ever. An error says what to do.
    pub(super) async fn ensure(&self, context: &Context, create: bool, stream_age: Duration) -> Result<(), String> {
        let bucket = &self.wanted.bucket;
        let unseen = || {
            format!(
                "object store `{bucket}` cannot be seen; make it (nats object add {bucket}), grant `$JS.API.>` and \
                 `$O.{bucket}.>`, or set `nats.create_stream = true`"
            )
        };
        let found = match context.get_object_store(bucket).await {
            Ok(store) => Ok(store),
            Err(_) if create && is_missing(context, bucket).await => {
                let wanted = Config { max_age: stream_age, ..self.wanted.clone() };
                let made = context.create_object_store(wanted).await;
                made.map_err(|_| format!("object store `{bucket}` cannot be made; grant it, or make it by hand"))
            }
            Err(_) => Err(unseen()),
        };
        let (state, said) = match (found, settings(context, bucket).await) {
            (Err(says), _) => (State::Unknown, Err(says)),
            (Ok(_), None) => (State::Unknown, Err(unseen())),
            (Ok(store), Some(settings)) => match problem(&settings, stream_age) {
                None => (State::Ready(Box::new(store)), Ok(())),
                Some(problem) => {
                    let says = format!("object store `{bucket}` {}; {}", problem.says, problem.remedy);
                    (State::Unfit(refusal::unfit_bucket(bucket, problem)), Err(says))
                }
            },
        };
        self.set(state);
        said
    }

    fn set(&self, state: State) {
        *self.state.write().expect("no holder of this lock can panic") = state;
    }

    /// Puts the payload into the bucket, under the delivery's id, so that a retry replaces it. `Ok` means
    /// that the bucket keeps it: the headers then lead to it. `max_payload`: what the server takes at once.
    pub(super) async fn put(
        &self,
        message: &Message,
        max_payload: usize,
    ) -> Result<[(&'static str, String); 3], Refusal> {
        let store = match &*self.state.read().expect("no holder of this lock can panic") {
            State::Ready(store) => store.clone(),
            State::Unknown => return Err(refusal::NO_BUCKET),
            State::Unfit(refusal) => return Err(refusal.clone()),
        };
        let (name, payload) = (message.id().to_string(), message.payload().clone());
        let bytes = payload.len();
        let digested = payload.clone();
        let digest = tokio::task::spawn_blocking(move || HEXLOWER.encode(&Sha256::digest(digested)));
        let object = ObjectMetadata {
            name: name.clone(),
            chunk_size: Some(CHUNK.min(max_payload.saturating_sub(CHUNK_MARGIN)).max(1)),
            ..ObjectMetadata::default()
        };
        let mut payload = Cursor::new(payload);
        let put = tokio::time::timeout(self.patience, store.put(object, &mut payload)).await;
        put.map_err(|_| refusal::PUT_TOO_SLOW)?.map_err(|_| refusal::NOT_PUT)?;
        let digest = digest.await.map_err(|_| refusal::NOT_PUT)?;
        let place = format!("{}/{name}", self.wanted.bucket);
        Ok([(CLAIM_CHECK, place), (SHA_256, digest), (BYTES, bytes.to_string())])
    }
}

/// Why nothing goes to a bucket, and what to do.
pub(super) struct Problem {
    pub(super) says: &'static str,
    pub(super) remedy: String,
}

/// What keeps the stream of a bucket from keeping payloads as the stream of events keeps its messages.
pub(super) fn problem(settings: &stream::Config, stream_age: Duration) -> Option<Problem> {
    if let Some(says) = unfit(settings) {
        let remedy = "name another bucket in `nats.object_store`, one that lies in files".to_owned();
        return Some(Problem { says, remedy });
    }
    let name = &settings.name;
    (!outlives(settings.max_age, stream_age)).then(|| Problem {
        says: "keeps payloads for less time than the stream its messages",
        remedy: format!(
            "give its stream `{name}` at least the max_age of `nats.stream` (nats stream edit {name} --max-age)"
        ),
    })
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
    fn a_bucket_keeps_payloads_in_files_and_as_long_as_the_stream() {
        let hour = Duration::from_secs(3600);
        let settings = stream::Config { storage: StorageType::File, max_age: hour, ..stream::Config::default() };
        assert!(problem(&settings, hour).is_none());
        assert!(problem(&settings, 2 * hour).is_some_and(|problem| problem.says.contains("less time")));
        let memory = stream::Config { storage: StorageType::Memory, ..settings };
        assert!(problem(&memory, hour).is_some_and(|problem| problem.says.contains("memory")));
    }
}
