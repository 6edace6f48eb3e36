//! Reads topics of the embedded log for the commands. Asks the running bridge, since only one process can open the
//! log.

use std::sync::Arc;

use futures_util::stream;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use super::client::{Client, Lines, TopicState};
use crate::bus::read::{Progress, Source, merge};
use crate::bus::{Payloads, ReadError, Reading, Record, StartPosition};
use crate::config;

/// Reads stored messages, topic after topic, and then everything that arrives later, from all topics at once.
pub async fn read(
    config: &config::Embedded,
    topics: Vec<String>,
    from: StartPosition,
    payloads: Payloads,
) -> Result<Reading, ReadError> {
    let client = Arc::new(Client::new(config)?);
    let mut known = client.topics().await?;
    known.retain(|known| topics.contains(&known.topic));
    let is_missing = |topic: &String| !known.iter().any(|known| known.topic == *topic);
    let skipped = topics.into_iter().filter(is_missing).map(|topic| (topic.clone(), missing(&topic))).collect();
    let backlog = Arc::new(Backlog::default());
    let reader = |topic| TopicReader::new(client.clone(), backlog.clone(), topic, from, payloads);
    let readers = known.into_iter().map(reader).collect::<Result<Vec<_>, _>>()?;
    backlog.left.send_replace(readers.iter().filter(|reader| reader.is_behind).count());
    Ok(Reading { skipped, steps: merge(readers.into_iter().map(TopicReader::source).collect()) })
}

fn missing(topic: &str) -> ReadError {
    ReadError(format!("{topic}: no such topic; check that the bridge runs with these routes"))
}

/// The records that all topics had at the call. They are read over one connection at a time, because the bridge has
/// few for all its readers.
#[derive(Default)]
struct Backlog {
    reading: Arc<Mutex<()>>,
    /// How many topics are not read to their end.
    left: watch::Sender<usize>,
}

struct TopicReader {
    client: Arc<Client>,
    backlog: Arc<Backlog>,
    topic: String,
    /// The next record.
    from: StartPosition,
    is_behind: bool,
    open: Option<(Lines, Option<OwnedMutexGuard<()>>)>,
    payloads: Payloads,
}

impl TopicReader {
    fn new(
        client: Arc<Client>,
        backlog: Arc<Backlog>,
        TopicState { topic, earliest, next, .. }: TopicState,
        from: StartPosition,
        payloads: Payloads,
    ) -> Result<Self, ReadError> {
        let is_behind = match from {
            StartPosition::Earliest => earliest < next,
            StartPosition::Latest => false,
            StartPosition::Offset(offset) if (earliest..=next).contains(&offset) => offset < next,
            StartPosition::Offset(offset) => {
                return Err(ReadError(format!(
                    "{topic}: there is no offset {offset}; it has offsets from {earliest} up to, but without, {next}"
                )));
            }
        };
        let from = if is_behind { from } else { StartPosition::Offset(next) };
        Ok(Self { client, backlog, topic, from, is_behind, open: None, payloads })
    }

    fn source(self) -> Source {
        let is_behind = self.is_behind;
        let progress = stream::try_unfold(self, |mut reader| async move {
            let progress = reader.next().await?;
            Ok(Some((progress, reader)))
        });
        Source { is_behind, progress: Box::pin(progress) }
    }

    async fn next(&mut self) -> Result<Progress, ReadError> {
        let (lines, _) = match &mut self.open {
            Some(open) => open,
            None => {
                let turn = self.turn().await;
                let lines = self.client.lines(&self.topic, self.from, !self.is_behind).await?;
                self.open.insert((lines, turn))
            }
        };
        match lines.record(&self.topic).await? {
            Some(record) => {
                self.from = StartPosition::Offset(record.offset + 1);
                Ok(Progress { record: Some(strip_payload(record, self.payloads)), is_caught_up: false })
            }
            None if self.is_behind => {
                (self.open, self.is_behind) = (None, false);
                self.backlog.left.send_modify(|left| *left -= 1);
                Ok(Progress { record: None, is_caught_up: true })
            }
            None => Err(ReadError(format!("{}: the bridge stopped", self.topic))),
        }
    }

    /// Waits for permission to read the stored records of one topic, and returns it; `None` once no topic has any
    /// left.
    async fn turn(&self) -> Option<OwnedMutexGuard<()>> {
        if self.is_behind {
            return Some(self.backlog.reading.clone().lock_owned().await);
        }
        let _ = self.backlog.left.subscribe().wait_for(|left| *left == 0).await;
        None
    }
}

