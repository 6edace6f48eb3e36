//! How a message lies in the log: keys that sort as they are read, values that say their version.

use bytes::Bytes;
use jiff::Timestamp;

use crate::bus::Record;
use crate::message::Message;

/// The first byte of every value. Another one is refused, never guessed at.
const VERSION: u8 = 1;

/// A value that is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record of the embedded log cannot be decoded")]
pub(super) struct Corrupt;

/// `r`, topic, NUL, offset: a topic's records lie together, in order. No topic has a NUL in it.
pub(super) fn record_key(topic: &str, offset: u64) -> Vec<u8> {
    let mut key = record_prefix(topic);
    key.extend_from_slice(&offset.to_be_bytes());
    key
}

pub(super) fn record_prefix(topic: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(topic.len() + 10);
    key.push(b'r');
    key.extend_from_slice(topic.as_bytes());
    key.push(0);
    key
}

/// The offset in a record's key.
pub(super) fn offset_of(key: &[u8]) -> Result<u64, Corrupt> {
    key.last_chunk().copied().map(u64::from_be_bytes).ok_or(Corrupt)
}

/// `i`, topic, NUL, delivery id: one delivery may lie in several topics, once in each.
pub(super) fn id_key(topic: &str, id: &[u8; 32]) -> Vec<u8> {
    let mut key = record_prefix(topic);
    key[0] = b'i';
    key.extend_from_slice(id);
    key
}

pub(super) fn encode(message: &Message, time: Timestamp) -> Vec<u8> {
    let headers: Vec<_> = message.nats_headers().collect();
    let mut value = Vec::with_capacity(message.payload().len() + 1024);
    value.push(VERSION);
    value.extend_from_slice(&time.as_millisecond().to_be_bytes());
    put(&mut value, message.key().as_bytes());
    value.extend_from_slice(&(headers.len() as u32).to_be_bytes());
    for (name, text) in headers {
        put(&mut value, name.as_bytes());
        put(&mut value, text.as_bytes());
    }
    value.extend_from_slice(message.payload());
    value
}

fn put(value: &mut Vec<u8>, field: &[u8]) {
    value.extend_from_slice(&(field.len() as u32).to_be_bytes());
    value.extend_from_slice(field);
}

pub(super) fn decode(topic: &str, offset: u64, value: &[u8]) -> Result<Record, Corrupt> {
    let mut rest = value.strip_prefix(&[VERSION]).ok_or(Corrupt)?;
    let time = i64::from_be_bytes(*take(&mut rest)?);
    let key = field(&mut rest)?;
    let count = u32::from_be_bytes(*take(&mut rest)?);
    let headers = (0..count).map(|_| Ok((field(&mut rest)?, field(&mut rest)?))).collect::<Result<_, Corrupt>>()?;
    Ok(Record {
        topic: topic.to_owned(),
        key: Some(key),
        partition: 0,
        offset,
        time: Timestamp::from_millisecond(time).map_err(|_| Corrupt)?,
        headers,
        payload: Bytes::copy_from_slice(rest),
    })
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], Corrupt> {
    let (taken, left) = rest.split_first_chunk().ok_or(Corrupt)?;
    *rest = left;
    Ok(taken)
}

fn field(rest: &mut &[u8]) -> Result<String, Corrupt> {
    let length = u32::from_be_bytes(*take(rest)?) as usize;
    let (taken, left) = rest.split_at_checked(length).ok_or(Corrupt)?;
    *rest = left;
    String::from_utf8(taken.to_vec()).map_err(|_| Corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded() -> Vec<u8> {
        let message = Message::sample("terra.daily", "user ü", [7; 32], &b"{\"type\":\"daily\"}"[..]);
        encode(&message, Timestamp::from_millisecond(1_700_000_000_123).unwrap())
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let record = decode("terra.daily", 9, &encoded()).unwrap();
        assert_eq!((record.topic.as_str(), record.offset), ("terra.daily", 9));
        assert_eq!(record.key.as_deref(), Some("user ü"));
        assert_eq!(record.time.as_millisecond(), 1_700_000_000_123);
        assert!(record.headers.contains(&("terra-endpoint".into(), "terra".into())));
        assert_eq!(&record.payload[..], b"{\"type\":\"daily\"}");
    }

    #[test]
    fn a_torn_head_is_an_error_at_every_length() {
        let value = encoded();
        let head = value.len() - b"{\"type\":\"daily\"}".len();
        for length in 0..head {
            assert_eq!(decode("t", 0, &value[..length]), Err(Corrupt), "{length}");
        }
        assert_eq!(decode("t", 0, &[&[2], &value[1..]].concat()), Err(Corrupt), "another version");
    }

    #[test]
    fn keys_of_a_topic_sort_by_offset_and_stay_apart_from_its_neighbours() {
        let keys = [record_key("a", 1), record_key("a", 255), record_key("a", 256), record_key("a.b", 0)];
        assert!(keys.is_sorted());
        assert!(!record_key("a.b", 0).starts_with(&record_prefix("a")));
        assert_eq!(offset_of(&record_key("a", 77)), Ok(77));
    }
}
