//! The order within each key on the way to the bus or the spool. Each message acquires a slot as it arrives, and may be
//! spooled once all earlier slots of its key are released. Touches no disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Of all keys, by their digests.
#[derive(Default)]
pub(super) struct Slots(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    next: u64,
    held: HashMap<u64, Vec<Held>>,
}

/// A message that is neither kept nor spooled yet.
struct Held {
    number: u64,
    /// It goes to the spool for certain.
    spooling: bool,
    released: CancellationToken,
}

/// One message's. Released when dropped.
pub(super) struct Slot {
    slots: Arc<Slots>,
    key: u64,
    number: u64,
}

impl Slots {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Behind all that have one now.
    pub(super) fn acquire(self: &Arc<Self>, key: u64) -> Slot {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        let one = Held { number, spooling: false, released: CancellationToken::new() };
        state.held.entry(key).or_default().push(one);
        Slot { slots: self.clone(), key, number }
    }
}

impl Slot {
    pub(super) fn key(&self) -> u64 {
        self.key
    }

    /// Whether one before it goes to the spool, so that the bus must not have this one first.
    pub(super) fn is_behind(&self) -> bool {
        let state = self.slots.lock();
        let mut before = self.before(&state);
        before.any(|one| one.spooling)
    }

    /// Waits until all before it are released: from now on this one goes to the spool.
    pub(super) async fn wait(&self) {
        loop {
            let before = {
                let mut state = self.slots.lock();
                let ours = state.held.get_mut(&self.key);
                if let Some(ours) = ours.into_iter().flatten().find(|one| one.number == self.number) {
                    ours.spooling = true;
                }
                let mut before = self.before(&state);
                before.next().map(|one| one.released.clone())
            };
            match before {
                Some(before) => before.cancelled().await,
                None => return,
            }
        }
    }

    fn before<'s>(&self, state: &'s Inner) -> impl Iterator<Item = &'s Held> + use<'s> {
        let number = self.number;
        state.held.get(&self.key).into_iter().flatten().filter(move |one| one.number < number)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        let Some(all) = state.held.get_mut(&self.key) else { return };
        if let Some(at) = all.iter().position(|one| one.number == self.number) {
            all.remove(at).released.cancel();
        }
        if all.is_empty() {
            state.held.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_message_is_spooled_after_all_of_its_key_that_came_before() {
        let slots = Arc::new(Slots::default());
        let (first, second, other, third) = (slots.acquire(7), slots.acquire(7), slots.acquire(8), slots.acquire(7));
        assert!(other.wait().now_or_never().is_some() && first.wait().now_or_never().is_some());
        assert!(third.wait().now_or_never().is_none());
        drop(first);
        assert!(third.wait().now_or_never().is_none(), "the second is still under way");
        assert!(second.wait().now_or_never().is_some());
        drop(second);
        assert!(third.wait().now_or_never().is_some());
        drop((third, other));
        assert!(slots.lock().held.is_empty());
    }

    #[test]
    fn what_goes_to_the_spool_holds_later_ones_back_from_the_bus() {
        let slots = Arc::new(Slots::default());
        let (first, second, third) = (slots.acquire(7), slots.acquire(7), slots.acquire(7));
        assert!(!second.is_behind(), "both may be asked for at once");
        assert!(second.wait().now_or_never().is_none());
        assert!(third.is_behind() && !first.is_behind());
        drop(second);
        assert!(!third.is_behind());
    }
}
