//! The messages: one for each type, one for types that nobody named, dead letters, and claim checks. A trait has what
//! they have in common. A message matches exactly one of them.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::HEXLOWER;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::binding::Binding;
use super::json::{filled, reference};
use super::{example, headers, payload};
use crate::attribute::Attribute;
use crate::message::Message;
use crate::route::{Content, Contents};
use crate::samples::sample;
use crate::vocabulary::{Kind, Known, Product, TYPE_PREFIX, known};

/// The keys of messages that are not of one type. They have a `-`, which a type's key has only before a digest.
const OTHER: &str = "other-type";
const DEAD_LETTER: &str = "dead-letter";
const CLAIM_CHECK: &str = "claim-check";

const EVENT_TRAIT: &str = "event";

/// Of events, and of dead letters.
const JSON: &str = "application/json";
const OCTETS: &str = "application/octet-stream";

pub(super) struct Messages<'a> {
    binding: &'a Binding<'a>,
    endpoints: &'a BTreeSet<&'a str>,
    /// Everything that is published, each with the first endpoint that it comes from.
    published: BTreeMap<Content<'a>, &'a str>,
}

impl<'a> Messages<'a> {
    pub(super) fn new(
        binding: &'a Binding<'a>,
        endpoints: &'a BTreeSet<&'a str>,
        contents: impl Iterator<Item = &'a Contents<'a>>,
    ) -> Self {
        let mut published = BTreeMap::new();
        for (content, from) in contents.flatten() {
            let first = from.first().expect("it comes from somewhere");
            published.entry(*content).and_modify(|known: &mut &str| *known = (*known).min(*first)).or_insert(*first);
        }
        Self { binding, endpoints, published }
    }

    /// The messages of a topic.
    pub(super) fn of(&self, contents: &Contents<'_>) -> Value {
        let keys = contents.keys().map(key).chain(self.binding.object_store().map(|_| CLAIM_CHECK.to_owned()));
        keys.map(|key| (key.clone(), reference("components/messages", &key))).collect()
    }

    pub(super) fn components(&self) -> Value {
        let published = self.published.iter().map(|(content, endpoint)| {
            let message = match content {
                Content::Type(name) => match known(name) {
                    Some(known) => self.of_known(known, endpoint),
                    None => self.of_named(name),
                },
                Content::Prefix(_) | Content::AnyOther => self.of_other_types(endpoint),
                Content::DeadLetters => self.of_dead_letter(endpoint),
            };
            (key(content), message)
        });
        published.chain(self.claim_check().map(|message| (CLAIM_CHECK.to_owned(), message))).collect()
    }

    pub(super) fn traits(&self) -> Value {
        let attributes = Attribute::ALL.iter().copied();
        let attributes = attributes.filter(|attribute| headers::is_common(*attribute));
        let mut required = vec!["content-type"];
        required.extend(attributes.clone().filter(|name| headers::is_required(*name)).map(|name| self.header(name)));
        let further = self.binding.further_headers();
        required.extend(further.iter().filter(|(_, _, is_certain)| *is_certain).map(|(name, ..)| name));
        let text = |description: &str| json!({ "type": "string", "description": description });
        let further = further.iter().map(|(name, what, _)| ((*name).to_owned(), text(what)));
        let mut properties: Map<_, _> = attributes.map(|attribute| self.described(attribute)).chain(further).collect();
        let content_types = json!({ "type": "string", "enum": [JSON, OCTETS], "description": "of the payload" });
        properties.insert("content-type".to_owned(), content_types);
        properties.extend(headers::of_trace());
        let event = filled(json!({
            "contentType": JSON,
            "headers": { "type": "object", "required": required, "properties": properties },
            "correlationId": {
                "description": "What belongs to one request to Terra shares it.",
                "location": format!("$message.header#/{}", self.header(Attribute::CorrelationId)),
            },
            "bindings": self.binding.of_message(),
        }));
        json!({ EVENT_TRAIT: event })
    }