fn strip_payload(mut record: Record, payloads: Payloads) -> Record {
    let payload = std::mem::take(&mut record.payload);
    if payloads.include(&record) {
        record.payload = payload;
    }
    record
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::SocketAddr;
    use std::time::Duration;

    use futures_util::StreamExt;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;

    use super::super::{Api, inspect};
    use super::*;
    use crate::bus::{Level, Setup, Step};
    use crate::config::Secret;
    use crate::log::{Settings, Store};
    use crate::message::Message;

    fn config(dir: &std::path::Path, listen: SocketAddr, token: Option<&str>) -> config::Embedded {
        config::Embedded {
            dir: dir.to_owned(),
            listen,
            token: token.map(Secret::new),
            tls: None,
            retention: Duration::from_secs(7 * 24 * 3600),
            max_bytes: 1 << 30,
            reserve: 0,
        }
    }

    async fn serve(api: Api) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let api = api.clone();
                let answer = service_fn(move |request| {
                    let api = api.clone();
                    async move { Ok::<_, Infallible>(api.answer(request).await) }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer));
            }
        });
        address
    }

    fn append(store: &Store, topic: &str, number: u8) {
        let message = Message::sample(topic, "k", [number; 32], vec![number; 100_000]);
        store.append(std::iter::once(&message)).unwrap();
    }

    async fn open(config: &config::Embedded, topics: &[&str], from: StartPosition) -> Result<Reading, ReadError> {
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        read(config, topics, from, Payloads::Only(|record| record.topic == "a")).await
    }

    #[tokio::test]
    async fn every_topic_is_read_until_the_bridge_stops() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&Settings::sample(dir.path()), ["empty".into()].into_iter()).unwrap());
        let api = Api::new(store.clone(), Some(Secret::new("s3cret")));
        let config = config(dir.path(), serve(api.clone()).await, Some("s3cret"));
        append(&store, "a", 1);
        append(&store, "b", 2);
        let reading = open(&config, &["a", "no", "b", "empty"], StartPosition::Earliest).await.unwrap();
        assert_eq!((reading.skipped.len(), &*reading.skipped[0].0), (1, "no"));
        assert!(reading.skipped[0].1.0.starts_with("no: no such topic"), "{}", reading.skipped[0].1);
        let mut steps = reading.steps;
        let mut record = async || match steps.next().await.unwrap() {
            Ok(Step::Record(record)) => Ok(Some(record)),
            Ok(Step::CaughtUp) => Ok(None),
            Err(error) => Err(error.0),
        };
        let mut seen = [record().await.unwrap().unwrap(), record().await.unwrap().unwrap()];
        seen.sort_by(|one, other| one.topic.cmp(&other.topic));
        assert_eq!((&*seen[0].topic, &*seen[1].topic), ("a", "b"));
        assert_eq!((seen[0].payload.len(), seen[1].payload.len()), (100_000, 0), "only that of a was asked for");
        assert_eq!(seen[0].headers[0], ("content-type".to_owned(), "application/json".to_owned()));
        assert_eq!(record().await, Ok(None), "all that was kept was given");
        append(&store, "b", 3);
        assert_eq!(record().await.unwrap().unwrap().offset, 1);
        api.drain();
        assert!(record().await.unwrap_err().ends_with("the bridge stopped"));

        let setup = Setup { topics: vec![], publish_timeout: Duration::ZERO, max_body: 0, bytes_in_flight: 0 };
        let findings = inspect(&config, &setup).await.unwrap();
        let says: Vec<_> = findings.iter().map(|finding| &*finding.says).collect();
        assert!(says.iter().any(|says| says.contains("3 messages") && says.contains("3 topics")), "{says:?}");
        assert!(findings.iter().all(|finding| finding.level < Level::Mistake), "{says:?}");
    }

    #[tokio::test]
    async fn an_error_is_reported_with_its_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&Settings::sample(dir.path()), ["t".into()].into_iter()).unwrap());
        append(&store, "t", 1);
        store.roll().unwrap();
        append(&store, "t", 2);
        store.remove_oldest(1).unwrap();
        let address = serve(Api::new(store, Some(Secret::new("s3cret")))).await;
        let read_error = async |token| {
            open(&config(dir.path(), address, token), &["t"], StartPosition::Offset(0)).await.err().unwrap()
        };
        assert!(read_error(Some("other")).await.0.contains("set embedded.token"));
        assert!(read_error(Some("s3cret")).await.0.contains("offsets from 1 up to, but without, 2"));
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = open(&config(dir.path(), closed, None), &["t"], StartPosition::Latest).await.err().unwrap();
        assert!(error.0.contains("is the bridge running"), "{error}");
    }
}
