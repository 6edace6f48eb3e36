//! One object of a bucket, in the layout that every client's object store reads: its chunks on a subject of their
//! own, then one message under its name that points to them.
//!
//! The bucket's acknowledgement of the last chunk says nothing about the first ones, which a stream with limits may
//! have dropped to make room; so the chunks are counted at the end. Their bytes are assumed to be as sent; only a
//! reader compares digests.

use std::error::Error as _;
use std::mem::take;
use std::slice::Chunks;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::object_store::ObjectInfo;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{self, Context, ErrorCode};
use bytes::Bytes;
use data_encoding::{BASE64URL, HEXLOWER};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Larger chunks need fewer acknowledgements: they take a third of the time of the clients' usual 128 KiB.
const CHUNK: usize = 1000 << 10;

/// What a message must leave free for the protocol.
const CHUNK_MARGIN: usize = 1 << 10;

/// Equivalent to a wrong last sequence, which some servers then do not name.
const OVERTAKEN: ErrorCode = ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT;

/// The most chunk subjects that wait to be removed; further ones are left to the bucket's own limits.
const MAX_ABANDONED: usize = 1024;

/// How much sooner than its message an object from an earlier attempt may expire; and at most this fraction of the
/// bucket's retention.
const MAX_LEAD: Duration = Duration::from_secs(600);
const MAX_LEAD_PART: u32 = 20;

/// A payload, and the only name that it is stored under: the digest in it excludes any other payload.
pub(super) struct Object {
    pub name: String,
    pub payload: Bytes,
    /// In the object stores' notation.
    digest: String,
}

impl Object {
    pub(super) fn new(id: &str, payload: Bytes, sha256: &[u8]) -> Self {
        let name = format!("{id}-{}", HEXLOWER.encode(sha256));
        Self { name, payload, digest: format!("SHA-256={}", BASE64URL.encode(sha256)) }
    }
}

/// A bucket whose stream has been looked up.
pub(super) struct Bucket {
    pub context: Context,
    pub name: String,
    pub stream: Stream,
    /// How long the messages that point to its objects are kept; zero means for ever.
    pub message_age: Duration,
    pub abandoned: AbandonedChunks,
}

/// Why an object is not in the bucket.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PutError {
    /// Another writer has stored it since it was looked up.
    Overtaken,
    /// The bucket acknowledged all of it but no longer has a part.
    Dropped,
    Failed,
}

/// The message under an object's name.
struct Entry {
    sequence: u64,
    since: Timestamp,
    /// `None`: it cannot be read, and points to nothing.
    info: Option<ObjectInfo>,
}

impl Bucket {
    /// `Ok`: the bucket has the whole object, and keeps it about as long as a message stored now.
    pub(super) async fn put(&self, object: &Object) -> Result<(), PutError> {
        // The second attempt finds what another writer stored after the first.
        for _ in 0..2 {
            let entry = self.find(&object.name).await?;
            if let Some(entry) = &entry
                && self.keeps(entry, object).await?
            {
                return Ok(());
            }
            match self.write(object, entry.map_or(0, |entry| entry.sequence)).await {
                Err(PutError::Overtaken) => {}
                written => return written,
            }
        }
        Err(PutError::Overtaken)
    }

    /// Asks the bucket's leader: another server may be behind.
    async fn find(&self, name: &str) -> Result<Option<Entry>, PutError> {
        let message = match self.stream.get_last_raw_message_by_subject(&self.entry_subject(name)).await {
            Ok(message) => message,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(None),
            Err(_) => return Err(PutError::Failed),
        };
        let since = Timestamp::from_nanosecond(message.time.unix_timestamp_nanos()).map_err(|_| PutError::Failed)?;
        Ok(Some(Entry { sequence: message.sequence, since, info: serde_json::from_slice(&message.payload).ok() }))
    }

    async fn keeps(&self, entry: &Entry, object: &Object) -> Result<bool, PutError> {
        let info = entry.info.as_ref().filter(|info| !info.deleted && info.digest.as_ref() == Some(&object.digest));
        let Some(info) = info else { return Ok(false) };
        let (chunks, now) = self.count(&self.chunk_subject(&info.nuid)).await?;
        Ok(chunks == info.chunks as u64 && lasts(entry.since, now, self.kept_for(), self.message_age))
    }

    /// Writes the object, unless its entry no longer has this sequence (0: there is none). The chunks of an earlier
    /// entry stay: somebody may be reading them.
    async fn write(&self, object: &Object, sequence: u64) -> Result<(), PutError> {
        let client = self.context.client();
        // The client generates a unique name at the end of each inbox.
        let inbox = client.new_inbox();
        let nuid = inbox.rsplit('.').next().unwrap_or(&inbox);
        let mut chunks = UnnamedChunks { subject: self.chunk_subject(nuid), bucket: self, may_be_named: false };
        let size = CHUNK.min(client.max_payload().saturating_sub(CHUNK_MARGIN)).max(1);
        self.write_chunks(&chunks.subject, object.payload.chunks(size)).await.map_err(|_| PutError::Failed)?;
        let expected = object.payload.len().div_ceil(size);
        let info = json!({
            "name": object.name,
            "bucket": self.name,
            "nuid": nuid,
            "size": object.payload.len(),
            "chunks": expected,
            "mtime": Timestamp::now().to_string(),
            "digest": object.digest,
            "options": {"max_chunk_size": size},
        });
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Rollup", "sub");
        headers.insert("Nats-Expected-Last-Subject-Sequence", sequence.to_string().as_str());
        // From here on the name may point to the chunks, even if no answer arrives.
        chunks.may_be_named = true;
        let named = self.store(&self.entry_subject(&object.name), headers, info.to_string().into()).await;
        named.map_err(|error| {
            let code = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
            let code = code.map(jetstream::Error::error_code);
            let overtaken = error.kind() == PublishErrorKind::WrongLastSequence || code == Some(OVERTAKEN);
            // The server has not stored what it refused.
            chunks.may_be_named = !overtaken && code.is_none();
            if overtaken { PutError::Overtaken } else { PutError::Failed }
        })?;
        // Only now: the last message, too, may push out chunks.
        let (count, _) = self.count(&chunks.subject).await?;
        if count == expected as u64 { Ok(()) } else { Err(PutError::Dropped) }
    }

