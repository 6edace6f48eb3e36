//! Log lines as JSON, one object each, in the words of OpenTelemetry's log data model.

use std::fmt::{self, Debug};

use jiff::Timestamp;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The field of an event that is no attribute there: the trace to which it belongs, in hex.
const TRACE_ID: &str = "trace_id";

pub(super) struct Json;

#[derive(Serialize)]
struct Record<'m> {
    timestamp: String,
    severity_text: &'static str,
    severity_number: u8,
    body: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<Value>,
    attributes: Attributes,
    instrumentation_scope: Scope<'m>,
}

#[derive(Serialize)]
struct Scope<'m> {
    name: &'m str,
}

impl<S, F> FormatEvent<S, F> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    F: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, F>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let (metadata, mut fields) = (event.metadata(), Fields::default());
        event.record(&mut fields);
        let (severity_text, severity_number) = severity(*metadata.level());
        let record = Record {
            timestamp: Timestamp::now().to_string(),
            severity_text,
            severity_number,
            body: fields.body,
            trace_id: fields.trace_id,
            attributes: Attributes(fields.attributes),
            instrumentation_scope: Scope { name: metadata.target() },
        };
        let line = serde_json::to_string(&record).map_err(|_| fmt::Error)?;
        writeln!(writer, "{line}")
    }
}

/// The names of the data model, and the first number of each.
fn severity(level: Level) -> (&'static str, u8) {
    match level {
        Level::TRACE => ("TRACE", 1),
        Level::DEBUG => ("DEBUG", 5),
        Level::INFO => ("INFO", 9),
        Level::WARN => ("WARN", 13),
        Level::ERROR => ("ERROR", 17),
    }
}

#[derive(Default)]
struct Fields {
    body: String,
    trace_id: Option<Value>,
    attributes: Vec<(&'static str, Value)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        match (field.name(), value.into()) {
            ("message", Value::String(text)) => self.body = text,
            (TRACE_ID, id) => self.trace_id = Some(id),
            (name, value) => self.attributes.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }
}

/// An object, in the order of the event's fields.
struct Attributes(Vec<(&'static str, Value)>);

impl Serialize for Attributes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::lines::Lines;
    use super::*;

    #[test]
    fn a_line_is_one_object_of_the_data_model() {
        let lines = Lines::default();
        let writer = lines.clone();
        let logs = tracing_subscriber::fmt().event_format(Json).with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(logs);
        let error = std::io::Error::other("line\nbreak");
        tracing::warn!(%error, count = 3, left = -1, is_odd = true, none = None::<u64>, trace_id = "4bf9", "a \"body\"");
        let [line] = &lines.with("body")[..] else { panic!("one line: {:?}", lines.with("")) };
        let mut line: Value = serde_json::from_str(line).unwrap();
        let timestamp = line.as_object_mut().unwrap().remove("timestamp").unwrap();
        let since = Timestamp::now().duration_since(timestamp.as_str().unwrap().parse().unwrap());
        assert!(since.as_secs() < 60, "{timestamp}");
        let expected = json!({
            "severity_text": "WARN", "severity_number": 13, "body": "a \"body\"", "trace_id": "4bf9",
            "attributes": {"error": "line\nbreak", "count": 3, "left": -1, "is_odd": true},
            "instrumentation_scope": {"name": "terra_bridge::telemetry::json::tests"},
        });
        assert_eq!(line, expected);
    }
}
