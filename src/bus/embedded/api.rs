//! The embedded log over HTTP, for its subscribers: topics, messages as NDJSON or server-sent events,
//! one message as it was. Offsets are inclusive, and no read jumps over what retention has dropped.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{ACCEPT, ALLOW, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::json;
use subtle::ConstantTimeEq;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::Shared;
use super::store::{Extent, ReadError};
use crate::bus::Record;
use crate::config::{self, Secret};
use crate::server::{self, Reply, Service, loopback_host};

/// Streams that may be open at once.
const STREAMS: usize = 512;
/// One step of a reader: so many records, or so many bytes and one record more.
const STEP_RECORDS: usize = 256;
const STEP_BYTES: usize = 1 << 20;
/// Keeps proxies and clients from giving up on a quiet stream.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Answers the readers of one embedded log. Cloning shares it.
#[derive(Clone)]
pub struct Api {
    shared: Arc<Shared>,
    token: Option<Secret>,
    streams: Arc<Semaphore>,
}

impl Api {
    pub(super) fn new(shared: Arc<Shared>, config: &config::Embedded) -> Self {
        Self { shared, token: config.token.clone(), streams: Arc::new(Semaphore::new(STREAMS)) }
    }

    async fn answer<B>(&self, request: &Request<B>) -> Result<Reply, Reply> {
        self.admit(request.headers())?;
        let path: Vec<_> = request.uri().path().trim_start_matches('/').split('/').collect();
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut reply = refusal(StatusCode::METHOD_NOT_ALLOWED, "the log is read with GET");
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Err(reply);
        }
        match path[..] {
            ["topics"] => self.topics(),
            ["topics", topic, "messages"] => {
                let query = Query::read(request.uri().query().unwrap_or_default(), request.headers())?;
                self.messages(topic, query, wants_events(request.headers()))
            }
            ["topics", topic, "messages", offset] => self.message(topic, offset).await,
            _ => Err(refusal(StatusCode::NOT_FOUND, "see /topics")),
        }
    }

    /// Without a token the listener is on loopback, and then only loopback names may ask.
    fn admit(&self, headers: &HeaderMap) -> Result<(), Reply> {
        let Some(token) = &self.token else {
            let refused = || refusal(StatusCode::FORBIDDEN, "the Host is no loopback name");
            return loopback_host(headers).then_some(()).ok_or_else(refused);
        };
        let given = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        if given.is_some_and(|given| bool::from(given.ct_eq(token.expose()))) {
            return Ok(());
        }
        let mut reply = refusal(StatusCode::UNAUTHORIZED, "a bearer token is needed");
        reply.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        Err(reply)
    }

    fn topics(&self) -> Result<Reply, Reply> {
        let store = self.shared.store().ok_or_else(closed)?;
        let topics: Vec<_> = store.topics().into_iter().map(|(topic, extent)| described(&topic, extent)).collect();
        Ok(server::json(StatusCode::OK, &json!({"topics": topics, "bytes": store.bytes()})))
    }

    fn extent(&self, topic: &str) -> Result<Extent, Reply> {
        let store = self.shared.store().ok_or_else(closed)?;
        store.extent(topic).ok_or_else(|| refusal(StatusCode::NOT_FOUND, "no such topic; see /topics"))
    }

    fn messages(&self, topic: &str, query: Query, events: bool) -> Result<Reply, Reply> {
        let extent = self.extent(topic)?;
        let from = match query.from {
            Start::Earliest => extent.earliest,
            Start::Latest => extent.next,
            Start::Offset(offset) => offset,
        };
        if from < extent.earliest || from > extent.next {
            return Err(out_of_range(extent));
        }
        let full = |_| refusal(StatusCode::SERVICE_UNAVAILABLE, "too many readers already");
        let place = self.streams.clone().try_acquire_owned().map_err(full)?;
        let reader = Reader {
            changed: self.shared.changed.subscribe(),
            shared: self.shared.clone(),
            topic: topic.to_owned(),
            next: from,
            left: query.limit,
            follow: query.follow,
            events,
            _place: place,
        };
        let frames = stream::unfold(Some(reader), |reader| async move { reader?.step().await });
        let mut reply = http::Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)));
        let kind = if events { "text/event-stream" } else { "application/x-ndjson" };
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        Ok(reply)
    }

    async fn message(&self, topic: &str, offset: &str) -> Result<Reply, Reply> {
        let extent = self.extent(topic)?;
        let offset = offset.parse().map_err(|_| refusal(StatusCode::BAD_REQUEST, "an offset is a number"))?;
        match read(&self.shared, topic, offset, 1, 0).await {
            Ok(records) => match records.into_iter().next() {
                Some(record) => Ok(raw(record)),
                None => Err(out_of_range(extent)),
            },
            Err(ReadError::OutOfRange(extent)) => Err(out_of_range(extent)),
            Err(ReadError::Store(_)) => Err(closed()),
        }
    }
}

