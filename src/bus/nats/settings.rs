//! Every setting of a JetStream stream, and what it means for an acknowledged event. The start, `check --online` and
//! the object store's bucket share this table. A setting that is new in the client library does not compile until it
//! is checked here.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, PersistenceMode, RetentionPolicy, StorageType};

use super::client::IN_FLIGHT;
use super::fault::Fault;
use super::subjects::takes;
use Severity::{Advise, Refuse, Warn};

/// The shortest `max_age` that the bridge gives a stream.
const MIN_AGE: Duration = Duration::from_secs(60);
/// A consumer that is down for a night, or for one of Terra's outages, still finds its events.
const GOOD_AGE: Duration = Duration::from_secs(24 * 3600);

/// The consequence of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    /// The stream removes acknowledged events early, or takes none: nothing is sent there.
    Refuse,
    /// The user may have wanted it, and has to know: reported at the start and by `check --online`.
    Warn,
    /// Reported only by `check --online`.
    Advise,
}

/// A setting that should be reported.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Issue {
    pub(super) severity: Severity,
    pub(super) fault: Fault,
}

/// Where the stream is configured, and what must fit into it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Use<'a> {
    /// The configuration's key, what it names, and the name.
    pub(super) key: &'static str,
    pub(super) what: &'static str,
    pub(super) name: &'a str,
    /// The most bytes that the bridge may publish at once.
    pub(super) bytes_in_flight: usize,
    /// The published subjects, without wildcards.
    pub(super) subjects: &'a [String],
}

/// Everything that should be reported, worst first.
pub(super) fn check(stream: &Config, used: Use<'_>) -> Vec<Issue> {
    let Config {
        // Settings that must have a certain value.
        no_ack,
        sealed,
        mirror,
        retention,
        storage,
        persist_mode,
        allow_message_counter,
        // How much it keeps, and for how long.
        max_messages_per_subject: _,
        discard_new_per_subject: _,
        discard: _,
        max_messages: _,
        max_bytes: _,
        max_age,
        // Settings that a user may have wanted.
        subject_transform,
        sources,
        republish,
        allow_rollup,
        subject_delete_marker_ttl,
        max_consumers,
        // Checked by `check --online` with what the bridge needs: topics, largest message, replicas, duplicates.
        subjects: _,
        max_message_size: _,
        num_replicas: _,
        duplicate_window: _,
        // Where and how it is stored, and numbered: equally safe either way.
        placement: _,
        compression: _,
        first_sequence: _,
        // How it is read, and how authorised users may purge or delete from it.
        allow_direct: _,
        mirror_direct: _,
        consumer_limits: _,
        deny_delete: _,
        deny_purge: _,
        // Used only by other publishers: the bridge sends no such header.
        allow_message_ttl: _,
        allow_message_schedules: _,
        allow_atomic_publish: _,
        allow_batch_publish: _,
        // Names, and settings that do not apply to streams.
        name,
        description: _,
        metadata: _,
        template_owner: _,
        pause_until: _,
    } = stream;
    let Use { key, what, .. } = used;
    let mut issues = Issues { about: format!("the {what} `{}`", used.name), found: Vec::new() };
    let another = format!("name another {what} in `{key}`");
    let edit = |option: &str| format!("nats stream edit {name} {option}, or {another}");

    issues.add(*sealed, Refuse, "is sealed: it takes nothing any more", &another);
    if let Some(origin) = mirror {
        let remedy = format!("name `{}`, which it mirrors, in `{key}`", origin.name);
        issues.add(true, Refuse, "is a mirror: it takes nothing but what its origin has", remedy);
    }
    issues.add(*allow_message_counter, Refuse, "takes only counters (`allow_msg_counter`)", &another);
    issues.add(*no_ack, Refuse, "acknowledges nothing (`no_ack`)", edit("--ack"));
    let in_files = format!("{another}, one with file storage");
    let is_in_memory = *storage == StorageType::Memory;
    issues.add(is_in_memory, Refuse, "lies in memory: a restart of its servers loses every event", in_files);
    let is_async = *persist_mode == Some(PersistenceMode::Async);
    issues.add(is_async, Refuse, "acknowledges before it stores (`persist_mode: async`)", &another);
    let limits = format!("{another}, one with retention `limits`");
    match retention {
        RetentionPolicy::Limits => {}
        RetentionPolicy::WorkQueue => {
            let says =
                "is a work queue: it keeps an event for one reader only, and `tail` and `requests` cannot read it";
            issues.add(true, Warn, says, format!("{limits}, unless that is wanted"));
        }
        RetentionPolicy::Interest => {
            issues.add(true, Refuse, "keeps only what some consumer waits for (retention `interest`)", limits);
        }
    }
    capacity(&mut issues, stream, used.bytes_in_flight, edit);
    if !max_age.is_zero() && *max_age < GOOD_AGE {
        let severity = if *max_age < MIN_AGE { Refuse } else { Advise };
        let says = format!("keeps events for {max_age:?} only: who reads later finds nothing");
        issues.add(true, severity, says, edit("--max-age=7d"));
    }
    if let Some(transform) = subject_transform {
        let moved = used.subjects.iter().filter(|subject| moves(&transform.source, subject)).count();
        let says = format!(
            "keeps {moved} topics under other subjects than the bridge's (`subject_transform` from `{}` to `{}`): \
             consumers, `tail` and `requests` find nothing under the topics of the routing table",
            transform.source, transform.destination
        );
        issues.add(moved > 0, Warn, says, "subscribe to what it makes of them, or remove it");
    }
    if let Some(sources) = sources.as_ref().filter(|sources| !sources.is_empty()) {
        let says = format!("also takes what {} other streams have (`sources`)", sources.len());
        issues.add(true, Advise, says, "tell consumers, unless those hold the bridge's events alone");
    }
    if let Some(republish) = republish {
        let says = format!("sends what it keeps to `{}` as well (`republish`)", republish.destination);
        issues.add(true, Advise, says, "make sure that only those may subscribe there who may read health data");
    }
    let has_markers = subject_delete_marker_ttl.is_some_and(|ttl| !ttl.is_zero());
    let markers = "puts markers without a payload among the events when they grow old (`subject_delete_marker_ttl`)";
    issues.add(has_markers, Advise, markers, "have consumers skip what has a `Nats-Marker-Reason`");
    let purged = "lets whoever may publish purge it with a header (`allow_rollup_hdrs`)";
    issues.add(*allow_rollup && !has_markers, Advise, purged, "grant publish on the topics to the bridge alone");
    let consumers = format!("takes {max_consumers} consumers at most: `tail` and `requests` need one each");
    issues.add(*max_consumers > 0, Advise, consumers, "raise `max_consumers` if they find no room");
    issues.found.sort_by_key(|issue| issue.severity as u8);
    issues.found
}

