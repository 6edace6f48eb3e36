//! What `check --online` says of Kafka: what there is, what it means for an acknowledged event, and the remedy.

use std::collections::BTreeMap;
use std::time::Duration;

use super::admin::Creation;
use super::connection_error::ConnectionError;
use super::metadata::{Partitions, TopicMetadata};
use super::refusal::NOT_AT_ADVERTISED;
use super::settings::largest_message;
use super::topic_error::{TopicError, configure, create_by_hand, names};
use super::topic_settings::{SettingProblem, Settings};
use crate::bus::{Finding, Setup};
use crate::config;
use crate::route::Topic;

const TRY_AGAIN: &str = "try again; read the brokers' own log if it stays";

/// The brokers, and what they show of each topic.
pub(super) struct Cluster {
    pub(super) brokers: usize,
    pub(super) topics: BTreeMap<Topic, Shown>,
    /// The addresses that brokers advertise, and are not reached at.
    pub(super) not_reached: Vec<String>,
}

/// A topic as the brokers show it. Topics that are alike are one finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) metadata: TopicMetadata,
    pub(super) settings: Option<Settings>,
    /// What the controller says to its creation, where it was asked.
    pub(super) creation: Option<Creation>,
}

/// No broker answered `within` this time.
pub(super) fn unreachable(error: Option<ConnectionError>, within: Duration) -> Finding {
    let no_answer = format!("no broker answered within {} s", within.as_secs());
    match error {
        Some(error) if error.is_permanent() => Finding::mistake("cluster", error.says(), error.remedy()),
        Some(error) => Finding::mistake("cluster", format!("{no_answer}: {}", error.says()), error.remedy()),
        None => Finding::mistake(
            "cluster",
            no_answer,
            "check kafka.brokers, the network, and whether these listeners ask for TLS or a login (kafka.tls, \
             kafka.username)",
        ),
    }
}

pub(super) fn findings(config: &config::Kafka, setup: &Setup, cluster: Cluster) -> Vec<Finding> {
    let mut alike: Vec<(Shown, Vec<Topic>)> = Vec::new();
    for (topic, shown) in cluster.topics {
        match alike.iter_mut().find(|(like, _)| *like == shown) {
            Some((_, topics)) => topics.push(topic),
            None => alike.push((shown, vec![topic])),
        }
    }
    alike.sort_by_key(|(shown, _)| position(&shown.metadata));
    let mut findings = vec![brokers(cluster.brokers)];
    if !cluster.not_reached.is_empty() {
        let says = format!("{NOT_AT_ADVERTISED} ({})", cluster.not_reached.join(", "));
        findings.push(Finding::mistake(
            "cluster",
            says,
            "check advertised.listeners of these brokers, and that they run",
        ));
    }
    for (shown, topics) in &alike {
        let mut found = of_topic(config, setup, shown, &topics[0]);
        if topics.len() > 1 {
            found[0].says += &format!(" ({})", names(topics));
            found.iter_mut().for_each(|finding| finding.about = format!("{} topics", topics.len()));
        }
        findings.append(&mut found);
    }
    findings
}

/// What takes no message comes first.
fn position(metadata: &TopicMetadata) -> u8 {
    match metadata {
        TopicMetadata::Missing => 0,
        TopicMetadata::Forbidden => 1,
        metadata if metadata.is_silent() => 2,
        TopicMetadata::Unanswered(_) | TopicMetadata::Failed(_) => 3,
        TopicMetadata::Exists(_) => 4,
    }
}

fn brokers(brokers: usize) -> Finding {
    match brokers {
        1 => Finding::advice(
            "cluster",
            "reached, 1 broker: while it is down every delivery is refused, and its disk is the only copy",
            "run 3 brokers or more where events must survive the loss of one",
        ),
        2 => Finding::advice(
            "cluster",
            "reached, 2 brokers: events cannot both survive the loss of one and be taken while it is down",
            "run 3 brokers or more",
        ),
        many => Finding::fine("cluster", format!("reached, {many} brokers")),
    }
}

/// The first says what there is; `topic` stands for all that are like it.
fn of_topic(config: &config::Kafka, setup: &Setup, shown: &Shown, topic: &str) -> Vec<Finding> {
    vec![match shown.metadata {
        TopicMetadata::Exists(partitions) => return existing(setup, partitions, shown.settings.as_ref(), topic),
        TopicMetadata::Missing if config.create_topics => to_be_created(config, shown.creation.as_ref(), topic),
        TopicMetadata::Missing => {
            let (partitions, largest) = (config.partitions, largest_message(setup.max_body));
            let options = format!(" --partitions {partitions} --config max.message.bytes={largest}");
            let remedy = create_by_hand(topic, &options);
            Finding::mistake(topic, "does not exist: every delivery for it is refused", remedy)
        }
        TopicMetadata::Forbidden => {
            Finding::mistake(topic, TopicError::Forbidden.says(), TopicError::Forbidden.remedy(topic))
        }
        metadata if metadata.is_silent() => Finding::mistake(topic, "no broker answered for it in time", TRY_AGAIN),
        TopicMetadata::Unanswered(code) | TopicMetadata::Failed(code) => {
            Finding::mistake(topic, format!("the brokers answered with an error ({code})"), TRY_AGAIN)
        }
    }]
}

