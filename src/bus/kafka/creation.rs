//! Making topics, or asking whether they could be made. Comes in: the topics and how they are to be. Goes out:
//! what the controller says to each, and why nothing can go to a topic until somebody acts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::KafkaError;
use rdkafka::metadata::MetadataBroker;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::client::{self, Quiet};
use super::keeping::Verdict;
use super::producer::code;
use super::refusal::{forbidden, missing};
use crate::bus::{OpenError, Refusal, Scope};
use crate::config;
use crate::route::Topic;
use crate::telemetry::Throttle;

/// For one request to the controller, and for what the controller does meanwhile.
const REQUEST: Duration = Duration::from_secs(8);
const OPERATION: Duration = Duration::from_secs(5);

/// For a broker to say what its defaults are, and so that it is reached at all.
const DEFAULTS: Duration = Duration::from_secs(3);

/// What `max.message.bytes` is where nobody sets it; also above librdkafka's usual batch of 1 MB.
const USUAL_MAX: u64 = 1_048_588;

/// What stands between a topic and its messages until somebody acts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lack {
    Missing,
    CreationDenied,
    Forbidden,
    Replication,
    Config,
    Partitions,
    Policy,
    Name,
    /// It is there, and takes away what it acknowledged.
    Forgets(Verdict),
}

impl Lack {
    /// What the controller's answer to a creation means; `None` where the next try may well succeed.
    pub(super) fn of(code: Code) -> Option<Self> {
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

    pub(super) fn says(&self) -> Cow<'static, str> {
        let says = match self {
            Self::Missing => "Kafka topics do not exist",
            Self::CreationDenied => "Kafka topics do not exist, and this login may not create them",
            Self::Forbidden => "this login may not see Kafka topics",
            Self::Replication => "Kafka topics do not exist: there are fewer brokers than replicas asked for",
            Self::Config => "Kafka topics do not exist: the brokers do not take kafka.topic_config",
            Self::Partitions => "Kafka topics do not exist: the brokers do not take this number of partitions",
            Self::Policy => "Kafka topics do not exist: a policy of the brokers refuses to have them made like this",
            Self::Name => {
                "Kafka does not take the names of topics, or others differ from them only in `.` and `_` and are there"
            }
            Self::Forgets(verdict) => {
                return format!("Kafka topics take away what they acknowledged: {}", verdict.says).into();
            }
        };
        says.into()
    }

    pub(super) fn remedy(&self) -> Cow<'static, str> {
        let remedy = match self {
            Self::Missing => "create them, or set kafka.create_topics = true and grant Create on them",
            Self::CreationDenied => {
                "create them, or grant Create, Describe and Write on them (kafka-acls --add --operation Create \
                 --operation Describe --operation Write --topic PREFIX --resource-pattern-type prefixed)"
            }
            Self::Forbidden => {
                "grant Describe and Write on them, and Create where the bridge is to make them (kafka-acls --add \
                 --operation Describe --operation Write --topic PREFIX --resource-pattern-type prefixed)"
            }
            Self::Replication => {
                "set kafka.replication_factor to no more than there are brokers, or start more brokers"
            }
            Self::Config => "correct kafka.topic_config",
            Self::Partitions => "correct kafka.partitions",
            Self::Policy => {
                "ask who runs the cluster what its policy demands, and set kafka.partitions, kafka.replication_factor \
                 and kafka.topic_config to it, or have the topics made"
            }
            Self::Name => "route to other topics (routes.types, routes.template)",
            Self::Forgets(verdict) => {
                let Verdict { key, value, .. } = verdict;
                return format!(
                    "set it otherwise (kafka-configs --alter --entity-type topics --entity-name TOPIC --add-config \
                     {key}={value}), or route to other topics"
                )
                .into();
            }
        };
        remedy.into()
    }

    pub(super) fn refusal(&self, topic: &str) -> Refusal {
        match self {
            Self::Missing => missing(topic),
            Self::Forbidden => forbidden(topic),
            lack => Refusal::Permanent {
                scope: Scope::Topic,
                reason: format!("topic {topic} is not written to: {}", lack.says()).into(),
                remedy: lack.remedy(),
            },
        }
    }
}

