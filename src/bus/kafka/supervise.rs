//! Keeps the adapter true to the brokers: replaces a client that failed for good, watches the link,
//! has the topics looked after. Comes in: what woke it. Goes out: an up-to-date [`State`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::producer::Producer as _;

use super::pace::Pace;
use super::producer::Line;
use super::refusal::Trouble;
use super::state::State;
use super::topics::{Looked, Topics};

/// Between two rounds while all is well, not so well, and at least.
const CALM: Duration = Duration::from_secs(5);
const BUSY: Duration = Duration::from_secs(1);
const BREATH: Duration = Duration::from_millis(200);

/// Between two replacements of a client that fails again without a receipt in between.
const REPLACE_MOST: Duration = Duration::from_secs(60);

/// A client that hears of no broker for so long is replaced, as a restart of the bridge would: a broker that
/// has only just started may name no broker at all in its metadata, and librdkafka (2.12.1) then lets go of
/// every one it knows and looks for none again.
const LONG: Duration = Duration::from_secs(10);

/// Runs until it is dropped. The calls to the brokers block, each with a deadline, on threads of
/// their own.
pub(super) async fn supervise(line: Arc<Line>, state: Arc<State>, mut topics: Topics, patience: Duration) {
    let (mut replacing, mut silence, mut lost) = (Replacing::new(), Silence::default(), false);
    let (mut looked, mut seen) = (Looked::default(), false);
    let (mut last_look, mut next_look) = (Instant::now(), Instant::now());
    loop {
        if let Some(told) = state.take_told() {
            topics.replace(told);
            next_look = Instant::now();
        }
        let (asked, topic, before) = (Arc::clone(&line), topics.first(), state.receipts());
        let due = replacing.due();
        let round = tokio::task::spawn_blocking(move || {
            let fatal = asked.fatal();
            let (failed, overfills) = (lost || fatal.is_some(), asked.overfills());
            let replaced = due && (failed || overfills);
            if replaced {
                // One that fills its batches too full still delivers others.
                asked.replace(if failed { Duration::ZERO } else { patience });
            }
            (replaced, fatal, reached(&asked, topic.as_deref(), patience))
        });
        let Ok((replaced, fatal, reached)) = round.await else { return };
        if replaced {
            match fatal {
                Some(code) => tracing::warn!(?code, "the Kafka client failed for good and was replaced"),
                None if lost => {
                    tracing::info!("no Kafka broker answered for a while: looking for them with a new client")
                }
                None => tracing::warn!(
                    bytes = state.batches(),
                    remedy = "raise max.message.bytes of the topics that take little, then restart the bridge",
                    "a Kafka topic takes less than a batch of messages: they are sent in smaller ones from now on"
                ),
            }
            if let Some(trouble) = fatal.and_then(Trouble::of) {
                state.in_trouble(trouble);
            }
            replacing.done(before);
            silence = Silence::default();
        }
        replacing.settle(state.receipts());
        // A receipt says more than a slow answer about metadata.
        let heard = reached || state.receipts() != before;
        lost = silence.is_long(heard, Instant::now());
        if !heard {
            state.away();
        }
        // Somebody may have made the topic that a message was just refused for.
        let missed = || last_look.elapsed() >= CALM && state.take_missed();
        if reached && (state.take_look() || Instant::now() >= next_look || missed()) {
            looked = topics.tend(&line, &state, patience).await;
            seen = seen || looked.seen;
            last_look = Instant::now();
            next_look = last_look + looked.rest;
        }
        // Up, and so ready, only once its topics were seen to: what came before that would be refused.
        if heard && seen {
            state.up();
        }
        let pause = if reached && looked.settled && replacing.due() { CALM } else { BUSY };
        // A message wakes at any rate; rounds keep a distance.
        tokio::time::sleep(BREATH).await;
        tokio::select! {
            () = state.woken() => {}
            () = tokio::time::sleep(pause.min(next_look.saturating_duration_since(Instant::now()))) => {}
        }
    }
}

/// Whether any broker answers within `patience`.
fn reached(line: &Line, topic: Option<&str>, patience: Duration) -> bool {
    line.client().is_some_and(|client| client.client().fetch_metadata(topic, patience).is_ok())
}

/// When the next replacement may be.
struct Replacing {
    pace: Pace,
    receipts: u64,
}

impl Replacing {
    fn new() -> Self {
        Self { pace: Pace::new(BREATH, REPLACE_MOST), receipts: 0 }
    }

    fn due(&self) -> bool {
        self.pace.due(Instant::now())
    }

    fn done(&mut self, receipts: u64) {
        self.pace.slow(Instant::now());
        self.receipts = receipts;
    }

    /// A receipt since the last replacement ends the waiting.
    fn settle(&mut self, receipts: u64) {
        if receipts != self.receipts {
            self.pace.reset();
        }
    }
}

/// Since when no broker was heard of.
#[derive(Default)]
struct Silence(Option<Instant>);

impl Silence {
    /// Another look: whether it has lasted for [`LONG`].
    fn is_long(&mut self, heard: bool, now: Instant) -> bool {
        if heard {
            self.0 = None;
            return false;
        }
        now - *self.0.get_or_insert(now) >= LONG
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_long_where_nothing_breaks_it() {
        let begun = Instant::now();
        let mut silence = Silence::default();
        let mut look = |heard, seconds| silence.is_long(heard, begun + Duration::from_secs(seconds));
        assert!(!look(true, 0));
        assert!(!look(false, 100), "the first look that hears nothing");
        assert!(!look(false, 109));
        assert!(!look(true, 110));
        assert!(!look(false, 111));
        assert!(look(false, 121));
    }
}
