//! What `check --online` says of NATS.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use async_nats::jetstream::{Context, ErrorCode};

use super::connection_error::ConnectionError;
use super::refusal::Fault;
use super::settings::{self, Judgement, Verdict};
use super::stream::{self, HEADROOM, MARK, used, wanted};
use super::stream_error::{refused, silence};
use super::subjects::lacking;
use super::{claim_check, client, context, foresee};
use crate::bus::{Finding, Level, OpenError, Setup};
use crate::config;

const ASKS_WITHIN: Duration = Duration::from_secs(10);

/// Connects and reports; changes nothing.
pub(in crate::bus) async fn inspect(config: &config::Nats, setup: &Setup) -> Result<Vec<Finding>, OpenError> {
    let asked = tokio::time::timeout(ASKS_WITHIN, ask(config, setup)).await;
    asked.unwrap_or_else(|_| Err(OpenError("NATS does not answer; see `nats.servers`".into())))
}

async fn ask(config: &config::Nats, setup: &Setup) -> Result<Vec<Finding>, OpenError> {
    let events = Arc::new(client::Events::default());
    let (client, mut findings) = connect(config, &events).await?;
    let info = client.server_info();
    findings.push(fine("server", format!("nats-server {} answers", info.version)));
    let bucket = config.object_store.as_deref();
    findings.push(size(
        "server",
        "`max_payload` of the server's configuration",
        info.max_payload,
        setup.max_body,
        bucket,
    ));
    let context = context(config, client, ASKS_WITHIN / 2);
    let about = format!("stream {}", config.stream);
    let wanted = wanted(config, setup);
    match context.get_stream(&config.stream).await {
        Ok(stream) => {
            let found = &stream.cached_info().config;
            findings.extend(of_settings(&about, found, &wanted, setup));
            findings.extend(durability(&about, found));
            findings.extend(of_topics(&context, &about, &wanted, found, config.create_stream).await);
            if let Some(most) = usize::try_from(found.max_message_size).ok().filter(|most| *most > 0) {
                findings.push(size(&about, "the stream's `max_msg_size`", most, setup.max_body, bucket));
            }
            if let Some(bucket) = bucket {
                findings.extend(of_bucket(&context, bucket, found, config.create_stream, setup).await);
            }
        }
        Err(error) => {
            let stream = stream::about(&config.stream);
            match error.kind() {
                GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    let standalone = info.cluster.is_none() && config.domain.is_none();
                    findings.extend(of_missing(&context, &about, &wanted, config.create_stream, standalone).await);
                }
                GetStreamErrorKind::JetStream(error) => findings.push(of_fault(&about, refused(&stream, &error))),
                GetStreamErrorKind::EmptyName | GetStreamErrorKind::Request | GetStreamErrorKind::InvalidStreamName => {
                    findings.push(of_fault(&about, silence(&stream, events.denied_stream(&config.stream))));
                }
            }
        }
    }
    Ok(findings)
}

/// A connection to the first server that lets us in, and what is wrong with the others.
async fn connect(
    config: &config::Nats,
    events: &Arc<client::Events>,
) -> Result<(async_nats::Client, Vec<Finding>), OpenError> {
    // What cannot be used at all is said with its key.
    client::options(config, ASKS_WITHIN / 2)?;
    let (mut connected, mut failed) = (None, Vec::new());
    for (server, answer) in client::try_each(config, ASKS_WITHIN / 2, events).await {
        match answer {
            Ok(client) => connected = connected.or(Some(client)),
            Err(error) => failed.push((server, error)),
        }
    }
    let Some(client) = connected else {
        let said = failed.iter().map(|(server, error)| match failed.len() {
            1 => format!("{error}; {}", error.remedy()),
            _ => format!("{server}: {error}; {}", error.remedy()),
        });
        return Err(OpenError(said.collect::<Vec<_>>().join("\n")));
    };
    let finding = |(server, error): (&str, ConnectionError)| Finding {
        about: server.to_owned(),
        level: Level::Advice,
        says: format!("{error}; others answer"),
        remedy: Some(error.remedy().to_owned()),
    };
    Ok((client, failed.into_iter().map(finding).collect()))
}

