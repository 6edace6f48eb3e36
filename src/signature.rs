//! Verifies Terra's signature over the raw bytes of a body. The only source of a [`Delivery`]. Knows nothing of JSON.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use sha2::Sha256;
use strum::{IntoStaticStr, VariantNames};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::config::{Endpoint, Secret};
use crate::headers::UnsignedHeaders;
use crate::payload::Payload;
use crate::trace::Trace;

/// Two names for the same value: the vendor's platform sends the second one.
static HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("terra-signature"), HeaderName::from_static("x-terra-signature")];
const MAX_CANDIDATES: usize = 16;
/// From this value on, `t` counts milliseconds: in seconds it would be the year 33658.
const MILLISECONDS_FROM: u64 = 1_000_000_000_000;

/// One authenticated attempt by Terra. Cloning shares the bytes.
#[derive(Clone)]
pub struct Delivery {
    endpoint: Arc<Endpoint>,
    headers: UnsignedHeaders,
    /// The signature's `t` as received.
    t: String,
    signed_at: Timestamp,
    received_at: Timestamp,
    secret: u32,
    payload: Payload,
    trace: Option<Trace>,
}

impl Delivery {
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    pub fn headers(&self) -> &UnsignedHeaders {
        &self.headers
    }

    pub fn t(&self) -> &str {
        &self.t
    }

    /// The time of signing, according to `t`.
    pub fn signed_at(&self) -> Timestamp {
        self.signed_at
    }

    /// The best estimate of when Terra emitted the event: at the latest when it signed it.
    pub fn emitted_at(&self) -> Timestamp {
        self.headers.ordered_at().unwrap_or(self.signed_at)
    }

    pub fn received_at(&self) -> Timestamp {
        self.received_at
    }

    /// The place of the secret that signed it in the endpoint's list.
    pub fn secret(&self) -> usize {
        self.secret as usize
    }

    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// The trace that the bridge adds spans to; `None` if it exports none.
    pub fn trace(&self) -> Option<&Trace> {
        self.trace.as_ref()
    }

    pub(crate) fn set_trace(&mut self, trace: Trace) {
        self.trace = Some(trace);
    }

    pub fn into_payload(self) -> Payload {
        self.payload
    }
}

/// Why a request is not a delivery. Used only for metrics: the sender learns no more than that it was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum Rejection {
    Missing,
    Malformed,
    /// No secret of the endpoint makes any of the signatures.
    Forged,
    /// Signed by Terra, longer ago than `max_age`.
    TooOld,
    /// Signed by Terra, further in the future than `max_skew`.
    TooNew,
    /// Sent from an address that is not allowed; the signature was not checked.
    Address,
}

impl Rejection {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// What a signature header claims; none of it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureHeader {
    t: String,
    signed_at: Timestamp,
    candidates: Vec<[u8; 32]>,
}

impl SignatureHeader {
    /// Reads the one signature header. Decides everything that the head alone can decide.
    pub fn read(headers: &HeaderMap) -> Result<Self, Rejection> {
        let mut values = HEADERS.iter().map(|name| the_only(headers, name));
        let (first, second) = (values.next().flatten(), values.next().flatten());
        let value = match (first, second) {
            (None, None) => return Err(Rejection::Missing),
            (Some(value), None) | (None, Some(value)) => value?,
            (Some(first), Some(second)) => {
                let (first, second) = (first?, second?);
                if first != second {
                    return Err(Rejection::Malformed);
                }
                first
            }
        };
        // Fails on bytes from 0x80 on, which hyper accepts.
        value.to_str().map_err(|_| Rejection::Malformed)?.parse()
    }
}

/// `None` if there is none; an error if there are several.
fn the_only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Result<&'h HeaderValue, Rejection>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    Some(if values.next().is_some() { Err(Rejection::Malformed) } else { Ok(first) })
}

impl FromStr for SignatureHeader {
    type Err = Rejection;

