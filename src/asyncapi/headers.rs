//! The schema of each header. All values are text.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use strum::IntoEnumIterator;

use crate::attribute::Attribute;
use crate::event::Unreadable;
use crate::fetch::FetchError;
use crate::trace::{TRACE_PARENT, TRACE_STATE};
use crate::vocabulary::SOURCE_PREFIX;

/// Whether a header belongs to every kind of message; the others say something of one kind only.
pub(super) fn is_common(attribute: Attribute) -> bool {
    use Attribute::{DataRef, TerraBytes, TerraDeadLetter, TerraDigest, TerraUnfetched};
    !matches!(attribute, DataRef | TerraBytes | TerraDeadLetter | TerraDigest | TerraUnfetched)
}

/// Whether every message has it.
pub(super) fn is_required(attribute: Attribute) -> bool {
    use Attribute::{Id, PartitionKey, RecordedTime, Source, SpecVersion, Time, Type};
    matches!(attribute, SpecVersion | Id | Source | Type | Time | PartitionKey | RecordedTime)
}

/// The headers of W3C Trace Context, which have the same names on every bus.
pub(super) fn of_trace() -> [(String, Value); 2] {
    let mut parent = trace_parent();
    parent["type"] = "string".into();
    parent["description"] = "the W3C trace context to continue: the bridge's own span, else the sender's".into();
    let state = json!({ "type": "string", "description": "the vendors' part of that trace context" });
    [(TRACE_PARENT.to_owned(), parent), (TRACE_STATE.to_owned(), state)]
}

fn trace_parent() -> Value {
    json!({
        "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
        "examples": ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
    })
}

/// The schema of its value; `endpoints` are those of the bridge.
pub(super) fn schema(attribute: Attribute, endpoints: &BTreeSet<&str>) -> Value {
    let mut schema = match attribute {
        Attribute::SpecVersion => json!({ "const": "1.0" }),
        Attribute::Source => {
            let sources = endpoints.iter().map(|endpoint| format!("{SOURCE_PREFIX}{endpoint}"));
            json!({ "enum": sources.collect::<Vec<_>>() })
        }
        Attribute::Id | Attribute::TerraDigest => json!({ "pattern": "^[0-9a-f]{64}$" }),
        Attribute::Time | Attribute::RecordedTime => json!({ "format": "date-time" }),
        Attribute::Sequence => json!({ "pattern": "^[0-9]{13}$" }),
        Attribute::TraceParent => trace_parent(),
        Attribute::TerraChunk => json!({ "pattern": "^(0|[1-9][0-9]*)$", "examples": ["3"] }),
        Attribute::TerraBytes => json!({ "pattern": "^[1-9][0-9]*$" }),
        Attribute::TerraFetched => json!({ "const": "true" }),
        Attribute::TerraUnfetched => json!({ "enum": FetchError::iter().map(FetchError::as_str).collect::<Vec<_>>() }),
        Attribute::TerraDeadLetter => json!({ "enum": Unreadable::iter().map(Unreadable::as_str).collect::<Vec<_>>() }),
        Attribute::DataRef => json!({ "format": "uri-reference", "pattern": "^nats-object:[^/]+/[^/]+$" }),
        Attribute::Type
        | Attribute::Subject
        | Attribute::PartitionKey
        | Attribute::TraceState
        | Attribute::CorrelationId
        | Attribute::TerraTraceId
        | Attribute::TerraEventId
        | Attribute::TerraProvider => json!({}),
    };
    schema["type"] = "string".into();
    schema["description"] = attribute.meaning().into();
    schema
}
