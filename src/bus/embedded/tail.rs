//! The client of the reading API, for `tail`: follows topics over HTTP, each in its own request.
//! Comes in: topics and where to begin. Goes out: records, in order within each topic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream::{self, Stream, StreamExt};
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::wire;
use crate::bus::{ReadError, Record, Records, StartPosition};
use crate::config;
use crate::server::{connector, scheme};

/// From the request to the head of its answer.
const ANSWER: Duration = Duration::from_secs(10);

/// A line is a payload of at most `server.max_body`, escaped.
const LONGEST_LINE: usize = 512 * 1024 * 1024;

const LARGEST_ANSWER: usize = 4 * 1024 * 1024;

/// Reads kept messages of the running bridge and goes on as they arrive; no topics: all that there
/// are now. Needs the bridge to run, as the log belongs to one process.
pub async fn tail(config: &config::Embedded, topics: Vec<String>, from: StartPosition) -> Result<Records, ReadError> {
    let client = Client::new(config)?;
    let topics = match topics.is_empty() {
        true => client.topics().await?.into_iter().map(|topic| topic.topic).collect(),
        false => topics,
    };
    let followed = topics.iter().map(|topic| client.follow(topic, from));
    let streams = futures_util::future::try_join_all(followed).await?;
    Ok(stream::select_all(streams).boxed())
}

/// Those of the topics that the running bridge has.
pub async fn present(config: &config::Embedded, mut topics: Vec<String>) -> Result<Vec<String>, ReadError> {
    let known = Client::new(config)?.topics().await?;
    topics.retain(|topic| known.iter().any(|known| known.topic == *topic));
    Ok(topics)
}

