//! The order within each key on the way to the bus. Comes in: messages as they arrive. Goes out: to each its
//! turn, and which others have to be spooled, or kept by the bus, before it may be spooled. Touches no disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Of all keys, by their digests.
#[derive(Default)]
pub(super) struct Turns(Mutex<State>);

#[derive(Default)]
struct State {
    next: u64,
    under_way: HashMap<u64, Vec<UnderWay>>,
}

/// A message that is neither kept nor spooled yet.
struct UnderWay {
    number: u64,
    /// It goes to the spool for certain.
    spooling: bool,
    over: CancellationToken,
}

/// One message's. Over when dropped.
pub(super) struct Turn {
    turns: Arc<Turns>,
    key: u64,
    number: u64,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Behind all that have one now.
    pub(super) fn begin(self: &Arc<Self>, key: u64) -> Turn {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        let one = UnderWay { number, spooling: false, over: CancellationToken::new() };
        state.under_way.entry(key).or_default().push(one);
        Turn { turns: self.clone(), key, number }
    }
}

impl Turn {
    pub(super) fn key(&self) -> u64 {
        self.key
    }

    /// Whether one before it goes to the spool, so that the bus must not have this one first.
    pub(super) fn is_behind(&self) -> bool {
        let state = self.turns.lock();
        let mut before = self.before(&state);
        before.any(|one| one.spooling)
    }

    /// Waits until all before it are over: from now on this one goes to the spool.
    pub(super) async fn comes(&self) {
        loop {
            let before = {
                let mut state = self.turns.lock();
                let ours = state.under_way.get_mut(&self.key);
                if let Some(ours) = ours.into_iter().flatten().find(|one| one.number == self.number) {
                    ours.spooling = true;
                }
                let mut before = self.before(&state);
                before.next().map(|one| one.over.clone())
            };
            match before {
                Some(before) => before.cancelled().await,
                None => return,
            }
        }
    }

    fn before<'s>(&self, state: &'s State) -> impl Iterator<Item = &'s UnderWay> + use<'s> {
        let number = self.number;
        state.under_way.get(&self.key).into_iter().flatten().filter(move |one| one.number < number)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        let Some(all) = state.under_way.get_mut(&self.key) else { return };
        if let Some(at) = all.iter().position(|one| one.number == self.number) {
            all.remove(at).over.cancel();
        }
        if all.is_empty() {
            state.under_way.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_message_is_spooled_after_all_of_its_key_that_came_before() {
        let turns = Arc::new(Turns::default());
        let (first, second, other, third) = (turns.begin(7), turns.begin(7), turns.begin(8), turns.begin(7));
        assert!(other.comes().now_or_never().is_some() && first.comes().now_or_never().is_some());
        assert!(third.comes().now_or_never().is_none());
        drop(first);
        assert!(third.comes().now_or_never().is_none(), "the second is still under way");
        assert!(second.comes().now_or_never().is_some());
        drop(second);
        assert!(third.comes().now_or_never().is_some());
        drop((third, other));
        assert!(turns.lock().under_way.is_empty());
    }

    #[test]
    fn what_goes_to_the_spool_holds_later_ones_back_from_the_bus() {
        let turns = Arc::new(Turns::default());
        let (first, second, third) = (turns.begin(7), turns.begin(7), turns.begin(7));
        assert!(!second.is_behind(), "both may be asked for at once");
        assert!(second.comes().now_or_never().is_none());
        assert!(third.is_behind() && !first.is_behind());
        drop(second);
        assert!(!third.is_behind());
    }
}
