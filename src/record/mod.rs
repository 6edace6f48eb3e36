//! A message read back from a bus, for people (`tail`) and programs (NDJSON).

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::attribute::Attribute;

mod wire;

/// One stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub topic: String,
    pub key: Option<String>,
    /// 0 if the bus has no partitions.
    pub partition: i32,
    /// For NATS: the stream's sequence.
    pub offset: u64,
    /// When the bus stored it.
    pub time: jiff::Timestamp,
    pub headers: Vec<(String, String)>,
    pub payload: Bytes,
    /// Why the payload, which is kept apart from the message, is missing.
    pub problem: Option<&'static str>,
}

impl Record {
    /// A CloudEvents attribute. The case of a header's name does not matter.
    pub fn attribute(&self, attribute: Attribute) -> Option<String> {
        if let Some(value) = self.header(attribute.kafka_header()) {
            return Some(value.to_owned());
        }
        // Of the other buses' bindings, which percent-encode.
        let value = self.header(attribute.nats_header())?;
        Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name))?;
        Some(value)
    }
}

/// `topic, key, partition, offset, time, headers, payload`; the payload is a string if it is UTF-8, else it is
/// `payload_base64`. `problem` is there if there is one.
impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("topic", &self.topic)?;
        map.serialize_entry("key", &self.key)?;
        map.serialize_entry("partition", &self.partition)?;
        map.serialize_entry("offset", &self.offset)?;
        map.serialize_entry("time", &format_args!("{:.3}", self.time))?;
        map.serialize_entry("headers", &Headers(&self.headers))?;
        match std::str::from_utf8(&self.payload) {
            Ok(text) => map.serialize_entry("payload", text)?,
            Err(_) => map.serialize_entry("payload_base64", &data_encoding::BASE64.encode(&self.payload))?,
        }
        if let Some(problem) = self.problem {
            map.serialize_entry("problem", problem)?;
        }
        map.end()
    }
}

struct Headers<'a>(&'a [(String, String)]);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}