/// What the controller says to the creation of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Made,
    /// Somebody else was faster.
    There,
    Lacks(Lack),
    /// In Kafka's words.
    NotNow(String),
}

/// Why no controller answered.
#[derive(Debug)]
pub(super) enum Unasked {
    Unopened(OpenError),
    /// Brokers answered, but nobody at these addresses, which they give for themselves.
    NotAt(Vec<String>),
    /// In Kafka's words.
    Failed(String),
}

/// Topics as the configuration wants them.
pub(super) struct Wanted<'a> {
    pub(super) config: &'a config::Kafka,
    /// Bytes.
    pub(super) largest: u64,
}

impl Wanted<'_> {
    /// Has the controller make them, or with `only_try` say whether it would. The answers come in the order of
    /// the topics. `unseen` lets through that the brokers' defaults could not be seen.
    pub(super) async fn make(
        &self,
        topics: &[Topic],
        only_try: bool,
        unseen: &Throttle,
    ) -> Result<Vec<(Topic, Answer)>, Unasked> {
        let admin = client::admin(self.config).and_then(|admin| client::create(&admin, Quiet::default()));
        let admin: Arc<AdminClient<Quiet>> = Arc::new(admin.map_err(Unasked::Unopened)?);
        let answers = self.made_by(&admin, topics, only_try, unseen).await;
        // Letting go of a client blocks.
        drop(tokio::task::spawn_blocking(move || drop(admin)));
        answers
    }

    async fn made_by(
        &self,
        admin: &Arc<AdminClient<Quiet>>,
        topics: &[Topic],
        only_try: bool,
        unseen: &Throttle,
    ) -> Result<Vec<(Topic, Answer)>, Unasked> {
        let settings = self.settings(&Defaults::of(admin, topics.first(), unseen).await?);
        let wanted: Vec<_> = topics
            .iter()
            .map(|topic| NewTopic {
                name: topic,
                num_partitions: self.config.partitions,
                replication: TopicReplication::Fixed(self.config.replication_factor.unwrap_or(-1)),
                config: settings.iter().map(|(key, value)| (&**key, &**value)).collect(),
            })
            .collect();
        let options = AdminOptions::new()
            .request_timeout(Some(REQUEST))
            .operation_timeout(Some(OPERATION))
            .validate_only(only_try);
        let results = admin.create_topics(&wanted, &options).await;
        let results = results.map_err(|error| Unasked::Failed(code(&error).to_string()))?;
        let answer = |result| match result {
            Ok(name) => (name, Answer::Made),
            Err((name, Code::TopicAlreadyExists)) => (name, Answer::There),
            Err((name, code)) => (name, Lack::of(code).map_or_else(|| Answer::NotNow(code.to_string()), Answer::Lacks)),
        };
        let answers: BTreeMap<String, Answer> = results.into_iter().map(answer).collect();
        let of_ours = |topic: &Topic| Some((topic.clone(), answers.get(&**topic)?.clone()));
        Ok(topics.iter().filter_map(of_ours).collect())
    }

    /// The topics' own settings, the user's last.
    pub(super) fn settings(&self, defaults: &Defaults) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::from([("max.message.bytes".to_owned(), self.largest.max(USUAL_MAX).to_string())]);
        let replicas = self.config.replication_factor.or(defaults.replicas);
        if replicas.is_some_and(|replicas| replicas >= 3) && defaults.min_in_sync.is_none_or(|min| min < 2) {
            settings.insert("min.insync.replicas".to_owned(), "2".to_owned());
        }
        settings.extend(self.config.topic_config.clone());
        settings
    }
}

/// What the brokers give a topic that does not ask for anything else, as far as the login may see it.
#[derive(Default)]
pub(super) struct Defaults {
    replicas: Option<i32>,
    min_in_sync: Option<i32>,
}

