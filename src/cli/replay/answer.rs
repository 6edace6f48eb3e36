//! What a destination says of a record.

/// What came of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Answer {
    /// How the destination put it: `kept`, `duplicate`, or another outcome of a delivery.
    Done(String),
    /// A later attempt may succeed.
    NotYet(String),
    /// No attempt will.
    Never(String),
}
