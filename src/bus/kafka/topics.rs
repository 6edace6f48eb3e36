//! The topics that messages go to: made where they are missing and the bridge may, else named with
//! what to grant. Existing ones are left as they are. Comes in: the routing table's topics. Goes out:
//! which of them messages may go to, which refuse every message, and whether all was seen to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::largest_message;
use super::creation::{Answer, Lack, Unasked, Wanted};
use super::keeping::{self, Verdict};
use super::look::{Leader, Presence, Seen, look, not_led};
use super::pace::Pace;
use super::producer::Line;
use super::state::{Standing, State};
use crate::bus::Setup;
use crate::config;
use crate::route::Topic;
use crate::telemetry::Throttle;

/// For the brokers to say how topics are set.
const DESCRIBE: Duration = Duration::from_secs(3);

/// From one look to the next: where all are there, and where one may come without anybody's help. Where only
/// somebody else can help the looks, and the attempts to make topics, go from the one to the other.
const SELDOM: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(1);

/// A topic that is neither usable nor refused for so long is reported, and waited for no longer.
const STALLED: Duration = Duration::from_secs(15);

/// How often the settings of topics that are in use are looked at again: somebody may have changed them.
const DESCRIBE_AGAIN: Duration = Duration::from_secs(300);

/// How often it is said again that the brokers do not show something.
const SAY_AGAIN: Duration = Duration::from_secs(3600);

/// How often it is said again that topics are not made yet.
const NOT_YET: Duration = Duration::from_secs(10);

pub(super) struct Topics {
    all: Vec<Topic>,
    config: config::Kafka,
    /// Bytes.
    largest: u64,
    reported: BTreeMap<Topic, Lack>,
    /// As the brokers last showed them, and when.
    known: BTreeMap<Topic, (Presence, Instant)>,
    /// Topics that were missing, and of which not every partition has answered yet.
    new: BTreeSet<Topic>,
    /// What the controller refused to make when it was last asked.
    refused: BTreeMap<Topic, Lack>,
    /// Of asking again for what was refused.
    pace: Pace,
    /// Topics that are there and whose settings were looked at, with what makes them lose messages.
    described: BTreeMap<Topic, Option<Verdict>>,
    described_all: Instant,
    /// Topics whose settings were asked for in vain; they are asked for at each look.
    undescribed: BTreeSet<Topic>,
    /// Since when topics are neither usable nor refused, and whether that was said.
    pending: BTreeMap<Topic, (Instant, bool)>,
    unseen: Throttle,
    hidden: Throttle,
    not_shown: Throttle,
    not_yet: Throttle,
}

/// What a look at the topics came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Looked {
    /// Each is usable, or was reported.
    pub(super) ready: bool,
    /// Each is usable.
    pub(super) settled: bool,
    /// How long the next look can wait.
    pub(super) rest: Duration,
    /// Each broker that leads a partition of theirs.
    pub(super) leaders: Vec<Leader>,
    /// Where brokers say that they listen, and the controller was not reached.
    pub(super) not_at: Vec<String>,
}

impl Topics {
    pub(super) fn new(config: config::Kafka, setup: &Setup) -> Self {
        Self {
            all: once(setup.topics.clone()),
            config,
            largest: largest_message(setup.max_body),
            reported: BTreeMap::new(),
            known: BTreeMap::new(),
            new: BTreeSet::new(),
            refused: BTreeMap::new(),
            pace: Pace::new(SOON, SELDOM),
            described: BTreeMap::new(),
            described_all: Instant::now(),
            undescribed: BTreeSet::new(),
            pending: BTreeMap::new(),
            unseen: Throttle::new(SAY_AGAIN),
            hidden: Throttle::new(SAY_AGAIN),
            not_shown: Throttle::new(SAY_AGAIN),
            not_yet: Throttle::new(NOT_YET),
        }
    }

    /// These from now on.
    pub(super) fn replace(&mut self, topics: Vec<Topic>) {
        self.all = once(topics);
        self.known.retain(|topic, _| self.all.contains(topic));
        self.pending.retain(|topic, _| self.all.contains(topic));
        self.refused.clear();
        self.pace.reset();
        self.described.clear();
    }

    /// These as well. Whether any of them is new.
    pub(super) fn add(&mut self, topics: Vec<Topic>) -> bool {
        let before = self.all.len();
        self.all = once([std::mem::take(&mut self.all), topics].concat());
        self.all.len() > before
    }

