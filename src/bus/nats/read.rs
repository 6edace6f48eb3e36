//! Reads topics of the stream for the commands, with an ordered consumer, which the server removes by itself.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::stream::{RawMessageErrorKind, RetentionPolicy, State, Stream};
use futures_util::{StreamExt, stream};
use jiff::Timestamp;

use super::connection_error::ConnectionError;
use super::fault::quoted;
use super::settings::moves;
use super::subjects::lacking;
use super::{claim_check, client};
use crate::attribute::Attribute;
use crate::bus::read::{Progress, Skipped, Source, merge};
use crate::bus::{Payloads, ReadError, Reading, Record, StartPosition};
use crate::config;

const CONNECTS_WITHIN: Duration = Duration::from_secs(5);

/// Reads stored messages without disturbing any consumer. `Latest` means from the moment of the call. An offset that
/// the stream does not have is an error, and so is a topic that it stores under another subject.
pub(in crate::bus) async fn read(
    config: &config::Nats,
    topics: Vec<String>,
    from: StartPosition,
    payloads: Payloads,
) -> Result<Reading, ReadError> {
    let stream = find_stream(config, &connect(config).await?).await?;
    let (topics, skipped) = kept_topics(&stream, topics)?;
    if topics.is_empty() {
        // A consumer without a filter would read the whole stream.
        return Ok(Reading { skipped, steps: merge(Vec::new()) });
    }
    let state = &stream.cached_info().state;
    let last = state.last_sequence;
    let ordered = OrderedConfig {
        deliver_policy: deliver_policy(from, state)?,
        filter_subjects: topics,
        headers_only: matches!(payloads, Payloads::Only(_)),
        ..OrderedConfig::default()
    };
    let consumer = stream.create_consumer(ordered).await.map_err(|error| refused("a consumer", &error))?;
    let is_behind = consumer.cached_info().num_pending > 0;
    let messages = consumer.messages().await.map_err(|error| refused("to deliver", &error))?;
    let loader = PayloadLoader::connect(config, payloads).await?;
    let progress = stream::try_unfold((messages, loader), move |(mut messages, loader)| async move {
        let stopped = || ReadError("NATS stopped delivering".into());
        let message = messages.next().await.ok_or_else(stopped)?.map_err(|_| stopped())?;
        let (record, pending) = record(&message)?;
        let is_caught_up = record.offset >= last || pending == 0;
        let record = Some(loader.load(record).await?);
        Ok(Some((Progress { record, is_caught_up }, (messages, loader))))
    });
    Ok(Reading { skipped, steps: merge(vec![Source { is_behind, progress: Box::pin(progress) }]) })
}

async fn connect(config: &config::Nats) -> Result<Context, ReadError> {
    let options = client::options(config, CONNECTS_WITHIN)?;
    let connected = tokio::time::timeout(CONNECTS_WITHIN, options.connect(config.servers.clone())).await;
    let away = |error: ConnectionError| ReadError(format!("{error}; {}", error.remedy()));
    let client =
        connected.map_err(|_| away(ConnectionError::NoAnswer))?.map_err(|error| away(ConnectionError::of(&error)))?;
    Ok(client::context(config, client, CONNECTS_WITHIN))
}

async fn find_stream(config: &config::Nats, context: &Context) -> Result<Stream, ReadError> {
    let name = &config.stream;
    let not_found = |_| ReadError(format!("the stream `{name}` cannot be found"));
    let stream = context.get_stream(name).await.map_err(not_found)?;
    if stream.cached_info().config.retention == RetentionPolicy::WorkQueue {
        return Err(ReadError(format!(
            "the stream `{name}` is a work queue: it keeps an event for one reader only, so `tail` and `requests` cannot \
             read it; read with that reader, or set `nats.stream` to a stream with retention `limits`"
        )));
    }
    Ok(stream)
}

