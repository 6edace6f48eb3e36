//! Which settings of a topic delete what was acknowledged, and which only deserve a word.
//!
//! | setting | refused: 503 and an ERROR | mistake in `check` | advice in `check` |
//! |---|---|---|---|
//! | `cleanup.policy` compact, also beside delete | `min.compaction.lag.ms` below a minute: the last event of a key deletes the earlier ones | below an hour | else: earlier events of a key go after it |
//! | `cleanup.policy` delete: `retention.ms` | below a minute: gone before anybody reads it | below an hour | below a day |
//! | `cleanup.policy` delete: `retention.bytes` | below the largest message: each one may delete the last | below sixteen of them | |
//! | `cleanup.policy` empty, `retention.*` = -1 | | | |
//! | `max.message.bytes`, `segment.bytes` | | below `server.max_body` and headers: larger deliveries are refused | |
//! | `min.insync.replicas` | | more than there are replicas: all is refused | one of several; all of them; one replica |
//! | `unclean.leader.election.enable` | | | true: a lagging replica may take over |
//! | `message.timestamp.before.max.ms`, `.after.max.ms` | | | below a minute: clocks that differ have deliveries refused |
//!
//! All others are fine. `message.timestamp.type`: either way an event is as old as its arrival.
//! `compression.*`: consumers read the same bytes. `segment.ms`, `segment.jitter.ms`, `segment.index.bytes`,
//! `index.interval.bytes`, `preallocate`, `file.delete.delay.ms`: how, not whether, it is kept. `flush.*`: Kafka
//! keeps by replicas, not by fsync, which the advice on one replica says. `remote.*`, `local.retention.*`: what
//! leaves the local disk was copied to the remote store first, and `retention.*` stays the limit.
//! `max.compaction.lag.ms`, `min.cleanable.dirty.ratio`: when, after `min.compaction.lag.ms`, is compacted.
//! `delete.retention.ms`: of tombstones, and no event is one. Throttles: replication slows down, and the
//! acknowledgement with it.

use crate::bus::Level;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// What a topic should have room for, in its largest messages.
const MESSAGES: u64 = 16;

/// A topic's settings. `None` where the brokers did not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Settings {
    pub(super) min_in_sync: Option<usize>,
    max_message: Option<u64>,
    segment: Option<u64>,
    unclean: bool,
    compacts: bool,
    deletes: bool,
    /// Milliseconds; below zero for ever.
    retention: Option<i64>,
    /// Bytes of a partition; below zero without limit.
    retention_bytes: Option<i64>,
    /// Milliseconds.
    compaction_lag: Option<i64>,
    /// Milliseconds, of the clock's difference in either direction.
    clock: Option<i64>,
}

/// What is wrong with one setting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SettingProblem {
    /// Whether the topic deletes what it acknowledged, so that nothing may go there.
    pub(super) refused: bool,
    pub(super) level: Level,
    pub(super) says: String,
    pub(super) key: &'static str,
    /// A value that would do.
    pub(super) value: String,
}

impl Settings {
    /// Of values as Kafka writes them.
    pub(super) fn read<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Self {
        let number = |key| value(key)?.parse::<i64>().ok();
        let size = |key| value(key)?.parse::<u64>().ok();
        let policy = value("cleanup.policy");
        let has = |one| policy.is_some_and(|policy| policy.split(',').any(|word| word.trim() == one));
        Self {
            min_in_sync: value("min.insync.replicas").and_then(|value| value.parse().ok()),
            max_message: size("max.message.bytes"),
            segment: size("segment.bytes"),
            unclean: value("unclean.leader.election.enable") == Some("true"),
            compacts: has("compact"),
            deletes: policy.is_none() || has("delete"),
            retention: number("retention.ms"),
            retention_bytes: number("retention.bytes"),
            compaction_lag: number("min.compaction.lag.ms"),
            clock: number("message.timestamp.before.max.ms")
                .into_iter()
                .chain(number("message.timestamp.after.max.ms"))
                .min(),
        }
    }

