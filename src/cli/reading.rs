//! What the readers of the bus (`tail`, `requests`, `find`, `replay`, `dead_letters`) share: which topics they read, what they report about the others, and how they end.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::timeout;

use super::failure::Failure;
use crate::bus::{self, Payloads, ReadError, Reading, Record, StartPosition, Step, Steps};
use crate::config;

/// How long to wait for the next of the records that the bus reports.
const SILENCE: Duration = Duration::from_secs(20);

pub(super) enum Topics {
    /// Named by the user: each must exist.
    Named(Vec<String>),
    /// From the routes: topics that the bus does not have are left out, and named on stderr.
    Routed(Vec<String>),
}

/// Opens the topics, and reports those that are not read.
pub(super) async fn open(
    config: &config::Bus,
    topics: &Topics,
    from: StartPosition,
    payloads: Payloads,
) -> Result<(Vec<String>, Steps), Failure> {
    let (Topics::Named(wanted) | Topics::Routed(wanted)) = topics;
    if wanted.is_empty() {
        return Err(Failure::Running("the routes lead to no topic; change them, or name a topic to `tail`".to_owned()));
    }
    let reading = bus::adapters::read(config, wanted.clone(), from, payloads).await;
    let Reading { skipped, steps } = reading.map_err(failed)?;
    let read = wanted.iter().filter(|topic| !skipped.iter().any(|(skipped, _)| skipped == *topic));
    let read: Vec<String> = read.cloned().collect();
    let names: Vec<String> = skipped.iter().map(|(topic, _)| topic.clone()).collect();
    match (topics, skipped.into_iter().next()) {
        (_, None) => {}
        (Topics::Named(_), Some((_, reason))) => return Err(failed(reason)),
        (Topics::Routed(_), Some(_)) if read.is_empty() => {
            return Err(Failure::Running(format!(
                "the bus shows none of the topics: {}; the bridge creates them when it starts; see `terra-bridge check \
                 --online`",
                few(&names)
            )));
        }
        (Topics::Routed(_), Some(_)) => eprintln!("left out, as the bus does not show them: {}", few(&names)),
    }
    Ok((read, steps))
}

/// The next record; `None` when everything was read that the bus had when it was opened.
pub(super) async fn next(steps: &mut Steps) -> Result<Option<Record>, Failure> {
    let silent = |_| Failure::Running(format!("the bus sent nothing for {} s", SILENCE.as_secs()));
    match timeout(SILENCE, steps.next()).await.map_err(silent)? {
        Some(Ok(Step::Record(record))) => Ok(Some(record)),
        Some(Ok(Step::CaughtUp)) | None => Ok(None),
        Some(Err(error)) => Err(failed(error)),
    }
}

pub(super) fn failed(error: ReadError) -> Failure {
    Failure::Running(error.0)
}

/// Runs until the command ends or Ctrl-C. In a task of its own, so that Ctrl-C works even while stdout blocks.
pub(super) async fn until_ctrl_c(
    command: impl Future<Output = Result<(), Failure>> + Send + 'static,
) -> Result<(), Failure> {
    let running = tokio::spawn(command);
    tokio::select! {
        ended = running => ended.unwrap_or_else(|error| Err(Failure::Running(error.to_string()))),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// The first three topics.
pub(super) fn few(topics: &[String]) -> String {
    let more = topics.len().saturating_sub(3);
    let named = topics[..topics.len() - more].join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_topics_are_named() {
        let topics: Vec<String> = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        assert_eq!(few(&topics[..1]), "a");
        assert_eq!(few(&topics), "a, b, c and 1 more");
    }
}
