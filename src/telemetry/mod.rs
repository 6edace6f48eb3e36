//! Where log lines go: to standard output, through a bounded writer that never makes the bridge wait.
//! Every line may be read by strangers: no payload, user id, reference id, URL or secret is in any.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::{Log, LogFormat};

/// Lines that wait for a slow reader; what comes after them is dropped and counted.
const WAITING_LINES: usize = 8192;

/// What writing those may take at the end.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Keeps the log writer running; dropping it writes what waits, as far as somebody reads it.
pub struct Telemetry {
    dropped: ErrorCounter,
    filter: Filter,
    writer: Option<WorkerGuard>,
}

/// Starts logging for the process, once.
pub fn start(log: &Log) -> Telemetry {
    let (writer, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(WAITING_LINES).lossy(true).finish(std::io::stdout());
    let dropped = writer.error_counter();
    let filter = EnvFilter::try_new(&log.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    // What libraries log names brokers, paths and worse: none of it, at any level.
    let ours = filter_fn(|metadata| metadata.target().starts_with(env!("CARGO_CRATE_NAME")));
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.with_ansi(std::io::stdout().is_terminal()).boxed(),
    };
    // A second subscriber in one process can only be a test's.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter.and(ours))).try_init();
    Telemetry { dropped, filter: Filter(handle), writer: Some(guard) }
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
        // On a thread of its own: a guard that finds its queue full prints that, and waits for a reader.
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
    /// From now on; a filter that is none changes nothing.
    pub fn apply(&self, filter: &str) {
        if let Ok(filter) = EnvFilter::try_new(filter) {
            // Fails where this process has another subscriber, as a test may.
            let _ = self.0.reload(filter);
        }
    }
}

/// Between two log lines of one kind.
pub(crate) const LOG_EVERY: Duration = Duration::from_secs(10);

/// Lets one event of a kind through in a while, so that a flood of refusals is no flood of lines.
pub struct Throttle {
    every: Duration,
    state: Mutex<(Option<Instant>, u64)>,
}

impl Throttle {
    pub const fn new(every: Duration) -> Self {
        Self { every, state: Mutex::new((None, 0)) }
    }

    /// How many were held back since the last one that passed, if this one passes.
    pub fn pass(&self) -> Option<u64> {
        let mut state = self.state.lock().expect("no holder of this lock can panic");
        if state.0.is_some_and(|last| last.elapsed() < self.every) {
            state.1 += 1;
            return None;
        }
        state.0 = Some(Instant::now());
        Some(std::mem::take(&mut state.1))
    }
}

/// A [`Throttle`] for each message of each endpoint.
pub(crate) struct Throttles(Mutex<BTreeMap<(String, &'static str), Throttle>>);

impl Throttles {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// As [`Throttle::pass`].
    pub(crate) fn pass(&self, endpoint: &str, message: &'static str, every: Duration) -> Option<u64> {
        let mut throttles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        throttles.entry((endpoint.to_owned(), message)).or_insert_with(|| Throttle::new(every)).pass()
    }
}

#[cfg(test)]
pub(crate) mod lines;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttle_lets_one_through_and_counts_the_rest() {
        let throttle = Throttle::new(Duration::from_secs(3600));
        assert_eq!(throttle.pass(), Some(0));
        assert_eq!(throttle.pass(), None);
        assert_eq!(throttle.pass(), None);
        let open = Throttle::new(Duration::ZERO);
        assert_eq!((open.pass(), open.pass()), (Some(0), Some(0)));
    }

    #[test]
    fn no_endpoint_and_no_message_is_throttled_by_another() {
        let (throttles, hour) = (Throttles::new(), Duration::from_secs(3600));
        for (endpoint, message) in [("a", "one"), ("a", "two"), ("b", "one")] {
            assert_eq!(throttles.pass(endpoint, message, hour), Some(0), "{endpoint} {message}");
            assert_eq!(throttles.pass(endpoint, message, hour), None, "{endpoint} {message}");
        }
    }
}
