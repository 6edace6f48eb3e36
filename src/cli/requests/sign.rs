//! What one record says of a large request. Comes in: a record of any bus. Goes out: a [`Sign`], or nothing
//! where it has no reference or is of no type that counts. Lenient: what cannot be read is absent.

use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use crate::bus::Record;
use crate::event::count;
use crate::message::chunk;
use crate::vocabulary::{self, may_carry_data};

const PROCESSING: &str = "large_request_processing";
const SENDING: &str = "large_request_sending";

const TYPE_PREFIX: &str = "co.tryterra.";

/// Bytes. Longer references are no header of the bridge's.
const LONGEST_REFERENCE: usize = 1024;

/// Hexadecimal digits of a delivery id that are kept: no two of a request share them by chance.
const ID_DIGITS: usize = 32;

/// One event of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sign {
    pub(super) request: Request,
    pub(super) provider: Option<String>,
    /// When a bridge received it.
    pub(super) at: Timestamp,
    pub(super) event: Event,
}

/// What ties the events of a request together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Request {
    pub(super) endpoint: String,
    pub(super) reference: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
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

/// Whether the record is an announcement: of those alone the payload is read.
pub(super) fn is_announcement(record: &Record) -> bool {
    attribute(record, "type")
        .is_some_and(|name| name.strip_prefix(TYPE_PREFIX).is_some_and(vocabulary::is_announcement))
}

impl Sign {
    pub(super) fn of(record: &Record) -> Option<Self> {
        let event_type = attribute(record, "type")?;
        let event_type = event_type.strip_prefix(TYPE_PREFIX).filter(|name| may_concern(name))?;
        if header(record, "terra-dead-letter-reason").is_some() {
            return None;
        }
        let at = header(record, "terra-received-at").and_then(|at| at.parse().ok()).unwrap_or(record.time);
        let said = if vocabulary::is_announcement(event_type) { object(&record.payload) } else { Map::new() };
        let reference = header(record, "terra-reference").filter(|reference| !reference.is_empty());
        let reference = reference.or_else(|| {
            let reference = said.get("reference")?.as_str()?;
            (1..=LONGEST_REFERENCE).contains(&reference.len()).then(|| reference.to_owned())
        })?;
        let event = match event_type {
            PROCESSING => Event::Processing,
            SENDING => {
                let emitted_at = header(record, "terra-ordering-timestamp").and_then(|at| at.parse().ok());
                let emitted_at = emitted_at.unwrap_or_else(|| at.as_millisecond());
                Event::Sending {
                    expected: said.get("expected_payloads").and_then(|said| count(&said.to_string())),
                    emitted_at,
                }
            }
            _ => Event::Payload { id: id(&attribute(record, "id")?)?, chunk: number(record) },
        };
        let endpoint = header(record, "terra-endpoint").unwrap_or_default();
        let provider = header(record, "terra-provider").filter(|provider| !provider.is_empty());
        Some(Self { request: Request { endpoint, reference }, provider, at, event })
    }
}

/// Records of older bridges have the number in the trace id alone.
fn number(record: &Record) -> Option<u32> {
    let by_trace = || chunk(&header(record, "terra-trace-id")?).map(|(_, number)| number.to_owned());
    header(record, "terra-chunk").or_else(by_trace)?.parse().ok()
}

fn id(text: &str) -> Option<u128> {
    u128::from_str_radix(text.get(..ID_DIGITS)?, 16).ok()
}

fn object(payload: &[u8]) -> Map<String, Value> {
    serde_json::from_slice(payload).unwrap_or_default()
}

fn attribute(record: &Record, name: &str) -> Option<String> {
    find(record, |of| {
        matches!(of.split_at_checked(3), Some((prefix, rest))
        if (prefix.eq_ignore_ascii_case("ce_") || prefix.eq_ignore_ascii_case("ce-")) && rest.eq_ignore_ascii_case(name))
    })
}

fn header(record: &Record, name: &str) -> Option<String> {
    find(record, |of| of.eq_ignore_ascii_case(name))
}

