//! What goes to the bus: topic, key, CloudEvents headers and the payload, untouched.
//! Comes in: an event and its route. Goes out: [`Message`]. Knows no bus, only the two CloudEvents bindings.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::route::Topic;
use crate::server::Payload;

/// What CloudEvents' HTTP and NATS bindings percent-encode: all but printable ASCII, and of that
/// space, double quote and percent.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// SHA-256 over what makes a delivery the same delivery: the CloudEvents id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId([u8; 32]);

impl DeliveryId {
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Lower-case hex.
impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// One message for the bus.
pub struct Message {
    topic: Topic,
    key: String,
    id: DeliveryId,
    content_type: &'static str,
    /// CloudEvents attributes without their prefix, `id` among them.
    attributes: Vec<(&'static str, String)>,
    /// `terra-…` headers.
    extras: Vec<(&'static str, String)>,
    payload: Payload,
}

impl Message {
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The ordering key: equal keys keep their order.
    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn id(&self) -> DeliveryId {
        self.id
    }

    /// Exactly the bytes received.
    pub fn payload(&self) -> &Bytes {
        self.payload.bytes()
    }

    /// The payload with its share of the memory budget, for an adapter that outlives the answer.
    pub fn into_payload(self) -> Payload {
        self.payload
    }

    /// Headers of CloudEvents' Kafka binding: `ce_…` and `content-type`, values in UTF-8.
    pub fn kafka_headers(&self) -> impl Iterator<Item = (Cow<'static, str>, &str)> {
        std::iter::once((Cow::Borrowed("content-type"), self.content_type))
            .chain(self.attributes.iter().map(|(name, value)| (Cow::Owned(format!("ce_{name}")), value.as_str())))
            .chain(self.extras.iter().map(|(name, value)| (Cow::Borrowed(*name), value.as_str())))
    }

    /// Headers of CloudEvents' NATS binding (1.0.3-wip): `ce-…`, `content-type` and
    /// `ce-datacontenttype`, values percent-encoded.
    pub fn nats_headers(&self) -> impl Iterator<Item = (Cow<'static, str>, Cow<'_, str>)> {
        [("content-type", self.content_type), ("ce-datacontenttype", self.content_type)]
            .into_iter()
            .map(|(name, value)| (Cow::Borrowed(name), Cow::Borrowed(value)))
            .chain(self.attributes.iter().map(|(name, value)| (Cow::Owned(format!("ce-{name}")), encoded(value))))
            .chain(self.extras.iter().map(|(name, value)| (Cow::Borrowed(*name), encoded(value))))
    }

    /// A message for the unit tests of the bus adapters.
    #[cfg(test)]
    pub(crate) fn sample(topic: &str, key: &str, id: [u8; 32], payload: impl Into<Bytes>) -> Self {
        let id = DeliveryId(id);
        Self {
            topic: Topic::from(topic),
            key: key.to_owned(),
            id,
            content_type: "application/json",
            attributes: vec![("id", id.to_string()), ("type", "co.tryterra.daily".to_owned())],
            extras: vec![("terra-endpoint", "terra".to_owned())],
            payload: Payload::unbudgeted(payload.into()),
        }
    }
}

fn encoded(value: &str) -> Cow<'_, str> {
    utf8_percent_encode(value, ENCODED).into()
}
