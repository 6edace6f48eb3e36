//! Any bytes as a signature header: no panic, and nothing is accepted but the right MAC.

#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use terra_bridge::config::{Endpoint, OwnRoutes, Secret};
use terra_bridge::payload::Payload;
use terra_bridge::signature::{SignatureHeader, Verifier};

/// `printf '1700000000.{"type":"daily"}' | openssl dgst -sha256 -hmac terra-test-secret`
const SIGNED: &str = "54449a64dad5db744b21924240f5928a2159171156ffaacd6cca85830b734d29";
const BODY: &[u8] = br#"{"type":"daily"}"#;
const T: &str = "1700000000";

static ENDPOINT: LazyLock<Arc<Endpoint>> = LazyLock::new(|| {
    Arc::new(Endpoint {
        name: "terra".into(),
        path: "/terra".into(),
        secrets: vec![Secret::new("another"), Secret::new("terra-test-secret")],
        max_age: Duration::from_secs(3600),
        max_skew: Duration::from_secs(300),
        rejected_status: StatusCode::UNAUTHORIZED,
        routes: OwnRoutes::default(),
    })
});

fuzz_target!(|data: &[u8]| {
    // Two headers, one of each name, where the input has a zero byte.
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let names = ["terra-signature", "x-terra-signature"];
    let headers: HeaderMap = names
        .iter()
        .zip(&mut parts)
        .filter_map(|(name, value)| Some((HeaderName::from_static(name), HeaderValue::from_bytes(value).ok()?)))
        .collect();
    let Ok(claim) = SignatureHeader::read(&headers) else { return };
    let now = Timestamp::from_second(1_700_000_100).expect("in range");
    let mut proof = Verifier::new(ENDPOINT.clone(), claim);
    proof.update(BODY);
    let accepted = proof.finish(headers.clone(), Payload::unbudgeted(Bytes::from_static(BODY)), now);
    let Ok(delivery) = accepted else { return };
    assert_eq!(delivery.t(), T, "only this time was signed");
    for value in headers.values() {
        let value = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        assert!(value.contains(SIGNED), "accepted without the MAC: {value:?}");
    }
});
