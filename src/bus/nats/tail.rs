//! `tail` on NATS: an ordered consumer, which the server forgets by itself.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::stream::Stream;
use futures_util::StreamExt;
use jiff::Timestamp;

use super::subjects::lacking;
use super::{claim_check, client, context};
use crate::bus::{From, Record, Records, TailError};
use crate::config;

const CONNECTS_WITHIN: Duration = Duration::from_secs(5);

/// Follows the topics, all of the stream's where none is named.
pub(in crate::bus) async fn tail(config: &config::Nats, topics: Vec<String>, from: From) -> Result<Records, TailError> {
    let stream = reach(config).await?;
    takes(&stream, &topics)?;
    let info = stream.cached_info();
    let (first, next) = (info.state.first_sequence, info.state.last_sequence + 1);
    let deliver_policy = match from {
        From::Earliest => DeliverPolicy::All,
        From::Latest => DeliverPolicy::New,
        From::Offset(offset) if offset < first.max(1) || offset > next => {
            return Err(TailError(format!("the stream keeps offsets {} up to {next}, which comes next", first.max(1))));
        }
        From::Offset(start_sequence) => DeliverPolicy::ByStartSequence { start_sequence },
    };
    let ordered = OrderedConfig { deliver_policy, filter_subjects: topics, ..OrderedConfig::default() };
    let consumer = stream.create_consumer(ordered).await.map_err(|_| failed("a consumer"))?;
    let messages = consumer.messages().await.map_err(|_| failed("to deliver"))?;
    // A connection of its own: what an ordered consumer delivers must not wait behind an object.
    let context = Arc::new(connect(config).await?);
    Ok(Box::pin(messages.then(move |message| {
        let context = context.clone();
        async move {
            match message {
                Ok(message) => Ok(claim_check::redeem(&context, record(&message)?).await),
                Err(_) => Err(TailError("NATS stopped delivering".into())),
            }
        }
    })))
}

/// Those of the topics that the stream takes.
pub(in crate::bus) async fn present(config: &config::Nats, mut topics: Vec<String>) -> Result<Vec<String>, TailError> {
    let missing = lacking(&topics, &reach(config).await?.cached_info().config.subjects);
    topics.retain(|topic| !missing.contains(topic));
    Ok(topics)
}

pub(super) fn failed(what: &str) -> TailError {
    TailError(format!("NATS refuses {what}; may this user make consumers?"))
}

/// The configured stream, on a connection of its own.
pub(super) async fn reach(config: &config::Nats) -> Result<Stream, TailError> {
    let lacking = |_| TailError(format!("the stream `{}` cannot be found", config.stream));
    connect(config).await?.get_stream(&config.stream).await.map_err(lacking)
}

/// An error names the topics that the stream does not take.
pub(super) fn takes(stream: &Stream, topics: &[String]) -> Result<(), TailError> {
    let config = &stream.cached_info().config;
    let missing = lacking(topics, &config.subjects);
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.into_iter().collect::<Vec<_>>().join(", ");
    Err(TailError(format!("the stream `{}` does not take {missing}", config.name)))
}

pub(super) async fn connect(config: &config::Nats) -> Result<Context, TailError> {
    let options = client::options(config, CONNECTS_WITHIN).map_err(|error| TailError(error.0))?;
    let connected = tokio::time::timeout(CONNECTS_WITHIN, options.connect(config.servers.clone())).await;
    let away = || TailError("NATS cannot be reached, or refuses the login".into());
    let client = connected.map_err(|_| away())?.map_err(|_| away())?;
    Ok(context(config, client, CONNECTS_WITHIN))
}

pub(super) fn record(message: &async_nats::jetstream::Message) -> Result<Record, TailError> {
    let info = message.info().map_err(|_| TailError("a message without its place in the stream".into()))?;
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
        time: time.map_err(|_| TailError("a message without a time".into()))?,
        headers,
        payload: message.payload.clone(),
    })
}
