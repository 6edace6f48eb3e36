//! Signatures as Terra makes them, each with a timestamp of its own.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;
use uuid::Uuid;

/// How early the timestamps of a run may begin.
const EARLY: Duration = Duration::from_secs(3600);

/// Timestamps that are unique within a run.
pub(in crate::cli) struct SigningClock {
    /// Unix milliseconds: the last timestamp given.
    last: AtomicI64,
    /// How many milliseconds early the timestamps are.
    early: i64,
}

impl SigningClock {
    /// For an endpoint whose timestamps may differ by `skew` from now, and from when the event was emitted.
    pub(in crate::cli) fn within(skew: Duration) -> Self {
        let spread = EARLY.min(skew / 2).as_millis().max(1);
        let early = i64::try_from(Uuid::new_v4().as_u128() % spread).expect("an hour at most");
        Self { last: AtomicI64::new(0), early }
    }

    /// Unix milliseconds before `now`. Two signatures with the same timestamp over the same body count as one
    /// delivery. So a run of `planned` deliveries begins that many milliseconds early: it cannot run ahead of the
    /// clock, and two consecutive runs do not begin at the same timestamp.
    pub(in crate::cli) fn next(&self, now: Timestamp, planned: u64) -> i64 {
        let earliest = now.as_millisecond() - self.early - i64::try_from(planned).unwrap_or(0);
        let next = |last: i64| Some(earliest.max(last + 1));
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        earliest.max(last.unwrap_or(0) + 1)
    }
}

/// The value of `terra-signature` at the time `t`.
pub(in crate::cli) fn signature(secret: &[u8], t: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
    mac.update(t.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    format!("t={t},v1={}", HEXLOWER.encode(&mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// `printf '1784012470.{"type":"daily"}' | openssl dgst -sha256 -hmac 'kettle and ½ moon'`
    #[test]
    fn signature_is_the_one_that_openssl_makes() {
        assert_eq!(
            signature("kettle and ½ moon".as_bytes(), 1_784_012_470, br#"{"type":"daily"}"#),
            "t=1784012470,v1=3728df94a32eddc9f586d1c1247fccfd386e53d6b0f021d6ea95693e04864583"
        );
    }

    #[test]
    fn timestamps_are_unique_and_never_in_the_future() {
        let (now, clock) = (Timestamp::now(), SigningClock::within(EARLY));
        let times: HashSet<_> = (0..1000).map(|_| clock.next(now, 1000)).collect();
        assert!(times.len() == 1000 && times.iter().all(|time| *time < now.as_millisecond()), "none in the future");
        let begins: HashSet<_> = (0..20).map(|_| SigningClock::within(EARLY).next(now, 1000)).collect();
        assert!(begins.len() > 10, "runs begin at times of their own");
        let young = SigningClock::within(Duration::from_secs(60)).next(now, 1000);
        assert!(now.as_millisecond() - young < 32_000, "half of it at most");
    }
}
