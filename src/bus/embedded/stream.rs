//! A stream of records as the body of a reply: NDJSON, server-sent events, or one payload. It reads ahead by only a
//! few pieces, and commits wake it. If a record can no longer be read, the stream ends with an error, never with a
//! gap.
//!
//! Chunks count towards the [`ReadBudget`] that all readers share, and only while their reader takes them. A reader
//! that takes nothing, or has had its turn, gives its memory to those waiting, and its chunk is read again when it
//! continues.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use super::budget::{MAX_BYTES, ReadBudget, Reservation};
use super::error::{ErrorJson, log_failed};
use crate::bus::Record;
use crate::log::{Extent, ReadError, Store};

/// The most records and bytes of one read; a single record may exceed the bytes.
const CHUNK_RECORDS: usize = 256;
const CHUNK_BYTES: usize = 256 * 1024;

/// The size of one piece, and how many pieces wait for a slow reader.
pub(super) const PIECE: usize = 64 * 1024;
const AHEAD: usize = 2;

/// A record's memory, read and encoded, as a multiple of its length: usually, and if each of its bytes is escaped.
const USUAL: usize = 4;
const WORST: usize = 7;

/// How long a stream waits for memory.
const MEMORY_WITHIN: Duration = Duration::from_secs(30);

/// While others wait for memory: how long a reader may take nothing, and how long it may hold memory at once. Both
/// are at least the reading time, so that no more is read than taken.
const IDLE: Duration = Duration::from_millis(200);
const TURN: Duration = Duration::from_secs(1);

/// Proxies close a connection that is silent for a minute.
const HEARTBEAT: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// One JSON object per line.
    Lines,
    /// Server-sent events; `id` is the offset.
    Events,
    /// Only the payload.
    Payload,
}

/// The records of a topic to read.
pub(super) struct Selection {
    /// The first offset.
    pub(super) from: u64,
    /// Exclusive; `None`: wait for new records.
    pub(super) until: Option<u64>,
    /// The most records.
    pub(super) limit: Option<u64>,
    pub(super) format: Format,
}

pub(super) struct MessageStream {
    pub(super) store: Arc<Store>,
    pub(super) budget: ReadBudget,
    pub(super) topic: String,
    pub(super) extents: watch::Receiver<Extent>,
    pub(super) draining: watch::Receiver<bool>,
    /// What is left to read.
    pub(super) rest: Selection,
    /// Held for as long as the stream lasts.
    pub(super) _slot: OwnedSemaphorePermit,
}

/// Why a stream ends early.
enum Ended {
    ReaderGone,
    Failed(Failure),
}

/// Why nothing more can be read, as text for the reader.
struct Failure {
    says: String,
    extent: Option<Extent>,
    /// Whether a part of a record was already sent.
    partly: bool,
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        log_failed(&error);
        let extent = if let ReadError::Gone(extent) = &error { Some(*extent) } else { None };
        Self { says: error.to_string(), extent, partly: false }
    }
}

/// Encoded records.
struct Chunk {
    count: u64,
    bytes: Vec<u8>,
}

type Sender = mpsc::Sender<io::Result<Bytes>>;

/// The body. Reading ends when it is dropped. If records cannot be read, a body of events ends with an `error` event.
/// Any other body, or one cut within a record, ends with an error, which cuts the connection.
pub(super) fn body(stream: MessageStream) -> UnsyncBoxBody<Bytes, io::Error> {
    let (sender, mut pieces) = mpsc::channel(AHEAD);
    tokio::spawn(stream.run(sender));
    let frames = futures_util::stream::poll_fn(move |context| pieces.poll_recv(context));
    StreamBody::new(futures_util::StreamExt::map(frames, |piece: io::Result<Bytes>| piece.map(Frame::data)))
        .boxed_unsync()
}

impl MessageStream {
    async fn run(mut self, sender: Sender) {
        while self.wants_more() {
            let next = self.extents.borrow_and_update().next;
            if self.rest.from >= next {
                if !self.wait(&sender).await {
                    return;
                }
            } else if let Err(ended) = self.hand_over(&sender).await {
                return self.end(ended, sender).await;
            }
        }
    }

    fn wants_more(&self) -> bool {
        self.rest.limit != Some(0) && self.rest.until.is_none_or(|until| self.rest.from < until)
    }

    /// Sends the next chunk piece by piece.
    async fn hand_over(&mut self, sender: &Sender) -> Result<(), Ended> {
        let mut sent = 0;
        loop {
            // Reads nothing, and holds no memory, before there is a slot for the next piece.
            let mut slot = sender.reserve().await.map_err(|_| Ended::ReaderGone)?;
            let partly = sent > 0;
            let failed = move |failure| Ended::Failed(Failure { partly, ..failure });
            let (chunk, reservation) = self.read().await.map_err(failed)?;
            loop {
                let end = chunk.bytes.len().min(sent + PIECE);
                let other = || failed(ReadError::Failed("a record is another than before".to_owned()).into());
                let piece = chunk.bytes.get(sent..end).ok_or_else(other)?;
                slot.send(Ok(Bytes::copy_from_slice(piece)));
                sent = end;
                if sent == chunk.bytes.len() {
                    self.rest.from += chunk.count;
                    self.rest.limit = self.rest.limit.map(|limit| limit - chunk.count);
                    return Ok(());
                }
                match self.next_slot(sender, &reservation).await? {
                    Some(next) => slot = next,
                    None => break,
                }
            }
        }
    }

