//! Decides by its [`Identity`] whether a delivery was kept before or is in flight: it is the first, waits for the
//! first, or is a duplicate. Knows neither bus nor reply. `memory` holds the kept deliveries, `in_flight` the others.

mod in_flight;
mod memory;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::identity::Identity;
use crate::metrics::DedupeGauges;
use in_flight::InFlight;
pub use memory::Key;
use memory::Memory;

/// Remembers kept deliveries, and tracks those in flight. Cloning shares it. `A` is the answer that one attempt
/// passes to another.
pub struct Dedupe<A>(Arc<Mutex<Inner<A>>>);

struct Inner<A> {
    memory: Memory,
    in_flight: InFlight<A>,
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
        Self(Arc::new(Mutex::new(Inner { memory, in_flight: InFlight::default() })))
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
        match state.in_flight.wait(&keys) {
            Some(answer) => Admission::Wait(Wait(answer)),
            None => {
                state.in_flight.begin(&keys);
                Admission::First(Ticket { dedupe: self.clone(), keys })
            }
        }
    }

    pub fn gauges(&self) -> DedupeGauges {
        let state = self.lock();
        DedupeGauges { entries: state.memory.len(), evictions: state.memory.evicted() }
    }
}

impl<A> Dedupe<A> {
    fn lock(&self) -> MutexGuard<'_, Inner<A>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to deliver. Dropping it passes the right to the next attempt.
pub struct Ticket<A> {
    dedupe: Dedupe<A>,
    keys: [Key; 2],
}

impl<A: Clone> Ticket<A> {
    /// What to remember once the delivery is kept.
    pub fn entry(&self, kept: Timestamp) -> DedupeEntry {
        DedupeEntry { kept, keys: self.keys }
    }

    /// The delivery is durably stored. From now on every other attempt is a duplicate; those that wait get `answer`.
    pub fn kept(self, now: Timestamp, answer: A) {
        let mut state = self.dedupe.lock();
        state.memory.remember(&self.keys, now);
        state.in_flight.answer(&self.keys, answer);
    }

    /// The delivery is not stored, as far as is known. Those that wait get `answer`; the next attempt is admitted.
    pub fn refused(self, answer: A) {
        self.dedupe.lock().in_flight.answer(&self.keys, answer);
    }
}

impl<A> Drop for Ticket<A> {
    fn drop(&mut self) {
        self.dedupe.lock().in_flight.end(&self.keys);
    }
}

/// Waits for the first attempt.
pub struct Wait<A>(oneshot::Receiver<A>);

impl<A> Wait<A> {
    /// The first attempt's answer; `None` if it ended without one. Has no timeout.
    pub async fn answer(self) -> Option<A> {
        self.0.await.ok()
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
