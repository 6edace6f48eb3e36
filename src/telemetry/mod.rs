//! Writes log lines to standard output, through a bounded writer that never blocks the bridge. Strangers may read any
//! line, so none contains a payload, user id, reference id, URL or secret. `json` is their form for machines; `traces`
//! exports spans.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tracing::Subscriber;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::{Log, LogFormat};
use json::Json;

mod json;
pub mod traces;

/// The most lines that wait for a slow reader; further ones are dropped and counted.
const WAITING_LINES: usize = 8192;

/// How long writing those lines may take at the end.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Keeps the log writer running. Dropping it writes the waiting lines, as far as the reader takes them.
pub struct Telemetry {
    dropped: ErrorCounter,
    filter: Filter,
    writer: Option<WorkerGuard>,
}

/// Starts logging for the process; call it once.
pub fn start(log: &Log) -> Telemetry {
    let (writer, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(WAITING_LINES).lossy(true).finish(std::io::stdout());
    let dropped = writer.error_counter();
    let (subscriber, filter) = subscriber(log, writer);
    // Only a test can install a second subscriber in one process.
    let _ = subscriber.try_init();
    Telemetry { dropped, filter, writer: Some(guard) }
}

/// The filters stand before all layers. One of a layer alone would drop the line after each question of a library
/// whether something is logged, which leaves its answer behind for the next event.
fn subscriber<W>(log: &Log, writer: W) -> (impl Subscriber + Send + Sync, Filter)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&log.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    // Libraries log broker names, paths and worse, so none of their lines are written, at any level.
    let ours = filter_fn(|metadata| metadata.target().starts_with(env!("CARGO_CRATE_NAME")));
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match log.format {
        LogFormat::Json => lines.event_format(Json).boxed(),
        LogFormat::Text => lines.with_ansi(std::io::stdout().is_terminal()).boxed(),
    };
    (tracing_subscriber::registry().with(filter).with(ours).with(lines), Filter(handle))
}

impl Telemetry {
    pub fn dropped_lines(&self) -> impl Fn() -> usize + Send + Sync + 'static {
        let dropped = self.dropped.clone();
        move || dropped.dropped_lines()
    }

    pub fn filter(&self) -> Filter {
        self.filter.clone()
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        let (writer, (ended, end)) = (self.writer.take(), mpsc::channel());
        // On a thread of its own: if the guard's queue is full, its drop prints that and waits for a reader.
        let letting_go = move || {
            drop(writer);
            let _ = ended.send(());
        };
        if std::thread::Builder::new().name("last lines".to_owned()).spawn(letting_go).is_ok() {
            let _ = end.recv_timeout(LAST_LINES);
        }
    }
}

/// Decides what is logged. Cloning shares it.
#[derive(Clone)]
pub struct Filter(reload::Handle<EnvFilter, Registry>);

impl Filter {
    /// Applies from now on; an invalid filter changes nothing.
    pub fn apply(&self, filter: &str) {
        if let Ok(filter) = EnvFilter::try_new(filter) {
            // Fails if the process has another subscriber, as a test may.
            let _ = self.0.reload(filter);
        }
    }
}

/// The interval between two log lines of one kind.
pub(crate) const LOG_EVERY: Duration = Duration::from_secs(10);

/// Lets a few events of a kind through per interval, so that a flood of refusals does not flood the log.
pub struct Throttle {
    every: Duration,
    most: u32,
    state: Mutex<Interval>,
}

struct Interval {
    began: Option<Instant>,
    passed: u32,
    suppressed: u64,
}

impl Throttle {
    /// Lets one through per interval.
    pub const fn new(every: Duration) -> Self {
        Self::letting(1, every)
    }

    const fn letting(most: u32, every: Duration) -> Self {
        Self { every, most, state: Mutex::new(Interval { began: None, passed: 0, suppressed: 0 }) }
    }

    /// `Some` if this event passes: how many were suppressed since the last one that did.
    pub fn pass(&self) -> Option<u64> {
        let mut state = self.state.lock().expect("no holder of this lock can panic");
        if state.began.is_none_or(|began| began.elapsed() >= self.every) {
            (state.began, state.passed) = (Some(Instant::now()), 0);
        }
        if state.passed == self.most {
            state.suppressed += 1;
            return None;
        }
        state.passed += 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

/// A [`Throttle`] for each message of each endpoint.
pub(crate) struct Throttles {
    most: u32,
    each: Mutex<BTreeMap<(String, &'static str), Throttle>>,
}

impl Throttles {
    /// Each lets `most` through per interval.
    pub(crate) const fn new(most: u32) -> Self {
        Self { most, each: Mutex::new(BTreeMap::new()) }
    }

    /// Like [`Throttle::pass`].
    pub(crate) fn pass(&self, endpoint: &str, message: &'static str, every: Duration) -> Option<u64> {
        let mut throttles = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        throttles.entry((endpoint.to_owned(), message)).or_insert_with(|| Throttle::letting(self.most, every)).pass()
    }
}

#[cfg(test)]
pub(crate) mod lines;

#[cfg(test)]
mod tests {
    use tracing::callsite::{Callsite, Identifier};
    use tracing::field::FieldSet;
    use tracing::metadata::Kind;
    use tracing::subscriber::Interest;
    use tracing::{Level, Metadata};

    use super::*;
    use crate::config::Access;

    /// Of a library, and asked past the cache of what is logged, as the `log` crate does.
    struct Question;

    static QUESTION: Metadata<'static> = Metadata::new(
        "question",
        "library",
        Level::ERROR,
        None,
        None,
        None,
        FieldSet::new(&[], Identifier(&Question)),
        Kind::EVENT,
    );

    impl Callsite for Question {
        fn set_interest(&self, _: Interest) {}

        fn metadata(&self) -> &Metadata<'_> {
            &QUESTION
        }
    }

    #[test]
    fn no_line_is_lost_because_a_library_asks_whether_something_is_logged() {
        let lines = lines::Lines::default();
        let writer = lines.clone();
        let log = Log { format: LogFormat::Text, filter: "info".to_owned(), access: Access::Off };
        let (subscriber, _) = subscriber(&log, move || writer.clone());
        let _guard = tracing::subscriber::set_default(subscriber);
        tracing::dispatcher::get_default(|logs| logs.enabled(&QUESTION));
        tracing::info!("kept");
        tracing::error!(target: "library", "of a library");
        tracing::debug!("too fine");
        assert_eq!((lines.with("kept").len(), lines.with("library").len(), lines.with("fine").len()), (1, 0, 0));
    }

    #[test]
    fn a_throttle_lets_a_few_through_and_counts_the_rest() {
        let throttle = Throttle::new(Duration::from_secs(3600));
        assert_eq!(throttle.pass(), Some(0));
        assert_eq!(throttle.pass(), None);
        assert_eq!(throttle.pass(), None);
        let few = Throttle::letting(2, Duration::from_secs(3600));
        assert_eq!((few.pass(), few.pass(), few.pass()), (Some(0), Some(0), None));
        let open = Throttle::new(Duration::ZERO);
        assert_eq!((open.pass(), open.pass()), (Some(0), Some(0)));
    }

    #[test]
    fn endpoints_and_messages_are_throttled_separately() {
        let (throttles, hour) = (Throttles::new(1), Duration::from_secs(3600));
        for (endpoint, message) in [("a", "one"), ("a", "two"), ("b", "one")] {
            assert_eq!(throttles.pass(endpoint, message, hour), Some(0), "{endpoint} {message}");
            assert_eq!(throttles.pass(endpoint, message, hour), None, "{endpoint} {message}");
        }
    }
}
