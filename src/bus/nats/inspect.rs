//! What `check --online` reports about NATS.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, DiscardPolicy};

use super::client::{self, Lookup, find_stream};
use super::connection_error::ConnectionError;
use super::events::Events;
use super::fault::Fault;
use super::settings::{self, Issue, Severity};
use super::stream::{HEADROOM, MARK, used, wanted};
use super::subjects::lacking;
use super::{object_store, preflight};
use crate::bus::{Finding, Level, OpenError, Setup};
use crate::config;

const ASKS_WITHIN: Duration = Duration::from_secs(10);

/// For a stream or a bucket.
const NOT_THERE_YET: &str = "does not exist yet; the bridge creates it at its start";

/// Connects and reports; changes nothing.
pub(in crate::bus) async fn inspect(config: &config::Nats, setup: &Setup) -> Result<Vec<Finding>, OpenError> {
    let inspected = tokio::time::timeout(ASKS_WITHIN, inspect_all(config, setup)).await;
    inspected.unwrap_or_else(|_| Err(OpenError("NATS does not answer; check `nats.servers`".into())))
}

async fn inspect_all(config: &config::Nats, setup: &Setup) -> Result<Vec<Finding>, OpenError> {
    let events = Arc::new(Events::default());
    let (client, mut findings) = connect(config, &events).await?;
    let info = client.server_info();
    findings.push(Finding::fine("server", format!("nats-server {} answers", info.version)));
    let bucket = config.object_store.as_deref();
    let max_payload = "`max_payload` of the server's configuration";
    findings.push(size("server", max_payload, info.max_payload, setup.max_body, bucket));
    let context = client::context(config, client, ASKS_WITHIN / 2);
    let inspection = Inspection {
        about: format!("stream {}", config.stream),
        create: config.create_stream,
        wanted: wanted(config, setup),
        context,
        setup,
    };
    let found = match find_stream(&inspection.context, &config.stream).await {
        Lookup::Found(stream) => stream.cached_info().config.clone(),
        Lookup::Missing => {
            let standalone = info.cluster.is_none() && config.domain.is_none();
            findings.extend(inspection.missing_stream(standalone).await);
            return Ok(findings);
        }
        Lookup::Refused(error) => {
            findings.push(inspection.fault(Fault::refused("", &error)));
            return Ok(findings);
        }
        Lookup::Silent => {
            findings.push(inspection.fault(Fault::silent("", events.denied_stream(&config.stream))));
            return Ok(findings);
        }
    };
    findings.extend(inspection.settings(&found));
    findings.extend(durability(&inspection.about, &found));
    findings.extend(inspection.topics(&found).await);
    if let Some(most) = usize::try_from(found.max_message_size).ok().filter(|most| *most > 0) {
        findings.push(size(&inspection.about, "the stream's `max_msg_size`", most, setup.max_body, bucket));
    }
    if let Some(bucket) = bucket {
        findings.extend(inspection.bucket(bucket, &found).await);
    }
    Ok(findings)
}

/// A connection to the first server that accepts it, and the errors of the others.
async fn connect(config: &config::Nats, events: &Arc<Events>) -> Result<(async_nats::Client, Vec<Finding>), OpenError> {
    // Settings that cannot be used at all are reported with their key.
    client::options(config, ASKS_WITHIN / 2)?;
    let (mut connected, mut failed) = (None, Vec::new());
    for (server, answer) in client::try_each(config, ASKS_WITHIN / 2, events).await {
        match answer {
            Ok(client) => connected = connected.or(Some(client)),
            Err(error) => failed.push((server, error)),
        }
    }
    let Some(client) = connected else {
        let messages = failed.iter().map(|(server, error)| match failed.len() {
            1 => format!("{error}; {}", error.remedy()),
            _ => format!("{server}: {error}; {}", error.remedy()),
        });
        return Err(OpenError(messages.collect::<Vec<_>>().join("\n")));
    };
    let finding = |(server, error): (&str, ConnectionError)| {
        Finding::advice(server, format!("{error}; others answer"), error.remedy())
    };
    Ok((client, failed.into_iter().map(finding).collect()))
}

