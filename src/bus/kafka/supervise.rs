//! Keeps the adapter true to the brokers: replaces a client that failed for good, watches the link,
//! has the topics looked after. Comes in: what woke it. Goes out: an up-to-date [`State`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::producer::Producer as _;

use super::cause::Cause;
use super::creation::address;
use super::look::{NOT_AT, not_reached_by};
use super::pace::Pace;
use super::producer::Line;
use super::refusal::Trouble;
use super::state::State;
use super::topics::{Looked, Topics};
use crate::bus::ConnectionState;

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

/// A client by which no message is kept for so long, though brokers answer, is replaced as well.
const STUCK: Duration = Duration::from_secs(5);

/// How long nobody answers before that is said, and how often it is said again.
const SAY_AFTER: Duration = Duration::from_secs(5);
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Runs until it is dropped. The calls to the brokers block, each with a deadline, on threads of
/// their own.
pub(super) async fn supervise(line: Arc<Line>, state: Arc<State>, mut topics: Topics, patience: Duration) {
    let (mut replacing, mut silence, mut lost) = (Replacing::new(), Silence::default(), false);
    let (mut stuck, mut is_stuck, mut in_vain) = (Stuck::default(), false, false);
    let (mut looked, mut given) = (Looked::default(), Vec::new());
    let (mut unheard, mut unreached) = (Complaint::new(SAY_AFTER), Complaint::new(SAY_AFTER));
    let (mut last_look, mut next_look) = (Instant::now(), Instant::now());
    loop {
        if let Some(told) = state.take_told() {
            topics.replace(told);
            next_look = Instant::now();
        }
        let met = state.take_met();
        if topics.add(met) {
            next_look = Instant::now();
        }
        let (asked, topic, before) = (Arc::clone(&line), topics.first(), state.receipts());
        let due = replacing.due();
        let round = tokio::task::spawn_blocking(move || {
            let fatal = asked.fatal();
            let (failed, overfills) = (lost || fatal.is_some(), asked.overfills());
            let tried = replaces(due, failed || is_stuck, overfills && (due || !in_vain));
            // One that fills its batches too full still delivers others.
            let patient = if failed || is_stuck { Duration::ZERO } else { patience };
            let replaced = tried && asked.replace(patient);
            (tried, replaced, fatal, reached(&asked, topic.as_deref(), patience))
        });
        let Ok((tried, replaced, fatal, answer)) = round.await else { return };
        if tried {
            in_vain = !replaced;
            replacing.done(before);
        }
        let reached = answer.is_some();
        if replaced {
            given.clear();
            match fatal {
                Some(code) => tracing::warn!(?code, "the Kafka client failed for good and was replaced"),
                None if lost => {
                    tracing::info!("no Kafka broker answered for a while: looking for them with a new client")
                }
                None if is_stuck => tracing::warn!(
                    "Kafka confirms no message though its brokers answer: a new client goes on, which may leave copies"
                ),
                None => tracing::warn!(
                    bytes = state.batches(),
                    remedy = "raise max.message.bytes of the topics that take little, then restart the bridge",
                    "a Kafka topic takes less than a batch of messages: they are sent in smaller ones from now on"
                ),
            }
            if let Some(trouble) = fatal.and_then(Trouble::of) {
                state.in_trouble(trouble);
            }
            (silence, stuck) = (Silence::default(), Stuck::default());
        }
        given = answer.unwrap_or(given);
        replacing.settle(state.receipts());
        // A receipt says more than a slow answer about metadata.
        let heard = reached || state.receipts() != before;
        lost = silence.is_long(heard, Instant::now());
        state.set_heard(heard);
        if !heard {
            state.away();
        }
        // A client goes to the addresses that brokers give for themselves as soon as it knows them.
        let never_up = *state.connection().borrow() == ConnectionState::Waiting;
        let mut not_at = if !heard && never_up && !state.is_in_trouble() { given.clone() } else { Vec::new() };
        let mut none = !not_at.is_empty();
        if unheard.is_due(!heard && !none, Instant::now()) && !state.is_in_trouble() {
            say_unheard(&state);
        }
        // Somebody may have made the topic that a message was just refused for.
        let missed = || last_look.elapsed() >= CALM && state.take_missed();
        if reached && (state.take_look() || Instant::now() >= next_look || missed()) {
            looked = topics.tend(&line, &state, patience).await;
            last_look = Instant::now();
            next_look = last_look + looked.rest;
        }
        // Up, and so ready, only once its topics were seen to, and those who lead them are reached: what came
        // before that would be refused.
        let is_up = *state.connection().borrow() == ConnectionState::Up;
        let timed_out = state.take_timed_out();
        is_stuck = stuck.is_long(reached && timed_out, state.receipts(), Instant::now());
        if reached && (!is_up || timed_out) {
            let (asked, leaders) = (Arc::clone(&line), looked.leaders.clone());
            let ask = move || Some(not_reached_by(&*asked.client()?, &leaders, patience));
            let Ok(Some(leaders)) = tokio::task::spawn_blocking(ask).await else { return };
            let kept = state.receipts() != before;
            not_at = match (kept, looked.leaders.is_empty()) {
                (true, _) => Vec::new(),
                (_, true) => looked.not_at.clone(),
                _ => leaders,
            };
            none = !not_at.is_empty() && not_at.len() >= looked.leaders.len();
            if none {
                state.away();
            } else if looked.ready && (not_at.is_empty() || unreached.was_said()) {
                state.up();
            }
        }
        state.set_nowhere(none);
        let is_up = *state.connection().borrow() == ConnectionState::Up;
        // What is said stays true until the bus is up, or, where it is, until all are reached.
        if (!not_at.is_empty() || is_up) && unreached.is_due(!not_at.is_empty(), Instant::now()) {
            say_unreached(&state, &not_at, none);
        }
        let calm = reached && looked.settled && replacing.due() && is_up;
        let pause = if calm { CALM } else { BUSY };
        // A message wakes at any rate; rounds keep a distance.
        tokio::time::sleep(BREATH).await;
        tokio::select! {
            () = state.woken() => {}
            () = tokio::time::sleep(pause.min(next_look.saturating_duration_since(Instant::now()))) => {}
        }
    }
}

