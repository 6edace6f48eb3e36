//! The attributes of a message, written once: as the header lines of CloudEvents' NATS binding, which the embedded log
//! stores as well. Nearly every value stands there as it is, so that the Kafka binding borrows it from its line.

use std::borrow::Cow;
use std::ops::Range;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::attribute::{Attribute, attribute_value};
use crate::trace::{TRACE_PARENT, TRACE_STATE};

pub(super) const CONTENT_TYPE: &str = "content-type";
/// The NATS binding's; HTTP's and Kafka's have the content type alone.
pub(crate) const DATA_CONTENT_TYPE: &str = "ce-datacontenttype";

/// What CloudEvents' HTTP and NATS bindings percent-encode: everything but printable ASCII, and also space, double
/// quote and percent.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// Bytes, and attributes: room for those of nearly every message.
const USUAL_BYTES: usize = 1024;
const USUAL_COUNT: usize = 16;

#[derive(Clone)]
pub(super) struct Attributes {
    content_type: Cow<'static, str>,
    /// `name: value\r\n`, values percent-encoded.
    lines: String,
    /// The values that differ in their line, as they are.
    unencoded: String,
    places: Vec<Place>,
    /// Where `traceparent` and `tracestate` have their values in `lines`; empty if they are absent.
    trace: [Range<u32>; 2],
}

/// W3C Trace Context's own headers, which are the same on every bus. Their values are printable ASCII, and stand as they
/// are.
const TRACE_HEADERS: [&str; 2] = [TRACE_PARENT, TRACE_STATE];

/// Where the value of an attribute is.
#[derive(Clone)]
struct Place {
    attribute: Attribute,
    in_lines: Range<u32>,
    /// In `unencoded`; empty if the line has the value as it is.
    unencoded: Range<u32>,
}

impl Attributes {
    pub(super) fn new(content_type: Cow<'static, str>) -> Self {
        let mut lines = String::with_capacity(USUAL_BYTES);
        for name in [CONTENT_TYPE, DATA_CONTENT_TYPE] {
            begin_line(&mut lines, name);
            lines.extend(utf8_percent_encode(&content_type, ENCODED));
            lines.push_str("\r\n");
        }
        let (places, trace) = (Vec::with_capacity(USUAL_COUNT), [0..0, 0..0]);
        Self { content_type, lines, unencoded: String::new(), places, trace }
    }

    pub(super) fn content_type(&self) -> &str {
        &self.content_type
    }

    /// Adds the trace that consumers continue, before any attribute.
    pub(super) fn add_trace(&mut self, write_parent: impl FnOnce(&mut String), state: Option<&str>) {
        self.trace[0] = self.add_trace_line(TRACE_PARENT, write_parent);
        if let Some(state) = state {
            self.trace[1] = self.add_trace_line(TRACE_STATE, |line| line.push_str(state));
        }
    }

    fn add_trace_line(&mut self, name: &str, write: impl FnOnce(&mut String)) -> Range<u32> {
        begin_line(&mut self.lines, name);
        let begin = self.lines.len();
        write(&mut self.lines);
        let value = place(begin..self.lines.len());
        self.lines.push_str("\r\n");
        value
    }

    /// The headers of that trace.
    pub(super) fn trace(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let values = self.trace.iter().map(|value| &self.lines[range(value)]);
        TRACE_HEADERS.into_iter().zip(values).filter(|(_, value)| !value.is_empty())
    }

    /// Adds an attribute. A value that CloudEvents does not allow is replaced by its digest.
    pub(super) fn add(&mut self, attribute: Attribute, value: &str) {
        self.add_written(attribute, |line| line.push_str(value));
    }

    pub(super) fn add_if_some(&mut self, attribute: Attribute, value: Option<&str>) {
        if let Some(value) = value {
            self.add(attribute, value);
        }
    }

    /// The same for a value that `write` appends.
    pub(super) fn add_written(&mut self, attribute: Attribute, write: impl FnOnce(&mut String)) {
        begin_line(&mut self.lines, attribute.nats_header());
        let (begin, other) = (self.lines.len(), self.unencoded.len());
        write(&mut self.lines);
        let value = &self.lines[begin..];
        let allowed = attribute_value(value);
        if matches!(allowed, Cow::Owned(_)) || !is_unchanged(value) {
            self.unencoded.push_str(&allowed);
            self.lines.truncate(begin);
            self.lines.extend(utf8_percent_encode(&self.unencoded[other..], ENCODED));
        }
        let (in_lines, unencoded) = (place(begin..self.lines.len()), place(other..self.unencoded.len()));
        self.places.push(Place { attribute, in_lines, unencoded });
        self.lines.push_str("\r\n");
    }

    /// The lines of the NATS binding: content types, trace, attributes.
    pub(super) fn lines(&self) -> &str {
        &self.lines
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Attribute, &str)> {
        self.places.iter().map(|Place { attribute, in_lines, unencoded }| {
            let is_as_it_is = unencoded.is_empty();
            let value = if is_as_it_is { &self.lines[range(in_lines)] } else { &self.unencoded[range(unencoded)] };
            (*attribute, value)
        })
    }

    /// With the values of their lines.
    pub(super) fn encoded(&self) -> impl Iterator<Item = (Attribute, &str)> {
        self.places.iter().map(|place| (place.attribute, &self.lines[range(&place.in_lines)]))
    }
}

fn begin_line(lines: &mut String, name: &str) {
    lines.push_str(name);
    lines.push_str(": ");
}

/// Whether percent-encoding leaves the value as it is.
fn is_unchanged(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'%')
}

pub(super) fn encoded(value: &str) -> Cow<'_, str> {
    utf8_percent_encode(value, ENCODED).into()
}

fn place(range: Range<usize>) -> Range<u32> {
    let at = |at| u32::try_from(at).expect("an attribute has at most a kilobyte");
    at(range.start)..at(range.end)
}

fn range(place: &Range<u32>) -> Range<usize> {
    place.start as usize..place.end as usize
}
