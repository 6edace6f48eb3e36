//! What a log is given, what it answers, and why it does not open.

use std::borrow::Cow;

use bytes::Bytes;
use jiff::Timestamp;

/// A message, as far as a log needs to know it.
pub(crate) trait Entry: Send + Sync {
    fn topic(&self) -> &str;
    fn key(&self) -> &str;
    /// Of messages with equal keys it is equal.
    fn key_digest(&self) -> u64;
    /// A log keeps no second entry that has either of them in common.
    fn digests(&self) -> [&[u8; 32]; 2];
    fn headers(&self) -> Box<dyn Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> + '_>;
    fn payload(&self) -> &Bytes;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// On disk.
    Kept,
    /// On disk already.
    Duplicate,
}

/// Why an entry is not kept. It may well be later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotKept(pub(crate) Cow<'static, str>);

/// A delivery that something else keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LedgerEntry {
    pub(crate) kept: Timestamp,
    pub(crate) keys: [[u8; 16]; 2],
}

/// Why a log cannot be opened, with the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct OpenError(pub(crate) String);
