//! What an operator wants to see of a running bridge: a snapshot as JSON, and a stream of snapshots while somebody
//! looks. Has nothing of any delivery but counts and times; of the configuration no secret.
//!
//! `readiness` is whether deliveries are taken, `outcomes` whom an outcome concerns, `history` the last minutes from
//! samples of the metrics, `snapshot` the JSON.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

mod history;
mod outcomes;
mod readiness;
mod snapshot;

use crate::config::Effective;
use crate::metrics::Metrics;
use history::{EVERY, History};
pub use readiness::Readiness;
use snapshot::{Setting, Snapshot};

/// The most streams at once: the listener's other connections are for probes and scrapes.
pub const MOST_VIEWERS: usize = 8;

/// The time between two snapshots of a stream.
const SHOW_EVERY: Duration = Duration::from_secs(2);

/// How long a snapshot serves everybody who asks.
const FRESH: Duration = Duration::from_secs(1);

/// The status of the bridge. Cloning shares it.
#[derive(Clone)]
pub struct Status(Arc<Inner>);

struct Inner {
    bus: &'static str,
    readiness: Readiness,
    metrics: Metrics,
    started: f64,
    history: Mutex<History>,
    configuration: Mutex<Vec<Setting>>,
    last: Mutex<Option<(Instant, Bytes)>>,
    viewers: Arc<Semaphore>,
}

impl Status {
    /// `bus` is its kind.
    pub fn new(bus: &'static str, readiness: Readiness, metrics: Metrics) -> Self {
        let history = Mutex::new(History::new(metrics.sample()));
        let (configuration, last, viewers) = (Mutex::default(), Mutex::default(), Semaphore::new(MOST_VIEWERS));
        let viewers = Arc::new(viewers);
        Self(Arc::new(Inner { bus, readiness, metrics, started: now(), history, configuration, last, viewers }))
    }

    pub fn readiness(&self) -> &Readiness {
        &self.0.readiness
    }

    /// Shows this configuration from now on.
    pub fn set_configuration(&self, effective: &Effective) {
        *lock(&self.0.configuration) = snapshot::settings(effective);
    }

    /// Samples the metrics until it is dropped.
    pub async fn keep_history(self) {
        let mut last = Instant::now();
        let mut ticks = interval_at(last + EVERY, EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let tick = ticks.tick().await;
            lock(&self.0.history).push(self.0.metrics.sample(), (tick - last).as_secs_f64(), now());
            last = tick;
        }
    }

    /// The status as JSON, at most a second old.
    pub fn json(&self) -> Bytes {
        let mut last = lock(&self.0.last);
        match &*last {
            Some((made, json)) if made.elapsed() < FRESH => json.clone(),
            _ => last.insert((Instant::now(), self.0.json())).1.clone(),
        }
    }

    /// Snapshots as server-sent events, until the bridge drains. `None`: as many as may watch already.
    pub fn events(&self) -> Option<impl Stream<Item = Bytes> + Send + use<>> {
        let viewer = self.0.viewers.clone().try_acquire_owned().ok()?;
        let mut ticks = tokio::time::interval(SHOW_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(futures_util::stream::unfold(
            Watching { status: self.clone(), ticks, ended: false, _viewer: viewer },
            next,
        ))
    }
}

struct Watching {
    status: Status,
    ticks: tokio::time::Interval,
    ended: bool,
    _viewer: OwnedSemaphorePermit,
}

/// The last event says that the bridge drains.
async fn next(mut watching: Watching) -> Option<(Bytes, Watching)> {
    if watching.ended {
        return None;
    }
    let json = tokio::select! {
        biased;
        () = watching.status.0.readiness.stop.cancelled() => {
            watching.ended = true;
            watching.status.0.json()
        }
        _ = watching.ticks.tick() => watching.status.json(),
    };
    let event = [b"data: ", &json[..], b"\n\n"].concat();
    Some((event.into(), watching))
}

impl Inner {
    fn json(&self) -> Bytes {
        let (sample, readings, readiness) = (self.metrics.sample(), self.metrics.readings(), &self.readiness);
        let (history, configuration) = (lock(&self.history), lock(&self.configuration));
        let (refusals, dead_letters) = snapshot::refusals(&history);
        let snapshot = Snapshot {
            version: env!("CARGO_PKG_VERSION"),
            now: now(),
            started: self.started,
            status: readiness.as_str(),
            bus: snapshot::Bus {
                kind: self.bus,
                state: readiness.bus(),
                since: sample.bus_changed,
                publishes_in_flight: sample.publishes_in_flight,
            },
            connections: sample.connections,
            bytes_in_flight: (readings.bytes_in_flight)(),
            unknown_paths: sample.unknown_paths,
            log_lines_dropped: (readings.log_lines_dropped)(),
            endpoints: snapshot::endpoints(&sample, &history),
            history: snapshot::points(&history),
            refusals,
            dead_letters,
            spool: (readings.spool)().map(Into::into),
            directories: snapshot::directories(readings),
            certificates: snapshot::certificates(readings),
            reload: (&sample).into(),
            configuration: &configuration,
        };
        serde_json::to_vec(&snapshot).expect("numbers and strings").into()
    }
}

/// Unix seconds.
fn now() -> f64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    now.as_millis() as f64 / 1000.0
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt;
    use serde_json::Value;
    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::bus::ConnectionState;
    use crate::metrics::{EndpointWords, Readings};

