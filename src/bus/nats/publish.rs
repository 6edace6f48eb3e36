//! Publishes one message to the stream, via the object store if it is too large, and interprets the server's
//! acknowledgement.
//!
//! An acknowledgement is a receipt only if it names our stream (and `nats.domain`, if set) and the sequence of the
//! message: then a quorum of its servers has stored it. An answer with the sequence 0 only says that another copy is in
//! flight. Unknown is whether a server has fsynced, and, without `nats.domain`, which domain's stream of that name it is.

use std::borrow::Cow;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::{HeaderMap, HeaderValue, jetstream};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as ValueError;
use tokio::sync::OwnedSemaphorePermit;

use super::acknowledgement::NoAnswer;
use super::claim_check;
use super::object_store::ObjectStore;
use super::refusal;
use super::stream::EventStream;
use crate::bus::{Receipt, Refusal};
use crate::message::Message;

/// The object's share of the publish timeout: a definite refusal arrives first, and the message gets time as well.
const PUT_SHARE: f64 = 0.9;

/// A payload that the client has not written to its socket yet. The client keeps it after the caller has stopped
/// waiting, and sends it on reconnect, so it has a limit of its own.
struct Unsent {
    payload: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Unsent {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

/// `unsent`: the payload's share of the unsent bytes. The message, and with it its share of memory, lives until this
/// ends.
pub(super) async fn publish(
    stream: &EventStream,
    message: &Message,
    unsent: OwnedSemaphorePermit,
) -> Result<Receipt, Refusal> {
    let (headers, size) = headers(message, &stream.name);
    let most = stream.max_size();
    if message.payload().len() + size > most {
        return match &stream.object_store {
            // Boxed, so that the future of every other message is small.
            Some(store) => Box::pin(by_claim_check(stream, store, message, headers)).await,
            None => Err(refusal::too_large(most)),
        };
    }
    let payload = Bytes::from_owner(Unsent { payload: message.payload().clone(), _permit: unsent });
    match (send(stream, message, headers, payload).await, &stream.object_store) {
        // A limit was lowered since it was last checked.
        (Err(Refusal::TooLarge { .. }), Some(store)) => {
            let (headers, _) = self::headers(message, &stream.name);
            Box::pin(by_claim_check(stream, store, message, headers)).await
        }
        (answer, _) => answer,
    }
}

async fn by_claim_check(
    stream: &EventStream,
    store: &ObjectStore,
    message: &Message,
    mut headers: HeaderMap,
) -> Result<Receipt, Refusal> {
    let claim = claim_check::put(store, message, stream.publish_timeout.mul_f64(PUT_SHARE)).await.map_err(|refused| {
        // The reconciler creates a missing bucket again.
        stream.events.changed.notify_one();
        stream.events.denied_bucket(store.name()).unwrap_or(refused)
    });
    for (attribute, value) in claim? {
        headers.insert(attribute.nats_header(), value);
    }
    send(stream, message, headers, Bytes::new()).await
}

async fn send(stream: &EventStream, message: &Message, headers: HeaderMap, payload: Bytes) -> Result<Receipt, Refusal> {
    let answer = stream.acknowledgements.request(message.topic(), headers, payload).await;
    let (refused, stream_is_gone) = match answer.as_deref().map(Answer::read) {
        Ok(Some(Answer { error: Some(error), .. })) => refusal::of_answer(&error),
        Ok(Some(acknowledged)) => return acknowledged.receipt(&stream.name, stream.domain.as_deref()),
        Ok(None) => refusal::unreadable(),
        Err(silence) => refusal::of_silence(*silence, stream.client.max_payload()),
    };
    if stream_is_gone {
        stream.recheck.notify_one();
    }
    if matches!(refused, Refusal::TooLarge { .. }) {
        // The reconciler reads the limits again.
        stream.events.changed.notify_one();
    }
    // The server does not answer a publish that it denies.
    let denied = (answer == Err(NoAnswer::TimedOut)).then(|| stream.events.denied(message.topic()));
    Err(denied.flatten().unwrap_or(refused))
}

/// The server's answer to a message.
#[derive(Debug, Deserialize)]
struct Answer<'a> {
    error: Option<jetstream::Error>,
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(rename = "seq")]
    sequence: Option<u64>,
    #[serde(default)]
    duplicate: bool,
    #[serde(borrow, default)]
    domain: Cow<'a, str>,
}

impl<'a> Answer<'a> {
    /// `None`: it is no answer of a stream's.
    fn read(answer: &'a [u8]) -> Option<Self> {
        let answer: Self = serde_json::from_slice(answer).ok()?;
        let names_a_message = !answer.stream.is_empty() && answer.sequence.is_some();
        (answer.error.is_some() || names_a_message).then_some(answer)
    }