impl Service for Api {
    async fn call(&self, request: Request<Incoming>, _: Instant) -> Reply {
        self.answer(&request).await.unwrap_or_else(|refused| refused)
    }
}

fn described(topic: &str, extent: Extent) -> serde_json::Value {
    let Extent { earliest, next } = extent;
    json!({"topic": topic, "earliest": earliest, "next": next, "messages": next - earliest})
}

/// The payload as it was received, with its headers.
fn raw(record: Record) -> Reply {
    let mut reply = http::Response::new(server::full(record.payload));
    for (name, value) in record.headers {
        // Stored values are percent-encoded ASCII; one that is not would only be left out.
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            reply.headers_mut().insert(name, value);
        }
    }
    reply
}

fn refusal(status: StatusCode, reason: &str) -> Reply {
    server::json(status, &json!({"error": reason}))
}

fn closed() -> Reply {
    refusal(StatusCode::SERVICE_UNAVAILABLE, "the log is being opened anew")
}

fn out_of_range(extent: Extent) -> Reply {
    let body = json!({"error": "no such offset", "earliest": extent.earliest, "next": extent.next});
    server::json(StatusCode::RANGE_NOT_SATISFIABLE, &body)
}

fn wants_events(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).is_some_and(|accept| accept.as_bytes().starts_with(b"text/event-stream"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Earliest,
    Latest,
    Offset(u64),
}

#[derive(Debug, PartialEq, Eq)]
struct Query {
    from: Start,
    limit: Option<u64>,
    follow: bool,
}

impl Query {
    /// `Last-Event-ID` is where a reader that reconnects has been; it beats `from`.
    fn read(query: &str, headers: &HeaderMap) -> Result<Self, Reply> {
        let bad = |reason| refusal(StatusCode::BAD_REQUEST, reason);
        let mut read = Self { from: Start::Earliest, limit: None, follow: false };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "true")) {
                ("from", "earliest") => read.from = Start::Earliest,
                ("from", "latest") => read.from = Start::Latest,
                ("from", offset) => {
                    let offset = offset.parse().map_err(|_| bad("from is earliest, latest or an offset"))?;
                    read.from = Start::Offset(offset);
                }
                ("limit", limit) => read.limit = Some(limit.parse().map_err(|_| bad("limit is a number"))?),
                ("follow", "true") => read.follow = true,
                ("follow", "false") => read.follow = false,
                _ => return Err(bad("known are from, limit and follow=true|false")),
            }
        }
        if let Some(last) = headers.get("last-event-id") {
            let last =
                last.to_str().ok().and_then(|last| last.parse::<u64>().ok()).and_then(|last| last.checked_add(1));
            read.from = Start::Offset(last.ok_or_else(|| bad("Last-Event-ID is an offset"))?);
        }
        Ok(read)
    }
}

type Step = (Result<Frame<Bytes>, io::Error>, Option<Reader>);

/// One subscriber's place in a topic.
struct Reader {
    shared: Arc<Shared>,
    changed: watch::Receiver<()>,
    topic: String,
    next: u64,
    left: Option<u64>,
    follow: bool,
    events: bool,
    _place: OwnedSemaphorePermit,
}

