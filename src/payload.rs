//! The bytes of a body, with their share of the memory budget for all bodies.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The memory budget for all bodies together.
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

    /// Tries once and never waits: two bodies that wait while each holds a share would deadlock.
    pub(crate) fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
    }
}

/// Exactly the bytes received. Cloning shares them; dropping the last clone returns their share of
/// `server.bytes_in_flight`.
#[derive(Debug, Clone)]
pub struct Payload {
    bytes: Bytes,
    _share: Option<Arc<OwnedSemaphorePermit>>,
}

impl Payload {
    pub(crate) fn new(bytes: Bytes, share: Option<OwnedSemaphorePermit>) -> Self {
        Self { bytes, _share: share.map(Arc::new) }
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Outside the budget: read back from disk by a reader with a limit of its own.
    pub fn unbudgeted(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), _share: None }
    }
}
