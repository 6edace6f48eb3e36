//! Requests of an administrator: how topics are set up, and their creation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::client::{self, ClosedAside, QueryContext, blocking, code, is_not_reached, left};
use super::metadata::address;
use super::settings;
use super::topic_error::TopicError;
use super::topic_settings::Settings;
use crate::bus::OpenError;
use crate::config;
use crate::route::Topic;

/// For one request to the controller, and for what the controller does meanwhile.
const REQUEST: Duration = Duration::from_secs(8);
const OPERATION: Duration = Duration::from_secs(5);

/// For a broker to say what its defaults are, and so that it is reached at all.
const DEFAULTS: Duration = Duration::from_secs(3);

/// What `max.message.bytes` is where nobody sets it; also above librdkafka's usual batch of 1 MB.
const USUAL_MAX: u64 = 1_048_588;

/// What the controller says to the creation of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Creation {
    Created,
    /// Somebody else was faster.
    Exists,
    Refused(TopicError),
    /// The next attempt may succeed. In Kafka's words.
    Failed(String),
}

/// Why no controller answered.
#[derive(Debug)]
pub(super) enum NoController {
    /// Brokers answered, but nobody at these addresses, which they advertise.
    NotReached(Vec<String>),
    /// In Kafka's words.
    Failed(String),
}

/// What the brokers give a topic that does not ask for anything else, as far as the login may see it.
#[derive(Default)]
pub(super) struct Defaults {
    replicas: Option<i32>,
    min_in_sync: Option<i32>,
}

pub(super) struct Admin(Arc<ClosedAside<AdminClient<QueryContext>>>);

impl Admin {
    pub(super) fn open(config: &config::Kafka) -> Result<Self, OpenError> {
        let client = client::create(&settings::admin(config)?, QueryContext::default())?;
        Ok(Self(Arc::new(ClosedAside::new(client))))
    }

    /// What each of the topics is set to, as far as the brokers show it; `None` where they give no answer by the
    /// `deadline`.
    pub(super) async fn settings(&self, topics: &[Topic], deadline: Instant) -> Option<BTreeMap<Topic, Settings>> {
        let asked: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        if asked.is_empty() {
            return Some(BTreeMap::new());
        }
        let answer = self.0.describe_configs(&asked, &AdminOptions::new().request_timeout(Some(left(deadline)))).await;
        let resources = match answer {
            Ok(resources) => resources,
            // Brokers that do not know the question answer it, too.
            Err(error) if matches!(code(&error), Code::UnsupportedFeature | Code::UnsupportedVersion) => Vec::new(),
            Err(_) => return None,
        };
        let shown = |resource: ConfigResource| match &resource.specifier {
            // rdkafka passes on no error of a single topic: one that the brokers do not show has no entries.
            OwnedResourceSpecifier::Topic(name) if !resource.entries.is_empty() => {
                Some((Topic::of_record(name), Settings::read(|key| resource.get(key)?.value.as_deref())))
            }
            _ => None,
        };
        Some(resources.into_iter().flatten().filter_map(shown).collect())
    }

    /// Has the controller create the topics as the configuration wants them, or with `dry_run` say whether it would.
    /// `largest`: the bytes of a message that they have to take. The answers are in the order of the topics.
    pub(super) async fn create(
        &self,
        topics: &[Topic],
        config: &config::Kafka,
        largest: u64,
        defaults: Option<Defaults>,
        dry_run: bool,
    ) -> Result<Vec<(Topic, Creation)>, NoController> {
        let settings = topic_config(config, largest, &defaults.unwrap_or_default());
        let new = |topic| NewTopic {
            name: topic,
            num_partitions: config.partitions,
            replication: TopicReplication::Fixed(config.replication_factor.unwrap_or(-1)),
            config: settings.iter().map(|(key, value)| (&**key, &**value)).collect(),
        };
        let new: Vec<_> = topics.iter().map(|topic| new(topic)).collect();
        let options = AdminOptions::new()
            .request_timeout(Some(REQUEST))
            .operation_timeout(Some(OPERATION))
            .validate_only(dry_run);
        let results = self.0.create_topics(&new, &options).await;
        let results = results.map_err(|error| NoController::Failed(code(&error).to_string()))?;
        let creation = |result| match result {
            Ok(name) => (name, Creation::Created),
            Err((name, Code::TopicAlreadyExists)) => (name, Creation::Exists),
            Err((name, code)) => {
                let refused = TopicError::of_creation(code).map(Creation::Refused);
                (name, refused.unwrap_or_else(|| Creation::Failed(code.to_string())))
            }
        };
        let mut creations: BTreeMap<String, Creation> = results.into_iter().map(creation).collect();
        let of_topic = |topic: &Topic| Some((topic.clone(), creations.remove(&**topic)?));
        Ok(topics.iter().filter_map(of_topic).collect())
    }

    /// `None` where they are not shown to this login. The brokers are asked for this topic, which they may see.
    pub(super) async fn defaults(&self, topic: Option<&Topic>) -> Result<Option<Defaults>, NoController> {
        let (client, topic) = (Arc::clone(&self.0), topic.cloned());
        let brokers = blocking(move || -> Vec<(i32, String)> {
            let metadata = client.inner().fetch_metadata(topic.as_deref(), OPERATION);
            let brokers = |metadata: rdkafka::metadata::Metadata| {
                metadata.brokers().iter().map(|broker| (broker.id(), address(broker))).collect()
            };
            metadata.map_or_else(|_| Vec::new(), brokers)
        });
        let brokers = brokers.await;
        // Another one each time, so that one that is down does not stand in the way for ever.
        static TURN: AtomicUsize = AtomicUsize::new(0);
        let turn = TURN.fetch_add(1, Ordering::Relaxed).checked_rem(brokers.len());
        let Some((broker, _)) = turn.and_then(|turn| brokers.get(turn)) else { return Ok(Some(Defaults::default())) };
        let options = AdminOptions::new().request_timeout(Some(DEFAULTS));
        let described = self.0.describe_configs(&[ResourceSpecifier::Broker(*broker)], &options).await;
        if described.as_ref().is_err_and(|error| is_not_reached(code(error))) {
            return Err(NoController::NotReached(brokers.into_iter().map(|(_, address)| address).collect()));
        }
        let shown = described.ok().and_then(|resources| resources.into_iter().next()?.ok());
        Ok(shown.filter(|config| !config.entries.is_empty()).map(|config| {
            let number = |key| config.get(key)?.value.as_ref()?.parse().ok();
            Defaults { replicas: number("default.replication.factor"), min_in_sync: number("min.insync.replicas") }
        }))
    }
}

/// The settings of a new topic, the user's last.
fn topic_config(config: &config::Kafka, largest: u64, defaults: &Defaults) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::from([("max.message.bytes".to_owned(), largest.max(USUAL_MAX).to_string())]);
    let replicas = config.replication_factor.or(defaults.replicas);
    if replicas.is_some_and(|replicas| replicas >= 3) && defaults.min_in_sync.is_none_or(|min| min < 2) {
        settings.insert("min.insync.replicas".to_owned(), "2".to_owned());
    }
    settings.extend(config.topic_config.clone());
    settings
}

#[cfg(test)]
mod tests {
    use super::super::tests::support::config;
    use super::*;

    fn settings(replication: Option<i32>, defaults: Defaults, own: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut config = config("a:1");
        config.replication_factor = replication;
        config.topic_config = own.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        topic_config(&config, 12_845_056, &defaults)
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