fn to_be_created(config: &config::Kafka, creation: Option<&Creation>, topic: &str) -> Finding {
    let replicas = config.replication_factor;
    let replicas = replicas.map_or("the brokers' default replication".to_owned(), |n| counted(n as usize, "replica"));
    let creates =
        format!("the bridge creates it with {} and {replicas}", counted(config.partitions as usize, "partition"));
    match creation {
        Some(Creation::Refused(error)) => {
            Finding::mistake(topic, format!("{} ({creates})", error.says()), error.remedy(topic))
        }
        Some(Creation::Created | Creation::Exists) => {
            Finding::fine(topic, format!("does not exist yet: {creates}, which the brokers would do now"))
        }
        Some(Creation::Failed(why)) => {
            let says = format!("does not exist yet: {creates}, which the brokers would not do now: {why}");
            Finding::advice(topic, says, TRY_AGAIN)
        }
        None => Finding::fine(topic, format!("does not exist yet: {creates}")),
    }
}

/// Of a topic that exists: what an acknowledgement is worth there, and what is refused.
fn existing(setup: &Setup, partitions: Partitions, settings: Option<&Settings>, topic: &str) -> Vec<Finding> {
    let shown = settings.cloned().unwrap_or_default();
    let mut findings = vec![Finding::fine(topic, summary(partitions, &shown))];
    if settings.is_none() {
        findings.push(Finding::advice(
            topic,
            "this login may not see its settings: whether it keeps what it takes, its size limit and \
             min.insync.replicas are not checked",
            format!("grant DescribeConfigs on topic {topic}"),
        ));
    }
    findings.extend(durability(partitions.replicas, &shown, topic));
    findings.extend(health(partitions, topic));
    findings.extend(size(setup, &shown, topic));
    let problems = shown.problems(largest_message(setup.max_body)).into_iter();
    findings.extend(problems.map(|problem| setting(problem, topic)));
    findings
}

fn summary(partitions: Partitions, settings: &Settings) -> String {
    let mut says = format!("{}, {}", counted(partitions.count, "partition"), counted(partitions.replicas, "replica"));
    if let Some(min) = settings.min_in_sync {
        says += &format!(", min.insync.replicas {min}");
    }
    if let Some((bytes, _)) = settings.takes() {
        says += &format!(", messages up to {bytes} bytes");
    }
    if let Some(kept) = settings.kept_for() {
        says += &format!(", {kept}");
    }
    says
}

/// What an acknowledgement is worth.
fn durability(replicas: usize, settings: &Settings, topic: &str) -> Option<Finding> {
    let set = |value: usize| configure(topic, "min.insync.replicas", value);
    match (replicas, settings.min_in_sync) {
        (1, _) => Some(Finding::advice(
            topic,
            "1 replica: an acknowledged event is lost with that broker's disk",
            "set kafka.replication_factor = 3 before the topic is created, or give it replicas with \
             kafka-reassign-partitions",
        )),
        (replicas, Some(min)) if min > replicas => Some(Finding::mistake(
            topic,
            format!("min.insync.replicas {min} of {replicas} replicas: every delivery is refused"),
            set(replicas.saturating_sub(1).max(1)),
        )),
        (replicas, Some(min)) if min == replicas => Some(Finding::advice(
            topic,
            format!("all {replicas} replicas have to be in sync: deliveries are refused while any broker is down"),
            "give it 3 replicas with kafka-reassign-partitions and keep min.insync.replicas = 2",
        )),
        (2, Some(_)) => Some(Finding::advice(
            topic,
            "2 replicas of which 1 has to be in sync: while a broker is down, an acknowledged event is on one disk only",
            "give it 3 replicas with kafka-reassign-partitions, and min.insync.replicas = 2",
        )),
        (replicas, Some(1)) => Some(Finding::advice(
            topic,
            format!(
                "{replicas} replicas of which 1 has to be in sync: an event acknowledged while the others lag is lost with \
                 that broker's disk"
            ),
            set(2),
        )),
        _ => None,
    }
}

fn health(partitions: Partitions, topic: &str) -> Option<Finding> {
    let Partitions { replicas, in_sync, leaderless, .. } = partitions;
    let remedy = "check the brokers that are down or lag (kafka-topics --describe --under-replicated-partitions)";
    if leaderless > 0 {
        let says = format!("{} without a leader: deliveries for it are refused", counted(leaderless, "partition"));
        return Some(Finding::mistake(topic, says, remedy));
    }
    let says = format!("some partition has only {in_sync} of {replicas} replicas in sync now");
    (in_sync < replicas).then(|| Finding::advice(topic, says, remedy))
}

fn size(setup: &Setup, settings: &Settings, topic: &str) -> Option<Finding> {
    let wanted = largest_message(setup.max_body);
    let (taken, key) = settings.takes().filter(|(taken, _)| *taken < wanted)?;
    let says = if taken < setup.max_body as u64 {
        format!("takes {taken} bytes, server.max_body is {}: larger deliveries are refused", setup.max_body)
    } else {
        format!("takes {taken} bytes: a body near server.max_body and its headers may not fit")
    };
    Some(Finding::mistake(topic, says, configure(topic, key, wanted)))
}

