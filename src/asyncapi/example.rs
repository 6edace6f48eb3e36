//! What the bridge makes of a body: signed, verified and read like a delivery, always at the same time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;
use sha2::Sha256;

use crate::config::{Endpoint, OwnRoutes, Secret};
use crate::event::Event;
use crate::message::Message;
use crate::payload::Payload;
use crate::route::Topic;
use crate::signature::{SignatureHeader, Verifier};

/// Nobody's.
const SECRET: &[u8] = b"example";

/// Unix milliseconds: when Terra emitted and signed the event, and when the bridge received it.
const EMITTED: i64 = 1_784_005_261_125;
const SIGNED: i64 = 1_784_005_262_000;
const RECEIVED: i64 = 1_784_005_262_318;

const REFERENCE: &str = "5a0c1d7e-dd0d-472a-b906-d50a48e7400d";
const TRACE_ID: &str = "9d4f6c02-7c1e-4f0b-9a34-6f1c2b8e5d10";

/// The message of a body that was sent to this endpoint.
pub(super) fn message(endpoint: &str, body: &'static [u8]) -> Message {
    let endpoint = Endpoint {
        name: endpoint.into(),
        path: "/terra".to_owned(),
        secrets: vec![Secret::new(SECRET)],
        max_age: Duration::from_secs(60),
        max_skew: Duration::from_secs(60),
        rejected_status: StatusCode::UNAUTHORIZED,
        routes: OwnRoutes::default(),
    };
    let headers = headers(body);
    let signature = SignatureHeader::read(&headers).expect("a signature");
    let mut verifier = Verifier::new(Arc::new(endpoint), signature);
    verifier.update(body);
    let (payload, now) = (Payload::unbudgeted(Bytes::from_static(body)), time(RECEIVED));
    let delivery = verifier.finish(headers, payload, now).expect("the signature of this body");
    let topic = Topic::of_record("example");
    match Event::read(delivery) {
        Ok(event) => Message::of_event(event, topic),
        Err(dead_letter) => Message::of_dead_letter(dead_letter, topic),
    }
}

fn headers(body: &[u8]) -> HeaderMap {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET).expect("HMAC takes a key of any length");
    mac.update(format!("{SIGNED}.").as_bytes());
    mac.update(body);
    let v1 = data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes());
    let headers = [
        ("terra-signature", format!("t={SIGNED},v1={v1}")),
        ("terra-reference", REFERENCE.to_owned()),
        ("x-terra-trace-id", TRACE_ID.to_owned()),
        ("x-terra-ordering-timestamp", EMITTED.to_string()),
    ];
    let value = |value: String| HeaderValue::from_str(&value).expect("a header's value");
    headers.into_iter().map(|(name, text)| (HeaderName::from_static(name), value(text))).collect()
}

fn time(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).expect("a time")
}
