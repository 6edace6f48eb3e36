//! The topics that messages go to: made where they are missing and the bridge may, else named with
//! what to grant. Existing ones are left as they are. Comes in: the routing table's topics. Goes out:
//! which of them refuse every message.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::asking::of_each;
use super::client::{self, Quiet, largest_message};
use super::inspect;
use super::pace::Pace;
use super::producer::{Client, Line, code};
use super::refusal::{forbidden, missing};
use super::state::State;
use crate::bus::{Refusal, Scope, Setup};
use crate::config;
use crate::route::Topic;
use crate::telemetry::Throttle;

/// For one request to the controller, and for what the controller does meanwhile.
const REQUEST: Duration = Duration::from_secs(8);
const OPERATION: Duration = Duration::from_secs(5);

/// For a look at all topics.
const LOOK: Duration = Duration::from_secs(10);

/// From one look to the next: where all are there, and where one may come without anybody's help. Where only
/// somebody else can help the looks, and the attempts to make topics, go from the one to the other.
const SELDOM: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(1);

/// How often it is said again that the brokers' defaults cannot be seen.
const SAY_AGAIN: Duration = Duration::from_secs(3600);

/// Questions of a look at once. As many as librdkafka has under way to a broker where it writes idempotently:
/// more would only wait, and their time with them.
const ABREAST: usize = 5;

/// What `max.message.bytes` is where nobody sets it; also above librdkafka's usual batch of 1 MB.
const USUAL_MAX: u64 = 1_048_588;

pub(super) struct Topics {
    all: Vec<Topic>,
    config: config::Kafka,
    /// Bytes.
    largest: u64,
    reported: BTreeMap<Topic, Lack>,
    /// As the brokers last showed them, and when.
    known: BTreeMap<Topic, (Presence, Instant)>,
    /// What the controller refused to make when it was last asked.
    refused: BTreeMap<Topic, Lack>,
    /// Of asking again for what was refused.
    pace: Pace,
    /// Topics that are there and whose limits were looked at.
    measured: BTreeSet<Topic>,
    unseen: Throttle,
}

/// What stands between a topic and its messages until somebody acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lack {
    Missing,
    CreationDenied,
    Forbidden,
    Replication,
    Config,
    Partitions,
    Policy,
    Name,
}

impl Lack {
    /// What the controller's answer to a creation means; `None` where the next try may well succeed.
    fn of(code: Code) -> Option<Self> {
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

    fn says(self) -> &'static str {
        match self {
            Self::Missing => "Kafka topics do not exist",
            Self::CreationDenied => "Kafka topics do not exist, and this login may not create them",
            Self::Forbidden => "this login may not see Kafka topics",
            Self::Replication => "Kafka topics do not exist: there are fewer brokers than replicas asked for",
            Self::Config => "Kafka topics do not exist: the brokers do not take kafka.topic_config",
            Self::Partitions => "Kafka topics do not exist: the brokers do not take this number of partitions",
            Self::Policy => "Kafka topics do not exist: a policy of the brokers refuses to have them made like this",
            Self::Name => "Kafka does not take the names of topics, or others are too like them",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
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
        }
    }

    fn refusal(self, topic: &str) -> Refusal {
        match self {
            Self::Missing => missing(topic),
            Self::Forbidden => forbidden(topic),
            lack => Refusal::Permanent {
                scope: Scope::Topic,
                reason: format!("topic {topic} cannot be written to: {}", lack.says()).into(),
                remedy: lack.remedy().into(),
            },
        }
    }
}

/// What a look at the topics came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Looked {
    /// The brokers answered for each of them by now.
    pub(super) seen: bool,
    /// And each is there.
    pub(super) settled: bool,
    /// How long the next look can wait.
    pub(super) rest: Duration,
}

/// A topic as the brokers show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    There,
    Missing,
    Forbidden,
}

