//! Clients that ask the brokers and publish nothing, and what all clients of librdkafka share.

use std::ops::Deref;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::metadata::Metadata;
use rdkafka::producer::{DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{ClientConfig, ClientContext};

use super::connection_error::ConnectionError;
use super::settings;
use crate::bus::OpenError;
use crate::config;

/// Questions to the brokers. They block.
pub(super) trait Query: Send + Sync + 'static {
    /// What the brokers say of this topic, or of all.
    fn metadata(&self, topic: Option<&str>, patience: Duration) -> Result<Metadata, KafkaError>;

    /// The first offset of a partition and the next, which only its leader can tell.
    fn offsets(&self, topic: &str, partition: i32, patience: Duration) -> Result<(i64, i64), KafkaError>;
}

/// The client library.
pub(in crate::bus) fn version() -> Option<String> {
    Some(format!("librdkafka {}", rdkafka::util::get_rdkafka_version().1))
}

/// Makes the client. The error has what librdkafka says (a file it cannot read, a mechanism it was
/// not built with), never a value.
pub(super) fn create<C, T>(config: &ClientConfig, context: C) -> Result<T, OpenError>
where
    C: ClientContext,
    T: FromClientConfigAndContext<C>,
{
    config.create_with_context(context).map_err(|error| {
        OpenError(match error {
            KafkaError::ClientCreation(says) => format!("librdkafka does not start: {says}; check kafka.*"),
            KafkaError::ClientConfig(_, _, key, _) => {
                format!("librdkafka does not take the value of {key}; correct it under kafka")
            }
            _ => "librdkafka does not start; check kafka.*".to_owned(),
        })
    })
}

/// Closing a client blocks, so that a thread of its own does it.
pub(super) struct ClosedAside<C: Send + 'static>(Option<C>);

impl<C: Send + 'static> ClosedAside<C> {
    pub(super) fn new(client: C) -> Self {
        Self(Some(client))
    }
}

impl<C: Send + 'static> Deref for ClosedAside<C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.0.as_ref().expect("only drop takes it")
    }
}

impl<C: Send + 'static> Drop for ClosedAside<C> {
    fn drop(&mut self) {
        let client = self.0.take();
        std::thread::spawn(move || drop(client));
    }
}

/// For clients whose errors come back from each call, too. Remembers what explains them.
#[derive(Default, Clone)]
pub(super) struct QueryContext(Arc<Mutex<Option<ConnectionError>>>);

impl QueryContext {
    fn notice(&self, error: Option<ConnectionError>) {
        if let Some(error) = error {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *known = Some(known.map_or(error, |known| known.or(error)));
        }
    }
}

impl ClientContext for QueryContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility);
        self.notice(ConnectionError::of_text(None, text));
    }

    fn error(&self, error: KafkaError, why: &str) {
        self.notice(error.rdkafka_error_code().and_then(|code| ConnectionError::of_report(code, why)));
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl ConsumerContext for QueryContext {}

impl ProducerContext for QueryContext {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// Asks the brokers and publishes nothing. Unlike a consumer and librdkafka's admin client it learns
/// why no broker answers.
pub(super) struct QueryClient {
    client: ClosedAside<ThreadedProducer<QueryContext>>,
    context: QueryContext,
}

/// No answer, and what explains it.
#[derive(Debug)]
pub(super) struct NoAnswer {
    pub(super) code: Code,
    pub(super) explained: Option<ConnectionError>,
}

impl QueryClient {
    pub(super) fn open(config: &config::Kafka) -> Result<Self, OpenError> {
        let context = QueryContext::default();
        let client = create(&settings::admin(config)?, context.clone())?;
        Ok(Self { client: ClosedAside::new(client), context })
    }

    pub(super) fn explain(&self, error: &KafkaError) -> NoAnswer {
        NoAnswer { code: code(error), explained: *self.context.0.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

impl Query for QueryClient {
    fn metadata(&self, topic: Option<&str>, patience: Duration) -> Result<Metadata, KafkaError> {
        self.client.client().fetch_metadata(topic, patience)
    }

    fn offsets(&self, topic: &str, partition: i32, patience: Duration) -> Result<(i64, i64), KafkaError> {
        self.client.client().fetch_watermarks(topic, partition, patience)
    }
}

/// Runs what blocks on a thread of its own. Does not return where the runtime ends, which drops the caller as well.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
        Err(_) => std::future::pending().await,
    }
}

/// Asks one blocking question about each item, so many at once, and gives the answers in the order of the items.
/// librdkafka asks for one topic or for all that the cluster has, which may be far more than ours.
pub(super) async fn ask_each<T: Send + 'static, A: Send + 'static>(
    items: Vec<T>,
    at_once: usize,
    question: impl Fn(T) -> A + Clone + Send + 'static,
) -> Vec<A> {
    let asked = stream::iter(items.into_iter().enumerate()).map(|(at, item)| {
        let question = question.clone();
        blocking(move || (at, question(item)))
    });
    // In the order in which they come, so that a slow one holds up no other.
    let mut answers: Vec<_> = asked.buffer_unordered(at_once).collect().await;
    answers.sort_unstable_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// How long a question may take that is to be answered by the `deadline`: a millisecond at least.
pub(super) fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

/// librdkafka's lines have broker addresses in them: only where a line comes from is kept.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str) {
    tracing::debug!(facility, ?level, "librdkafka");
}

pub(super) fn code(error: &KafkaError) -> Code {
    match error {
        // Which rdkafka (0.39) has no code for.
        KafkaError::AdminOp(code) => *code,
        error => error.rdkafka_error_code().unwrap_or(Code::Fail),
    }
}

/// Whether the client itself says that a broker was not reached.
pub(super) fn is_not_reached(code: Code) -> bool {
    matches!(
        code,
        Code::OperationTimedOut
            | Code::TimedOutQueue
            | Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::SSL
            | Code::Authentication
    )
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, mpsc};

    use super::*;

    #[tokio::test]
    async fn every_topic_is_asked_for_once_and_answered_in_order() {
        for many in [0, 1, 4, 5, 6, 156] {
            let topics: Vec<usize> = (0..many).collect();
            assert_eq!(ask_each(topics.clone(), 5, |topic| topic).await, topics);
        }
    }

    #[tokio::test]
    async fn the_questions_do_not_wait_for_each_other() {
        let all = Arc::new(Barrier::new(5));
        ask_each(vec![all; 5], 5, |all| all.wait().is_leader()).await;
    }

    #[tokio::test]
    async fn a_slow_question_holds_up_only_its_own_place() {
        let (others, answered) = mpsc::channel();
        let answered = Arc::new(Mutex::new(answered));
        let question = move |item| match item {
            0 => (1..10).all(|_| answered.lock().unwrap().recv_timeout(Duration::from_secs(10)).is_ok()),
            _ => others.send(()).is_ok(),
        };
        assert_eq!(ask_each((0..10).collect(), 2, question).await, [true; 10]);
    }
}
