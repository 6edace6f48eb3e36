//! Keeps the order within each key on the way to the bus or the spool. Each message acquires a slot on arrival, and
//! may be spooled once all earlier slots of its key are released. Touches no disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The slots of all keys, by key digest.
#[derive(Default)]
pub(super) struct Slots(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    next: u64,
    held: HashMap<u64, Vec<Held>>,
}

/// A message that is neither stored nor spooled yet.
struct Held {
    number: u64,
    /// It will certainly go to the spool.
    spooling: bool,
    released: CancellationToken,
}

/// One message's slot. Dropping it releases it.
pub(super) struct Slot {
    slots: Arc<Slots>,
    key: u64,
    number: u64,
}

impl Slots {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acquires a slot behind all current ones of the key.
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

    /// Whether an earlier message goes to the spool, so that this one must not reach the bus first.
    pub(super) fn is_behind(&self) -> bool {
        let state = self.slots.lock();
        let mut before = self.before(&state);
        before.any(|one| one.spooling)
    }

    /// Waits until all earlier slots are released, and marks this message as going to the spool.
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
    fn a_message_is_spooled_after_all_earlier_ones_of_its_key() {
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
    fn a_message_bound_for_the_spool_keeps_later_ones_off_the_bus() {
        let slots = Arc::new(Slots::default());
        let (first, second, third) = (slots.acquire(7), slots.acquire(7), slots.acquire(7));
        assert!(!second.is_behind(), "both may be asked for at once");
        assert!(second.wait().now_or_never().is_none());
        assert!(third.is_behind() && !first.is_behind());
        drop(second);
        assert!(!third.is_behind());
    }
}
