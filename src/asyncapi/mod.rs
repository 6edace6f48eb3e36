//! The topics as they are configured, as an AsyncAPI 3.0 document: what goes where, in which form, with examples.
//! Opens nothing, and tells no secret.
//!
//! - `servers`: where the bus is, and how the bridge logs in
//! - `messages`: one message for each type, with what all have in common; `headers` and `payload` are their schemas
//! - `binding`: what differs from bus to bus
//! - `example`: what the bridge makes of a sample
//! - `json`: what all of them write

mod binding;
mod example;
mod headers;
mod json;
mod messages;
mod payload;
mod servers;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::config;
use crate::route::{Content, Contents, RouteTable, Topic};
use binding::Binding;
use json::{filled, reference};
use messages::Messages;

/// As registered with IANA.
pub const CONTENT_TYPE: &str = "application/asyncapi+json;version=3.0.0";

const DESCRIPTION: &str = "\
The events that Terra sends by webhook, as terra-bridge publishes them: the topics that its configuration names, and \
what goes to each.

Each message is a CloudEvent 1.0 in binary mode: its attributes are headers, and its payload is exactly what \
Terra sent, or what a link from Terra led to.

- An event may come more than once: ignore an `id` that you have stored.
- A retry may come hours late: overwrite only what has an older or the same `sequence`. Where that is absent, compare \
`time`.
- New types and new fields appear unannounced. A schema here has only those fields that the bridge itself reads.";

/// The document in JSON, the same for the same configuration: keys are sorted.
pub fn document(bus: &config::Bus, routes: &RouteTable) -> String {
    format!("{:#}\n", value(bus, routes))
}

fn value(bus: &config::Bus, routes: &RouteTable) -> Value {
    let (binding, contents) = (Binding::of(bus), routes.contents());
    let endpoints: BTreeSet<&str> = routes.endpoints().collect();
    let messages = Messages::new(&binding, &endpoints, contents.values());
    let (servers, security) = servers::servers(bus);
    let channels = contents.iter().map(|(topic, contents)| {
        let channel = filled(json!({
            "address": binding.address(topic),
            "title": &***topic,
            "description": held(contents, &endpoints),
            "messages": messages.of(contents),
            "bindings": binding.of_channel(topic),
        }));
        (topic.to_string(), channel)
    });
    let operations = contents.keys().map(|topic| (topic.to_string(), operation(topic)));
    json!({
        "asyncapi": "3.0.0",
        "id": "urn:terra-bridge:topics",
        "info": {
            "title": "Terra's events",
            "version": env!("CARGO_PKG_VERSION"),
            "description": format!("{DESCRIPTION}{}", binding.note()),
            "license": { "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0" },
            "externalDocs": { "url": "https://docs.tryterra.co", "description": "Terra's documentation" },
        },
        "defaultContentType": "application/json",
        "servers": servers,
        "channels": channels.collect::<Map<_, _>>(),
        "operations": operations.collect::<Map<_, _>>(),
        "components": filled(json!({
            "messages": messages.components(),
            "messageTraits": messages.traits(),
            "operationTraits": { "publish": { "bindings": binding.of_operation() } },
            "schemas": payload::shared(),
            "securitySchemes": security,
        })),
    })
}

/// The bridge is the application, so it sends.
fn operation(topic: &Topic) -> Value {
    json!({
        "action": "send",
        "channel": reference("channels", topic),
        "traits": [reference("components/operationTraits", "publish")],
    })
}

/// What a topic holds, in a sentence for each group of endpoints.
fn held(contents: &Contents<'_>, endpoints: &BTreeSet<&str>) -> String {
    let mut groups: Vec<(&BTreeSet<&str>, Vec<String>)> = Vec::new();
    for (content, from) in contents {
        let what = match content {
            Content::Type(name) => format!("`{name}`"),
            Content::Prefix(prefix) => format!("other types that begin with `{prefix}`"),
            Content::AnyOther => "every type that no route names".to_owned(),
            Content::DeadLetters => "what Terra signed but nobody can read".to_owned(),
        };
        match groups.iter_mut().find(|(group, _)| *group == from) {
            Some((_, whats)) => whats.push(what),
            None => groups.push((from, vec![what])),
        }
    }
    let sentence = |(from, whats): &(&BTreeSet<&str>, Vec<String>)| {
        let whats = whats.join(", ");
        if *from == endpoints {
            return format!("Holds {whats}.");
        }
        let from: Vec<_> = from.iter().map(|endpoint| format!("`{endpoint}`")).collect();
        format!("Holds {whats}: from the endpoint {}.", from.join(" and "))
    };
    groups.iter().map(sentence).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
