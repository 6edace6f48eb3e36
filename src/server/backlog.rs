//! Whether a client reads what is written to it, and until when what waits may go on waiting.

use std::time::Duration;

use tokio::time::Instant;

/// How long a client may keep what is written to it waiting, and how many bytes it has to take in that
/// time: more than a reply now and then.
const STALL: Duration = Duration::from_secs(30);
const LEAST_TAKEN: usize = 64 << 10;

/// Nothing was held up for so long: the client reads again.
const FLOWS_AGAIN: Duration = Duration::from_secs(2);

/// What a client does not take of what is written to it. One that reads nothing still has the kernel
/// take a small reply now and then: that alone is no progress.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// Since when, or since enough was taken the last time; and how much was since.
    since: Option<Instant>,
    taken: usize,
    /// When something was last held up, and whether it still is.
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

    /// A client that takes enough has its time anew.
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

    /// Until when it may last.
    pub(super) fn end(&self) -> Option<Instant> {
        Some(self.since.filter(|_| self.lasts(Instant::now()))? + STALL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reply_now_and_then_is_no_progress_and_a_stream_that_moves_is() {
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
    async fn who_reads_again_is_not_reminded() {
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