    /// What the acknowledgement means for the message.
    fn receipt(&self, stream: &str, domain: Option<&str>) -> Result<Receipt, Refusal> {
        if self.stream != stream || domain.is_some_and(|domain| self.domain != domain) {
            return Err(refusal::elsewhere());
        }
        // Older servers report a duplicate of a message that their cluster has not agreed on yet, and may never agree
        // on (nats-server #5827; later ones answer with an error).
        if self.sequence.is_none_or(|sequence| sequence == 0) {
            return Err(refusal::unconfirmed());
        }
        Ok(if self.duplicate { Receipt::Duplicate } else { Receipt::Kept })
    }
}

/// The message's headers plus those for JetStream, and their size in bytes.
///
/// The client's map takes a hash and two allocations for each header, which is as much as all the rest of a publish.
/// So here all lines are the value of the first: the client writes a value as it is, and checks one only where it is
/// made from text by another way than this.
fn headers(message: &Message, stream: &str) -> (HeaderMap, usize) {
    let lines = message.nats_header_lines();
    let mut value = String::with_capacity(lines.len() + stream.len() + 128);
    message.id().write_hex(&mut value);
    value.extend(["\r\n", lines, "Nats-Expected-Stream: ", stream]);
    let size = "NATS/1.0\r\nNats-Msg-Id: \r\n\r\n".len() + value.len();
    let value = HeaderValue::deserialize(IntoDeserializer::<ValueError>::into_deserializer(value));
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, value.expect("a header's value is any text"));
    (headers, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(ack: &str, domain: Option<&str>) -> Result<Receipt, Refusal> {
        Answer::read(ack.as_bytes()).expect("an acknowledgement").receipt("terra", domain)
    }

    #[test]
    fn the_server_is_told_the_expected_stream_and_the_duplicate_id() {
        let message = Message::sample("t", "k", [7; 32], "{}");
        let (headers, size) = headers(&message, "terra");
        // As the client writes them.
        let [(name, values)] = headers.iter().collect::<Vec<_>>()[..] else { panic!("one header: {headers:?}") };
        let text = format!("NATS/1.0\r\n{name}: {}\r\n\r\n", values[0]);
        assert_eq!(size, text.len());
        let mut lines = text.split("\r\n").skip(1);
        assert_eq!(lines.next(), Some(&*format!("Nats-Msg-Id: {}", message.id())));
        for (name, value) in message.nats_headers() {
            assert_eq!(lines.next(), Some(&*format!("{name}: {value}")));
        }
        assert_eq!(lines.next(), Some("Nats-Expected-Stream: terra"));
        assert_eq!(lines.collect::<Vec<_>>(), ["", ""]);
    }

    #[test]
    fn an_acknowledgement_is_a_receipt_if_our_stream_names_the_messages_sequence() {
        assert_eq!(receipt(r#"{"stream":"terra","seq":7}"#, None), Ok(Receipt::Kept));
        assert_eq!(receipt(r#"{"stream":"terra","seq":7,"duplicate":true}"#, None), Ok(Receipt::Duplicate));
        assert_eq!(receipt(r#"{"stream":"terra","seq":7,"domain":"hub","val":"1"}"#, Some("hub")), Ok(Receipt::Kept));
        assert_eq!(receipt(r#"{"stream":"\u0074erra","seq":7}"#, None), Ok(Receipt::Kept));
    }

    #[test]
    fn a_duplicate_of_an_unstored_message_is_not_kept() {
        for ack in [r#"{"stream":"terra","seq":0,"duplicate":true}"#, r#"{"stream":"terra","seq":0}"#] {
            assert_eq!(receipt(ack, None).unwrap_err().as_str(), "unconfirmed");
        }
    }

    #[test]
    fn an_acknowledgement_of_another_stream_or_domain_is_not_kept() {
        for (other, domain) in [
            (r#"{"stream":"other","seq":7}"#, None),
            (r#"{"stream":"terra","seq":7,"domain":"leaf"}"#, Some("hub")),
            (r#"{"stream":"terra","seq":7}"#, Some("hub")),
        ] {
            let refusal = receipt(other, domain).unwrap_err();
            assert!(matches!(refusal, Refusal::Permanent { .. }) && refusal.is_message_specific(), "{refusal}");
        }
    }

    #[test]
    fn an_error_is_no_acknowledgement_whatever_else_stands_there() {
        let answer = br#"{"error":{"code":503,"err_code":10077,"description":"d"},"stream":"terra","seq":7}"#;
        assert!(Answer::read(answer).is_some_and(|answer| answer.error.is_some()));
    }

    #[test]
    fn what_names_no_message_of_a_stream_is_no_answer() {
        for answer in ["", "+OK", "{}", r#"{"stream":"terra"}"#, r#"{"seq":7}"#, r#"{"stream":"terra","seq":"7"}"#] {
            assert!(Answer::read(answer.as_bytes()).is_none(), "{answer}");
        }
    }
}
