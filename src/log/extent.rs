//! What a topic of a log holds.

/// What a topic holds: offsets from `earliest` up to, but without, `next`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) earliest: u64,
    pub(crate) next: u64,
    /// Bytes ever kept before the earliest record, and before the next.
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Extent {
    pub(crate) fn messages(&self) -> u64 {
        self.next - self.earliest
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.end - self.start
    }
}