    async fn write_chunks(&self, subject: &str, chunks: Chunks<'_, u8>) -> Result<(), PublishError> {
        for chunk in chunks {
            // A copy, because an unsent slice would keep the whole payload in memory.
            self.store(subject, HeaderMap::new(), Bytes::copy_from_slice(chunk)).await?;
        }
        Ok(())
    }

    /// `Ok`: the bucket's own stream has acknowledged it, with a sequence.
    async fn store(&self, subject: &str, headers: HeaderMap, payload: Bytes) -> Result<(), PublishError> {
        let ack = self.context.publish_with_headers(subject.to_owned(), headers, payload).await?.await?;
        let stored = ack.stream == self.stream.cached_info().config.name && ack.sequence > 0;
        if stored { Ok(()) } else { Err(PublishError::new(PublishErrorKind::Other)) }
    }

    /// The number of messages on a subject, and the server's time, which servers before 2.10 do not report.
    async fn count(&self, subject: &str) -> Result<(u64, Option<Timestamp>), PutError> {
        // The client's own type omits the time.
        let request = format!("STREAM.INFO.{}", self.stream.cached_info().config.name);
        let info = self.context.request(request, &json!({"subjects_filter": subject})).await;
        let info: Value = info.map_err(|_| PutError::Failed)?;
        if !info["state"].is_object() {
            // An error from JetStream.
            return Err(PutError::Failed);
        }
        let count = info["state"]["subjects"][subject].as_u64().unwrap_or(0);
        Ok((count, info["ts"].as_str().and_then(|time| time.parse().ok())))
    }

    fn kept_for(&self) -> Duration {
        self.stream.cached_info().config.max_age
    }

    fn entry_subject(&self, name: &str) -> String {
        format!("$O.{}.M.{}", self.name, BASE64URL.encode(name.as_bytes()))
    }

    fn chunk_subject(&self, nuid: &str) -> String {
        format!("$O.{}.C.{nuid}", self.name)
    }
}

/// Whether an object stored at `since` lasts about as long as a message stored now. Both `now` and `since` are the
/// server's time, because our clock may differ. If a server does not report its time, the payload is sent again.
fn lasts(since: Timestamp, now: Option<Timestamp>, kept_for: Duration, message_age: Duration) -> bool {
    let age = now.map(|now| now.duration_since(since).try_into().unwrap_or(Duration::ZERO));
    let lead = MAX_LEAD.min(kept_for / MAX_LEAD_PART);
    kept_for.is_zero() || age.is_some_and(|age: Duration| age + message_age <= kept_for + lead)
}

/// Chunks without a name, because their writer failed or was dropped. Cloning shares it.
#[derive(Clone, Default)]
pub(super) struct AbandonedChunks(Arc<Mutex<Vec<String>>>);

impl AbandonedChunks {
    /// Removes the chunks known at the call, as far as the server allows it now.
    pub(super) async fn remove(&self, stream: &Stream) {
        let count = self.subjects().len();
        for _ in 0..count {
            let Some(subject) = self.pop() else { return };
            if stream.purge().filter(&subject).await.is_err() {
                return self.add(subject);
            }
        }
    }

    fn add(&self, subject: String) {
        let mut subjects = self.subjects();
        if subjects.len() < MAX_ABANDONED {
            subjects.push(subject);
        }
    }

    fn pop(&self) -> Option<String> {
        self.subjects().pop()
    }

    fn subjects(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The chunks of an object that is being written, until its name points to them.
struct UnnamedChunks<'a> {
    subject: String,
    bucket: &'a Bucket,
    may_be_named: bool,
}

impl Drop for UnnamedChunks<'_> {
    fn drop(&mut self) {
        if !self.may_be_named {
            self.bucket.abandoned.add(take(&mut self.subject));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_of_an_earlier_attempt_is_reused_only_if_it_lasts_as_long_as_the_message() {
        let (minute, day) = (Duration::from_secs(60), Duration::from_secs(86_400));
        let now = Timestamp::from_second(2_000_000_000).unwrap();
        let of_age = |age: Duration, kept_for, message_age| lasts(now - age, Some(now), kept_for, message_age);
        assert!(of_age(minute, day, day) && !of_age(60 * minute, day, day));
        assert!(of_age(day, 2 * day, day) && !of_age(day, 10 * minute, 10 * minute));
        assert!(!of_age(minute, 10 * minute, 10 * minute), "it would be gone much sooner");
        assert!(of_age(1000 * day, Duration::ZERO, day) && of_age(1000 * day, Duration::ZERO, Duration::ZERO));
        assert!(!lasts(now, None, day, minute) && lasts(now, None, Duration::ZERO, minute), "no time, no age");
    }

    #[test]
    fn a_name_belongs_to_one_payload() {
        let object = Object::new("id", Bytes::from_static(b"x"), &[0xab; 32]);
        assert_eq!(object.name, format!("id-{}", "ab".repeat(32)));
        assert!(object.digest.starts_with("SHA-256=q6ur"));
    }
}
