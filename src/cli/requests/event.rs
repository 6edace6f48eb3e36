//! What one record says about a large request. Lenient: an unreadable field counts as absent.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::attribute::Attribute;
use crate::bus::Record;
use crate::event::count;
use crate::vocabulary::{self, SOURCE_PREFIX, TYPE_PREFIX, may_carry_data};

const PROCESSING: &str = "large_request_processing";
const SENDING: &str = "large_request_sending";

/// Bytes. The bridge writes no longer reference into a header.
const LONGEST_REFERENCE: usize = 1024;

/// How many hexadecimal digits of a delivery id are kept: enough that no two of a request collide by chance.
const ID_DIGITS: usize = 32;

/// One event of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestEvent {
    pub(super) request: RequestId,
    pub(super) provider: Option<String>,
    /// When a bridge received it.
    pub(super) at: Timestamp,
    pub(super) kind: EventKind,
}

/// What the events of a request share.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub(super) struct RequestId {
    pub(super) reference: String,
    pub(super) endpoint: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EventKind {
    Processing,
    Sending {
        expected: Option<u64>,
        /// Unix milliseconds.
        emitted_at: i64,
    },
    Payload {
        /// The beginning of the delivery id.
        id: u128,
        chunk: Option<u32>,
    },
}

/// Whether a type can belong to a large request.
pub(in crate::cli) fn may_concern(event_type: &str) -> bool {
    vocabulary::is_announcement(event_type) || may_carry_data(event_type)
}

/// Whether the record is an announcement: only those need their payload.
pub(super) fn is_announcement(record: &Record) -> bool {
    event_type(record).is_some_and(|name| vocabulary::is_announcement(&name))
}

fn event_type(record: &Record) -> Option<String> {
    Some(record.attribute(Attribute::Type)?.strip_prefix(TYPE_PREFIX)?.to_owned())
}

impl RequestEvent {
    /// `None` if the record has no reference, or its type does not count.
    pub(super) fn of(record: &Record) -> Option<Self> {
        let event_type = event_type(record).filter(|name| may_concern(name))?;
        if record.attribute(Attribute::TerraDeadLetter).is_some() {
            return None;
        }
        let time = |attribute| record.attribute(attribute).and_then(|time| time.parse::<Timestamp>().ok());
        let at = time(Attribute::RecordedTime).unwrap_or(record.time);
        let announcement = if vocabulary::is_announcement(&event_type) { object(&record.payload) } else { Map::new() };
        let reference = record.attribute(Attribute::CorrelationId).or_else(|| {
            let reference = announcement.get("reference")?.as_str()?;
            (1..=LONGEST_REFERENCE).contains(&reference.len()).then(|| reference.to_owned())
        })?;
        let kind = match event_type.as_str() {
            PROCESSING => EventKind::Processing,
            SENDING => EventKind::Sending {
                expected: announcement.get("expected_payloads").and_then(|expected| count(&expected.to_string())),
                emitted_at: time(Attribute::Time).unwrap_or(at).as_millisecond(),
            },
            _ => EventKind::Payload {
                id: id(&record.attribute(Attribute::Id)?)?,
                chunk: record.attribute(Attribute::TerraChunk).and_then(|chunk| chunk.parse().ok()),
            },
        };
        let source = record.attribute(Attribute::Source).unwrap_or_default();
        let endpoint = source.strip_prefix(SOURCE_PREFIX).unwrap_or_default().to_owned();
        let provider = record.attribute(Attribute::TerraProvider);
        Some(Self { request: RequestId { reference, endpoint }, provider, at, kind })
    }
}

fn id(text: &str) -> Option<u128> {
    u128::from_str_radix(text.get(..ID_DIGITS)?, 16).ok()
}

