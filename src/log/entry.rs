//! What a log takes, what it answers, and why it does not open.

use std::borrow::Cow;

use bytes::Bytes;
use jiff::Timestamp;

/// A message, as far as a log needs to know it.
pub(crate) trait Entry: Send + Sync {
    fn topic(&self) -> &str;
    fn key(&self) -> &str;
    /// Equal for messages with equal keys.
    fn key_digest(&self) -> u64;
    /// A log stores no second entry that shares either digest.
    fn digests(&self) -> [&[u8; 32]; 2];
    fn headers(&self) -> Box<dyn Iterator<Item = (&'static str, Cow<'_, str>)> + '_>;
    fn payload(&self) -> &Bytes;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// Now on disk.
    Kept,
    /// On disk already.
    Duplicate,
}

/// Why an entry was not stored. A later attempt may store it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotKept(pub(crate) Cow<'static, str>);

/// A delivery that is stored elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LedgerEntry {
    pub(crate) kept: Timestamp,
    pub(crate) keys: [[u8; 16]; 2],
}

/// Why a log cannot be opened, with the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct OpenError(pub(crate) String);