/// What a full stream does, as a whole or for one topic.
fn capacity(issues: &mut Issues, stream: &Config, bytes_in_flight: usize, edit: impl Fn(&str) -> String) {
    let Config { max_messages, max_bytes, max_messages_per_subject: most, name, .. } = stream;
    let unlimited = edit("--max-msgs-per-subject=-1");
    if *most > 0 && stream.discard_new_per_subject {
        let says = format!(
            "takes {most} events of a topic (`max_msgs_per_subject`), then answers: that topic's deliveries get a 503"
        );
        issues.add(true, Warn, says, unlimited);
    } else if *most > 0 {
        let says = format!(
            "keeps only the last {most} events of each topic (`max_msgs_per_subject`): the next takes an acknowledged \
             one away"
        );
        issues.add(true, Refuse, says, unlimited);
    }
    if stream.discard != DiscardPolicy::Old {
        return;
    }
    let few = (1..IN_FLIGHT as i64).contains(max_messages);
    let small = (1..i64::try_from(bytes_in_flight).unwrap_or(i64::MAX)).contains(max_bytes);
    if few || small {
        let limit = if few { format!("`max_msgs` {max_messages}") } else { format!("`max_bytes` {max_bytes}") };
        let says = format!(
            "drops its oldest events when it is full ({limit}), and is smaller than what the bridge may send at once: an \
             acknowledged event may be gone before its answer is there"
        );
        issues.add(true, Refuse, says, edit("--discard=new, or make it larger"));
    } else {
        let remedy = format!("nats stream edit {name} --discard=new: then a full stream answers, and Terra retries");
        let says = "drops its oldest events when it is full, whether or not anybody has read them";
        issues.add(*max_messages > 0 || *max_bytes > 0, Warn, says, remedy);
    }
}

struct Issues {
    about: String,
    found: Vec<Issue>,
}

impl Issues {
    fn add(&mut self, is_so: bool, severity: Severity, says: impl Into<String>, remedy: impl Into<String>) {
        if is_so {
            self.found.push(Issue { severity, fault: Fault::new(&self.about, says, remedy) });
        }
    }
}

