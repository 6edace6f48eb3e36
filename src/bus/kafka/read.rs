//! Reads topics of Kafka for the commands. Joins no group, commits nothing and never skips a record: an offset that
//! is gone is an error.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use rdkafka::consumer::stream_consumer::StreamPartitionQueue;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{ClientConfig, Offset};

use super::client::{self, ClosedAside, NoAnswer, Query as _, QueryClient, QueryContext, code, is_not_reached, left};
use super::connection_error::ConnectionError;
use super::settings;
use crate::bus::read::{Progress, Skipped, Source, merge};
use crate::bus::{Payloads, ReadError, Reading, Record, StartPosition};
use crate::config;

/// For all questions before the first record.
const ASK_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of records that wait to be read, of all partitions together.
const READ_AHEAD: usize = 64 << 20;

/// Reads kept messages without disturbing any consumer. `Latest` means from the moment of the call. An offset that a
/// partition does not have is an error.
pub(crate) async fn read(
    config: &config::Kafka,
    topics: Vec<String>,
    from: StartPosition,
    payloads: Payloads,
) -> Result<Reading, ReadError> {
    let settings = settings::consumer(config)?;
    let client = QueryClient::open(config)?;
    let opening = tokio::task::spawn_blocking(move || {
        let Found { partitions, skipped } = find(&client, topics, from, Instant::now() + ASK_WITHIN)?;
        Ok(Reading { skipped, steps: merge(sources(&settings, partitions, payloads)?) })
    });
    opening.await.unwrap_or_else(|_| Err(ReadError("reading was interrupted".to_owned())))
}

/// What is to be read.
#[derive(Default)]
struct Found {
    partitions: Vec<Partition>,
    skipped: Skipped,
}

struct Partition {
    topic: String,
    number: i32,
    start: Offset,
    /// The offset that came next at the call; `None` where nothing that was kept is to be read.
    end: Option<i64>,
}

/// Why a topic is not read.
enum Unread {
    /// Others can be read all the same.
    Skipped(ReadError),
    Failed(ReadError),
}

/// Blocks. Asks for the topics side by side: with many partitions on distant brokers the answers would otherwise take
/// longer than [`ASK_WITHIN`].
fn find(client: &QueryClient, topics: Vec<String>, from: StartPosition, deadline: Instant) -> Result<Found, ReadError> {
    std::thread::scope(|scope| {
        let ask = |topic: String| {
            let asked = topic.clone();
            (topic, scope.spawn(move || partitions(client, &asked, from, deadline)))
        };
        let asking: Vec<_> = topics.into_iter().map(ask).collect();
        let mut found = Found::default();
        for (topic, answer) in asking {
            match answer.join() {
                Ok(Ok(partitions)) => found.partitions.extend(partitions),
                Ok(Err(Unread::Skipped(reason))) => found.skipped.push((topic, reason)),
                Ok(Err(Unread::Failed(error))) => return Err(error),
                Err(_) => return Err(ReadError("reading was interrupted".to_owned())),
            }
        }
        Ok(found)
    })
}

fn partitions(
    client: &QueryClient,
    topic: &str,
    from: StartPosition,
    deadline: Instant,
) -> Result<Vec<Partition>, Unread> {
    let unanswered = |error| unanswered(topic, &client.explain(&error));
    let metadata = client.metadata(Some(topic), left(deadline)).map_err(unanswered)?;
    let found = metadata.topics().first();
    if let Some(error) = found.and_then(|topic| topic.error()) {
        return Err(unread(topic, error.into()));
    }
    let count = found.map_or(0, |topic| topic.partitions().len() as i32);
    let partition = |number| {
        let (first, next) = client.offsets(topic, number, left(deadline)).map_err(unanswered)?;
        let (start, is_behind) = start(topic, number, from, first..next)?;
        Ok(Partition { topic: topic.to_owned(), number, start, end: is_behind.then_some(next) })
    };
    (0..count).map(partition).collect()
}

