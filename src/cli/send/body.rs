//! The bodies to send: samples, a large request, or a file.

use std::io::{self, Read};
use std::path::Path;

use bytes::Bytes;
use serde_json::Value;
use uuid::Uuid;

use crate::cli::args::SendArgs;
use crate::cli::failure::Failure;
use crate::samples::{SAMPLES, Sample, sample};

/// A body that may be sent many times.
pub(super) struct Body {
    /// The type, or the file's name.
    pub(super) name: String,
    bytes: Bytes,
    /// A sample's, replaced each time, because the bridge identifies an event by it.
    event_id: Option<String>,
    /// Its chunk number within a large request.
    pub(super) chunk: Option<u32>,
}

pub(super) fn bodies(args: &SendArgs) -> Result<Vec<Body>, Failure> {
    if let Some(chunks) = args.large_request {
        return Ok(large_request(chunks.get()));
    }
    match &args.file {
        Some(path) => Ok(vec![Body::file(path)?]),
        None if args.all => Ok(SAMPLES.iter().map(Body::sample).collect()),
        None => Ok(args.types.iter().filter_map(|name| sample(name)).map(Body::sample).collect()),
    }
}

/// Two announcements and that many chunks.
fn large_request(chunks: u32) -> Vec<Body> {
    let body = |name| Body::sample(sample(name).expect("every known type has one"));
    let mut sending = body("large_request_sending");
    let mut announcement: Value = serde_json::from_slice(&sending.bytes).expect("a sample is JSON");
    announcement["expected_payloads"] = chunks.into();
    sending.bytes = announcement.to_string().into();
    let chunks = (0..chunks).map(|number| Body { chunk: Some(number), ..body("daily") });
    [body("large_request_processing"), sending].into_iter().chain(chunks).collect()
}

impl Body {
    fn sample(sample: &Sample) -> Self {
        let parsed: Value = serde_json::from_str(sample.body).unwrap_or_default();
        let event_id = parsed["event_id"].as_str().map(str::to_owned);
        Self { name: sample.name.to_owned(), bytes: Bytes::from_static(sample.body.as_bytes()), event_id, chunk: None }
    }

    fn file(path: &Path) -> Result<Self, Failure> {
        let mut bytes = Vec::new();
        let read = match path.to_str() {
            Some("-") => io::stdin().read_to_end(&mut bytes).map(drop),
            _ => std::fs::read(path).map(|read| bytes = read),
        };
        read.map_err(|error| Failure::Mistake(format!("{}: {error}", path.display())))?;
        Ok(Self { name: path.display().to_string(), bytes: bytes.into(), event_id: None, chunk: None })
    }

    /// A sample with an event id is a new event each time; any other body is sent byte for byte.
    pub(super) fn with_new_event_id(&self) -> Bytes {
        match (&self.event_id, std::str::from_utf8(&self.bytes)) {
            (Some(old), Ok(text)) => text.replace(&format!("\"{old}\""), &format!("\"{}\"", event_id_like(old))).into(),
            _ => self.bytes.clone(),
        }
    }
}

/// A new id in the same format as the old one: Terra has two formats.
fn event_id_like(old: &str) -> String {
    match old.bytes().all(|byte| byte.is_ascii_digit()) {
        true => format!("9{:017}", Uuid::new_v4().as_u128() % 10_u128.pow(17)),
        false => format!("evt_{}", Uuid::new_v4()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_ids_look_like_terras() {
        assert_eq!(event_id_like("500000000000001001").len(), 18);
        assert_eq!(event_id_like("evt_5a0c1d7e").len(), 40);
    }

    #[test]
    fn a_sample_with_an_event_id_is_a_new_event_each_time() {
        let with_id: Vec<_> = SAMPLES.iter().map(Body::sample).filter(|body| body.event_id.is_some()).collect();
        assert!(!with_id.is_empty());
        for body in with_id {
            let [first, second] = [body.with_new_event_id(), body.with_new_event_id()];
            assert_ne!(first, second, "{}", body.name);
            let read: Value = serde_json::from_slice(&first).expect("still JSON");
            assert_ne!(read["event_id"].as_str(), body.event_id.as_deref());
        }
    }

    #[test]
    fn other_samples_are_sent_byte_for_byte() {
        let daily = sample("daily").expect("known");
        assert_eq!(Body::sample(daily).with_new_event_id(), daily.body.as_bytes());
    }
}