/// The bridge makes it, where nothing speaks against it.
async fn of_missing(context: &Context, about: &str, wanted: &Config, create: bool, standalone: bool) -> Vec<Finding> {
    if !create {
        return vec![Finding {
            about: about.into(),
            level: Level::Mistake,
            says: "is not there: every delivery gets a 503".into(),
            remedy: Some("make it, or set `nats.create_stream = true`".into()),
        }];
    }
    let mut findings: Vec<_> =
        foresee::making(context, wanted, standalone).await.into_iter().map(|fault| of_fault(about, fault)).collect();
    let taken = foresee::taken(context, &wanted.name, &wanted.subjects).await;
    findings.extend(of_taken(about, &taken));
    if findings.is_empty() {
        findings.push(fine(about, "is not there yet; the bridge makes it at its start".into()));
    }
    findings.extend(durability(about, wanted));
    findings
}

/// Topics that another stream has.
fn of_taken(about: &str, taken: &[(String, String)]) -> Option<Finding> {
    let (_, other) = taken.first()?;
    let listed = taken.iter().map(|(subject, stream)| format!("{subject} (stream {stream})")).collect::<Vec<_>>();
    Some(Finding {
        about: about.into(),
        level: Level::Mistake,
        says: format!("cannot take what another stream takes: {}", listed.join(", ")),
        remedy: Some(format!("set `nats.stream = \"{other}\"`, or change `routes`")),
    })
}

fn of_fault(about: &str, fault: Fault) -> Finding {
    let says = format!("{}; {}", fault.says, fault.remedy);
    Finding { about: about.into(), level: Level::Mistake, says, remedy: None }
}

/// What the stream's settings mean for an acknowledged event.
fn of_settings(about: &str, found: &Config, wanted: &Config, setup: &Setup) -> Vec<Finding> {
    let judgements = settings::judge(found, used(wanted, setup.bytes_in_flight)).into_iter();
    judgements.map(|judgement| of_judgement(about, judgement)).collect()
}

fn of_judgement(about: &str, Judgement { verdict, fault }: Judgement) -> Finding {
    let (level, consequence) = match verdict {
        Verdict::Refuse => (Level::Mistake, "; every delivery gets a 503"),
        Verdict::Warn | Verdict::Advise => (Level::Advice, ""),
    };
    Finding { about: about.into(), level, says: format!("{}{consequence}", fault.says), remedy: Some(fault.remedy) }
}

/// What server or stream take at once, against what a delivery may need.
fn size(about: &str, what: &str, most: usize, max_body: usize, bucket: Option<&str>) -> Finding {
    let wanted = max_body + HEADROOM;
    match bucket {
        _ if most >= wanted => fine(about, format!("takes messages of {most} bytes, more than `server.max_body`")),
        Some(bucket) => {
            fine(about, format!("takes messages of {most} bytes; larger payloads go to the object store `{bucket}`"))
        }
        None => Finding {
            about: about.into(),
            level: Level::Mistake,
            says: format!("takes messages of {most} bytes, `server.max_body` is {max_body}: larger events get a 503"),
            remedy: Some(format!("set {what} to {wanted} or more, or set `nats.object_store`")),
        },
    }
}

async fn of_bucket(context: &Context, bucket: &str, stream: &Config, create: bool, setup: &Setup) -> Vec<Finding> {
    let about = format!("object store {bucket}");
    let mistake = |says: String, remedy: String| Finding {
        about: about.clone(),
        level: Level::Mistake,
        says,
        remedy: Some(remedy),
    };
    match claim_check::settings(context, bucket).await {
        Some(settings) => match claim_check::problem(bucket, &settings, stream.max_age, setup.bytes_in_flight) {
            Some(fault) => {
                vec![mistake(format!("{}: those too large for a message get a 503", fault.says), fault.remedy)]
            }
            None => of_sound_bucket(&about, &settings, stream),
        },
        None if create && claim_check::is_missing(context, bucket).await => {
            vec![fine(&about, "is not there yet; the bridge makes it at its start".into())]
        }
        None => vec![mistake(
            "cannot be seen".into(),
            format!("make it (nats object add {bucket}), and grant `$JS.API.>` and `$O.{bucket}.>`"),
        )],
    }
}

