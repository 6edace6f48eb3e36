//! How far each request has come. Comes in: [`Sign`]s in any order, copies among them, and the time. Goes
//! out: a [`Summary`] of each request. Knows no bus and no screen, and keeps no more than its bounds.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use super::numbers::{Missing, Numbers, missing};
use super::sign::{Event, Request, Sign};

/// Requests that are remembered, those of one payload among them; the oldest go first.
const REQUESTS: usize = 10_000;

/// Payloads of all requests together, 16 bytes of each.
const PAYLOADS: usize = 1_000_000;

/// Payloads of one request that are told apart; more are not counted.
const PAYLOADS_OF_ONE: usize = 100_000;

pub(super) struct Ledger {
    requests: HashMap<Request, Progress>,
    /// Of this reference alone.
    only: Option<String>,
    payloads: usize,
    forgotten: usize,
    bounds: Bounds,
}

struct Bounds {
    requests: usize,
    payloads: usize,
    payloads_of_one: usize,
}

#[derive(Default)]
struct Progress {
    provider: Option<String>,
    announced: bool,
    sending: bool,
    /// What the announcement said that Terra emitted last, and when that was.
    expected: Option<(i64, u64)>,
    payloads: HashSet<u128>,
    chunks: Numbers,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    /// The last arrival of anything, announcements among them.
    heard: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Terra assembles it.
    Processing,
    Sending,
    Finished,
    /// Not finished, and nothing arrived for a while.
    Stalled,
    /// Payloads without an announcement: nobody knows how many there will be.
    Unannounced,
}

impl State {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Processing => "processing",
            Self::Sending => "sending",
            Self::Finished => "finished",
            Self::Stalled => "stalled",
            Self::Unannounced => "unannounced",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) request: Request,
    pub(super) provider: Option<String>,
    pub(super) state: State,
    pub(super) arrived: u64,
    pub(super) expected: Option<u64>,
    pub(super) missing: Missing,
    pub(super) first: Option<Timestamp>,
    pub(super) last: Option<Timestamp>,
    /// Since anything arrived.
    pub(super) age: Duration,
}

impl Summary {
    /// How many lack, by the announcement.
    pub(super) fn lacking(&self) -> Option<u64> {
        self.expected.map(|expected| expected.saturating_sub(self.arrived))
    }
}

/// `reference, endpoint, provider, state, arrived, expected, missing, missing_chunks, first_arrival,
/// last_arrival, age_seconds`.
impl Serialize for Summary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let time = |at: Option<Timestamp>| at.map(|at| format!("{at:.3}"));
        let mut object = serializer.serialize_struct("Summary", 11)?;
        object.serialize_field("reference", &self.request.reference)?;
        object.serialize_field("endpoint", &self.request.endpoint)?;
        object.serialize_field("provider", &self.provider)?;
        object.serialize_field("state", self.state.as_str())?;
        object.serialize_field("arrived", &self.arrived)?;
        object.serialize_field("expected", &self.expected)?;
        object.serialize_field("missing", &self.lacking())?;
        object.serialize_field("missing_chunks", &self.missing.ranges)?;
        object.serialize_field("first_arrival", &time(self.first))?;
        object.serialize_field("last_arrival", &time(self.last))?;
        object.serialize_field("age_seconds", &self.age.as_secs())?;
        object.end()
    }
}

impl Ledger {
    pub(super) fn new(only: Option<String>) -> Self {
        let bounds = Bounds { requests: REQUESTS, payloads: PAYLOADS, payloads_of_one: PAYLOADS_OF_ONE };
        Self { requests: HashMap::new(), only, payloads: 0, forgotten: 0, bounds }
    }

    /// The request that came on by this, if one did: a copy changes nothing.
    pub(super) fn take(&mut self, sign: Sign) -> Option<Request> {
        let Sign { request, provider, at, event } = sign;
        if self.only.as_ref().is_some_and(|only| *only != request.reference) {
            return None;
        }
        let progress =
            self.requests.entry(request.clone()).or_insert_with(|| Progress { heard: at, ..Progress::default() });
        let payloads = progress.payloads.len();
        if !progress.take(event, at, self.bounds.payloads_of_one) {
            return None;
        }
        self.payloads += progress.payloads.len() - payloads;
        progress.provider = provider.or(progress.provider.take());
        progress.heard = progress.heard.max(at);
        if self.requests.len() > self.bounds.requests || self.payloads > self.bounds.payloads {
            self.forget();
        }
        self.is_shown(&request).then_some(request)
    }

