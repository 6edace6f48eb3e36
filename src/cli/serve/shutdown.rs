//! The task that drains the spool, and the shutdown of everything in order.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::opened::Opened;
use crate::bus::Bus;
use crate::config::Config;
use crate::spool::{self, Spool};

/// The time that bus and spool may each take beyond the drain timeout to close.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Drains the spool to the bus while the bridge runs.
pub(super) struct Drainer {
    spool: Spool,
    stop: CancellationToken,
    /// How long the outcome of messages in flight may take.
    publish_timeout: Duration,
    task: JoinHandle<()>,
}

impl Drainer {
    pub(super) fn start(spool: Spool, bus: Arc<dyn Bus>, publish_timeout: Duration) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(spool::drain(spool.clone(), bus, publish_timeout, stop.clone()));
        Self { spool, stop, publish_timeout, task }
    }

    /// Continues until the spool is empty, or until messages in flight need the rest of the time before `end`.
    async fn end(mut self, end: Instant) {
        let left = end.saturating_duration_since(Instant::now());
        let emptied = tokio::time::timeout_at(end - self.publish_timeout.min(left / 2), self.spool.emptied()).await;
        self.stop.cancel();
        if tokio::time::timeout_at(end + CLOSE_WITHIN, &mut self.task).await.is_err() {
            self.task.abort();
        }
        if emptied.is_err() {
            let messages = self.spool.gauges().messages;
            tracing::warn!(messages, "drain_timeout passed: messages stay in the spool until the next start");
        }
        if tokio::time::timeout_at(end + CLOSE_WITHIN, self.spool.close()).await.is_err() {
            tracing::warn!("the spool's disk did not take its last writes in time; none of them was answered 200");
        }
    }
}

/// Connections first, then publishes whose clients disconnected, then the spool, then the bus, then the last spans.
pub(super) async fn drain(
    config: &Config,
    deliveries: &mut JoinHandle<usize>,
    opened: &Opened,
    drainer: Option<Drainer>,
) {
    let Opened { relay, bus, tracing, .. } = opened;
    let end = Instant::now() + config.server.drain_timeout;
    match deliveries.await {
        Ok(0) => {}
        Ok(aborted) => tracing::warn!(aborted, "drain_timeout passed: connections closed without an answer"),
        Err(_) => tracing::error!("the listener for deliveries panicked"),
    }
    if tokio::time::timeout_at(end, relay.drained()).await.is_err() {
        tracing::warn!("drain_timeout passed: some publishes were not confirmed; their deliveries got no 2xx");
    }
    if let Some(drainer) = drainer {
        drainer.end(end).await;
    }
    if tokio::time::timeout_at(end + CLOSE_WITHIN, bus.close()).await.is_err() {
        tracing::warn!("the bus did not close in time");
    }
    if let Some(tracing) = tracing.clone() {
        let within = (end + CLOSE_WITHIN).saturating_duration_since(Instant::now());
        let _ = tokio::task::spawn_blocking(move || tracing.shutdown(within)).await;
    }
}
