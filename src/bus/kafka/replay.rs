//! Topics from their earliest record on, for `requests`. Comes in: topics. Goes out: records, and when all
//! that each partition had at the call was read. Joins no group, commits nothing, jumps nowhere.

use std::collections::HashMap;
use std::time::Instant;

use futures_util::stream;
use rdkafka::Offset;
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::TopicPartitionList;

use super::client::{Query as _, QueryClient, code};
use super::settings;
use super::tail::{ASK, Reader, left, partitions, passing, record, refused, unanswered};
use crate::bus::{ReadError, Record, Replay, SILENCE, Step, Wanted};
use crate::config;

/// Reads kept messages without disturbing any consumer; see [`super::super::replay`].
pub(crate) async fn replay(config: &config::Kafka, topics: Vec<String>, wanted: Wanted) -> Result<Replay, ReadError> {
    let mut settings = settings::consumer(config).map_err(|error| ReadError(error.0))?;
    settings.set("enable.partition.eof", "true");
    let asker = QueryClient::open(config).map_err(|error| ReadError(error.0))?;
    let opened = tokio::task::spawn_blocking(move || {
        let ends = ends(&asker, &topics, Instant::now() + ASK)?;
        let mut list = TopicPartitionList::new();
        for end in &ends {
            let added = list.add_partition_offset(&end.topic, end.partition, Offset::Beginning);
            added.map_err(|error| refused(&end.topic, code(&error)))?;
        }
        Ok((Reader::open(&settings, &list)?, Ahead::new(ends)))
    });
    let (reader, ahead) = opened.await.map_err(|_| ReadError("reading was interrupted".to_owned()))??;
    let reading = Reading { reader, ahead, caught_up: false, wanted };
    Ok(Box::pin(stream::unfold(Some(reading), |reading| async move {
        let mut reading = reading?;
        match reading.step().await {
            Ok(step) => Some((Ok(step), Some(reading))),
            Err(error) => Some((Err(error), None)),
        }
    })))
}

/// Where a partition begins and ends.
struct End {
    topic: String,
    partition: i32,
    first: i64,
    next: i64,
}

/// Of every partition. Blocks. Asks for the topics side by side, as `tail` does.
fn ends(asker: &QueryClient, topics: &[String], deadline: Instant) -> Result<Vec<End>, ReadError> {
    let of_topic = |topic: &str| -> Result<Vec<End>, ReadError> {
        let end = |partition| {
            let ends = asker.offsets(topic, partition, left(deadline));
            let (first, next) = ends.map_err(|error| unanswered(topic, &asker.explain(&error)))?;
            Ok(End { topic: topic.to_owned(), partition, first, next })
        };
        (0..partitions(asker, topic, deadline)?).map(end).collect()
    };
    std::thread::scope(|scope| {
        let asking: Vec<_> = topics.iter().map(|topic| scope.spawn(move || of_topic(topic))).collect();
        let asked = asking.into_iter().map(|asking| asking.join());
        let ends = asked.map(|ends| ends.map_err(|_| ReadError("reading was interrupted".to_owned()))?);
        Ok(ends.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    })
}

/// What is still to be read before all that was kept is read.
struct Ahead {
    /// By topic and partition: the offset that came next at the call.
    next: HashMap<String, HashMap<i32, i64>>,
    /// Of all topics, by the partition's number.
    partitions: HashMap<i32, usize>,
    /// By the partition's number: how often librdkafka reported the end of one. It does not say of which
    /// topic's.
    ends: HashMap<i32, usize>,
}

impl Ahead {
    fn new(ends: Vec<End>) -> Self {
        let mut ahead = Self { next: HashMap::new(), partitions: HashMap::new(), ends: HashMap::new() };
        for end in ends {
            *ahead.partitions.entry(end.partition).or_default() += 1;
            if end.first < end.next {
                ahead.next.entry(end.topic).or_default().insert(end.partition, end.next);
            }
        }
        ahead
    }

    fn is_empty(&self) -> bool {
        self.next.is_empty()
    }

    fn read(&mut self, topic: &str, partition: i32, offset: i64) {
        let Some(partitions) = self.next.get_mut(topic) else { return };
        if partitions.get(&partition).is_some_and(|next| offset + 1 >= *next) {
            partitions.remove(&partition);
        }
        if partitions.is_empty() {
            self.next.remove(topic);
        }
    }

    fn end(&mut self, partition: i32) {
        *self.ends.entry(partition).or_default() += 1;
    }

    /// Whether every partition that could be meant has reported its end: then the last offsets hold no
    /// record any more (a retention, a compaction, the mark of a transaction).
    fn ended(&self) -> bool {
        let mut left = self.next.values().flat_map(HashMap::keys);
        left.all(|partition| self.ends.get(partition) >= self.partitions.get(partition))
    }
}

struct Reading {
    reader: Reader,
    ahead: Ahead,
    caught_up: bool,
    wanted: Wanted,
}

impl Reading {
    async fn step(&mut self) -> Result<Step, ReadError> {
        while !self.caught_up {
            if self.ahead.is_empty() {
                self.caught_up = true;
                return Ok(Step::CaughtUp);
            }
            match tokio::time::timeout(SILENCE, self.next()).await {
                Ok(record) => return record.map(Step::Record),
                Err(_) if self.ahead.ended() => self.ahead.next.clear(),
                Err(_) => {
                    return Err(ReadError(format!(
                        "Kafka was silent for {SILENCE:?} before it gave all that it keeps; check kafka.brokers"
                    )));
                }
            }
        }
        self.next().await.map(Step::Record)
    }

    /// Cancel-safe: what was received and not returned is only the end of a partition.
    async fn next(&mut self) -> Result<Record, ReadError> {
        loop {
            match self.reader.consumer().recv().await {
                Ok(message) => {
                    self.ahead.read(message.topic(), message.partition(), message.offset());
                    return Ok(record(&message, self.wanted));
                }
                Err(KafkaError::PartitionEOF(partition)) => self.ahead.end(partition),
                Err(error) if passing(code(&error)) => tracing::debug!(code = ?code(&error), "reading waits for Kafka"),
                Err(error) => return Err(refused("a topic", code(&error))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ahead(ends: &[(&str, i32, i64, i64)]) -> Ahead {
        let end = |&(topic, partition, first, next): &(&str, i32, i64, i64)| End {
            topic: topic.to_owned(),
            partition,
            first,
            next,
        };
        Ahead::new(ends.iter().map(end).collect())
    }

    #[test]
    fn all_is_read_when_each_partition_gave_its_last_record() {
        let mut ahead = ahead(&[("a", 0, 0, 2), ("a", 1, 5, 5), ("b", 0, 7, 8)]);
        ahead.read("a", 0, 0);
        ahead.read("b", 0, 7);
        assert!(!ahead.is_empty());
        ahead.read("c", 0, 9);
        ahead.read("a", 0, 1);
        assert!(ahead.is_empty());
        assert!(self::ahead(&[("a", 0, 3, 3)]).is_empty());
    }

    #[test]
    fn a_partition_whose_last_offsets_are_empty_ends_with_all_of_its_number() {
        let mut ahead = ahead(&[("a", 0, 0, 2), ("b", 0, 0, 0), ("b", 1, 0, 0)]);
        ahead.end(0);
        ahead.end(1);
        assert!(!ahead.ended(), "it may have been the other topic's");
        ahead.end(0);
        assert!(ahead.ended());
    }
}