/// The checks of one stream.
struct Inspection<'a> {
    /// The stream's name in the findings.
    about: String,
    context: Context,
    wanted: Config,
    /// Whether the bridge may create stream and bucket, and add subjects.
    create: bool,
    setup: &'a Setup,
}

impl Inspection<'_> {
    /// `standalone`: the servers are not a cluster.
    async fn missing_stream(&self, standalone: bool) -> Vec<Finding> {
        if !self.create {
            let remedy = "create it, or set `nats.create_stream = true`";
            return vec![Finding::mistake(&self.about, "does not exist: every delivery gets a 503", remedy)];
        }
        let faults = preflight::check_create(&self.context, &self.wanted, standalone).await;
        let mut findings: Vec<_> = faults.into_iter().map(|fault| self.fault(fault)).collect();
        let taken = preflight::taken(&self.context, &self.wanted.name, &self.wanted.subjects).await;
        findings.extend(self.taken(&taken));
        if findings.is_empty() {
            findings.push(Finding::fine(&self.about, NOT_THERE_YET));
        }
        findings.extend(durability(&self.about, &self.wanted));
        findings
    }

    /// Topics that another stream captures.
    fn taken(&self, taken: &[(String, String)]) -> Option<Finding> {
        let (_, other) = taken.first()?;
        let listed: Vec<_> = taken.iter().map(|(subject, stream)| format!("{subject} (stream {stream})")).collect();
        let says = format!("cannot take what another stream takes: {}", listed.join(", "));
        Some(Finding::mistake(&self.about, says, format!("set `nats.stream = \"{other}\"`, or change `routes`")))
    }

    fn fault(&self, fault: Fault) -> Finding {
        Finding::mistake(&self.about, fault.says, fault.remedy)
    }

    /// What the stream's settings mean for an acknowledged event.
    fn settings(&self, found: &Config) -> Vec<Finding> {
        let issues = settings::check(found, used(&self.wanted, self.setup.bytes_in_flight)).into_iter();
        let finding = |Issue { severity, fault }| match severity {
            Severity::Refuse => {
                Finding::mistake(&self.about, format!("{}; every delivery gets a 503", fault.says), fault.remedy)
            }
            Severity::Warn | Severity::Advise => Finding::advice(&self.about, fault.says, fault.remedy),
        };
        issues.map(finding).collect()
    }

    async fn topics(&self, found: &Config) -> Vec<Finding> {
        // A mirror takes no messages, which was already reported.
        if found.mirror.is_some() {
            return Vec::new();
        }
        let (about, missing) = (&self.about, lacking(&self.wanted.subjects, &found.subjects));
        if missing.is_empty() {
            return vec![Finding::fine(about, format!("takes all {} topics", self.wanted.subjects.len()))];
        }
        if self.create && found.metadata.contains_key(MARK) {
            let taken = preflight::taken(&self.context, &self.wanted.name, &missing).await;
            let added = format!("lacks {} topics; the bridge adds them at its start", missing.len() - taken.len());
            return self.taken(&taken).into_iter().chain([Finding::fine(about, added)]).collect();
        }
        let says = format!("does not take {}", missing.into_iter().collect::<Vec<_>>().join(", "));
        let remedy = "add them to its subjects: the bridge changes no stream that it has not created";
        vec![Finding::mistake(about, says, remedy)]
    }

    async fn bucket(&self, bucket: &str, stream: &Config) -> Vec<Finding> {
        let about = format!("object store {bucket}");
        match find_stream(&self.context, &object_store::stream_name(bucket)).await {
            Lookup::Found(found) => {
                let settings = &found.cached_info().config;
                match object_store::fault(bucket, settings, stream.max_age, self.setup.bytes_in_flight) {
                    Some(fault) => {
                        let says = format!("{}: payloads too large for a message get a 503", fault.says);
                        vec![Finding::mistake(about, says, fault.remedy)]
                    }
                    None => sound_bucket(&about, settings, stream),
                }
            }
            Lookup::Missing if self.create => vec![Finding::fine(about, NOT_THERE_YET)],
            _ => vec![Finding::mistake(about, "cannot be seen", object_store::create_or_grant(bucket))],
        }
    }
}

