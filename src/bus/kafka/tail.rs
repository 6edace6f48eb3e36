//! Reading topics for people. Comes in: topics and where to begin. Goes out: a stream of records.
//! Joins no group, commits nothing, jumps nowhere.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{ClientConfig, Offset};

use super::client::{self, NoAnswer, Query as _, QueryClient, QueryContext, code, is_not_reached};
use super::connection_error::ConnectionError;
use super::settings;
use crate::bus::{ReadError, Record, Records, StartPosition, Wanted};
use crate::config;

/// For all questions before the first record.
pub(super) const ASK: Duration = Duration::from_secs(10);

/// Reads kept messages without disturbing any consumer. `Latest` means from the moment of the call.
/// An offset that a partition does not have is an error, and so is a topic that does not exist. While
/// the brokers are away the stream waits.
pub(crate) async fn tail(
    config: &config::Kafka,
    topics: Vec<String>,
    from: StartPosition,
) -> Result<Records, ReadError> {
    let settings = settings::consumer(config).map_err(|error| ReadError(error.0))?;
    let asker = QueryClient::open(config).map_err(|error| ReadError(error.0))?;
    let reader = tokio::task::spawn_blocking(move || {
        let list = begin(&asker, &topics, from, Instant::now() + ASK)?;
        Reader::open(&settings, &list)
    });
    let reader = reader.await.map_err(|_| ReadError("reading was interrupted".to_owned()))??;
    Ok(Box::pin(stream::unfold(Some(reader), |reader| async move {
        let reader = reader?;
        match reader.next().await {
            Ok(record) => Some((Ok(record), Some(reader))),
            Err(error) => Some((Err(error), None)),
        }
    })))
}

/// Those of the topics that the brokers show.
pub(crate) async fn present(config: &config::Kafka, mut topics: Vec<String>) -> Result<Vec<String>, ReadError> {
    let asker = QueryClient::open(config).map_err(|error| ReadError(error.0))?;
    let asked =
        tokio::task::spawn_blocking(move || asker.metadata(None, ASK).map_err(|error| asker.explain(&error))).await;
    let metadata = asked.map_err(|_| ReadError("reading was interrupted".to_owned()))?;
    let metadata = metadata.map_err(|error| unanswered("the topics", &error))?;
    let shown: HashSet<&str> = metadata.topics().iter().map(|topic| topic.name()).collect();
    topics.retain(|topic| shown.contains(topic.as_str()));
    Ok(topics)
}

/// Where to begin, settled in every partition. Blocks. Asks for the topics side by side: with many
/// partitions on distant brokers the answers would otherwise take longer than [`ASK`].
fn begin(
    asker: &QueryClient,
    topics: &[String],
    from: StartPosition,
    deadline: Instant,
) -> Result<TopicPartitionList, ReadError> {
    let mut list = TopicPartitionList::new();
    std::thread::scope(|scope| {
        let asking: Vec<_> =
            topics.iter().map(|topic| (topic, scope.spawn(move || offsets(asker, topic, from, deadline)))).collect();
        for (topic, offsets) in asking {
            let offsets = offsets.join().map_err(|_| ReadError("reading was interrupted".to_owned()))??;
            for (partition, offset) in (0..).zip(offsets) {
                list.add_partition_offset(topic, partition, offset).map_err(|error| refused(topic, code(&error)))?;
            }
        }
        Ok(list)
    })
}

fn offsets(asker: &QueryClient, topic: &str, from: StartPosition, deadline: Instant) -> Result<Vec<Offset>, ReadError> {
    (0..partitions(asker, topic, deadline)?)
        .map(|partition| {
            let ends = || {
                let ends = asker.offsets(topic, partition, left(deadline));
                ends.map_err(|error| unanswered(topic, &asker.explain(&error)))
            };
            Ok(match from {
                StartPosition::Earliest => Offset::Beginning,
                StartPosition::Latest => Offset::Offset(ends()?.1),
                StartPosition::Offset(offset) => Offset::Offset(has(topic, partition, offset, ends()?)?),
            })
        })
        .collect()
}

