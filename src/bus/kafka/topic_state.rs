//! One topic as far as it is known. From what the brokers show of it, how it is set up and what came of its creation
//! follows whether messages may go there.

use std::time::{Duration, Instant};

use super::metadata::TopicMetadata;
use super::topic_error::TopicError;
use super::topic_settings::SettingProblem;

/// A topic that is neither ready nor refused for so long is reported, and waited for no longer.
const STALLED: Duration = Duration::from_secs(15);

#[derive(Debug, Default)]
pub(super) struct TopicState {
    /// As the brokers last showed it, and when.
    metadata: Option<TopicMetadata>,
    pub(super) seen: Option<Instant>,
    /// It was missing, and not every partition has answered since.
    pub(super) is_new: bool,
    pub(super) settings: SettingsCheck,
    /// Why the controller refused to create it when it was last asked.
    pub(super) creation: Option<TopicError>,
    waits_since: Option<Instant>,
    is_stalled: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum SettingsCheck {
    #[default]
    NotAsked,
    /// The brokers do not show them.
    NotShown,
    /// With what makes the topic delete what it acknowledged, if anything does.
    Checked(Option<SettingProblem>),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// Messages that are acknowledged there can be read there, as far as the brokers say.
    Ready,
    /// It refuses every message until somebody acts.
    Refused(TopicError),
    /// It may become ready by itself. With what it waits for, in the words of a log line.
    Waits(&'static str),
}

impl TopicState {
    /// The brokers show it like this.
    pub(super) fn show(&mut self, metadata: TopicMetadata) {
        (self.metadata, self.seen) = (Some(metadata), Some(Instant::now()));
        match metadata {
            TopicMetadata::Missing => self.is_new = true,
            _ => self.creation = None,
        }
        // One that went may be created again with other settings.
        if !metadata.exists() {
            self.settings = SettingsCheck::NotAsked;
        }
    }

    pub(super) fn exists(&self) -> bool {
        self.metadata.is_some_and(|metadata| metadata.exists())
    }

    pub(super) fn is_missing(&self) -> bool {
        self.metadata == Some(TopicMetadata::Missing)
    }

    /// How many partitions have to answer before it is ready.
    pub(super) fn new_partitions(&self) -> Option<usize> {
        self.metadata.and_then(|metadata| metadata.led_partitions()).filter(|_| self.is_new)
    }

    /// `creates`: the bridge creates topics.
    pub(super) fn readiness(&self, creates: bool) -> Readiness {
        use Readiness::{Ready, Refused, Waits};
        match self.metadata {
            None | Some(TopicMetadata::Unanswered(_)) => Waits("the brokers do not say whether Kafka topics exist"),
            Some(TopicMetadata::Forbidden) => Refused(TopicError::Forbidden),
            Some(TopicMetadata::Missing) if !creates => Refused(TopicError::Missing),
            Some(TopicMetadata::Missing) => match &self.creation {
                Some(error) => Refused(error.clone()),
                None => Waits("Kafka topics are not created yet"),
            },
            Some(metadata) => match &self.settings {
                SettingsCheck::Checked(Some(problem)) => Refused(TopicError::Deletes(problem.clone())),
                _ if metadata.led_partitions().is_none() => {
                    Waits("partitions of Kafka topics have no leader: nothing can be written to them")
                }
                _ if !self.is_checked() => Waits("partitions of new Kafka topics do not answer"),
                _ => Ready,
            },
        }
    }

    /// Whether its partitions answered, and the brokers were asked how it is set up.
    fn is_checked(&self) -> bool {
        !self.is_new && self.settings != SettingsCheck::NotAsked
    }

    /// Whether messages go to the client though it is not ready: it may have a leader again before they time out.
    pub(super) fn is_open(&self) -> bool {
        self.exists() && (self.is_checked() || self.is_stalled)
    }

    pub(super) fn is_shown(&self) -> bool {
        matches!(self.settings, SettingsCheck::Checked(_))
    }

    pub(super) fn waits(&self) -> bool {
        self.waits_since.is_some()
    }

    /// Whether it is still waited for.
    pub(super) fn is_awaited(&self) -> bool {
        self.waits() && !self.is_stalled
    }

    /// Notes whether it waits. Whether it has done so for long, which was not so before.
    pub(super) fn stalls(&mut self, readiness: &Readiness) -> bool {
        if !matches!(readiness, Readiness::Waits(_)) {
            (self.waits_since, self.is_stalled) = (None, false);
            return false;
        }
        let long = self.waits_since.get_or_insert_with(Instant::now).elapsed() >= STALLED;
        long && !std::mem::replace(&mut self.is_stalled, long)
    }
}

#[cfg(test)]
mod tests {
    use super::super::metadata::Partitions;
    use super::super::topic_settings::Settings;
    use super::*;

    const CREATES: bool = true;

    fn with_leaders(leaderless: usize) -> TopicMetadata {
        TopicMetadata::Exists(Partitions { count: 3, replicas: 1, in_sync: 1, leaderless })
    }

    fn waits(state: &TopicState) -> bool {
        matches!(state.readiness(CREATES), Readiness::Waits(_))
    }

    #[test]
    fn a_new_topic_is_ready_once_its_partitions_answered_and_its_settings_were_asked_for() {
        let mut state = TopicState::default();
        assert!(waits(&state) && !state.is_open(), "nobody showed it yet");
        state.show(TopicMetadata::Missing);
        assert!(waits(&state) && state.is_missing());
        assert_eq!(state.readiness(!CREATES), Readiness::Refused(TopicError::Missing));
        state.show(with_leaders(0));
        assert_eq!(state.new_partitions(), Some(3));
        state.settings = SettingsCheck::NotShown;
        assert!(waits(&state) && !state.is_open());
        state.is_new = false;
        assert!(state.readiness(CREATES) == Readiness::Ready && state.is_open());
    }

    #[test]
    fn what_the_controller_refused_stays_refused_until_the_topic_is_there() {
        let mut state = TopicState::default();
        state.show(TopicMetadata::Missing);
        state.creation = Some(TopicError::Replication);
        state.show(TopicMetadata::Missing);
        assert_eq!(state.readiness(CREATES), Readiness::Refused(TopicError::Replication));
        state.show(with_leaders(0));
        assert!(waits(&state));
    }

    #[test]
    fn a_topic_without_a_leader_takes_messages_and_is_not_ready() {
        let mut state = TopicState { settings: SettingsCheck::Checked(None), ..TopicState::default() };
        state.show(with_leaders(1));
        assert!(waits(&state) && state.is_open());
    }

    #[test]
    fn a_topic_that_deletes_messages_is_forgotten_only_with_the_topic() {
        let problem = Settings::read(|key| (key == "retention.ms").then_some("0")).fatal_problem(1).unwrap();
        let settings = SettingsCheck::Checked(Some(problem.clone()));
        let mut state = TopicState { settings, ..TopicState::default() };
        state.show(with_leaders(0));
        assert_eq!(state.readiness(CREATES), Readiness::Refused(TopicError::Deletes(problem)));
        state.show(TopicMetadata::Missing);
        state.show(with_leaders(0));
        assert!(waits(&state), "it may have other settings now");
    }
}
