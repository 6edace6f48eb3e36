//! One look at the topics as the brokers show them, and whether the brokers that lead them are reached at the
//! addresses that they give for themselves. Comes in: a client. Goes out: what it saw. All of it blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use rdkafka::metadata::Metadata;
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::asking::of_each;
use super::creation::{address, is_not_reached};
use super::producer::{Client, code};
use crate::route::Topic;

/// For a look at all topics.
const LOOK: Duration = Duration::from_secs(10);

/// Questions of a look at once. As many as librdkafka has under way to a broker where it writes idempotently:
/// more would only wait, and their time with them.
const ABREAST: usize = 5;

/// Where none of the addresses that brokers give for themselves leads to them.
pub(super) const NOT_AT: &str =
    "the Kafka brokers were reached, but not at the addresses that they give for themselves";

/// A topic as the brokers show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    There,
    /// There, but some partition has no leader.
    Leaderless,
    Missing,
    Forbidden,
}

/// A broker that leads some partition, and where it says that it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leader {
    broker: i32,
    pub(super) address: String,
    pub(super) topic: Topic,
    pub(super) partition: i32,
}

/// A topic, how it stands and since when that is known, and how many partitions it has.
pub(super) type Seen = Vec<(Topic, (Presence, Instant), i32)>;

/// Asks topic by topic, so that the producer learns of each as well. Without those that the brokers did not
/// answer for. With one partition of each broker that leads any.
pub(super) fn look(client: &Client, topics: &[Topic], patience: Duration) -> (Seen, Vec<Leader>) {
    let deadline = Instant::now() + LOOK;
    let (answered, silent) = (AtomicBool::new(false), AtomicBool::new(false));
    let found = of_each(topics, ABREAST, |topic| {
        // Where nobody answers at all, the others need not be asked for.
        if silent.load(Ordering::Relaxed) && !answered.load(Ordering::Relaxed) {
            return None;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let metadata = client.client().fetch_metadata(Some(topic), patience.min(left));
        let lacks_answer = metadata.as_ref().is_err_and(is_not_reached);
        (if lacks_answer { &silent } else { &answered }).store(true, Ordering::Relaxed);
        let presence = presence(metadata.as_ref())?;
        let partitions =
            metadata.iter().flat_map(Metadata::topics).map(|topic| topic.partitions().len()).sum::<usize>();
        let leaders = metadata.map_or_else(|_| Vec::new(), |metadata| leaders(&metadata, topic));
        let seen = (topic.clone(), (presence, Instant::now()), i32::try_from(partitions).unwrap_or(i32::MAX));
        Some((seen, leaders))
    });
    let mut seen = Vec::with_capacity(topics.len());
    let mut of_brokers = BTreeMap::new();
    for (topic, leaders) in found.into_iter().flatten() {
        seen.push(topic);
        of_brokers.extend(leaders.into_iter().map(|leader| (leader.broker, leader)));
    }
    (seen, of_brokers.into_values().collect())
}

fn presence(metadata: Result<&Metadata, &KafkaError>) -> Option<Presence> {
    let (topic, error) = match metadata {
        Ok(metadata) => {
            let topic = metadata.topics().first()?;
            (Some(topic), topic.error().map(Code::from))
        }
        Err(error) => (None, Some(code(error))),
    };
    match error {
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => Some(Presence::Missing),
        Some(Code::TopicAuthorizationFailed) => Some(Presence::Forbidden),
        // A name that no broker takes: creating it says why.
        Some(Code::InvalidTopic) => Some(Presence::Missing),
        _ => {
            let partitions = topic?.partitions();
            let brokers = metadata.map_or(&[][..], |metadata| metadata.brokers());
            let is_led = |leader| brokers.iter().any(|broker| broker.id() == leader);
            let led = error.is_none() && !partitions.is_empty() && partitions.iter().all(|one| is_led(one.leader()));
            Some(if led { Presence::There } else { Presence::Leaderless })
        }
    }
}

/// The brokers that lead partitions of this topic, each once.
pub(super) fn leaders(metadata: &Metadata, topic: &Topic) -> Vec<Leader> {
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
    let led: BTreeMap<i32, i32> = partitions.map(|partition| (partition.leader(), partition.id())).collect();
    let leader = |broker: &rdkafka::metadata::MetadataBroker| {
        let partition = *led.get(&broker.id())?;
        Some(Leader { broker: broker.id(), address: address(broker), topic: topic.clone(), partition })
    };
    metadata.brokers().iter().filter_map(leader).collect()
}

/// The addresses of the leaders that are not reached. `ask` asks for the ends of a partition, which only its
/// leader can answer.
pub(super) fn not_reached<E: std::borrow::Borrow<KafkaError>>(
    leaders: &[Leader],
    ask: impl Fn(&Leader) -> Result<(i64, i64), E> + Sync,
) -> Vec<String> {
    let reached = of_each(leaders, ABREAST, |leader| !ask(leader).is_err_and(|error| is_not_reached(error.borrow())));
    leaders.iter().zip(reached).filter(|(_, reached)| !reached).map(|(leader, _)| leader.address.clone()).collect()
}

/// The same, asked by a producer, which has its connections to the leaders from then on.
pub(super) fn not_reached_by(client: &Client, leaders: &[Leader], patience: Duration) -> Vec<String> {
    not_reached(leaders, |leader| client.client().fetch_watermarks(&leader.topic, leader.partition, patience))
}

/// Those of the topics, with as many partitions, of which some partition takes nothing yet: its leader was told of it
/// and has still to make it.
pub(super) fn not_led(client: &Client, topics: &[(Topic, i32)], patience: Duration) -> BTreeSet<Topic> {
    let deadline = Instant::now() + LOOK;
    let of_topic = |(topic, partitions): &(Topic, i32)| {
        let topic = topic.clone();
        (0..*partitions).map(move |partition| (topic.clone(), partition))
    };
    let all: Vec<_> = topics.iter().flat_map(of_topic).collect();
    let led = of_each(&all, ABREAST, |(topic, partition)| {
        let left = deadline.saturating_duration_since(Instant::now());
        match client.client().fetch_watermarks(topic, *partition, patience.min(left)) {
            Ok(_) => true,
            // Who may not ask for it may write to it all the same.
            Err(error) => code(&error) == Code::TopicAuthorizationFailed,
        }
    });
    all.into_iter().zip(led).filter(|(_, led)| !led).map(|((topic, _), _)| topic).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_not_reached_where_the_client_says_so_itself() {
        let leaders = [1, 2, 3].map(|broker| Leader {
            broker,
            address: format!("b{broker}:9092"),
            topic: "t".into(),
            partition: broker,
        });
        let ask = |leader: &Leader| match leader.broker {
            1 => Ok((0, 0)),
            2 => Err(KafkaError::MetadataFetch(Code::TopicAuthorizationFailed)),
            _ => Err(KafkaError::MetadataFetch(Code::OperationTimedOut)),
        };
        assert_eq!(not_reached(&leaders, ask), ["b3:9092"]);
    }
}
