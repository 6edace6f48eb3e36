//! A payload that is too large for a message goes to the object store. The message's headers say where it is, and a
//! reader follows them.

use std::io;
use std::time::Duration;

use async_nats::jetstream::Context;
use bytes::{Bytes, BytesMut};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::object::{Object, PutError};
use super::object_store::{ObjectStore, drops_chunks};
use super::refusal;
use crate::bus::{Record, Refusal, Scope};
use crate::message::Message;

/// `BUCKET/OBJECT`.
const CLAIM_CHECK: &str = "terra-claim-check";
/// Of the payload, in lower-case hex.
const SHA_256: &str = "terra-claim-check-sha256";
const BYTES: &str = "terra-claim-check-bytes";
/// Set on a record that was read back: why the payload is missing.
const PROBLEM: &str = "terra-claim-check-problem";

/// How long a reader waits for an object.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// The payload is missing because its object is.
const MISSING: &str = "the object is not there";
const ALTERED: &str = "the object is not what the message says";
const UNREADABLE: &str = "the object cannot be read";
const SILENT: &str = "the object store did not answer in time";

/// Puts the payload into the bucket, unless it is there already. `Ok` means that the bucket keeps it, and that the
/// headers lead to it. `within` is the time for all of its chunks together.
pub(super) async fn put(
    store: &ObjectStore,
    message: &Message,
    within: Duration,
) -> Result<[(&'static str, String); 3], Refusal> {
    let (bucket, payload) = (store.bucket()?, message.payload().clone());
    let hashed = payload.clone();
    let sha256 = tokio::task::spawn_blocking(move || Sha256::digest(hashed)).await.map_err(|_| refusal::NOT_PUT)?;
    let object = Object::new(&message.id().to_string(), payload, &sha256);
    let put = tokio::time::timeout(within, bucket.put(&object)).await.map_err(|_| refusal::PUT_TOO_SLOW)?;
    put.map_err(|error| match error {
        PutError::Dropped => drops_chunks(&bucket.name).refusal(Scope::Topic),
        PutError::Overtaken | PutError::Failed => refusal::NOT_PUT,
    })?;
    let place = format!("{}/{}", bucket.name, object.name);
    Ok([(CLAIM_CHECK, place), (SHA_256, HEXLOWER.encode(&sha256)), (BYTES, object.payload.len().to_string())])
}

/// Loads the payload that the record's claim check leads to. If it cannot be fetched, or its digest differs, a header
/// of the record says so.
pub(super) async fn fetch_claim(context: &Context, mut record: Record) -> Record {
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

/// Fetches at most `bytes` and one more byte, or says why not.
async fn fetch(context: &Context, place: &str, bytes: usize) -> Result<Bytes, &'static str> {
    let (bucket, name) = place.split_once('/').ok_or(MISSING)?;
    let store = context.get_object_store(bucket).await.map_err(|_| MISSING)?;
    let mut object = store.get(name).await.map_err(|_| MISSING)?.take(bytes as u64 + 1);
    let mut payload = BytesMut::new();
    // The client library compares the digest with the bucket's.
    let broken = |error: io::Error| if error.kind() == io::ErrorKind::InvalidData { ALTERED } else { UNREADABLE };
    while object.read_buf(&mut payload).await.map_err(broken)? > 0 {}
    Ok(payload.freeze())
}
