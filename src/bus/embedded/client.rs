//! The client of the reading API, for the commands: the topics of the running bridge, and the records of each over
//! HTTP, in order.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::bus::{ReadError, Record, StartPosition};
use crate::config;
use crate::server::{Trust, client, reachable, scheme};

/// From the request to the head of its response.
const ANSWER: Duration = Duration::from_secs(10);

/// A line is a payload of at most `server.max_body`, escaped.
const LONGEST_LINE: usize = 512 * 1024 * 1024;

const LARGEST_ANSWER: usize = 4 * 1024 * 1024;

/// An entry of `GET /topics`.
#[derive(Debug, Deserialize)]
pub(super) struct TopicState {
    pub(super) topic: String,
    pub(super) earliest: u64,
    pub(super) next: u64,
    pub(super) bytes: u64,
    pub(super) messages: u64,
}

pub(super) struct Client {
    http: HttpClient<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    scheme: &'static str,
    address: SocketAddr,
    authorization: Option<HeaderValue>,
}

impl Client {
    pub(super) fn new(config: &config::Embedded) -> Result<Self, ReadError> {
        let authorization = config.token.as_ref().map(|token| {
            let value = HeaderValue::from_bytes(&[b"Bearer ", token.expose()].concat());
            let mut value = value
                .map_err(|_| ReadError("embedded.token cannot stand in a header; use printable ASCII".to_owned()))?;
            value.set_sensitive(true);
            Ok::<_, ReadError>(value)
        });
        let http = client(Trust::Pair(config.tls.as_ref()));
        Ok(Self {
            http: http.map_err(|error| ReadError(format!("embedded.tls.certificate: {error}")))?,
            scheme: scheme(config.tls.as_ref()),
            address: reachable(config.listen),
            authorization: authorization.transpose()?,
        })
    }

    pub(super) async fn topics(&self) -> Result<Vec<TopicState>, ReadError> {
        let body = self.get("/topics").await?;
        let bytes = Limited::new(body, LARGEST_ANSWER).collect().await.map_err(|error| self.broken(&error))?.to_bytes();
        serde_json::from_slice(&bytes).map_err(|error| self.broken(&error))
    }

    /// The records of a topic from that position on; if it `follows`, also those that arrive later.
    pub(super) async fn lines(&self, topic: &str, from: StartPosition, follows: bool) -> Result<Lines, ReadError> {
        let from = match from {
            StartPosition::Earliest => "earliest".to_owned(),
            StartPosition::Latest => "latest".to_owned(),
            StartPosition::Offset(offset) => offset.to_string(),
        };
        let topic_in_path = utf8_percent_encode(topic, NON_ALPHANUMERIC);
        let body = self.get(&format!("/topics/{topic_in_path}/messages?from={from}&follow={follows}")).await;
        let body = body.map_err(|error| ReadError(format!("{topic}: {error}")))?;
        Ok(Lines { body, buffer: BytesMut::new(), searched: 0 })
    }

    async fn get(&self, path: &str) -> Result<Incoming, ReadError> {
        let mut request = Request::get(format!("{}://{}{path}", self.scheme, self.address));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Empty::new()).map_err(|error| self.broken(&error))?;
        let answer = tokio::time::timeout(ANSWER, self.http.request(request)).await;
        let answer = answer.map_err(|_| ReadError(format!("no answer from {} within {ANSWER:?}", self.address)))?;
        let answer = answer.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        if status.is_success() { Ok(answer.into_body()) } else { Err(self.denied(status, answer.into_body()).await) }
    }

    async fn denied(&self, status: StatusCode, body: Incoming) -> ReadError {
        #[derive(Deserialize)]
        struct Denial {
            error: String,
            earliest: Option<u64>,
            next: Option<u64>,
        }
        let body = Limited::new(body, LARGEST_ANSWER).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let Ok(denial) = serde_json::from_slice::<Denial>(&body) else {
            return ReadError(format!("{} answered {status}: does another program listen there?", self.address));
        };
        let remedy = match (status, denial.earliest, denial.next) {
            (StatusCode::UNAUTHORIZED, ..) => "; set embedded.token to that of the running bridge".to_owned(),
            (_, Some(earliest), Some(next)) => format!("; it has offsets from {earliest} up to, but without, {next}"),
            _ => String::new(),
        };
        ReadError(format!("{}{remedy}", denial.error))
    }

    fn unreachable(&self, error: &hyper_util::client::legacy::Error) -> ReadError {
        let address = self.address;
        if error.is_connect() {
            return ReadError(format!(
                "no connection to embedded.listen, {address}: is the bridge running, with the same embedded.tls? The bus \
                 is embedded here; set TERRA_BRIDGE_BUS if it is another"
            ));
        }
        ReadError(format!(
            "{address} does not answer as embedded.listen does: does another program listen there, or is embedded.tls another than the running bridge's?"
        ))
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> ReadError {
        ReadError(format!("the answer from {} cannot be read: {error}", self.address))
    }
}

pub(super) struct Lines {
    body: Incoming,
    buffer: BytesMut,
    /// Bytes of the buffer already searched for a line's end.
    searched: usize,
}

impl Lines {
    /// `None` at the end of the body.
    pub(super) async fn record(&mut self, topic: &str) -> Result<Option<Record>, ReadError> {
        let cut = |reason| format!("{topic}: the stream was cut off ({reason}); read on from the next offset");
        let Some(line) = self.next().await.map_err(|reason| ReadError(cut(reason)))? else { return Ok(None) };
        Record::parse(&line).map(Some).map_err(|error| ReadError(format!("{topic}: {error}")))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end);
                self.buffer.advance(1);
                self.searched = 0;
                return Ok(Some(line.freeze()));
            }
            self.searched = self.buffer.len();
            if self.searched > LONGEST_LINE {
                return Err(format!("a line longer than {LONGEST_LINE} bytes"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Some(Err(error)) => return Err(error.to_string()),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err("the last line is incomplete".to_owned()),
            }
        }
    }
}
