//! The reading API over HTTP: topics, messages as NDJSON or server-sent events, one payload, and the document that
//! describes them. Opens no port and changes nothing.

use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Incoming};
use serde::Serialize;
use subtle::ConstantTimeEq;
use tokio::sync::{Semaphore, watch};

use super::budget::ReadBudget;
use super::error::{ApiError, json};
use super::query::{Query, decode};
use super::stream::{self, Format, MessageStream, PIECE, Selection};
use crate::asyncapi;
use crate::bus::{OpenError, Record};
use crate::config::Secret;
use crate::dedupe::DedupeEntry;
use crate::log::{Extent, Store};
use crate::message::DATA_CONTENT_TYPE;
use crate::metrics::ReaderGauges;
use crate::server::{Arrival, Reply, Service, full, loopback_host};

/// The most streams at once: each holds a few pieces in memory in addition to the shared budget, and `tail` needs one
/// per topic.
const STREAMS: usize = 256;

/// How long a request for one message waits for memory.
const MEMORY_WITHIN: Duration = Duration::from_secs(5);

/// Answers the readers of the log. Cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<Shared>);

struct Shared {
    store: Arc<Store>,
    token: RwLock<Option<Secret>>,
    document: RwLock<Bytes>,
    streams: Arc<Semaphore>,
    budget: ReadBudget,
    draining: watch::Sender<bool>,
}

impl Service for Api {
    async fn call(&self, request: http::Request<Incoming>, _: Arrival) -> Reply {
        self.answer(request).await
    }
}

impl Api {
    pub(super) fn new(store: Arc<Store>, token: Option<Secret>) -> Self {
        Self(Arc::new(Shared {
            store,
            token: RwLock::new(token),
            document: RwLock::default(),
            streams: Arc::new(Semaphore::new(STREAMS)),
            budget: ReadBudget::new(),
            draining: watch::Sender::new(false),
        }))
    }