/// Where to begin in a partition that has these offsets, and whether any of them is to be read.
fn start(topic: &str, partition: i32, from: StartPosition, kept: Range<i64>) -> Result<(Offset, bool), Unread> {
    match from {
        StartPosition::Earliest => Ok((Offset::Beginning, !kept.is_empty())),
        StartPosition::Latest => Ok((Offset::Offset(kept.end), false)),
        StartPosition::Offset(offset) => match i64::try_from(offset) {
            Ok(offset) if kept.contains(&offset) || offset == kept.end => {
                Ok((Offset::Offset(offset), offset < kept.end))
            }
            _ => Err(Unread::Failed(ReadError(format!(
                "partition {partition} of topic {topic} has no offset {offset}: its first is {}, its next {}",
                kept.start, kept.end
            )))),
        },
    }
}

/// librdkafka bounds what it holds of each queue, and each partition has one: they share [`READ_AHEAD`].
fn bounded(mut settings: ClientConfig, partitions: usize) -> ClientConfig {
    let each = READ_AHEAD / partitions.max(1);
    settings
        .set("queued.max.messages.kbytes", (each / 1024).max(1).to_string())
        .set("fetch.message.max.bytes", each.clamp(1 << 20, 16 << 20).to_string())
        .set("queued.min.messages", (1000 / partitions.max(1)).max(10).to_string());
    settings
}

/// One for each partition, and one for what concerns the consumer as a whole.
fn sources(settings: &ClientConfig, partitions: Vec<Partition>, payloads: Payloads) -> Result<Vec<Source>, ReadError> {
    let settings = bounded(settings.clone(), partitions.len());
    let consumer: StreamConsumer<QueryContext> = client::create(&settings, QueryContext::default())?;
    let consumer = Arc::new(ClosedAside::new(Arc::new(consumer)));
    let mut list = TopicPartitionList::new();
    let mut readers = Vec::new();
    for partition in partitions {
        let Partition { topic, number, start, end } = partition;
        list.add_partition_offset(&topic, number, start).map_err(|error| refused(&topic, code(&error)))?;
        // Before the assignment, which leaves queues that were split off as they are.
        let queue = consumer.split_partition_queue(&topic, number);
        let queue = queue.ok_or_else(|| refused(&topic, Code::UnknownPartition))?;
        readers.push(PartitionReader { queue, topic, end, payloads, _consumer: consumer.clone() });
    }
    consumer.assign(&list).map_err(|error| refused("the topics", code(&error)))?;
    let events = stream::try_unfold(consumer, move |consumer| async move {
        let progress = events(&consumer, payloads).await?;
        Ok(Some((progress, consumer)))
    });
    let mut sources = vec![Source { is_behind: false, progress: Box::pin(events) }];
    sources.extend(readers.into_iter().map(PartitionReader::source));
    Ok(sources)
}

/// Serves the consumer until an error that it does not get over. Records come through the partitions' queues.
async fn events(consumer: &StreamConsumer<QueryContext>, payloads: Payloads) -> Result<Progress, ReadError> {
    loop {
        match consumer.recv().await {
            Ok(message) => return Ok(Progress { record: Some(record(&message, payloads)), is_caught_up: false }),
            Err(KafkaError::PartitionEOF(_)) => {}
            Err(error) if passes(code(&error)) => tracing::debug!(code = ?code(&error), "reading waits for Kafka"),
            Err(error) => return Err(refused("the topics", code(&error))),
        }
    }
}

struct PartitionReader {
    queue: StreamPartitionQueue<QueryContext>,
    topic: String,
    end: Option<i64>,
    payloads: Payloads,
    /// Let go after the queue.
    _consumer: Arc<ClosedAside<Arc<StreamConsumer<QueryContext>>>>,
}

impl PartitionReader {
    fn source(self) -> Source {
        let is_behind = self.end.is_some();
        let progress = stream::try_unfold(self, |reader| async move {
            let progress = reader.next().await?;
            Ok(Some((progress, reader)))
        });
        Source { is_behind, progress: Box::pin(progress) }
    }

