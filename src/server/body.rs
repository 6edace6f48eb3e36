//! Reads one body within its limits. Comes in: hyper's frames. Goes out: a [`Payload`], and each
//! frame on its way, for whoever hashes.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Payload;

/// What a body may lag behind the least rate: a round trip or two, a retransmission.
const RATE_GRACE: Duration = Duration::from_secs(2);

/// The memory that all bodies together may take.
#[derive(Clone)]
pub struct Budget {
    free: Arc<Semaphore>,
    total: usize,
}

impl Budget {
    pub fn new(bytes: usize) -> Self {
        let total = bytes.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(total)), total }
    }

    /// Bytes.
    pub fn taken(&self) -> usize {
        self.total - self.free.available_permits()
    }

    /// Takes by trying, never by waiting: two that wait while each holds some would wait for good.
    fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
    }
}

/// Why a body was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    TooLarge,
    TooSlow,
    /// The budget is spent.
    NoRoom,
    /// The client went away or broke the framing.
    Broken,
}

/// A body that was not read yet.
pub struct Body {
    incoming: Incoming,
    announced: Option<u64>,
    /// Bytes.
    pub max: usize,
    /// Bytes a second.
    pub min_rate: u64,
    pub deadline: Instant,
}

impl Body {
    pub fn new(incoming: Incoming, headers: &HeaderMap, max: usize, min_rate: u64, deadline: Instant) -> Self {
        let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Self { incoming, announced, max, min_rate, deadline }
    }

    /// Whether the announced length alone is over the limit.
    pub fn announces_too_much(&self) -> bool {
        self.announced.is_some_and(|length| length > self.max as u64)
    }

    /// Reads to the end; `on_frame` sees every byte once, in order. The budget is taken as bytes
    /// arrive, so an announced body costs nothing until it is sent. Cancel-safe: what was taken of
    /// the budget goes back.
    pub async fn read(mut self, budget: &Budget, mut on_frame: impl FnMut(&[u8])) -> Result<Payload, BodyError> {
        if self.announces_too_much() {
            return Err(BodyError::TooLarge);
        }
        let started = Instant::now();
        let mut gathered = Gathered::default();
        let mut share: Option<OwnedSemaphorePermit> = None;
        while let Some(frame) = self.next(started, gathered.len()).await? {
            if gathered.len() + frame.len() > self.max {
                return Err(BodyError::TooLarge);
            }
            let more = budget.take(frame.len()).ok_or(BodyError::NoRoom)?;
            match &mut share {
                Some(share) => share.merge(more),
                None => share = Some(more),
            }
            on_frame(&frame);
            let rest = self.incoming.size_hint().exact().map_or(0, |rest| rest as usize);
            gathered.push(frame, rest);
        }
        Ok(Payload::new(gathered.into_bytes(), share))
    }

    async fn next(&mut self, started: Instant, received: usize) -> Result<Option<Bytes>, BodyError> {
        let earned = Duration::from_secs_f64(received as f64 / self.min_rate.max(1) as f64);
        let end = self.deadline.min(started + RATE_GRACE + earned);
        loop {
            match tokio::time::timeout_at(end, self.incoming.frame()).await {
                Err(_) => return Err(BodyError::TooSlow),
                Ok(None) => return Ok(None),
                Ok(Some(Err(_))) => return Err(BodyError::Broken),
                // Anything but data is a trailer, and nobody here reads those.
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => continue,
                },
            }
        }
    }
}

/// One frame as it came, or several in one buffer of the announced size.
#[derive(Default)]
enum Gathered {
    #[default]
    Nothing,
    One(Bytes),
    Many(BytesMut),
}

impl Gathered {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::One(bytes) => bytes.len(),
            Self::Many(buffer) => buffer.len(),
        }
    }

    fn push(&mut self, frame: Bytes, rest: usize) {
        match self {
            Self::Nothing => *self = Self::One(frame),
            Self::One(first) => {
                let mut buffer = BytesMut::with_capacity(first.len() + frame.len() + rest);
                buffer.extend_from_slice(first);
                buffer.extend_from_slice(&frame);
                *self = Self::Many(buffer);
            }
            Self::Many(buffer) => buffer.extend_from_slice(&frame),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::One(bytes) => bytes,
            Self::Many(buffer) => buffer.freeze(),
        }
    }
}
