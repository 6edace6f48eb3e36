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
use crate::attribute::Attribute;
use crate::bus::{Record, Refusal, Scope};
use crate::message::Message;

/// A `dataref` is this, the bucket, `/`, and the object.
const OBJECT_SCHEME: &str = "nats-object:";

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
) -> Result<[(Attribute, String); 3], Refusal> {
    let (bucket, payload) = (store.bucket()?, message.payload().clone());
    let hashed = payload.clone();
    let sha256 = tokio::task::spawn_blocking(move || Sha256::digest(hashed)).await.map_err(|_| refusal::NOT_PUT)?;
    let object = Object::new(&message.id().to_string(), payload, &sha256);
    let put = tokio::time::timeout(within, bucket.put(&object)).await.map_err(|_| refusal::PUT_TOO_SLOW)?;
    put.map_err(|error| match error {
        PutError::Dropped => drops_chunks(&bucket.name).refusal(Scope::Topic),
        PutError::Overtaken | PutError::Failed => refusal::NOT_PUT,
    })?;
    let reference = format!("{OBJECT_SCHEME}{}/{}", bucket.name, object.name);
    Ok([
        (Attribute::DataRef, reference),
        (Attribute::TerraDigest, HEXLOWER.encode(&sha256)),
        (Attribute::TerraBytes, object.payload.len().to_string()),
    ])
}

/// Loads the payload that the record's claim check leads to. If it cannot be fetched, or its digest differs, the
/// record says so.
pub(super) async fn fetch_claim(context: &Context, mut record: Record) -> Record {
    let Some(reference) = record.attribute(Attribute::DataRef) else { return record };
    let digest = record.attribute(Attribute::TerraDigest).unwrap_or_default();
    let bytes = record.attribute(Attribute::TerraBytes).and_then(|bytes| bytes.parse().ok());
    let fetched = tokio::time::timeout(READ_WITHIN, fetch(context, &reference, bytes.unwrap_or(0))).await;
    record.problem = match fetched {
        Ok(Ok(payload)) if HEXLOWER.encode(&Sha256::digest(&payload)) == digest => {
            record.payload = payload;
            None
        }
        Ok(Ok(_)) => Some(ALTERED),
        Ok(Err(problem)) => Some(problem),
        Err(_) => Some(SILENT),
    };
    record
}

/// Fetches at most `bytes` and one more byte, or says why not.
async fn fetch(context: &Context, reference: &str, bytes: usize) -> Result<Bytes, &'static str> {
    let object = reference.strip_prefix(OBJECT_SCHEME).and_then(|object| object.split_once('/'));
    let (bucket, name) = object.ok_or(MISSING)?;
    let store = context.get_object_store(bucket).await.map_err(|_| MISSING)?;
    let mut object = store.get(name).await.map_err(|_| MISSING)?.take(bytes as u64 + 1);
    let mut payload = BytesMut::new();
    // The client library compares the digest with the bucket's.
    let broken = |error: io::Error| if error.kind() == io::ErrorKind::InvalidData { ALTERED } else { UNREADABLE };
    while object.read_buf(&mut payload).await.map_err(broken)? > 0 {}
    Ok(payload.freeze())
}
