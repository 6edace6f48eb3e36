//! The schema of each payload: only what the bridge reads, since the vendor changes the rest unannounced.

use serde_json::{Map, Value, json};

use super::json::reference;
use crate::vocabulary::{Concerns, Kind, Known};

/// The schemas that others refer to.
pub(super) fn shared() -> Value {
    let user = described(object([("user_id", id()), ("provider", id())]), "A user of Terra's, connected to a provider");
    json!({ "user": user })
}

/// Of a known type.
pub(super) fn of_known(known: &Known) -> Value {
    let mut properties = Map::from_iter([(known.type_field.to_owned(), json!({ "const": known.name }))]);
    let mut add = |name: &str, schema: Value| drop(properties.insert(name.to_owned(), schema));
    let user = || reference("components/schemas", "user");
    match known.concerns {
        Concerns::User => add("user", user()),
        Concerns::NewUser => {
            add("new_user", user());
            add("old_user", user());
        }
        Concerns::Order => add("data", object([("order_id", id())])),
        Concerns::Coach => add("coach", object([("coach_id", id())])),
        Concerns::DataCoach => add("data", object([("coach_id", id()), ("reference_id", id())])),
        Concerns::CoachOfAll => {
            let athlete = object([("coach_id", id())]);
            add("data", json!({ "type": ["array", "null"], "items": athlete }));
        }
        Concerns::DataReference => add("data", object([("reference_id", own_id()), ("session_id", id())])),
        Concerns::Reference => add("reference_id", own_id()),
        Concerns::Nobody => {}
    }
    if known.identified_by_event_id {
        add("event_id", described(id(), "the same in every delivery of this event"));
    }
    if known.kind == Kind::Link {
        add("url", described(id(), "where the event is; whoever has it can read it until it expires"));
        add("expires_in", json!({ "type": ["integer", "null"], "description": "seconds" }));
    }
    if known.name == "large_request_sending" {
        add("expected_payloads", json!({ "type": ["integer", "null"], "description": "how many payloads follow" }));
    }
    json!({
        "type": "object",
        "required": [known.type_field],
        "properties": properties,
        "additionalProperties": true,
    })
}

/// Of a type that the vendor does not document: its name is in either field.
pub(super) fn of_unknown(name: Option<&str>) -> Value {
    let name = name.map_or_else(|| json!({ "type": "string" }), |name| json!({ "const": name }));
    let named_by = |field: &str| json!({ "required": [field], "properties": { field: name } });
    json!({ "type": "object", "anyOf": [named_by("type"), named_by("event_type")], "additionalProperties": true })
}

fn id() -> Value {
    json!({ "type": ["string", "null"] })
}

fn own_id() -> Value {
    described(id(), "your own id, not one of Terra's users")
}

fn object<const N: usize>(properties: [(&str, Value); N]) -> Value {
    let properties: Map<_, _> = properties.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    json!({ "type": ["object", "null"], "properties": properties })
}

fn described(mut schema: Value, description: &str) -> Value {
    schema["description"] = description.into();
    schema
}