    /// `t=<unix time>,v1=<hex>` in any order, with blanks around elements. Other schemes, and a `v1` that is not 64
    /// hex digits, are ignored; they do not invalidate the others.
    fn from_str(value: &str) -> Result<Self, Rejection> {
        let (mut time, mut candidates, mut seen) = (None, Vec::new(), 0);
        for element in value.split(',') {
            let Some((scheme, value)) = element.trim_matches([' ', '\t']).split_once('=') else { continue };
            match scheme {
                "t" if time.is_some() => return Err(Rejection::Malformed),
                "t" => time = Some((value, signed_at(value).ok_or(Rejection::Malformed)?)),
                "v1" if seen == MAX_CANDIDATES => return Err(Rejection::Malformed),
                "v1" => {
                    seen += 1;
                    candidates.extend(digest(value));
                }
                _ => {}
            }
        }
        let (t, signed_at) = time.ok_or(Rejection::Malformed)?;
        if candidates.is_empty() {
            return Err(Rejection::Malformed);
        }
        Ok(Self { t: t.to_owned(), signed_at, candidates })
    }
}

fn signed_at(t: &str) -> Option<Timestamp> {
    if t.is_empty() || !t.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number = t.parse::<u64>().ok()?;
    let milliseconds = if number >= MILLISECONDS_FROM { number } else { number * 1000 };
    Timestamp::from_millisecond(i64::try_from(milliseconds).ok()?).ok()
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let exact = hex.len() == 64 && data_encoding::HEXLOWER_PERMISSIVE.decode_mut(hex.as_bytes(), &mut bytes).is_ok();
    exact.then_some(bytes)
}

/// The MACs of one body under every secret of an endpoint, updated as the body arrives.
pub struct Verifier {
    endpoint: Arc<Endpoint>,
    header: SignatureHeader,
    macs: Vec<Hmac<Sha256>>,
}

impl Verifier {
    pub fn new(endpoint: Arc<Endpoint>, header: SignatureHeader) -> Self {
        let macs = endpoint.secrets.iter().map(|secret| begin_mac(secret, &header.t)).collect();
        Self { endpoint, header, macs }
    }

    /// Adds the next bytes of the body.
    pub fn update(&mut self, bytes: &[u8]) {
        for mac in &mut self.macs {
            mac.update(bytes);
        }
    }

    /// Checks the MAC, then the time. `payload` must be the bytes that [`Self::update`] has seen. `headers` are the
    /// request's; few of them are kept.
    pub fn finish(self, headers: HeaderMap, payload: Payload, now: Timestamp) -> Result<Delivery, Rejection> {
        let SignatureHeader { t, signed_at, candidates } = self.header;
        let (mut proven, mut secret) = (Choice::from(0), 0);
        for (place, mac) in (0u32..).zip(self.macs) {
            let expected: [u8; 32] = mac.finalize().into_bytes().into();
            let fits = candidates.iter().fold(Choice::from(0), |fits, candidate| fits | expected.ct_eq(candidate));
            secret.conditional_assign(&place, fits & !proven);
            proven |= fits;
        }
        if !bool::from(proven) {
            return Err(Rejection::Forged);
        }
        in_time(signed_at, now, self.endpoint.max_age, self.endpoint.max_skew)?;
        let headers = UnsignedHeaders::read(&headers, latest(signed_at, self.endpoint.max_skew));
        let endpoint = self.endpoint;
        Ok(Delivery { endpoint, headers, t, signed_at, received_at: now, secret, payload, trace: None })
    }
}

fn begin_mac(secret: &Secret, t: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose()).expect("HMAC takes a key of any length");
    mac.update(t.as_bytes());
    mac.update(b".");
    mac
}

fn in_time(signed_at: Timestamp, now: Timestamp, max_age: Duration, max_skew: Duration) -> Result<(), Rejection> {
    let age = now.as_millisecond() - signed_at.as_millisecond();
    if age > i64::try_from(max_age.as_millis()).unwrap_or(i64::MAX) {
        return Err(Rejection::TooOld);
    }
    if -age > i64::try_from(max_skew.as_millis()).unwrap_or(i64::MAX) {
        return Err(Rejection::TooNew);
    }
    Ok(())
}