    pub(super) fn first(&self) -> Option<Topic> {
        self.all.first().cloned()
    }

    /// Looks at all topics, makes what is missing where that is allowed, and notes which messages may go to.
    /// One that the brokers do not answer for in time counts as they last showed it, and is asked for first
    /// at the next look, as is what somebody else is to do.
    pub(super) async fn tend(&mut self, line: &Arc<Line>, state: &State, patience: Duration) -> Looked {
        let (asked, mut topics) = (Arc::clone(line), self.all.clone());
        topics.sort_by_key(|topic| self.known.get(topic).map(|(_, when)| *when));
        let looked = tokio::task::spawn_blocking(move || Some(look(&*asked.client()?, &topics, patience))).await;
        let Ok(Some((found, leaders))) = looked else { return Looked { rest: SOON, ..Looked::default() } };
        if found.is_empty() && !self.all.is_empty() {
            return Looked { rest: SOON, ..Looked::default() };
        }
        self.see_to_new(line, &found, patience).await;
        self.known.extend(found.into_iter().map(|(topic, seen, _)| (topic, seen)));
        self.describe(state).await;
        // Making others may take long.
        state.set_standing(self.standing(&self.lacking(), &self.stalled()));
        let (due, mut not_at) = (self.pace.due(Instant::now()), Vec::new());
        if self.config.create_topics {
            let absent = self.known.iter().filter(|(_, (presence, _))| *presence == Presence::Missing);
            not_at = self.make(absent.map(|(topic, _)| topic.clone()).collect(), due).await;
        }
        let lacking = self.lacking();
        state.set_creates(self.config.create_topics && !lacking.values().any(|lack| *lack == Lack::CreationDenied));
        self.report(&lacking);
        if lacking.is_empty() {
            self.pace.reset();
        } else if due {
            self.pace.slow(Instant::now());
        }
        self.wait_for(&lacking);
        let stalled = self.stalled();
        state.set_standing(self.standing(&lacking, &stalled));
        let waits = self.pending.len() > stalled.len();
        let rest = match (waits, lacking.is_empty() && stalled.is_empty()) {
            (true, _) => SOON,
            (_, true) => SELDOM,
            _ => self.pace.left(Instant::now()).max(SOON),
        };
        let settled = self.pending.is_empty() && lacking.is_empty();
        Looked { ready: !waits, settled, rest, leaders, not_at }
    }

    /// What stands between topics and their messages, as far as that is known.
    fn lacking(&self) -> BTreeMap<Topic, Lack> {
        let lack = |(topic, (presence, _)): (&Topic, &(Presence, Instant))| {
            let lack = match presence {
                Presence::There | Presence::Leaderless => Lack::Forgets(self.described.get(topic)?.clone()?),
                Presence::Forbidden => Lack::Forbidden,
                Presence::Missing if self.config.create_topics => self.refused.get(topic)?.clone(),
                Presence::Missing => Lack::Missing,
            };
            Some((topic.clone(), lack))
        };
        self.known.iter().filter_map(lack).collect()
    }

    /// Notes which topics are new, and that they are no more once each of their partitions answers.
    async fn see_to_new(&mut self, line: &Arc<Line>, found: &Seen, patience: Duration) {
        let is_missing = |(_, (presence, _), _): &&(Topic, (Presence, Instant), i32)| *presence == Presence::Missing;
        self.new.retain(|topic| self.all.contains(topic));
        self.new.extend(found.iter().filter(is_missing).map(|(topic, ..)| topic.clone()));
        let there =
            found.iter().filter(|(topic, (presence, _), _)| *presence == Presence::There && self.new.contains(topic));
        let there: Vec<_> = there.map(|(topic, _, partitions)| (topic.clone(), *partitions)).collect();
        if there.is_empty() {
            return;
        }
        let (asked, topics) = (Arc::clone(line), there.clone());
        let ask = move || Some(not_led(&*asked.client()?, &topics, patience));
        if let Ok(Some(not_led)) = tokio::task::spawn_blocking(ask).await {
            self.new.retain(|topic| not_led.contains(topic) || !there.iter().any(|(seen, _)| seen == topic));
        }
    }

