//! What differs from bus to bus: the names of headers, the address of a topic, and the bindings.

use serde_json::{Map, Value, json};

use crate::attribute::Attribute;
use crate::config;
use crate::message::{DATA_CONTENT_TYPE, Message};

pub(super) enum Binding<'c> {
    Kafka(&'c config::Kafka),
    Nats(&'c config::Nats),
    Embedded,
}

impl<'c> Binding<'c> {
    pub(super) fn of(bus: &'c config::Bus) -> Self {
        match bus {
            config::Bus::Kafka(kafka) => Self::Kafka(kafka),
            config::Bus::Nats(nats) => Self::Nats(nats),
            config::Bus::Embedded(_) => Self::Embedded,
        }
    }

    /// The header of an attribute.
    pub(super) fn header(&self, attribute: Attribute) -> &'static str {
        match self {
            Self::Kafka(_) => attribute.kafka_header(),
            Self::Nats(_) | Self::Embedded => attribute.nats_header(),
        }
    }

    /// The headers of every message beside attributes and `content-type`, with what they are, and whether a reader
    /// can count on them.
    pub(super) fn further_headers(&self) -> &'static [(&'static str, &'static str, bool)] {
        match self {
            Self::Kafka(_) => &[],
            Self::Nats(_) => &[
                (DATA_CONTENT_TYPE, "the same as `content-type`", true),
                ("Nats-Msg-Id", "the same as `ce-id`: JetStream deduplicates by it", false),
                ("Nats-Expected-Stream", "the stream", false),
            ],
            Self::Embedded => &[(DATA_CONTENT_TYPE, "the same as `content-type`", true)],
        }
    }

    /// The headers of a message.
    pub(super) fn headers(&self, message: &Message) -> Map<String, Value> {
        match self {
            Self::Kafka(_) => message.kafka_headers().map(|(name, value)| (name.to_owned(), value.into())).collect(),
            Self::Nats(_) | Self::Embedded => {
                message.nats_headers().map(|(name, value)| (name.to_owned(), value.into())).collect()
            }
        }
    }

    /// The bucket of payloads that are too large for a message.
    pub(super) fn object_store(&self) -> Option<&'c str> {
        match self {
            Self::Nats(nats) => nats.object_store.as_deref(),
            Self::Kafka(_) | Self::Embedded => None,
        }
    }

    /// Where a subscriber finds a topic.
    pub(super) fn address(&self, topic: &str) -> String {
        match self {
            Self::Kafka(_) | Self::Nats(_) => topic.to_owned(),
            Self::Embedded => format!("/topics/{topic}/messages"),
        }
    }

    /// What a reader has to know about this bus.
    pub(super) fn note(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "",
            Self::Nats(_) | Self::Embedded => "\n- The values of `ce-…` headers are percent-encoded.",
        }
    }

    pub(super) fn of_channel(&self, topic: &str) -> Value {
        let Self::Kafka(kafka) = self else { return json!({}) };
        let mut channel = json!({ "topic": topic, "bindingVersion": "0.5.0" });
        if kafka.create_topics {
            channel["partitions"] = kafka.partitions.into();
            if let Some(replicas) = kafka.replication_factor {
                channel["replicas"] = replicas.into();
            }
        }
        json!({ "kafka": channel })
    }

    pub(super) fn of_operation(&self) -> Value {
        match self {
            Self::Kafka(_) => json!({ "kafka": { "bindingVersion": "0.5.0" } }),
            Self::Nats(_) => json!({ "nats": { "bindingVersion": "0.1.0" } }),
            Self::Embedded => {
                let offset = |description| json!({ "type": "string", "description": description });
                let query = json!({
                    "type": "object",
                    "properties": {
                        "from": offset("`earliest` (the default), `latest` or an offset"),
                        "limit": { "type": "integer", "description": "the most messages" },
                        "follow": { "type": "boolean", "description": "whether to wait for new messages" },
                    },
                });
                json!({ "http": { "method": "GET", "query": query, "bindingVersion": "0.3.0" } })
            }
        }
    }

    /// Of every message. Only Kafka's has something to say: the key.
    pub(super) fn of_message(&self) -> Value {
        let Self::Kafka(_) = self else { return json!({}) };
        let key = json!({ "type": "string", "description": "the same as `ce_partitionkey`" });
        json!({ "kafka": { "key": key, "bindingVersion": "0.5.0" } })
    }
}
