//! Thousands of forgeries, in process: valid deliveries altered in every way a forger could, none of which is
//! accepted. `TERRA_BRIDGE_TEST_FORGERIES` sets how many, `_SEED` the seed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use terra_bridge::config::{Endpoint, OwnRoutes, Secret};
use terra_bridge::payload::Payload;
use terra_bridge::samples::SAMPLES;
use terra_bridge::signature::{SignatureHeader, Verifier};

const USUAL: u64 = 100_000;
const NOW: i64 = 1_700_000_000;
const MAX_AGE: i64 = 26 * 3600;
const MAX_SKEW: i64 = 300;
const SECRETS: [&[u8]; 2] = [b"the new secret of this endpoint", b"the old secret of this endpoint"];
const ELSEWHERE: &[u8] = b"the secret of another endpoint";

#[derive(Clone)]
struct Delivery {
    signature: Vec<u8>,
    /// A further header, before or after the other.
    second: Option<(&'static str, Vec<u8>)>,
    body: Vec<u8>,
}

impl Delivery {
    fn new(signature: impl Into<Vec<u8>>, body: impl Into<Vec<u8>>) -> Self {
        Self { signature: signature.into(), second: None, body: body.into() }
    }
}

fn mac(secret: &[u8], parts: &[&[u8]]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any key will do");
    parts.iter().for_each(|part| mac.update(part));
    hex(&mac.finalize().into_bytes())
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn signed(secret: &[u8], t: &str, body: &[u8]) -> Delivery {
    let v1 = mac(secret, &[t.as_bytes(), b".", body]);
    Delivery::new(format!("t={t},v1={v1}"), body)
}

fn accepted(endpoint: &Arc<Endpoint>, delivery: &Delivery) -> bool {
    let mut headers = HeaderMap::new();
    let Ok(value) = HeaderValue::from_bytes(&delivery.signature) else { return false };
    headers.insert("terra-signature", value);
    if let Some((name, value)) = &delivery.second {
        headers.append(*name, HeaderValue::from_bytes(value).expect("plain text"));
    }
    let Ok(claim) = SignatureHeader::read(&headers) else { return false };
    let mut proof = Verifier::new(endpoint.clone(), claim);
    proof.update(&delivery.body);
    let now = Timestamp::from_second(NOW).expect("in range");
    proof.finish(headers, Payload::unbudgeted(Bytes::copy_from_slice(&delivery.body)), now).is_ok()
}

/// A delivery of the past day, signed with a secret of the endpoint, and its time.
fn valid(rng: &mut Rng) -> (Delivery, i64) {
    let sample = SAMPLES[rng.usize(..SAMPLES.len())].body.as_bytes();
    let body = &sample[..sample.len().min(200 + rng.usize(..400))];
    let t = NOW - rng.i64(0..MAX_AGE);
    (signed(SECRETS[rng.usize(..SECRETS.len())], &t.to_string(), body), t)
}

/// A version of the delivery that nobody signed.
fn forged(rng: &mut Rng) -> (Delivery, &'static str) {
    let (mut delivery, t) = valid(rng);
    let text = t.to_string();
    let v1 = String::from_utf8(delivery.signature.split_off(text.len() + 6)).expect("hex");
    let with = |t: &str, v1: &str, body: &[u8]| Delivery::new(format!("t={t},v1={v1}"), body);
    let body = delivery.body.clone();
    match rng.u8(..18) {
        0 => {
            let (at, bit) = (rng.usize(..body.len()), rng.u8(..8));
            delivery.body[at] ^= 1 << bit;
            (with(&text, &v1, &delivery.body), "a bit of the body")
        }
        1 => (with(&text, &v1, &body[..rng.usize(..body.len())]), "less of the body"),
        2 => (with(&text, &v1, &[&body[..], &[rng.u8(..)]].concat()), "more of a body"),
        3 => {
            let other = t + rng.i64(1..100_000) * if rng.bool() { 1 } else { -1 };
            (with(&other.to_string(), &v1, &body), "another time")
        }
        4 => {
            let dressed = [format!("0{t}"), format!("+{t}"), format!(" {t}"), format!("{t}000"), format!("{t}.0")];
            (with(&dressed[rng.usize(..dressed.len())], &v1, &body), "the same time in another dress")
        }
        5 => {
            let mut digits = v1.into_bytes();
            let at = rng.usize(..digits.len());
            let other = b"0123456789abcdef"[rng.usize(..16)];
            digits[at] = if digits[at] == other { b'0' + u8::from(other == b'0') } else { other };
            (with(&text, std::str::from_utf8(&digits).expect("hex"), &body), "a digit of the signature")
        }
        6 => (with(&text, &v1[..rng.usize(..v1.len())], &body), "less of the signature"),
        7 => (with(&text, &format!("{v1}{:x}", rng.u8(..)), &body), "more of a signature"),
        8 => (signed(ELSEWHERE, &text, &body), "the secret of another endpoint"),
        9 => {
            let near = [&b""[..], b"\0", &SECRETS[0][..10], b"the new secret of this endpoint\n", b"THE NEW SECRET"];
            (signed(near[rng.usize(..near.len())], &text, &body), "nearly the secret")
        }
        10 => {
            let secret = SECRETS[rng.usize(..2)];
            let wrong = [
                mac(secret, &[&body]),
                mac(secret, &[text.as_bytes(), &body]),
                mac(secret, &[text.as_bytes(), b":", &body]),
                mac(secret, &[text.as_bytes()]),
                mac(&body, &[secret]),
                hex(&Sha256::digest([secret, text.as_bytes(), b".", &body].concat())),
                hex(&Sha256::digest(&body)),
            ];
            (with(&text, &wrong[rng.usize(..wrong.len())], &body), "something else that was signed")
        }
        11 => {
            let other = [format!("t={t},v0={v1}"), format!("t={t},{v1}"), format!("v1={v1}"), format!("t={t};v1={v1}")];
            (Delivery::new(other[rng.usize(..4)].clone(), body), "another scheme")
        }
        12 => {
            let t = if rng.bool() {
                NOW - MAX_AGE - 1 - rng.i64(0..1_000_000)
            } else {
                NOW + MAX_SKEW + 1 + rng.i64(0..1_000_000)
            };
            (signed(SECRETS[0], &t.to_string(), &body), "too old or too new")
        }
        13 => {
            let (other, of_other) = valid(rng);
            let signature = other.signature[of_other.to_string().len() + 6..].to_vec();
            let v1 = String::from_utf8(signature).expect("hex");
            let body = if other.body == body && of_other == t { b"{}".to_vec() } else { body };
            (with(&text, &v1, &body), "the signature of another delivery")
        }
        14 => {
            let twice = format!("t={t},t={},v1={v1}", t + 1);
            (Delivery::new(twice, body), "two times")
        }
        15 | 16 => {
            // One header is valid for one body, the other for another body under a secret that the forger has.
            let mut altered = body.clone();
            altered.push(b' ');
            let (mine, theirs) = (signed(ELSEWHERE, &text, &altered).signature, with(&text, &v1, &body).signature);
            let name = ["terra-signature", "x-terra-signature"][rng.usize(..2)];
            let (first, second) = if rng.bool() { (mine, theirs) } else { (theirs, mine) };
            let body = if rng.bool() { altered } else { body };
            (Delivery { second: Some((name, second)), ..Delivery::new(first, body) }, "two headers that disagree")
        }
        _ => {
            let noise: Vec<u8> = (0..rng.usize(1..120)).map(|_| rng.u8(..)).collect();
            (Delivery::new(noise, body), "noise")
        }
    }
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

#[test]
fn no_forgery_is_accepted_and_every_true_delivery_is() {
    let endpoint = Arc::new(Endpoint {
        name: "terra".into(),
        path: "/terra".into(),
        secrets: SECRETS.iter().map(|secret| Secret::new(*secret)).collect(),
        max_age: Duration::from_secs(MAX_AGE as u64),
        max_skew: Duration::from_secs(MAX_SKEW as u64),
        rejected_status: StatusCode::UNAUTHORIZED,
        routes: OwnRoutes::default(),
    });
    let (count, seed) = (number("TERRA_BRIDGE_TEST_FORGERIES", USUAL), number("TERRA_BRIDGE_TEST_FORGERIES_SEED", 1));
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let endpoint = endpoint.clone();
            scope.spawn(move || {
                let mut rng = Rng::with_seed(seed * 1000 + thread);
                for n in 0..count / threads {
                    let (delivery, how) = forged(&mut rng);
                    let shown = || String::from_utf8_lossy(&delivery.signature).into_owned();
                    assert!(!accepted(&endpoint, &delivery), "forgery {n} of seed {seed}: {how}: {}", shown());
                    if n % 100 == 0 {
                        assert!(accepted(&endpoint, &valid(&mut rng).0), "a true delivery was refused");
                    }
                }
            });
        }
    });
    eprintln!("{count} forgeries, none accepted");
}
