//! The bytes of a body with their share of the memory budget.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

/// Exactly the bytes received. Cloning shares them; dropping the last clone gives their share of
/// `server.bytes_in_flight` back.
#[derive(Debug, Clone)]
pub struct Payload {
    bytes: Bytes,
    _share: Option<Arc<OwnedSemaphorePermit>>,
}

impl Payload {
    pub(super) fn new(bytes: Bytes, share: Option<OwnedSemaphorePermit>) -> Self {
        Self { bytes, _share: share.map(Arc::new) }
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Read back from a disk, by somebody with a bound of his own.
    pub fn stored(bytes: Bytes) -> Self {
        Self { bytes, _share: None }
    }

    #[cfg(test)]
    pub(crate) fn unbudgeted(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), _share: None }
    }
}
