//! As much of Kafka's protocol as a proxy needs to refuse a batch: reads the partition of a Produce request, and
//! answers it like a broker that becomes the partition's leader only before the next one.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Mutex;

/// Bytes beyond which a frame cannot be a request or a response.
const LARGEST: usize = 64 << 20;
const PRODUCE: i16 = 0;
/// From the first version on, lengths are varints and structures end with tags; the last one is the newest that this
/// file knows.
const VERSIONS: std::ops::RangeInclusive<i16> = 9..=12;
const NOT_LEADER_OR_FOLLOWER: i16 = 6;

/// The next request or response, including its length field.
pub fn frame(from: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    from.read_exact(&mut frame)?;
    let length = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    if length > LARGEST {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    frame.resize(4 + length, 0);
    from.read_exact(&mut frame[4..])?;
    Ok(frame)
}

/// A topic and one of its partitions.
pub type Place = (Vec<u8>, [u8; 4]);
/// Matches a response to its request.
type Correlation = [u8; 4];

/// The batches that one connection holds back from the broker. Each is refused directly before the response to the
/// next one for its partition, in the order in which a broker would answer two requests.
#[derive(Default)]
pub struct HeldBack(Mutex<HashMap<Place, (Batch, Option<Correlation>)>>);

impl HeldBack {
    pub fn hold(&self, batch: Batch) {
        self.0.lock().unwrap().insert(batch.place.clone(), (batch, None));
    }

    /// Another batch was forwarded to the broker.
    pub fn follows(&self, next: &Batch) {
        if let Some((_, second)) = self.0.lock().unwrap().get_mut(&next.place) {
            second.get_or_insert(next.correlation);
        }
    }

    /// What to send before this response of the broker's.
    pub fn before(&self, answer: &[u8]) -> Option<Vec<u8>> {
        let answered = answer.get(4..8)?;
        let mut held = self.0.lock().unwrap();
        let second = |(_, second): &&(Batch, Option<Correlation>)| second.is_some_and(|second| second == answered);
        let place = held.values().find(second)?.0.place.clone();
        held.remove(&place).map(|(batch, _)| batch.not_leader())
    }

    /// The response to a batch that no other followed.
    pub fn alone(&self, place: &Place) -> Option<Vec<u8>> {
        let mut held = self.0.lock().unwrap();
        let (_, second) = held.get(place)?;
        if second.is_some() { None } else { held.remove(place).map(|(batch, _)| batch.not_leader()) }
    }
}

/// A batch for one partition: librdkafka sends each in a request of its own.
pub struct Batch {
    correlation: Correlation,
    pub place: Place,
}

impl Batch {
    /// `None` for another request, or an unknown version.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let mut rest = Rest(frame.get(4..)?);
        let (key, version) = (rest.int16()?, rest.int16()?);
        if key != PRODUCE || !VERSIONS.contains(&version) {
            return None;
        }
        let correlation = rest.take(4)?.try_into().ok()?;
        let client = rest.int16()?;
        rest.take(usize::try_from(client).unwrap_or(0))?;
        rest.no_tags()?;
        let transaction = rest.varint()?;
        rest.take(transaction.saturating_sub(1))?;
        let (_acks, _timeout, _topics) = (rest.take(2)?, rest.take(4)?, rest.varint()?);
        let length = rest.varint()?.checked_sub(1)?;
        let topic = rest.take(length)?.to_owned();
        let _partitions = rest.varint()?;
        let partition = rest.take(4)?.try_into().ok()?;
        Some(Self { correlation, place: (topic, partition) })
    }

    /// A response that refuses the whole batch.
    pub fn not_leader(&self) -> Vec<u8> {
        const NO_TAGS: &[u8] = &[0];
        const ONE: &[u8] = &[2];
        let nowhere = (-1_i64).to_be_bytes();
        let (topic, partition) = &self.place;
        let length = u8::try_from(topic.len() + 1).ok().filter(|length| *length < 0x80).expect("a short name");
        let parts: [&[u8]; 16] = [
            &self.correlation,
            NO_TAGS,
            ONE,
            &[length],
            topic,
            ONE,
            partition,
            &NOT_LEADER_OR_FOLLOWER.to_be_bytes(),
            // Base offset, append time, log start.
            &nowhere,
            &nowhere,
            &nowhere,
            // No errors of single records, and no message.
            &[1, 0],
            NO_TAGS,
            NO_TAGS,
            // Not throttled.
            &[0; 4],
            NO_TAGS,
        ];
        let body = parts.concat();
        [&(body.len() as u32).to_be_bytes()[..], &body].concat()
    }
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn int16(&mut self) -> Option<i16> {
        self.take(2)?.try_into().ok().map(i16::from_be_bytes)
    }

    fn varint(&mut self) -> Option<usize> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.take(1)?[0];
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn no_tags(&mut self) -> Option<()> {
        (self.varint()? == 0).then_some(())
    }
}