/// Compares the largest message of a server or stream with what a delivery may need.
fn size(about: &str, what: &str, most: usize, max_body: usize, bucket: Option<&str>) -> Finding {
    let wanted = max_body + HEADROOM;
    match bucket {
        _ if most >= wanted => {
            Finding::fine(about, format!("takes messages of {most} bytes, more than `server.max_body`"))
        }
        Some(bucket) => Finding::fine(
            about,
            format!("takes messages of {most} bytes; larger payloads go to the object store `{bucket}`"),
        ),
        None => Finding::mistake(
            about,
            format!("takes messages of {most} bytes, `server.max_body` is {max_body}: larger events get a 503"),
            format!("set {what} to {wanted} or more, or set `nats.object_store`"),
        ),
    }
}

/// A payload must be stored as safely as its message.
fn sound_bucket(about: &str, settings: &Config, stream: &Config) -> Vec<Finding> {
    let mut findings = vec![Finding::fine(about, "keeps payloads at least as long as the stream its messages")];
    let name = &settings.name;
    let (has, wants) = (settings.num_replicas, stream.num_replicas);
    if has < wants {
        let says = format!("has fewer replicas ({has}) than the stream ({wants}): its payloads are lost more easily");
        findings.push(Finding::advice(about, says, format!("nats stream edit {name} --replicas {wants}")));
    }
    if settings.discard == DiscardPolicy::Old && (settings.max_bytes > 0 || settings.max_messages > 0) {
        let says = "drops its oldest payloads when it is full, though their messages may still be there";
        findings.push(Finding::advice(about, says, format!("nats stream edit {name} --discard new")));
    }
    findings
}

fn durability(about: &str, stream: &Config) -> [Finding; 3] {
    let kept = match stream.max_age {
        Duration::ZERO => "for ever".to_owned(),
        age => format!("for {}", config::units::show_duration(age)),
    };
    let window = stream.duplicate_window;
    let level = if window < Duration::from_secs(26 * 3600) { Level::Advice } else { Level::Fine };
    let known = config::units::show_duration(window);
    let says = format!("recognises a repeated delivery for {known}; Terra retries for about a day");
    let remedy = "consumers deduplicate by `ce-id`, or raise `nats.duplicate_window` (200 bytes a message)";
    [
        replicas(about, stream.num_replicas),
        Finding::fine(about, format!("keeps events {kept}")),
        Finding { level, ..Finding::advice(about, says, remedy) },
    ]
}

fn replicas(about: &str, replicas: usize) -> Finding {
    let sync = "JetStream acknowledges before fsync (every 2 minutes by default), which a client cannot see";
    let (survives, remedy) = match replicas {
        3.. => (
            "replicas: an acknowledged event survives the loss of a server",
            "set `sync_interval: always` on the servers, against a power cut of all of them",
        ),
        _ => (
            "replica: an acknowledged event is lost with that server's disk",
            "use `nats.replicas = 3` on a cluster, and `sync_interval: always` on the servers",
        ),
    };
    Finding::advice(about, format!("has {replicas} {survives}. {sync}"), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_less_safe_than_the_stream_is_advised_about() {
        let stream = Config { num_replicas: 3, ..Config::default() };
        let advised = |settings: &Config| {
            let findings = sound_bucket("b", settings, &stream).into_iter();
            findings.filter(|finding| finding.level == Level::Advice).map(|finding| finding.says).collect::<Vec<_>>()
        };
        assert!(advised(&Config { num_replicas: 3, max_bytes: -1, ..Config::default() }).is_empty());
        assert!(advised(&Config { num_replicas: 1, ..Config::default() })[0].contains("fewer replicas"));
        let old = Config { num_replicas: 3, max_bytes: 1, discard: DiscardPolicy::Old, ..Config::default() };
        assert!(advised(&old)[0].contains("drops its oldest"));
        assert!(advised(&Config { discard: DiscardPolicy::New, ..old }).is_empty());
    }
}
