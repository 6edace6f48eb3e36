//! One object of a bucket, in the layout that every client's object store reads: its chunks on a subject of
//! their own, then one message under its name that leads to them. Comes in: a payload and what its name led to
//! before. Goes out: that it leads to this payload. Knows no message of the stream.
//!
//! Each chunk and the message under the name have the acknowledgement of the bucket's own stream, with a sequence.
//! That says nothing of the chunks before: a stream with limits may drop them for those that come, so that they are
//! counted in the end. Their bytes are taken for what was sent: only a reader compares the digest.

use std::error::Error as _;
use std::mem::take;
use std::sync::{Mutex, PoisonError};

use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{Context, ErrorCode};
use bytes::Bytes;
use data_encoding::BASE64URL;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use serde::Deserialize;

use super::publish::is_stored;

/// Larger chunks need fewer acknowledgements: a third of the time that the clients' usual 128 KiB take.
const CHUNK: usize = 1000 << 10;

/// What a message has to spare for the protocol.
const CHUNK_MARGIN: usize = 1 << 10;

/// Says the same as a wrong last sequence, which some servers then do not name.
const OVERTAKEN: ErrorCode = ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT;

/// Subjects of chunks that wait to be removed; those of more are left to the bucket's own limits.
const GIVEN_UP: usize = 1024;

/// A bucket whose stream was seen.
pub(super) struct Bucket {
    pub context: Context,
    pub name: String,
    pub stream: Stream,
}

/// What a name leads to.
pub(super) struct Found {
    /// `None`: deleted, or nothing that can be told.
    pub digest: Option<String>,
    pub deleted: bool,
    /// Of the message that leads there.
    pub sequence: u64,
    pub since: Timestamp,
    chunks: u64,
    /// What tells its chunks from those of others.
    unique: String,
}

/// Why an object was not written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unwritten {
    /// Its name leads elsewhere since it was looked at.
    Overtaken,
    /// The bucket acknowledged all of it and no longer has a part.
    Dropped,
    Failed,
}

/// As the object stores write it.
pub(super) fn digest(sha256: &[u8]) -> String {
    format!("SHA-256={}", BASE64URL.encode(sha256))
}

impl Bucket {
    fn meta(&self, name: &str) -> String {
        format!("$O.{}.M.{}", self.name, BASE64URL.encode(name.as_bytes()))
    }

    fn chunks(&self, unique: &str) -> String {
        format!("$O.{}.C.{unique}", self.name)
    }

    /// Asks the bucket's leader: another server may be behind.
    pub(super) async fn find(&self, name: &str) -> Result<Option<Found>, Unwritten> {
        #[derive(Default, Deserialize)]
        struct Info {
            digest: Option<String>,
            #[serde(default)]
            deleted: bool,
            #[serde(default)]
            chunks: u64,
            #[serde(default)]
            nuid: String,
        }
        let message = match self.stream.get_last_raw_message_by_subject(&self.meta(name)).await {
            Ok(message) => message,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(None),
            Err(_) => return Err(Unwritten::Failed),
        };
        let info: Info = serde_json::from_slice(&message.payload).unwrap_or_default();
        let since = Timestamp::from_nanosecond(message.time.unix_timestamp_nanos()).map_err(|_| Unwritten::Failed)?;
        let Info { digest, deleted, chunks, nuid: unique } = info;
        Ok(Some(Found { digest, deleted, sequence: message.sequence, since, chunks, unique }))
    }

    /// Whether all chunks are there: a bucket may have dropped its oldest.
    pub(super) async fn has_all_of(&self, found: &Found) -> Result<bool, Unwritten> {
        self.has_all(&self.chunks(&found.unique), found.chunks).await
    }

    async fn has_all(&self, subject: &str, expected: u64) -> Result<bool, Unwritten> {
        let chunks = self.stream.info_with_subjects(subject).await;
        let mut chunks = chunks.map_err(|_| Unwritten::Failed)?;
        let chunks = chunks.try_next().await.map_err(|_| Unwritten::Failed)?;
        Ok(chunks.map_or(0, |(_, there)| there as u64) == expected)
    }

