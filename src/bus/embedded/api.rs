//! The reading side over HTTP: topics, messages as NDJSON or server-sent events, one payload.
//! Comes in: a request, from any listener. Goes out: a reply. Opens no port and changes nothing.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE};
use http::header::{HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use subtle::ConstantTimeEq;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::follow::{self, Format, PIECE, Reading};
use super::room::Room;
use crate::bus::Record;
use crate::config::Secret;
use crate::log::{Extent, ReadError, Store};
use crate::metrics::ReaderGauges;
use crate::server::{Reply, Service, closing_if_denied, loopback_host};

/// Streams at once, at most: each holds a few pieces in memory beside the room that all share, and `tail` needs
/// one per topic.
const STREAMS: usize = 256;

/// How long a request for one message waits for room.
const ROOM_WITHIN: Duration = Duration::from_secs(5);

/// Answers the readers of the log. Cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<Shared>);

struct Shared {
    store: Arc<Store>,
    token: RwLock<Option<Secret>>,
    streams: Arc<Semaphore>,
    room: Room,
    draining: watch::Sender<bool>,
}

impl Service for Api {
    async fn call(&self, request: http::Request<Incoming>, _: Instant) -> Reply {
        closing_if_denied(self.answer(request).await)
    }
}

impl Api {
    pub(super) fn new(store: Arc<Store>, token: Option<Secret>) -> Self {
        let streams = Arc::new(Semaphore::new(STREAMS));
        let token = RwLock::new(token);
        let (room, draining) = (Room::new(), watch::Sender::new(false));
        Self(Arc::new(Shared { store, token, streams, room, draining }))
    }

    /// For every request from now on. Streams that run go on.
    pub fn take_over(&self, token: Option<Secret>) {
        *self.0.token.write().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// Ends every stream that follows, so that its connection can close. New ones end at once.
    pub fn drain(&self) {
        self.0.draining.send_replace(true);
    }

    /// What all readers hold together at the moment.
    pub fn readers(&self) -> ReaderGauges {
        self.0.room.readers()
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
            ["topics", topic, "messages", offset] => self.message(&head.method, &decoded(topic)?, offset).await,
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
            // No query asks for a payload.
            Format::Lines | Format::Payload => "application/x-ndjson",
            Format::Events => "text/event-stream",
        };
        let reply = Response::builder().header(CONTENT_TYPE, kind);
        let body = if head.method == Method::HEAD {
            Empty::new().map_err(|never| match never {}).boxed_unsync()
        } else {
            let place = self.place()?;
            follow::body(Reading {
                store: self.0.store.clone(),
                room: self.0.room.clone(),
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

    fn place(&self) -> Result<OwnedSemaphorePermit, Denied> {
        self.0.streams.clone().try_acquire_owned().map_err(|_| {
            self.0.room.refuse("as many streams are open as may be");
            Denied::Crowded
        })
    }

    async fn message(&self, method: &Method, topic: &str, offset: &str) -> Result<Reply, Denied> {
        let offset: u64 = offset.parse().map_err(|_| Denied::NoSuchPath)?;
        let extents = self.0.store.watch(topic).ok_or(Denied::NoSuchTopic)?;
        let (store, name) = (self.0.store.clone(), topic.to_owned());
        let size = tokio::task::spawn_blocking(move || store.size(&name, offset)).await.map_err(|_| Denied::Away)?;
        let held = self.0.room.take(size, ROOM_WITHIN).await.ok_or(Denied::NoRoom)?;
        let (store, name) = (self.0.store.clone(), topic.to_owned());
        let read = move || (store.read(&name, offset, offset.saturating_add(1), 1, 0), held);
        let (records, held) = tokio::task::spawn_blocking(read).await.map_err(|_| Denied::Away)?;
        let record = records?.into_iter().next().ok_or(Denied::NoSuchOffset)?;
        let (reply, len) = (headed(&record), record.payload.len());
        if len <= PIECE {
            return Ok(finished(reply, full(record.payload)));
        }
        // Read once more, as its reader takes it.
        drop((record, held));
        let body = if method == Method::HEAD {
            Empty::new().map_err(|never| match never {}).boxed_unsync()
        } else {
            follow::body(Reading {
                store: self.0.store.clone(),
                room: self.0.room.clone(),
                topic: topic.to_owned(),
                extents,
                draining: self.0.draining.subscribe(),
                from: offset,
                until: Some(offset + 1),
                limit: Some(1),
                format: Format::Payload,
                _place: self.place()?,
            })
        };
        Ok(finished(reply.header(CONTENT_LENGTH, len), body))
    }
}

/// With the headers that an HTTP header can carry; the payload's bytes come as they were received.
fn headed(record: &Record) -> http::response::Builder {
    let mut reply = Response::builder().header(X_CONTENT_TYPE_OPTIONS, "nosniff");
    for (name, value) in &record.headers {
        let ours = name == "content-type" || name.starts_with("ce-") || name.starts_with("terra-");
        if let (true, Ok(name), Ok(value)) = (ours, HeaderName::from_str(name), HeaderValue::from_str(value)) {
            reply = reply.header(name, value);
        }
    }
    reply
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
    NoRoom,
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
            Self::Crowded | Self::NoRoom | Self::Away => StatusCode::SERVICE_UNAVAILABLE,
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
            Self::NoRoom => "too much is read at once",
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
        // Whoever is denied does not rest on a connection that others may need.
        reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        let (name, value) = match self {
            Self::Method => (ALLOW, "GET, HEAD"),
            Self::NoToken => (WWW_AUTHENTICATE, "Bearer"),
            Self::Crowded | Self::NoRoom | Self::Away => (RETRY_AFTER, "1"),
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
mod tests;