/// Why nothing may be sent to a stream, with what to do.
pub(super) fn unfit(stream: &Config, used: Use<'_>) -> Option<Fault> {
    let worst = check(stream, used).into_iter().next()?;
    (worst.severity == Severity::Refuse).then_some(worst.fault)
}

/// Whether a transform's source matches the subject; an empty one matches all.
pub(super) fn moves(source: &str, subject: &str) -> bool {
    source.is_empty() || takes(source, subject)
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::stream::{Republish, Source, SubjectTransform};

    use super::*;

    const MANY: i64 = 1 << 40;

    fn sound() -> Config {
        Config { name: "S".into(), storage: StorageType::File, discard: DiscardPolicy::New, ..Config::default() }
    }

    fn severities(stream: &Config) -> Vec<Severity> {
        let subjects = ["terra.daily".to_owned()];
        let used = Use { key: "nats.stream", what: "stream", name: "S", bytes_in_flight: 1 << 28, subjects: &subjects };
        check(stream, used).into_iter().map(|issue| issue.severity).collect()
    }

    #[test]
    fn a_stream_that_takes_nothing_or_removes_acknowledged_events_is_refused() {
        let old = Config { discard: DiscardPolicy::Old, ..sound() };
        for refused in [
            Config { no_ack: true, ..sound() },
            Config { sealed: true, ..sound() },
            Config { mirror: Some(Source { name: "O".into(), ..Source::default() }), ..sound() },
            Config { allow_message_counter: true, ..sound() },
            Config { retention: RetentionPolicy::Interest, ..sound() },
            Config { storage: StorageType::Memory, ..sound() },
            Config { persist_mode: Some(PersistenceMode::Async), ..sound() },
            Config { max_messages_per_subject: 1, ..sound() },
            Config { max_messages_per_subject: MANY, ..old.clone() },
            Config { max_messages: 1000, ..old.clone() },
            Config { max_messages: MANY, max_bytes: 1 << 20, ..old },
            Config { max_age: MIN_AGE / 2, ..sound() },
        ] {
            assert_eq!(severities(&refused).first(), Some(&Severity::Refuse), "{refused:?}");
        }
    }

    #[test]
    fn a_setting_that_a_user_may_have_wanted_is_reported_and_accepted() {
        let transform = |source: &str| Some(SubjectTransform { source: source.into(), destination: "kept.>".into() });
        for (warned, severity) in [
            (Config { retention: RetentionPolicy::WorkQueue, ..sound() }, Severity::Warn),
            (Config { max_messages_per_subject: 9, discard_new_per_subject: true, ..sound() }, Severity::Warn),
            (Config { discard: DiscardPolicy::Old, max_bytes: MANY, ..sound() }, Severity::Warn),
            (Config { subject_transform: transform("terra.>"), ..sound() }, Severity::Warn),
            (Config { subject_transform: transform(""), ..sound() }, Severity::Warn),
            (Config { max_age: GOOD_AGE / 2, ..sound() }, Severity::Advise),
            (Config { sources: Some(vec![Source::default()]), ..sound() }, Severity::Advise),
            (Config { allow_rollup: true, subject_delete_marker_ttl: Some(MIN_AGE), ..sound() }, Severity::Advise),
            (Config { allow_rollup: true, ..sound() }, Severity::Advise),
            (Config { max_consumers: 1, ..sound() }, Severity::Advise),
            (
                Config {
                    republish: Some(Republish { source: ">".into(), destination: "x.>".into(), headers_only: false }),
                    ..sound()
                },
                Severity::Advise,
            ),
        ] {
            assert_eq!(severities(&warned), [severity], "{warned:?}");
        }
    }

    #[test]
    fn a_stream_as_the_bridge_creates_it_has_no_issues() {
        let full = Config { max_messages: 1, max_bytes: 1, max_age: GOOD_AGE, ..sound() };
        let elsewhere = SubjectTransform { source: "other.>".into(), destination: "kept.>".into() };
        for sound in [
            sound(),
            full,
            Config { discard: DiscardPolicy::Old, ..sound() },
            Config { subject_transform: Some(elsewhere), sources: Some(Vec::new()), ..sound() },
            Config {
                persist_mode: Some(PersistenceMode::Default),
                allow_message_ttl: true,
                allow_direct: true,
                deny_delete: true,
                deny_purge: true,
                allow_atomic_publish: true,
                allow_batch_publish: true,
                max_messages: -1,
                max_messages_per_subject: -1,
                max_bytes: -1,
                max_consumers: -1,
                max_message_size: -1,
                ..sound()
            },
        ] {
            assert_eq!(severities(&sound), [], "{sound:?}");
        }
    }
}
