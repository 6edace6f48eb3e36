//! What the brokers show of topics, and whether those that lead them are reached at the addresses that they advertise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use rdkafka::metadata::{Metadata, MetadataBroker};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::client::{Query, ask_each, code, is_not_reached, left};
use crate::route::Topic;

/// Questions of a producer at once. As many as librdkafka has under way to a broker where it writes idempotently: more
/// would only wait, and their time with them.
pub(super) const AT_ONCE: usize = 5;

/// A topic as the brokers show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopicMetadata {
    Exists(Partitions),
    Missing,
    Forbidden,
    /// The brokers answered with another error.
    Failed(Code),
    /// There was no answer.
    Unanswered(Code),
}

/// The partitions of a topic; of the replicas those of the partition that has fewest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Partitions {
    pub(super) count: usize,
    pub(super) replicas: usize,
    pub(super) in_sync: usize,
    /// Led by no broker that is there.
    pub(super) leaderless: usize,
}

/// A broker that leads some partition, and where it says that it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leader {
    broker: i32,
    pub(super) address: String,
    topic: Topic,
    partition: i32,
}

/// How the brokers are asked about topics.
#[derive(Debug, Clone, Copy)]
pub(super) struct Questions {
    pub(super) at_once: usize,
    /// For each.
    pub(super) patience: Duration,
    /// For all of them.
    pub(super) deadline: Instant,
    /// Whether the rest is left out where nobody answers the first.
    pub(super) skip_after_silence: bool,
}

impl TopicMetadata {
    fn of(answer: Result<&Metadata, &KafkaError>) -> Self {
        let metadata = match answer.map_err(code) {
            Ok(metadata) => metadata,
            Err(code) => return Self::of_error(code).unwrap_or(Self::Unanswered(code)),
        };
        let Some(topic) = metadata.topics().first() else { return Self::Unanswered(Code::Fail) };
        if let Some(code) = topic.error().map(Code::from) {
            return Self::of_error(code).unwrap_or(Self::Failed(code));
        }
        let partitions = topic.partitions();
        let is_led = |leader| metadata.brokers().iter().any(|broker| broker.id() == leader);
        Self::Exists(Partitions {
            count: partitions.len(),
            replicas: partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or_default(),
            in_sync: partitions.iter().map(|partition| partition.isr().len()).min().unwrap_or_default(),
            leaderless: partitions.iter().filter(|partition| !is_led(partition.leader())).count(),
        })
    }

    fn of_error(code: Code) -> Option<Self> {
        match code {
            // Creating a topic with a name that no broker takes says why.
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::InvalidTopic => Some(Self::Missing),
            Code::TopicAuthorizationFailed => Some(Self::Forbidden),
            _ => None,
        }
    }

    pub(super) fn is_answer(&self) -> bool {
        !matches!(self, Self::Unanswered(_))
    }

    /// Whether no broker was reached for it in time.
    pub(super) fn is_silent(&self) -> bool {
        matches!(self, Self::Unanswered(code) if is_not_reached(*code))
    }

    pub(super) fn exists(&self) -> bool {
        matches!(self, Self::Exists(_) | Self::Failed(_))
    }

    /// How many partitions there are, where each has a leader.
    pub(super) fn led_partitions(&self) -> Option<usize> {
        match self {
            Self::Exists(partitions) if partitions.count > 0 && partitions.leaderless == 0 => Some(partitions.count),
            _ => None,
        }
    }
}

/// Asks topic by topic, so many at once: a producer learns of each as well. With one partition of each broker that
/// leads any.
pub(super) async fn of_topics(
    client: &Arc<impl Query>,
    topics: Vec<Topic>,
    Questions { at_once, patience, deadline, skip_after_silence }: Questions,
) -> (Vec<(Topic, TopicMetadata)>, Vec<Leader>) {
    let answered = Arc::new((AtomicBool::new(false), AtomicBool::new(false)));
    let client = Arc::clone(client);
    let found = ask_each(topics, at_once, move |topic: Topic| {
        let (any, none) = &*answered;
        if skip_after_silence && none.load(Ordering::Relaxed) && !any.load(Ordering::Relaxed) {
            return ((topic, TopicMetadata::Unanswered(Code::OperationTimedOut)), Vec::new());
        }
        let metadata = client.metadata(Some(&topic), patience.min(left(deadline)));
        let leaders = metadata.as_ref().map_or_else(|_| Vec::new(), |metadata| leaders(metadata, &topic));
        let seen = TopicMetadata::of(metadata.as_ref());
        (if seen.is_silent() { none } else { any }).store(true, Ordering::Relaxed);
        ((topic, seen), leaders)
    });
    let (seen, leaders): (Vec<_>, Vec<_>) = found.await.into_iter().unzip();
    let leaders: BTreeMap<_, _> = leaders.into_iter().flatten().map(|leader| (leader.broker, leader)).collect();
    (seen, leaders.into_values().collect())
}

