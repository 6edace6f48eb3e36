//! The last error of a broker's connection: when to log it again, and whether it explains a message that is not kept.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often the same error is logged.
const REPEAT: Duration = Duration::from_secs(60);

/// The last error, until it is cleared.
#[derive(Debug)]
pub(super) struct ErrorLog<T>(Mutex<Option<Recorded<T>>>);

#[derive(Debug)]
struct Recorded<T> {
    error: T,
    logged: Instant,
    last: Instant,
}

impl<T> Default for ErrorLog<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone + PartialEq> ErrorLog<T> {
    /// Records that the error occurred now. Returns whether to log it.
    pub(super) fn record(&self, error: T) -> bool {
        let now = Instant::now();
        match &mut *self.lock() {
            Some(recorded) if recorded.error == error && now - recorded.logged < REPEAT => {
                recorded.last = now;
                false
            }
            recorded => {
                *recorded = Some(Recorded { error, logged: now, last: now });
                true
            }
        }
    }

    pub(super) fn clear(&self) {
        *self.lock() = None;
    }

    /// The last error, if it occurred within this time.
    pub(super) fn within(&self, time: Duration) -> Option<T> {
        self.lock().as_ref().filter(|recorded| recorded.last.elapsed() < time).map(|recorded| recorded.error.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Recorded<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_error_is_logged_once_and_explains_until_it_is_cleared() {
        let errors = ErrorLog::default();
        assert_eq!(errors.within(REPEAT), None);
        assert!(errors.record("login"));
        assert!(!errors.record("login"));
        assert!(errors.record("tls"), "another one");
        assert_eq!(errors.within(REPEAT), Some("tls"));
        assert_eq!(errors.within(Duration::ZERO), None);
        errors.clear();
        assert_eq!(errors.within(REPEAT), None);
        assert!(errors.record("tls"), "again");
    }
}