/// A payload is worth no more than its message, and no less.
fn of_sound_bucket(about: &str, settings: &Config, stream: &Config) -> Vec<Finding> {
    let mut findings = vec![fine(about, "keeps payloads at least as long as the stream its messages".into())];
    let name = &settings.name;
    let mut advice = |says: String, remedy: String| {
        findings.push(Finding { about: about.into(), level: Level::Advice, says, remedy: Some(remedy) });
    };
    let (has, wants) = (settings.num_replicas, stream.num_replicas);
    if has < wants {
        let says = format!("has fewer replicas ({has}) than the stream ({wants}): its payloads are lost more easily");
        advice(says, format!("nats stream edit {name} --replicas {wants}"));
    }
    if drops_the_oldest(settings) {
        let says = "drops its oldest payloads when it is full, though their messages may be there still";
        advice(says.into(), format!("nats stream edit {name} --discard new"));
    }
    findings
}

fn drops_the_oldest(stream: &Config) -> bool {
    stream.discard == DiscardPolicy::Old && (stream.max_bytes > 0 || stream.max_messages > 0)
}

async fn of_topics(context: &Context, about: &str, wanted: &Config, found: &Config, create: bool) -> Vec<Finding> {
    // It takes nothing by itself, which was said.
    if found.mirror.is_some() {
        return Vec::new();
    }
    let missing = lacking(&wanted.subjects, &found.subjects);
    if missing.is_empty() {
        return vec![fine(about, format!("takes all {} topics", wanted.subjects.len()))];
    }
    if create && found.metadata.contains_key(MARK) {
        let taken = foresee::taken(context, &wanted.name, &missing).await;
        let added = format!("lacks {} topics; the bridge adds them at its start", missing.len() - taken.len());
        return of_taken(about, &taken).into_iter().chain([fine(about, added)]).collect();
    }
    vec![Finding {
        about: about.into(),
        level: Level::Mistake,
        says: format!("does not take {}", missing.into_iter().collect::<Vec<_>>().join(", ")),
        remedy: Some("add them to its subjects: the bridge changes no stream that it has not made".into()),
    }]
}

fn durability(about: &str, stream: &Config) -> Vec<Finding> {
    let mut findings = vec![replicas(about, stream.num_replicas)];
    let hours = |time: Duration| time.as_secs_f64() / 3600.0;
    let kept = if stream.max_age.is_zero() { "for ever".into() } else { format!("for {:.1} h", hours(stream.max_age)) };
    findings.push(fine(about, format!("keeps events {kept}")));
    findings.push(Finding {
        about: about.into(),
        level: if stream.duplicate_window < Duration::from_secs(26 * 3600) { Level::Advice } else { Level::Fine },
        says: format!(
            "recognises a repeated delivery for {:.1} h; Terra retries for about a day",
            hours(stream.duplicate_window)
        ),
        remedy: Some("consumers deduplicate by `ce-id`, or raise `nats.duplicate_window` (200 bytes a message)".into()),
    });
    findings
}

fn replicas(about: &str, replicas: usize) -> Finding {
    let sync = "JetStream acknowledges before fsync (every 2 minutes by default), which a client cannot see";
    if replicas >= 3 {
        return Finding {
            about: about.into(),
            level: Level::Advice,
            says: format!("has {replicas} replicas: an acknowledged event survives the loss of a server. {sync}"),
            remedy: Some("set `sync_interval: always` on the servers, against a power cut of all of them".into()),
        };
    }
    Finding {
        about: about.into(),
        level: Level::Advice,
        says: format!("has {replicas} replica: an acknowledged event is lost with that server's disk. {sync}"),
        remedy: Some("use `nats.replicas = 3` on a cluster, and `sync_interval: always` on the servers".into()),
    }
}

fn fine(about: &str, says: String) -> Finding {
    Finding { about: about.into(), level: Level::Fine, says, remedy: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_that_is_worth_less_than_the_stream_is_advised_about() {
        let stream = Config { num_replicas: 3, ..Config::default() };
        let advised = |settings: &Config| {
            let findings = of_sound_bucket("b", settings, &stream).into_iter();
            findings.filter(|finding| finding.level == Level::Advice).map(|finding| finding.says).collect::<Vec<_>>()
        };
        assert!(advised(&Config { num_replicas: 3, max_bytes: -1, ..Config::default() }).is_empty());
        assert!(advised(&Config { num_replicas: 1, ..Config::default() })[0].contains("fewer replicas"));
        let old = Config { num_replicas: 3, max_bytes: 1, discard: DiscardPolicy::Old, ..Config::default() };
        assert!(advised(&old)[0].contains("drops its oldest"));
        assert!(advised(&Config { discard: DiscardPolicy::New, ..old }).is_empty());
    }
}