    fn status(stop: &CancellationToken) -> Status {
        let (_, connection) = watch::channel(ConnectionState::Up);
        let readiness = Readiness { connection, stop: stop.clone(), needs_bus: false };
        Status::new("embedded", readiness, Metrics::new(Readings::default()))
    }

    fn parsed(event: &[u8]) -> Value {
        let json = event.strip_prefix(b"data: ").and_then(|rest| rest.strip_suffix(b"\n\n")).expect("an event");
        assert!(!json.contains(&b'\n') && !json.contains(&b'\r'), "of one line");
        serde_json::from_slice(json).expect("JSON")
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_has_a_snapshot_every_two_seconds_and_ends_when_the_bridge_drains() {
        let stop = CancellationToken::new();
        let status = status(&stop);
        let mut events = pin!(status.events().expect("nobody watches"));
        let begun = Instant::now();
        for second in [0, 2, 4] {
            assert_eq!(parsed(&events.next().await.expect("a snapshot"))["status"], "ready");
            assert_eq!(begun.elapsed().as_secs(), second);
        }
        stop.cancel();
        assert_eq!(parsed(&events.next().await.expect("the last"))["status"], "draining");
        assert_eq!(events.next().await, None);
    }

    #[tokio::test]
    async fn only_so_many_watch_and_one_that_leaves_makes_room() {
        let status = status(&CancellationToken::new());
        let mut watching: Vec<_> = (0..MOST_VIEWERS).map(|_| status.events().expect("room")).collect();
        assert!(status.events().is_none());
        watching.pop();
        assert!(status.events().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_serves_everybody_for_a_second() {
        let status = status(&CancellationToken::new());
        let first = status.json();
        assert_eq!(first.as_ptr(), status.json().as_ptr());
        tokio::time::advance(FRESH).await;
        assert_ne!(first.as_ptr(), status.json().as_ptr());
    }

    #[tokio::test(start_paused = true)]
    async fn the_history_is_sampled_every_five_seconds() {
        let status = status(&CancellationToken::new());
        let words = EndpointWords { outcomes: vec!["kept", "refused"], rejections: &[], fetches: vec![] };
        let endpoint = status.0.metrics.endpoint(&"one".into(), &words);
        let _sampling = tokio::spawn(status.clone().keep_history());
        tokio::task::yield_now().await;
        endpoint.ended("kept", Duration::from_millis(3));
        tokio::time::sleep(EVERY + Duration::from_millis(1)).await;
        let status: Value = serde_json::from_slice(&status.json()).expect("JSON");
        assert_eq!(status["history"].as_array().map(Vec::len), Some(1));
        assert_eq!(status["history"][0]["accepted_per_second"], 0.2);
        assert_eq!(status["endpoints"][0]["trend"], serde_json::json!([0.2]));
    }

    /// The page shows text as text; here nothing may break out of an event or of JSON.
    #[tokio::test]
    async fn a_hostile_string_stays_a_string() {
        let status = status(&CancellationToken::new());
        let hostile = "\"}\n\ndata: {}\r\n</script><img src=x onerror=alert(1)>\u{2028}\0";
        let setting = Setting { key: "k".into(), value: hostile.into(), source: hostile.into() };
        *lock(&status.0.configuration) = vec![setting];
        let mut events = pin!(status.events().expect("nobody watches"));
        let shown = parsed(&events.next().await.expect("a snapshot"));
        assert_eq!(
            (&shown["configuration"][0]["value"], shown["configuration"][0]["source"].as_str()),
            (&hostile.into(), Some(hostile))
        );
    }
}
