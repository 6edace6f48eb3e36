//! The requests of the commands: what the spool holds, sending it, and discarding some of it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::publish::Publisher;
use crate::attribute::Attribute;
use crate::bus::Bus;
use crate::record::Record;
use crate::server::{self, Reply};
use crate::spool::{Held, Place, Spool, Which};
use crate::vocabulary::TYPE_PREFIX;

/// The largest body of a request: many ids.
const LARGEST_REQUEST: usize = 16 << 20;

/// The largest batch of records: one payload, escaped.
const LARGEST_BATCH: usize = 512 << 20;

/// Lines that wait for a slow client.
const LINES: usize = 4;

/// What the process has open.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) spool: Option<Spool>,
    /// `None`: nothing is sent.
    pub(crate) bus: Option<Arc<dyn Bus>>,
    pub(crate) publish_timeout: Duration,
    pub(crate) stop: CancellationToken,
    /// `None`: nothing is published.
    pub(crate) publisher: Option<Arc<Publisher>>,
}

/// A message in the spool, as one line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) id: Option<String>,
    #[serde(rename = "type")]
    pub(crate) event_type: Option<String>,
    /// Of the payload.
    pub(crate) bytes: usize,
    /// When the bridge received it, and tried it unless earlier ones of its key waited.
    pub(crate) first_try: Option<String>,
    pub(crate) last_try: Option<String>,
    /// The bus's last answer; `None` for a message that waits for the bus.
    pub(crate) reason: Option<String>,
    /// Its payload is empty unless it was asked for.
    pub(crate) record: Box<RawValue>,
}

/// Which messages to list.
struct Query {
    which: Which,
    /// The beginnings of ids; all of them if there are none.
    ids: Vec<String>,
    with_payload: bool,
}

#[derive(Deserialize)]
struct RetryRequest {
    /// `None`: all of them.
    ids: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct DiscardRequest {
    places: Vec<Place>,
}

impl Api {
    pub(super) async fn call(&self, request: Request<Incoming>) -> Reply {
        if (request.method(), request.uri().path()) == (&Method::POST, "/publish") {
            return self.publish(request).await;
        }
        let Some(spool) = &self.spool else {
            return failed(StatusCode::NOT_FOUND, "this process has no spool open; set spool.dir");
        };
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/spool") => {
                let gauges = spool.gauges();
                let counts = json!({"waiting": gauges.messages, "set_aside": gauges.set_aside, "bytes": gauges.bytes});
                server::json(StatusCode::OK, &counts)
            }
            (&Method::GET, "/spool/messages") => match Query::parse(request.uri().query().unwrap_or_default()) {
                Some(query) => list(spool.clone(), query),
                None => failed(StatusCode::BAD_REQUEST, "the query cannot be read"),
            },
            (&Method::POST, "/spool/retry") => self.retry(spool.clone(), request).await,
            (&Method::POST, "/spool/discard") => discard(spool.clone(), request).await,
            _ => failed(StatusCode::NOT_FOUND, "no such request; is the running bridge of another version?"),
        }
    }

    async fn publish(&self, request: Request<Incoming>) -> Reply {
        let Some(publisher) = self.publisher.clone() else {
            return failed(StatusCode::CONFLICT, "nothing can be published here");
        };
        let _turn = publisher.turn().await;
        let Ok(read) = Limited::new(request.into_body(), LARGEST_BATCH).collect().await else {
            return failed(StatusCode::BAD_REQUEST, "the records cannot be read");
        };
        let Ok(records) = records(&read.to_bytes()) else {
            return failed(StatusCode::BAD_REQUEST, "the records cannot be understood");
        };
        let publishing = publisher.clone();
        match tokio::spawn(async move { publishing.publish(records).await }).await {
            Ok(published) => server::json(StatusCode::OK, &json!(published)),
            Err(_) => failed(StatusCode::INTERNAL_SERVER_ERROR, "publishing ended unexpectedly"),
        }
    }

    async fn retry(&self, spool: Spool, request: Request<Incoming>) -> Reply {
        let Some(bus) = self.bus.clone() else { return failed(StatusCode::CONFLICT, "the bus is not open here") };
        let RetryRequest { ids } = match body(request).await {
            Ok(request) => request,
            Err(reply) => return reply,
        };
        let (publish_timeout, stop) = (self.publish_timeout, self.stop.clone());
        // In a task of its own: a client that hangs up must not leave messages in flight unmarked.
        let retrying = tokio::spawn(async move { spool.retry(bus, publish_timeout, stop, ids).await });
        match retrying.await {
            Ok(Ok(retried)) => server::json(StatusCode::OK, &json!(retried)),
            Ok(Err(error)) => failed(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
            Err(_) => failed(StatusCode::INTERNAL_SERVER_ERROR, "the retry ended unexpectedly"),
        }
    }
}

