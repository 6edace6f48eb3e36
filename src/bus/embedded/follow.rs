//! A stream of records as the body of a reply: NDJSON or server-sent events.
//! Comes in: where to begin and where to end. Goes out: a body that reads ahead by a few chunks and
//! no further, woken by commits. What cannot be read any more ends it with an error, never with a gap.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use super::api::ErrorJson;
use crate::bus::Record;
use crate::log::{Extent, ReadError, Store};

/// One step of reading.
const CHUNK_RECORDS: usize = 256;
const CHUNK_BYTES: usize = 256 * 1024;

/// Chunks that wait for a slow reader.
const AHEAD: usize = 2;

/// Proxies close what is silent for a minute.
const HEARTBEAT: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// One JSON object a line.
    Lines,
    /// Server-sent events, `id` the offset.
    Events,
}

pub(super) struct Reading {
    pub(super) store: Arc<Store>,
    pub(super) topic: String,
    pub(super) extents: watch::Receiver<Extent>,
    pub(super) draining: watch::Receiver<bool>,
    /// The first offset.
    pub(super) from: u64,
    /// Without that offset; `None`: wait for what is to come.
    pub(super) until: Option<u64>,
    /// Records, at most.
    pub(super) limit: Option<u64>,
    pub(super) format: Format,
    /// Held for as long as the stream lasts.
    pub(super) _place: OwnedSemaphorePermit,
}

/// The body. Reading ends when it is dropped. A body of lines ends with an error, which cuts the
/// connection, where records could not be read; one of events with an `error` event.
pub(super) fn body(reading: Reading) -> UnsyncBoxBody<Bytes, io::Error> {
    let (sender, mut chunks) = mpsc::channel(AHEAD);
    tokio::spawn(reading.run(sender));
    let frames = futures_util::stream::poll_fn(move |context| chunks.poll_recv(context));
    StreamBody::new(futures_util::StreamExt::map(frames, |chunk: io::Result<Bytes>| chunk.map(Frame::data)))
        .boxed_unsync()
}

impl Reading {
    async fn run(mut self, sender: mpsc::Sender<io::Result<Bytes>>) {
        while self.wants_more() {
            let next = self.extents.borrow_and_update().next;
            let sent = if self.from < next {
                match self.step().await {
                    Ok(chunk) => sender.send(Ok(chunk)).await,
                    Err(error) => return self.fail(&error, sender).await,
                }
            } else {
                match self.wait(&sender).await {
                    Wake::Look => Ok(()),
                    Wake::Heartbeat => sender.send(Ok(Bytes::from_static(b":\n\n"))).await,
                    Wake::End => return,
                }
            };
            if sent.is_err() {
                return;
            }
        }
    }

    fn wants_more(&self) -> bool {
        self.limit != Some(0) && self.until.is_none_or(|until| self.from < until)
    }

    /// Reads and encodes the next chunk off the async workers.
    async fn step(&mut self) -> Result<Bytes, ReadError> {
        let (store, topic, from, format) = (self.store.clone(), self.topic.clone(), self.from, self.format);
        let until = self.until.unwrap_or(u64::MAX);
        let records =
            usize::try_from(self.limit.unwrap_or(u64::MAX)).map_or(CHUNK_RECORDS, |limit| limit.min(CHUNK_RECORDS));
        let read = move || {
            let chunk = store.read(&topic, from, until, records, CHUNK_BYTES)?;
            Ok::<_, ReadError>((chunk.len() as u64, encode(&chunk, format)))
        };
        let (count, bytes) =
            tokio::task::spawn_blocking(read).await.map_err(|error| ReadError::Failed(error.to_string()))??;
        self.from += count;
        self.limit = self.limit.map(|limit| limit - count);
        Ok(bytes)
    }

    async fn wait(&mut self, sender: &mpsc::Sender<io::Result<Bytes>>) -> Wake {
        let heartbeat = async {
            match self.format {
                Format::Events => tokio::time::sleep(HEARTBEAT).await,
                Format::Lines => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.extents.changed() => if changed.is_ok() { Wake::Look } else { Wake::End },
            _ = self.draining.wait_for(|draining| *draining) => Wake::End,
            () = sender.closed() => Wake::End,
            () = heartbeat => Wake::Heartbeat,
        }
    }

    async fn fail(&self, error: &ReadError, sender: mpsc::Sender<io::Result<Bytes>>) {
        if let ReadError::Failed(reason) = error {
            tracing::error!(reason, "the log could not be read; look after the disk of embedded.dir");
        }
        let last = match self.format {
            Format::Lines => Err(io::Error::other(error.to_string())),
            Format::Events => Ok(error_event(error)),
        };
        // The reader may be gone, which needs no error.
        let _ = sender.send(last).await;
    }
}

enum Wake {
    Look,
    Heartbeat,
    End,
}

fn encode(chunk: &[Record], format: Format) -> Bytes {
    let mut bytes = Vec::with_capacity(chunk.iter().map(|record| record.payload.len() + 1024).sum());
    for record in chunk {
        let (before, after) = match format {
            Format::Lines => (String::new(), "\n"),
            Format::Events => (format!("id: {}\ndata: ", record.offset), "\n\n"),
        };
        bytes.extend_from_slice(before.as_bytes());
        serde_json::to_writer(&mut bytes, record).expect("a record is plain strings and numbers");
        bytes.extend_from_slice(after.as_bytes());
    }
    bytes.into()
}

fn error_event(error: &ReadError) -> Bytes {
    let extent = if let ReadError::Gone(extent) = error { Some(extent) } else { None };
    let says = error.to_string();
    let (earliest, next) = (extent.map(|extent| extent.earliest), extent.map(|extent| extent.next));
    let data = serde_json::to_string(&ErrorJson { error: &says, earliest, next }).expect("plain numbers and strings");
    format!("event: error\ndata: {data}\n\n").into()
}