impl Reader {
    /// The next bytes, waiting for them where the reader follows; `None` at the end.
    async fn step(mut self) -> Option<Step> {
        loop {
            if self.left == Some(0) {
                return None;
            }
            self.changed.mark_unchanged();
            let most =
                self.left.map_or(STEP_RECORDS, |left| usize::try_from(left).unwrap_or(usize::MAX).min(STEP_RECORDS));
            match read(&self.shared, &self.topic, self.next, most, STEP_BYTES).await {
                Ok(records) if !records.is_empty() => return Some(self.sent(&records)),
                Ok(_) if !self.follow => return None,
                Ok(_) => {}
                Err(error) => return Some(self.ended(&error)),
            }
            match tokio::time::timeout(HEARTBEAT, self.changed.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) if self.events => return Some((Ok(Frame::data(Bytes::from_static(b":\n\n"))), Some(self))),
                // JSON knows blank lines; they keep the connection alive.
                Err(_) => return Some((Ok(Frame::data(Bytes::from_static(b"\n"))), Some(self))),
            }
        }
    }

    fn sent(mut self, records: &[Record]) -> Step {
        let mut text = Vec::new();
        for record in records {
            if self.events {
                text.extend_from_slice(format!("id: {}\ndata: ", record.offset).as_bytes());
            }
            serde_json::to_writer(&mut text, record).expect("a record is JSON and a Vec takes all of it");
            text.extend_from_slice(if self.events { b"\n\n" } else { b"\n" });
        }
        self.next += records.len() as u64;
        self.left = self.left.map(|left| left - records.len() as u64);
        (Ok(Frame::data(text.into())), Some(self))
    }

    /// An event stream says why it ends; NDJSON has no place for that and is cut off, so that no
    /// reader takes it for the end of the topic.
    fn ended(self, error: &ReadError) -> Step {
        if !self.events {
            return (Err(io::Error::other("the reader was overtaken, or the log closed")), None);
        }
        let error = match error {
            ReadError::OutOfRange(Extent { earliest, next }) => json!({"earliest": earliest, "next": next}),
            ReadError::Store(_) => json!({"error": "the log is being opened anew"}),
        };
        (Ok(Frame::data(format!("event: error\ndata: {error}\n\n").into())), None)
    }
}

