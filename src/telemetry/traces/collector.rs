//! Sends spans to an OpenTelemetry collector: OTLP as protobuf over HTTP, with the bridge's own client. Says in the log
//! when that fails, without the URL.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use tokio::runtime::Handle;

use crate::config::Otlp;
use crate::telemetry::{LOG_EVERY, Throttle};
use crate::trust::{self, TrustError};

/// For one request.
const WITHIN: Duration = Duration::from_secs(5);

/// Bytes of an answer.
const LONGEST_ANSWER: usize = 64 << 10;

/// Why no spans can be exported.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    #[error("{0}")]
    Trust(#[from] TrustError),
    #[error("`otlp.endpoint`: {0}; the OTEL_EXPORTER_OTLP_ variables count, too")]
    Exporter(String),
}

/// # Errors
/// The authority cannot be read, or the exporter refuses what its own variables say.
pub(super) fn exporter(otlp: &Otlp) -> Result<SpanExporter, CollectorError> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Collector::new(otlp)?)
        .with_endpoint(format!("{}/v1/traces", otlp.endpoint.trim_end_matches('/')))
        .with_timeout(WITHIN);
    exporter.build().map_err(|error| CollectorError::Exporter(error.to_string()))
}

struct Collector {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The exporter has a thread of its own, without a runtime.
    runtime: Handle,
}

impl Collector {
    fn new(otlp: &Otlp) -> Result<Self, CollectorError> {
        let mut plain = HttpConnector::new();
        plain.set_nodelay(true);
        plain.enforce_http(false);
        let https = HttpsConnectorBuilder::new().with_tls_config(trust::client("otlp.ca", otlp.ca.as_deref())?);
        let connector = https.https_or_http().enable_http1().wrap_connector(plain);
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        let headers = otlp.header_pairs().expect("checked with the configuration");
        Ok(Self { client, headers, runtime: Handle::current() })
    }
}

impl HttpClient for Collector {
    fn send_bytes<'c, 'f>(
        &'c self,
        mut request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>
    where
        'c: 'f,
        Self: 'f,
    {
        request.headers_mut().extend(self.headers.iter().cloned());
        let sending = self.runtime.spawn(send(self.client.clone(), request));
        Box::pin(async move {
            let sent = sending.await.map_err(HttpError::from).flatten();
            match &sent {
                Ok(response) if response.status().is_success() => {}
                Ok(response) => not_exported(response.status().as_str()),
                Err(_) => not_exported("no connection, or no answer in time"),
            }
            sent
        })
    }
}

async fn send(
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    let exchange = async {
        let (head, body) = client.request(request.map(Full::new)).await?.into_parts();
        let body = Limited::new(body, LONGEST_ANSWER).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    };
    tokio::time::timeout(WITHIN, exchange).await?
}

fn not_exported(reason: &str) {
    static FAILED: Throttle = Throttle::new(LOG_EVERY);
    if let Some(more) = FAILED.pass() {
        let remedy = "check `otlp.endpoint`, `otlp.headers` and the collector; deliveries are not affected";
        tracing::warn!(reason, more, remedy, "spans were not exported");
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collector")
    }
}
