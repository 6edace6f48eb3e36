//! The attributes of a message, written once: as the header lines of CloudEvents' NATS binding, which the embedded log
//! stores as well. Nearly every value stands there as it is, so that the Kafka binding borrows it from its line.

use std::borrow::Cow;
use std::ops::Range;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::attribute::{Attribute, attribute_value};

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
}

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
        Self { content_type, lines, unencoded: String::new(), places: Vec::with_capacity(USUAL_COUNT) }
    }

    pub(super) fn content_type(&self) -> &str {
        &self.content_type
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

    /// The lines of the NATS binding, content types first.
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