/// The latest time at which Terra can have emitted what it signed then.
fn latest(signed_at: Timestamp, max_skew: Duration) -> Timestamp {
    signed_at.checked_add(max_skew).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made by OpenSSL, not by this code:
    /// `printf '1700000000.{"type":"daily"}' | openssl dgst -sha256 -hmac terra-test-secret`
    const SIGNED: &str = "54449a64dad5db744b21924240f5928a2159171156ffaacd6cca85830b734d29";
    const BODY: &str = r#"{"type":"daily"}"#;

    pub(crate) fn endpoint(secrets: &[&str]) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            name: "terra".into(),
            path: "/terra".into(),
            secrets: secrets.iter().map(|secret| Secret::new(*secret)).collect(),
            max_age: Duration::from_secs(26 * 3600),
            max_skew: Duration::from_secs(300),
            rejected_status: http::StatusCode::UNAUTHORIZED,
            routes: crate::config::OwnRoutes::default(),
        })
    }

    /// A delivery of `body` with these headers, as if Terra had signed it.
    pub(crate) fn delivery(body: &[u8], headers: HeaderMap) -> Delivery {
        let signed_at = Timestamp::from_second(1_700_000_000).unwrap();
        let endpoint = endpoint(&["secret"]);
        Delivery {
            headers: UnsignedHeaders::read(&headers, latest(signed_at, endpoint.max_skew)),
            endpoint,
            t: "1700000000".into(),
            signed_at,
            received_at: signed_at,
            secret: 0,
            payload: Payload::unbudgeted(body.to_vec()),
            trace: None,
        }
    }

    /// The place of the secret that fits.
    fn fitting(header: &str, secrets: &[&str], body: &str, now: i64) -> Result<usize, Rejection> {
        let mut proof = Verifier::new(endpoint(secrets), header.parse()?);
        for byte in body.as_bytes() {
            proof.update(&[*byte]);
        }
        let payload = Payload::unbudgeted(body.as_bytes().to_vec());
        proof.finish(HeaderMap::new(), payload, Timestamp::from_second(now).unwrap()).map(|delivery| delivery.secret())
    }

    fn prove(header: &str, secrets: &[&str], body: &str, now: i64) -> Result<(), Rejection> {
        fitting(header, secrets, body, now).map(drop)
    }

    #[test]
    fn a_signature_made_by_openssl_is_accepted_in_every_legal_form() {
        let zeros = "0".repeat(64);
        for header in [
            format!("t=1700000000,v1={SIGNED}"),
            format!("v1={SIGNED},t=1700000000"),
            format!(" t=1700000000 ,\tv1={SIGNED} "),
            format!("t=1700000000,v0=whatever,v1={SIGNED},v2"),
            format!("t=1700000000,v1={zeros},v1={SIGNED},"),
            format!("t=1700000000,v1={}", SIGNED.to_uppercase()),
        ] {
            assert_eq!(prove(&header, &["old", "terra-test-secret"], BODY, 1_700_000_100), Ok(()), "{header}");
        }
    }

    #[test]
    fn the_first_secret_that_fits_any_signature_is_the_one() {
        let (zeros, ours) = ("0".repeat(64), "terra-test-secret");
        let header = format!("t=1700000000,v1={zeros},v1={SIGNED}");
        for (secrets, place) in
            [(&[ours][..], 0), (&[ours, "old"], 0), (&["new", ours], 1), (&["new", ours, "old", ours], 1)]
        {
            assert_eq!(fitting(&header, secrets, BODY, 1_700_000_000), Ok(place), "{secrets:?}");
        }
    }

    #[test]
    fn a_signature_by_no_secret_of_the_endpoint_is_forged() {
        let header = format!("t=1700000000,v1={SIGNED}");
        assert_eq!(prove(&header, &["terra-test-secreT"], BODY, 1_700_000_000), Err(Rejection::Forged));
        assert_eq!(prove(&header, &["terra-test-secret"], r#"{"type":"dailY"}"#, 0), Err(Rejection::Forged));
        let other_time = format!("t=1700000001,v1={SIGNED}");
        assert_eq!(prove(&other_time, &["terra-test-secret"], BODY, 1_700_000_000), Err(Rejection::Forged));
        // The MAC is over `t` as received: the same time written differently is a different string.
        let same_time = format!("t=01700000000,v1={SIGNED}");
        assert_eq!(prove(&same_time, &["terra-test-secret"], BODY, 1_700_000_000), Err(Rejection::Forged));
    }

    #[test]
    fn the_time_is_checked_after_the_mac_and_to_the_second() {
        let header = format!("t=1700000000,v1={SIGNED}");
        let at = |now| prove(&header, &["terra-test-secret"], BODY, now);
        assert_eq!(at(1_700_000_000 + 26 * 3600), Ok(()));
        assert_eq!(at(1_700_000_001 + 26 * 3600), Err(Rejection::TooOld));
        assert_eq!(at(1_700_000_000 - 300), Ok(()));
        assert_eq!(at(1_700_000_000 - 301), Err(Rejection::TooNew));
        assert_eq!(prove(&header, &["other"], BODY, 0), Err(Rejection::Forged));
    }

    #[test]
    fn a_time_of_thirteen_digits_counts_milliseconds() {
        let claim =
            |t: &str| format!("t={t},v1={}", "0".repeat(64)).parse::<SignatureHeader>().map(|claim| claim.signed_at);
        assert_eq!(claim("1700000000000"), claim("1700000000"));
        assert_eq!(claim("99999999999").unwrap().as_second(), 99_999_999_999);
    }

    #[test]
    fn nonsensical_headers_are_malformed() {
        let hex = "0".repeat(64);
        let many = format!("t=1{}", format!(",v1={hex}").repeat(17));
        for header in [
            "",
            ",",
            "t=1",
            &format!("v1={hex}"),
            &format!("t=1,t=1,v1={hex}"),
            &format!("t=,v1={hex}"),
            &format!("t=-1,v1={hex}"),
            &format!("t=+1,v1={hex}"),
            &format!("t=1.5,v1={hex}"),
            &format!("t=99999999999999999999,v1={hex}"),
            &format!("t=1,v1={}", &hex[1..]),
            &format!("t=1,v1={hex}0"),
            &format!("t=1,v1={}g", &hex[1..]),
            &format!("t=1,V1={hex}"),
            &many,
        ] {
            assert_eq!(header.parse::<SignatureHeader>(), Err(Rejection::Malformed), "{header}");
        }
    }

    #[test]
    fn either_header_name_counts_but_conflicting_values_are_malformed() {
        let good = format!("t=1,v1={}", "0".repeat(64));
        let other = format!("t=2,v1={}", "0".repeat(64));
        let read = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, value.parse().unwrap());
            }
            SignatureHeader::read(&headers).map(drop)
        };
        assert_eq!(read(&[("terra-signature", &good)]), Ok(()));
        assert_eq!(read(&[("x-terra-signature", &good)]), Ok(()));
        assert_eq!(read(&[("terra-signature", &good), ("x-terra-signature", &good)]), Ok(()));
        assert_eq!(read(&[("terra-signature", &good), ("x-terra-signature", &other)]), Err(Rejection::Malformed));
        assert_eq!(read(&[("terra-signature", &good), ("terra-signature", &good)]), Err(Rejection::Malformed));
        assert_eq!(read(&[]), Err(Rejection::Missing));
    }

    proptest! {
        #[test]
        fn no_bytes_in_the_header_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let mut headers = HeaderMap::new();
                headers.insert("terra-signature", value);
                let _ = SignatureHeader::read(&headers);
            }
        }

        #[test]
        fn no_header_passes_without_the_secret(header in "t=[0-9]{1,14},( ?v1=[0-9a-f]{64}){1,3}", body in ".*") {
            let rejected = prove(&header, &["terra-test-secret"], &body, 1_700_000_000);
            prop_assert!(rejected.is_err());
        }
    }
}
