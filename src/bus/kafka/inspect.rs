//! What `check --online` says of Kafka. Comes in: the configuration. Goes out: for the cluster and the
//! topics what there is, what it means for an acknowledged event, and the remedy. Changes nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::metadata::MetadataTopic;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::asking::of_each;
use super::client::{Asker, Explained, Unanswered, largest_message};
use super::creation::{Answer, Lack, Unasked, Wanted, address, is_silence};
use super::keeping::{self, Settings, Verdict};
use super::look::{Leader, NOT_AT, leaders, not_reached};
use super::topics::names;
use crate::bus::{Finding, Level, OpenError, Setup};
use crate::config;
use crate::route::Topic;
use crate::telemetry::Throttle;

/// For all of it; half of it until the brokers answer at all.
const ALL: Duration = Duration::from_secs(9);
const FIRST: Duration = Duration::from_secs(5);

/// For a broker to be reached at the address that it gives.
const LEADER: Duration = Duration::from_secs(3);

/// Questions at once.
const ABREAST: usize = 16;

/// A topic as the brokers show it. Topics with the same facts are one finding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Fact {
    Missing(Trial),
    Forbidden,
    Unanswered,
    Unknown(String),
    There { partitions: usize, replicas: usize, in_sync: usize, leaderless: usize, settings: Option<Settings> },
}

/// What the controller would say to its creation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Trial {
    NotTried,
    Takes,
    Lacks(Lack),
    /// In Kafka's words.
    Fails(String),
}

/// The brokers, and what they show of each topic.
struct Seen {
    brokers: usize,
    facts: Facts,
    /// Where brokers say that they listen, and are not reached.
    not_at: Vec<String>,
}

/// What `check --online` reports. Ends within ten seconds, or twenty where topics are to be made. Brokers that
/// cannot be reached are a finding; an error is a configuration that no client can be made of.
pub(crate) async fn inspect(config: &config::Kafka, setup: &Setup) -> Result<Vec<Finding>, OpenError> {
    let deadline = Instant::now() + ALL;
    let (asker, topics) = (Asker::open(config)?, setup.topics.clone());
    let looked = tokio::task::spawn_blocking(move || look(&asker, &topics, deadline)).await;
    let mut seen = match looked {
        Ok(Ok(seen)) => seen,
        Ok(Err(unanswered)) => return Ok(vec![unreachable(&unanswered)]),
        Err(_) => return Err(OpenError("the inspection was interrupted".to_owned())),
    };
    let there = seen.facts.iter().filter(|(_, fact)| matches!(fact, Fact::There { .. })).map(|(topic, _)| topic);
    let described = keeping::describe(config, there, deadline).await?;
    if config.create_topics {
        try_to_make(config, setup, &mut seen).await?;
    }
    Ok(findings(config, setup, seen, &described.settings))
}

type Facts = BTreeMap<Topic, Fact>;

/// How many brokers there are, whether those that lead are reached, and each topic without its settings. Blocks.
fn look(asker: &Asker, topics: &[Topic], deadline: Instant) -> Result<Seen, Unanswered> {
    let first = topics.first().map(|topic| &**topic);
    let metadata = asker.metadata(first, FIRST)?;
    let brokers = metadata.brokers().len();
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let seen = of_each(topics, ABREAST, |topic| match asker.metadata(Some(topic), left()) {
        Ok(metadata) => {
            let fact = metadata.topics().first().map_or(Fact::Missing(Trial::NotTried), fact);
            (fact, leaders(&metadata, topic))
        }
        Err(unanswered) => (absent(unanswered.code()), Vec::new()),
    });
    let unanswered = |(fact, _): &(Fact, Vec<Leader>)| matches!(fact, Fact::Unanswered);
    if !seen.is_empty() && seen.iter().all(unanswered) {
        // The client goes to the addresses that brokers give for themselves as soon as it knows them.
        let not_at = metadata.brokers().iter().map(address).collect();
        return Ok(Seen { brokers, facts: Facts::new(), not_at });
    }
    let (facts, of_topics): (Vec<_>, Vec<_>) = seen.into_iter().unzip();
    let leaders: BTreeMap<_, _> =
        of_topics.into_iter().flatten().map(|leader| (leader.address.clone(), leader)).collect();
    let leaders: Vec<_> = leaders.into_values().collect();
    let patience = left().min(LEADER);
    let not_at = not_reached(&leaders, |leader| asker.ends(&leader.topic, leader.partition, patience));
    Ok(Seen { brokers, facts: topics.iter().cloned().zip(facts).collect(), not_at })
}

