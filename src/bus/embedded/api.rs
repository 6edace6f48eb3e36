//! The reading side over HTTP: topics, messages as NDJSON or server-sent events, one payload.
//! Comes in: a request, from any listener. Goes out: a reply. Opens no port and changes nothing.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::header::{HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use subtle::ConstantTimeEq;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::follow::{self, Format, Reading};
use crate::bus::Record;
use crate::config::Secret;
use crate::log::{Extent, ReadError, Store};
use crate::server::{Reply, Service, loopback_host};

/// Streams at once, at most: each may hold a few chunks in memory, and `tail` needs one per topic.
const STREAMS: usize = 256;

/// Answers the readers of the log. Cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<Shared>);

struct Shared {
    store: Arc<Store>,
    token: RwLock<Option<Secret>>,
    streams: Arc<Semaphore>,
    draining: watch::Sender<bool>,
}

impl Service for Api {
    async fn call(&self, request: http::Request<Incoming>, _: Instant) -> Reply {
        self.answer(request).await
    }
}

impl Api {
    pub(super) fn new(store: Arc<Store>, token: Option<Secret>) -> Self {
        let streams = Arc::new(Semaphore::new(STREAMS));
        let token = RwLock::new(token);
        Self(Arc::new(Shared { store, token, streams, draining: watch::Sender::new(false) }))
    }

    /// For every request from now on. Streams that run go on.
    pub fn take_over(&self, token: Option<Secret>) {
        *self.0.token.write().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// Ends every stream that follows, so that its connection can close. New ones end at once.
    pub fn drain(&self) {
        self.0.draining.send_replace(true);
    }

    /// The reply to one request; its body is not read. Never fails, only answers so.
    ///
    /// Without a token the `Host` has to name the loopback (403); with one the request has to carry
    /// it as `Authorization: Bearer` (401).
    pub async fn answer<B>(&self, request: http::Request<B>) -> Reply {
        let (head, _body) = request.into_parts();
        let reply = match self.admit(&head.headers) {
            Ok(()) => self.route(&head).await.unwrap_or_else(Denied::reply),
            Err(denied) => denied.reply(),
        };
        if head.method == Method::HEAD { without_body(reply) } else { reply }
    }

    fn admit(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let Some(token) = &*self.0.token.read().unwrap_or_else(PoisonError::into_inner) else {
            return if loopback_host(headers) { Ok(()) } else { Err(Denied::ForeignHost) };
        };
        let given = headers.get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        let equal = given.is_some_and(|given| given.ct_eq(token.expose()).into());
        if equal { Ok(()) } else { Err(Denied::NoToken) }
    }

    async fn route(&self, head: &http::request::Parts) -> Result<Reply, Denied> {
        let path: Vec<_> = head.uri.path().strip_prefix('/').unwrap_or_default().split('/').collect();
        let known = matches!(path[..], ["topics"] | ["topics", _, "messages"] | ["topics", _, "messages", _]);
        if known && head.method != Method::GET && head.method != Method::HEAD {
            return Err(Denied::Method);
        }
        match path[..] {
            ["topics"] => Ok(self.topics()),
            ["topics", topic, "messages"] => self.messages(head, &decoded(topic)?),
            ["topics", topic, "messages", offset] => self.message(decoded(topic)?, offset).await,
            _ => Err(Denied::NoSuchPath),
        }
    }

    fn topics(&self) -> Reply {
        let topics = self.0.store.topics();
        let topics: Vec<_> = topics.iter().map(|(topic, extent)| TopicJson::new(topic, extent)).collect();
        json(StatusCode::OK, &topics)
    }

    fn messages(&self, head: &http::request::Parts, topic: &str) -> Result<Reply, Denied> {
        let query = Query::read(head.uri.query().unwrap_or_default(), &head.headers)?;
        let extents = self.0.store.watch(topic).ok_or(Denied::NoSuchTopic)?;
        let extent = *extents.borrow();
        let from = query.begin(&extent)?;
        let kind = match query.format {
            Format::Lines => "application/x-ndjson",
            Format::Events => "text/event-stream",
        };
        let reply = Response::builder().header(CONTENT_TYPE, kind);
        let body = if head.method == Method::HEAD {
            Empty::new().map_err(|never| match never {}).boxed_unsync()
        } else {
            let place = self.0.streams.clone().try_acquire_owned().map_err(|_| Denied::Crowded)?;
            follow::body(Reading {
                store: self.0.store.clone(),
                topic: topic.to_owned(),
                extents,
                draining: self.0.draining.subscribe(),
                from,
                until: if query.follow { None } else { Some(extent.next) },
                limit: query.limit,
                format: query.format,
                _place: place,
            })
        };
        Ok(finished(reply, body))
    }

    async fn message(&self, topic: String, offset: &str) -> Result<Reply, Denied> {
        let offset: u64 = offset.parse().map_err(|_| Denied::NoSuchPath)?;
        let store = self.0.store.clone();
        let read = move || store.read(&topic, offset, offset.saturating_add(1), 1, 0);
        let records = tokio::task::spawn_blocking(read).await.map_err(|_| Denied::Away)??;
        let record = records.into_iter().next().ok_or(Denied::NoSuchOffset)?;
        Ok(payload(record))
    }
}

/// The bytes as they were received, with the headers that an HTTP header can carry.
fn payload(record: Record) -> Reply {
    let mut reply = Response::builder().header(X_CONTENT_TYPE_OPTIONS, "nosniff");
    for (name, value) in &record.headers {
        let ours = name == "content-type" || name.starts_with("ce-") || name.starts_with("terra-");
        if let (true, Ok(name), Ok(value)) = (ours, HeaderName::from_str(name), HeaderValue::from_str(value)) {
            reply = reply.header(name, value);
        }
    }
    finished(reply, full(record.payload))
}

/// Why a request is not answered with what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Denied {
    ForeignHost,
    NoToken,
    NoSuchPath,
    NoSuchTopic,
    NoSuchOffset,
    Method,
    Malformed(String),
    Outside(Extent),
    Crowded,
    Away,
    Failed,
}