/// The topics that the stream keeps, and the others, each with the reason.
fn kept_topics(stream: &Stream, topics: Vec<String>) -> Result<(Vec<String>, Skipped), ReadError> {
    let config = &stream.cached_info().config;
    let name = &config.name;
    if let Some(transform) = &config.subject_transform {
        return match topics.iter().find(|topic| moves(&transform.source, topic)) {
            Some(topic) => Err(ReadError(format!(
                "the stream `{name}` keeps {topic} under another subject (`subject_transform` from `{}` to `{}`); name \
                 that subject to `tail`; `requests` cannot read it",
                transform.source, transform.destination
            ))),
            // A transformed subject matches none of the stream's own.
            None => Ok((topics, Vec::new())),
        };
    }
    let missing = lacking(&topics, &config.subjects);
    let reason = |topic| ReadError(format!("the stream `{name}` does not take {topic}"));
    let (missing, kept): (Vec<_>, _) = topics.into_iter().partition(|topic| missing.contains(topic));
    Ok((kept, missing.into_iter().map(|topic| (topic.clone(), reason(topic))).collect()))
}

fn deliver_policy(from: StartPosition, state: &State) -> Result<DeliverPolicy, ReadError> {
    let (first, next) = (state.first_sequence.max(1), state.last_sequence + 1);
    match from {
        StartPosition::Earliest => Ok(DeliverPolicy::All),
        StartPosition::Latest => Ok(DeliverPolicy::New),
        StartPosition::Offset(start_sequence) if (first..=next).contains(&start_sequence) => {
            Ok(DeliverPolicy::ByStartSequence { start_sequence })
        }
        StartPosition::Offset(_) => {
            Err(ReadError(format!("the stream keeps offsets {first} up to {next}, which comes next")))
        }
    }
}

fn refused(what: &str, error: &dyn std::fmt::Display) -> ReadError {
    ReadError(format!("NATS refuses {what}: {}; check that this user may create consumers", quoted(error)))
}

/// The delivered record, and how many matching ones follow it.
fn record(message: &async_nats::jetstream::Message) -> Result<(Record, u64), ReadError> {
    let info = message.info().map_err(|_| ReadError("a message without its place in the stream".into()))?;
    let time = Timestamp::from_nanosecond(info.published.unix_timestamp_nanos());
    let headers = message.headers.iter().flat_map(|headers| headers.iter());
    let headers =
        headers.flat_map(|(name, values)| values.iter().map(|value| (name.to_string(), value.as_str().to_owned())));
    let mut record = Record {
        topic: message.subject.to_string(),
        key: None,
        partition: 0,
        offset: info.stream_sequence,
        time: time.map_err(|_| ReadError("a message without a time".into()))?,
        headers: headers.collect(),
        payload: message.payload.clone(),
        problem: None,
    };
    record.key = record.attribute(Attribute::PartitionKey);
    Ok((record, info.pending))
}

/// Loads payloads that were not delivered with their message. It uses a connection of its own, so that the ordered
/// consumer's messages do not wait behind them.
struct PayloadLoader {
    stream: Stream,
    context: Context,
    payloads: Payloads,
}

impl PayloadLoader {
    async fn connect(config: &config::Nats, payloads: Payloads) -> Result<Self, ReadError> {
        let context = connect(config).await?;
        Ok(Self { stream: find_stream(config, &context).await?, context, payloads })
    }

    /// Leaves a message that is gone by now without its payload.
    async fn load(&self, mut record: Record) -> Result<Record, ReadError> {
        if !self.payloads.include(&record) {
            return Ok(record);
        }
        if let Payloads::Only(_) = self.payloads {
            match self.stream.get_raw_message(record.offset).await {
                Ok(message) => record.payload = message.payload,
                Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => {}
                Err(_) => {
                    return Err(ReadError(format!(
                        "NATS does not give a message by its number; check that this user may ask \
                         $JS.API.STREAM.MSG.GET.{}",
                        self.stream.cached_info().config.name
                    )));
                }
            }
        }
        Ok(claim_check::fetch_claim(&self.context, record).await)
    }
}
