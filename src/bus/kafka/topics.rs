//! Reconciles the topics that messages go to: creates what is missing if it may, else says what to grant. Leaves
//! existing ones as they are. Publishes which topics are ready, and which refuse every message.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::admin::{Admin, Creation, NoController};
use super::backoff::Backoff;
use super::client::Query;
use super::metadata::{self, Leader, Questions};
use super::settings::largest_message;
use super::status::{Status, TopicStatus};
use super::topic_error::{TopicError, names};
use super::topic_settings::Settings;
use super::topic_state::{Readiness, SettingsCheck, TopicState};
use crate::bus::Setup;
use crate::config;
use crate::route::Topic;
use crate::telemetry::Throttle;

/// From one look to the next: when all topics are ready, when only somebody else can help, and when a topic may become
/// ready by itself, or just changed.
pub(super) const HEALTHY_INTERVAL: Duration = Duration::from_secs(30);
const DEGRADED_INTERVAL: Duration = Duration::from_secs(5);
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// For all questions of one kind in a look.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(10);

/// For the brokers to say how topics are set up.
const DESCRIBE: Duration = Duration::from_secs(3);

/// How often the settings of ready topics are checked again: somebody may have changed them.
const CHECK_ALL: Duration = Duration::from_secs(300);

/// How often it is logged again that the brokers do not show something, and that topics are not created yet.
const NOT_SHOWN_EVERY: Duration = Duration::from_secs(3600);
const NOT_CREATED_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Topics {
    config: config::Kafka,
    /// Bytes of the largest message.
    largest: u64,
    topics: BTreeMap<Topic, TopicState>,
    /// As they were last logged.
    errors: BTreeMap<Topic, TopicError>,
    checked_all: Instant,
    /// Of asking the controller again to create what it refused.
    creation: Backoff,
    defaults_hidden: Throttle,
    settings_hidden: Throttle,
    settings_unanswered: Throttle,
    not_created: Throttle,
}

/// What came of a look at the topics.
#[derive(Debug, Default)]
pub(super) struct Reconciled {
    /// Each is ready, or was reported.
    pub(super) ready: bool,
    /// How long the next look can wait.
    pub(super) next: Duration,
    /// Each broker that leads a partition of theirs.
    pub(super) leaders: Vec<Leader>,
    /// The addresses that brokers advertise, where the controller was not reached at them.
    pub(super) no_controller_at: Vec<String>,
}

impl Topics {
    pub(super) fn new(config: config::Kafka, setup: &Setup) -> Self {
        Self {
            config,
            largest: largest_message(setup.max_body),
            topics: setup.topics.iter().map(|topic| (topic.clone(), TopicState::default())).collect(),
            errors: BTreeMap::new(),
            checked_all: Instant::now(),
            creation: Backoff::default(),
            defaults_hidden: Throttle::new(NOT_SHOWN_EVERY),
            settings_hidden: Throttle::new(NOT_SHOWN_EVERY),
            settings_unanswered: Throttle::new(NOT_SHOWN_EVERY),
            not_created: Throttle::new(NOT_CREATED_EVERY),
        }
    }

    /// These from now on. All are checked anew.
    pub(super) fn replace(&mut self, topics: Vec<Topic>) {
        let topics: BTreeSet<_> = topics.into_iter().collect();
        self.topics.retain(|topic, _| topics.contains(topic));
        for state in self.topics.values_mut() {
            state.creation = None;
            if state.settings == SettingsCheck::Checked(None) {
                state.settings = SettingsCheck::NotAsked;
            }
        }
        self.add(topics);
    }

    /// These as well. Whether any of them is new.
    pub(super) fn add(&mut self, topics: BTreeSet<Topic>) -> bool {
        let before = self.topics.len();
        topics.into_iter().for_each(|topic| _ = self.topics.entry(topic).or_default());
        self.topics.len() > before
    }

    pub(super) fn first(&self) -> Option<Topic> {
        self.topics.keys().next().cloned()
    }

