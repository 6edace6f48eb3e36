//! A message read back from a bus, for people (`tail`) and programs (NDJSON).

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::ser::{Serialize, SerializeMap, Serializer};

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
}

impl Record {
    /// A header's value; the case of the name does not matter.
    pub fn header(&self, name: &str) -> Option<String> {
        self.find(|header| header.eq_ignore_ascii_case(name))
    }

    /// A CloudEvents attribute: its prefix is `ce_` on Kafka, `ce-` elsewhere.
    pub fn attribute(&self, name: &str) -> Option<String> {
        self.find(|header| match header.split_at_checked(3) {
            Some((prefix, rest)) => {
                ["ce_", "ce-"].iter().any(|ce| prefix.eq_ignore_ascii_case(ce)) && rest.eq_ignore_ascii_case(name)
            }
            None => false,
        })
    }

    /// Kafka's headers are text, those of the other buses percent-encoded.
    fn find(&self, is_meant: impl Fn(&str) -> bool) -> Option<String> {
        let is_text = self.headers.iter().any(|(name, _)| name.starts_with("ce_"));
        let (_, value) = self.headers.iter().find(|(name, _)| is_meant(name))?;
        Some(if is_text { value.clone() } else { percent_decode_str(value).decode_utf8_lossy().into_owned() })
    }
}

/// `topic, key, partition, offset, time, headers, payload`; the payload is a string if it is UTF-8, else it is
/// `payload_base64`.
impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(7))?;
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
        map.end()
    }
}

struct Headers<'a>(&'a [(String, String)]);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}
