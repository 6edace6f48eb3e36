//! Whether a client reads what is written to it, and how long unread bytes may wait.

use std::time::Duration;

use tokio::time::Instant;

/// A client that lets written bytes wait must take `LEAST_TAKEN` bytes in this time: more than a reply now and then.
const STALL: Duration = Duration::from_secs(30);
const LEAST_TAKEN: usize = 64 << 10;

/// After this long without a blocked write, the client counts as reading again.
const FLOWS_AGAIN: Duration = Duration::from_secs(2);

/// Tracks bytes that the client does not read. The kernel takes a small reply now and then even for a client that
/// reads nothing, so that alone is no progress.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// When the backlog began, or when enough was last taken; and how many bytes were taken since.
    since: Option<Instant>,
    taken: usize,
    /// When a write last blocked, and whether one blocks now.
    last: Option<Instant>,
    waits: bool,
}

impl Backlog {
    pub(super) fn held_up(&mut self, taken: usize) {
        let now = Instant::now();
        if !self.lasts(now) {
            *self = Self { since: Some(now), ..Self::default() };
        }
        self.last = Some(now);
        self.waits = true;
        self.took(taken);
    }

    pub(super) fn flowed(&mut self, taken: usize) {
        self.waits = false;
        self.took(taken);
    }

    /// A client that takes enough gets the full time again.
    fn took(&mut self, bytes: usize) {
        self.taken += bytes;
        if self.taken >= LEAST_TAKEN {
            self.taken = 0;
            self.since = self.since.map(|_| Instant::now());
        }
    }

    fn lasts(&self, now: Instant) -> bool {
        self.since.is_some() && (self.waits || self.last.is_some_and(|last| now < last + FLOWS_AGAIN))
    }

    /// The deadline of the current backlog.
    pub(super) fn end(&self) -> Option<Instant> {
        Some(self.since.filter(|_| self.lasts(Instant::now()))? + STALL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_occasional_small_reply_is_no_progress_and_a_moving_stream_is() {
        let mut backlog = Backlog::default();
        assert_eq!(backlog.end(), None);
        let began = Instant::now();
        for _ in 0..25 {
            backlog.held_up(0);
            backlog.flowed(170);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        backlog.held_up(0);
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(backlog.end(), Some(began + STALL), "in the past");

        let mut backlog = Backlog::default();
        for _ in 0..100 {
            backlog.held_up(20_000);
            tokio::time::advance(Duration::from_secs(1)).await;
            assert!(backlog.end().is_some_and(|end| end > Instant::now()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_again_has_no_deadline() {
        let mut backlog = Backlog::default();
        backlog.held_up(0);
        backlog.flowed(170);
        assert!(backlog.end().is_some());
        tokio::time::advance(FLOWS_AGAIN).await;
        assert_eq!(backlog.end(), None);
        let later = Instant::now();
        backlog.held_up(0);
        assert_eq!(backlog.end(), Some(later + STALL));
    }
}