    /// Bytes of a batch of messages that it takes, and the setting that says so.
    pub(super) fn takes(&self) -> Option<(u64, &'static str)> {
        let message = self.max_message.map(|bytes| (bytes, "max.message.bytes"));
        let segment = self.segment.map(|bytes| (bytes, "segment.bytes"));
        message.into_iter().chain(segment).min()
    }

    /// For how long an event stays, in words.
    pub(super) fn kept_for(&self) -> Option<String> {
        let bytes = self.retention_bytes.filter(|bytes| self.deletes && *bytes >= 0);
        let most = bytes.map_or(String::new(), |bytes| format!(", up to {bytes} bytes a partition"));
        match self.retention? {
            millis if millis < 0 || !self.deletes => Some(format!("kept for ever{most}")),
            millis => Some(format!("kept for {}{most}", span(millis))),
        }
    }

    /// The table above, where `largest` is the largest message in bytes.
    pub(super) fn problems(&self, largest: u64) -> Vec<SettingProblem> {
        let mut problems = Vec::new();
        let mut say = |refused, level, key, value: String, says| {
            problems.push(SettingProblem { refused, level, says, key, value });
        };
        if self.compacts {
            let lag = self.compaction_lag.unwrap_or(0);
            let (refused, level) = by_lifetime(lag).unwrap_or((false, Level::Advice));
            let says = format!(
                "cleanup.policy compact: the earlier events of a key are deleted {} after they arrived \
                 (min.compaction.lag.ms)",
                span(lag)
            );
            match self.deletes {
                _ if level == Level::Advice => say(false, level, "cleanup.policy", "delete".to_owned(), says),
                true => say(refused, level, "cleanup.policy", "delete".to_owned(), says),
                false => say(refused, level, "min.compaction.lag.ms", (7 * DAY).to_string(), says),
            }
        }
        if let Some(millis) = self.retention.filter(|millis| self.deletes && *millis >= 0)
            && let Some((refused, level)) = by_lifetime(millis)
        {
            let says = format!("retention.ms: an event is deleted {} after it arrived", span(millis));
            say(refused, level, "retention.ms", (7 * DAY).to_string(), says);
        }
        if let Some(bytes) = self.retention_bytes.and_then(|bytes| u64::try_from(bytes).ok()).filter(|_| self.deletes)
            && bytes < largest.saturating_mul(MESSAGES)
        {
            let says =
                format!("retention.bytes {bytes}: events are deleted as soon as so many bytes arrived after them");
            say(bytes < largest, Level::Mistake, "retention.bytes", "-1".to_owned(), says);
        }
        if self.unclean {
            let says =
                "unclean leader elections: a replica that lags may become leader, and acknowledged events are lost";
            say(false, Level::Advice, "unclean.leader.election.enable", "false".to_owned(), says.to_owned());
        }
        if let Some(millis) = self.clock.filter(|millis| *millis < MINUTE) {
            let says = format!("refuses deliveries if the clocks of bridge and brokers differ by {millis} ms");
            let key = "message.timestamp.before.max.ms and .after.max.ms";
            say(false, Level::Advice, key, HOUR.to_string(), says);
        }
        problems
    }

    /// Why nothing may go there, if so.
    pub(super) fn fatal_problem(&self, largest: u64) -> Option<SettingProblem> {
        self.problems(largest).into_iter().find(|problem| problem.refused)
    }
}

/// Whether deliveries are refused, and how bad it is, where an event is deleted after so many milliseconds; `None`: fine.
fn by_lifetime(millis: i64) -> Option<(bool, Level)> {
    match millis {
        ..MINUTE => Some((true, Level::Mistake)),
        MINUTE..HOUR => Some((false, Level::Mistake)),
        HOUR..DAY => Some((false, Level::Advice)),
        _ => None,
    }
}

