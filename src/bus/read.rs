//! What reading a bus yields: records, and the point at which everything stored at the call has been read.

use std::collections::HashSet;
use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};

use crate::record::Record;

/// Where reading begins, in each partition of each topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartPosition {
    Earliest,
    /// Only what arrives from now on.
    Latest,
    /// Inclusive. For NATS: the stream's sequence.
    Offset(u64),
}

/// Which records are read with their payload.
#[derive(Debug, Clone, Copy)]
pub enum Payloads {
    All,
    /// Only records for which this is true, given the record without its payload. The others have an empty payload:
    /// NATS does not send it at all.
    Only(fn(&Record) -> bool),
}

impl Payloads {
    pub(super) fn include(self, record: &Record) -> bool {
        match self {
            Self::All => true,
            Self::Only(is_wanted) => is_wanted(record),
        }
    }
}

/// The result of reading topics.
pub struct Reading {
    pub skipped: Skipped,
    /// Waits while the bus is down. Ends only if no topic is read. Nothing useful follows an error.
    pub steps: Steps,
}

/// The topics that are not read, each with the reason and what to do.
pub type Skipped = Vec<(String, ReadError)>;

pub type Steps = Pin<Box<dyn Stream<Item = Result<Step, ReadError>> + Send>>;

#[derive(Debug)]
pub enum Step {
    Record(Record),
    /// Sent once: every record stored at the call, from the start position on, has been read. Later records arrived
    /// since.
    CaughtUp,
}

/// Why topics cannot be read, with what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ReadError(pub String);

/// A unit that is read on its own: a partition of Kafka, a stream of NATS, a topic of the embedded log.
pub(super) struct Source {
    /// Whether some records stored at the call are still to come.
    pub(super) is_behind: bool,
    pub(super) progress: Pin<Box<dyn Stream<Item = Result<Progress, ReadError>> + Send>>,
}

#[derive(Debug)]
pub(super) struct Progress {
    pub(super) record: Option<Record>,
    /// Whether no record stored at the call is still to come. May be reported more than once.
    pub(super) is_caught_up: bool,
}

/// The records of all sources as they arrive, and one mark when all have caught up.
pub(super) fn merge(sources: Vec<Source>) -> Steps {
    let behind = sources.iter().enumerate().filter(|(_, source)| source.is_behind);
    let mut behind: HashSet<usize> = behind.map(|(number, _)| number).collect();
    let at_once = behind.is_empty().then_some(Ok(Step::CaughtUp));
    let numbered = sources.into_iter().enumerate();
    let numbered = numbered.map(|(number, source)| source.progress.map(move |progress| (number, progress)));
    let steps = stream::select_all(numbered).flat_map(move |(number, progress)| {
        let (record, is_caught_up) = match progress {
            Ok(Progress { record, is_caught_up }) => (record.map(|record| Ok(Step::Record(record))), is_caught_up),
            Err(error) => (Some(Err(error)), false),
        };
        let is_last = is_caught_up && behind.remove(&number) && behind.is_empty();
        stream::iter(record.into_iter().chain(is_last.then_some(Ok(Step::CaughtUp))))
    });
    Box::pin(stream::iter(at_once).chain(steps))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(is_behind: bool, progress: Vec<Result<Progress, ReadError>>) -> Source {
        Source { is_behind, progress: Box::pin(stream::iter(progress)) }
    }

    fn record(offset: u64, is_caught_up: bool) -> Result<Progress, ReadError> {
        let record = Record {
            topic: "t".to_owned(),
            key: None,
            partition: 0,
            offset,
            time: jiff::Timestamp::UNIX_EPOCH,
            headers: Vec::new(),
            payload: bytes::Bytes::new(),
            problem: None,
        };
        Ok(Progress { record: Some(record), is_caught_up })
    }

    /// Offsets; `None` is the caught-up mark.
    async fn steps(sources: Vec<Source>) -> Vec<Option<u64>> {
        let offset = |step| match step {
            Ok(Step::Record(record)) => Some(record.offset),
            Ok(Step::CaughtUp) => None,
            Err(error) => panic!("{error}"),
        };
        merge(sources).map(offset).collect().await
    }

    #[tokio::test]
    async fn reading_has_caught_up_when_each_source_gave_its_last_record() {
        let first = source(true, vec![record(1, false), record(2, true), record(3, true)]);
        let end = || Ok(Progress { record: None, is_caught_up: true });
        let second = source(true, vec![end(), end()]);
        let steps = steps(vec![first, second, source(false, vec![end()])]).await;
        assert_eq!(steps, [Some(1), Some(2), None, Some(3)]);
    }

    #[tokio::test]
    async fn reading_nothing_has_caught_up_at_once() {
        assert_eq!(steps(vec![source(false, vec![record(7, true)]), source(false, vec![])]).await, [None, Some(7)]);
        assert_eq!(steps(vec![]).await, [None]);
    }

    #[tokio::test]
    async fn a_source_that_is_behind_delays_the_mark() {
        let steps = steps(vec![source(true, vec![record(1, true)]), source(true, vec![record(2, false)])]).await;
        assert!(!steps.contains(&None) && steps.len() == 2, "{steps:?}");
    }
}
