//! What makes two deliveries the same. Knows neither who remembers them nor for how long.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::event::Facts;
use crate::signature::Delivery;
use crate::vocabulary::known;

/// Two deliveries are the same if either part matches: a sender can choose the id through unsigned headers, but not
/// the other part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    pub id: DeliveryId,
    pub signed: SignedDigest,
}

impl Identity {
    /// `facts` are missing if the body cannot be read.
    pub(crate) fn of(delivery: &Delivery, facts: Option<&Facts>) -> Self {
        let endpoint = delivery.endpoint().name.as_bytes();
        let body = body_digest(delivery.payload().bytes());
        let signed = digest(&[endpoint, delivery.t().as_bytes(), &body]);
        let event_id = facts.and_then(identifying);
        let id = match (event_id, delivery.headers().trace_id()) {
            (Some([event_type, event_id]), _) => digest(&[endpoint, event_type.as_bytes(), event_id.as_bytes()]),
            (None, Some(trace)) => digest(&[endpoint, trace.as_bytes(), &body]),
            (None, None) => signed,
        };
        Self { id: DeliveryId(id), signed: SignedDigest(signed) }
    }

    /// Half of each part: two deliveries in a full memory share one by chance once in 2^87 times.
    pub(crate) fn keys(&self) -> [[u8; 16]; 2] {
        let cut = |digest: &[u8; 32]| *digest.first_chunk().expect("16 is less than 32");
        [cut(self.id.as_bytes()), cut(self.signed.as_bytes())]
    }

    /// For a message whose delivery is no longer available: known only by its id.
    pub(crate) fn of_id(id: &str) -> Option<Self> {
        let id = data_encoding::HEXLOWER.decode(id.as_bytes()).ok()?.try_into().ok()?;
        Some(Self { id: DeliveryId(id), signed: SignedDigest(id) })
    }

    #[cfg(test)]
    pub(crate) fn sample(id: [u8; 32], signed: [u8; 32]) -> Self {
        Self { id: DeliveryId(id), signed: SignedDigest(signed) }
    }
}

/// Type and event id, if the type's contract says that an id belongs to one event only. For any other type, the id
/// may be a counter that starts at 0, and two events could share it.
fn identifying(facts: &Facts) -> Option<[&str; 2]> {
    known(&facts.event_type).filter(|known| known.identified_by_event_id)?;
    Some([&facts.event_type, facts.event_id.as_ref()?])
}

/// The CloudEvents id, the same for every retry. SHA-256 over (endpoint, type, event id) if the type is identified
/// that way; else over (endpoint, trace id, body); else over (endpoint, `t`, body). The body enters as a digest of its
/// own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId([u8; 32]);

impl DeliveryId {
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Appends it in lower-case hex.
    pub(crate) fn write_hex(&self, text: &mut String) {
        data_encoding::HEXLOWER.encode_append(&self.0, text);
    }
}

impl fmt::Debug for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Lower-case hex.
impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&data_encoding::HEXLOWER.encode_display(&self.0), f)
    }
}

/// SHA-256 over (endpoint, `t`, body): everything that the signature covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SignedDigest([u8; 32]);

impl SignedDigest {
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Bytes. From here on BLAKE3 takes half of the time of SHA-256 or less; for shorter bodies more.
const LONG_BODY: usize = 16 << 10;

/// The SHA-256 of a body, or the BLAKE3 of a long one. Nobody can find two bodies with the same one.
fn body_digest(body: &[u8]) -> [u8; 32] {
    if body.len() < LONG_BODY { Sha256::digest(body).into() } else { blake3::hash(body).into() }
}

/// SHA-256 over the fields, each after its length as eight big-endian bytes, so that two different lists never give
/// the same input.
pub(crate) fn digest(fields: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for field in fields {
        hash.update((field.len() as u64).to_be_bytes());
        hash.update(field);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::event::Event;
    use crate::signature::tests::delivery;

    fn identity(body: &str, trace: Option<&'static str>) -> Identity {
        let trace = trace.map(|trace| ("x-terra-trace-id".parse().unwrap(), trace.parse().unwrap()));
        let Ok(event) = Event::read(delivery(body.as_bytes(), trace.into_iter().collect::<HeaderMap>())) else {
            panic!("readable")
        };
        Identity::of(event.delivery(), Some(event.facts()))
    }

    #[test]
    fn the_id_is_the_same_for_the_same_delivery_and_no_other() {
        let id = |body, trace| identity(body, trace).id;
        // printf '\0\0\0\0\0\0\0\x05terra\0\0\0\0\0\0\0\x0alab_report\0\0\0\0\0\0\0\x02e1' | sha256sum
        let by_event_id = "4840d8c86761d3cfd0b1b851304797c4f4218d5bf82435c759453c91a118a4c3";
        assert_eq!(id(r#"{"type":"lab_report","event_id":"e1"}"#, Some("a")).to_string(), by_event_id);
        assert_eq!(id(r#"{"type":"lab_report","event_id":"e1","n":1}"#, Some("b")).to_string(), by_event_id);
        assert_eq!(id(r#"{"type":"t"}"#, Some("a")), id(r#"{"type":"t"}"#, Some("a")));
        assert_ne!(id(r#"{"type":"t"}"#, Some("a")), id(r#"{"type":"t"}"#, Some("b")));
        assert_ne!(id(r#"{"type":"t"}"#, Some("a")), id(r#"{"type":"t" }"#, Some("a")));
        assert_ne!(id(r#"{"type":"t"}"#, Some("a")), id(r#"{"type":"t"}"#, None));
    }

    #[test]
    fn a_long_body_differs_from_every_other_one() {
        let id = |length: usize, last: char| {
            identity(&format!(r#"{{"type":"t","data":"{}{last}"}}"#, "x".repeat(length)), Some("a")).id
        };
        for length in [LONG_BODY - 30, LONG_BODY, 10 * LONG_BODY] {
            assert_eq!(id(length, 'x'), id(length, 'x'));
            assert_ne!(id(length, 'x'), id(length, 'y'));
            assert_ne!(id(length, 'x'), id(length + 1, 'x'));
        }
        // printf abc | b3sum
        assert_eq!(blake3::hash(b"abc").to_hex()[..16], *"6437b3ac38465133");
    }

    #[test]
    fn an_event_id_identifies_only_if_the_types_contract_says_so() {
        let id = |event_type: &str, n: u8| {
            identity(&format!(r#"{{"type":"{event_type}","event_id":0,"n":{n}}}"#), Some("a")).id
        };
        for known in crate::vocabulary::KNOWN {
            assert_eq!(id(known.name, 1) == id(known.name, 2), known.identified_by_event_id, "{}", known.name);
        }
        assert_ne!(id("brand.new", 1), id("brand.new", 2));
    }

    #[test]
    fn headers_do_not_change_what_was_signed() {
        let body = r#"{"type":"t"}"#;
        assert_eq!(identity(body, Some("a")).signed, identity(body, Some("b")).signed);
        assert_ne!(identity(body, Some("a")).signed, identity(r#"{"type":"t" }"#, Some("a")).signed);
        let by_event_id = |n: u8| identity(&format!(r#"{{"type":"lab_report","event_id":"e","n":{n}}}"#), None);
        assert_ne!(by_event_id(1).signed, by_event_id(2).signed);
    }
}