/// Kafka's headers are text, those of the other buses percent-encoded.
fn find(record: &Record, wanted: impl Fn(&str) -> bool) -> Option<String> {
    let plain = record.headers.iter().any(|(name, _)| name.starts_with("ce_"));
    let (_, value) = record.headers.iter().find(|(name, _)| wanted(name))?;
    Some(if plain { value.clone() } else { percent_decode_str(value).decode_utf8_lossy().into_owned() })
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
        }
    }

    fn sending(payload: &'static str) -> Option<Sign> {
        Sign::of(&record(&[("ce_type", "co.tryterra.large_request_sending"), ("ce_id", ID)], payload))
    }

    #[test]
    fn a_payload_is_read_from_the_headers_of_every_bus() {
        let common = [("terra-received-at", "2026-07-14T05:01:10.250Z"), ("terra-endpoint", "terra")];
        let kafka =
            [("ce_type", "co.tryterra.daily"), ("ce_id", ID), ("terra-reference", "a%20b"), ("terra-chunk", "7")];
        let nats =
            [("ce-type", "co.tryterra.daily"), ("Ce-Id", ID), ("Terra-Reference", "a%2520b"), ("terra-chunk", "7")];
        let expected = Sign {
            request: Request { endpoint: "terra".to_owned(), reference: "a%20b".to_owned() },
            provider: None,
            at: "2026-07-14T05:01:10.250Z".parse().unwrap(),
            event: Event::Payload { id: 0x3fa9_b2c1_d4e5_f607_1829_3a4b_5c6d_7e8f, chunk: Some(7) },
        };
        for headers in [kafka, nats] {
            assert_eq!(Sign::of(&record(&[&headers[..], &common].concat(), "")), Some(expected.clone()));
        }
    }

    #[test]
    fn what_older_bridges_kept_has_its_number_in_the_trace_id() {
        let chunk = |more: &[(&str, &str)]| {
            let headers = [("ce_type", "co.tryterra.sleep"), ("ce_id", ID), ("terra-reference", "r")];
            match Sign::of(&record(&[&headers[..], more].concat(), "")).unwrap().event {
                Event::Payload { chunk, .. } => chunk,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(chunk(&[("terra-trace-id", "x:chunk:12")]), Some(12));
        assert_eq!(chunk(&[("terra-trace-id", "x:chunk:12"), ("terra-chunk", "3")]), Some(3));
        assert_eq!(chunk(&[("terra-trace-id", "x")]), None);
    }

    #[test]
    fn how_many_are_expected_is_read_leniently() {
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
            let sign = sending(String::leak(payload)).unwrap();
            assert_eq!(sign.request.reference, "r");
            assert!(matches!(sign.event, Event::Sending { expected: read, .. } if read == expected), "{written}");
        }
        assert!(matches!(sending(r#"{"reference":"r"}"#).unwrap().event, Event::Sending { expected: None, .. }));
    }

    #[test]
    fn the_header_ties_before_the_body() {
        let headers = [("ce_type", "co.tryterra.large_request_processing"), ("terra-reference", "of the header")];
        let sign = Sign::of(&record(&headers, r#"{"reference":"of the body"}"#)).unwrap();
        assert_eq!((sign.request.reference.as_str(), sign.event), ("of the header", Event::Processing));
        assert_eq!(sending("not JSON"), None, "nothing ties it");
    }

    #[test]
    fn an_announcement_counts_at_the_time_that_terra_emitted_it() {
        let emitted_at = |more: &[(&str, &str)]| {
            let headers = [("ce_type", "co.tryterra.large_request_sending"), ("terra-reference", "r")];
            match Sign::of(&record(&[&headers[..], more].concat(), "")).unwrap().event {
                Event::Sending { emitted_at, .. } => emitted_at,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(emitted_at(&[("terra-ordering-timestamp", "1784005000123")]), 1_784_005_000_123);
        assert_eq!(emitted_at(&[("terra-received-at", "2026-07-14T05:01:10.250Z")]), 1_784_005_270_250);
    }

    #[test]
    fn other_types_and_events_without_a_reference_are_no_sign() {
        for headers in [
            &[("ce_type", "co.tryterra.auth"), ("ce_id", ID), ("terra-reference", "r")][..],
            &[
                ("ce_type", "co.tryterra.dead-letter"),
                ("ce_id", ID),
                ("terra-reference", "r"),
                ("terra-dead-letter-reason", "not-json"),
            ],
            &[("ce_type", "co.tryterra.daily"), ("ce_id", ID)],
            &[("ce_type", "co.tryterra.daily"), ("ce_id", "ü"), ("terra-reference", "r")],
            &[("terra-reference", "r")],
        ] {
            assert_eq!(Sign::of(&record(headers, "")), None, "{headers:?}");
        }
        assert!(!is_announcement(&record(&[("ce_type", "co.tryterra.daily")], "")));
        assert!(is_announcement(&record(&[("ce-type", "co.tryterra.large_request_sending")], "")));
    }
}