pub(super) fn partitions(asker: &QueryClient, topic: &str, deadline: Instant) -> Result<i32, ReadError> {
    let metadata = asker.metadata(Some(topic), left(deadline));
    let metadata = metadata.map_err(|error| unanswered(topic, &asker.explain(&error)))?;
    let found = metadata.topics().first();
    match found.and_then(|topic| topic.error()).map(Code::from) {
        None => Ok(found.map_or(0, |topic| topic.partitions().len() as i32)),
        Some(error) => Err(refused(topic, error)),
    }
}

fn has(topic: &str, partition: i32, offset: u64, (first, next): (i64, i64)) -> Result<i64, ReadError> {
    i64::try_from(offset).ok().filter(|offset| (first..=next).contains(offset)).ok_or_else(|| {
        ReadError(format!(
            "partition {partition} of topic {topic} has no offset {offset}: its first is {first}, its next {next}"
        ))
    })
}

/// Closing a consumer blocks, so that a thread of its own does it.
pub(super) struct Reader(Option<StreamConsumer<QueryContext>>);

impl Drop for Reader {
    fn drop(&mut self) {
        let consumer = self.0.take();
        std::thread::spawn(move || drop(consumer));
    }
}

impl Reader {
    pub(super) fn open(settings: &ClientConfig, list: &TopicPartitionList) -> Result<Self, ReadError> {
        let consumer: StreamConsumer<QueryContext> =
            client::create(settings, QueryContext::default()).map_err(|error| ReadError(error.0))?;
        consumer.assign(list).map_err(|error| refused("the topics", code(&error)))?;
        Ok(Self(Some(consumer)))
    }

    pub(super) fn consumer(&self) -> &StreamConsumer<QueryContext> {
        self.0.as_ref().expect("only drop takes it")
    }

    async fn next(&self) -> Result<Record, ReadError> {
        loop {
            match self.consumer().recv().await {
                Ok(message) => return Ok(record(&message, |_| true)),
                Err(error) if passing(code(&error)) => tracing::debug!(code = ?code(&error), "reading waits for Kafka"),
                Err(error) => return Err(refused("a topic", code(&error))),
            }
        }
    }
}

/// Errors that the consumer gets over by itself.
pub(super) fn passing(code: Code) -> bool {
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

pub(super) fn unanswered(topic: &str, no_answer: &NoAnswer) -> ReadError {
    match no_answer.explained {
        Some(error) if error.is_permanent() => ReadError(format!("{}; {}", error.says(), error.remedy())),
        Some(error) if is_not_reached(no_answer.code) => {
            ReadError(format!("no Kafka broker answered for {topic}: {}; {}", error.says(), error.remedy()))
        }
        _ => refused(topic, no_answer.code),
    }
}

pub(super) fn refused(topic: &str, code: Code) -> ReadError {
    ReadError(match code {
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
            format!(
                "topic {topic} does not exist; the bridge creates its topics when it starts, or see kafka-topics --list"
            )
        }
        Code::TopicAuthorizationFailed => {
            format!("this login may not read {topic}; grant it Read and Describe on the topic")
        }
        Code::GroupAuthorizationFailed => {
            "this login may not use the group terra-bridge-tail; grant it Read on that group".to_owned()
        }
        Code::AutoOffsetReset | Code::OffsetOutOfRange => {
            format!(
                "{topic} lost the next record to its retention before it was read; begin again with --from earliest"
            )
        }
        Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut | Code::Resolve => {
            format!("no Kafka broker answered for {topic} within {} s; check kafka.brokers", ASK.as_secs())
        }
        other => match ConnectionError::of_code(other) {
            Some(error) => format!("{}; {}", error.says(), error.remedy()),
            None => format!("Kafka answered {other:?} for {topic}"),
        },
    })
}

pub(super) fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

/// With its payload where that is wanted.
pub(super) fn record(message: &BorrowedMessage<'_>, wanted: Wanted) -> Record {
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
    };
    if wanted(&record) {
        record.payload = Bytes::copy_from_slice(message.payload().unwrap_or_default());
    }
    record
}

/// The broker's time of the record; the epoch where it has none that can be.
fn time(millis: Option<i64>) -> jiff::Timestamp {
    millis.and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok()).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}