    fn of_known(&self, known: &Known, endpoint: &str) -> Value {
        let body = sample(known.name).expect("every known type has a sample").body;
        let example = example::message(endpoint, body.as_bytes());
        let payload = serde_json::from_str(body).expect("a sample is JSON");
        let mut headers = self.of_type(known.name);
        headers.insert(
            self.header(Attribute::PartitionKey).to_owned(),
            json!({ "description": format!("the key: {}", known.concerns.key()) }),
        );
        if known.kind == Kind::Link {
            headers.extend([self.described(Attribute::TerraUnfetched)]);
        }
        message(json!({
            "name": format!("{TYPE_PREFIX}{}", known.name),
            "title": known.name,
            "summary": sentence(known.meaning),
            "description": sentence(known.advice),
            "tags": [{ "name": product(known.product) }],
            "externalDocs": external_docs(known),
            "headers": { "properties": headers },
            "payload": payload::of_known(known),
            "examples": [self.example(&example, payload)],
        }))
    }

    /// Of a type that the routes name, but not the vendor's documents.
    fn of_named(&self, name: &str) -> Value {
        message(json!({
            "name": format!("{TYPE_PREFIX}{name}"),
            "title": name,
            "summary": "A type that the configuration names, and the vendor's documents do not.",
            "headers": { "properties": self.of_type(name) },
            "payload": payload::of_unknown(Some(name)),
        }))
    }

    /// Of every type that has no message of its own.
    fn of_other_types(&self, endpoint: &str) -> Value {
        let body = br#"{"type":"brand.new","user":{"user_id":"5a0c1d7e-1101"}}"#;
        let payload = serde_json::from_slice(body).expect("JSON");
        let mut examples = vec![self.example(&example::message(endpoint, body), payload)];
        if self.published.contains_key(&Content::Type("brand.new")) {
            // It has a message of its own.
            examples.clear();
        }
        let named = self.published.keys().filter_map(|content| match content {
            Content::Type(name) => Some(*name),
            Content::DeadLetters => Some(DEAD_LETTER),
            Content::Prefix(_) | Content::AnyOther => None,
        });
        let named: Vec<_> = named.map(|name| format!("{TYPE_PREFIX}{name}")).collect();
        let pattern = format!("^{}", TYPE_PREFIX.replace('.', "\\."));
        message(json!({
            "name": format!("{TYPE_PREFIX}*"),
            "title": "any other type",
            "summary": "A type that is new, or that no route names.",
            "headers": { "properties": {
                self.header(Attribute::Type): { "pattern": pattern, "not": { "enum": named } },
            } },
            "payload": payload::of_unknown(None),
            "examples": examples,
        }))
    }

    fn of_dead_letter(&self, endpoint: &str) -> Value {
        let body = br#"{"type":"#;
        let example = self.example(&example::message(endpoint, body), String::from_utf8_lossy(body).into());
        let mut headers = self.of_type(DEAD_LETTER);
        headers.insert("content-type".to_owned(), json!({ "const": OCTETS }));
        headers.extend([self.described(Attribute::TerraDeadLetter)]);
        let reason = self.header(Attribute::TerraDeadLetter);
        let mut schema = json!({ "properties": headers });
        if self.binding.object_store().is_some() {
            schema["not"] = json!({ "required": [self.header(Attribute::DataRef)] });
        }
        message(json!({
            "name": format!("{TYPE_PREFIX}{DEAD_LETTER}"),
            "title": "dead letter",
            "summary": "What Terra signed but nobody can read.",
            "description": format!("`{reason}` says why. Look at it by hand: it may be any bytes."),
            "contentType": OCTETS,
            "headers": schema,
            "payload": { "description": "Any bytes, as Terra sent them." },
            "examples": [example],
        }))
    }

