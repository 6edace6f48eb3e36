//! What is wrong with a broker's connection, said once in a while. Comes in: each time that an adapter meets
//! it. Goes out: whether to say it now, and what explains a message that is not kept.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often the same trouble is said.
const REPEAT: Duration = Duration::from_secs(60);

/// The last trouble, until it is over.
#[derive(Debug)]
pub(super) struct Troubles<T>(Mutex<Option<Seen<T>>>);

#[derive(Debug)]
struct Seen<T> {
    trouble: T,
    said: Instant,
    last: Instant,
}

impl<T> Default for Troubles<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone + PartialEq> Troubles<T> {
    /// Met now. Whether somebody should be told.
    pub(super) fn meet(&self, trouble: T) -> bool {
        let now = Instant::now();
        match &mut *self.seen() {
            Some(seen) if seen.trouble == trouble && now - seen.said < REPEAT => {
                seen.last = now;
                false
            }
            seen => {
                *seen = Some(Seen { trouble, said: now, last: now });
                true
            }
        }
    }

    pub(super) fn over(&self) {
        *self.seen() = None;
    }

    /// The trouble that was last met, where that is not longer ago.
    pub(super) fn within(&self, time: Duration) -> Option<T> {
        self.seen().as_ref().filter(|seen| seen.last.elapsed() < time).map(|seen| seen.trouble.clone())
    }

    fn seen(&self) -> MutexGuard<'_, Option<Seen<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_is_said_once_and_explains_until_it_is_over() {
        let troubles = Troubles::default();
        assert_eq!(troubles.within(REPEAT), None);
        assert!(troubles.meet("login"));
        assert!(!troubles.meet("login"));
        assert!(troubles.meet("tls"), "another one");
        assert_eq!(troubles.within(REPEAT), Some("tls"));
        assert_eq!(troubles.within(Duration::ZERO), None);
        troubles.over();
        assert_eq!(troubles.within(REPEAT), None);
        assert!(troubles.meet("tls"), "again");
    }
}