/// What `GET /topics` says of one.
#[derive(Debug, Deserialize)]
pub(super) struct TopicState {
    pub(super) topic: String,
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
            Ok(value)
        });
        let connector =
            connector(config.tls.as_ref()).map_err(|error| ReadError(format!("embedded.tls.certificate: {error}")))?;
        Ok(Self {
            http: HttpClient::builder(TokioExecutor::new()).build(connector),
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

    pub(super) async fn follow(&self, topic: &str, from: StartPosition) -> Result<Records, ReadError> {
        Ok(Box::pin(records(self.lines(topic, from, true).await?, topic.to_owned())))
    }

    /// Without `follow` they end with what there is now.
    pub(super) async fn lines(&self, topic: &str, from: StartPosition, follow: bool) -> Result<Lines, ReadError> {
        let from = match from {
            StartPosition::Earliest => "earliest".to_owned(),
            StartPosition::Latest => "latest".to_owned(),
            StartPosition::Offset(offset) => offset.to_string(),
        };
        let topic_in_path = utf8_percent_encode(topic, NON_ALPHANUMERIC);
        let body = self.get(&format!("/topics/{topic_in_path}/messages?from={from}&follow={follow}")).await;
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
                "no connection to embedded.listen, {address}: is the bridge running, with the same embedded.tls?"
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

/// Where a listener on every address can be reached from this machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Records until an error, which the end of the body is too: what is followed has no end.
fn records(lines: Lines, topic: String) -> impl Stream<Item = Result<Record, ReadError>> {
    stream::unfold(Some(lines), move |lines| {
        let topic = topic.clone();
        async move {
            let mut lines = lines?;
            let record = match lines.record(&topic).await {
                Ok(Some(record)) => Ok(record),
                Ok(None) => Err(ReadError(format!("{topic}: the bridge stopped"))),
                Err(error) => Err(error),
            };
            let rest = record.is_ok().then_some(lines);
            Some((record, rest))
        }
    })
}

pub(super) struct Lines {
    body: Incoming,
    buffer: BytesMut,
    /// Bytes of the buffer that have no line's end.
    searched: usize,
}

impl Lines {
    /// `None` at the end of the body.
    pub(super) async fn record(&mut self, topic: &str) -> Result<Option<Record>, ReadError> {
        let cut = |reason| format!("{topic}: the stream was cut off ({reason}); read on from the next offset");
        let Some(line) = self.next().await.map_err(|reason| ReadError(cut(reason)))? else { return Ok(None) };
        wire::parse(&line).map(Some).map_err(|error| ReadError(format!("{topic}: {error}")))
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;

    use super::super::{Api, inspect};
    use super::*;
    use crate::bus::{Level, Setup};
    use crate::config::Secret;
    use crate::log::{Settings, Store};
    use crate::message::Message;

    fn config(dir: &std::path::Path, listen: SocketAddr, token: Option<&str>) -> config::Embedded {
        config::Embedded {
            dir: dir.to_owned(),
            listen,
            token: token.map(Secret::new),
            tls: None,
            retention: Duration::from_secs(7 * 24 * 3600),
            max_bytes: 1 << 30,
            reserve: 0,
        }
    }

    async fn serve(api: Api) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let api = api.clone();
                let answer = service_fn(move |request| {
                    let api = api.clone();
                    async move { Ok::<_, Infallible>(api.answer(request).await) }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer));
            }
        });
        address
    }

    fn append(store: &Store, topic: &str, number: u8) {
        let message = Message::sample(topic, "k", [number; 32], vec![number; 100_000]);
        store.append(std::iter::once(&message)).unwrap();
    }

    #[tokio::test]
    async fn tail_reads_every_topic_and_goes_on_until_the_bridge_stops() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&Settings::sample(dir.path()), std::iter::empty()).unwrap());
        let api = Api::new(store.clone(), Some(Secret::new("s3cret")));
        let config = config(dir.path(), serve(api.clone()).await, Some("s3cret"));
        append(&store, "a", 1);
        append(&store, "b", 2);
        let mut records = tail(&config, vec![], StartPosition::Earliest).await.unwrap();
        let mut seen = [records.next().await.unwrap().unwrap(), records.next().await.unwrap().unwrap()];
        seen.sort_by(|one, other| one.topic.cmp(&other.topic));
        assert_eq!((&*seen[0].topic, &*seen[1].topic), ("a", "b"));
        assert_eq!(seen[1].payload, vec![2; 100_000]);
        assert_eq!(seen[0].headers[0], ("content-type".to_owned(), "application/json".to_owned()));
        append(&store, "b", 3);
        assert_eq!(records.next().await.unwrap().unwrap().offset, 1);
        api.drain();
        assert!(records.next().await.unwrap().unwrap_err().0.ends_with("the bridge stopped"));

        let setup = Setup { topics: vec![], publish_timeout: Duration::ZERO, max_body: 0, bytes_in_flight: 0 };
        let findings = inspect(&config, &setup).await.unwrap();
        let says: Vec<_> = findings.iter().map(|finding| &*finding.says).collect();
        assert!(says.iter().any(|says| says.contains("3 messages") && says.contains("2 topics")), "{says:?}");
        assert!(findings.iter().all(|finding| finding.level < Level::Mistake), "{says:?}");
    }

    #[tokio::test]
    async fn tail_says_what_is_wrong_and_what_helps() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&Settings::sample(dir.path()), ["t".into()].into_iter()).unwrap());
        append(&store, "t", 1);
        store.roll().unwrap();
        append(&store, "t", 2);
        store.remove_oldest(1).unwrap();
        let address = serve(Api::new(store, Some(Secret::new("s3cret")))).await;
        let said = async |token, topic: &str| {
            let tailed =
                tail(&config(dir.path(), address, token), vec![topic.to_owned()], StartPosition::Offset(0)).await;
            tailed.err().unwrap().0
        };
        assert!(said(Some("other"), "t").await.contains("set embedded.token"));
        assert!(said(Some("s3cret"), "t").await.contains("offsets from 1 up to, but without, 2"));
        assert_eq!(said(Some("s3cret"), "no").await, "no: no such topic");
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = tail(&config(dir.path(), closed, None), vec![], StartPosition::Latest).await.err().unwrap();
        assert!(error.0.contains("is the bridge running"), "{error}");
    }

    #[test]
    fn a_listener_on_every_address_is_reached_over_loopback() {
        assert_eq!(reachable("0.0.0.0:8082".parse().unwrap()), "127.0.0.1:8082".parse().unwrap());
        assert_eq!(reachable("[::]:1".parse().unwrap()), "[::1]:1".parse().unwrap());
        assert_eq!(reachable("10.0.0.1:1".parse().unwrap()), "10.0.0.1:1".parse().unwrap());
    }
}
