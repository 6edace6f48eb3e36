//! The trace to which a delivery belongs, by W3C Trace Context: the ids that a message and its spans share. Knows
//! nothing of how spans are exported.

use http::HeaderValue;
use opentelemetry::trace::{SpanId, TraceFlags, TraceId};

/// The headers of W3C Trace Context: the same on HTTP, Kafka, NATS and the embedded log.
pub const TRACE_PARENT: &str = "traceparent";
pub const TRACE_STATE: &str = "tracestate";

/// A trace, and the ids of the spans that the bridge adds to it.
#[derive(Debug, Clone, Copy)]
pub struct Trace {
    pub id: TraceId,
    pub flags: TraceFlags,
    /// The sender's span; [`SpanId::INVALID`] if the trace begins here.
    pub parent: SpanId,
    /// From the request to its answer.
    pub server: SpanId,
    /// From the message to the bus's answer: the parent of what consumers do.
    pub producer: SpanId,
}

impl Trace {
    /// Appends the `traceparent` of the message.
    pub(crate) fn write_parent(&self, to: &mut String) {
        to.push_str("00-");
        data_encoding::HEXLOWER.encode_append(&self.id.to_bytes(), to);
        to.push('-');
        data_encoding::HEXLOWER.encode_append(&self.producer.to_bytes(), to);
        to.push('-');
        data_encoding::HEXLOWER.encode_append(&[self.flags.to_u8()], to);
    }
}

/// The trace context of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent<'v> {
    /// `00-<trace id>-<span id>-<flags>` in lower-case hex; the one version that there is.
    pub text: &'v str,
    pub id: TraceId,
    pub span: SpanId,
    pub flags: TraceFlags,
}

impl<'v> TraceParent<'v> {
    /// `None` if it is not valid; an id of zeros is not.
    pub fn read(value: &'v HeaderValue) -> Option<Self> {
        Self::parse(value.to_str().ok()?)
    }

    pub(crate) fn parse(text: &'v str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut next = || parts.next();
        let (version, id, span, flags) = (next()?, next()?, next()?, next()?);
        if version != "00" || next().is_some() {
            return None;
        }
        let (id, span) = (TraceId::from_bytes(bytes(id)?), SpanId::from_bytes(bytes(span)?));
        let [flags] = bytes(flags)?;
        let is_valid = id != TraceId::INVALID && span != SpanId::INVALID;
        is_valid.then_some(Self { text, id, span, flags: TraceFlags::new(flags) })
    }
}

fn bytes<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let exact = hex.len() == 2 * N && data_encoding::HEXLOWER.decode_mut(hex.as_bytes(), &mut bytes).is_ok();
    exact.then_some(bytes)
}