/// Reads off the runtime's workers.
async fn read(
    shared: &Arc<Shared>,
    topic: &str,
    from: u64,
    records: usize,
    bytes: usize,
) -> Result<Vec<Record>, ReadError> {
    let closed = || ReadError::Store(super::StoreError::Failed("closed".into()));
    let (shared, topic) = (shared.clone(), topic.to_owned());
    let read = tokio::task::spawn_blocking(move || {
        // Held no longer than one step, so that a log that failed can be opened anew.
        let store = shared.store().ok_or_else(closed)?;
        store.read(&topic, from, records, bytes)
    });
    read.await.unwrap_or_else(|_| Err(closed()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::embedded::open;
    use crate::bus::{Bus, Setup};
    use crate::message::Message;

    async fn log(token: Option<&str>) -> (tempfile::TempDir, Arc<dyn Bus>, Api) {
        let dir = tempfile::TempDir::new().unwrap();
        let config = config::Embedded {
            dir: dir.path().join("log"),
            listen: ([127, 0, 0, 1], 0).into(),
            token: token.map(Secret::new),
            retention: Duration::from_secs(3600),
            max_bytes: 1 << 30,
            reserve: 0,
        };
        let setup = Setup {
            topics: vec!["quiet".into()],
            publish_timeout: Duration::from_secs(5),
            max_body: 1 << 20,
            bytes_in_flight: 1 << 20,
        };
        let (bus, api) = open(&config, setup).unwrap();
        for id in 0..3 {
            bus.publish(Message::sample("a", "k", [id; 32], vec![b'0' + id; 3])).await.unwrap();
        }
        (dir, bus, api)
    }

    async fn ask(api: &Api, target: &str, headers: &[(&'static str, &str)]) -> (StatusCode, String) {
        let mut request = Request::get(target).header("host", "localhost:1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let reply = api.answer(&request.body(()).unwrap()).await.unwrap_or_else(|refused| refused);
        let (head, body) = reply.into_parts();
        (head.status, String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn topics_and_their_offsets_are_listed() {
        let (_dir, _bus, api) = log(None).await;
        let (status, body) = ask(&api, "/topics", &[]).await;
        assert_eq!(status, StatusCode::OK);
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["topics"][0], json!({"topic": "a", "earliest": 0, "next": 3, "messages": 3}));
        assert_eq!(body["topics"][1]["topic"], "quiet");
    }

    #[tokio::test]
    async fn messages_are_read_from_an_offset_up_to_a_limit() {
        let (_dir, _bus, api) = log(None).await;
        let (_, body) = ask(&api, "/topics/a/messages?from=1&limit=1", &[]).await;
        let record: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&record["offset"], &record["payload"], &record["key"]), (&json!(1), &json!("111"), &json!("k")));
        assert_eq!(ask(&api, "/topics/a/messages", &[]).await.1.lines().count(), 3);
        assert_eq!(ask(&api, "/topics/a/messages?from=latest", &[]).await, (StatusCode::OK, String::new()));
        assert_eq!(ask(&api, "/topics/a/messages?from=3", &[]).await, (StatusCode::OK, String::new()));
        let (status, body) = ask(&api, "/topics/a/messages?from=4", &[]).await;
        assert_eq!(status, StatusCode::RANGE_NOT_SATISFIABLE);
        assert!(body.contains("\"earliest\":0") && body.contains("\"next\":3"), "{body}");
    }

    #[tokio::test]
    async fn an_event_stream_resumes_after_the_last_event() {
        let (_dir, _bus, api) = log(None).await;
        let events = [("accept", "text/event-stream"), ("last-event-id", "1")];
        let (_, body) = ask(&api, "/topics/a/messages?follow=true&limit=1", &events).await;
        assert!(body.starts_with("id: 2\ndata: {") && body.ends_with("}\n\n"), "{body}");
    }

    #[tokio::test]
    async fn a_follower_gets_what_comes_later() {
        let (_dir, bus, api) = log(None).await;
        let late = Message::sample("quiet", "k", [9; 32], &b"late"[..]);
        let (asked, published) =
            tokio::join!(ask(&api, "/topics/quiet/messages?follow=true&limit=1", &[]), bus.publish(late));
        assert!(published.is_ok() && asked.1.contains("late"));
    }

    #[tokio::test]
    async fn one_message_comes_as_it_was() {
        let (_dir, _bus, api) = log(None).await;
        assert_eq!(ask(&api, "/topics/a/messages/2", &[]).await, (StatusCode::OK, "222".into()));
        assert_eq!(ask(&api, "/topics/a/messages/3", &[]).await.0, StatusCode::RANGE_NOT_SATISFIABLE);
        assert_eq!(ask(&api, "/topics/a/messages/x", &[]).await.0, StatusCode::BAD_REQUEST);
    }

    #[tokio::test]
    async fn strangers_are_told_nothing() {
        let (_dir, _bus, api) = log(Some("the token")).await;
        assert_eq!(ask(&api, "/topics", &[]).await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(ask(&api, "/topics", &[("authorization", "Bearer the toke")]).await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(ask(&api, "/topics", &[("authorization", "Bearer the token")]).await.0, StatusCode::OK);
        let (_dir, _bus, api) = log(None).await;
        let request = Request::get("/topics").header("host", "example.com").body(()).unwrap();
        assert_eq!(api.answer(&request).await.unwrap_err().status(), StatusCode::FORBIDDEN);
        assert_eq!(ask(&api, "/topics/b/messages", &[]).await.0, StatusCode::NOT_FOUND);
        assert_eq!(ask(&api, "/topics/a/messages?from=x", &[]).await.0, StatusCode::BAD_REQUEST);
        assert_eq!(ask(&api, "/topics/a/messages?fron=1", &[]).await.0, StatusCode::BAD_REQUEST);
    }
}