    /// The slot of the next piece; `None` if the reader has to let others read first.
    async fn next_slot<'s>(
        &self,
        sender: &'s Sender,
        reservation: &Reservation,
    ) -> Result<Option<mpsc::Permit<'s, io::Result<Bytes>>>, Ended> {
        loop {
            if self.budget.is_contended() && reservation.held_for() >= TURN.max(reservation.fill_time()) {
                return Ok(None);
            }
            match tokio::time::timeout(IDLE.max(reservation.fill_time()), sender.reserve()).await {
                Ok(slot) => return slot.map(Some).map_err(|_| Ended::ReaderGone),
                Err(_) if self.budget.is_contended() => return Ok(None),
                Err(_) => {}
            }
        }
    }

    /// Reads and encodes the next chunk off the async workers. Returns the same chunk again if nothing of it was
    /// taken, or a longer one if records arrived meanwhile.
    async fn read(&self) -> Result<(Chunk, Reservation), Failure> {
        const NO_MEMORY: &str = "too much is read at once; read on from the next offset";
        let (store, topic, from) = (self.store.clone(), self.topic.clone(), self.rest.from);
        let size = blocking(move || Ok(store.size(&topic, from))).await?.max(CHUNK_BYTES);
        for times in [USUAL, WORST] {
            let held = self.budget.reserve(size * times, MEMORY_WITHIN).await;
            let held = held.ok_or_else(|| Failure { says: NO_MEMORY.to_owned(), extent: None, partly: false })?;
            let (store, topic, format) = (self.store.clone(), self.topic.clone(), self.rest.format);
            let until = self.rest.until.unwrap_or(u64::MAX);
            let limit = usize::try_from(self.rest.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
            let read = blocking(move || {
                let records = store.read(&topic, from, until, limit.min(CHUNK_RECORDS), CHUNK_BYTES)?;
                let most = if held.bytes() < MAX_BYTES { held.bytes().saturating_sub(size) } else { usize::MAX };
                let bytes = encode(&records, format, most);
                Ok(bytes.map(|bytes| (Chunk { count: records.len() as u64, bytes }, held)))
            });
            if let Some((chunk, mut held)) = read.await? {
                held.filled(chunk.bytes.len());
                return Ok((chunk, held));
            }
        }
        Err(ReadError::Failed("a record is longer than it can be".to_owned()).into())
    }

    /// Waits for new records. `false`: the reader has gone, or the bridge stops.
    async fn wait(&mut self, sender: &Sender) -> bool {
        let heartbeat = async {
            match self.rest.format {
                Format::Events => tokio::time::sleep(HEARTBEAT).await,
                Format::Lines | Format::Payload => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.extents.changed() => return changed.is_ok(),
            _ = self.draining.wait_for(|draining| *draining) => return false,
            () = sender.closed() => return false,
            () = heartbeat => {}
        }
        sender.send(Ok(Bytes::from_static(b":\n\n"))).await.is_ok()
    }

    async fn end(&self, ended: Ended, sender: Sender) {
        let Ended::Failed(failure) = ended else { return };
        let last = match self.rest.format {
            Format::Events if !failure.partly => Ok(error_event(&failure)),
            Format::Events | Format::Lines | Format::Payload => Err(io::Error::other(failure.says)),
        };
        // The reader may have gone, which is no error.
        let _ = sender.send(last).await;
    }
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    tokio::task::spawn_blocking(read).await.map_err(|error| ReadError::Failed(error.to_string()))?
}

/// `None` if it takes more than `most` bytes.
fn encode(records: &[Record], format: Format, most: usize) -> Option<Vec<u8>> {
    let usual: usize = records.iter().map(|record| record.payload.len() + record.payload.len() / 8 + 1024).sum();
    let mut bytes = Vec::with_capacity(usual.min(most)).limit(most).writer();
    for record in records {
        write(record, format, &mut bytes).ok()?;
    }
    Some(bytes.into_inner().into_inner())
}

fn write(record: &Record, format: Format, to: &mut impl Write) -> io::Result<()> {
    match format {
        Format::Lines => {
            serde_json::to_writer(&mut *to, record)?;
            to.write_all(b"\n")
        }
        Format::Events => {
            write!(to, "id: {}\ndata: ", record.offset)?;
            serde_json::to_writer(&mut *to, record)?;
            to.write_all(b"\n\n")
        }
        Format::Payload => to.write_all(&record.payload),
    }
}

fn error_event(failure: &Failure) -> Bytes {
    let error = ErrorJson::new(&failure.says, failure.extent);
    let data = serde_json::to_string(&error).expect("plain numbers and strings");
    format!("event: error\ndata: {data}\n\n").into()
}
