//! The forms that every part of the document has.

use serde_json::{Value, json};

/// A reference to another part of the document.
pub(super) fn reference(within: &str, key: &str) -> Value {
    json!({ "$ref": format!("#/{within}/{key}") })
}

/// The object without members that say nothing.
pub(super) fn filled(mut object: Value) -> Value {
    if let Some(members) = object.as_object_mut() {
        members.retain(|_, value| *value != json!({}) && *value != json!([]));
    }
    object
}