/// With what happens to deliveries, where that follows.
fn setting(problem: SettingProblem, topic: &str) -> Finding {
    let SettingProblem { refused, level, says, key, value } = problem;
    let says = if refused { format!("{says}: every delivery is refused") } else { says };
    Finding { level, ..Finding::mistake(topic, says, configure(topic, key, value)) }
}

fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaErrorCode as Code;

    use super::super::tests::support::{config, setup};
    use super::*;
    use crate::bus::Level;

    fn there(replicas: usize, min: usize) -> Shown {
        with(replicas, min, "20000000")
    }

    fn with(replicas: usize, min: usize, max_message: &str) -> Shown {
        let min = min.to_string();
        let settings = Settings::read(|key| match key {
            "min.insync.replicas" => Some(&*min),
            "max.message.bytes" => Some(max_message),
            "retention.ms" => Some("604800000"),
            _ => None,
        });
        let partitions = Partitions { count: 6, replicas, in_sync: replicas, leaderless: 0 };
        Shown { metadata: TopicMetadata::Exists(partitions), settings: Some(settings), creation: None }
    }

    fn of(shown: &Shown) -> Vec<Finding> {
        of_topic(&config("a:1"), &setup(Duration::from_secs(5), &["t"]), shown, "t")
    }

    #[test]
    fn three_replicas_with_two_in_sync_need_no_advice() {
        let found = of(&there(3, 2));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            found[0].says,
            "6 partitions, 3 replicas, min.insync.replicas 2, messages up to 20000000 bytes, kept for 7 days"
        );
    }

    #[test]
    fn every_weakness_is_named_with_its_remedy() {
        for (fact, word) in [
            (there(1, 1), "lost with that broker's disk"),
            (there(3, 1), "lag"),
            (there(2, 2), "while any broker is down"),
            (there(2, 1), "one disk only"),
            (there(1, 2), "lost with"),
            (there(2, 3), "every delivery is refused"),
        ] {
            let found = of(&fact);
            assert!(found[1].says.contains(word), "{fact:?}: {found:?}");
            assert!(found[1].remedy.is_some(), "{fact:?}");
        }
    }

    #[test]
    fn a_topic_too_small_for_the_largest_body_is_a_mistake() {
        let found = of(&with(3, 2, "1048588"));
        assert_eq!(found[1].level, Level::Mistake);
        assert!(
            found[1].remedy.as_ref().is_some_and(|remedy| remedy.contains("max.message.bytes=12845056")),
            "{found:?}"
        );
    }

    #[test]
    fn topics_with_the_same_facts_are_one_finding() {
        let (config, setup) = (config("a:1"), setup(Duration::from_secs(5), &["a", "b"]));
        let (metadata, creation) = (TopicMetadata::Missing, Some(Creation::Created));
        let shown = Shown { metadata, settings: None, creation };
        let topics = ["a", "b"].map(|topic| (topic.into(), shown.clone())).into();
        let cluster = Cluster { brokers: 3, topics, not_reached: Vec::new() };
        let findings = findings(&config, &setup, cluster);
        assert_eq!(findings.len(), 2);
        assert_eq!(findings[1].about, "2 topics");
        assert!(findings[1].says.ends_with("(a, b)"), "{findings:?}");
    }

    #[test]
    fn topics_that_take_no_message_come_before_those_that_exist() {
        let shown = |metadata| Shown { metadata, settings: None, creation: None };
        let topics = [
            ("a", there(3, 2)),
            ("b", shown(TopicMetadata::Failed(Code::Unknown))),
            ("c", shown(TopicMetadata::Unanswered(Code::OperationTimedOut))),
            ("d", shown(TopicMetadata::Forbidden)),
            ("e", shown(TopicMetadata::Missing)),
        ];
        let topics = topics.map(|(topic, shown)| (topic.into(), shown)).into();
        let cluster = Cluster { brokers: 3, topics, not_reached: Vec::new() };
        let findings = findings(&config("a:1"), &setup(Duration::from_secs(5), &["a"]), cluster);
        let about: Vec<_> = findings.iter().map(|finding| &*finding.about).collect();
        assert_eq!(about, ["cluster", "e", "d", "c", "b", "a"]);
    }

    #[test]
    fn a_missing_topic_has_the_whole_command_that_creates_it() {
        let missing = Shown { metadata: TopicMetadata::Missing, settings: None, creation: None };
        let config = config::Kafka { create_topics: false, ..config("a:1") };
        let found = of_topic(&config, &setup(Duration::from_secs(5), &["t"]), &missing, "t");
        let command = "kafka-topics --bootstrap-server HOST:PORT --create --topic t --partitions 6 --config \
                       max.message.bytes=12845056";
        assert!(found[0].remedy.as_ref().is_some_and(|remedy| remedy.contains(command)), "{found:?}");
    }
}