impl From<ReadError> for Denied {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::UnknownTopic => Self::NoSuchTopic,
            ReadError::Gone(extent) => Self::Outside(extent),
            ReadError::Closed => Self::Away,
            ReadError::Failed(reason) => {
                tracing::error!(reason, "the log could not be read; look after the disk of embedded.dir");
                Self::Failed
            }
        }
    }
}

impl Denied {
    fn status(&self) -> StatusCode {
        match self {
            Self::ForeignHost => StatusCode::FORBIDDEN,
            Self::NoToken => StatusCode::UNAUTHORIZED,
            Self::NoSuchPath | Self::NoSuchTopic | Self::NoSuchOffset => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Outside(_) => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Crowded | Self::Away => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn says(&self) -> &str {
        match self {
            Self::ForeignHost => "the Host header has to name the loopback",
            Self::NoToken => "a bearer token is needed",
            Self::NoSuchPath => "no such path",
            Self::NoSuchTopic => "no such topic",
            Self::NoSuchOffset => "no message has this offset yet",
            Self::Method => "only GET and HEAD",
            Self::Malformed(reason) => reason,
            Self::Outside(_) => "the offset is outside of what is kept",
            Self::Crowded => "too many streams are read at once",
            Self::Away => "the log is not open",
            Self::Failed => "the log could not be read",
        }
    }

    fn reply(self) -> Reply {
        let extent = if let Self::Outside(extent) = &self { Some(extent) } else { None };
        let body = ErrorJson {
            error: self.says(),
            earliest: extent.map(|extent| extent.earliest),
            next: extent.map(|extent| extent.next),
        };
        let mut reply = json(self.status(), &body);
        let (name, value) = match self {
            Self::Method => (ALLOW, "GET, HEAD"),
            Self::NoToken => (WWW_AUTHENTICATE, "Bearer"),
            Self::Crowded | Self::Away => (RETRY_AFTER, "1"),
            _ => return reply,
        };
        reply.headers_mut().insert(name, HeaderValue::from_static(value));
        reply
    }
}

/// The body of every answer that is no success, and the data of an `error` event.
#[derive(Serialize)]
pub(super) struct ErrorJson<'a> {
    pub(super) error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) earliest: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<u64>,
}

