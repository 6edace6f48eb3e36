//! Health, metrics, status and the topics' document, for operators. On a loopback address it answers only requests
//! with a loopback `Host`.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use futures_util::StreamExt;
use http::header::ALLOW;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};

mod answer;
mod page;

use crate::asyncapi;
use crate::metrics::Metrics;
use crate::server::{self, Arrival, Reply, Service, is_loopback, loopback_host};
use crate::status::Status;
use answer::{describe, text};

/// What the admin listener reports on.
#[derive(Clone)]
pub struct Admin {
    status: Status,
    metrics: Metrics,
    loopback_only: bool,
    document: Arc<RwLock<Bytes>>,
}

/// What it answers.
const PATHS: [&str; 7] = ["/", "/status", "/status/events", "/livez", "/readyz", "/metrics", "/asyncapi"];

impl Admin {
    pub fn new(status: Status, metrics: Metrics, config: &crate::config::Admin) -> Self {
        Self { status, metrics, loopback_only: is_loopback(config.listen.ip()), document: Arc::default() }
    }

    /// Serves this AsyncAPI document from now on.
    pub fn set_document(&self, document: Bytes) {
        *self.document.write().unwrap_or_else(PoisonError::into_inner) = document;
    }

    fn answer(&self, request: &Request<Incoming>) -> Reply {
        if self.loopback_only && !loopback_host(request.headers()) {
            return server::json(StatusCode::FORBIDDEN, &json!({"reason": "the Host is no loopback name"}));
        }
        let answer: fn(&Self) -> Reply = match request.uri().path() {
            "/" => |_| page::page(),
            "/status" => Self::status,
            "/status/events" => Self::events,
            "/livez" => |_| server::json(StatusCode::OK, &json!({"status": "live"})),
            "/readyz" => Self::ready,
            "/metrics" => Self::metrics,
            "/asyncapi" => Self::document,
            _ => return server::json(StatusCode::NOT_FOUND, &json!({ "paths": PATHS })),
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut reply = server::json(StatusCode::METHOD_NOT_ALLOWED, &Value::Null);
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return reply;
        }
        answer(self)
    }

    fn ready(&self) -> Reply {
        let readiness = self.status.readiness();
        let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        server::json(status, &json!({"status": readiness.as_str(), "bus": readiness.bus()}))
    }

    fn status(&self) -> Reply {
        text(self.status.json(), HeaderValue::from_static("application/json"))
    }

    fn events(&self) -> Reply {
        let Some(events) = self.status.events() else {
            let reason = "as many watch as may at once; close another status page";
            return server::json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "reason": reason }));
        };
        let frames = StreamBody::new(events.map(|event| Ok::<_, io::Error>(Frame::data(event))));
        describe(http::Response::new(frames.boxed_unsync()), HeaderValue::from_static("text/event-stream"))
    }

    fn metrics(&self) -> Reply {
        let openmetrics = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
        text(self.metrics.text(), openmetrics)
    }

    fn document(&self) -> Reply {
        let document = self.document.read().unwrap_or_else(PoisonError::into_inner).clone();
        text(document, HeaderValue::from_static(asyncapi::CONTENT_TYPE))
    }
}

impl Service for Admin {
    async fn call(&self, request: Request<Incoming>, _: Arrival) -> Reply {
        server::closing_if_denied(self.answer(&request))
    }
}
