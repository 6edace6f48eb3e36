//! The message for the bus: topic, key, CloudEvents attributes, and the payload, untouched. Knows no bus, only two
//! CloudEvents bindings. `attributes` writes them.

mod attributes;

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;
use jiff::Timestamp;
use percent_encoding::percent_decode_str;

use crate::attribute::{Attribute, attribute_value};
use crate::event::{DeadLetter, Event, Facts};
use crate::identity::{DeliveryId, Identity, digest};
use crate::log;
use crate::payload::Payload;
use crate::record::Record;
use crate::route::Topic;
use crate::signature::Delivery;
use crate::trace::{TRACE_PARENT, TRACE_STATE};
use crate::vocabulary::{SOURCE_PREFIX, TYPE_PREFIX};
pub(crate) use attributes::DATA_CONTENT_TYPE;
use attributes::{Attributes, CONTENT_TYPE, encoded};

/// A number with more digits is no chunk number: no request has a billion chunks.
const CHUNK_DIGITS: usize = 9;

/// On disk alone: why a bus refused the message permanently.
pub(crate) const SET_ASIDE: &str = "set-aside-reason";

/// One message for the bus. Cloning shares the payload.
#[derive(Clone)]
pub struct Message {
    topic: Topic,
    key: String,
    identity: Identity,
    attributes: Attributes,
    set_aside: Option<String>,
    payload: Payload,
}

/// Eight bytes of a key's SHA-256.
pub(crate) fn key_digest(key: &str) -> u64 {
    let digest = digest(&[key.as_bytes()]);
    u64::from_be_bytes(*digest.first_chunk().expect("8 is less than 32"))
}

impl Message {
    /// Creates the message of an event.
    pub fn of_event(event: Event, topic: Topic) -> Self {
        let (delivery, facts) = (event.delivery(), event.facts());
        let identity = Identity::of(delivery, Some(event.signed_facts()));
        let id = identity.id;
        let key = partition_key(delivery, facts).unwrap_or_else(|| id.to_string().into());
        let key = attribute_value(key).into_owned();
        let mut attributes = Attributes::new("application/json".into());
        add_common(&mut attributes, delivery, id, &facts.event_type, &key);
        let Facts { user, new_user, .. } = facts;
        let subject = [&user.user_id, &new_user.user_id, &facts.order_id].into_iter().find_map(Option::as_deref);
        attributes.add_if_some(Attribute::Subject, subject);
        attributes.add_if_some(Attribute::TerraEventId, facts.event_id.as_deref());
        attributes.add_if_some(Attribute::TerraProvider, user.provider.as_deref().or(new_user.provider.as_deref()));
        if event.is_fetched() {
            add_fetched(&mut attributes);
        }
        Self { topic, key, identity, attributes, set_aside: None, payload: event.into_payload() }
    }

    /// Creates the message of a dead letter.
    pub fn of_dead_letter(dead_letter: DeadLetter, topic: Topic) -> Self {
        let delivery = dead_letter.delivery();
        let identity = Identity::of(delivery, dead_letter.signed_facts());
        let key = identity.id.to_string();
        let mut attributes = Attributes::new("application/octet-stream".into());
        add_common(&mut attributes, delivery, identity.id, "dead-letter", &key);
        if dead_letter.signed_facts().is_some() {
            add_fetched(&mut attributes);
        }
        attributes.add(Attribute::TerraDeadLetter, dead_letter.reason().as_str());
        Self { topic, key, identity, attributes, set_aside: None, payload: dead_letter.into_payload() }
    }

