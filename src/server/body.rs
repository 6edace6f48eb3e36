//! Reads one body within its limits. Comes in: hyper's frames. Goes out: a [`Payload`], and each
//! frame on its way, for whoever hashes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Payload;

/// What a body may lag behind the least rate: a round trip or two, a retransmission.
const RATE_GRACE: Duration = Duration::from_secs(2);

/// Bytes reserved for a body that does not come whole, before more of it has come.
const FIRST_CAPACITY: usize = 4 << 10;

/// Bytes. A complete body counts as this much at least: key, headers and what a bus's client keeps
/// beside it cost a quarter of this, however small it is.
const LEAST_SHARE: usize = 16 << 10;

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

/// Whether a body comes in another content coding than identity. None is named by an empty list as well.
pub fn coded(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(CONTENT_ENCODING).iter();
    let mut codings = lists.flat_map(|list| list.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    codings.any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
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

    /// Reads to the end, which is too slow past the deadline even where all had come by then; `on_frame`
    /// sees every byte once, in order. The budget is taken as bytes arrive, so an announced body costs
    /// nothing until it is sent. Cancel-safe: what was taken of the budget goes back.
    pub async fn read(mut self, budget: &Budget, mut on_frame: impl FnMut(&[u8])) -> Result<Payload, BodyError> {
        if self.announces_too_much() {
            return Err(BodyError::TooLarge);
        }
        let started = Instant::now();
        let whole = self.announced.and_then(|length| usize::try_from(length).ok());
        let mut gathered = Gathered::new(budget, whole.unwrap_or(self.max).min(self.max))?;
        while let Some(frame) = self.next(started, gathered.bytes.len()).await? {
            if gathered.bytes.len() + frame.len() > self.max {
                return Err(BodyError::TooLarge);
            }
            gathered.push(&frame, budget)?;
            on_frame(&frame);
        }
        if Instant::now() > self.deadline {
            return Err(BodyError::TooSlow);
        }
        gathered.finish(budget)
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

/// One buffer that grows with what arrives, and its share of the budget: what was reserved, not what
/// was filled. Frames are copied into it, since one of a few bytes would keep all of the connection's
/// read buffer, and the announced size is not reserved at once, since an announcement costs nothing.
struct Gathered {
    bytes: Vec<u8>,
    /// The most that can come.
    most: usize,
    share: OwnedSemaphorePermit,
}

impl Gathered {
    fn new(budget: &Budget, most: usize) -> Result<Self, BodyError> {
        Ok(Self { bytes: Vec::new(), most, share: budget.take(0).ok_or(BodyError::NoRoom)? })
    }

    fn push(&mut self, frame: &[u8], budget: &Budget) -> Result<(), BodyError> {
        let (needed, held) = (self.bytes.len() + frame.len(), self.bytes.capacity());
        if needed > held {
            let capacity = needed.max(self.most.min(FIRST_CAPACITY.max(2 * held)));
            self.share.merge(budget.take(capacity - held).ok_or(BodyError::NoRoom)?);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(frame);
        Ok(())
    }

    fn finish(mut self, budget: &Budget) -> Result<Payload, BodyError> {
        let lacking = LEAST_SHARE.saturating_sub(self.share.num_permits());
        self.share.merge(budget.take(lacking).ok_or(BodyError::NoRoom)?);
        Ok(Payload::new(self.bytes.into(), Some(self.share)))
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
            assert_eq!(coded(&lines.iter().map(line).collect()), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_body_is_charged_what_it_reserves_and_never_much_more_than_came() {
        let budget = Budget::new(4 * MIB);
        let mut gathered = Gathered::new(&budget, MIB).unwrap();
        assert_eq!(budget.taken(), 0, "an announcement costs nothing");
        for so_far in (1000..=MIB).step_by(1000) {
            gathered.push(&[b' '; 1000], &budget).unwrap();
            assert_eq!(gathered.bytes.capacity(), budget.taken());
            assert!(budget.taken() <= (2 * so_far).max(FIRST_CAPACITY), "{} for {so_far}", budget.taken());
        }
        assert_eq!(budget.taken(), MIB, "the announced size is the most");
        drop(gathered.finish(&budget).unwrap());
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn a_body_that_comes_at_once_is_reserved_to_the_byte_and_counts_as_the_least_share() {
        let budget = Budget::new(MIB);
        let mut gathered = Gathered::new(&budget, 2000).unwrap();
        gathered.push(&[b' '; 2000], &budget).unwrap();
        assert_eq!(budget.taken(), 2000);
        let payload = gathered.finish(&budget).unwrap();
        assert_eq!((payload.bytes().len(), budget.taken()), (2000, LEAST_SHARE));
        let empty = Gathered::new(&budget, 0).unwrap().finish(&budget).unwrap();
        assert_eq!((empty.bytes().len(), budget.taken()), (0, 2 * LEAST_SHARE));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_gives_back_what_it_had() {
        let budget = Budget::new(10_000);
        let mut gathered = Gathered::new(&budget, MIB).unwrap();
        gathered.push(&[b' '; 4000], &budget).unwrap();
        assert_eq!(gathered.push(&[b' '; 4000], &budget), Ok(()));
        assert_eq!(gathered.push(&[b' '; 4000], &budget), Err(BodyError::NoRoom));
        assert_eq!(budget.taken(), 8192);
        assert_eq!(gathered.finish(&budget).err(), Some(BodyError::NoRoom));
        assert_eq!(budget.taken(), 0);
    }
}