    /// Requests that were left out for the bounds.
    pub(super) fn forgotten(&self) -> usize {
        self.forgotten
    }

    /// In the order in which their first event arrived. Without a reference to look for, what neither was
    /// announced nor has chunks is no large request, and left out.
    pub(super) fn summaries(&self, now: Timestamp, stalled_after: Duration) -> Vec<Summary> {
        let shown = self.requests.keys().filter(|request| self.is_shown(request));
        let mut all: Vec<_> = shown.filter_map(|request| self.summary(request, now, stalled_after)).collect();
        let began = |summary: &Summary| summary.first.or(self.requests.get(&summary.request).map(|known| known.heard));
        all.sort_by_cached_key(|summary| (began(summary), summary.request.clone()));
        all
    }

    pub(super) fn summary(&self, request: &Request, now: Timestamp, stalled_after: Duration) -> Option<Summary> {
        let progress = self.requests.get(request)?;
        let age = Duration::try_from(now.duration_since(progress.heard)).unwrap_or_default();
        Some(Summary {
            request: request.clone(),
            provider: progress.provider.clone(),
            state: progress.state(age >= stalled_after),
            arrived: progress.arrived(),
            expected: progress.expected(),
            missing: progress.missing(),
            first: progress.first,
            last: progress.last,
            age,
        })
    }

    fn is_shown(&self, request: &Request) -> bool {
        self.requests.get(request).is_some_and(|progress| self.only.is_some() || progress.is_large())
    }

    /// An eighth goes at once, as looking for the oldest takes time; what is no large request goes first.
    fn forget(&mut self) {
        let (requests, payloads) = (self.bounds.requests / 8 * 7, self.bounds.payloads / 8 * 7);
        let mut oldest: Vec<_> =
            self.requests.iter().map(|(request, of)| (of.is_large(), of.heard, request.clone())).collect();
        oldest.sort_unstable();
        for (_, _, request) in oldest {
            if self.requests.len() <= requests.max(1) && (self.payloads <= payloads || self.requests.len() == 1) {
                return;
            }
            let gone = self.requests.remove(&request);
            self.payloads -= gone.map_or(0, |gone| gone.payloads.len());
            self.forgotten += 1;
        }
    }
}

impl Progress {
    /// Whether that was news.
    fn take(&mut self, event: Event, at: Timestamp, most: usize) -> bool {
        match event {
            Event::Processing => !std::mem::replace(&mut self.announced, true),
            Event::Sending { expected, emitted_at } => {
                let before = (self.sending, self.expected());
                (self.announced, self.sending) = (true, true);
                let said = expected.map(|expected| (emitted_at, expected));
                self.expected = self.expected.max(said);
                before != (self.sending, self.expected())
            }
            Event::Payload { id, chunk } => {
                if self.payloads.len() >= most || !self.payloads.insert(id) {
                    return false;
                }
                if let Some(chunk) = chunk {
                    self.chunks.insert(chunk);
                }
                self.first = Some(self.first.map_or(at, |first| first.min(at)));
                self.last = self.last.max(Some(at));
                true
            }
        }
    }

    fn is_large(&self) -> bool {
        self.announced || self.chunks.len() > 0
    }

    fn arrived(&self) -> u64 {
        self.payloads.len() as u64
    }

    fn expected(&self) -> Option<u64> {
        self.expected.map(|(_, expected)| expected)
    }

    fn state(&self, silent: bool) -> State {
        if self.expected().is_some_and(|expected| self.arrived() >= expected) {
            State::Finished
        } else if !self.announced {
            State::Unannounced
        } else if silent {
            State::Stalled
        } else if self.sending || !self.payloads.is_empty() {
            State::Sending
        } else {
            State::Processing
        }
    }

    /// Numbers tell only where each payload has one of its own.
    fn missing(&self) -> Missing {
        match self.chunks.len() == self.payloads.len() {
            true => missing(&self.chunks, self.expected()),
            false => Missing::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALLED_AFTER: Duration = Duration::from_secs(600);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_784_000_000 + second).unwrap()
    }