    /// Restores a message from its parts, with headers as in [`Self::nats_headers`]; `None` if no message has such
    /// parts.
    pub(crate) fn restore(
        topic: &str,
        key: String,
        headers: impl IntoIterator<Item = (String, String)>,
        payload: Bytes,
    ) -> Option<Self> {
        let (mut read, mut content_type, mut trace) = (Vec::new(), None, (None, None));
        let decoded = |value: &str| Some(percent_decode_str(value).decode_utf8().ok()?.into_owned());
        for (name, value) in headers {
            match name.as_str() {
                CONTENT_TYPE => content_type = Some(decoded(&value)?),
                DATA_CONTENT_TYPE | SET_ASIDE => {}
                TRACE_PARENT => trace.0 = Some(value),
                TRACE_STATE => trace.1 = Some(value),
                name => read.push((Attribute::of_nats_header(name)?, decoded(&value)?)),
            }
        }
        let (_, id) = read.iter().find(|(attribute, _)| *attribute == Attribute::Id)?;
        let identity = Identity::of_id(id)?;
        let mut attributes = Attributes::new(content_type?.into());
        if let (Some(parent), state) = trace {
            attributes.add_trace(|line| line.push_str(&parent), state.as_deref());
        }
        for (attribute, value) in &read {
            attributes.add(*attribute, value);
        }
        let (topic, payload) = (Topic::of_record(topic), Payload::unbudgeted(payload));
        Some(Self { topic, key, identity, attributes, set_aside: None, payload })
    }

    /// The message that this record of any bus came from, for the same topic; `None` if no bridge wrote it, or if its
    /// payload is missing.
    pub(crate) fn of_record(record: &Record) -> Option<Self> {
        // The bus that takes it says anew where a large payload is.
        const OF_A_CLAIM_CHECK: [Attribute; 3] = [Attribute::DataRef, Attribute::TerraDigest, Attribute::TerraBytes];
        if record.problem.is_some() {
            return None;
        }
        let identity = Identity::of_id(&record.attribute(Attribute::Id)?)?;
        let content_type = record.header(CONTENT_TYPE).unwrap_or("application/json");
        let mut attributes = Attributes::new(content_type.to_owned().into());
        for attribute in Attribute::ALL.iter().filter(|attribute| !OF_A_CLAIM_CHECK.contains(attribute)) {
            attributes.add_if_some(*attribute, record.attribute(*attribute).as_deref());
        }
        let key = record.key.clone().or_else(|| record.attribute(Attribute::PartitionKey))?;
        let (topic, payload) = (Topic::of_record(&record.topic), Payload::unbudgeted(record.payload.clone()));
        Some(Self { topic, key, identity, attributes, set_aside: None, payload })
    }

    /// Turns it into the message of a link, with the reason why the fetch failed.
    pub(crate) fn unfetched(mut self, reason: &'static str) -> Self {
        self.attributes.add(Attribute::TerraUnfetched, reason);
        self
    }

    /// The same message with the reason why the bus refuses it.
    pub(crate) fn set_aside(mut self, reason: &str) -> Self {
        self.set_aside = Some(attribute_value(reason).into_owned());
        self
    }

    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The type of the event.
    pub(crate) fn event_type(&self) -> &str {
        let of_type = self.attributes.iter().find(|(attribute, _)| *attribute == Attribute::Type);
        of_type.and_then(|(_, value)| value.strip_prefix(TYPE_PREFIX)).unwrap_or_default()
    }

    /// The partition key: messages with the same key stay in order.
    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn id(&self) -> DeliveryId {
        self.identity.id
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Eight bytes of the key's SHA-256.
    pub(crate) fn key_digest(&self) -> u64 {
        key_digest(&self.key)
    }

    pub(crate) fn attribute(&self, attribute: Attribute) -> Option<&str> {
        self.attributes.iter().find(|(of, _)| *of == attribute).map(|(_, value)| value)
    }

    /// Exactly the bytes received. They hold their share of the memory budget as long as the message exists.
    pub fn payload(&self) -> &Bytes {
        self.payload.bytes()
    }

    /// Headers of CloudEvents' Kafka binding: `ce_…` and `content-type`, values in UTF-8; and those of the trace.
    pub fn kafka_headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let attributes = self.attributes.iter().map(|(attribute, value)| (attribute.kafka_header(), value));
        let content_type = (CONTENT_TYPE, self.attributes.content_type());
        std::iter::once(content_type).chain(self.attributes.trace()).chain(attributes)
    }

