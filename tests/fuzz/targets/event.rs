//! Any bytes as a signed body: no panic, and what is read is what a reader that builds a tree finds.

#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use sha2::Sha256;
use terra_bridge::config::{Endpoint, OwnRoutes, Secret};
use terra_bridge::event::{Event, Person};
use terra_bridge::payload::Payload;
use terra_bridge::signature::{Delivery, SignatureHeader, Verifier};

static ENDPOINT: LazyLock<Arc<Endpoint>> = LazyLock::new(|| {
    Arc::new(Endpoint {
        name: "terra".into(),
        path: "/terra".into(),
        secrets: vec![Secret::new("secret")],
        max_age: Duration::from_secs(3600),
        max_skew: Duration::from_secs(300),
        rejected_status: StatusCode::UNAUTHORIZED,
        routes: OwnRoutes::default(),
    })
});

fn delivery(body: &[u8]) -> Delivery {
    let mut mac = Hmac::<Sha256>::new_from_slice(b"secret").expect("any key will do");
    mac.update(b"1700000000.");
    mac.update(body);
    let signature = format!("t=1700000000,v1={}", HEXLOWER.encode(&mac.finalize().into_bytes()));
    let mut headers = HeaderMap::new();
    headers.insert("terra-signature", signature.parse().expect("a header"));
    let header = SignatureHeader::read(&headers).expect("a signature");
    let mut verifier = Verifier::new(ENDPOINT.clone(), header);
    verifier.update(body);
    let now = Timestamp::from_second(1_700_000_000).expect("in range");
    let payload = Payload::unbudgeted(Bytes::copy_from_slice(body));
    verifier.finish(headers, payload, now).unwrap_or_else(|_| panic!("it was signed"))
}

fn filled(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// A filled string, or a whole number.
fn id(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_u64).map(|number| number.to_string()).or_else(|| filled(value))
}

fn person(value: Option<&Value>) -> Person {
    let field = |name: &str| id(value.and_then(|value| value.get(name)));
    Person { user_id: field("user_id"), provider: field("provider") }
}

/// Whether a tree holds these as they are written: it rounds numbers beyond 64 bits.
fn exact(value: Option<&Value>) -> bool {
    ["user_id", "provider"].iter().all(|name| !value.is_some_and(|value| value[*name].is_f64()))
}

fuzz_target!(|body: &[u8]| {
    let read = Event::read(delivery(body));
    // The tree does not go as deep, and takes no escape that is no Unicode.
    let Ok(tree) = serde_json::from_slice::<Value>(body) else { return };
    let named = filled(tree.get("type")).or_else(|| filled(tree.get("event_type")));
    match (read, named) {
        (Ok(event), Some(name)) => {
            let facts = event.facts();
            assert_eq!(facts.event_type, name);
            for (read, name) in [(&facts.user, "user"), (&facts.new_user, "new_user")] {
                assert!(!exact(tree.get(name)) || *read == person(tree.get(name)), "{name}");
            }
            if let Some(link) = event.link() {
                let url = filled(tree.get("url")).unwrap_or_default();
                assert!(name.starts_with("s3_") && link.url().expose() == url.as_bytes());
                let followed = event.fetched(Payload::unbudgeted(Bytes::copy_from_slice(body)));
                let followed = followed.unwrap_or_else(|_| panic!("the same bytes were read before"));
                assert_eq!((followed.facts(), followed.signed_facts()), (event.facts(), event.facts()));
            }
        }
        (Err(_), None) => {}
        (Ok(_), None) => panic!("read a type where there is none"),
        (Err(_), Some(_)) => panic!("read no type where there is one"),
    }
});
