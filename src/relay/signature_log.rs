//! Logs when signatures stop matching any secret: a sign of a wrong signing secret, as far as that differs from a
//! scanner's guesses. Knows no secret.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How many must be forged in a row.
const SEVERAL: u64 = 5;

/// The time from the last valid signature to the first line, and the time between two lines.
const FIRST_AFTER: Duration = Duration::from_secs(300);
const AGAIN_AFTER: Duration = Duration::from_secs(3600);

/// The history of one endpoint's signatures since its secrets last changed.
#[derive(Debug, Default)]
pub(super) struct SignatureLog(Mutex<History>);

#[derive(Debug, Default)]
struct History {
    /// The last valid one.
    fitted: Option<Instant>,
    /// Forged ones since then.
    forged: u64,
    logged: Option<Instant>,
}

impl SignatureLog {
    /// `fits`: a secret of the endpoint made the signature, whatever else is wrong with the delivery.
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

    /// The lines logged for one forged signature a minute: how many in a row, and in which minute.
    fn lines(history: &mut History, from: Instant, minutes: std::ops::Range<u64>) -> Vec<(u64, u64)> {
        let at = |minute: u64| from + Duration::from_secs(60 * minute);
        minutes.filter_map(|minute| Some((minute, history.record(false, at(minute))?))).collect()
    }

    #[test]
    fn the_fifth_in_a_row_is_logged_and_then_one_an_hour_while_it_lasts() {
        let (mut history, start) = (History::default(), Instant::now());
        assert_eq!(lines(&mut history, start, 0..150), [(4, 5), (64, 65), (124, 125)]);
        let later = start + Duration::from_secs(24 * 3600);
        assert_eq!(lines(&mut history, later, 0..59), [(0, 151)], "nothing came meanwhile, and nothing was said");
    }

    #[test]
    fn a_scanner_among_valid_deliveries_is_not_logged() {
        let (mut history, start) = (History::default(), Instant::now());
        for second in 0..10_000 {
            assert_eq!(history.record(second % 290 == 0, start + Duration::from_secs(second)), None);
        }
    }

    #[test]
    fn a_reset_secret_is_logged_minutes_after_the_last_valid_signature_until_the_next() {
        let (mut history, start) = (History::default(), Instant::now());
        assert_eq!(history.record(true, start), None);
        assert_eq!(lines(&mut history, start, 1..100), [(5, 5), (65, 65)]);
        assert_eq!(history.record(true, start + Duration::from_secs(100 * 60)), None);
        assert_eq!(lines(&mut history, start, 100..104), []);
    }
}