/// One record a line.
fn records(lines: &[u8]) -> Result<Vec<Record>, serde_json::Error> {
    lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(Record::parse).collect()
}

async fn discard(spool: Spool, request: Request<Incoming>) -> Reply {
    let DiscardRequest { places } = match body(request).await {
        Ok(request) => request,
        Err(reply) => return reply,
    };
    match tokio::spawn(async move { spool.discard(places).await }).await {
        Ok(Ok(discarded)) => server::json(StatusCode::OK, &json!({ "discarded": discarded })),
        Ok(Err(error)) => failed(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        Err(_) => failed(StatusCode::INTERNAL_SERVER_ERROR, "the discard ended unexpectedly"),
    }
}

/// One JSON object a line; cut off, without its end, if the spool cannot be read.
fn list(spool: Spool, query: Query) -> Reply {
    let (lines, waiting) = mpsc::channel(LINES);
    tokio::task::spawn_blocking(move || {
        let read = spool.held(query.which, |held| {
            let is_wanted = query.ids.is_empty() || held.is_any_of(&query.ids);
            !is_wanted || lines.blocking_send(line(held, query.with_payload)).is_ok()
        });
        if let Err(error) = read {
            let _ = lines.blocking_send(Err(io::Error::other(error.to_string())));
        }
    });
    let frames = stream::unfold(waiting, |mut waiting| async {
        let line = waiting.recv().await?;
        Some((line.map(Frame::data), waiting))
    });
    Reply::new(BodyExt::boxed_unsync(StreamBody::new(frames)))
}

fn line(held: Held, with_payload: bool) -> io::Result<Bytes> {
    let Held { mut record, set_aside } = held;
    let bytes = record.payload.len();
    if !with_payload {
        record.payload = Bytes::new();
    }
    let event_type = record.attribute(Attribute::Type);
    let line = Line {
        id: record.attribute(Attribute::Id),
        event_type: event_type.map(|name| name.strip_prefix(TYPE_PREFIX).unwrap_or(&name).to_owned()),
        bytes,
        first_try: record.attribute(Attribute::RecordedTime),
        last_try: set_aside.as_ref().map(|set_aside| format!("{:.3}", set_aside.last_try)),
        reason: set_aside.map(|set_aside| set_aside.reason),
        record: serde_json::value::to_raw_value(&record)?,
    };
    let mut text = serde_json::to_vec(&line)?;
    text.push(b'\n');
    Ok(text.into())
}

impl Query {
    fn parse(query: &str) -> Option<Self> {
        let mut parsed = Self { which: Which::SetAside, ids: Vec::new(), with_payload: false };
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match (name, value) {
                ("state", "set_aside") => parsed.which = Which::SetAside,
                ("state", "waiting") => parsed.which = Which::Waiting,
                ("state", "all") => parsed.which = Which::All,
                ("payload", "true") => parsed.with_payload = true,
                ("payload", "false") => parsed.with_payload = false,
                ("id", id) => parsed.ids.push(percent_decode_str(id).decode_utf8().ok()?.into_owned()),
                _ => return None,
            }
        }
        Some(parsed)
    }
}

async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Reply> {
    let unreadable = |_| failed(StatusCode::BAD_REQUEST, "the request cannot be read");
    let read = Limited::new(request.into_body(), LARGEST_REQUEST).collect().await.map_err(unreadable)?;
    serde_json::from_slice(&read.to_bytes())
        .map_err(|_| failed(StatusCode::BAD_REQUEST, "the request cannot be understood"))
}

fn failed(status: StatusCode, why: &str) -> Reply {
    server::json(status, &json!({ "error": why }))
}