    /// Headers of CloudEvents' NATS binding (1.0.3-wip): `ce-…`, `content-type` and
    /// `ce-datacontenttype`, values percent-encoded; and those of the trace.
    pub fn nats_headers(&self) -> impl Iterator<Item = (&'static str, Cow<'_, str>)> {
        let content_types = [CONTENT_TYPE, DATA_CONTENT_TYPE].map(|name| (name, self.attributes.content_type()));
        let content_types = content_types.into_iter().map(|(name, value)| (name, encoded(value)));
        let (trace, attributes) = (self.attributes.trace(), self.attributes.encoded());
        let trace = trace.map(|(name, value)| (name, value.into()));
        content_types.chain(trace).chain(attributes.map(|(attribute, value)| (attribute.nats_header(), value.into())))
    }

    /// The same as one block of lines, `name: value\r\n` each.
    pub fn nats_header_lines(&self) -> &str {
        self.attributes.lines()
    }

    /// A message for the unit tests of the bus adapters.
    #[cfg(test)]
    pub(crate) fn sample(topic: &str, key: &str, id: [u8; 32], payload: impl Into<Bytes>) -> Self {
        let identity = Identity::sample(id, id);
        let mut attributes = Attributes::new("application/json".into());
        attributes.add_written(Attribute::Id, |line| identity.id.write_hex(line));
        attributes.add(Attribute::Source, &format!("{SOURCE_PREFIX}terra"));
        attributes.add(Attribute::Type, &format!("{TYPE_PREFIX}daily"));
        Self {
            topic: Topic::from(topic),
            key: key.to_owned(),
            identity,
            attributes,
            set_aside: None,
            payload: Payload::unbudgeted(payload.into()),
        }
    }
}

impl log::Entry for Message {
    fn topic(&self) -> &str {
        &self.topic
    }

    fn key(&self) -> &str {
        &self.key
    }

    fn key_digest(&self) -> u64 {
        self.key_digest()
    }

    fn ids(&self) -> [[u8; 16]; 2] {
        self.identity.keys()
    }

    fn put_headers(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.nats_header_lines().as_bytes());
        if let Some(reason) = &self.set_aside {
            for part in [SET_ASIDE, ": ", &encoded(reason), "\r\n"] {
                to.extend_from_slice(part.as_bytes());
            }
        }
    }

    fn payload(&self) -> &Bytes {
        self.payload.bytes()
    }
}

/// Adds the attributes of every message.
fn add_common(attributes: &mut Attributes, delivery: &Delivery, id: DeliveryId, event_type: &str, key: &str) {
    let headers = delivery.headers();
    add_trace(attributes, delivery);
    attributes.add(Attribute::SpecVersion, "1.0");
    attributes.add_written(Attribute::Id, |line| id.write_hex(line));
    attributes.add_written(Attribute::Source, |line| line.extend([SOURCE_PREFIX, &delivery.endpoint().name]));
    attributes.add_written(Attribute::Type, |line| line.extend([TYPE_PREFIX, event_type]));
    attributes.add_written(Attribute::Time, |line| write_rfc3339(line, delivery.emitted_at()));
    attributes.add(Attribute::PartitionKey, key);
    attributes.add_written(Attribute::RecordedTime, |line| write_rfc3339(line, delivery.received_at()));
    if let Some(time) = headers.ordered_at() {
        attributes.add_written(Attribute::Sequence, |line| write(line, format_args!("{:013}", time.as_millisecond())));
    }
    attributes.add_if_some(Attribute::TraceParent, headers.trace_parent());
    attributes.add_if_some(Attribute::TraceState, headers.trace_state());
    attributes.add_if_some(Attribute::CorrelationId, headers.reference());
    attributes.add_if_some(Attribute::TerraTraceId, headers.trace_id());
    if let Some((_, number)) = headers.trace_id().and_then(chunk) {
        attributes.add_written(Attribute::TerraChunk, |line| write(line, format_args!("{number}")));
    }
}

