//! Counts the events of each request, in any order and ignoring copies, within limits on memory.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;

use super::chunks::{MissingChunks, missing};
use super::event::{EventKind, RequestEvent, RequestId};
use super::summary::{RequestState, RequestSummary};

/// The most requests to remember, including those of one payload; the oldest are evicted first.
const REQUESTS: usize = 10_000;

/// The most payloads of all requests together, at 16 bytes each.
const PAYLOADS: usize = 1_000_000;

/// The most payloads of one request to distinguish; further ones are not counted.
const PAYLOADS_OF_ONE: usize = 100_000;

pub(super) struct RequestTracker {
    requests: HashMap<RequestId, Tracked>,
    /// Only this reference.
    only: Option<String>,
    payloads: usize,
    forgotten: usize,
    limits: Limits,
}

struct Limits {
    requests: usize,
    payloads: usize,
    payloads_of_one: usize,
}

#[derive(Default)]
struct Tracked {
    provider: Option<String>,
    announced: bool,
    sending: bool,
    /// When Terra emitted its latest announcement, and the count in it.
    expected: Option<(i64, u64)>,
    payloads: HashSet<u128>,
    chunks: BTreeSet<u32>,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    /// The last arrival of any event, including announcements.
    heard: Timestamp,
}

impl RequestTracker {
    pub(super) fn new(only: Option<String>) -> Self {
        let limits = Limits { requests: REQUESTS, payloads: PAYLOADS, payloads_of_one: PAYLOADS_OF_ONE };
        Self { requests: HashMap::new(), only, payloads: 0, forgotten: 0, limits }
    }

    /// The request that this changed, if it is shown: a copy changes nothing.
    pub(super) fn add(&mut self, event: RequestEvent) -> Option<RequestId> {
        let RequestEvent { request, provider, at, kind } = event;
        if self.only.as_ref().is_some_and(|only| *only != request.reference) {
            return None;
        }
        let tracked =
            self.requests.entry(request.clone()).or_insert_with(|| Tracked { heard: at, ..Tracked::default() });
        let payloads = tracked.payloads.len();
        if !tracked.add(kind, at, self.limits.payloads_of_one) {
            return None;
        }
        self.payloads += tracked.payloads.len() - payloads;
        tracked.provider = provider.or(tracked.provider.take());
        tracked.heard = tracked.heard.max(at);
        if self.requests.len() > self.limits.requests || self.payloads > self.limits.payloads {
            self.forget();
        }
        self.is_shown(&request).then_some(request)
    }

    /// How many requests were evicted because of the limits.
    pub(super) fn forgotten(&self) -> usize {
        self.forgotten
    }

    /// In order of each request's first event. Without `only`, a request that has neither an announcement nor chunks
    /// is not a large one, and is omitted.
    pub(super) fn summaries(&self, now: Timestamp, stalled_after: Duration) -> Vec<RequestSummary> {
        let mut shown: Vec<_> = self.requests.iter().filter(|(request, _)| self.is_shown(request)).collect();
        shown.sort_unstable_by_key(|(request, tracked)| (tracked.first.unwrap_or(tracked.heard), *request));
        shown.into_iter().map(|(request, tracked)| tracked.summary(request, now, stalled_after)).collect()
    }

    pub(super) fn summary(
        &self,
        request: &RequestId,
        now: Timestamp,
        stalled_after: Duration,
    ) -> Option<RequestSummary> {
        Some(self.requests.get(request)?.summary(request, now, stalled_after))
    }

    fn is_shown(&self, request: &RequestId) -> bool {
        self.requests.get(request).is_some_and(|tracked| self.only.is_some() || tracked.is_large())
    }

    /// Evicts an eighth at once, because finding the oldest takes time; those that are not large requests go first.
    fn forget(&mut self) {
        let (requests, payloads) = (self.limits.requests / 8 * 7, self.limits.payloads / 8 * 7);
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

impl Tracked {
    /// Returns whether the event changed anything.
    fn add(&mut self, kind: EventKind, at: Timestamp, most: usize) -> bool {
        match kind {
            EventKind::Processing => !std::mem::replace(&mut self.announced, true),
            EventKind::Sending { expected, emitted_at } => {
                let before = (self.sending, self.expected());
                (self.announced, self.sending) = (true, true);
                self.expected = self.expected.max(expected.map(|expected| (emitted_at, expected)));
                before != (self.sending, self.expected())
            }
            EventKind::Payload { id, chunk } => {
                if self.payloads.len() >= most || !self.payloads.insert(id) {
                    return false;
                }
                self.chunks.extend(chunk);
                self.first = Some(self.first.map_or(at, |first| first.min(at)));
                self.last = self.last.max(Some(at));
                true
            }
        }
    }

    fn summary(&self, request: &RequestId, now: Timestamp, stalled_after: Duration) -> RequestSummary {
        let age = Duration::try_from(now.duration_since(self.heard)).unwrap_or_default();
        let (arrived, expected) = (self.arrived(), self.expected());
        RequestSummary {
            request: request.clone(),
            provider: self.provider.clone(),
            state: self.state(age >= stalled_after),
            arrived,
            expected,
            missing: expected.map(|expected| expected.saturating_sub(arrived)),
            missing_chunks: self.missing(),
            first_arrival: self.first,
            last_arrival: self.last,
            age,
        }
    }

    fn is_large(&self) -> bool {
        self.announced || !self.chunks.is_empty()
    }

    fn arrived(&self) -> u64 {
        self.payloads.len() as u64
    }

    fn expected(&self) -> Option<u64> {
        self.expected.map(|(_, expected)| expected)
    }

    fn state(&self, silent: bool) -> RequestState {
        if self.expected().is_some_and(|expected| self.arrived() >= expected) {
            RequestState::Finished
        } else if !self.announced {
            RequestState::Unannounced
        } else if silent {
            RequestState::Stalled
        } else if self.sending || !self.payloads.is_empty() {
            RequestState::Sending
        } else {
            RequestState::Processing
        }
    }

    /// The numbers tell what is missing only if each payload has a number of its own.
    fn missing(&self) -> MissingChunks {
        let is_numbered = self.chunks.len() == self.payloads.len();
        if is_numbered { missing(&self.chunks, self.expected()) } else { MissingChunks::default() }
    }
}

#[cfg(test)]
mod tests;
