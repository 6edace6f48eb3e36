//! A record in the form in which [`Record`] is written as JSON, read again.

use std::fmt;

use data_encoding::BASE64;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::Record;

/// Why a record that was written without its payload has none.
const NO_PAYLOAD: &str = "its payload was missing when it was written here";

impl Record {
    /// Parses one line. Headers keep their order.
    ///
    /// # Errors
    /// It is not written as a record is.
    pub fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice::<Wire>(line)?.record()
    }
}

#[derive(Deserialize)]
struct Wire {
    topic: String,
    key: Option<String>,
    partition: i32,
    offset: u64,
    time: String,
    #[serde(deserialize_with = "in_order")]
    headers: Vec<(String, String)>,
    payload: Option<String>,
    payload_base64: Option<String>,
    problem: Option<IgnoredAny>,
}

impl Wire {
    fn record(self) -> Result<Record, serde_json::Error> {
        let payload = match (self.payload, self.payload_base64) {
            (Some(text), None) => text.into(),
            (None, Some(base64)) => BASE64.decode(base64.as_bytes()).map_err(serde_json::Error::custom)?.into(),
            _ => return Err(serde_json::Error::custom("one of payload and payload_base64 is needed")),
        };
        let time = self.time.parse().map_err(serde_json::Error::custom)?;
        let Self { topic, key, partition, offset, headers, problem, .. } = self;
        let problem = problem.map(|_| NO_PAYLOAD);
        Ok(Record { topic, key, partition, offset, time, headers, payload, problem })
    }
}

fn in_order<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    struct InOrder;

    impl<'de> Visitor<'de> for InOrder {
        type Value = Vec<(String, String)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of strings")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            std::iter::from_fn(|| map.next_entry().transpose()).collect()
        }
    }

    deserializer.deserialize_map(InOrder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(payload: &'static [u8]) -> Record {
        Record {
            topic: "terra.daily".into(),
            key: Some("a\"b".into()),
            partition: 0,
            offset: 7,
            time: jiff::Timestamp::from_millisecond(1_700_000_000_120).unwrap(),
            headers: vec![("z".into(), "1".into()), ("a".into(), "%20".into())],
            payload: payload.into(),
            problem: None,
        }
    }

    #[test]
    fn a_record_round_trips() {
        for payload in [&b"{\"a\": \"\\u00fc\", \"\": 1}\n"[..], b"\xff\x00", b""] {
            let written = serde_json::to_vec(&record(payload)).unwrap();
            assert_eq!(Record::parse(&written).unwrap(), record(payload));
        }
        let without = Record { problem: Some("gone"), ..record(b"") };
        assert!(Record::parse(&serde_json::to_vec(&without).unwrap()).unwrap().problem.is_some());
    }

    #[test]
    fn a_line_without_a_payload_is_an_error() {
        assert!(
            Record::parse(
                br#"{"topic":"t","key":null,"partition":0,"offset":1,"time":"2026-01-01T00:00:00Z","headers":{}}"#
            )
            .is_err()
        );
        assert!(Record::parse(br#"{"topic":"t""#).is_err());
    }
}
