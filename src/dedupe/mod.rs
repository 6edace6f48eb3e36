//! Decides by its [`Identity`] whether a delivery was kept before or is in flight: it is the first, waits for the
//! first, or is a duplicate. Knows neither bus nor reply. `memory` holds the kept deliveries.

mod memory;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::identity::Identity;
use crate::metrics::DedupeGauges;
pub use memory::Key;
use memory::Memory;

/// Remembers kept deliveries, and tracks those in flight. Cloning shares it. `A` is the answer that one attempt
/// passes to another.
pub struct Dedupe<A>(Arc<Mutex<Inner<A>>>);

struct Inner<A> {
    memory: Memory,
    in_flight: HashMap<Key, watch::Receiver<Option<A>>>,
}

/// A delivery that a bus or a spool keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DedupeEntry {
    pub kept: Timestamp,
    /// The keys of its id and of the signed content.
    pub keys: [Key; 2],
}

/// What to do with a delivery.
pub enum Admission<A> {
    /// The first one in flight. Others wait for its [`Ticket`].
    First(Ticket<A>),
    Kept,
    /// The same delivery is in flight.
    Wait(Wait<A>),
}

impl<A> Clone for Dedupe<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A: Clone> Dedupe<A> {
    /// Remembers each delivery for `window`, and at most the newest `deliveries`: 58 bytes each.
    pub fn new(window: Duration, deliveries: usize, clock: Clock) -> Self {
        let memory = Memory::new(window, deliveries, clock);
        Self(Arc::new(Mutex::new(Inner { memory, in_flight: HashMap::new() })))
    }

    /// Restores a delivery that was kept before a restart. Call it oldest first.
    pub fn restore(&self, entry: &DedupeEntry) {
        self.lock().memory.remember(&entry.keys, entry.kept);
    }

    /// Admits exactly one of several concurrent attempts.
    pub fn admit(&self, identity: &Identity, now: Timestamp) -> Admission<A> {
        let keys = identity.keys();
        let mut state = self.lock();
        if state.memory.knows(&keys) {
            state.memory.learn(&keys, now);
            return Admission::Kept;
        }
        if let Some(answer) = keys.iter().find_map(|key| state.in_flight.get(key)) {
            return Admission::Wait(Wait(answer.clone()));
        }
        let (answer, awaited) = watch::channel(None);
        for key in keys {
            state.in_flight.insert(key, awaited.clone());
        }
        Admission::First(Ticket { dedupe: self.clone(), keys, answer })
    }

    pub fn gauges(&self) -> DedupeGauges {
        let state = self.lock();
        DedupeGauges { entries: state.memory.len(), evictions: state.memory.evicted() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<A>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to deliver. Dropping it passes the right to the next attempt.
pub struct Ticket<A> {
    dedupe: Dedupe<A>,
    keys: [Key; 2],
    answer: watch::Sender<Option<A>>,
}

impl<A> Ticket<A> {
    /// What to remember once the delivery is kept.
    pub fn entry(&self, kept: Timestamp) -> DedupeEntry {
        DedupeEntry { kept, keys: self.keys }
    }

    /// The delivery is durably stored. From now on every other attempt is a duplicate; those that wait get `answer`.
    pub fn kept(self, now: Timestamp, answer: A) {
        let mut state = self.dedupe.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.memory.remember(&self.keys, now);
        drop(state);
        self.answer.send_replace(Some(answer));
    }

    /// The delivery is not stored, as far as is known. Those that wait get `answer`; the next attempt is admitted.
    pub fn refused(self, answer: A) {
        self.answer.send_replace(Some(answer));
    }
}

impl<A> Drop for Ticket<A> {
    fn drop(&mut self) {
        let mut state = self.dedupe.0.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            state.in_flight.remove(key);
        }
    }
}

/// Waits for the first attempt.
pub struct Wait<A>(watch::Receiver<Option<A>>);

impl<A: Clone> Wait<A> {
    /// The first attempt's answer; `None` if it ended without one. Has no timeout.
    pub async fn answer(mut self) -> Option<A> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn dedupe() -> Dedupe<&'static str> {
        Dedupe::new(Duration::from_secs(60), 8, Clock::at(NOW))
    }

    fn identity(id: u8, signed: u8) -> Identity {
        Identity::sample([id; 32], [signed; 32])
    }

    fn first(admission: Admission<&'static str>) -> Ticket<&'static str> {
        let Admission::First(ticket) = admission else { panic!("somebody else is first") };
        ticket
    }

    fn wait(admission: Admission<&'static str>) -> Wait<&'static str> {
        let Admission::Wait(wait) = admission else { panic!("nobody is in flight") };
        wait
    }

    #[tokio::test]
    async fn a_concurrent_attempt_gets_the_firsts_answer_and_a_later_one_is_a_duplicate() {
        let dedupe = dedupe();
        let ticket = first(dedupe.admit(&identity(1, 2), NOW));
        let by_id = wait(dedupe.admit(&identity(1, 9), NOW));
        let by_signed = wait(dedupe.admit(&identity(9, 2), NOW));
        ticket.kept(NOW, "kept");
        assert_eq!(by_id.answer().await, Some("kept"));
        assert_eq!(by_signed.answer().await, Some("kept"));
        assert!(matches!(dedupe.admit(&identity(1, 9), NOW), Admission::Kept));
        assert!(matches!(dedupe.admit(&identity(8, 9), NOW), Admission::Kept), "signed anew and learnt before");
        assert!(matches!(dedupe.admit(&identity(3, 3), NOW), Admission::First(_)));
    }

    #[tokio::test]
    async fn a_refused_delivery_is_not_remembered() {
        let dedupe = dedupe();
        let ticket = first(dedupe.admit(&identity(1, 2), NOW));
        let second = wait(dedupe.admit(&identity(1, 2), NOW));
        ticket.refused("away");
        assert_eq!(second.answer().await, Some("away"));
        first(dedupe.admit(&identity(1, 2), NOW));
        assert_eq!(dedupe.gauges().entries, 0);
    }

    #[tokio::test]
    async fn altered_headers_of_one_delivery_do_not_evict_others() {
        let dedupe = dedupe();
        first(dedupe.admit(&identity(1, 1), NOW)).kept(NOW, "kept");
        first(dedupe.admit(&identity(2, 2), NOW)).kept(NOW, "kept");
        for altered in 10..100 {
            assert!(matches!(dedupe.admit(&identity(altered, 2), NOW), Admission::Kept));
        }
        assert_eq!(dedupe.gauges(), DedupeGauges { entries: 2, evictions: 0 });
    }

    #[tokio::test]
    async fn a_dropped_first_attempt_lets_the_next_go_first() {
        let dedupe = dedupe();
        let ticket = first(dedupe.admit(&identity(1, 2), NOW));
        let second = wait(dedupe.admit(&identity(1, 2), NOW));
        drop(ticket);
        assert_eq!(second.answer().await, None);
        first(dedupe.admit(&identity(1, 2), NOW));
        assert!(dedupe.lock().in_flight.is_empty());
    }
}