/// Adds the bridge's own span, or, where it exports none, passes the sender's on.
fn add_trace(attributes: &mut Attributes, delivery: &Delivery) {
    let headers = delivery.headers();
    match (delivery.trace(), headers.trace_parent()) {
        (Some(trace), _) => attributes.add_trace(|line| trace.write_parent(line), headers.trace_state()),
        (None, Some(parent)) => attributes.add_trace(|line| line.push_str(parent), headers.trace_state()),
        (None, None) => {}
    }
}

fn add_fetched(attributes: &mut Attributes) {
    attributes.add(Attribute::TerraFetched, "true");
}

/// UTC, with milliseconds.
fn write_rfc3339(line: &mut String, time: Timestamp) {
    write(line, format_args!("{time:.3}"));
}

fn write(line: &mut String, value: std::fmt::Arguments<'_>) {
    line.write_fmt(value).expect("a String takes any text");
}

/// The partition key: the user, or whatever the event concerns. The customer's reference id is hashed, because it is
/// not Terra's and must appear only in the payload.
fn partition_key<'d>(delivery: &'d Delivery, facts: &'d Facts) -> Option<Cow<'d, str>> {
    let by_reference = || {
        let fields = [b"reference", delivery.endpoint().name.as_bytes(), facts.reference_id.as_ref()?.as_bytes()];
        Some(data_encoding::HEXLOWER.encode(&digest(&fields)).into())
    };
    let by_session = || facts.session_id.as_deref().map(Cow::from);
    let by_trace = || delivery.headers().trace_id().map(|trace| without_chunk(trace).into());
    let concerned = [&facts.user.user_id, &facts.new_user.user_id, &facts.order_id, &facts.coach_id];
    let concerned = concerned.into_iter().find_map(|id| id.as_deref().map(Cow::from));
    concerned.or_else(by_reference).or_else(by_session).or_else(by_trace)
}

fn without_chunk(trace: &str) -> &str {
    chunk(trace).map_or(trace, |(id, _)| id)
}