    /// Looks at all topics, creates what is missing if that is allowed, and publishes the status of each. One that the
    /// brokers do not answer for in time counts as they last showed it, and is asked for first at the next look.
    pub(super) async fn reconcile(
        &mut self,
        producer: &Arc<impl Query>,
        status: &Status,
        patience: Duration,
    ) -> Reconciled {
        let mut asked: Vec<_> = self.topics.iter().map(|(topic, state)| (state.seen, topic.clone())).collect();
        asked.sort();
        let asked = asked.into_iter().map(|(_, topic)| topic).collect();
        let deadline = Instant::now() + RECONCILE_TIMEOUT;
        let questions = Questions { at_once: metadata::AT_ONCE, patience, deadline, skip_after_silence: true };
        let (mut found, leaders) = metadata::of_topics(producer, asked, questions).await;
        found.retain(|(_, metadata)| metadata.is_answer());
        if found.is_empty() && !self.topics.is_empty() {
            return Reconciled { next: RETRY_INTERVAL, ..Reconciled::default() };
        }
        found.into_iter().for_each(|(topic, metadata)| self.state(&topic).show(metadata));
        self.check_new(producer, patience).await;
        self.check_settings(status).await;
        // Creating others may take long.
        self.publish(status);
        let no_controller_at = self.create_missing().await;
        let is_news = self.report(status);
        self.publish(status);
        let ready = !self.topics.values().any(TopicState::is_awaited);
        let next = match self.errors.is_empty() {
            _ if is_news || self.topics.values().any(TopicState::waits) => RETRY_INTERVAL,
            true => HEALTHY_INTERVAL,
            false => DEGRADED_INTERVAL,
        };
        Reconciled { ready, next, leaders, no_controller_at }
    }

    /// New topics are new no more once each of their partitions answers.
    async fn check_new(&mut self, producer: &Arc<impl Query>, patience: Duration) {
        let new = |(topic, state): (&Topic, &TopicState)| Some((topic.clone(), state.new_partitions()?));
        let new: Vec<_> = self.topics.iter().filter_map(new).collect();
        let not_serving = metadata::not_serving(producer, &new, patience, Instant::now() + RECONCILE_TIMEOUT).await;
        for (topic, _) in new {
            self.state(&topic).is_new = not_serving.contains(&topic);
        }
    }

    /// Checks the settings of topics as soon as they exist, those that delete messages at every look, and all once in
    /// a while.
    async fn check_settings(&mut self, status: &Status) {
        let all = self.checked_all.elapsed() >= CHECK_ALL;
        let is_due = |state: &TopicState| state.exists() && (all || state.settings != SettingsCheck::Checked(None));
        let asked = self.topics_where(is_due);
        if asked.is_empty() {
            return;
        }
        let Ok(admin) = Admin::open(&self.config) else { return };
        let answer = admin.settings(&asked, Instant::now() + DESCRIBE).await;
        let is_answered = answer.is_some();
        if all && is_answered {
            self.checked_all = Instant::now();
        }
        let shown = answer.unwrap_or_default();
        let hidden: Vec<_> = asked.iter().filter(|topic| !shown.contains_key(*topic)).collect();
        if !hidden.is_empty() {
            self.log_hidden(hidden, is_answered);
        }
        self.check_sizes(status, &shown);
        for topic in &asked {
            let (largest, state) = (self.largest, self.state(topic));
            match shown.get(topic) {
                Some(settings) => state.settings = SettingsCheck::Checked(settings.fatal_problem(largest)),
                None if state.settings == SettingsCheck::NotAsked => state.settings = SettingsCheck::NotShown,
                // What was seen stays true until the brokers show otherwise.
                None => {}
            }
        }
    }

