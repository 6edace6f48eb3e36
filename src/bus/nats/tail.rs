//! `tail` on NATS: an ordered consumer, which the server forgets by itself.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::stream::{RetentionPolicy, Stream};
use futures_util::StreamExt;
use jiff::Timestamp;

use super::connection_error::ConnectionError;
use super::fault::quoted;
use super::settings::moves;
use super::subjects::lacking;
use super::{claim_check, client};
use crate::bus::{ReadError, Record, Records, StartPosition};
use crate::config;

const CONNECTS_WITHIN: Duration = Duration::from_secs(5);

/// Follows the topics, all of the stream's where none is named.
pub(in crate::bus) async fn tail(
    config: &config::Nats,
    topics: Vec<String>,
    from: StartPosition,
) -> Result<Records, ReadError> {
    let stream = reach(config).await?;
    takes(&stream, &topics)?;
    let info = stream.cached_info();
    let (first, next) = (info.state.first_sequence, info.state.last_sequence + 1);
    let deliver_policy = match from {
        StartPosition::Earliest => DeliverPolicy::All,
        StartPosition::Latest => DeliverPolicy::New,
        StartPosition::Offset(offset) if offset < first.max(1) || offset > next => {
            return Err(ReadError(format!("the stream keeps offsets {} up to {next}, which comes next", first.max(1))));
        }
        StartPosition::Offset(start_sequence) => DeliverPolicy::ByStartSequence { start_sequence },
    };
    let ordered = OrderedConfig { deliver_policy, filter_subjects: topics, ..OrderedConfig::default() };
    let consumer = stream.create_consumer(ordered).await.map_err(|error| failed("a consumer", &error))?;
    let messages = consumer.messages().await.map_err(|error| failed("to deliver", &error))?;
    // A connection of its own: what an ordered consumer delivers must not wait behind an object.
    let context = Arc::new(connect(config).await?);
    Ok(Box::pin(messages.then(move |message| {
        let context = context.clone();
        async move {
            match message {
                Ok(message) => Ok(claim_check::fetch_claim(&context, record(&message)?).await),
                Err(_) => Err(ReadError("NATS stopped delivering".into())),
            }
        }
    })))
}

/// Those of the topics that the stream takes.
pub(in crate::bus) async fn present(config: &config::Nats, mut topics: Vec<String>) -> Result<Vec<String>, ReadError> {
    let missing = lacking(&topics, &reach(config).await?.cached_info().config.subjects);
    topics.retain(|topic| !missing.contains(topic));
    Ok(topics)
}

pub(super) fn failed(what: &str, error: &dyn std::fmt::Display) -> ReadError {
    ReadError(format!("NATS refuses {what}: {}; may this user make consumers?", quoted(error)))
}

/// The configured stream, on a connection of its own.
pub(super) async fn reach(config: &config::Nats) -> Result<Stream, ReadError> {
    let lacking = |_| ReadError(format!("the stream `{}` cannot be found", config.stream));
    let stream = connect(config).await?.get_stream(&config.stream).await.map_err(lacking)?;
    if stream.cached_info().config.retention == RetentionPolicy::WorkQueue {
        return Err(ReadError(format!(
            "the stream `{}` is a work queue: it keeps an event for one reader only, so that `tail` and `requests` cannot \
             read it; read with that reader, or name a stream with retention `limits` in `nats.stream`",
            config.stream
        )));
    }
    Ok(stream)
}

/// An error names the topics that the stream does not take, or keeps under another subject.
pub(super) fn takes(stream: &Stream, topics: &[String]) -> Result<(), ReadError> {
    let config = &stream.cached_info().config;
    let moved = config.subject_transform.as_ref();
    if let Some((transform, topic)) =
        moved.and_then(|transform| Some((transform, topics.iter().find(|topic| moves(&transform.source, topic))?)))
    {
        return Err(ReadError(format!(
            "the stream `{}` keeps {topic} under another subject (`subject_transform` from `{}` to `{}`); name that one \
             to `tail`, or none for all; `requests` cannot find it",
            config.name, transform.source, transform.destination
        )));
    }
    let missing = lacking(topics, &config.subjects);
    // What a transform makes of a subject is none of the stream's own.
    if missing.is_empty() || moved.is_some() {
        return Ok(());
    }
    let missing = missing.into_iter().collect::<Vec<_>>().join(", ");
    Err(ReadError(format!("the stream `{}` does not take {missing}", config.name)))
}

pub(super) async fn connect(config: &config::Nats) -> Result<Context, ReadError> {
    let options = client::options(config, CONNECTS_WITHIN).map_err(|error| ReadError(error.0))?;
    let connected = tokio::time::timeout(CONNECTS_WITHIN, options.connect(config.servers.clone())).await;
    let away = |error: ConnectionError| ReadError(format!("{error}; {}", error.remedy()));
    let client =
        connected.map_err(|_| away(ConnectionError::NoAnswer))?.map_err(|error| away(ConnectionError::of(&error)))?;
    Ok(client::context(config, client, CONNECTS_WITHIN))
}

pub(super) fn record(message: &async_nats::jetstream::Message) -> Result<Record, ReadError> {
    let info = message.info().map_err(|_| ReadError("a message without its place in the stream".into()))?;
    let time = Timestamp::from_nanosecond(info.published.unix_timestamp_nanos());
    let headers = message.headers.iter().flat_map(|headers| headers.iter());
    let headers: Vec<(String, String)> = headers
        .flat_map(|(name, values)| values.iter().map(|value| (name.to_string(), value.as_str().to_owned())))
        .collect();
    let key = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("ce-partitionkey"));
    Ok(Record {
        topic: message.subject.to_string(),
        key: key.map(|(_, key)| percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned()),
        partition: 0,
        offset: info.stream_sequence,
        time: time.map_err(|_| ReadError("a message without a time".into()))?,
        headers,
        payload: message.payload.clone(),
    })
}