/// The brokers that lead partitions of this topic, each once.
fn leaders(metadata: &Metadata, topic: &Topic) -> Vec<Leader> {
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
    let led: BTreeMap<i32, i32> = partitions.map(|partition| (partition.leader(), partition.id())).collect();
    let leader = |broker: &MetadataBroker| {
        let partition = *led.get(&broker.id())?;
        Some(Leader { broker: broker.id(), address: address(broker), topic: topic.clone(), partition })
    };
    metadata.brokers().iter().filter_map(leader).collect()
}

/// The addresses of those leaders that are not reached. A producer has its connections to the others from then on.
pub(super) async fn not_reached(client: &Arc<impl Query>, leaders: Vec<Leader>, patience: Duration) -> Vec<String> {
    let client = Arc::clone(client);
    let asked = ask_each(leaders, AT_ONCE, move |leader: Leader| {
        let answer = client.offsets(&leader.topic, leader.partition, patience);
        answer.is_err_and(|error| is_not_reached(code(&error))).then_some(leader.address)
    });
    asked.await.into_iter().flatten().collect()
}

/// Those of the topics, with as many partitions, of which some partition takes nothing yet: its leader was told of it
/// and has still to create it.
pub(super) async fn not_serving(
    client: &Arc<impl Query>,
    topics: &[(Topic, usize)],
    patience: Duration,
    deadline: Instant,
) -> BTreeSet<Topic> {
    let client = Arc::clone(client);
    let of_topic = |(topic, partitions): &(Topic, usize)| {
        let topic = topic.clone();
        (0..).take(*partitions).map(move |partition| (topic.clone(), partition))
    };
    let asked = ask_each(topics.iter().flat_map(of_topic).collect(), AT_ONCE, move |(topic, partition)| {
        match client.offsets(&topic, partition, patience.min(left(deadline))) {
            Ok(_) => None,
            // Who may not ask for it may write to it all the same.
            Err(error) => (code(&error) != Code::TopicAuthorizationFailed).then_some(topic),
        }
    });
    asked.await.into_iter().flatten().collect()
}

/// Where a broker says that it listens.
pub(super) fn address(broker: &MetadataBroker) -> String {
    // Whoever answers as a broker chose the name, and a log is read in a terminal.
    let host: String = broker.host().chars().filter(|char| !char.is_control()).take(255).collect();
    format!("{host}:{}", broker.port())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Answers by the number of the partition.
    struct Brokers;

    impl Query for Brokers {
        fn metadata(&self, _: Option<&str>, _: Duration) -> Result<Metadata, KafkaError> {
            Err(KafkaError::Canceled)
        }

        fn offsets(&self, _: &str, partition: i32, _: Duration) -> Result<(i64, i64), KafkaError> {
            match partition {
                1 => Ok((0, 0)),
                2 => Err(KafkaError::MetadataFetch(Code::TopicAuthorizationFailed)),
                _ => Err(KafkaError::MetadataFetch(Code::OperationTimedOut)),
            }
        }
    }

    #[tokio::test]
    async fn a_leader_is_not_reached_where_the_client_says_so_itself() {
        let leaders = [1, 2, 3].map(|broker| Leader {
            broker,
            address: format!("b{broker}:9092"),
            topic: "t".into(),
            partition: broker,
        });
        assert_eq!(not_reached(&Arc::new(Brokers), leaders.into(), Duration::ZERO).await, ["b3:9092"]);
    }

    /// Is asked for how many topics, and answers for none.
    #[derive(Default)]
    struct Silent(AtomicUsize);

    impl Query for Silent {
        fn metadata(&self, _: Option<&str>, _: Duration) -> Result<Metadata, KafkaError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Err(KafkaError::MetadataFetch(Code::OperationTimedOut))
        }

        fn offsets(&self, _: &str, _: i32, _: Duration) -> Result<(i64, i64), KafkaError> {
            Err(KafkaError::Canceled)
        }
    }

    #[tokio::test]
    async fn only_who_asks_again_soon_leaves_topics_out_after_a_silence() {
        for (skip_after_silence, asked) in [(true, 1), (false, 3)] {
            let client = Arc::new(Silent::default());
            let (patience, deadline) = (Duration::ZERO, Instant::now());
            let questions = Questions { at_once: 1, patience, deadline, skip_after_silence };
            let (seen, _) = of_topics(&client, ["a", "b", "c"].map(Topic::from).into(), questions).await;
            assert!(seen.len() == 3 && seen.iter().all(|(_, metadata)| metadata.is_silent()), "{seen:?}");
            assert_eq!(client.0.load(Ordering::Relaxed), asked);
        }
    }
}
