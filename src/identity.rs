//! What makes a delivery the same delivery. Comes in: a [`Delivery`] and what its body says of itself.
//! Goes out: an [`Identity`]. Knows neither who remembers it nor for how long.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::event::Facts;
use crate::signature::Delivery;

/// Two deliveries are the same where either part is: a sender chooses the id with headers that no
/// signature covers, and cannot choose the other part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    pub id: DeliveryId,
    pub signed: SignedDigest,
}

impl Identity {
    /// `trace` is Terra's trace id; `facts` are missing where nobody can read the body.
    pub(crate) fn of(delivery: &Delivery, trace: Option<&str>, facts: Option<&Facts>) -> Self {
        let endpoint = delivery.endpoint().name.as_bytes();
        let body = Sha256::digest(delivery.payload().bytes());
        let signed = digest(&[endpoint, delivery.t().as_bytes(), &body]);
        let event_id = facts.and_then(|facts| Some((facts.event_type.as_bytes(), facts.event_id.as_ref()?.as_bytes())));
        let id = match (event_id, trace) {
            (Some((event_type, event_id)), _) => digest(&[endpoint, event_type, event_id]),
            (None, Some(trace)) => digest(&[endpoint, trace.as_bytes(), &body]),
            (None, None) => signed,
        };
        Self { id: DeliveryId(id), signed: SignedDigest(signed) }
    }

    /// Of a message whose delivery is gone: known by its id alone.
    pub(crate) fn of_id(id: &str) -> Option<Self> {
        let id = data_encoding::HEXLOWER.decode(id.as_bytes()).ok()?.try_into().ok()?;
        Some(Self { id: DeliveryId(id), signed: SignedDigest(id) })
    }

    #[cfg(test)]
    pub(crate) fn sample(id: [u8; 32], signed: [u8; 32]) -> Self {
        Self { id: DeliveryId(id), signed: SignedDigest(signed) }
    }
}

/// The CloudEvents id, the same for every retry: SHA-256 over (endpoint, type, event id) where there is
/// one; else (endpoint, trace id, body); else (endpoint, `t`, body). The body counts by its own SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId([u8; 32]);

impl DeliveryId {
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
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
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// SHA-256 over (endpoint, `t`, body): all that the signature covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SignedDigest([u8; 32]);

impl SignedDigest {
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// SHA-256 over the fields, each after its length in eight bytes, the highest first, so that no two
/// lists are alike.
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

    fn identity(body: &str, trace: Option<&str>) -> Identity {
        let Ok(event) = Event::read(delivery(body.as_bytes(), HeaderMap::new())) else { panic!("readable") };
        Identity::of(event.delivery(), trace, Some(event.facts()))
    }

    #[test]
    fn the_id_is_the_same_for_the_same_delivery_and_no_other() {
        let id = |body, trace| identity(body, trace).id;
        // printf '\0\0\0\0\0\0\0\x05terra\0\0\0\0\0\0\0\x01t\0\0\0\0\0\0\0\x02e1' | sha256sum
        assert_eq!(
            id(r#"{"type":"t","event_id":"e1"}"#, Some("a")).to_string(),
            "fbe2cdd3640605e673dbc0256375cc968526c9250e73ba7f752777dfccbaac4f"
        );
        assert_eq!(
            id(r#"{"type":"t","event_id":"e1","n":1}"#, Some("b")).to_string(),
            "fbe2cdd3640605e673dbc0256375cc968526c9250e73ba7f752777dfccbaac4f"
        );
        assert_eq!(id(r#"{"type":"t"}"#, Some("a")), id(r#"{"type":"t"}"#, Some("a")));
        assert_ne!(id(r#"{"type":"t"}"#, Some("a")), id(r#"{"type":"t"}"#, Some("b")));
        assert_ne!(id(r#"{"type":"t"}"#, Some("a")), id(r#"{"type":"t" }"#, Some("a")));
        assert_ne!(id(r#"{"type":"t"}"#, Some("a")), id(r#"{"type":"t"}"#, None));
    }

    #[test]
    fn headers_do_not_change_what_was_signed() {
        let body = r#"{"type":"t"}"#;
        assert_eq!(identity(body, Some("a")).signed, identity(body, Some("b")).signed);
        assert_ne!(identity(body, Some("a")).signed, identity(r#"{"type":"t" }"#, Some("a")).signed);
        let by_event_id = |n: u8| identity(&format!(r#"{{"type":"t","event_id":"e","n":{n}}}"#), None);
        assert_ne!(by_event_id(1).signed, by_event_id(2).signed);
    }
}
