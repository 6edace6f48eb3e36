//! The section of the collector that spans go to.

use std::path::PathBuf;

use http::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::declaration::*;
use super::format::*;
use super::secret::Secret;
use super::section_reader::SectionReader;
use super::texts::COLLECTOR;

section! {
    /// Where spans go.
    pub struct Otlp {
        /// Turns tracing on: a collector that takes OTLP over HTTP; spans are posted to /v1/traces there
        endpoint: String = switch("http://localhost:4318", text(COLLECTOR)),
        /// A reference to the headers that it wants: name=value, with commas between them
        headers: Option<Secret> = server_only(optional("env:OTEL_EXPORTER_OTLP_HEADERS", secret())),
        /// The share of traces that are exported, where no traceparent of a request says whether its trace is
        sampling: f64 = default("1.0", share()),
        /// The collector's authority, a PEM file; the machine's own where not given
        ca: Option<PathBuf> = server_only(optional("/etc/terra-bridge/ca.pem", pem_file())),
    }
}

impl Otlp {
    /// `None`: they are no list of headers. As in `OTEL_EXPORTER_OTLP_HEADERS`, values may be percent-encoded.
    pub fn header_pairs(&self) -> Option<Vec<(HeaderName, HeaderValue)>> {
        let Some(headers) = &self.headers else { return Some(Vec::new()) };
        let text = std::str::from_utf8(headers.expose()).ok()?;
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=')?;
            let value: Vec<u8> = percent_decode_str(value.trim()).collect();
            Some((name.trim().parse().ok()?, HeaderValue::from_bytes(&value).ok()?))
        };
        text.split(',').map(pair).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_the_standard_variable_writes_them() {
        let read = |headers: &str| {
            let headers = Some(Secret::new(headers));
            let otlp = Otlp { endpoint: String::new(), headers, sampling: 1.0, ca: None };
            let pairs = otlp.header_pairs()?.into_iter();
            Some(pairs.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect::<Vec<_>>())
        };
        let both = ["authorization: Basic a=b", "x-scope: one"].map(str::to_owned);
        assert_eq!(read("authorization=Basic%20a=b, X-Scope = one"), Some(both.to_vec()));
        for odd in ["", "name", "a name=1", "name=%0a", "name=1,"] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }
}