#[derive(Serialize)]
struct TopicJson<'a> {
    topic: &'a str,
    earliest: u64,
    next: u64,
    bytes: u64,
    messages: u64,
}

impl<'a> TopicJson<'a> {
    fn new(topic: &'a str, extent: &Extent) -> Self {
        let Extent { earliest, next, .. } = *extent;
        Self { topic, earliest, next, bytes: extent.bytes(), messages: extent.messages() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    Earliest,
    Latest,
    Offset(u64),
    /// Behind the last event that a client saw.
    After(u64),
}

/// What `…/messages` is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Query {
    from: Begin,
    limit: Option<u64>,
    follow: bool,
    format: Format,
}

impl Query {
    /// A parameter that does not exist is refused: a misspelt `from` would be a silent jump.
    /// Server-sent events follow unless told otherwise, as their clients come back for more anyway.
    fn read(query: &str, headers: &HeaderMap) -> Result<Self, Denied> {
        let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let events = accept.flat_map(|value| value.split(',')).any(is_event_stream);
        let mut asked = Self {
            from: Begin::Earliest,
            limit: None,
            follow: events,
            format: if events { Format::Events } else { Format::Lines },
        };
        for (name, value) in parameters(query)? {
            match (&*name, &*value) {
                ("from", "earliest") => asked.from = Begin::Earliest,
                ("from", "latest") => asked.from = Begin::Latest,
                ("from", offset) => asked.from = Begin::Offset(number("from", offset)?),
                ("limit", limit) => asked.limit = Some(number("limit", limit)?),
                ("follow", "true") => asked.follow = true,
                ("follow", "false") => asked.follow = false,
                ("follow", _) => return Err(Denied::Malformed("follow is true or false".to_owned())),
                _ => return Err(Denied::Malformed("the parameters are from, limit and follow".to_owned())),
            }
        }
        if let Some(last) = headers.get("last-event-id") {
            asked.from = Begin::After(number("Last-Event-ID", last.to_str().unwrap_or_default())?);
        }
        Ok(asked)
    }

    /// The first offset to read. Below the earliest it is refused. Above the next one it is refused
    /// too, except where a plain `from` waits for it with `follow`: an event that was seen here
    /// cannot lie ahead, so the log is not the one it was seen on.
    fn begin(&self, extent: &Extent) -> Result<u64, Denied> {
        let from = match self.from {
            Begin::Earliest => extent.earliest,
            Begin::Latest => extent.next,
            Begin::Offset(offset) => offset,
            Begin::After(offset) => offset.saturating_add(1),
        };
        let waits = self.follow && matches!(self.from, Begin::Offset(_));
        if from < extent.earliest || (from > extent.next && !waits) { Err(Denied::Outside(*extent)) } else { Ok(from) }
    }
}

fn parameters(query: &str) -> Result<BTreeMap<String, String>, Denied> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| Ok((decoded(name)?, decoded(value)?)))
        .collect()
}

fn decoded(text: &str) -> Result<String, Denied> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(Into::into).map_err(|_| Denied::Malformed("the URL is not UTF-8".to_owned()))
}

fn number(name: &str, text: &str) -> Result<u64, Denied> {
    text.parse().map_err(|_| Denied::Malformed(format!("{name} is not an offset or a number")))
}