fn object(payload: &[u8]) -> Map<String, Value> {
    serde_json::from_slice(payload).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3fa9b2c1d4e5f60718293a4b5c6d7e8f3fa9b2c1d4e5f60718293a4b5c6d7e8f";

    fn record(headers: &[(&str, &str)], payload: &'static str) -> Record {
        Record {
            topic: "t".to_owned(),
            key: None,
            partition: 0,
            offset: 0,
            time: "2026-07-14T05:00:00Z".parse().unwrap(),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            payload: payload.into(),
            problem: None,
        }
    }

    fn sending(payload: &'static str) -> Option<RequestEvent> {
        RequestEvent::of(&record(&[("ce_type", "co.tryterra.large_request_sending"), ("ce_id", ID)], payload))
    }

    #[test]
    fn a_payload_is_read_from_the_headers_of_every_bus() {
        let kafka = [
            ("ce_type", "co.tryterra.daily"),
            ("ce_id", ID),
            ("ce_source", "/terra/terra"),
            ("ce_recordedtime", "2026-07-14T05:01:10.250Z"),
            ("ce_correlationid", "a%20b"),
            ("ce_terrachunk", "7"),
        ];
        let nats = [
            ("ce-type", "co.tryterra.daily"),
            ("Ce-Id", ID),
            ("ce-source", "/terra/terra"),
            ("ce-recordedtime", "2026-07-14T05:01:10.250Z"),
            ("Ce-Correlationid", "a%2520b"),
            ("ce-terrachunk", "7"),
        ];
        let expected = RequestEvent {
            request: RequestId { reference: "a%20b".to_owned(), endpoint: "terra".to_owned() },
            provider: None,
            at: "2026-07-14T05:01:10.250Z".parse().unwrap(),
            kind: EventKind::Payload { id: 0x3fa9_b2c1_d4e5_f607_1829_3a4b_5c6d_7e8f, chunk: Some(7) },
        };
        for headers in [kafka, nats] {
            assert_eq!(RequestEvent::of(&record(&headers, "")), Some(expected.clone()));
        }
    }

    #[test]
    fn the_expected_count_is_read_leniently() {
        for (written, expected) in [
            ("43", Some(43)),
            ("43.0", Some(43)),
            ("4.3e1", Some(43)),
            ("\"43.0\"", Some(43)),
            ("\"43\"", Some(43)),
            ("0", Some(0)),
            ("null", None),
            ("-1", None),
            ("4.5", None),
            ("[43]", None),
            ("\"many\"", None),
        ] {
            let payload =
                format!(r#"{{"type":"large_request_sending","reference":"r","expected_payloads":{written}}}"#);
            let event = sending(String::leak(payload)).unwrap();
            assert_eq!(event.request.reference, "r");
            assert!(matches!(event.kind, EventKind::Sending { expected: read, .. } if read == expected), "{written}");
        }
        assert!(matches!(sending(r#"{"reference":"r"}"#).unwrap().kind, EventKind::Sending { expected: None, .. }));
    }

    #[test]
    fn the_header_takes_precedence_over_the_body() {
        let headers = [("ce_type", "co.tryterra.large_request_processing"), ("ce_correlationid", "of the header")];
        let event = RequestEvent::of(&record(&headers, r#"{"reference":"of the body"}"#)).unwrap();
        assert_eq!((event.request.reference.as_str(), event.kind), ("of the header", EventKind::Processing));
        assert_eq!(sending("not JSON"), None, "nothing ties it");
    }

    #[test]
    fn an_announcement_counts_at_the_time_that_terra_emitted_it() {
        let emitted_at = |more: &[(&str, &str)]| {
            let headers = [("ce_type", "co.tryterra.large_request_sending"), ("ce_correlationid", "r")];
            match RequestEvent::of(&record(&[&headers[..], more].concat(), "")).unwrap().kind {
                EventKind::Sending { emitted_at, .. } => emitted_at,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(emitted_at(&[("ce_time", "2026-07-14T05:01:10.123Z")]), 1_784_005_270_123);
        assert_eq!(emitted_at(&[("ce_recordedtime", "2026-07-14T05:01:10.250Z")]), 1_784_005_270_250);
    }

    #[test]
    fn other_types_and_events_without_a_reference_do_not_count() {
        for headers in [
            &[("ce_type", "co.tryterra.auth"), ("ce_id", ID), ("ce_correlationid", "r")][..],
            &[
                ("ce_type", "co.tryterra.dead-letter"),
                ("ce_id", ID),
                ("ce_correlationid", "r"),
                ("ce_terradeadletter", "not-json"),
            ],
            &[("ce_type", "co.tryterra.daily"), ("ce_id", ID)],
            &[("ce_type", "co.tryterra.daily"), ("ce_id", "ü"), ("ce_correlationid", "r")],
            &[("ce_correlationid", "r")],
        ] {
            assert_eq!(RequestEvent::of(&record(headers, "")), None, "{headers:?}");
        }
        assert!(!is_announcement(&record(&[("ce_type", "co.tryterra.daily")], "")));
        assert!(is_announcement(&record(&[("ce-type", "co.tryterra.large_request_sending")], "")));
    }
}
