//! Logs where no signature fits a secret any more: a wrong signing secret, as far as that can be told from a scanner's
//! guesses. Knows no secret.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many have to be forged in a row.
const SEVERAL: u64 = 5;

/// From the last signature that fitted to the first line, and between two lines.
const FIRST_AFTER: Duration = Duration::from_secs(300);
const AGAIN_AFTER: Duration = Duration::from_secs(3600);

/// What one endpoint's signatures came to, since it has the secrets that it has.
#[derive(Debug, Default)]
pub(super) struct SignatureLog(Mutex<History>);

#[derive(Debug, Default)]
struct History {
    /// The last one that fitted.
    fitted: Option<Instant>,
    /// Since then.
    forged: u64,
    logged: Option<Instant>,
}

impl SignatureLog {
    /// `fits`: a secret of the endpoint made the signature, whatever else may be wrong with the delivery.
    pub(super) fn record(&self, endpoint: &str, fits: bool) {
        let now = Instant::now();
        let mut history = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(forged) = history.record(fits, now) else { return };
        let minutes_since_one_fitted = history.fitted.map(|fitted| (now - fitted).as_secs() / 60);
        drop(history);
        tracing::warn!(
            endpoint,
            forged,
            minutes_since_one_fitted,
            remedy = "compare `secrets` of the endpoint with the signing secret in Terra's dashboard; a scanner looks \
                      the same",
            "several signatures in a row fit no secret of the endpoint: their deliveries are rejected as forged"
        );
    }
}

impl History {
    /// How many were forged in a row, if that should be logged now.
    fn record(&mut self, fits: bool, now: Instant) -> Option<u64> {
        if fits {
            *self = Self { fitted: Some(now), ..Self::default() };
            return None;
        }
        self.forged += 1;
        let is_within = |since: Option<Instant>, time| since.is_some_and(|since| now < since + time);
        if is_within(self.logged, AGAIN_AFTER) || is_within(self.fitted, FIRST_AFTER) || self.forged < SEVERAL {
            return None;
        }
        self.logged = Some(now);
        Some(self.forged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of so many forged ones, and in which minute, of one a minute.
    fn said(history: &mut History, from: Instant, minutes: std::ops::Range<u64>) -> Vec<(u64, u64)> {
        let at = |minute: u64| from + Duration::from_secs(60 * minute);
        minutes.filter_map(|minute| Some((minute, history.record(false, at(minute))?))).collect()
    }

    #[test]
    fn the_fifth_in_a_row_is_said_and_then_one_an_hour_while_it_lasts() {
        let (mut history, start) = (History::default(), Instant::now());
        assert_eq!(said(&mut history, start, 0..150), [(4, 5), (64, 65), (124, 125)]);
        let later = start + Duration::from_secs(24 * 3600);
        assert_eq!(said(&mut history, later, 0..59), [(0, 151)], "nothing came meanwhile, and nothing was said");
    }

    #[test]
    fn among_deliveries_that_fit_a_scanner_is_not_worth_a_line() {
        let (mut history, start) = (History::default(), Instant::now());
        for second in 0..10_000 {
            assert_eq!(history.record(second % 290 == 0, start + Duration::from_secs(second)), None);
        }
    }

    #[test]
    fn a_secret_that_was_reset_is_said_minutes_after_the_last_that_fitted_and_over_with_the_next() {
        let (mut history, start) = (History::default(), Instant::now());
        assert_eq!(history.record(true, start), None);
        assert_eq!(said(&mut history, start, 1..100), [(5, 5), (65, 65)]);
        assert_eq!(history.record(true, start + Duration::from_secs(100 * 60)), None);
        assert_eq!(said(&mut history, start, 100..104), []);
    }
}
