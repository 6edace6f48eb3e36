//! Why nothing can go to a topic until somebody acts, and what to do about it: one wording for the log, the refusal of
//! a message and `check --online`.

use std::borrow::Cow;

use rdkafka::types::RDKafkaErrorCode as Code;

use super::topic_settings::SettingProblem;
use crate::bus::{Refusal, Scope};
use crate::route::Topic;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TopicError {
    Missing,
    CreationDenied,
    Forbidden,
    Replication,
    Config,
    Partitions,
    Policy,
    Name,
    /// It exists, and deletes what it acknowledged.
    Deletes(SettingProblem),
}

impl TopicError {
    /// What the controller's answer to a creation means; `None` where the next attempt may well succeed.
    pub(super) fn of_creation(code: Code) -> Option<Self> {
        match code {
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => Some(Self::CreationDenied),
            Code::InvalidReplicationFactor | Code::InvalidReplicaAssignment => Some(Self::Replication),
            Code::InvalidConfig => Some(Self::Config),
            Code::InvalidPartitions => Some(Self::Partitions),
            Code::PolicyViolation => Some(Self::Policy),
            Code::InvalidTopic => Some(Self::Name),
            _ => None,
        }
    }

    /// The predicate of a sentence about the topic.
    pub(super) fn says(&self) -> Cow<'static, str> {
        let says = match self {
            Self::Missing => "does not exist",
            Self::CreationDenied => "does not exist, and this login may not create it",
            Self::Forbidden => "may not be seen or written to by this login",
            Self::Replication => "cannot be created: there are fewer brokers than replicas asked for",
            Self::Config => "cannot be created: the brokers reject kafka.topic_config",
            Self::Partitions => "cannot be created: the brokers reject this number of partitions",
            Self::Policy => "cannot be created: a policy of the brokers rejects its settings",
            Self::Name => {
                "cannot be created: Kafka rejects its name, or has a topic whose name differs only in `.` and `_`"
            }
            Self::Deletes(problem) => return format!("deletes what it acknowledged: {}", problem.says).into(),
        };
        says.into()
    }

    pub(super) fn remedy(&self, topic: &str) -> String {
        match self {
            Self::Missing => create_by_hand(topic, ""),
            Self::CreationDenied => format!(
                "create it, or grant Create, Describe and Write on it ({})",
                grant("--operation Create --operation Describe --operation Write", topic)
            ),
            Self::Forbidden => format!(
                "grant Describe and Write on it, and Create if the bridge is to create it ({})",
                grant("--operation Describe --operation Write", topic)
            ),
            Self::Replication => {
                "set kafka.replication_factor to no more than there are brokers, or start more brokers".to_owned()
            }
            Self::Config => "correct kafka.topic_config".to_owned(),
            Self::Partitions => "correct kafka.partitions".to_owned(),
            Self::Policy => "ask who runs the cluster what its policy demands, and set kafka.partitions, \
                             kafka.replication_factor and kafka.topic_config to it, or have the topic created"
                .to_owned(),
            Self::Name => "route to another topic (routes.types, routes.template)".to_owned(),
            Self::Deletes(SettingProblem { key, value, .. }) => {
                format!("change it ({}), or route to another topic", configure(topic, key, value))
            }
        }
    }

    pub(super) fn refusal(&self, topic: &str) -> Refusal {
        Refusal::Permanent {
            scope: Scope::Topic,
            reason: format!("topic {topic} {}", self.says()).into(),
            remedy: self.remedy(topic).into(),
        }
    }
}

fn grant(operations: &str, topic: &str) -> String {
    format!(
        "kafka-acls --bootstrap-server HOST:PORT --add --allow-principal User:NAME {operations} --topic {topic}; for many \
         topics: --topic PREFIX --resource-pattern-type prefixed"
    )
}

/// With these options of the command.
pub(super) fn create_by_hand(topic: &str, options: &str) -> String {
    format!(
        "create it (kafka-topics --bootstrap-server HOST:PORT --create --topic {topic}{options}), or set \
         kafka.create_topics = true and grant Create on it"
    )
}

/// The command that changes one setting of a topic.
pub(super) fn configure(topic: &str, key: &str, value: impl std::fmt::Display) -> String {
    format!(
        "kafka-configs --bootstrap-server HOST:PORT --alter --entity-type topics --entity-name {topic} --add-config \
         {key}={value}"
    )
}

/// The topics, as a list for people.
pub(super) fn names<'a>(topics: impl IntoIterator<Item = &'a Topic>) -> String {
    topics.into_iter().map(|topic| &**topic).collect::<Vec<_>>().join(", ")
}