impl Topics {
    pub(super) fn new(config: config::Kafka, setup: &Setup) -> Self {
        Self {
            all: once(setup.topics.clone()),
            config,
            largest: largest_message(setup.max_body),
            reported: BTreeMap::new(),
            known: BTreeMap::new(),
            refused: BTreeMap::new(),
            pace: Pace::new(SOON, SELDOM),
            measured: BTreeSet::new(),
            unseen: Throttle::new(SAY_AGAIN),
        }
    }

    /// These from now on.
    pub(super) fn replace(&mut self, topics: Vec<Topic>) {
        self.all = once(topics);
        self.known.retain(|topic, _| self.all.contains(topic));
        self.refused.clear();
        self.pace.reset();
        self.measured.clear();
    }

    pub(super) fn first(&self) -> Option<Topic> {
        self.all.first().cloned()
    }

    /// Looks at all topics, makes what is missing where that is allowed, and notes which refuse messages.
    /// One that the brokers do not answer for in time counts as they last showed it, and is asked for first
    /// at the next look, as is what somebody else is to do.
    pub(super) async fn tend(&mut self, line: &Arc<Line>, state: &State, patience: Duration) -> Looked {
        let (asked, mut topics) = (Arc::clone(line), self.all.clone());
        topics.sort_by_key(|topic| self.known.get(topic).map(|(_, when)| *when));
        let looked = tokio::task::spawn_blocking(move || Some(look(&*asked.client()?, &topics, patience))).await;
        let Ok(Some(found)) = looked else { return Looked { rest: SOON, ..Looked::default() } };
        self.known.extend(found);
        let seen = self.known.len() == self.all.len();
        let mut lacking = BTreeMap::new();
        let mut absent = Vec::new();
        for (topic, (presence, _)) in &self.known {
            match presence {
                Presence::There => {}
                Presence::Forbidden => drop(lacking.insert(topic.clone(), Lack::Forbidden)),
                Presence::Missing => absent.push(topic.clone()),
            }
        }
        let away = lacking.len() + absent.len();
        let due = self.pace.due(Instant::now());
        if self.config.create_topics {
            lacking.extend(self.make(absent, due).await);
        } else {
            lacking.extend(absent.into_iter().map(|topic| (topic, Lack::Missing)));
        }
        state.set_creates(self.config.create_topics && !lacking.values().any(|lack| *lack == Lack::CreationDenied));
        self.report(&lacking);
        let (settled, stuck) = (seen && away == 0, seen && away > 0 && away == lacking.len());
        let none_lacking = lacking.is_empty();
        state.set_lacking(lacking.into_iter().map(|(topic, lack)| (topic.clone(), lack.refusal(&topic))).collect());
        self.measure(state).await;
        if none_lacking {
            self.pace.reset();
        } else if due {
            self.pace.slow(Instant::now());
        }
        let rest = match (settled, stuck) {
            (true, _) => SELDOM,
            (_, true) => self.pace.left(Instant::now()),
            _ => SOON,
        };
        Looked { seen, settled, rest }
    }

    /// One line for each thing to do, when it changes.
    fn report(&mut self, lacking: &BTreeMap<Topic, Lack>) {
        if *lacking == self.reported {
            return;
        }
        for lack in lacking.values().collect::<BTreeSet<_>>() {
            let topics = names(lacking.iter().filter(|(_, same)| *same == lack).map(|(topic, _)| &**topic));
            tracing::error!(topics, remedy = lack.remedy(), "{}", lack.says());
        }
        if lacking.is_empty() {
            tracing::info!("all Kafka topics are there now");
        }
        self.reported = lacking.clone();
    }