    /// Logs that the settings of these topics are not known. Each remedy has a throttle of its own, so that one slow
    /// answer does not hide for an hour what is to be granted.
    fn log_hidden<'a>(&self, topics: impl IntoIterator<Item = &'a Topic>, is_answered: bool) {
        let (throttle, remedy) = match is_answered {
            true => (
                &self.settings_hidden,
                "grant DescribeConfigs on them (kafka-acls --add --operation DescribeConfigs --topic PREFIX \
                 --resource-pattern-type prefixed)",
            ),
            false => (&self.settings_unanswered, "check the brokers: they did not answer in time"),
        };
        if throttle.pass().is_some() {
            let says = "the brokers do not show how Kafka topics are set up: whether they keep messages is not checked";
            tracing::warn!(topics = names(topics), remedy, "{says}");
        }
    }

    /// Batches fit into every topic. One line where topics take less than a delivery may need.
    fn check_sizes(&self, status: &Status, shown: &BTreeMap<Topic, Settings>) {
        let limits = || shown.iter().filter_map(|(topic, settings)| Some((topic, settings.takes()?.0)));
        if let Some(least) = limits().map(|(_, bytes)| bytes).min() {
            status.lower_batch_limit(least);
        }
        let is_known = |topic| self.topics.get(topic).is_some_and(TopicState::is_shown);
        let small = || limits().filter(|(topic, bytes)| *bytes < self.largest && !is_known(*topic));
        if let Some(most) = small().map(|(_, bytes)| bytes).min() {
            tracing::warn!(
                topics = names(small().map(|(topic, _)| topic)),
                most,
                wanted = self.largest,
                remedy = "raise their max.message.bytes (check --online has the commands), or lower server.max_body",
                "Kafka topics take less than server.max_body and its headers: larger deliveries get a 503"
            );
        }
    }

    /// Has the controller create the missing topics, those that it refused more and more rarely. Where it was not
    /// reached at the addresses that brokers advertise, these come back.
    async fn create_missing(&mut self) -> Vec<String> {
        if !self.topics.values().any(|state| state.creation.is_some()) {
            self.creation.reset();
        }
        let again = self.creation.is_due(Instant::now());
        let asked = self.topics_where(|state| state.is_missing() && (again || state.creation.is_none()));
        if asked.is_empty() || !self.config.create_topics {
            return Vec::new();
        }
        tracing::debug!(topics = names(&asked), "Kafka is asked to create topics");
        let created = self.create(&asked).await;
        if again {
            self.creation.delay(Instant::now(), RETRY_INTERVAL..=HEALTHY_INTERVAL);
        }
        match created {
            Ok(created) if created.is_empty() => {}
            Ok(created) => tracing::info!(topics = names(&created), "Kafka topics created"),
            Err(NoController::NotReached(addresses)) => return addresses,
            Err(NoController::Failed(why)) => self.log_not_created(&asked, &why),
        }
        Vec::new()
    }

    /// Those that were created.
    async fn create(&mut self, topics: &[Topic]) -> Result<Vec<Topic>, NoController> {
        let admin = Admin::open(&self.config).map_err(|error| NoController::Failed(error.to_string()))?;
        let defaults = admin.defaults(topics.first()).await?;
        if defaults.is_none() && self.defaults_hidden.pass().is_some() {
            tracing::warn!(
                remedy =
                    "see check --online for the topics' min.insync.replicas, or grant DescribeConfigs on the cluster",
                "the brokers' default replication cannot be seen"
            );
        }
        let mut created = Vec::new();
        for (topic, creation) in admin.create(topics, &self.config, self.largest, defaults, false).await? {
            self.state(&topic).creation = None;
            match creation {
                Creation::Created => created.push(topic),
                Creation::Exists => {}
                Creation::Refused(error) => self.state(&topic).creation = Some(error),
                Creation::Failed(why) => self.log_not_created([&topic], &why),
            }
        }
        Ok(created)
    }

    fn log_not_created<'a>(&self, topics: impl IntoIterator<Item = &'a Topic>, why: &str) {
        if self.not_created.pass().is_some() {
            tracing::warn!(topics = names(topics), why, "Kafka topics are not created yet; the bridge tries again");
        }
    }

    /// One line for each thing to do, when it changes, and for each reason why topics wait for long. Whether there is
    /// another thing to do.
    fn report(&mut self, status: &Status) -> bool {
        let mut errors = BTreeMap::new();
        let mut stalled: BTreeMap<&str, Vec<&Topic>> = BTreeMap::new();
        for (topic, state) in &mut self.topics {
            let readiness = state.readiness(self.config.create_topics);
            match (state.stalls(&readiness), readiness) {
                (true, Readiness::Waits(why)) => stalled.entry(why).or_default().push(topic),
                (_, Readiness::Refused(error)) => _ = errors.insert(topic.clone(), error),
                _ => {}
            }
        }
        for (why, topics) in stalled {
            let remedy = "check the brokers (kafka-topics --describe), and run check --online";
            tracing::error!(topics = names(topics), remedy, "{why}");
        }
        let denied = errors.values().any(|error| *error == TopicError::CreationDenied);
        status.set_creates_topics(self.config.create_topics && !denied);
        if errors == self.errors {
            return false;
        }
        for error in errors.values().collect::<BTreeSet<_>>() {
            let topics: Vec<_> = errors.iter().filter(|(_, same)| *same == error).map(|(topic, _)| topic).collect();
            let remedy = error.remedy(if let [only] = topics[..] { only } else { "TOPIC" });
            tracing::error!(
                topics = names(topics),
                remedy,
                "deliveries for a Kafka topic are refused: it {}",
                error.says()
            );
        }
        if errors.is_empty() {
            tracing::info!("no Kafka topic refuses deliveries any more");
        }
        self.errors = errors;
        true
    }

    fn publish(&self, status: &Status) {
        let known = |(topic, state): (&Topic, &TopicState)| match state.readiness(self.config.create_topics) {
            Readiness::Refused(error) => Some((topic.clone(), TopicStatus::Refused(error.refusal(topic)))),
            _ => state.is_open().then(|| (topic.clone(), TopicStatus::Ready)),
        };
        status.publish_topics(self.topics.iter().filter_map(known).collect());
    }

    fn topics_where(&self, is: impl Fn(&TopicState) -> bool) -> Vec<Topic> {
        self.topics.iter().filter(|(_, state)| is(state)).map(|(topic, _)| topic.clone()).collect()
    }

    fn state(&mut self, topic: &Topic) -> &mut TopicState {
        self.topics.entry(topic.clone()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::support::{config, within};
    use super::*;
    use crate::telemetry::lines::Lines;

    #[test]
    fn other_routes_open_no_topic_that_deletes_what_it_acknowledged() {
        let mut topics = Topics::new(config("a:1"), &within(&["sound", "deletes"]));
        let deletes = Settings::read(|key| (key == "retention.ms").then_some("0")).fatal_problem(1);
        assert!(deletes.is_some());
        topics.state(&"sound".into()).settings = SettingsCheck::Checked(None);
        topics.state(&"deletes".into()).settings = SettingsCheck::Checked(deletes.clone());
        topics.replace(["sound", "deletes", "new"].map(Topic::from).into());
        let settings = topics.topics.values().map(|state| &state.settings);
        let checked_again = [&SettingsCheck::Checked(deletes), &SettingsCheck::NotAsked, &SettingsCheck::NotAsked];
        assert_eq!(settings.collect::<Vec<_>>(), checked_again);
    }

    #[test]
    fn a_slow_answer_does_not_hide_what_is_to_be_granted() {
        let (lines, _guard) = Lines::taken();
        let topics = Topics::new(config("a:1"), &within(&["t"]));
        for is_answered in [false, true, false, true] {
            topics.log_hidden([&"t".into()], is_answered);
        }
        let says = lines.with("whether they keep messages is not checked");
        let remedies = ["check the brokers", "grant DescribeConfigs"];
        assert!(says.len() == 2 && says.iter().zip(remedies).all(|(line, remedy)| line.contains(remedy)), "{says:?}");
    }
}
