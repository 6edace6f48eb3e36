//! The spans of a delivery: one from its first byte to its answer, one for its way to the bus, and one for the fetch of a
//! link. A request that no secret signed has none, so that nobody else can crowd them out.

use std::time::Duration;

use http::StatusCode;
use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;

use super::pipeline::Pipeline;
use super::summary::{Ended, Summary};
use crate::message::Message;
use crate::reply::Outcome;
use crate::signature::Delivery;
use crate::telemetry::traces::Span;
use crate::trace::TraceParent;

/// Gives the delivery a trace, if spans are exported at all.
pub(super) fn begin(pipeline: &Pipeline, delivery: &mut Delivery, summary: &mut Summary) {
    if let Some(tracing) = &pipeline.tracing {
        let trace = tracing.begin(delivery.headers().trace_parent().and_then(TraceParent::parse));
        delivery.set_trace(trace);
        summary.trace = Some(trace);
    }
}

/// From the request's first byte to its answer. Without a route or a path in its name: many operators make the path
/// hard to guess.
pub(super) fn server(pipeline: &Pipeline, endpoint: &str, ended: &Ended, took: Duration) {
    let Ended { outcome, summary } = ended;
    let (Some(tracing), Some(trace)) = (&pipeline.tracing, &summary.trace) else { return };
    // No outcome after the signature has a status that depends on the endpoint.
    let status = outcome.status(StatusCode::UNAUTHORIZED);
    let mut attributes = vec![
        KeyValue::new("http.request.method", "POST"),
        KeyValue::new("url.scheme", if pipeline.limits.tls.is_some() { "https" } else { "http" }),
        KeyValue::new("http.response.status_code", i64::from(status.as_u16())),
        KeyValue::new("terra_bridge.endpoint", endpoint.to_owned()),
        KeyValue::new("terra_bridge.outcome", outcome.as_str()),
    ];
    attributes.extend(summary.bytes.map(|bytes| KeyValue::new("http.request.body.size", bytes as i64)));
    attributes.extend(summary.event_type.map(|name| KeyValue::new("terra_bridge.type", name)));
    tracing.end(
        trace,
        Span {
            id: trace.server,
            parent: trace.parent,
            kind: SpanKind::Server,
            name: "POST".to_owned(),
            took,
            attributes,
            error: status.is_server_error().then(|| outcome.as_str()),
        },
    );
}

/// The attributes of a message's way to the bus, before the message is gone.
pub(super) fn of_message(pipeline: &Pipeline, message: &Message) -> Vec<KeyValue> {
    let Some(tracing) = &pipeline.tracing else { return Vec::new() };
    vec![
        KeyValue::new("messaging.system", tracing.system()),
        KeyValue::new("messaging.operation.name", "publish"),
        KeyValue::new("messaging.operation.type", "send"),
        KeyValue::new("messaging.destination.name", message.topic().to_string()),
        KeyValue::new("messaging.message.id", message.id().to_string()),
        KeyValue::new("messaging.message.body.size", message.payload().len() as i64),
    ]
}

/// From the message to the answer of the bus, or of the spool.
pub(super) fn producer(
    pipeline: &Pipeline,
    summary: &Summary,
    mut attributes: Vec<KeyValue>,
    outcome: &Outcome,
    took: Duration,
) {
    let (Some(tracing), Some(trace)) = (&pipeline.tracing, &summary.trace) else { return };
    let topic = summary.topic.as_deref().unwrap_or_default();
    attributes.push(KeyValue::new("terra_bridge.outcome", outcome.as_str()));
    tracing.end(
        trace,
        Span {
            id: trace.producer,
            parent: trace.server,
            kind: SpanKind::Producer,
            name: format!("publish {topic}"),
            took,
            attributes,
            error: (!outcome.is_success()).then(|| outcome.as_str()),
        },
    );
}

/// The fetch of what a link leads to. A link is a credential: the span does not say which host was asked.
pub(super) fn fetch(pipeline: &Pipeline, summary: &Summary, is_fetched: bool, took: Duration) {
    let (Some(tracing), Some(trace)) = (&pipeline.tracing, &summary.trace) else { return };
    tracing.end(
        trace,
        Span {
            id: tracing.new_span_id(),
            parent: trace.server,
            kind: SpanKind::Client,
            name: "GET".to_owned(),
            took,
            attributes: vec![KeyValue::new("http.request.method", "GET")],
            error: (!is_fetched).then_some("unfetched"),
        },
    );
}