    /// One line where topics take less than a delivery may need, as soon as they are there, whatever others do.
    async fn measure(&mut self, state: &State) {
        let there = self.known.iter().filter(|(_, (presence, _))| *presence == Presence::There);
        let there: BTreeSet<_> = there.map(|(topic, _)| topic.clone()).collect();
        let new: Vec<_> = there.difference(&self.measured).cloned().collect();
        // Without those that went meanwhile: somebody may make them again with other limits.
        self.measured = there;
        let Ok(settings) = inspect::settings(&self.config, new.iter(), Instant::now() + REQUEST).await else {
            return;
        };
        let limits = || settings.iter().filter_map(|(topic, settings)| Some((topic, settings.max_bytes?)));
        if let Some(least) = limits().map(|(_, most)| most).min() {
            state.take_batches_of(least);
        }
        let small = || limits().filter(|(_, most)| *most < self.largest);
        if let Some(most) = small().map(|(_, most)| most).min() {
            tracing::warn!(
                topics = names(small().map(|(topic, _)| topic.as_str())),
                most,
                wanted = self.largest,
                remedy = "raise their max.message.bytes (check --online has the commands), or lower server.max_body",
                "Kafka topics take less than server.max_body and its headers: larger deliveries get a 503"
            );
        }
    }

    /// Asks the controller for the topics, for those that it refused for good only when that is `due` again.
    /// What it refuses for good comes back; what it refuses for now is asked for again at the next look.
    async fn make(&mut self, absent: Vec<Topic>, due: bool) -> BTreeMap<Topic, Lack> {
        self.refused.retain(|topic, _| !due && absent.contains(topic));
        let asked: Vec<_> = absent.into_iter().filter(|topic| !self.refused.contains_key(topic)).collect();
        if !asked.is_empty() {
            let refused = self.ask_for(asked).await;
            self.refused.extend(refused);
        }
        self.refused.clone()
    }

    async fn ask_for(&self, topics: Vec<Topic>) -> BTreeMap<Topic, Lack> {
        tracing::debug!(topics = names(topics.iter().map(|topic| &**topic)), "Kafka is asked to make topics");
        let admin = match client::admin(&self.config).and_then(|admin| client::create(&admin, Quiet::default())) {
            Ok(admin) => Arc::new(admin),
            Err(error) => {
                tracing::warn!("topics are not created yet: {error}");
                return BTreeMap::new();
            }
        };
        let lacking = self.made(&admin, &topics).await;
        // Letting go of a client blocks.
        drop(tokio::task::spawn_blocking(move || drop(admin)));
        lacking
    }

    async fn made(&self, admin: &Arc<AdminClient<Quiet>>, topics: &[Topic]) -> BTreeMap<Topic, Lack> {
        let settings = self.settings(&Defaults::of(admin, topics.first(), &self.unseen).await);
        let replication = TopicReplication::Fixed;
        let wanted: Vec<_> = topics
            .iter()
            .map(|topic| NewTopic {
                name: topic,
                num_partitions: self.config.partitions,
                replication: replication(self.config.replication_factor.unwrap_or(-1)),
                config: settings.iter().map(|(key, value)| (&**key, &**value)).collect(),
            })
            .collect();
        let options = AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(OPERATION));
        match admin.create_topics(&wanted, &options).await {
            Ok(results) => sorted(topics, results),
            Err(error) => {
                tracing::warn!(code = ?code(&error), "topics are not created yet");
                BTreeMap::new()
            }
        }
    }

    /// The topic's own settings, the user's last.
    fn settings(&self, defaults: &Defaults) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::from([("max.message.bytes".to_owned(), self.largest.max(USUAL_MAX).to_string())]);
        let replicas = self.config.replication_factor.or(defaults.replicas);
        if replicas.is_some_and(|replicas| replicas >= 3) && defaults.min_in_sync.is_none_or(|min| min < 2) {
            settings.insert("min.insync.replicas".to_owned(), "2".to_owned());
        }
        settings.extend(self.config.topic_config.clone());
        settings
    }
}

