//! One message on its way to the stream, by way of the object store where it is too large. Comes in: a
//! message that nothing speaks against. Goes out: what the server's acknowledgement means.
//!
//! The client library takes any answer that looks like one for the stream's acknowledgement. It is a receipt where it
//! names our stream (and `nats.domain`, where that is set) and the sequence at which the stream has the message: a
//! quorum of its servers has stored it then. An answer with the sequence 0 only says that another copy is on its way.
//! Not known is whether a server has fsynced, and, without `nats.domain`, which domain's stream of that name it is.

use std::sync::Arc;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::publish::PublishAck;
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::claim_check::ClaimChecks;
use super::client::Events;
use super::refusal;
use crate::bus::{Receipt, Refusal};
use crate::message::Message;

/// The least that a message's header lines need beyond names and values.
const HEADER_LINE: usize = 4;

/// A payload that the client has not written to its socket yet. The client keeps what it was given
/// when nobody waits for it any more, and sends it on reconnect: that has a bound of its own.
struct Unsent {
    payload: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Unsent {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

/// What a message needs on its way.
pub(super) struct Publish {
    pub context: Context,
    pub stream: Arc<str>,
    /// Of JetStream, where the user named one.
    pub domain: Option<Arc<str>>,
    /// Where goes what is too large for a message.
    pub claim_checks: Option<Arc<ClaimChecks>>,
    /// Wakes the keeper when the stream may be gone.
    pub doubt: Arc<Notify>,
    pub events: Arc<Events>,
}

impl Publish {
    /// `most`: bytes that server and stream are known to take at once, headers included. `room`: for the
    /// payload among what is unsent. The message, and with it its share of memory, lives until this ends.
    pub(super) async fn run(
        self,
        message: Arc<Message>,
        most: usize,
        room: OwnedSemaphorePermit,
    ) -> Result<Receipt, Refusal> {
        let (headers, size) = headers(&message, &self.stream);
        if message.payload().len() + size > most {
            return match &self.claim_checks {
                Some(claim_checks) => self.by_claim_check(claim_checks, &message, headers).await,
                None => Err(refusal::too_large(most)),
            };
        }
        let payload = Bytes::from_owner(Unsent { payload: message.payload().clone(), _room: room });
        match (self.send(&message, headers, payload).await, &self.claim_checks) {
            // A limit was lowered since it was last looked at.
            (Err(Refusal::TooLarge { .. }), Some(claim_checks)) => {
                let (headers, _) = self::headers(&message, &self.stream);
                self.by_claim_check(claim_checks, &message, headers).await
            }
            (answer, _) => answer,
        }
    }

    async fn by_claim_check(
        &self,
        claim_checks: &ClaimChecks,
        message: &Message,
        mut headers: HeaderMap,
    ) -> Result<Receipt, Refusal> {
        let put = claim_checks.put(message, self.context.client().max_payload()).await.map_err(|refused| {
            // The keeper makes a bucket anew that is gone.
            self.events.changed.notify_one();
            self.events.denied_bucket(claim_checks.bucket()).unwrap_or(refused)
        });
        for (name, value) in put? {
            headers.insert(name, value);
        }
        self.send(message, headers, Bytes::new()).await
    }

    async fn send(&self, message: &Message, headers: HeaderMap, payload: Bytes) -> Result<Receipt, Refusal> {
        let subject = message.topic().to_string();
        let answer = match self.context.publish_with_headers(subject, headers, payload).await {
            Ok(acknowledged) => acknowledged.await,
            Err(error) => Err(error),
        };
        let error = match answer {
            Ok(ack) => return receipt(&ack, &self.stream, self.domain.as_deref()),
            Err(error) => error,
        };
        let (refused, stream_is_gone) = refusal::of_publish(&error, self.context.client().max_payload());
        if stream_is_gone {
            self.doubt.notify_one();
        }
        if matches!(refused, Refusal::TooLarge { .. }) {
            // The keeper measures anew.
            self.events.changed.notify_one();
        }
        // What a server denies it leaves without an answer.
        let denied = (error.kind() == PublishErrorKind::TimedOut).then(|| self.events.denied(message.topic()));
        Err(denied.flatten().unwrap_or(refused))
    }
}

/// What the acknowledgement says of the message.
fn receipt(ack: &PublishAck, stream: &str, domain: Option<&str>) -> Result<Receipt, Refusal> {
    if ack.stream != stream || domain.is_some_and(|domain| ack.domain != domain) {
        return Err(refusal::elsewhere());
    }
    // Older servers call it a duplicate of what their cluster has not agreed on yet, and may never
    // (nats-server #5827; later ones answer with an error).
    if !is_stored(ack) {
        return Err(refusal::unconfirmed());
    }
    Ok(if ack.duplicate { Receipt::Duplicate } else { Receipt::Kept })
}

/// Whether a stream has the message, its own or that of an earlier copy.
pub(super) fn is_stored(ack: &PublishAck) -> bool {
    ack.sequence > 0
}

/// The message's headers with those of JetStream, and how many bytes they take.
fn headers(message: &Message, stream: &str) -> (HeaderMap, usize) {
    let id = message.id().to_string();
    let jetstream = [("Nats-Msg-Id", id.as_str()), ("Nats-Expected-Stream", stream)];
    let mut headers = HeaderMap::new();
    let mut size = "NATS/1.0\r\n\r\n".len();
    let mut insert = |name: &str, value: &str| {
        size += name.len() + value.len() + HEADER_LINE;
        // Values are percent-encoded ASCII; one that is not would only be left out.
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            headers.insert(name, value);
        }
    };
    for (name, value) in jetstream {
        insert(name, value);
    }
    for (name, value) in message.nats_headers() {
        insert(&name, &value);
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
    fn an_acknowledgement_is_a_receipt_where_our_stream_says_at_which_sequence_it_has_the_message() {
        assert_eq!(receipt(&ack("terra", 7, false, ""), "terra", None), Ok(Receipt::Kept));
        assert_eq!(receipt(&ack("terra", 7, true, ""), "terra", None), Ok(Receipt::Duplicate));
        assert_eq!(receipt(&ack("terra", 7, false, "hub"), "terra", Some("hub")), Ok(Receipt::Kept));
    }

    #[test]
    fn a_duplicate_of_what_is_not_stored_yet_is_not_kept() {
        for duplicate in [true, false] {
            let refusal = receipt(&ack("terra", 0, duplicate, ""), "terra", None).unwrap_err();
            assert_eq!(refusal.as_str(), "unconfirmed");
        }
    }

    #[test]
    fn what_another_stream_or_domain_acknowledges_is_not_kept() {
        for (other, domain) in [(ack("other", 7, false, ""), None), (ack("terra", 7, false, "leaf"), Some("hub"))] {
            let refusal = receipt(&other, "terra", domain).unwrap_err();
            assert!(matches!(refusal, Refusal::Permanent { .. }) && refusal.is_message_specific(), "{refusal}");
        }
    }
}