    fn request(reference: &str) -> Request {
        Request { endpoint: "terra".to_owned(), reference: reference.to_owned() }
    }

    fn sign(reference: &str, second: i64, event: Event) -> Sign {
        Sign { request: request(reference), provider: None, at: at(second), event }
    }

    fn payload(id: u128, chunk: Option<u32>) -> Event {
        Event::Payload { id, chunk }
    }

    fn sending(expected: Option<u64>, emitted_at: i64) -> Event {
        Event::Sending { expected, emitted_at }
    }

    fn ledger(signs: impl IntoIterator<Item = Sign>) -> Ledger {
        let mut ledger = Ledger::new(None);
        for sign in signs {
            ledger.take(sign);
        }
        ledger
    }

    fn one(ledger: &Ledger, now: i64) -> Summary {
        let all = ledger.summaries(at(now), STALLED_AFTER);
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].clone()
    }

    #[test]
    fn copies_count_once_and_order_does_not_matter() {
        let mut signs = vec![
            sign("r", 0, Event::Processing),
            sign("r", 1, sending(Some(4), 1)),
            sign("r", 2, payload(10, Some(1))),
            sign("r", 3, payload(12, Some(3))),
            sign("r", 9, payload(12, Some(3))),
            sign("r", 4, payload(11, Some(2))),
        ];
        let expected = one(&ledger(signs.clone()), 10);
        assert_eq!((expected.state, expected.arrived, expected.expected), (State::Sending, 3, Some(4)));
        assert_eq!((expected.first, expected.last), (Some(at(2)), Some(at(4))), "a copy is no arrival");
        assert_eq!(expected.missing, Missing { ranges: vec![], either: Some((0, 4)) });
        // The copy stays behind the original, which it is a copy of.
        signs.remove(4);
        signs.reverse();
        assert_eq!(one(&ledger(signs), 10), expected);
    }

    #[test]
    fn it_is_finished_when_as_many_arrived_as_were_announced() {
        let mut ledger = ledger([sign("r", 0, sending(Some(2), 1)), sign("r", 1, payload(1, Some(0)))]);
        assert_eq!(one(&ledger, 2).state, State::Sending);
        assert_eq!(ledger.take(sign("r", 3, payload(2, Some(1)))), Some(request("r")));
        assert_eq!(one(&ledger, 3).state, State::Finished);
        assert_eq!(one(&ledger, 99_999).state, State::Finished, "finished stays so");
        ledger.take(sign("r", 4, payload(3, None)));
        assert_eq!((one(&ledger, 4).state, one(&ledger, 4).lacking()), (State::Finished, Some(0)));
        assert_eq!(one(&self::ledger([sign("r", 0, sending(Some(0), 1))]), 1).state, State::Finished);
    }

    #[test]
    fn what_is_unfinished_and_silent_is_stalled() {
        for (events, state) in [
            (vec![Event::Processing], State::Processing),
            (vec![Event::Processing, payload(1, None)], State::Sending),
            (vec![sending(None, 1)], State::Sending),
            (vec![sending(Some(2), 1), payload(1, None)], State::Sending),
        ] {
            let ledger = ledger(events.into_iter().map(|event| sign("r", 0, event)));
            assert_eq!(one(&ledger, 599).state, state);
            assert_eq!(one(&ledger, 600).state, State::Stalled);
        }
    }

    #[test]
    fn the_announcement_that_was_emitted_last_counts() {
        let announced =
            [sign("r", 0, sending(Some(5), 2)), sign("r", 1, sending(Some(9), 1)), sign("r", 2, sending(None, 3))];
        assert_eq!(one(&ledger(announced), 3).expected, Some(5));
        let mut ledger = ledger([sign("r", 0, sending(Some(5), 2))]);
        assert_eq!(ledger.take(sign("r", 1, sending(Some(9), 1))), None, "no news");
        assert_eq!(ledger.take(sign("r", 1, sending(Some(6), 3))), Some(request("r")));
    }

    #[test]
    fn numbers_that_repeat_or_lack_tell_nothing_of_what_is_missing() {
        let of_two_types =
            [sign("r", 0, sending(Some(4), 1)), sign("r", 1, payload(1, Some(1))), sign("r", 1, payload(2, Some(1)))];
        let without =
            [sign("r", 0, sending(Some(4), 1)), sign("r", 1, payload(1, Some(1))), sign("r", 1, payload(2, None))];
        for signs in [of_two_types, without] {
            let summary = one(&ledger(signs), 2);
            assert_eq!((summary.missing.clone(), summary.lacking()), (Missing::default(), Some(2)));
        }
    }

    #[test]
    fn one_reference_at_two_endpoints_is_two_requests() {
        let mut other = sign("r", 0, sending(Some(1), 1));
        other.request.endpoint = "staging".to_owned();
        let ledger = ledger([sign("r", 0, sending(Some(1), 1)), sign("r", 0, payload(1, None)), other]);
        let states: Vec<_> = ledger.summaries(at(1), STALLED_AFTER).iter().map(|summary| summary.state).collect();
        assert!(states.contains(&State::Finished) && states.contains(&State::Sending), "{states:?}");
    }

    #[test]
    fn what_is_no_large_request_is_shown_only_where_it_is_asked_for() {
        let mut all = ledger([sign("single", 0, payload(1, None))]);
        assert_eq!(all.summaries(at(0), STALLED_AFTER), []);
        assert_eq!(all.take(sign("single", 0, payload(2, None))), None);
        all.take(sign("chunks", 0, payload(1, Some(1))));
        assert_eq!(one(&all, 9999).state, State::Unannounced);
        let mut only = Ledger::new(Some("single".to_owned()));
        only.take(sign("single", 0, payload(1, None)));
        only.take(sign("other", 0, sending(Some(1), 1)));
        let summary = one(&only, 1);
        assert_eq!((summary.request.reference.as_str(), summary.state), ("single", State::Unannounced));
    }

    #[test]
    fn the_oldest_are_left_out_and_what_is_no_large_request_first() {
        let mut ledger = Ledger::new(None);
        ledger.bounds = Bounds { requests: 16, payloads: 1000, payloads_of_one: 1000 };
        for n in 0..12 {
            ledger.take(sign(&format!("large {n:02}"), n, Event::Processing));
        }
        for n in 0..500 {
            ledger.take(sign(&format!("single {n}"), 100 + n, payload(1, None)));
        }
        assert!(ledger.requests.len() <= 16);
        assert_eq!(ledger.summaries(at(0), STALLED_AFTER).len(), 12, "no flood of others drives them out");
        for n in 12..30 {
            ledger.take(sign(&format!("large {n}"), n, Event::Processing));
        }
        let left = ledger.summaries(at(100), STALLED_AFTER);
        assert!((14..=16).contains(&left.len()), "{}", left.len());
        assert_eq!(left.last().unwrap().request.reference, "large 29");
        assert!(left[0].request.reference.as_str() > "large 12");
        assert_eq!(ledger.forgotten() + ledger.requests.len(), 530);
    }

    #[test]
    fn payloads_that_are_remembered_have_a_bound() {
        let mut ledger = Ledger::new(None);
        ledger.bounds = Bounds { requests: 100, payloads: 80, payloads_of_one: 30 };
        for (second, reference) in ["a", "b", "c", "d"].into_iter().enumerate() {
            for n in 0..50 {
                ledger.take(sign(reference, second as i64, payload(n, Some(n as u32))));
            }
        }
        let kept: Vec<_> = ledger.summaries(at(9), STALLED_AFTER);
        let kept: Vec<_> = kept.iter().map(|summary| (&*summary.request.reference, summary.arrived)).collect();
        assert_eq!(kept, [("c", 30), ("d", 30)]);
        assert_eq!((ledger.payloads, ledger.forgotten()), (60, 2));
    }

    #[test]
    fn programs_get_stable_names() {
        let ledger = ledger([
            sign("r", 0, sending(Some(5), 1)),
            sign("r", 1, payload(1, Some(0))),
            sign("r", 2, payload(2, Some(3))),
        ]);
        assert_eq!(
            serde_json::to_string(&one(&ledger, 3)).unwrap(),
            r#"{"reference":"r","endpoint":"terra","provider":null,"state":"sending","arrived":2,"expected":5,"missing":3,"missing_chunks":[[1,2],[4,4]],"first_arrival":"2026-07-14T03:33:21.000Z","last_arrival":"2026-07-14T03:33:22.000Z","age_seconds":1}"#
        );
    }
}