impl Defaults {
    async fn of(admin: &Arc<AdminClient<Quiet>>, topic: Option<&Topic>, unseen: &Throttle) -> Result<Self, Unasked> {
        let (asked, topic) = (Arc::clone(admin), topic.cloned());
        let brokers = move || -> Option<Vec<(i32, String)>> {
            let metadata = asked.inner().fetch_metadata(topic.as_deref(), OPERATION).ok()?;
            Some(metadata.brokers().iter().map(|broker| (broker.id(), address(broker))).collect())
        };
        let brokers = tokio::task::spawn_blocking(brokers).await.ok().flatten().unwrap_or_default();
        // Another one each time, so that one that is down does not stand in the way for ever.
        static TURN: AtomicUsize = AtomicUsize::new(0);
        let turn = TURN.fetch_add(1, Ordering::Relaxed).checked_rem(brokers.len());
        let Some((broker, _)) = turn.and_then(|turn| brokers.get(turn)) else { return Ok(Self::default()) };
        let options = AdminOptions::new().request_timeout(Some(DEFAULTS));
        let described = admin.describe_configs(&[ResourceSpecifier::Broker(*broker)], &options).await;
        if described.as_ref().is_err_and(is_not_reached) {
            return Err(Unasked::NotAt(brokers.into_iter().map(|(_, address)| address).collect()));
        }
        let shown = described.ok().and_then(|resources| resources.into_iter().next()?.ok());
        let Some(config) = shown.filter(|config| !config.entries.is_empty()) else {
            if unseen.pass().is_some() {
                tracing::warn!(
                    remedy = "see check --online for the topics' min.insync.replicas, or grant DescribeConfigs on \
                              the cluster",
                    "the brokers' default replication cannot be seen"
                );
            }
            return Ok(Self::default());
        };
        let number = |key| config.get(key)?.value.as_ref()?.parse().ok();
        Ok(Self { replicas: number("default.replication.factor"), min_in_sync: number("min.insync.replicas") })
    }
}

/// What the client itself says where a broker was not reached.
pub(super) fn is_not_reached(error: &KafkaError) -> bool {
    is_silence(code(error))
}

/// The same of its code.
pub(super) fn is_silence(code: Code) -> bool {
    matches!(
        code,
        Code::OperationTimedOut
            | Code::TimedOutQueue
            | Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::SSL
            | Code::Authentication
    )
}

/// Where a broker says that it listens.
pub(super) fn address(broker: &MetadataBroker) -> String {
    // Whoever answers as a broker chose the name, and a log is read in a terminal.
    let host: String = broker.host().chars().filter(|char| !char.is_control()).take(255).collect();
    format!("{host}:{}", broker.port())
}

#[cfg(test)]
mod tests {
    use super::super::client::tests::config;
    use super::*;

    fn settings(replication: Option<i32>, defaults: Defaults, own: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut config = config("a:1");
        config.replication_factor = replication;
        config.topic_config = own.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Wanted { config: &config, largest: 12_845_056 }.settings(&defaults)
    }

    fn min(replication: Option<i32>, replicas: Option<i32>, min_in_sync: Option<i32>) -> Option<String> {
        settings(replication, Defaults { replicas, min_in_sync }, &[]).get("min.insync.replicas").cloned()
    }

    #[test]
    fn two_replicas_of_three_or_more_have_to_be_in_sync() {
        assert_eq!(min(Some(3), None, None).as_deref(), Some("2"));
        assert_eq!(min(None, Some(3), Some(1)).as_deref(), Some("2"));
        assert_eq!(min(None, Some(3), Some(2)), None);
        assert_eq!(min(Some(2), Some(3), None), None);
        assert_eq!(min(None, Some(1), Some(1)), None);
        assert_eq!(min(None, None, None), None);
    }

    #[test]
    fn a_topic_takes_the_largest_body_with_its_headers() {
        let settings = settings(None, Defaults::default(), &[]);
        assert_eq!(settings["max.message.bytes"], "12845056");
    }

    #[test]
    fn the_users_topic_settings_come_last() {
        let settings = settings(Some(3), Defaults::default(), &[("min.insync.replicas", "3"), ("retention.ms", "1")]);
        assert_eq!(settings["min.insync.replicas"], "3");
        assert_eq!(settings["retention.ms"], "1");
    }
}