    /// Applies to every request from now on. Running streams continue.
    pub fn set_token(&self, token: Option<Secret>) {
        *self.0.token.write().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// Serves this AsyncAPI document from now on.
    pub fn set_document(&self, document: Bytes) {
        *self.0.document.write().unwrap_or_else(PoisonError::into_inner) = document;
    }

    /// Passes on the newest `most` deliveries that the log keeps, oldest first. Blocks on the disk.
    ///
    /// # Errors
    /// The log is damaged; the error names the remedy.
    pub fn kept(&self, most: usize, each: impl FnMut(DedupeEntry)) -> Result<(), OpenError> {
        Ok(self.0.store.kept(most, each)?)
    }

    /// Ends every following stream, so that its connection can close. New ones end at once.
    pub fn drain(&self) {
        self.0.draining.send_replace(true);
    }

    /// Bytes of the log on disk.
    pub fn bytes(&self) -> u64 {
        self.0.store.bytes()
    }

    /// The current memory of all readers together.
    pub fn readers(&self) -> ReaderGauges {
        self.0.budget.readers()
    }

    /// The reply to one request; its body is not read. A failure is an error reply that closes the connection.
    ///
    /// Without a token, `Host` has to name the loopback (403). With one, the request has to carry it as
    /// `Authorization: Bearer` (401).
    pub async fn answer<B>(&self, request: http::Request<B>) -> Reply {
        let (head, _body) = request.into_parts();
        let reply = match self.authenticate(&head.headers) {
            Ok(()) => self.route(&head).await,
            Err(error) => Err(error),
        };
        let reply = reply.unwrap_or_else(ApiError::reply);
        if head.method == Method::HEAD { without_body(reply) } else { reply }
    }

    fn authenticate(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(token) = &*self.0.token.read().unwrap_or_else(PoisonError::into_inner) else {
            return if loopback_host(headers) { Ok(()) } else { Err(ApiError::ForeignHost) };
        };
        let given = headers.get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        let equal = given.is_some_and(|given| given.ct_eq(token.expose()).into());
        if equal { Ok(()) } else { Err(ApiError::NoToken) }
    }

    async fn route(&self, head: &http::request::Parts) -> Result<Reply, ApiError> {
        let path: Vec<_> = head.uri.path().strip_prefix('/').unwrap_or_default().split('/').collect();
        let known =
            matches!(path[..], ["topics"] | ["topics", _, "messages"] | ["topics", _, "messages", _] | ["asyncapi"]);
        if known && head.method != Method::GET && head.method != Method::HEAD {
            return Err(ApiError::Method);
        }
        match path[..] {
            ["topics"] => Ok(self.topics()),
            ["topics", topic, "messages"] => self.messages(head, decode(topic)?),
            ["asyncapi"] => Ok(self.document()),
            ["topics", topic, "messages", offset] => self.message(&head.method, decode(topic)?, offset).await,
            _ => Err(ApiError::NoSuchPath),
        }
    }

    fn topics(&self) -> Reply {
        let topics = self.0.store.topics();
        let topics: Vec<_> = topics.iter().map(|(topic, extent)| TopicJson::new(topic, extent)).collect();
        json(StatusCode::OK, &topics)
    }

    fn document(&self) -> Reply {
        let document = self.0.document.read().unwrap_or_else(PoisonError::into_inner).clone();
        finish(Response::builder().header(CONTENT_TYPE, asyncapi::CONTENT_TYPE), full(document))
    }

    fn messages(&self, head: &http::request::Parts, topic: String) -> Result<Reply, ApiError> {
        let query = Query::parse(head.uri.query().unwrap_or_default(), &head.headers)?;
        let extents = self.0.store.watch(&topic).ok_or(ApiError::NoSuchTopic)?;
        let extent = *extents.borrow();
        let selection = query.select(&extent)?;
        let kind = match selection.format {
            // No query asks for a payload.
            Format::Lines | Format::Payload => "application/x-ndjson",
            Format::Events => "text/event-stream",
        };
        let body = self.body(&head.method, topic, extents, selection)?;
        Ok(finish(Response::builder().header(CONTENT_TYPE, kind), body))
    }

    async fn message(&self, method: &Method, topic: String, offset: &str) -> Result<Reply, ApiError> {
        let offset: u64 = offset.parse().map_err(|_| ApiError::NoSuchPath)?;
        let extents = self.0.store.watch(&topic).ok_or(ApiError::NoSuchTopic)?;
        let (store, name) = (self.0.store.clone(), topic.clone());
        let size = tokio::task::spawn_blocking(move || store.size(&name, offset));
        let size = size.await.map_err(|_| ApiError::Closed)?;
        let held = self.0.budget.reserve(size, MEMORY_WITHIN).await.ok_or(ApiError::NoMemory)?;
        let (store, name) = (self.0.store.clone(), topic.clone());
        let read = move || (store.read(&name, offset, offset.saturating_add(1), 1, 0), held);
        let (records, held) = tokio::task::spawn_blocking(read).await.map_err(|_| ApiError::Closed)?;
        let record = records?.into_iter().next().ok_or(ApiError::NoSuchOffset)?;
        let (reply, len) = (with_headers(&record), record.payload.len());
        if len <= PIECE {
            return Ok(finish(reply, full(record.payload)));
        }
        // It is read again as its reader takes it.
        drop((record, held));
        let selection = Selection { from: offset, until: Some(offset + 1), limit: Some(1), format: Format::Payload };
        let body = self.body(method, topic, extents, selection)?;
        Ok(finish(reply.header(CONTENT_LENGTH, len), body))
    }

    /// `HEAD` has no body, and takes no slot from the readers.
    fn body(
        &self,
        method: &Method,
        topic: String,
        extents: watch::Receiver<Extent>,
        selection: Selection,
    ) -> Result<ReplyBody, ApiError> {
        if method == Method::HEAD {
            return Ok(full(Bytes::new()));
        }
        let Ok(slot) = self.0.streams.clone().try_acquire_owned() else {
            self.0.budget.refuse("as many streams are open as are allowed");
            return Err(ApiError::TooManyStreams);
        };
        Ok(stream::body(MessageStream {
            store: self.0.store.clone(),
            budget: self.0.budget.clone(),
            topic,
            extents,
            draining: self.0.draining.subscribe(),
            rest: selection,
            _slot: slot,
        }))
    }
}

type ReplyBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// Adds the headers of CloudEvents' HTTP binding; the payload's bytes are as received.
fn with_headers(record: &Record) -> http::response::Builder {
    let mut reply = Response::builder().header(X_CONTENT_TYPE_OPTIONS, "nosniff");
    for (name, value) in &record.headers {
        let ours = name == "content-type" || name.starts_with("ce-") && name != DATA_CONTENT_TYPE;
        if let (true, Ok(name), Ok(value)) = (ours, HeaderName::from_str(name), HeaderValue::from_str(value)) {
            reply = reply.header(name, value);
        }
    }
    reply
}

fn finish(reply: http::response::Builder, body: ReplyBody) -> Reply {
    reply.header(CACHE_CONTROL, "no-store").body(body).expect("every header was checked")
}

fn without_body(reply: Reply) -> Reply {
    let (mut head, body) = reply.into_parts();
    if let Some(len) = body.size_hint().exact().filter(|len| *len > 0) {
        head.headers.insert(CONTENT_LENGTH, len.into());
    }
    Response::from_parts(head, full(Bytes::new()))
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
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

#[cfg(test)]
#[path = "tests/api.rs"]
mod tests;
