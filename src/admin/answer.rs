//! Answers of the admin listener that are not JSON values.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response};

use crate::server::{self, Reply};

pub(super) fn text(text: impl Into<Bytes>, content_type: HeaderValue) -> Reply {
    describe(Response::new(server::full(text)), content_type)
}

/// Nobody stores it, or takes it for something else, or reads it from another site's page.
pub(super) fn describe(mut reply: Reply, content_type: HeaderValue) -> Reply {
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    reply
}
