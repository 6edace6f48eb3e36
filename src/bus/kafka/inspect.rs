//! What `check --online` asks of Kafka. Changes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::metadata::Metadata;

use super::admin::{Admin, Creation, NoController};
use super::client::{Query as _, QueryClient, blocking, left};
use super::findings::{Cluster, Shown, findings, unreachable};
use super::metadata::{self, Questions, TopicMetadata, address};
use super::settings::largest_message;
use crate::bus::{Finding, OpenError, Setup};
use crate::config;
use crate::route::Topic;

/// For all of it; half of it until the brokers answer at all.
const ALL: Duration = Duration::from_secs(9);
const FIRST: Duration = Duration::from_secs(5);

/// For a broker to be reached at the address that it advertises.
const LEADER: Duration = Duration::from_secs(3);

/// Questions at once.
const AT_ONCE: usize = 16;

/// What `check --online` reports. Ends within ten seconds, or twenty where topics are to be created. Brokers that
/// cannot be reached are a finding; an error is a configuration that no client can be made of.
pub(crate) async fn inspect(config: &config::Kafka, setup: &Setup) -> Result<Vec<Finding>, OpenError> {
    let deadline = Instant::now() + ALL;
    let (client, topics) = (Arc::new(QueryClient::open(config)?), &setup.topics);
    let (asked, first) = (Arc::clone(&client), topics.first().cloned());
    let brokers =
        blocking(move || asked.metadata(first.as_deref(), FIRST).map_err(|error| asked.explain(&error))).await;
    let mut cluster = match brokers {
        Ok(metadata) => look(&client, &metadata, topics, deadline).await,
        Err(no_answer) => return Ok(vec![unreachable(no_answer.explained, FIRST)]),
    };
    let admin = Admin::open(config)?;
    let existing = cluster.topics.iter().filter(|(_, shown)| matches!(shown.metadata, TopicMetadata::Exists(_)));
    let existing: Vec<_> = existing.map(|(topic, _)| topic.clone()).collect();
    for (topic, settings) in admin.settings(&existing, deadline).await.unwrap_or_default() {
        cluster.topics.entry(topic).and_modify(|shown| shown.settings = Some(settings));
    }
    if config.create_topics {
        try_creation(&admin, config, setup, &mut cluster).await;
    }
    Ok(findings(config, setup, cluster))
}

/// How many brokers there are, whether those that lead are reached, and each topic without its settings.
async fn look(client: &Arc<QueryClient>, brokers: &Metadata, topics: &[Topic], deadline: Instant) -> Cluster {
    // One that nobody answers for says nothing of the others.
    let questions = Questions { at_once: AT_ONCE, patience: left(deadline), deadline, skip_after_silence: false };
    let (seen, leaders) = metadata::of_topics(client, topics.to_vec(), questions).await;
    let (seen, not_reached) = if !seen.is_empty() && seen.iter().all(|(_, metadata)| metadata.is_silent()) {
        // The client goes to the addresses that brokers advertise as soon as it knows them.
        (Vec::new(), brokers.brokers().iter().map(address).collect())
    } else {
        (seen, metadata::not_reached(client, leaders, left(deadline).min(LEADER)).await)
    };
    let shown = |(topic, metadata)| (topic, Shown { metadata, settings: None, creation: None });
    Cluster { brokers: brokers.brokers().len(), topics: seen.into_iter().map(shown).collect(), not_reached }
}

/// Has the controller say whether it would create what is missing; it creates nothing.
async fn try_creation(admin: &Admin, config: &config::Kafka, setup: &Setup, cluster: &mut Cluster) {
    let missing = cluster.topics.iter().filter(|(_, shown)| shown.metadata == TopicMetadata::Missing);
    let missing: Vec<_> = missing.map(|(topic, _)| topic.clone()).collect();
    if missing.is_empty() {
        return;
    }
    let creations = match admin.defaults(missing.first()).await {
        // That the defaults are not shown says nothing here: what comes of them does.
        Ok(defaults) => admin.create(&missing, config, largest_message(setup.max_body), defaults, true).await,
        Err(error) => Err(error),
    };
    let creations = match creations {
        Ok(creations) => creations,
        Err(NoController::NotReached(addresses)) => {
            if cluster.not_reached.is_empty() {
                cluster.not_reached = addresses;
            }
            return;
        }
        Err(NoController::Failed(why)) => {
            missing.into_iter().map(|topic| (topic, Creation::Failed(why.clone()))).collect()
        }
    };
    for (topic, creation) in creations {
        cluster.topics.entry(topic).and_modify(|shown| shown.creation = Some(creation));
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;

    use super::super::tests::support::config;
    use super::*;

    #[tokio::test]
    async fn distant_brokers_are_asked_for_every_topic() {
        let mock: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).unwrap();
        let topics: Vec<Topic> = (0..200).map(|at| format!("terra.{at}").as_str().into()).collect();
        // One after the other they would take 12 s.
        mock.broker_round_trip_time(1, Duration::from_millis(60)).unwrap();
        let client = Arc::new(QueryClient::open(&config(&mock.bootstrap_servers())).unwrap());
        let brokers = client.metadata(None, FIRST).unwrap();
        let Cluster { topics: shown, .. } = look(&client, &brokers, &topics, Instant::now() + ALL).await;
        let missing = shown.values().all(|shown| shown.metadata == TopicMetadata::Missing);
        assert!(shown.len() == 200 && missing, "{shown:?}");
    }
}