    /// Whether messages that are acknowledged there can be read there, as far as the brokers say.
    fn is_usable(&self, topic: &Topic) -> bool {
        let there = self.known.get(topic).is_some_and(|(presence, _)| *presence == Presence::There);
        there && self.was_asked_for(topic)
    }

    /// Whether its partitions answer, and the brokers were asked how it is set.
    fn was_asked_for(&self, topic: &Topic) -> bool {
        let asked = self.described.contains_key(topic) || self.undescribed.contains(topic);
        asked && !self.new.contains(topic)
    }

    /// Topics that were reported, and are waited for no longer.
    fn stalled(&self) -> BTreeSet<Topic> {
        self.pending.iter().filter(|(_, (_, said))| *said).map(|(topic, _)| topic.clone()).collect()
    }

    /// Keeps in mind since when topics are neither usable nor lacking, and says so of those for which that is
    /// long.
    fn wait_for(&mut self, lacking: &BTreeMap<Topic, Lack>) {
        let pending: Vec<_> =
            self.all.iter().filter(|topic| !lacking.contains_key(*topic) && !self.is_usable(topic)).cloned().collect();
        self.pending.retain(|topic, _| pending.contains(topic));
        for topic in pending {
            self.pending.entry(topic).or_insert((Instant::now(), false));
        }
        let mut new: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (topic, (since, said)) in &mut self.pending {
            if !*said && since.elapsed() >= STALLED {
                *said = true;
                let why = match self.known.get(topic) {
                    None => "the brokers do not say whether Kafka topics exist",
                    Some((Presence::Leaderless, _)) => "partitions of Kafka topics have no leader: nothing goes there",
                    Some((Presence::Missing, _)) => "Kafka topics are not made yet",
                    Some((Presence::There | Presence::Forbidden, _)) => "partitions of new Kafka topics do not answer",
                };
                new.entry(why).or_default().push(topic);
            }
        }
        for (why, topics) in new {
            let remedy = "look after the brokers (kafka-topics --describe), and see check --online";
            tracing::error!(topics = names(topics.into_iter()), remedy, "{why}");
        }
    }

    fn standing(&self, lacking: &BTreeMap<Topic, Lack>, stalled: &BTreeSet<Topic>) -> Standing {
        let open = self.all.iter().filter(|topic| match self.known.get(*topic) {
            None | Some((Presence::Missing | Presence::Forbidden, _)) => false,
            Some((Presence::There | Presence::Leaderless, _)) => {
                !lacking.contains_key(*topic) && (self.was_asked_for(topic) || stalled.contains(*topic))
            }
        });
        Standing {
            open: open.cloned().collect(),
            lacking: lacking.iter().map(|(topic, lack)| (topic.clone(), lack.refusal(topic))).collect(),
        }
    }

    /// One line for each thing to do, when it changes.
    fn report(&mut self, lacking: &BTreeMap<Topic, Lack>) {
        if *lacking == self.reported {
            return;
        }
        for lack in lacking.values().collect::<BTreeSet<_>>() {
            let topics = names(lacking.iter().filter(|(_, same)| *same == lack).map(|(topic, _)| &**topic));
            tracing::error!(topics, remedy = &*lack.remedy(), "{}", lack.says());
        }
        if lacking.is_empty() {
            tracing::info!("all Kafka topics are there now");
        }
        self.reported = lacking.clone();
    }