/// Has the controller say whether it would make what is missing; it makes nothing.
async fn try_to_make(config: &config::Kafka, setup: &Setup, seen: &mut Seen) -> Result<(), OpenError> {
    let missing = seen.facts.iter().filter(|(_, fact)| matches!(fact, Fact::Missing(_)));
    let missing: Vec<Topic> = missing.map(|(topic, _)| topic.clone()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let wanted = Wanted { config, largest: largest_message(setup.max_body) };
    // That the defaults are not shown says nothing here: what comes of them does.
    let unseen = Throttle::new(Duration::ZERO);
    let trials = match wanted.make(&missing, true, &unseen).await {
        Ok(answers) => answers,
        Err(Unasked::Unopened(error)) => return Err(error),
        Err(Unasked::NotAt(addresses)) => {
            if seen.not_at.is_empty() {
                seen.not_at = addresses;
            }
            return Ok(());
        }
        Err(Unasked::Failed(why)) => missing.into_iter().map(|topic| (topic, Answer::NotNow(why.clone()))).collect(),
    };
    for (topic, answer) in trials {
        let trial = match answer {
            Answer::Made | Answer::There => Trial::Takes,
            Answer::Lacks(lack) => Trial::Lacks(lack),
            Answer::NotNow(why) => Trial::Fails(why),
        };
        seen.facts.insert(topic, Fact::Missing(trial));
    }
    Ok(())
}

fn fact(topic: &MetadataTopic) -> Fact {
    if let Some(error) = topic.error() {
        return absent(error.into());
    }
    let partitions = topic.partitions();
    Fact::There {
        partitions: partitions.len(),
        replicas: partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or_default(),
        in_sync: partitions.iter().map(|partition| partition.isr().len()).min().unwrap_or_default(),
        leaderless: partitions.iter().filter(|partition| partition.leader() < 0).count(),
        settings: None,
    }
}

fn absent(code: Code) -> Fact {
    match code {
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::InvalidTopic => Fact::Missing(Trial::NotTried),
        Code::TopicAuthorizationFailed => Fact::Forbidden,
        code if is_silence(code) => Fact::Unanswered,
        other => Fact::Unknown(other.to_string()),
    }
}

fn unreachable(unanswered: &Unanswered) -> Finding {
    let Explained { trouble, cause } = unanswered.explained;
    let (says, remedy) = match (trouble, cause) {
        (Some(trouble), _) => (trouble.says().to_owned(), trouble.remedy()),
        (None, Some(cause)) => {
            (format!("no broker answered within {} s: {}", FIRST.as_secs(), cause.says()), cause.remedy())
        }
        (None, None) => (
            format!("no broker answered within {} s", FIRST.as_secs()),
            "check kafka.brokers, the network, and whether these listeners ask for TLS or a login (kafka.tls, \
             kafka.username)",
        ),
    };
    Finding::mistake("cluster", says, remedy)
}

fn advertised(addresses: &[String]) -> Option<Finding> {
    (!addresses.is_empty()).then(|| Finding {
        about: "cluster".to_owned(),
        level: Level::Mistake,
        says: format!("{NOT_AT} ({})", addresses.join(", ")),
        remedy: Some("see advertised.listeners of these brokers, and whether they run".to_owned()),
    })
}

fn findings(config: &config::Kafka, setup: &Setup, seen: Seen, settings: &BTreeMap<Topic, Settings>) -> Vec<Finding> {
    let Seen { brokers, facts, not_at } = seen;
    let mut alike: BTreeMap<Fact, Vec<Topic>> = BTreeMap::new();
    for (topic, mut fact) in facts {
        if let Fact::There { settings: known, .. } = &mut fact {
            *known = settings.get(&topic).cloned();
        }
        alike.entry(fact).or_default().push(topic);
    }
    let mut findings = vec![cluster(brokers)];
    findings.extend(advertised(&not_at));
    for (fact, topics) in &alike {
        let about = match &topics[..] {
            [only] => only.to_string(),
            many => format!("{} topics", many.len()),
        };
        let all = names(topics.iter().map(|topic| &**topic));
        let listed = if topics.len() == 1 { String::new() } else { format!(" ({all})") };
        findings.extend(found(config, setup, fact, &topics[0]).into_iter().enumerate().map(|(at, finding)| {
            let (level, says, remedy) = finding;
            let says = if at == 0 { says + &listed } else { says };
            Finding { about: about.clone(), level, says, remedy }
        }));
    }
    findings
}

fn cluster(brokers: usize) -> Finding {
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

type Found = (Level, String, Option<String>);

/// The first says what there is; `topic` stands for all that are like it.
fn found(config: &config::Kafka, setup: &Setup, fact: &Fact, topic: &Topic) -> Vec<Found> {
    match fact {
        Fact::Missing(trial) if config.create_topics => vec![missing_but_made(config, trial)],
        Fact::Missing(_) => vec![(
            Level::Mistake,
            "does not exist: every delivery for it is refused".to_owned(),
            Some(format!(
                "kafka-topics --bootstrap-server HOST:PORT --create --topic {topic} --partitions {} --config \
                 max.message.bytes={}, or set kafka.create_topics = true",
                config.partitions,
                largest_message(setup.max_body)
            )),
        )],
        Fact::Forbidden => vec![(
            Level::Mistake,
            "this login may not see it, and so not write to it".to_owned(),
            Some(format!(
                "kafka-acls --bootstrap-server HOST:PORT --add --allow-principal User:NAME --operation Write --operation \
                 Describe --topic {topic}"
            )),
        )],
        Fact::Unanswered => vec![(
            Level::Mistake,
            "no broker answered for it in time".to_owned(),
            Some("try again; look at the brokers' own log if it stays".to_owned()),
        )],
        Fact::Unknown(answer) => vec![(
            Level::Mistake,
            format!("the brokers did not tell ({answer})"),
            Some("try again; look at the brokers' own log if it stays".to_owned()),
        )],
        Fact::There { partitions, replicas, in_sync, leaderless, settings } => {
            let known = settings.clone().unwrap_or_default();
            let mut found = vec![(Level::Fine, there(*partitions, *replicas, &known), None)];
            if settings.is_none() {
                found.push((
                    Level::Advice,
                    "this login may not see its settings: whether it keeps what it takes, its size limit and \
                     min.insync.replicas are not checked"
                        .to_owned(),
                    Some(format!("grant DescribeConfigs on topic {topic}")),
                ));
            }
            found.extend(kept_by(*replicas, &known, topic));
            found.extend(health(*replicas, *in_sync, *leaderless));
            found.extend(size(setup, &known, topic));
            found.extend(
                known.verdicts(largest_message(setup.max_body)).into_iter().map(|verdict| said(verdict, topic)),
            );
            found
        }
    }
}

fn missing_but_made(config: &config::Kafka, trial: &Trial) -> Found {
    let replicas = config.replication_factor;
    let replicas = replicas.map_or("the brokers' default replication".to_owned(), |n| counted(n as usize, "replica"));
    let partitions = counted(config.partitions as usize, "partition");
    let made = format!("the bridge creates it with {partitions} and {replicas}");
    match trial {
        Trial::Lacks(lack) => (Level::Mistake, format!("{} ({made})", lack.says()), Some(lack.remedy().into_owned())),
        Trial::Takes => (Level::Fine, format!("does not exist yet: {made}, which the brokers would do now"), None),
        Trial::NotTried => (Level::Fine, format!("does not exist yet: {made}"), None),
        Trial::Fails(why) => (
            Level::Advice,
            format!("does not exist yet: {made}, which the brokers would not do now: {why}"),
            Some("try again; look at the brokers' own log if it stays".to_owned()),
        ),
    }
}

/// With what happens to deliveries, where that follows.
fn said(verdict: Verdict, topic: &Topic) -> Found {
    let Verdict { refused, level, says, key, value } = verdict;
    let says = if refused { format!("{says}: every delivery is refused") } else { says };
    (level, says, Some(configure(topic, key, value)))
}

fn there(partitions: usize, replicas: usize, settings: &Settings) -> String {
    let mut says = format!("{}, {}", counted(partitions, "partition"), counted(replicas, "replica"));
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
fn kept_by(replicas: usize, settings: &Settings, topic: &Topic) -> Option<Found> {
    let alter = |value: usize| Some(configure(topic, "min.insync.replicas", value));
    match (replicas, settings.min_in_sync) {
        (1, _) => Some((
            Level::Advice,
            "1 replica: an acknowledged event is lost with that broker's disk".to_owned(),
            Some(
                "set kafka.replication_factor = 3 before the topic is created, or give it replicas with \
                 kafka-reassign-partitions"
                    .to_owned(),
            ),
        )),
        (replicas, Some(min)) if min > replicas => Some((
            Level::Mistake,
            format!("min.insync.replicas {min} of {replicas} replicas: every delivery is refused"),
            alter(replicas.saturating_sub(1).max(1)),
        )),
        (replicas, Some(min)) if min == replicas => Some((
            Level::Advice,
            format!("all {replicas} replicas have to be in sync: deliveries are refused while any broker is down"),
            Some("give it 3 replicas with kafka-reassign-partitions and keep min.insync.replicas = 2".to_owned()),
        )),
        (2, Some(_)) => Some((
            Level::Advice,
            "2 replicas of which 1 has to be in sync: while a broker is down, an acknowledged event is on one disk only"
                .to_owned(),
            Some("give it 3 replicas with kafka-reassign-partitions, and min.insync.replicas = 2".to_owned()),
        )),
        (replicas, Some(1)) => Some((
            Level::Advice,
            format!(
                "{replicas} replicas of which 1 has to be in sync: an event acknowledged while the others lag is lost with \
                 that broker's disk"
            ),
            alter(2),
        )),
        _ => None,
    }
}

fn health(replicas: usize, in_sync: usize, leaderless: usize) -> Option<Found> {
    let remedy =
        Some("look after the brokers that are down or lag (kafka-topics --describe --under-replicated-partitions)");
    let says = if leaderless > 0 {
        (
            Level::Mistake,
            format!("{} without a leader: deliveries for it are refused", counted(leaderless, "partition")),
        )
    } else if in_sync < replicas {
        (Level::Advice, format!("some partition has only {in_sync} of {replicas} replicas in sync now"))
    } else {
        return None;
    };
    Some((says.0, says.1, remedy.map(str::to_owned)))
}

fn size(setup: &Setup, settings: &Settings, topic: &Topic) -> Option<Found> {
    let wanted = largest_message(setup.max_body);
    let (taken, key) = settings.takes().filter(|(taken, _)| *taken < wanted)?;
    let says = if taken < setup.max_body as u64 {
        format!("takes {taken} bytes, server.max_body is {}: larger deliveries are refused", setup.max_body)
    } else {
        format!("takes {taken} bytes: a body near server.max_body and its headers may not fit")
    };
    Some((Level::Mistake, says, Some(configure(topic, key, wanted))))
}

fn configure(topic: &Topic, key: &str, value: impl std::fmt::Display) -> String {
    format!(
        "kafka-configs --bootstrap-server HOST:PORT --alter --entity-type topics --entity-name {topic} --add-config \
         {key}={value}"
    )
}

fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;

    use super::super::client::tests::{config, setup};
    use super::*;

    fn there(replicas: usize, min: usize) -> Fact {
        with(replicas, min, "20000000")
    }

    fn with(replicas: usize, min: usize, max_message: &str) -> Fact {
        let min = min.to_string();
        let settings = Settings::read(|key| match key {
            "min.insync.replicas" => Some(&*min),
            "max.message.bytes" => Some(max_message),
            "retention.ms" => Some("604800000"),
            _ => None,
        });
        Fact::There { partitions: 6, replicas, in_sync: replicas, leaderless: 0, settings: Some(settings) }
    }

    fn of(fact: &Fact) -> Vec<Found> {
        found(&config("a:1"), &setup(Duration::from_secs(5), &["t"]), fact, &"t".into())
    }

    #[test]
    fn three_replicas_with_two_in_sync_need_no_advice() {
        let found = of(&there(3, 2));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            found[0].1,
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
            assert!(found[1].1.contains(word), "{fact:?}: {found:?}");
            assert!(found[1].2.is_some(), "{fact:?}");
        }
    }

    #[test]
    fn a_topic_too_small_for_the_largest_body_is_a_mistake() {
        let found = of(&with(3, 2, "1048588"));
        assert_eq!(found[1].0, Level::Mistake);
        assert!(found[1].2.as_ref().is_some_and(|remedy| remedy.contains("max.message.bytes=12845056")), "{found:?}");
    }

    #[test]
    fn distant_brokers_are_asked_for_every_topic() {
        let brokers: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).unwrap();
        let topics: Vec<Topic> = (0..200).map(|at| format!("terra.{at}").as_str().into()).collect();
        // One after the other they would take 12 s.
        brokers.broker_round_trip_time(1, Duration::from_millis(60)).unwrap();
        let asker = Asker::open(&config(&brokers.bootstrap_servers())).unwrap();
        let Seen { facts, .. } = look(&asker, &topics, Instant::now() + ALL).unwrap();
        let missing = facts.values().all(|fact| *fact == Fact::Missing(Trial::NotTried));
        assert!(facts.len() == 200 && missing, "{facts:?}");
    }

    #[test]
    fn topics_with_the_same_facts_are_one_finding() {
        let (config, setup) = (config("a:1"), setup(Duration::from_secs(5), &["a", "b"]));
        let facts = ["a", "b"].map(|topic| (topic.into(), Fact::Missing(Trial::Takes))).into();
        let seen = Seen { brokers: 3, facts, not_at: Vec::new() };
        let findings = findings(&config, &setup, seen, &BTreeMap::new());
        assert_eq!(findings.len(), 2);
        assert_eq!(findings[1].about, "2 topics");
        assert!(findings[1].says.ends_with("(a, b)"), "{findings:?}");
    }
}
