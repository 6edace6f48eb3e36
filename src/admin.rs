//! Health and metrics for operators. On a loopback address it answers only requests with a loopback `Host`.

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bus::ConnectionState;
use crate::metrics::Metrics;
use crate::server::{self, Reply, Service, is_loopback, loopback_host};

/// What the admin listener reports on.
#[derive(Clone)]
pub struct Admin {
    connection: watch::Receiver<ConnectionState>,
    metrics: Metrics,
    stop: CancellationToken,
    ready_needs_bus: bool,
    loopback_only: bool,
}

impl Admin {
    pub fn new(
        connection: watch::Receiver<ConnectionState>,
        metrics: Metrics,
        stop: CancellationToken,
        config: &crate::config::Admin,
    ) -> Self {
        let loopback_only = is_loopback(config.listen.ip());
        Self { connection, metrics, stop, ready_needs_bus: config.ready_needs_bus, loopback_only }
    }

    fn answer(&self, request: &Request<Incoming>) -> Reply {
        if self.loopback_only && !loopback_host(request.headers()) {
            return server::json(StatusCode::FORBIDDEN, &json!({"reason": "the Host is no loopback name"}));
        }
        let answer: fn(&Self) -> Reply = match request.uri().path() {
            "/livez" => |_| server::json(StatusCode::OK, &json!({"status": "live"})),
            "/readyz" => Self::ready,
            "/metrics" => Self::metrics,
            _ => return server::json(StatusCode::NOT_FOUND, &json!({"paths": ["/livez", "/readyz", "/metrics"]})),
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
        let mut reply = http::Response::new(server::full(self.metrics.text()));
        let openmetrics = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
        reply.headers_mut().insert(CONTENT_TYPE, openmetrics);
        reply
    }
}

impl Service for Admin {
    async fn call(&self, request: Request<Incoming>, _: Instant) -> Reply {
        server::closing_if_denied(self.answer(&request))
    }
}
