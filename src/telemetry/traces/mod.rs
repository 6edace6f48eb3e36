//! Spans for each delivery, in OpenTelemetry's words, exported over OTLP. A span holds nothing that a log line may not:
//! no path, so no `url.path` and no `http.route`; no key; no user.
//!
//! Nothing here waits: a span goes into a bounded queue, and is dropped where that is full. `collector` sends them.

mod collector;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample, SpanData,
    SpanProcessor,
};

use crate::config::Otlp;
use crate::trace::{Trace, TraceParent};
pub use collector::CollectorError;

const SERVICE: &str = "terra-bridge";

/// Begins traces and exports their spans. Cloning shares it.
#[derive(Clone)]
pub struct Tracing(Arc<Tracer>);

struct Tracer {
    processor: BatchSpanProcessor,
    ids: RandomIdGenerator,
    sampler: Sampler,
    scope: InstrumentationScope,
    system: &'static str,
}

/// A span that has ended.
pub(crate) struct Span {
    pub(crate) id: SpanId,
    pub(crate) parent: SpanId,
    pub(crate) kind: SpanKind,
    pub(crate) name: String,
    pub(crate) took: Duration,
    pub(crate) attributes: Vec<KeyValue>,
    /// What went wrong on the bridge's side.
    pub(crate) error: Option<&'static str>,
}

impl Tracing {
    /// Exports from now on, on a thread of its own. `system`: the messaging system, by OpenTelemetry's name.
    ///
    /// # Errors
    /// The collector cannot be reached as configured.
    pub fn start(otlp: &Otlp, system: &'static str) -> Result<Self, CollectorError> {
        let mut processor = BatchSpanProcessor::builder(collector::exporter(otlp)?).build();
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        // `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` come first.
        let resource = Resource::builder();
        let named = std::env::var_os("OTEL_SERVICE_NAME").is_some();
        let resource = if named { resource } else { resource.with_service_name(SERVICE) };
        processor.set_resource(&resource.with_attribute(version).build());
        let scope = InstrumentationScope::builder(SERVICE).with_version(env!("CARGO_PKG_VERSION")).build();
        let sampler = Sampler::TraceIdRatioBased(otlp.sampling);
        Ok(Self(Arc::new(Tracer { processor, ids: RandomIdGenerator::default(), sampler, scope, system })))
    }

    /// The trace of a delivery: the sender's, which also decides whether it is sampled; else a new one.
    pub(crate) fn begin(&self, sender: Option<TraceParent<'_>>) -> Trace {
        let Tracer { ids, .. } = &*self.0;
        let (id, parent, flags) = match sender {
            Some(sender) => (sender.id, sender.span, sender.flags),
            None => {
                let id = ids.new_trace_id();
                (id, SpanId::INVALID, TraceFlags::default().with_sampled(self.is_sampled(id)))
            }
        };
        Trace { id, flags, parent, server: ids.new_span_id(), producer: ids.new_span_id() }
    }

    fn is_sampled(&self, id: opentelemetry::trace::TraceId) -> bool {
        let sampled = self.0.sampler.should_sample(None, id, "", &SpanKind::Server, &[], &[]);
        sampled.decision == SamplingDecision::RecordAndSample
    }

    pub(crate) fn system(&self) -> &'static str {
        self.0.system
    }

    pub(crate) fn new_span_id(&self) -> SpanId {
        self.0.ids.new_span_id()
    }

    /// Exports the span, if its trace is sampled. It ended just now.
    pub(crate) fn end(&self, trace: &Trace, span: Span) {
        if !trace.flags.is_sampled() {
            return;
        }
        let Span { id, parent, kind, name, took, mut attributes, error } = span;
        let end_time = SystemTime::now();
        attributes.extend(error.map(|error| KeyValue::new("error.type", error)));
        self.0.processor.on_end(SpanData {
            span_context: SpanContext::new(trace.id, id, trace.flags, false, TraceState::default()),
            parent_span_id: parent,
            parent_span_is_remote: parent == trace.parent,
            span_kind: kind,
            name: name.into(),
            start_time: end_time - took,
            end_time,
            attributes,
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: if error.is_some() { Status::error("") } else { Status::Unset },
            instrumentation_scope: self.0.scope.clone(),
        });
    }

    /// Exports what waits, within that time. Blocks.
    pub fn shutdown(&self, within: Duration) {
        if self.0.processor.shutdown_with_timeout(within).is_err() {
            tracing::warn!("the last spans were not exported: the collector did not take them in time");
        }
    }
}

impl fmt::Debug for Tracing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tracing")
    }
}