fn once(topics: Vec<Topic>) -> Vec<Topic> {
    topics.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

/// What the brokers give a topic that does not ask for anything else, as far as the login may see it.
#[derive(Default)]
struct Defaults {
    replicas: Option<i32>,
    min_in_sync: Option<i32>,
}

impl Defaults {
    async fn of(admin: &Arc<AdminClient<Quiet>>, topic: Option<&Topic>, unseen: &Throttle) -> Self {
        let (asked, topic) = (Arc::clone(admin), topic.cloned());
        let metadata =
            tokio::task::spawn_blocking(move || asked.inner().fetch_metadata(topic.as_deref(), OPERATION)).await;
        let Ok(Ok(metadata)) = metadata else { return Self::default() };
        let Some(broker) = metadata.brokers().first().map(|broker| broker.id()) else { return Self::default() };
        let options = AdminOptions::new().request_timeout(Some(OPERATION));
        let described = admin.describe_configs(&[ResourceSpecifier::Broker(broker)], &options).await;
        let Some(Ok(config)) = described.ok().and_then(|resources| resources.into_iter().next()) else {
            if unseen.pass().is_some() {
                tracing::warn!(
                    remedy = "see check --online for the topics' min.insync.replicas, or grant DescribeConfigs on \
                              the cluster",
                    "the brokers' default replication cannot be seen"
                );
            }
            return Self::default();
        };
        let number = |key| config.get(key)?.value.as_ref()?.parse().ok();
        Self { replicas: number("default.replication.factor"), min_in_sync: number("min.insync.replicas") }
    }
}

fn sorted(topics: &[Topic], results: Vec<Result<String, (String, Code)>>) -> BTreeMap<Topic, Lack> {
    let mut lacking = BTreeMap::new();
    let mut made = Vec::new();
    for result in results {
        match result {
            Ok(name) => made.push(name),
            Err((_, Code::TopicAlreadyExists)) => {}
            Err((name, code)) => match Lack::of(code) {
                Some(lack) => lacking.extend(topics.iter().find(|topic| ***topic == *name).map(|t| (t.clone(), lack))),
                None => tracing::warn!(topic = name, ?code, "a topic is not created yet"),
            },
        }
    }
    if !made.is_empty() {
        tracing::info!(topics = names(made.iter().map(String::as_str)), "Kafka topics created");
    }
    lacking
}

/// Asks topic by topic, so that the producer learns of each as well. Without those that the brokers did not
/// answer for. Blocks.
fn look(client: &Client, topics: &[Topic], patience: Duration) -> Vec<(Topic, (Presence, Instant))> {
    let deadline = Instant::now() + LOOK;
    let found = of_each(topics, ABREAST, |topic| {
        let left = deadline.saturating_duration_since(Instant::now());
        let presence = presence(client, topic, patience.min(left))?;
        Some((topic.clone(), (presence, Instant::now())))
    });
    found.into_iter().flatten().collect()
}

fn presence(client: &Client, topic: &Topic, patience: Duration) -> Option<Presence> {
    let metadata = client.client().fetch_metadata(Some(topic), patience).map_err(|error: KafkaError| code(&error));
    let error = match &metadata {
        Ok(metadata) => metadata.topics().first()?.error().map(Code::from),
        Err(code) => Some(*code),
    };
    match error {
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => Some(Presence::Missing),
        Some(Code::TopicAuthorizationFailed) => Some(Presence::Forbidden),
        // A name that no broker takes: creating it says why.
        Some(Code::InvalidTopic) => Some(Presence::Missing),
        Some(_) if metadata.is_err() => None,
        _ => Some(Presence::There),
    }
}

pub(super) fn names<'a>(topics: impl Iterator<Item = &'a str>) -> String {
    topics.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::client::tests::{config, setup};
    use super::*;

    fn settings(replication: Option<i32>, defaults: Defaults, own: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut config = config("a:1");
        config.replication_factor = replication;
        config.topic_config = own.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Topics::new(config, &setup(Duration::from_secs(5), &["t"])).settings(&defaults)
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
