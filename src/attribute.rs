//! The CloudEvents 1.0.2 attributes of a message: the name of each, its header on every bus, and what its value means.
//! Messages, readers and documents all take the names from here.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

/// Bytes. A longer value is replaced by its digest, so that no sender can create a message whose headers a bus
/// refuses.
const MAX_VALUE: usize = 1024;

macro_rules! attributes {
    ($($variant:ident = $name:literal, $meaning:literal;)*) => {
        /// One attribute: of the specification, of its documented extensions, or, where it begins with `terra`, of
        /// the bridge itself.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Attribute {
            $(#[doc = $meaning] $variant,)*
        }

        impl Attribute {
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Its header in the Kafka binding.
            pub const fn kafka_header(self) -> &'static str {
                match self { $(Self::$variant => concat!("ce_", $name),)* }
            }

            /// Its header in the NATS binding, and on the embedded log.
            pub const fn nats_header(self) -> &'static str {
                match self { $(Self::$variant => concat!("ce-", $name),)* }
            }

            /// What its value is, in a few words of Markdown.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

attributes! {
    SpecVersion = "specversion", "`1.0`";
    Id = "id", "the delivery id, the same for every retry: deduplicate by it";
    Source = "source", "`/terra/<endpoint>`";
    Type = "type", "`co.tryterra.<type>`; of a dead letter `co.tryterra.dead-letter`";
    Time = "time", "when Terra emitted the event, else when it signed the delivery";
    Subject = "subject", "the user's id, else the order's; absent where there is neither";
    PartitionKey = "partitionkey", "the key";
    Sequence = "sequence", "Terra's ordering timestamp: Unix milliseconds in 13 digits, the same for every retry; absent where Terra sent none, and `time` decides";
    RecordedTime = "recordedtime", "when the bridge received the delivery";
    TraceParent = "traceparent", "the W3C trace context of Terra's request, where it had one";
    TraceState = "tracestate", "the vendors' part of that trace context";
    CorrelationId = "correlationid", "Terra's reference: what belongs to one request shares it";
    TerraTraceId = "terratraceid", "Terra's trace id";
    TerraEventId = "terraeventid", "the event id in the body";
    TerraProvider = "terraprovider", "the user's provider, such as `OURA`";
    TerraChunk = "terrachunk", "the number in a trace id `…:chunk:<n>`: which part of a large request";
    TerraFetched = "terrafetched", "`true` where the bridge followed a link to the payload";
    TerraUnfetched = "terraunfetched", "why the bridge did not follow the link in the payload";
    TerraDeadLetter = "terradeadletter", "why the payload is unreadable: `not-utf8`, `not-json`, `not-an-object`, `no-type`";
    DataRef = "dataref", "on NATS, where a payload too large for a message is: `nats-object:<bucket>/<object>`";
    TerraDigest = "terradigest", "the SHA-256 of that payload in lower-case hex";
    TerraBytes = "terrabytes", "the size of that payload";
}

impl Attribute {
    /// The attribute of a header of the NATS binding.
    pub(crate) fn of_nats_header(header: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|attribute| attribute.nats_header() == header)
    }
}

/// The value as CloudEvents allows a string: its digest if it is too long, or has a control character or a
/// noncharacter.
pub(crate) fn attribute_value<'v>(value: impl Into<Cow<'v, str>>) -> Cow<'v, str> {
    let value = value.into();
    let is_printable = |byte: u8| matches!(byte, b' '..=b'~');
    if value.len() <= MAX_VALUE && (value.bytes().all(is_printable) || value.chars().all(is_allowed)) {
        return value;
    }
    format!("sha256:{}", data_encoding::HEXLOWER.encode(&Sha256::digest(value.as_bytes()))).into()
}

fn is_allowed(character: char) -> bool {
    let is_noncharacter = |code: u32| (0xFDD0..=0xFDEF).contains(&code) || code & 0xFFFE == 0xFFFE;
    !character.is_control() && !is_noncharacter(u32::from(character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_cloudevents_allows() {
        for attribute in Attribute::ALL {
            let name = attribute.name();
            let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            assert!((1..=20).contains(&name.len()) && name.bytes().all(is_allowed), "{name}");
            assert_eq!(Attribute::of_nats_header(attribute.nats_header()), Some(*attribute));
        }
        assert_eq!(Attribute::of_nats_header("id"), None);
    }

    #[test]
    fn values_are_what_cloudevents_allows() {
        // printf 'a\tb' | sha256sum
        let tab = "sha256:894891f8b78a9945b0aa07e70d5f71f10b1f1990af127de561cc0ac36024c188";
        let digest = |value: &str| attribute_value(value.to_owned()).starts_with("sha256:");
        for kept in ["", "a b\"%é", "\u{FFFD}\u{10000}\u{A0}", &"x".repeat(MAX_VALUE)] {
            assert_eq!(attribute_value(kept.to_owned()), kept);
        }
        for odd in ["\0", "\n", "\u{7f}", "\u{9d}", "\u{FDD0}", "\u{FFFE}", "\u{10FFFF}", &"x".repeat(MAX_VALUE + 1)] {
            assert!(digest(odd), "{}", odd.escape_unicode());
        }
        assert_eq!(attribute_value("a\tb".to_owned()), tab);
    }
}