fn span(millis: i64) -> String {
    let seconds = millis / 1000;
    let counted = |number: i64, noun: &str| format!("{number} {noun}{}", if number == 1 { "" } else { "s" });
    match seconds {
        _ if millis % 1000 != 0 => format!("{millis} ms"),
        172_800.. if seconds % 86_400 == 0 => counted(seconds / 86_400, "day"),
        3600.. if seconds % 3600 == 0 => counted(seconds / 3600, "hour"),
        _ => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGEST: u64 = 12_845_056;

    fn of(pairs: &[(&str, &str)]) -> Vec<(bool, Level, &'static str)> {
        let value = |key: &str| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        let problems = Settings::read(value).problems(LARGEST);
        problems.into_iter().map(|problem| (problem.refused, problem.level, problem.key)).collect()
    }

    #[test]
    fn what_deletes_acknowledged_events_is_refused_and_what_may_be_meant_is_said() {
        let lag = "min.compaction.lag.ms";
        for (settings, expected) in [
            (&[("cleanup.policy", "compact")][..], (true, Level::Mistake, lag)),
            (&[("cleanup.policy", "compact,delete")], (true, Level::Mistake, "cleanup.policy")),
            (&[("cleanup.policy", "delete, compact"), (lag, "59999")], (true, Level::Mistake, "cleanup.policy")),
            (&[("cleanup.policy", "compact"), (lag, "60000")], (false, Level::Mistake, lag)),
            (&[("cleanup.policy", "compact"), (lag, "604800000")], (false, Level::Advice, "cleanup.policy")),
            (&[("retention.ms", "0")], (true, Level::Mistake, "retention.ms")),
            (&[("retention.ms", "59999")], (true, Level::Mistake, "retention.ms")),
            (&[("retention.ms", "60000")], (false, Level::Mistake, "retention.ms")),
            (&[("retention.ms", "3600000")], (false, Level::Advice, "retention.ms")),
            (&[("retention.bytes", "12845055")], (true, Level::Mistake, "retention.bytes")),
            (&[("retention.bytes", "12845056")], (false, Level::Mistake, "retention.bytes")),
            (&[("unclean.leader.election.enable", "true")], (false, Level::Advice, "unclean.leader.election.enable")),
            (
                &[
                    ("message.timestamp.after.max.ms", "5000"),
                    ("message.timestamp.before.max.ms", "9223372036854775807"),
                ],
                (false, Level::Advice, "message.timestamp.before.max.ms and .after.max.ms"),
            ),
        ] {
            assert_eq!(of(settings), [expected], "{settings:?}");
        }
    }

    #[test]
    fn what_keeps_events_needs_no_word() {
        for settings in [
            &[][..],
            &[("cleanup.policy", "delete"), ("retention.ms", "604800000"), ("retention.bytes", "-1")],
            &[("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "107374182400")],
            &[("cleanup.policy", ""), ("retention.ms", "1")],
            &[("local.retention.ms", "1"), ("remote.storage.enable", "true"), ("retention.ms", "86400000")],
            &[("segment.ms", "1"), ("flush.messages", "1"), ("compression.type", "gzip"), ("delete.retention.ms", "0")],
        ] {
            assert_eq!(of(settings), [], "{settings:?}");
        }
        let compacted = &[("cleanup.policy", "compact"), ("min.compaction.lag.ms", "604800000"), ("retention.ms", "1")];
        assert_eq!(of(compacted).len(), 1, "nothing is deleted by age there");
    }

    #[test]
    fn a_batch_has_to_fit_into_a_segment_as_well() {
        let value = |key: &str| match key {
            "max.message.bytes" => Some("20000000"),
            "segment.bytes" => Some("1048576"),
            _ => None,
        };
        assert_eq!(Settings::read(value).takes(), Some((1_048_576, "segment.bytes")));
    }
}
