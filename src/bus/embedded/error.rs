//! Why a reader gets no messages, and the error reply.

use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::header::{HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;

use crate::log::{Extent, ReadError};
use crate::server::{Reply, full};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ApiError {
    ForeignHost,
    NoToken,
    NoSuchPath,
    NoSuchTopic,
    NoSuchOffset,
    Method,
    BadRequest(String),
    OutOfRange(Extent),
    TooManyStreams,
    NoMemory,
    Closed,
    Failed,
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        log_failed(&error);
        match error {
            ReadError::UnknownTopic => Self::NoSuchTopic,
            ReadError::Gone(extent) => Self::OutOfRange(extent),
            ReadError::Closed => Self::Closed,
            ReadError::Failed(_) => Self::Failed,
        }
    }
}

/// No request can make the log unreadable, so this is logged.
pub(super) fn log_failed(error: &ReadError) {
    if let ReadError::Failed(reason) = error {
        tracing::error!(reason, "the log could not be read; check the disk of embedded.dir");
    }
}

impl ApiError {
    pub(super) fn reply(self) -> Reply {
        let (status, error, header): (_, &str, Option<(HeaderName, &'static str)>) = match &self {
            Self::ForeignHost => (StatusCode::FORBIDDEN, "the Host header has to name the loopback", None),
            Self::NoToken => (StatusCode::UNAUTHORIZED, "a bearer token is needed", Some((WWW_AUTHENTICATE, "Bearer"))),
            Self::NoSuchPath => (StatusCode::NOT_FOUND, "no such path", None),
            Self::NoSuchTopic => (StatusCode::NOT_FOUND, "no such topic", None),
            Self::NoSuchOffset => (StatusCode::NOT_FOUND, "no message has this offset yet", None),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD", Some((ALLOW, "GET, HEAD"))),
            Self::BadRequest(reason) => (StatusCode::BAD_REQUEST, reason, None),
            Self::OutOfRange(_) => (StatusCode::RANGE_NOT_SATISFIABLE, "the offset is outside of what is kept", None),
            Self::TooManyStreams => (StatusCode::SERVICE_UNAVAILABLE, "too many streams are read at once", RETRY),
            Self::NoMemory => (StatusCode::SERVICE_UNAVAILABLE, "too much is read at once", RETRY),
            Self::Closed => (StatusCode::SERVICE_UNAVAILABLE, "the log is not open", RETRY),
            Self::Failed => (StatusCode::INTERNAL_SERVER_ERROR, "the log could not be read", None),
        };
        let extent = if let Self::OutOfRange(extent) = &self { Some(*extent) } else { None };
        let mut reply = json(status, &ErrorJson::new(error, extent));
        // A refused client must not occupy a connection that others may need.
        reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        if let Some((name, value)) = header {
            reply.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        reply
    }
}

const RETRY: Option<(HeaderName, &str)> = Some((RETRY_AFTER, "1"));

/// The body of every error reply, and the data of an `error` event.
#[derive(Serialize)]
pub(super) struct ErrorJson<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    earliest: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
}

impl<'a> ErrorJson<'a> {
    pub(super) fn new(error: &'a str, extent: Option<Extent>) -> Self {
        Self { error, earliest: extent.map(|extent| extent.earliest), next: extent.map(|extent| extent.next) }
    }
}

pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Reply {
    let text = serde_json::to_vec(body).expect("plain numbers and strings");
    let mut reply = Response::new(full(text));
    *reply.status_mut() = status;
    for (name, value) in [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")] {
        reply.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    reply
}
