//! The log from its earliest record on, for `requests`: topic by topic to where each ends, then all at
//! once as they grow. Comes in: topics. Goes out: records, and when the end was reached.

use std::collections::VecDeque;

use futures_util::stream::{self, StreamExt};

use super::tail::{Client, Lines};
use crate::bus::{ReadError, Record, Records, Replay, SILENCE, StartPosition, Step, Wanted};
use crate::config;

/// Needs the bridge to run, as the log belongs to one process.
pub async fn replay(config: &config::Embedded, topics: Vec<String>, wanted: Wanted) -> Result<Replay, ReadError> {
    let client = Client::new(config)?;
    let known = client.topics().await?;
    let next = |topic: &str| known.iter().find(|known| known.topic == topic).map(|known| known.next);
    let missing = |topic: &str| ReadError(format!("{topic}: no such topic; does the bridge run with these routes?"));
    let places = topics.into_iter().map(|topic| {
        let next = next(&topic).ok_or_else(|| missing(&topic))?;
        Ok(Place { topic, next })
    });
    let places = places.collect::<Result<_, ReadError>>()?;
    let reading = Reading::Kept { client, left: places, done: Vec::new(), open: None };
    Ok(Box::pin(stream::unfold(Some(reading), move |reading| async move {
        match reading?.step().await {
            Ok((mut step, reading)) => {
                spare(&mut step, wanted);
                Some((Ok(step), Some(reading)))
            }
            Err(error) => Some((Err(error), None)),
        }
    })))
}

/// A topic, and the offset to go on from.
struct Place {
    topic: String,
    next: u64,
}

enum Reading {
    Kept { client: Client, left: VecDeque<Place>, done: Vec<Place>, open: Option<(Place, Lines)> },
    CaughtUp { client: Client, places: Vec<Place> },
    Following(Records),
}

impl Reading {
    async fn step(mut self) -> Result<(Step, Self), ReadError> {
        loop {
            self = match self {
                Self::Kept { client, left, done, open: Some((mut place, mut lines)) } => {
                    let mut done = done;
                    match within(&place.topic, lines.record(&place.topic)).await? {
                        Some(record) => {
                            place.next = place.next.max(record.offset + 1);
                            let open = Some((place, lines));
                            return Ok((Step::Record(record), Self::Kept { client, left, done, open }));
                        }
                        None => done.push(place),
                    }
                    Self::Kept { client, left, done, open: None }
                }
                Self::Kept { client, mut left, done, open: None } => match left.pop_front() {
                    Some(place) => {
                        let lines = client.lines(&place.topic, StartPosition::Earliest, false).await?;
                        Self::Kept { client, left, done, open: Some((place, lines)) }
                    }
                    None => return Ok((Step::CaughtUp, Self::CaughtUp { client, places: done })),
                },
                Self::CaughtUp { client, places } => {
                    let followed =
                        places.iter().map(|place| client.follow(&place.topic, StartPosition::Offset(place.next)));
                    let streams = futures_util::future::try_join_all(followed).await?;
                    Self::Following(stream::select_all(streams).boxed())
                }
                Self::Following(mut records) => {
                    let record = records.next().await.expect("what is followed ends with an error")?;
                    return Ok((Step::Record(record), Self::Following(records)));
                }
            }
        }
    }
}

async fn within(
    topic: &str,
    record: impl Future<Output = Result<Option<Record>, ReadError>>,
) -> Result<Option<Record>, ReadError> {
    let silent = |_| ReadError(format!("{topic}: the bridge was silent for {SILENCE:?}"));
    tokio::time::timeout(SILENCE, record).await.map_err(silent)?
}

fn spare(step: &mut Step, wanted: Wanted) {
    if let Step::Record(record) = step {
        let payload = std::mem::take(&mut record.payload);
        if wanted(record) {
            record.payload = payload;
        }
    }
}