/// No broker answers, and nobody has said why.
fn say_unheard(state: &State) {
    let (why, remedy) = match state.cause() {
        Some(cause) => (cause.says(), cause.remedy()),
        None => ("no broker answers", "check kafka.brokers and the network"),
    };
    tracing::warn!(why, remedy, "Kafka is not reached: deliveries are refused");
}

/// Brokers answer, but those that lead topics do not where they say that they listen: `none` or only some.
fn say_unreached(state: &State, addresses: &[String], none: bool) {
    let (addresses, why) = (addresses.join(", "), state.cause().map(Cause::says));
    if none {
        tracing::error!(addresses, why, remedy = "see advertised.listeners of the brokers", "{NOT_AT}");
    } else {
        let remedy = "see whether these brokers run, and advertised.listeners of theirs";
        let says = "some Kafka brokers are not reached at the addresses that they give for themselves";
        tracing::warn!(addresses, why, remedy, "{says}: deliveries for what they lead are refused");
    }
}

/// Something that is said once it has lasted for a while, and again while it lasts.
struct Complaint {
    after: Duration,
    since: Option<Instant>,
    said: Option<Instant>,
}

impl Complaint {
    fn new(after: Duration) -> Self {
        Self { after, since: None, said: None }
    }

    /// Another look: whether it should be said now.
    fn is_due(&mut self, lasts: bool, now: Instant) -> bool {
        if !lasts {
            *self = Self::new(self.after);
            return false;
        }
        let long = now - *self.since.get_or_insert(now) >= self.after;
        let due = long && self.said.is_none_or(|said| now - said >= SAY_AGAIN);
        if due {
            self.said = Some(now);
        }
        due
    }

    /// Whether it lasts and was said.
    fn was_said(&self) -> bool {
        self.said.is_some()
    }
}

/// Where the brokers say that they listen, if any answers within `patience`.
fn reached(line: &Line, topic: Option<&str>, patience: Duration) -> Option<Vec<String>> {
    let metadata = line.client()?.client().fetch_metadata(topic, patience).ok()?;
    Some(metadata.brokers().iter().map(address).collect())
}

/// Whether the client is replaced now. Batches get smaller a few times only, and what is crowded in them waits for
/// that: it does not wait for what clients that fail again and again wait for.
fn replaces(due: bool, failed: bool, overfills: bool) -> bool {
    overfills || (due && failed)
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

/// Since when messages time out, none of them kept, though brokers answer.
#[derive(Default)]
struct Stuck {
    since: Option<Instant>,
    receipts: u64,
}

impl Stuck {
    /// Another look: whether a message timed out just now, and none was kept for [`STUCK`].
    fn is_long(&mut self, timed_out: bool, receipts: u64, now: Instant) -> bool {
        if receipts != self.receipts {
            *self = Self { since: None, receipts };
        }
        timed_out && now - *self.since.get_or_insert(now) >= STUCK
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

    #[test]
    fn batches_get_smaller_without_waiting_for_what_clients_that_fail_wait_for() {
        let mut replacing = Replacing::new();
        replacing.done(0);
        assert!(!replaces(replacing.due(), true, false));
        assert!(replaces(replacing.due(), false, true));
    }

    #[test]
    fn a_client_is_stuck_where_message_after_message_times_out() {
        let begun = Instant::now();
        let mut stuck = Stuck::default();
        let mut look =
            |timed_out, receipts, seconds| stuck.is_long(timed_out, receipts, begun + Duration::from_secs(seconds));
        assert!(!look(true, 0, 0) && !look(false, 0, 9));
        assert!(look(true, 0, 10));
        assert!(!look(true, 1, 11), "one was kept meanwhile");
        assert!(!look(true, 1, 15) && look(true, 1, 16));
    }

    #[test]
    fn what_lasts_is_said_after_a_while_and_again_until_it_is_over() {
        let begun = Instant::now();
        let mut complaint = Complaint::new(SAY_AFTER);
        let mut look = |lasts, seconds| complaint.is_due(lasts, begun + Duration::from_secs(seconds));
        assert!(!look(true, 0) && !look(true, 4));
        assert!(look(true, 5));
        assert!(!look(true, 6) && !look(true, 64));
        assert!(look(true, 65));
        assert!(!look(false, 66) && !look(true, 67) && !look(true, 71));
        assert!(look(true, 72));
    }
}
