//! Topics from their earliest message on, for `requests`: an ordered consumer of headers alone, which the
//! server forgets by itself. Comes in: topics. Goes out: records, and when all that the stream had at the
//! call was read. Asks for a payload only where it is wanted.

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use futures_util::{StreamExt, stream};

use super::claim_check;
use super::tail::{connect, failed, reach, record, takes};
use crate::bus::{ReadError, Record, Replay, SILENCE, Step, Wanted};
use crate::config;

/// Reads kept messages without disturbing any consumer; see [`super::super::replay`].
pub(in crate::bus) async fn replay(
    config: &config::Nats,
    topics: Vec<String>,
    wanted: Wanted,
) -> Result<Replay, ReadError> {
    let stream = reach(config).await?;
    takes(&stream, &topics)?;
    let last = stream.cached_info().state.last_sequence;
    let ordered = OrderedConfig {
        deliver_policy: DeliverPolicy::All,
        filter_subjects: topics,
        headers_only: true,
        ..OrderedConfig::default()
    };
    let consumer = stream.create_consumer(ordered).await.map_err(|error| failed("a consumer", &error))?;
    let ahead = consumer.cached_info().num_pending > 0;
    let messages = consumer.messages().await.map_err(|error| failed("to deliver", &error))?;
    // A connection of its own: what an ordered consumer delivers must not wait behind a payload.
    let context = connect(config).await?;
    let gone = |_| ReadError(format!("the stream `{}` cannot be found", config.stream));
    let stream = context.get_stream(&config.stream).await.map_err(gone)?;
    let payloads = Payloads { stream, context, wanted };
    let reading = Reading { messages, last, ahead, caught_up: false, payloads };
    Ok(Box::pin(stream::unfold(Some(reading), |reading| async move {
        let mut reading = reading?;
        match reading.step().await {
            Ok(step) => Some((Ok(step), Some(reading))),
            Err(error) => Some((Err(error), None)),
        }
    })))
}

struct Reading {
    messages: Ordered,
    /// The stream's sequence at the call.
    last: u64,
    /// Whether some of what was kept at the call is still to come.
    ahead: bool,
    caught_up: bool,
    payloads: Payloads,
}

impl Reading {
    async fn step(&mut self) -> Result<Step, ReadError> {
        if !self.ahead && !self.caught_up {
            self.caught_up = true;
            return Ok(Step::CaughtUp);
        }
        let next = self.messages.next();
        let next = match self.caught_up {
            true => next.await,
            false => tokio::time::timeout(SILENCE, next).await.map_err(|_| {
                ReadError(format!("NATS was silent for {SILENCE:?} before it gave all that it keeps; try again"))
            })?,
        };
        let stopped = || ReadError("NATS stopped delivering".into());
        let message = next.ok_or_else(stopped)?.map_err(|_| stopped())?;
        let record = record(&message)?;
        let pending = message.info().map_or(0, |info| info.pending);
        self.ahead &= record.offset < self.last && pending > 0;
        self.payloads.add(record).await.map(Step::Record)
    }
}

/// Where payloads come from that did not come with their message.
struct Payloads {
    stream: Stream,
    context: Context,
    wanted: Wanted,
}

impl Payloads {
    /// A message that is gone by now stays without.
    async fn add(&self, mut record: Record) -> Result<Record, ReadError> {
        if !(self.wanted)(&record) {
            return Ok(record);
        }
        match self.stream.get_raw_message(record.offset).await {
            Ok(message) => record.payload = message.payload,
            Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => {}
            Err(_) => {
                return Err(ReadError(format!(
                    "NATS does not give a message by its number; may this user ask $JS.API.STREAM.MSG.GET.{}?",
                    self.stream.cached_info().config.name
                )));
            }
        }
        Ok(claim_check::fetch_claim(&self.context, record).await)
    }
}
