//! The first step: a request becomes a [`Delivery`], or is refused before it is read as an event.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::{HeaderMap, Request};
use hyper::body::Incoming;
use jiff::Timestamp;
use tokio::time::Instant;

use super::pipeline::{ActiveEndpoint, Pipeline};
use super::report;
use crate::allow_list::is_allowed;
use crate::payload::Payload;
use crate::reply::Outcome;
use crate::server::{Arrival, Body, BodyError, has_content_encoding};
use crate::signature::{Delivery, Rejection, SignatureHeader, Verifier};

/// Checks the sender's address and the signature header, reads the body, and checks the signature over it. `Err` is
/// how the request ended.
pub(super) async fn authenticate(
    pipeline: &Pipeline,
    active: &ActiveEndpoint,
    request: Request<Incoming>,
    arrival: Arrival,
    deadline: Instant,
) -> Result<Delivery, Outcome> {
    let ActiveEndpoint { endpoint, signatures, metrics, secrets } = active;
    let (head, incoming) = request.into_parts();
    let signature = SignatureHeader::read(&head.headers).map_err(Outcome::Rejected)?;
    // Before a byte of the body is read. Such a sender gets the same bytes as a forger.
    if !is_allowed(&pipeline.limits.senders, arrival.peer, &head.headers) {
        return Err(Outcome::Rejected(Rejection::Address));
    }
    let is_encoded = has_content_encoding(&head.headers);
    let mut verifier = Verifier::new(endpoint.clone(), signature);
    let (payload, hashing) = read(pipeline, &head.headers, incoming, deadline, &mut verifier).await?;
    let received = Instant::now();
    metrics.received(received - arrival.at);
    let verified = verifier.finish(head.headers, payload, Timestamp::now());
    metrics.verified(hashing + received.elapsed());
    signatures.record(&endpoint.name, !matches!(verified, Err(Rejection::Forged)));
    let delivery = verified.map_err(Outcome::Rejected)?;
    secrets[delivery.secret()].fetch_add(1, Relaxed);
    if is_encoded {
        return Err(Outcome::Encoded);
    }
    if delivery.headers().ordering_timestamp_ignored() {
        report::ordering_timestamp_ignored(metrics, &endpoint.name);
    }
    Ok(delivery)
}

/// Reads the body, and hashes each frame as it arrives. Also returns how long hashing took.
async fn read(
    pipeline: &Pipeline,
    headers: &HeaderMap,
    incoming: Incoming,
    deadline: Instant,
    verifier: &mut Verifier,
) -> Result<(Payload, Duration), BodyError> {
    let mut hashing = Duration::ZERO;
    let mut body = Body::start(incoming, headers, pipeline.body_limits(deadline), &pipeline.budget)?;
    while let Some(frame) = body.next().await? {
        let began = Instant::now();
        verifier.update(&frame);
        hashing += began.elapsed();
    }
    Ok((body.finish()?, hashing))
}

impl From<BodyError> for Outcome {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge => Self::TooLarge,
            BodyError::TooSlow => Self::TooSlow,
            BodyError::NoRoom => Self::Overloaded,
            BodyError::Broken => Self::Broken,
        }
    }
}