    /// `None` where no payload is kept apart from its message.
    fn claim_check(&self) -> Option<Value> {
        let bucket = self.binding.object_store()?;
        let [reference, digest, bytes] = [Attribute::DataRef, Attribute::TerraDigest, Attribute::TerraBytes]
            .map(|attribute| self.described(attribute));
        // It may be one of a dead letter.
        let reason = self.described(Attribute::TerraDeadLetter);
        let says = format!(
            "The payload is in the object store `{bucket}`: `{}` names the object, and `{}` proves it. The other headers \
             are as without it.",
            reference.0, digest.0
        );
        let required = [&reference.0, &digest.0, &bytes.0];
        let example = self.published.iter().find_map(|(content, endpoint)| match content {
            Content::Type(name) => Some(self.claimed(sample(name)?.body.as_bytes(), endpoint, bucket)),
            Content::Prefix(_) | Content::AnyOther | Content::DeadLetters => None,
        });
        Some(message(json!({
            "name": CLAIM_CHECK,
            "title": "claim check",
            "summary": "An event of any type whose payload is too large for a message.",
            "description": says,
            // Beside what the trait requires.
            "headers": { "allOf": [{ "required": required }], "properties": Map::from_iter([reference, digest, bytes, reason]) },
            "payload": { "type": "string", "maxLength": 0, "description": "Empty." },
            "examples": example.into_iter().collect::<Vec<_>>(),
        })))
    }

    fn claimed(&self, body: &'static [u8], endpoint: &str, bucket: &str) -> Value {
        let message = example::message(endpoint, body);
        let sha256 = HEXLOWER.encode(&Sha256::digest(body));
        let mut example = self.example(&message, "".into());
        for (attribute, value) in [
            (Attribute::DataRef, format!("nats-object:{bucket}/{}-{sha256}", message.id())),
            (Attribute::TerraDigest, sha256),
            (Attribute::TerraBytes, body.len().to_string()),
        ] {
            example["headers"][self.header(attribute)] = value.into();
        }
        example
    }

    fn header(&self, attribute: Attribute) -> &'static str {
        self.binding.header(attribute)
    }

    fn described(&self, attribute: Attribute) -> (String, Value) {
        (self.header(attribute).to_owned(), headers::schema(attribute, self.endpoints))
    }

    /// The headers that only messages of this type have.
    fn of_type(&self, name: &str) -> Map<String, Value> {
        Map::from_iter([(self.header(Attribute::Type).to_owned(), json!({ "const": format!("{TYPE_PREFIX}{name}") }))])
    }

    fn example(&self, message: &Message, payload: Value) -> Value {
        json!({ "headers": self.binding.headers(message), "payload": payload })
    }
}

fn message(mut message: Value) -> Value {
    message["traits"] = json!([reference("components/messageTraits", EVENT_TRAIT)]);
    filled(message)
}

/// The key of a message among the components, which may have letters, digits, `.`, `_` and `-` in it.
fn key(content: &Content<'_>) -> String {
    match content {
        Content::Type(name) if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._".contains(&byte)) => {
            (*name).to_owned()
        }
        Content::Type(name) => format!("type-{}", HEXLOWER.encode(&Sha256::digest(name)[..8])),
        Content::Prefix(_) | Content::AnyOther => OTHER.to_owned(),
        Content::DeadLetters => DEAD_LETTER.to_owned(),
    }
}

fn product(product: Product) -> &'static str {
    match product {
        Product::Health => "health and fitness",
        Product::LabReports => "lab reports",
        Product::Vantage => "vantage",
        Product::Teams => "teams",
    }
}

/// Where the vendor documents the rest of a payload.
fn external_docs(known: &Known) -> Value {
    let url = match known.source.starts_with("openapi") {
        true => "https://github.com/tryterra/openapi",
        false => "https://docs.tryterra.co",
    };
    json!({ "url": url, "description": format!("The vendor's reference: {}", known.source) })
}

fn sentence(words: &str) -> String {
    let mut letters = words.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).chain(['.']).collect()
}