/// Splits `<id>:chunk:<n>`, the trace id of chunk `n` of request `<id>`; `None` for any other trace id.
fn chunk(trace: &str) -> Option<(&str, u32)> {
    let (id, n) = trace.rsplit_once(":chunk:")?;
    let is_number = (1..=CHUNK_DIGITS).contains(&n.len()) && n.bytes().all(|digit| digit.is_ascii_digit());
    (!id.is_empty() && is_number).then_some((id, n.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::samples::SAMPLES;
    use crate::signature::tests::delivery;
    use crate::vocabulary::{Concerns, KNOWN};

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, http::HeaderValue::from_bytes(value).unwrap())
        });
        pairs.collect()
    }

    fn message(body: &str, headers: HeaderMap) -> Message {
        let Ok(event) = Event::read(delivery(body.as_bytes(), headers)) else { panic!("readable") };
        Message::of_event(event, "topic".into())
    }

    fn kafka(message: &Message, name: &str) -> Option<String> {
        message.kafka_headers().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
    }

    fn nats(message: &Message, name: &str) -> Option<String> {
        message.nats_headers().find(|(key, _)| *key == name).map(|(_, value)| value.into_owned())
    }

    #[test]
    fn the_key_is_the_user_or_whatever_the_event_concerns() {
        let trace = || headers(&[("x-terra-trace-id", b"abc:chunk:12")]);
        for (body, key) in [
            (r#"{"type":"t","user":{"user_id":"u"},"new_user":{"user_id":"n"},"data":{"order_id":"o"}}"#, "u"),
            (r#"{"type":"t","user":{},"new_user":{"user_id":"n"},"data":{"order_id":"o"}}"#, "n"),
            (r#"{"type":"t","coach":{"coach_id":"c"},"data":{"order_id":"o","reference_id":"r"}}"#, "o"),
            (r#"{"type":"t","data":{"coach_id":"c","reference_id":"r","session_id":"s"}}"#, "c"),
            (r#"{"type":"t","data":{"session_id":"s"}}"#, "s"),
            (r#"{"type":"t"}"#, "abc"),
        ] {
            assert_eq!(message(body, trace()).key(), key, "{body}");
        }
        // printf '\0\0\0\0\0\0\0\x09reference\0\0\0\0\0\0\0\x05terra\0\0\0\0\0\0\0\x01r' | sha256sum
        let by_reference = "58b68830b3be7ca4122f8e438322bbc5befcde10eec2da1242f53fcc3623dbd9";
        assert_eq!(
            message(r#"{"type":"t","data":{"reference_id":"r","session_id":"s"}}"#, trace()).key(),
            by_reference
        );
        assert_eq!(message(r#"{"type":"t","reference_id":"r"}"#, trace()).key(), by_reference);
        let alone = message(r#"{"type":"t"}"#, HeaderMap::new());
        assert_eq!(alone.key(), alone.id().to_string());
    }

    #[test]
    fn the_key_of_every_known_type_is_what_the_table_says() {
        for (known, sample) in KNOWN.iter().zip(SAMPLES) {
            let body: serde_json::Value = serde_json::from_str(sample.body).unwrap();
            let text = |pointer: &str| {
                body.pointer(pointer).and_then(|id| id.as_str()).unwrap_or_else(|| panic!("{}: {pointer}", known.name))
            };
            let hashed = |reference: &str| {
                let digest = digest(&[b"reference", b"terra", reference.as_bytes()]);
                data_encoding::HEXLOWER.encode(&digest)
            };
            let key = match known.concerns {
                Concerns::User => text("/user/user_id").to_owned(),
                Concerns::NewUser => text("/new_user/user_id").to_owned(),
                Concerns::Order => text("/data/order_id").to_owned(),
                Concerns::Coach => text("/coach/coach_id").to_owned(),
                Concerns::DataCoach => text("/data/coach_id").to_owned(),
                Concerns::CoachOfAll => text("/data/0/coach_id").to_owned(),
                Concerns::DataReference => hashed(text("/data/reference_id")),
                Concerns::Reference => hashed(text("/reference_id")),
                Concerns::Nobody => "trace".to_owned(),
            };
            let message = message(sample.body, headers(&[("x-terra-trace-id", b"trace")]));
            assert_eq!(message.key(), key, "{}", known.name);
        }
    }

    #[test]
    fn only_a_chunk_number_is_cut_off_a_trace_id() {
        for (trace, id) in
            [("a:chunk:1", "a"), ("a:chunk:", "a:chunk:"), ("a:chunk:x", "a:chunk:x"), (":chunk:1", ":chunk:1")]
        {
            assert_eq!(without_chunk(trace), id, "{trace}");
        }
    }

    #[test]
    fn a_chunks_number_has_an_attribute_of_its_own() {
        let number = |trace: &'static [u8]| {
            let message = message(r#"{"type":"t"}"#, headers(&[("x-terra-trace-id", trace)]));
            assert_eq!(kafka(&message, "ce_terrachunk"), nats(&message, "ce-terrachunk"));
            kafka(&message, "ce_terrachunk")
        };
        assert_eq!(number(b"a:chunk:0").as_deref(), Some("0"));
        assert_eq!(number(b"a:chunk:007").as_deref(), Some("7"), "CloudEvents' integers have no leading zeros");
        assert_eq!(number(b"a:chunk:1:chunk:123456789").as_deref(), Some("123456789"));
        for odd in [&b"a"[..], b"a:chunk:", b"a:chunk:+1", b"a:chunk:1234567890", b"a:chunk:1 ", b":chunk:1"] {
            assert_eq!(number(odd), None, "{}", odd.escape_ascii());
        }
    }

    #[test]
    fn the_time_is_the_ordering_timestamp_if_terra_can_have_set_it() {
        let time = |stamp: &'static [u8]| {
            let message = message(r#"{"type":"t"}"#, headers(&[("x-terra-ordering-timestamp", stamp)]));
            (kafka(&message, "ce_time").unwrap(), kafka(&message, "ce_sequence"))
        };
        assert_eq!(time(b"1700000000123"), ("2023-11-14T22:13:20.123Z".into(), Some("1700000000123".into())));
        for odd in [&b"1700000000"[..], b"4102444799999", b"soon"] {
            assert_eq!(time(odd), ("2023-11-14T22:13:20.000Z".into(), None), "{}", odd.escape_ascii());
        }
    }

    #[test]
    fn each_binding_has_its_own_names_and_encoding() {
        let body = r#"{"type":"t","user":{"user_id":"a b\"%é","provider":"OURA"}}"#;
        let message = message(body, headers(&[("terra-reference", b"r\xff")]));
        assert_eq!(kafka(&message, "ce_partitionkey").as_deref(), Some("a b\"%é"));
        assert_eq!(kafka(&message, "content-type").as_deref(), Some("application/json"));
        assert_eq!(kafka(&message, "ce_correlationid").as_deref(), Some("r%FF"));
        assert_eq!(nats(&message, "ce-partitionkey").as_deref(), Some("a%20b%22%25%C3%A9"));
        assert_eq!(nats(&message, "ce-datacontenttype").as_deref(), Some("application/json"));
        assert_eq!(nats(&message, "ce-subject").as_deref(), Some("a%20b%22%25%C3%A9"));
        assert_eq!(nats(&message, "ce-terraprovider").as_deref(), Some("OURA"));
    }

    #[test]
    fn the_block_of_lines_has_every_header_of_the_nats_binding_and_survives_the_disk() {
        for id in ["u", "a b", "\u{e9}%", "\\u0007", &"x".repeat(2000)] {
            let body = format!(r#"{{"type":"t","event_id":"{id}","user":{{"user_id":"{id}"}}}}"#);
            let message = message(
                &body,
                headers(&[
                    ("x-terra-trace-id", b"t:chunk:3"),
                    ("terra-reference", b"\xff"),
                    ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
                    ("tracestate", b"a=1, b=\"%41\""),
                ]),
            );
            assert_eq!(nats(&message, "tracestate"), kafka(&message, "tracestate"), "as it was sent");
            assert_eq!(kafka(&message, "tracestate").as_deref(), Some("a=1, b=\"%41\""));
            let lines = message.nats_headers().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<String>();
            assert_eq!(message.nats_header_lines(), lines);
            let read = lines.lines().map(|line| line.split_once(": ").unwrap());
            let read = read.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let restored = Message::restore("topic", message.key().to_owned(), read, Bytes::new()).unwrap();
            assert_eq!(restored.nats_header_lines(), lines);
            assert!(restored.kafka_headers().eq(message.kafka_headers()), "{lines}");
        }
    }

    #[test]
    fn a_record_of_any_bus_is_the_same_message_again() {
        let body = r#"{"type":"t","user":{"user_id":"a b\"%é"}}"#;
        let message = message(body, headers(&[("x-terra-trace-id", b"t:chunk:3"), ("terra-reference", b"\xff")]));
        let nats = message.nats_headers().map(|(name, value)| (name.to_owned(), value.into_owned())).collect();
        let kafka = message.kafka_headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        for headers in [nats, kafka] {
            let headers: Vec<(String, String)> = headers;
            let record = Record {
                topic: "topic".to_owned(),
                key: Some(message.key().to_owned()),
                partition: 0,
                offset: 7,
                time: Timestamp::UNIX_EPOCH,
                headers: headers.into_iter().chain([("ce-dataref".to_owned(), "nats-object:b/o".to_owned())]).collect(),
                payload: message.payload().clone(),
                problem: None,
            };
            let again = Message::of_record(&record).unwrap();
            assert!(again.id() == message.id() && again.payload() == message.payload() && again.key() == message.key());
            let sorted = |message: &Message| {
                let mut all: Vec<_> = message.kafka_headers().map(|(name, value)| (name, value.to_owned())).collect();
                all.sort();
                all
            };
            assert_eq!(sorted(&again), sorted(&message));
            assert!(Message::of_record(&Record { problem: Some("gone"), ..record.clone() }).is_none());
            assert!(Message::of_record(&Record { headers: Vec::new(), ..record }).is_none());
        }
    }

    #[test]
    fn the_payload_is_the_body() {
        let body = "{ \"type\" : \"t\" }\n";
        assert_eq!(message(body, HeaderMap::new()).payload(), body);
    }
}
