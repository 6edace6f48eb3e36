//! Health, metrics and the topics' document, for operators. On a loopback address it answers only requests with a
//! loopback `Host`.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::asyncapi;
use crate::bus::ConnectionState;
use crate::metrics::Metrics;
use crate::server::{self, Arrival, Reply, Service, is_loopback, loopback_host};

/// What the admin listener reports on.
#[derive(Clone)]
pub struct Admin {
    connection: watch::Receiver<ConnectionState>,
    metrics: Metrics,
    stop: CancellationToken,
    ready_needs_bus: bool,
    loopback_only: bool,
    document: Arc<RwLock<Bytes>>,
}

/// What it answers.
const PATHS: [&str; 4] = ["/livez", "/readyz", "/metrics", "/asyncapi"];

impl Admin {
    pub fn new(
        connection: watch::Receiver<ConnectionState>,
        metrics: Metrics,
        stop: CancellationToken,
        config: &crate::config::Admin,
    ) -> Self {
        let loopback_only = is_loopback(config.listen.ip());
        let (ready_needs_bus, document) = (config.ready_needs_bus, Arc::default());
        Self { connection, metrics, stop, ready_needs_bus, loopback_only, document }
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

    /// A later outage keeps the bridge ready: a sidecar that turns unready takes its whole pod out of service, and
    /// Terra retries whatever gets a 503.
    fn ready(&self) -> Reply {
        let connection = *self.connection.borrow();
        let bus = match connection {
            ConnectionState::Waiting => "waiting",
            ConnectionState::Up => "up",
            ConnectionState::Away => "away",
        };
        let draining = self.stop.is_cancelled();
        let reached =
            connection == ConnectionState::Up || (connection == ConnectionState::Away && !self.ready_needs_bus);
        let status = if reached && !draining { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let word = if draining {
            "draining"
        } else if reached {
            "ready"
        } else {
            "not ready"
        };
        server::json(status, &json!({"status": word, "bus": bus}))
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

fn text(text: impl Into<Bytes>, content_type: HeaderValue) -> Reply {
    let mut reply = http::Response::new(server::full(text));
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    reply
}

impl Service for Admin {
    async fn call(&self, request: Request<Incoming>, _: Arrival) -> Reply {
        server::closing_if_denied(self.answer(&request))
    }
}
