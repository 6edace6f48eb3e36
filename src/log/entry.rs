//! What a log takes, what it answers, and why it does not open.

use std::borrow::Cow;

use bytes::Bytes;

/// A message, as far as a log needs to know it.
pub(crate) trait Entry: Send + Sync {
    fn topic(&self) -> &str;
    fn key(&self) -> &str;
    /// Equal for messages with equal keys.
    fn key_digest(&self) -> u64;
    /// By which the delivery is known again after a restart.
    fn ids(&self) -> [[u8; 16]; 2];
    /// Appends its headers, each as `name: value\r\n`.
    fn put_headers(&self, to: &mut Vec<u8>);
    fn payload(&self) -> &Bytes;
}

/// Why an entry was not stored. A later attempt may store it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotKept(pub(crate) Cow<'static, str>);

/// Why a log cannot be opened, with the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct OpenError(pub(crate) String);
