//! Reads one body within its limits, frame by frame, into one [`Payload`].

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::payload::{Budget, Payload, Share};

/// How far a body may lag behind the minimum rate: a round trip or two, or a retransmission.
const RATE_GRACE: Duration = Duration::from_secs(2);

/// Bytes reserved for a body that does not arrive in one frame.
const FIRST_CAPACITY: usize = 4 << 10;

/// Bytes. The least that a complete body counts as: key, headers and the bus client's bookkeeping cost a quarter of
/// this, even for a tiny body.
const LEAST_SHARE: usize = 16 << 10;

/// Why a body was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    TooLarge,
    TooSlow,
    /// The budget is spent.
    NoRoom,
    /// The client disconnected or broke the framing.
    Broken,
}

/// Whether a body has a content coding other than identity. An empty list means none.
pub fn has_content_encoding(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(CONTENT_ENCODING).iter();
    let mut codings = lists.flat_map(|list| list.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    codings.any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
}

/// The limits of one body.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// Bytes.
    pub max: usize,
    /// Bytes per second.
    pub min_rate: u64,
    pub deadline: Instant,
}

/// A body that is being read. It takes its share of the budget as bytes arrive, so an announced length costs nothing
/// until the bytes are sent. Dropping it returns the share.
pub struct Body {
    incoming: Incoming,
    limits: BodyLimits,
    started: Instant,
    buffer: Buffer,
}

impl Body {
    /// Starts with the head: refuses a body whose announced length exceeds the limit.
    pub fn start(
        incoming: Incoming,
        headers: &HeaderMap,
        limits: BodyLimits,
        budget: &Budget,
    ) -> Result<Self, BodyError> {
        let announced: Option<u64> = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if announced.is_some_and(|length| length > limits.max as u64) {
            return Err(BodyError::TooLarge);
        }
        let most = announced.and_then(|length| usize::try_from(length).ok()).unwrap_or(limits.max);
        Ok(Self { incoming, limits, started: Instant::now(), buffer: Buffer::new(budget, most) })
    }

    /// The next frame, already appended to the payload; `None` at the end of the body. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        let Some(frame) = self.receive().await? else { return Ok(None) };
        if self.buffer.bytes.len() + frame.len() > self.limits.max {
            return Err(BodyError::TooLarge);
        }
        self.buffer.push(&frame)?;
        Ok(Some(frame))
    }

    /// Call after the last frame. Too slow after the deadline, even if all frames had arrived by then.
    pub fn finish(self) -> Result<Payload, BodyError> {
        if Instant::now() > self.limits.deadline {
            return Err(BodyError::TooSlow);
        }
        self.buffer.finish()
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, BodyError> {
        let earned = Duration::from_secs_f64(self.buffer.bytes.len() as f64 / self.limits.min_rate.max(1) as f64);
        let end = self.limits.deadline.min(self.started + RATE_GRACE + earned);
        loop {
            match tokio::time::timeout_at(end, self.incoming.frame()).await {
                Err(_) => return Err(BodyError::TooSlow),
                Ok(None) => return Ok(None),
                Ok(Some(Err(_))) => return Err(BodyError::Broken),
                // Anything but data is a trailer, which is ignored.
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => continue,
                },
            }
        }
    }
}

/// One growing buffer and its share of the budget, which counts the reserved capacity and not the filled part. Frames
/// are copied into it, because a frame of a few bytes would pin the connection's whole read buffer. It does not
/// reserve the announced size at once, because an announcement costs the client nothing.
struct Buffer {
    bytes: Vec<u8>,
    /// The most that can arrive.
    most: usize,
    share: Share,
}

impl Buffer {
    fn new(budget: &Budget, most: usize) -> Self {
        Self { bytes: Vec::new(), most, share: budget.share() }
    }

    fn push(&mut self, frame: &[u8]) -> Result<(), BodyError> {
        let (needed, held) = (self.bytes.len() + frame.len(), self.bytes.capacity());
        if needed > held {
            let capacity = needed.max(self.most.min(FIRST_CAPACITY.max(2 * held)));
            self.reserve(capacity - held)?;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(frame);
        Ok(())
    }

    fn finish(mut self) -> Result<Payload, BodyError> {
        self.reserve(LEAST_SHARE.saturating_sub(self.share.bytes))?;
        Ok(Payload::new(self.bytes.into(), self.share))
    }

    fn reserve(&mut self, bytes: usize) -> Result<(), BodyError> {
        if self.share.grow(bytes) { Ok(()) } else { Err(BodyError::NoRoom) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn identity_and_an_empty_list_are_no_coding() {
        for (lines, expected) in [
            (&[][..], false),
            (&[""], false),
            (&["identity"], false),
            (&["Identity, identity"], false),
            (&[" ,identity,\t"], false),
            (&["identity", ""], false),
            (&["gzip"], true),
            (&["identity, gzip"], true),
            (&["identity", "br"], true),
            (&["identity;q=1"], true),
            (&["*"], true),
        ] {
            let line = |line: &&str| (CONTENT_ENCODING, line.parse().expect("a header's value"));
            assert_eq!(has_content_encoding(&lines.iter().map(line).collect()), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_body_is_charged_its_capacity_and_never_much_more_than_arrived() {
        let budget = Budget::new(4 * MIB);
        let mut buffer = Buffer::new(&budget, MIB);
        assert_eq!(budget.taken(), 0, "an announcement costs nothing");
        for so_far in (1000..=MIB).step_by(1000) {
            buffer.push(&[b' '; 1000]).unwrap();
            assert_eq!(buffer.bytes.capacity(), budget.taken());
            assert!(budget.taken() <= (2 * so_far).max(FIRST_CAPACITY), "{} for {so_far}", budget.taken());
        }
        assert_eq!(budget.taken(), MIB, "the announced size is the most");
        drop(buffer.finish().unwrap());
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn a_body_that_arrives_in_one_frame_reserves_its_exact_size_and_counts_as_the_minimum_share() {
        let budget = Budget::new(MIB);
        let mut buffer = Buffer::new(&budget, 2000);
        buffer.push(&[b' '; 2000]).unwrap();
        assert_eq!(budget.taken(), 2000);
        let payload = buffer.finish().unwrap();
        assert_eq!((payload.bytes().len(), budget.taken()), (2000, LEAST_SHARE));
        let empty = Buffer::new(&budget, 0).finish().unwrap();
        assert_eq!((empty.bytes().len(), budget.taken()), (0, 2 * LEAST_SHARE));
    }

    #[test]
    fn a_body_over_the_budget_is_refused_and_returns_its_share() {
        let budget = Budget::new(10_000);
        let mut buffer = Buffer::new(&budget, MIB);
        buffer.push(&[b' '; 4000]).unwrap();
        assert_eq!(buffer.push(&[b' '; 4000]), Ok(()));
        assert_eq!(buffer.push(&[b' '; 4000]), Err(BodyError::NoRoom));
        assert_eq!(budget.taken(), 8192);
        assert_eq!(buffer.finish().err(), Some(BodyError::NoRoom));
        assert_eq!(budget.taken(), 0);
    }
}
