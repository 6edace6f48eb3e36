//! Drains spooled messages to the bus, and periodically retries those that were set aside.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::batch::{BATCH_MESSAGES, Sender};
use super::intake::Spool;
use super::progress::Progress;
use super::state::Part;
use crate::bus::{Bus, ConnectionState};

/// While the bus takes nothing, each topic sends this many messages, and this many times more after each round.
const PROBE_MESSAGES: usize = 4;
const PROBE_GROWTH: usize = 16;

/// Back-off after a round in which the bus took nothing.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// After a pass in which nothing was sent, the drain rests for this many times the length of the pass, up to a
/// maximum. So a large spool is not read all the time, and a single message is retried within seconds.
const REST: u32 = 3;
const LONGEST_REST: Duration = Duration::from_secs(5);

/// How often to probe a bus that is down.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// How often to retry messages that were set aside: somebody may have fixed the cause.
const SET_ASIDE_EVERY: Duration = Duration::from_secs(300);

/// How often to read the age of the oldest message.
const AGE_EVERY: Duration = Duration::from_secs(1);

/// Drains until `stop`. Then it sends nothing more, and waits for the messages in flight for `publish_timeout` at
/// most. Dropping the future at any point loses nothing: messages in flight are sent again after the next start.
pub async fn drain(spool: Spool, bus: Arc<dyn Bus>, publish_timeout: Duration, stop: CancellationToken) {
    let drainer = Drainer(Sender::new(spool.0, bus, publish_timeout, stop));
    tokio::select! {
        () = drainer.drain() => {}
        () = drainer.watch_age() => {}
    }
}

struct Drainer(Sender);

impl Drainer {
    async fn drain(&self) {
        let mut connection = self.0.bus.connection();
        let mut set_aside_due = Instant::now();
        while !self.0.stop.is_cancelled() {
            if self.0.inner.spooled.waiting.load(Relaxed) > 0 {
                self.empty(&mut connection, &mut set_aside_due).await;
            }
            self.try_set_aside(&connection, &mut set_aside_due).await;
            let until = set_aside_due.max(Instant::now() + FIRST_PAUSE);
            let _ = timeout_at(until, self.wait(self.0.inner.wake.notified())).await;
        }
        // A retry that somebody asked for stops as well, and waits for its messages in flight.
        let _pass = self.0.inner.passing.lock().await;
    }

    /// Waits for the future or the stop.
    async fn wait<T>(&self, awaited: impl Future<Output = T>) {
        tokio::select! {
            _ = awaited => {}
            () = self.0.stop.cancelled() => {}
        }
    }

    /// Retries the messages that were set aside, if that is due.
    async fn try_set_aside(&self, connection: &watch::Receiver<ConnectionState>, due: &mut Instant) {
        if Instant::now() < *due || *connection.borrow() != ConnectionState::Up {
            return;
        }
        // Whoever holds it sends them, or is done soon.
        let Ok(_pass) = self.0.inner.passing.try_lock() else { return };
        let part = &self.0.inner.set_aside;
        part.topics().values_mut().for_each(Progress::begin_again);
        while self.0.round(part, BATCH_MESSAGES).await.seen > 0 && !self.0.stop.is_cancelled() {}
        *due = Instant::now() + SET_ASIDE_EVERY;
    }

    /// Runs until nothing is spooled, or until the stop.
    async fn empty(&self, connection: &mut watch::Receiver<ConnectionState>, set_aside_due: &mut Instant) {
        let spooled = &self.0.inner.spooled;
        let (began, mut pause, mut batch) = (self.0.inner.drained.load(Relaxed), FIRST_PAUSE, PROBE_MESSAGES);
        let (mut pass, mut rest) = (Pass::begin(spooled), None);
        tracing::warn!(
            messages = spooled.waiting.load(Relaxed),
            "messages are in the spool; they are sent as soon as the bus takes them"
        );
        while spooled.waiting.load(Relaxed) > 0 {
            if *connection.borrow_and_update() != ConnectionState::Up {
                let _ = timeout(PROBE_EVERY, self.wait(connection.changed())).await;
            }
            if self.0.stop.is_cancelled() {
                return;
            }
            if rest.is_some_and(|until| Instant::now() >= until) {
                (pass, rest) = (Pass::begin(spooled), None);
            }
            let tally = self.0.round(spooled, batch).await;
            pass.sent += tally.sent;
            if tally.sent > 0 {
                (pause, batch) = (FIRST_PAUSE, BATCH_MESSAGES);
            } else if tally.failed > 0 {
                // Is the whole bus down, or only the topics of the first messages? Sending more of them tells.
                if *connection.borrow() != ConnectionState::Up {
                    batch = PROBE_MESSAGES;
                }
                if batch < BATCH_MESSAGES {
                    (pass, rest) = (Pass::begin(spooled), None);
                    batch = (batch * PROBE_GROWTH).min(BATCH_MESSAGES);
                }
                let _ = timeout(pause, self.wait(connection.changed())).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            if tally.seen > 0 {
                continue;
            }
            self.try_set_aside(connection, set_aside_due).await;
            // Messages that arrive meanwhile belong to this pass, and need not wait for stuck ones.
            let until = *rest.get_or_insert_with(|| pass.rest(pause));
            tokio::select! {
                () = self.0.inner.wake.notified() => {}
                _ = connection.changed() => rest = Some(Instant::now()),
                () = sleep_until(until) => {}
                () = self.0.stop.cancelled() => {}
            }
        }
        let messages = self.0.inner.drained.load(Relaxed) - began;
        tracing::info!(messages, "the spool is empty again");
    }

    /// Keeps the age of the oldest message current.
    async fn watch_age(&self) {
        loop {
            let part = &self.0.inner.spooled;
            let places = part.cursors();
            let store = part.log.store.clone();
            let reading = move || places.into_iter().filter_map(|(topic, at)| store.time(&topic, at)).min();
            let oldest = tokio::task::spawn_blocking(reading).await.ok().flatten();
            self.0.inner.oldest.store(oldest.map_or(0, Timestamp::as_millisecond), Relaxed);
            tokio::time::sleep(AGE_EVERY).await;
        }
    }
}

/// One pass over the spooled messages, oldest first.
struct Pass {
    began: Instant,
    sent: u64,
}

impl Pass {
    fn begin(part: &Part) -> Self {
        part.topics().values_mut().for_each(Progress::begin_again);
        Self { began: Instant::now(), sent: 0 }
    }

    /// When the next pass begins: the longer this one ran without success, the later.
    fn rest(&self, pause: Duration) -> Instant {
        let long = if self.sent == 0 { (self.began.elapsed() * REST).min(LONGEST_REST) } else { Duration::ZERO };
        Instant::now() + long.max(pause)
    }
}
