//! When the Kafka client is replaced by a new one, and why.

use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode as Code;

use super::backoff::Backoff;

/// A client that hears of no broker for so long is replaced, as a restart of the bridge would: a broker that
/// has only just started may name no broker at all in its metadata, and librdkafka (2.12.1) then lets go of
/// every one it knows and looks for none again.
const NO_ANSWER: Duration = Duration::from_secs(10);

/// A client by which no message is kept for so long, though brokers answer, is replaced as well.
const STUCK: Duration = Duration::from_secs(5);

/// Between two replacements without a receipt in between: twice as long each time.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MOST: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The client failed for good.
    Failed(Code),
    NoAnswer,
    Stuck,
    /// Its batches are larger than some topic takes.
    LargeBatches,
}

#[derive(Default)]
pub(super) struct Replacement {
    no_answer: Lasting,
    stuck: Lasting,
    is_lost: bool,
    is_stuck: bool,
    /// At the last round or replacement.
    receipts: u64,
    /// Whether there was no new client at the last attempt.
    failed: bool,
    backoff: Backoff,
}

impl Replacement {
    /// Why the client is to be replaced now. Batches get smaller a few times only, and what is crowded in them waits
    /// for that: it does not wait for what clients that fail again and again wait for.
    pub(super) fn reason(&self, failed: Option<Code>, overfills: bool, now: Instant) -> Option<Reason> {
        let reason = match failed {
            Some(code) => Reason::Failed(code),
            None if self.is_lost => Reason::NoAnswer,
            None if self.is_stuck => Reason::Stuck,
            None if overfills => Reason::LargeBatches,
            None => return None,
        };
        (self.is_due(now) || overfills && !self.failed).then_some(reason)
    }

    /// Whether a replacement need not wait.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.backoff.is_due(now)
    }

    /// The client was replaced, or could not be. `receipts`: so many were kept before.
    pub(super) fn attempted(&mut self, replaced: bool, receipts: u64, now: Instant) {
        self.failed = !replaced;
        self.backoff.delay(now, PAUSE_FIRST..=PAUSE_MOST);
        if replaced {
            self.receipts = receipts;
            (self.no_answer, self.stuck) = (Lasting::default(), Lasting::default());
        }
    }

    /// What a round found: whether brokers answer, whether messages timed out though they do, and how many are kept
    /// since the start.
    pub(super) fn observe(&mut self, answered: bool, timed_out: bool, receipts: u64, now: Instant) {
        if receipts != self.receipts {
            self.receipts = receipts;
            self.stuck = Lasting::default();
            self.backoff.reset();
        }
        self.is_lost = self.no_answer.time(!answered, now) >= NO_ANSWER;
        // Rounds in which none times out say nothing.
        self.is_stuck = timed_out && self.stuck.time(true, now) >= STUCK;
    }
}

/// For how long something lasts.
#[derive(Default)]
pub(super) struct Lasting(Option<Instant>);

impl Lasting {
    pub(super) fn time(&mut self, lasts: bool, now: Instant) -> Duration {
        if !lasts {
            self.0 = None;
            return Duration::ZERO;
        }
        now - *self.0.get_or_insert(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_silence_is_long_where_nothing_breaks_it() {
        let begun = Instant::now();
        let mut replacement = Replacement::default();
        let mut is_lost = |answered, after| {
            replacement.observe(answered, false, 0, begun + seconds(after));
            replacement.reason(None, false, begun + seconds(after)) == Some(Reason::NoAnswer)
        };
        assert!(!is_lost(true, 0));
        assert!(!is_lost(false, 100), "the first round without an answer");
        assert!(!is_lost(false, 109));
        assert!(!is_lost(true, 110));
        assert!(!is_lost(false, 111));
        assert!(is_lost(false, 121));
    }

    #[test]
    fn batches_get_smaller_without_waiting_for_what_clients_that_fail_wait_for() {
        let now = Instant::now();
        let mut replacement = Replacement::default();
        replacement.attempted(true, 0, now);
        assert_eq!(replacement.reason(Some(Code::Fatal), false, now), None);
        assert_eq!(replacement.reason(None, true, now), Some(Reason::LargeBatches));
        replacement.attempted(false, 0, now);
        assert_eq!(replacement.reason(None, true, now), None, "there was no new client");
    }

    #[test]
    fn a_client_is_stuck_where_message_after_message_times_out() {
        let begun = Instant::now();
        let mut replacement = Replacement::default();
        let mut is_stuck = |timed_out, receipts, after| {
            replacement.observe(true, timed_out, receipts, begun + seconds(after));
            replacement.reason(None, false, begun + seconds(after)) == Some(Reason::Stuck)
        };
        assert!(!is_stuck(true, 0, 0) && !is_stuck(false, 0, 9));
        assert!(is_stuck(true, 0, 10));
        assert!(!is_stuck(true, 1, 11), "one was kept meanwhile");
        assert!(!is_stuck(true, 1, 15) && is_stuck(true, 1, 16));
    }

    #[test]
    fn pauses_grow_up_to_a_bound_until_a_receipt() {
        let mut now = Instant::now();
        let mut replacement = Replacement::default();
        for millis in [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000] {
            assert!(replacement.is_due(now));
            replacement.attempted(true, 0, now);
            assert!(!replacement.is_due(now + Duration::from_millis(millis - 1)));
            now += Duration::from_millis(millis);
        }
        replacement.attempted(true, 0, now);
        replacement.observe(true, false, 1, now);
        assert!(replacement.is_due(now));
    }
}
