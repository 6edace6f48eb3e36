//! Deliveries of one size, each signed by itself and like no other.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

pub(crate) struct Kind {
    mac: Hmac<Sha256>,
    /// The time in the signatures.
    t: String,
    /// Tells the deliveries of this run from those of any other.
    run: u64,
    users: Vec<OnceLock<User>>,
    next: AtomicU64,
    end: u64,
    /// Of every body, between its user and its own id.
    samples: String,
}

/// What all deliveries for one user begin with.
struct User {
    front: String,
    /// Of the front and the samples.
    mac: Hmac<Sha256>,
}

/// In the parts that it is sent in.
pub(crate) struct Delivery<'k> {
    /// The head, and the body's front.
    pub(crate) begin: String,
    pub(crate) samples: &'k str,
    pub(crate) end: String,
}

impl Kind {
    /// Bodies of `size` bytes, as far as that is more than a body without samples; `end` of them.
    pub(crate) fn new(secret: &str, size: usize, users: usize, end: u64) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut kind = Self {
            mac: Hmac::new_from_slice(secret.as_bytes()).expect("any key will do"),
            t: now.as_secs().to_string(),
            run: now.as_nanos() as u64,
            users: (0..users).map(|_| OnceLock::new()).collect(),
            next: AtomicU64::new(0),
            end,
            samples: String::new(),
        };
        kind.samples = samples(size.saturating_sub(front(0).len() + kind.back(0).len()));
        kind
    }

    /// The number of the next delivery; `None` after the last.
    pub(crate) fn next(&self) -> Option<u64> {
        Some(self.next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < self.end)
    }

    fn user(&self, user: usize) -> User {
        let front = front(user);
        let mut mac = self.mac.clone();
        for part in [&self.t, ".", &front, &self.samples] {
            mac.update(part.as_bytes());
        }
        User { front, mac }
    }

    pub(crate) fn delivery(&self, number: u64) -> Delivery<'_> {
        let user = (number % self.users.len() as u64) as usize;
        let user = self.users[user].get_or_init(|| self.user(user));
        let end = self.back(number);
        let mut mac = user.mac.clone();
        mac.update(end.as_bytes());
        let v1 = HEXLOWER.encode(&mac.finalize().into_bytes());
        let length = user.front.len() + self.samples.len() + end.len();
        let Self { run, t, .. } = self;
        let begin = format!(
            "POST /terra HTTP/1.1\r\nhost: bridge\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
             terra-signature: t={t},v1={v1}\r\nterra-reference: {run:016x}{number:016x}\r\n\
             x-terra-trace-id: {:08x}-0000-4000-8000-{number:012x}\r\nx-terra-ordering-timestamp: {t}000\r\n\r\n{}",
            *run as u32, user.front
        );
        Delivery { begin, samples: &self.samples, end }
    }

    /// The end of a body, by which it is told from others.
    fn back(&self, number: u64) -> String {
        format!(
            r#"]}}}},"metadata":{{"start_time":"2026-07-13T00:00:00.000000+02:00","end_time":"2026-07-14T00:00:00.000000+02:00","summary_id":"{:016x}{number:016x}","upload_type":1}}}}]}}"#,
            self.run
        )
    }
}

fn front(user: usize) -> String {
    format!(
        r#"{{"type":"daily","version":"2022-03-16","user":{{"user_id":"5a0c1d7e-1101-4b6e-9d3a-{user:012x}","provider":"GARMIN","last_webhook_update":"2026-07-11T01:41:18.201417+00:00","created_at":"2026-01-02T10:21:05.110000+00:00","scopes":"ACTIVITY_EXPORT,HEALTH_EXPORT","reference_id":"member-{user:06}","active":true}},"data":[{{"heart_rate_data":{{"detailed":{{"hr_samples":["#
    )
}

/// Exactly so many bytes of invented heart rate.
fn samples(room: usize) -> String {
    let mut text = String::with_capacity(room);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for number in 0.. {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let comma = if number == 0 { "" } else { "," };
        let (minute, hour, day) = (number % 60, number / 60 % 24, number / 1440 % 28 + 1);
        let (second, micros, bpm) = (random % 60, random % 1_000_000, 45 + random / 64 % 120);
        let sample = format!(
            r#"{comma}{{"timestamp":"2026-07-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}+02:00","bpm":{bpm}}}"#
        );
        if text.len() + sample.len() > room {
            break;
        }
        text.push_str(&sample);
    }
    text.extend(std::iter::repeat_n(' ', room - text.len()));
    text
}
