//! Batches of messages get smaller where a topic takes less: a broker refuses a batch as a whole, and nobody knows by
//! how much it was too large.

use rdkafka::ClientConfig;
use rdkafka::types::RDKafkaErrorCode as Code;

use crate::bus::Refusal;
use crate::message::Message;

/// Bytes of messages for one partition that go to the broker together, before compression; a larger one goes
/// alone. Well below what a topic takes that nobody set up.
pub(super) const DEFAULT: u64 = 256 * 1024;

/// Bytes of a batch that this producer fills, as librdkafka understands its settings.
pub(super) fn batch_size(producer: &ClientConfig) -> u64 {
    let set = producer.create_native_config().and_then(|native| native.get("batch.size"));
    set.ok().and_then(|bytes| bytes.parse().ok()).unwrap_or(DEFAULT)
}

/// What to try after a batch of a client that fills so many bytes was too large.
pub(super) fn smaller(batch: u64) -> u64 {
    batch / 4
}

/// Whether others in its batch, of so many bytes at most, may be the reason why this message was refused.
pub(super) fn may_be_due_to_others(code: Code, message: &Message, batch: u64) -> bool {
    let headers: usize = message.kafka_headers().map(|(key, value)| key.len() + value.len()).sum();
    let size = (message.key().len() + message.payload().len() + headers) as u64;
    matches!(code, Code::MessageSizeTooLarge | Code::MessageBatchTooLarge) && size <= batch
}

/// The refusal for such a message.
pub(super) fn refusal(topic: &str) -> Refusal {
    Refusal::Transient {
        reason: format!("topic {topic} takes less than a batch of messages: batches get smaller").into(),
    }
}