    /// Whether the acknowledgement is that of this bucket.
    fn has_stored(&self, ack: &PublishAck) -> bool {
        ack.stream == self.stream.cached_info().config.name && is_stored(ack)
    }

    /// Has the name lead to this payload, unless it leads elsewhere than `found` by now. What it led to before
    /// stays where it is: somebody may be reading it. `max_payload`: bytes that the server takes at once.
    pub(super) async fn write(
        &self,
        name: &str,
        found: Option<&Found>,
        payload: &Bytes,
        digest: &str,
        max_payload: usize,
        given_up: &GivenUp,
    ) -> Result<(), Unwritten> {
        let context = &self.context;
        // The client makes one that nobody else has, at the end of each inbox.
        let inbox = context.client().new_inbox();
        let unique = inbox.rsplit('.').next().unwrap_or(&inbox);
        let mut chunks = Chunks { subject: self.chunks(unique), given_up, led_to: false };
        let size = CHUNK.min(max_payload.saturating_sub(CHUNK_MARGIN)).max(1);
        for from in (0..payload.len()).step_by(size) {
            // A copy: one that the client has not sent yet would hold the whole payload.
            let chunk = Bytes::copy_from_slice(&payload[from..payload.len().min(from + size)]);
            let sent = context.publish(chunks.subject.clone(), chunk).await.map_err(|_| Unwritten::Failed)?;
            let ack = sent.await.map_err(|_| Unwritten::Failed)?;
            if !self.has_stored(&ack) {
                return Err(Unwritten::Failed);
            }
        }
        let expected = payload.len().div_ceil(size);
        let info = serde_json::json!({
            "name": name,
            "bucket": self.name,
            "nuid": unique,
            "size": payload.len(),
            "chunks": expected,
            "mtime": Timestamp::now().to_string(),
            "digest": digest,
            "options": {"max_chunk_size": size},
        });
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Rollup", "sub");
        let sequence = found.map_or(0, |found| found.sequence).to_string();
        headers.insert("Nats-Expected-Last-Subject-Sequence", sequence.as_str());
        // From here on the name may lead to the chunks, whatever is heard of it.
        chunks.led_to = true;
        let sent = match context.publish_with_headers(self.meta(name), headers, info.to_string().into()).await {
            Ok(sent) => sent.await,
            Err(error) => Err(error),
        };
        let ack = sent.map_err(|error| {
            let code = error.source().and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>());
            let code = code.map(async_nats::jetstream::Error::error_code);
            let overtaken = error.kind() == PublishErrorKind::WrongLastSequence || code == Some(OVERTAKEN);
            // What the server says no to it has not stored.
            chunks.led_to = !overtaken && code.is_none();
            if overtaken { Unwritten::Overtaken } else { Unwritten::Failed }
        })?;
        if !self.has_stored(&ack) {
            return Err(Unwritten::Failed);
        }
        // Only now: also what was written last takes room.
        let whole = self.has_all(&chunks.subject, expected as u64).await?;
        if whole { Ok(()) } else { Err(Unwritten::Dropped) }
    }
}

/// Chunks that nothing leads to once their writer has given up, or was dropped.
#[derive(Default)]
pub(super) struct GivenUp(Mutex<Vec<String>>);

impl GivenUp {
    /// Removes them, as far as the server lets it now.
    pub(super) async fn remove(&self, stream: &Stream) {
        let mut left = take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        while let Some(subject) = left.pop() {
            if stream.purge().filter(&subject).await.is_err() {
                left.push(subject);
                break;
            }
        }
        left.into_iter().for_each(|subject| self.add(subject));
    }

    fn add(&self, subject: String) {
        let mut subjects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if subjects.len() < GIVEN_UP {
            subjects.push(subject);
        }
    }
}

struct Chunks<'a> {
    subject: String,
    given_up: &'a GivenUp,
    led_to: bool,
}

impl Drop for Chunks<'_> {
    fn drop(&mut self) {
        if !self.led_to {
            self.given_up.add(take(&mut self.subject));
        }
    }
}