fn is_event_stream(range: &str) -> bool {
    range.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

fn json(status: StatusCode, body: &impl Serialize) -> Reply {
    let text = serde_json::to_vec(body).expect("plain numbers and strings");
    finished(Response::builder().status(status).header(CONTENT_TYPE, "application/json"), full(text.into()))
}

fn full(bytes: Bytes) -> http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error> {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn finished(
    reply: http::response::Builder,
    body: http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>,
) -> Reply {
    reply.header(CACHE_CONTROL, "no-store").body(body).expect("every header was checked")
}

fn without_body(reply: Reply) -> Reply {
    let (mut head, body) = reply.into_parts();
    if let Some(len) = hyper::body::Body::size_hint(&body).exact().filter(|len| *len > 0) {
        head.headers.insert(http::header::CONTENT_LENGTH, len.into());
    }
    Response::from_parts(head, Empty::new().map_err(|never| match never {}).boxed_unsync())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Settings;
    use crate::message::Message;

    struct Log {
        store: Arc<Store>,
        api: Api,
        _dir: tempfile::TempDir,
    }

    impl Log {
        fn with_token(token: Option<&str>) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Arc::new(Store::open(&Settings::sample(dir.path()), ["empty".into()].into_iter()).unwrap());
            let api = Api::new(store.clone(), token.map(Secret::new));
            Self { store, api, _dir: dir }
        }

        fn new() -> Self {
            let log = Self::with_token(None);
            log.append(0..3);
            log
        }

        fn append(&self, numbers: std::ops::Range<u8>) {
            let messages: Vec<_> = numbers.map(|n| Message::sample("t", "k", [n; 32], format!("[{n}]"))).collect();
            self.store.append(messages.iter()).unwrap();
        }

        /// Three records, of which only the last is kept.
        fn cut() -> Self {
            let log = Self::with_token(None);
            log.append(0..2);
            log.store.roll().unwrap();
            log.append(2..3);
            log.store.remove_oldest(1).unwrap();
            log
        }

        async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Reply {
            let mut request = http::Request::builder().method(method).uri(path);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            self.api.answer(request.body(()).unwrap()).await
        }

        async fn get(&self, path: &str) -> (StatusCode, String) {
            self.get_with(path, &[]).await
        }

        async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
            let reply = self.ask(Method::GET, path, &[&[("host", "localhost:8082")], headers].concat()).await;
            let status = reply.status();
            let bytes = reply.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8(bytes.to_vec()).unwrap())
        }
    }

    async fn next_chunk(reply: &mut Reply) -> Option<String> {
        let frame = reply.body_mut().frame().await?.unwrap();
        Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
    }

    fn offsets(lines: &str) -> Vec<u64> {
        lines.lines().map(|line| super::super::wire::parse(line.as_bytes()).unwrap().offset).collect()
    }

    const OK: StatusCode = StatusCode::OK;
    const OUTSIDE: StatusCode = StatusCode::RANGE_NOT_SATISFIABLE;
    const CUT: &str = r#"{"error":"the offset is outside of what is kept","earliest":2,"next":3}"#;

    #[tokio::test]
    async fn topics_are_listed_with_what_they_hold() {
        let (status, body) = Log::new().get("/topics").await;
        let topics: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status, OK);
        assert_eq!(
            topics[0],
            serde_json::json!({"topic": "empty", "earliest": 0, "next": 0, "bytes": 0, "messages": 0})
        );
        assert_eq!(topics[1]["next"], 3);
        assert!(topics[1]["bytes"].as_u64().unwrap() > 0);
    }

    #[tokio::test]
    async fn messages_come_as_lines_from_an_inclusive_offset() {
        let log = Log::new();
        assert_eq!(offsets(&log.get("/topics/t/messages").await.1), [0, 1, 2]);
        assert_eq!(offsets(&log.get("/topics/t/messages?from=1&limit=1").await.1), [1]);
        assert_eq!(log.get("/topics/t/messages?from=latest").await, (OK, String::new()));
        assert_eq!(log.get("/topics/t/messages?from=3").await, (OK, String::new()));
        assert_eq!(log.get("/topics/empty/messages").await, (OK, String::new()));
        assert_eq!(log.get("/topics/t/messages?from=4").await.0, OUTSIDE);
        assert_eq!(log.get("/topics/t/messages?limit=0").await, (OK, String::new()));
    }

    #[tokio::test]
    async fn an_offset_that_retention_removed_is_416_with_what_there_is() {
        let log = Log::cut();
        assert_eq!(log.get("/topics/t/messages?from=1").await, (OUTSIDE, CUT.to_owned()));
        assert_eq!(log.get("/topics/t/messages?from=1&follow=true").await, (OUTSIDE, CUT.to_owned()));
        assert_eq!(log.get("/topics/t/messages/1").await, (OUTSIDE, CUT.to_owned()));
        assert_eq!(offsets(&log.get("/topics/t/messages?from=earliest").await.1), [2]);
        assert_eq!(log.get_with("/topics/t/messages", &[("last-event-id", "0")]).await, (OUTSIDE, CUT.to_owned()));
    }

    #[tokio::test]
    async fn a_follower_is_woken_by_what_is_kept_later() {
        let log = Log::new();
        let mut reply =
            log.ask(Method::GET, "/topics/t/messages?from=2&follow=true&limit=3", &[("host", "[::1]")]).await;
        assert_eq!(offsets(&next_chunk(&mut reply).await.unwrap()), [2]);
        log.append(3..4);
        assert_eq!(offsets(&next_chunk(&mut reply).await.unwrap()), [3]);
        log.append(4..9);
        assert_eq!(offsets(&next_chunk(&mut reply).await.unwrap()), [4]);
        assert_eq!(next_chunk(&mut reply).await, None);
    }

    #[tokio::test]
    async fn a_follower_waits_for_an_offset_ahead() {
        let log = Log::new();
        let mut reply = log.ask(Method::GET, "/topics/t/messages?from=4&follow=true", &[("host", "localhost")]).await;
        log.append(3..5);
        assert_eq!(offsets(&next_chunk(&mut reply).await.unwrap()), [4]);
        log.api.drain();
        assert_eq!(next_chunk(&mut reply).await, None);
    }

    #[tokio::test]
    async fn events_carry_their_offset_and_resume_behind_the_last_one() {
        let log = Log::new();
        let headers = [("host", "localhost"), ("accept", "text/event-stream"), ("last-event-id", "1")];
        let mut reply = log.ask(Method::GET, "/topics/t/messages?from=earliest", &headers).await;
        assert_eq!(reply.headers()[CONTENT_TYPE], "text/event-stream");
        let event = next_chunk(&mut reply).await.unwrap();
        assert!(event.starts_with("id: 2\ndata: {\"topic\":\"t\"") && event.ends_with("}\n\n"), "{event}");
        let ahead = [("accept", "text/event-stream"), ("last-event-id", "7")];
        assert_eq!(log.get_with("/topics/t/messages", &ahead).await.0, OUTSIDE);
    }

    #[tokio::test(start_paused = true)]
    async fn silent_events_have_a_heartbeat() {
        let log = Log::new();
        let headers = [("host", "localhost"), ("accept", "text/event-stream")];
        let mut reply = log.ask(Method::GET, "/topics/empty/messages", &headers).await;
        assert_eq!(next_chunk(&mut reply).await.unwrap(), ":\n\n");
    }

    #[tokio::test]
    async fn a_stream_that_retention_overtakes_ends_with_an_error() {
        for (accept, lines) in [("text/event-stream", false), ("*/*", true)] {
            let log = Log::with_token(None);
            let reading = |extents| Reading {
                store: log.store.clone(),
                topic: "t".to_owned(),
                extents,
                draining: log.api.0.draining.subscribe(),
                from: 0,
                until: None,
                limit: None,
                format: if lines { Format::Lines } else { Format::Events },
                _place: log.api.0.streams.clone().try_acquire_owned().unwrap(),
            };
            log.append(0..2);
            let extents = log.store.watch("t").unwrap();
            log.store.roll().unwrap();
            log.append(2..3);
            log.store.remove_oldest(1).unwrap();
            let mut body = follow::body(reading(extents));
            let frame = body.frame().await.unwrap();
            if lines {
                assert!(frame.is_err(), "{accept}");
            } else {
                let event = String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap();
                assert_eq!(
                    event,
                    "event: error\ndata: {\"error\":\"the log begins at offset 2\",\"earliest\":2,\"next\":3}\n\n"
                );
            }
            assert!(body.frame().await.is_none());
        }
    }

    #[tokio::test]
    async fn a_payload_comes_as_it_was_received_with_its_headers() {
        let log = Log::new();
        let reply = log.ask(Method::GET, "/topics/t/messages/1", &[("host", "127.0.0.1:1")]).await;
        assert_eq!(reply.headers()[CONTENT_TYPE], "application/json");
        assert_eq!(reply.headers()["ce-type"], "co.tryterra.daily");
        assert_eq!(reply.headers()["terra-endpoint"], "terra");
        assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), &b"[1]"[..]);
        let reply = log.ask(Method::HEAD, "/topics/t/messages/1", &[("host", "127.0.0.1:1")]).await;
        assert_eq!((reply.status(), reply.headers()["content-length"].as_bytes()), (OK, &b"3"[..]));
        assert!(reply.into_body().collect().await.unwrap().to_bytes().is_empty());
        for path in [
            "/topics/t/messages/3",
            "/topics/t/messages/x",
            "/topics/no/messages",
            "/topics/no/messages/0",
            "/",
            "/topics/",
        ] {
            assert_eq!(log.get(path).await.0, StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[test]
    fn a_stored_header_that_http_cannot_carry_is_left_out() {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let headers =
            vec![header("ce-a", "x\ny"), header("ce-b c", "x"), header("content-length", "9"), header("ce-d", "1")];
        let record = Record {
            topic: "t".into(),
            key: None,
            partition: 0,
            offset: 0,
            time: jiff::Timestamp::UNIX_EPOCH,
            headers,
            payload: Bytes::new(),
        };
        let reply = payload(record);
        assert_eq!(reply.headers()["ce-d"], "1");
        assert_eq!(reply.headers().len(), 3, "{:?}", reply.headers());
    }

    #[tokio::test]
    async fn a_foreign_host_is_refused_without_a_token() {
        let log = Log::new();
        for headers in [&[("host", "evil.example")][..], &[]] {
            let reply = log.ask(Method::GET, "/topics", headers).await;
            assert_eq!(reply.status(), StatusCode::FORBIDDEN);
            assert!(!reply.headers().contains_key("access-control-allow-origin"));
        }
    }

    #[tokio::test]
    async fn a_token_is_demanded_where_one_is_set() {
        let log = Log::with_token(Some("open sesame"));
        let host = ("host", "events.example");
        for headers in
            [&[host][..], &[host, ("authorization", "Bearer open")], &[host, ("authorization", "Basic open sesame")]]
        {
            let reply = log.ask(Method::GET, "/topics", headers).await;
            assert_eq!(
                (reply.status(), reply.headers()[WWW_AUTHENTICATE].as_bytes()),
                (StatusCode::UNAUTHORIZED, &b"Bearer"[..])
            );
        }
        let reply = log.ask(Method::GET, "/topics", &[host, ("authorization", "bearer open sesame")]).await;
        assert_eq!(reply.status(), OK);
    }

    #[tokio::test]
    async fn what_is_not_understood_is_refused_and_not_guessed() {
        let log = Log::new();
        for query in ["from=x", "from=-1", "limit=x", "follow=yes", "offset=1", "from=%ff"] {
            let (status, body) = log.get(&format!("/topics/t/messages?{query}")).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
            assert!(body.starts_with(r#"{"error":""#), "{body}");
        }
        let reply = log.ask(Method::POST, "/topics", &[("host", "localhost")]).await;
        assert_eq!(
            (reply.status(), reply.headers()[ALLOW].as_bytes()),
            (StatusCode::METHOD_NOT_ALLOWED, &b"GET, HEAD"[..])
        );
    }

    #[tokio::test]
    async fn streams_are_bounded_and_give_their_place_back() {
        let log = Log::new();
        let path = "/topics/t/messages?from=latest&follow=true";
        let mut open = Vec::new();
        for _ in 0..STREAMS {
            open.push(log.ask(Method::GET, path, &[("host", "localhost")]).await);
        }
        assert_eq!(log.get(path).await.0, StatusCode::SERVICE_UNAVAILABLE);
        drop(open);
        let place = tokio::time::timeout(std::time::Duration::from_secs(10), log.api.0.streams.acquire());
        assert!(place.await.unwrap().is_ok());
    }
}
