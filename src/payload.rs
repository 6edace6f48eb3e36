//! The bytes of a body, with their share of the memory budget for all bodies.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;

/// The memory budget for all bodies together. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Budget {
    taken: Arc<AtomicUsize>,
    total: usize,
}

/// A part of the budget. Dropping it returns it.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    pub(crate) bytes: usize,
}

impl Budget {
    pub fn new(bytes: usize) -> Self {
        Self { taken: Arc::default(), total: bytes }
    }

    /// Bytes.
    pub fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    pub(crate) fn share(&self) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }
}

impl Share {
    /// Tries once and never waits: two bodies that wait while each holds a share would deadlock. Whether there was
    /// room.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let Budget { taken, total } = &self.budget;
        let fits = |taken: usize| taken.checked_add(bytes).filter(|taken| taken <= total);
        let grown = taken.fetch_update(Relaxed, Relaxed, fits).is_ok();
        if grown {
            self.bytes += bytes;
        }
        grown
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Relaxed);
    }
}

/// Exactly the bytes received. Cloning shares them; dropping the last clone returns their share of
/// `server.bytes_in_flight`.
#[derive(Debug, Clone)]
pub struct Payload {
    bytes: Bytes,
    _share: Option<Arc<Share>>,
}

impl Payload {
    pub(crate) fn new(bytes: Bytes, share: Share) -> Self {
        Self { bytes, _share: Some(Arc::new(share)) }
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Outside the budget: read back from disk by a reader with a limit of its own.
    pub fn unbudgeted(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), _share: None }
    }
}
