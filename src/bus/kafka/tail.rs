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

use super::client::{self, Asker, Explained, Quiet, Unanswered};
use super::creation::is_not_reached;
use super::producer::code;
use super::refusal::Trouble;
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
    let settings = client::consumer(config).map_err(|error| ReadError(error.0))?;
    let asker = Asker::open(config).map_err(|error| ReadError(error.0))?;
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
    let asker = Asker::open(config).map_err(|error| ReadError(error.0))?;
    let asked = tokio::task::spawn_blocking(move || asker.metadata(None, ASK)).await;
    let metadata = asked.map_err(|_| ReadError("reading was interrupted".to_owned()))?;
    let metadata = metadata.map_err(|error| unanswered("the topics", &error))?;
    let shown: HashSet<&str> = metadata.topics().iter().map(|topic| topic.name()).collect();
    topics.retain(|topic| shown.contains(topic.as_str()));
    Ok(topics)
}

/// Where to begin, settled in every partition. Blocks. Asks for the topics side by side: with many
/// partitions on distant brokers the answers would otherwise take longer than [`ASK`].
fn begin(
    asker: &Asker,
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

fn offsets(asker: &Asker, topic: &str, from: StartPosition, deadline: Instant) -> Result<Vec<Offset>, ReadError> {
    (0..partitions(asker, topic, deadline)?)
        .map(|partition| {
            let ends = || asker.ends(topic, partition, left(deadline)).map_err(|error| unanswered(topic, &error));
            Ok(match from {
                StartPosition::Earliest => Offset::Beginning,
                StartPosition::Latest => Offset::Offset(ends()?.1),
                StartPosition::Offset(offset) => Offset::Offset(has(topic, partition, offset, ends()?)?),
            })
        })
        .collect()
}

pub(super) fn partitions(asker: &Asker, topic: &str, deadline: Instant) -> Result<i32, ReadError> {
    let metadata = asker.metadata(Some(topic), left(deadline)).map_err(|error| unanswered(topic, &error))?;
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
pub(super) struct Reader(Option<StreamConsumer<Quiet>>);

impl Drop for Reader {
    fn drop(&mut self) {
        let consumer = self.0.take();
        std::thread::spawn(move || drop(consumer));
    }
}

impl Reader {
    pub(super) fn open(settings: &ClientConfig, list: &TopicPartitionList) -> Result<Self, ReadError> {
        let consumer: StreamConsumer<Quiet> =
            client::create(settings, Quiet::default()).map_err(|error| ReadError(error.0))?;
        consumer.assign(list).map_err(|error| refused("the topics", code(&error)))?;
        Ok(Self(Some(consumer)))
    }

    pub(super) fn consumer(&self) -> &StreamConsumer<Quiet> {
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

pub(super) fn unanswered(topic: &str, unanswered: &Unanswered) -> ReadError {
    let Explained { trouble, cause } = unanswered.explained;
    match (trouble, cause) {
        (Some(trouble), _) => ReadError(format!("{}; {}", trouble.says(), trouble.remedy())),
        (None, Some(cause)) if is_not_reached(&unanswered.error) => {
            ReadError(format!("no Kafka broker answered for {topic}: {}; {}", cause.says(), cause.remedy()))
        }
        _ => refused(topic, unanswered.code()),
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
        other => match Trouble::of(other) {
            Some(trouble) => format!("{}; {}", trouble.says(), trouble.remedy()),
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
