//! The headers that Terra sends with a delivery. The signature covers none of them: anyone who captured a request can
//! replay it with other headers. So their lengths are limited, and an ordering timestamp counts only as far as the
//! signed `t` allows.

use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use sha2::{Digest, Sha256};

/// Bytes of a header that are kept as text; all others are percent-encoded.
const NOT_TEXT: &AsciiSet = CONTROLS;

/// Bytes. A longer key or header value is replaced by its digest, so that no sender can create a message whose
/// headers a bus refuses.
const MAX_VALUE: usize = 1024;

/// Unix milliseconds, in 2001: a smaller value counts seconds, or is no time.
const FIRST_MILLISECONDS: i64 = 1_000_000_000_000;

/// The three headers that are used; the rest of a request's head is dropped.
#[derive(Debug, Default, Clone)]
pub struct UnsignedHeaders {
    trace_id: Option<String>,
    reference: Option<String>,
    ordered_at: Option<Timestamp>,
    is_timestamp_ignored: bool,
}

impl UnsignedHeaders {
    /// `latest`: Terra cannot have signed an event that it emitted later than this.
    pub(crate) fn read(headers: &HeaderMap, latest: Timestamp) -> Self {
        let text = |name| headers.get(name).map(|value: &HeaderValue| bounded(text(value.as_bytes())));
        let stamp = headers.get("x-terra-ordering-timestamp");
        let ordered_at = stamp.and_then(ordering_timestamp).filter(|time| *time <= latest);
        Self {
            trace_id: text("x-terra-trace-id").filter(|id| !id.is_empty()),
            reference: text("terra-reference"),
            ordered_at,
            is_timestamp_ignored: stamp.is_some() && ordered_at.is_none(),
        }
    }

    pub fn trace_id(&self) -> Option<&str> {
        self.trace_id.as_deref()
    }

    pub fn reference(&self) -> Option<&str> {
        self.reference.as_deref()
    }

    /// When Terra emitted the event, according to the header.
    pub fn ordered_at(&self) -> Option<Timestamp> {
        self.ordered_at
    }

    /// Whether there is an ordering timestamp that cannot be Terra's.
    pub fn ordering_timestamp_ignored(&self) -> bool {
        self.is_timestamp_ignored
    }
}

fn ordering_timestamp(value: &HeaderValue) -> Option<Timestamp> {
    let milliseconds = value.to_str().ok()?.parse().ok().filter(|time| *time >= FIRST_MILLISECONDS)?;
    Timestamp::from_millisecond(milliseconds).ok()
}

fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => percent_encode(bytes, NOT_TEXT).to_string(),
    }
}

/// The value, or its digest if it is too long.
pub(crate) fn bounded(value: String) -> String {
    if value.len() <= MAX_VALUE {
        return value;
    }
    format!("sha256:{}", data_encoding::HEXLOWER.encode(&Sha256::digest(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &'static str, value: &[u8]) -> UnsignedHeaders {
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static(name),
            HeaderValue::from_bytes(value).expect("a header's value"),
        )]);
        UnsignedHeaders::read(&headers, Timestamp::from_second(1_700_000_300).expect("a time"))
    }

    #[test]
    fn an_ordering_timestamp_is_accepted_up_to_what_the_signature_allows() {
        let stamped = |stamp: &[u8]| {
            let headers = read("x-terra-ordering-timestamp", stamp);
            let milliseconds = headers.ordered_at().map(Timestamp::as_millisecond);
            assert_eq!(headers.ordering_timestamp_ignored(), milliseconds.is_none());
            milliseconds
        };
        assert_eq!(stamped(b"1700000000123"), Some(1_700_000_000_123));
        assert_eq!(stamped(b"1700000300000"), Some(1_700_000_300_000));
        assert_eq!(stamped(b"1000000000000"), Some(1_000_000_000_000));
        for odd in [
            &b"1700000300001"[..],
            b"4102444799999",
            b"9223372036854775807",
            b"99999999999999999999",
            b"1700000000",
            b"-1",
            b"",
            b"soon",
            b"1.7e12",
            b"\xff",
        ] {
            assert_eq!(stamped(odd), None, "{}", odd.escape_ascii());
        }
        assert!(!read("x-terra-trace-id", b"a").ordering_timestamp_ignored(), "there is none");
    }

    #[test]
    fn only_three_short_values_of_a_head_are_kept() {
        let long = "x".repeat(MAX_VALUE + 1);
        let trace = read("x-terra-trace-id", long.as_bytes());
        assert_eq!(trace.trace_id().map(str::len), Some("sha256:".len() + 64));
        assert_eq!(read("terra-reference", long.as_bytes()).reference().map(str::len), Some("sha256:".len() + 64));
        assert_eq!(read("terra-reference", b"r\xff").reference(), Some("r%FF"));
        assert_eq!(read("x-terra-trace-id", b"").trace_id(), None);
        let other = format!("{:?}", read("x-other", b"kept by nobody"));
        assert!(!other.contains("kept by nobody"), "{other}");
    }
}