    /// The last offsets may hold no record any more (a retention, a compaction, the mark of a transaction): then the
    /// end of the partition tells that all was read.
    async fn next(&self) -> Result<Progress, ReadError> {
        loop {
            match self.queue.recv().await {
                Ok(message) => {
                    let is_caught_up = self.end.is_some_and(|end| message.offset() + 1 >= end);
                    return Ok(Progress { record: Some(record(&message, self.payloads)), is_caught_up });
                }
                Err(KafkaError::PartitionEOF(_)) => return Ok(Progress { record: None, is_caught_up: true }),
                Err(error) if passes(code(&error)) => tracing::debug!(code = ?code(&error), "reading waits for Kafka"),
                Err(error) => return Err(refused(&self.topic, code(&error))),
            }
        }
    }
}

/// Errors that the consumer gets over by itself.
fn passes(code: Code) -> bool {
    matches!(
        code,
        Code::AllBrokersDown
            | Code::BrokerTransportFailure
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::NotLeaderForPartition
            | Code::LeaderNotAvailable
            | Code::UnknownLeaderEpoch
            | Code::FencedLeaderEpoch
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::WaitingForCoordinator
    )
}

fn unanswered(topic: &str, no_answer: &NoAnswer) -> Unread {
    match no_answer.explained {
        Some(error) if error.is_permanent() => {
            Unread::Failed(ReadError(format!("{}; {}", error.says(), error.remedy())))
        }
        Some(error) if is_not_reached(no_answer.code) => Unread::Failed(ReadError(format!(
            "no Kafka broker answered for {topic}: {}; {}",
            error.says(),
            error.remedy()
        ))),
        _ => unread(topic, no_answer.code),
    }
}

fn unread(topic: &str, code: Code) -> Unread {
    match code {
        Code::UnknownTopicOrPartition
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::TopicAuthorizationFailed => Unread::Skipped(refused(topic, code)),
        _ => Unread::Failed(refused(topic, code)),
    }
}

fn refused(topic: &str, code: Code) -> ReadError {
    ReadError(match code {
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => format!(
            "topic {topic} does not exist; the bridge creates its topics when it starts (kafka-topics --list shows all)"
        ),
        Code::TopicAuthorizationFailed => {
            format!("this login may not read {topic}; grant it Read and Describe on the topic")
        }
        Code::GroupAuthorizationFailed => {
            "this login may not use the group terra-bridge-tail; grant it Read on that group".to_owned()
        }
        Code::AutoOffsetReset | Code::OffsetOutOfRange => {
            format!("retention removed the next record of {topic} before it was read; use --from earliest")
        }
        Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut | Code::Resolve => {
            format!("no Kafka broker answered for {topic} within {} s; check kafka.brokers", ASK_WITHIN.as_secs())
        }
        other => match ConnectionError::of_code(other) {
            Some(error) => format!("{}; {}", error.says(), error.remedy()),
            None => format!("Kafka answered {other:?} for {topic}"),
        },
    })
}

fn record(message: &BorrowedMessage<'_>, payloads: Payloads) -> Record {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    let mut record = Record {
        topic: message.topic().to_owned(),
        key: message.key().map(text),
        partition: message.partition(),
        offset: message.offset().try_into().unwrap_or_default(),
        time: time(message.timestamp().to_millis()),
        headers: headers.map(|header| (header.key.to_owned(), text(header.value.unwrap_or_default()))).collect(),
        payload: Bytes::new(),
        problem: None,
    };
    if payloads.include(&record) {
        record.payload = Bytes::copy_from_slice(message.payload().unwrap_or_default());
    }
    record
}

/// The broker's time of the record; the epoch where it has none that can be.
fn time(millis: Option<i64>) -> jiff::Timestamp {
    millis.and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok()).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::BaseConsumer;

    use super::*;

    #[test]
    fn librdkafka_takes_the_bounds_of_any_number_of_partitions() {
        for partitions in [0, 1, 246, 100_000] {
            let settings = bounded(ClientConfig::new(), partitions);
            let made: Result<BaseConsumer, _> = settings.create();
            assert!(made.is_ok(), "{partitions}: {:?}", made.err());
        }
    }
}
