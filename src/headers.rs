//! The headers that Terra sends with a delivery. The signature covers none of them: anyone who captured a request can
//! replay it with other headers. So their lengths are limited, and an ordering timestamp counts only as far as the
//! signed `t` allows.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use crate::attribute::attribute_value;
use crate::trace::{TRACE_PARENT, TRACE_STATE, TraceParent};

static TRACE_ID: HeaderName = HeaderName::from_static("x-terra-trace-id");
static REFERENCE: HeaderName = HeaderName::from_static("terra-reference");
static ORDERING_TIMESTAMP: HeaderName = HeaderName::from_static("x-terra-ordering-timestamp");
static PARENT: HeaderName = HeaderName::from_static(TRACE_PARENT);
static STATE: HeaderName = HeaderName::from_static(TRACE_STATE);

/// Bytes of a header that are kept as text; all others are percent-encoded.
const NOT_TEXT: &AsciiSet = CONTROLS;

/// Unix milliseconds, in 2001: a smaller value counts seconds, or is no time.
const FIRST_MILLISECONDS: i64 = 1_000_000_000_000;

/// Bytes, the least that W3C Trace Context has everybody pass on.
const MAX_TRACE_STATE: usize = 512;

/// The headers that are used; the rest of a request's head is dropped.
#[derive(Debug, Default, Clone)]
pub struct UnsignedHeaders {
    trace_id: Option<String>,
    reference: Option<String>,
    trace_parent: Option<String>,
    trace_state: Option<String>,
    ordered_at: Option<Timestamp>,
    is_timestamp_ignored: bool,
}

impl UnsignedHeaders {
    /// `latest`: Terra cannot have signed an event that it emitted later than this.
    pub(crate) fn read(headers: &HeaderMap, latest: Timestamp) -> Self {
        let text = |name: &HeaderName| {
            headers.get(name).map(|value: &HeaderValue| attribute_value(text(value.as_bytes())).into_owned())
        };
        let stamp = headers.get(&ORDERING_TIMESTAMP);
        let ordered_at = stamp.and_then(ordering_timestamp).filter(|time| *time <= latest);
        let trace_parent = trace_parent(headers);
        Self {
            trace_id: text(&TRACE_ID).filter(|id| !id.is_empty()),
            reference: text(&REFERENCE).filter(|reference| !reference.is_empty()),
            trace_state: trace_parent.as_ref().and_then(|_| trace_state(headers)),
            trace_parent,
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

    /// The W3C trace context of the request; `None` if it has none, or none that is valid.
    pub fn trace_parent(&self) -> Option<&str> {
        self.trace_parent.as_deref()
    }

    /// What vendors added to it.
    pub fn trace_state(&self) -> Option<&str> {
        self.trace_state.as_deref()
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

/// Several are as good as none.
fn trace_parent(headers: &HeaderMap) -> Option<String> {
    let mut lines = headers.get_all(&PARENT).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    TraceParent::read(line).map(|parent| parent.text.to_owned())
}

fn trace_state(headers: &HeaderMap) -> Option<String> {
    let lines: Result<Vec<_>, _> = headers.get_all(&STATE).iter().map(HeaderValue::to_str).collect();
    let joined = lines.ok()?.join(",");
    (!joined.is_empty() && joined.len() <= MAX_TRACE_STATE && !joined.contains('\t')).then_some(joined)
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => percent_encode(bytes, NOT_TEXT).into(),
    }
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
    fn only_a_valid_trace_context_is_kept() {
        const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = |lines: &[(&'static str, &str)]| {
            let lines = lines.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
            let headers = UnsignedHeaders::read(&lines.collect(), Timestamp::UNIX_EPOCH);
            (headers.trace_parent().map(str::to_owned), headers.trace_state().map(str::to_owned))
        };
        let parent = ("traceparent", PARENT);
        let kept = Some(PARENT.to_owned());
        assert_eq!(context(&[parent]), (kept.clone(), None));
        let states = [parent, ("tracestate", "a=1"), ("tracestate", "b=2,c=3")];
        assert_eq!(context(&states), (kept.clone(), Some("a=1,b=2,c=3".to_owned())));
        let long = "x".repeat(MAX_TRACE_STATE + 1);
        for state in ["", "caf\u{e9}", long.as_str()] {
            assert_eq!(context(&[parent, ("tracestate", state)]), (kept.clone(), None), "{state}");
        }
        assert_eq!(context(&[("tracestate", "a=1")]), (None, None));
        assert_eq!(context(&[parent, parent]), (None, None));
        for odd in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1g",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(context(&[("traceparent", odd)]), (None, None), "{odd}");
        }
    }

    #[test]
    fn only_short_values_of_a_head_are_kept() {
        let long = "x".repeat(2000);
        let trace = read("x-terra-trace-id", long.as_bytes());
        assert_eq!(trace.trace_id().map(str::len), Some("sha256:".len() + 64));
        assert_eq!(read("terra-reference", long.as_bytes()).reference().map(str::len), Some("sha256:".len() + 64));
        assert_eq!(read("terra-reference", b"r\xff").reference(), Some("r%FF"));
        assert_eq!(read("x-terra-trace-id", b"").trace_id(), None);
        assert_eq!(read("terra-reference", b"").reference(), None);
        let other = format!("{:?}", read("x-other", b"kept by nobody"));
        assert!(!other.contains("kept by nobody"), "{other}");
    }
}
