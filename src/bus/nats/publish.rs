//! Publishes one message to the stream, via the object store if it is too large, and interprets the server's
//! acknowledgement.
//!
//! The client library accepts any answer that looks like a stream's acknowledgement. It is a receipt only if it names
//! our stream (and `nats.domain`, if set) and the sequence of the message: then a quorum of its servers has stored
//! it. An answer with the sequence 0 only says that another copy is in flight. Unknown is whether a server has
//! fsynced, and, without `nats.domain`, which domain's stream of that name it is.

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::publish::PublishAck;
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::claim_check;
use super::object_store::ObjectStore;
use super::refusal;
use super::stream::EventStream;
use crate::bus::{Receipt, Refusal};
use crate::message::Message;

/// The object's share of the publish timeout: a definite refusal arrives first, and the message gets time as well.
const PUT_SHARE: f64 = 0.9;

/// The minimum that a header line needs beyond name and value.
const HEADER_LINE: usize = 4;

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
            Some(store) => by_claim_check(stream, store, message, headers).await,
            None => Err(refusal::too_large(most)),
        };
    }
    let payload = Bytes::from_owner(Unsent { payload: message.payload().clone(), _permit: unsent });
    match (send(stream, message, headers, payload).await, &stream.object_store) {
        // A limit was lowered since it was last checked.
        (Err(Refusal::TooLarge { .. }), Some(store)) => {
            let (headers, _) = self::headers(message, &stream.name);
            by_claim_check(stream, store, message, headers).await
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
    let subject = message.topic().to_string();
    let answer = match stream.context.publish_with_headers(subject, headers, payload).await {
        Ok(acknowledged) => acknowledged.await,
        Err(error) => Err(error),
    };
    let error = match answer {
        Ok(ack) => return receipt(&ack, &stream.name, stream.domain.as_deref()),
        Err(error) => error,
    };
    let (refused, stream_is_gone) = refusal::of_publish(&error, stream.context.client().max_payload());
    if stream_is_gone {
        stream.recheck.notify_one();
    }
    if matches!(refused, Refusal::TooLarge { .. }) {
        // The reconciler reads the limits again.
        stream.events.changed.notify_one();
    }
    // The server does not answer a publish that it denies.
    let denied = (error.kind() == PublishErrorKind::TimedOut).then(|| stream.events.denied(message.topic()));
    Err(denied.flatten().unwrap_or(refused))
}

/// What the acknowledgement means for the message.
fn receipt(ack: &PublishAck, stream: &str, domain: Option<&str>) -> Result<Receipt, Refusal> {
    if ack.stream != stream || domain.is_some_and(|domain| ack.domain != domain) {
        return Err(refusal::elsewhere());
    }
    // Older servers report a duplicate of a message that their cluster has not agreed on yet, and may never agree on
    // (nats-server #5827; later ones answer with an error).
    if ack.sequence == 0 {
        return Err(refusal::unconfirmed());
    }
    Ok(if ack.duplicate { Receipt::Duplicate } else { Receipt::Kept })
}

/// The message's headers plus those for JetStream, and their size in bytes.
fn headers(message: &Message, stream: &str) -> (HeaderMap, usize) {
    let id = message.id().to_string();
    let jetstream = [("Nats-Msg-Id", id.as_str()), ("Nats-Expected-Stream", stream)];
    let mut headers = HeaderMap::new();
    let mut size = "NATS/1.0\r\n\r\n".len();
    let mut insert = |name: &str, value: &str| {
        size += name.len() + value.len() + HEADER_LINE;
        // Values are percent-encoded ASCII; any other would merely be left out.
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            headers.insert(name, value);
        }
    };
    for (name, value) in jetstream {
        insert(name, value);
    }
    for (name, value) in message.nats_headers() {
        insert(name, &value);
    }
    (headers, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(stream: &str, sequence: u64, duplicate: bool, domain: &str) -> PublishAck {
        PublishAck { stream: stream.into(), sequence, duplicate, domain: domain.into(), ..PublishAck::default() }
    }

    #[test]
    fn the_server_is_told_the_expected_stream_and_the_duplicate_id() {
        let message = Message::sample("t", "k", [7; 32], "{}");
        let (headers, size) = headers(&message, "terra");
        let value = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
        assert_eq!(value("Nats-Expected-Stream").as_deref(), Some("terra"));
        assert_eq!(value("Nats-Msg-Id"), Some(message.id().to_string()));
        let lines = headers.iter().map(|(name, values)| name.to_string().len() + values[0].as_str().len() + 4);
        assert_eq!(size, lines.sum::<usize>() + "NATS/1.0\r\n\r\n".len());
    }

    #[test]
    fn an_acknowledgement_is_a_receipt_if_our_stream_names_the_messages_sequence() {
        assert_eq!(receipt(&ack("terra", 7, false, ""), "terra", None), Ok(Receipt::Kept));
        assert_eq!(receipt(&ack("terra", 7, true, ""), "terra", None), Ok(Receipt::Duplicate));
        assert_eq!(receipt(&ack("terra", 7, false, "hub"), "terra", Some("hub")), Ok(Receipt::Kept));
    }

    #[test]
    fn a_duplicate_of_an_unstored_message_is_not_kept() {
        for duplicate in [true, false] {
            let refusal = receipt(&ack("terra", 0, duplicate, ""), "terra", None).unwrap_err();
            assert_eq!(refusal.as_str(), "unconfirmed");
        }
    }

    #[test]
    fn an_acknowledgement_of_another_stream_or_domain_is_not_kept() {
        for (other, domain) in [(ack("other", 7, false, ""), None), (ack("terra", 7, false, "leaf"), Some("hub"))] {
            let refusal = receipt(&other, "terra", domain).unwrap_err();
            assert!(matches!(refusal, Refusal::Permanent { .. }) && refusal.is_message_specific(), "{refusal}");
        }
    }
}