    /// Looks at the settings of topics as soon as they are there, whatever others do, of those that lose
    /// messages at every look, and of all once in a while. One line where topics take less than a delivery may
    /// need.
    async fn describe(&mut self, state: &State) {
        let is_there = |presence: &Presence| matches!(presence, Presence::There | Presence::Leaderless);
        let there: BTreeSet<_> =
            self.known.iter().filter(|(_, (presence, _))| is_there(presence)).map(|(topic, _)| topic.clone()).collect();
        // Without those that went meanwhile: somebody may make them again with other settings.
        self.described.retain(|topic, _| there.contains(topic));
        self.undescribed.retain(|topic| there.contains(topic));
        let all = self.described_all.elapsed() >= DESCRIBE_AGAIN;
        let due = |topic: &&Topic| all || self.described.get(*topic).is_none_or(Option::is_some);
        let asked: Vec<_> = there.iter().filter(due).cloned().collect();
        let described = keeping::describe(&self.config, asked.iter(), Instant::now() + DESCRIBE).await;
        let Ok(described) = described else { return };
        if !described.answered {
            self.undescribed.extend(asked.iter().filter(|topic| !self.described.contains_key(*topic)).cloned());
            if self.not_shown.pass().is_some() {
                let topics = names(asked.iter().map(|topic| &**topic));
                let says =
                    "the brokers do not say how Kafka topics are set: whether they keep what they take is not known";
                tracing::warn!(topics, remedy = "look after the brokers; they are asked again", "{says}");
            }
            return;
        }
        let hidden = || asked.iter().filter(|topic| !described.settings.contains_key(*topic));
        if hidden().next().is_some() && self.hidden.pass().is_some() {
            let remedy = "grant DescribeConfigs on them (kafka-acls --add --operation DescribeConfigs --topic PREFIX \
                          --resource-pattern-type prefixed)";
            let topics = names(hidden().map(|topic| &**topic));
            let says = "the settings of Kafka topics are not shown to this login: whether they keep what they take is not checked";
            tracing::warn!(topics, remedy, "{says}");
        }
        let limits = || described.settings.iter().filter_map(|(topic, set)| Some((topic, set.takes()?.0)));
        if let Some(least) = limits().map(|(_, most)| most).min() {
            state.take_batches_of(least);
        }
        let small = || limits().filter(|(topic, most)| *most < self.largest && !self.described.contains_key(*topic));
        if let Some(most) = small().map(|(_, most)| most).min() {
            tracing::warn!(
                topics = names(small().map(|(topic, _)| &**topic)),
                most,
                wanted = self.largest,
                remedy = "raise their max.message.bytes (check --online has the commands), or lower server.max_body",
                "Kafka topics take less than server.max_body and its headers: larger deliveries get a 503"
            );
        }
        for topic in asked {
            if let Some(settings) = described.settings.get(&topic) {
                self.undescribed.remove(&topic);
                self.described.insert(topic, settings.refusal(self.largest));
            } else if !self.described.contains_key(&topic) {
                self.undescribed.insert(topic);
            }
        }
        if all {
            self.described_all = Instant::now();
        }
    }

    /// Asks the controller for the topics, for those that it refused for good only when that is `due` again.
    /// What it refuses for good is noted; what it refuses for now is asked for again at the next look. Where it
    /// was not reached at the addresses that brokers give for themselves, these come back.
    async fn make(&mut self, absent: Vec<Topic>, due: bool) -> Vec<String> {
        self.refused.retain(|topic, _| !due && absent.contains(topic));
        let asked: Vec<_> = absent.into_iter().filter(|topic| !self.refused.contains_key(topic)).collect();
        if asked.is_empty() {
            return Vec::new();
        }
        tracing::debug!(topics = names(asked.iter().map(|topic| &**topic)), "Kafka is asked to make topics");
        let wanted = Wanted { config: &self.config, largest: self.largest };
        match wanted.make(&asked, false, &self.unseen).await {
            Ok(answers) => self.take_in(answers),
            Err(Unasked::NotAt(addresses)) => return addresses,
            Err(Unasked::Unopened(error)) => self.not_made(&error.to_string()),
            Err(Unasked::Failed(why)) => self.not_made(&why),
        }
        Vec::new()
    }

    fn not_made(&self, why: &str) {
        if self.not_yet.pass().is_some() {
            tracing::warn!(why, "topics are not created yet; they are asked for again");
        }
    }

    fn take_in(&mut self, answers: Vec<(Topic, Answer)>) {
        let mut made = Vec::new();
        for (topic, answer) in answers {
            match answer {
                Answer::Made => made.push(topic),
                Answer::There => {}
                Answer::Lacks(lack) => drop(self.refused.insert(topic, lack)),
                Answer::NotNow(why) => {
                    if self.not_yet.pass().is_some() {
                        tracing::warn!(%topic, why, "a topic is not created yet; it is asked for again");
                    }
                }
            }
        }
        if !made.is_empty() {
            tracing::info!(topics = names(made.iter().map(|topic| &**topic)), "Kafka topics created");
        }
    }
}

fn once(topics: Vec<Topic>) -> Vec<Topic> {
    topics.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

pub(super) fn names<'a>(topics: impl Iterator<Item = &'a str>) -> String {
    topics.collect::<Vec<_>>().join(", ")
}
