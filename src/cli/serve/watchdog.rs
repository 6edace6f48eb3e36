//! Tells systemd's watchdog that the bridge works, as long as it does: the task that takes deliveries runs, and a
//! request over a new connection, served by the same code on the same threads, is answered in time. That the bus is
//! away is no fault of the process, and no restart helps against it.

use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

use super::super::health;
use super::super::notify::Notifier;
use crate::config;

/// One answer out of three may come too late.
const PINGS_PER_INTERVAL: u32 = 3;

/// Returns when `deliveries` has ended. Without a watchdog it returns at once.
pub(super) async fn ping(notifier: Notifier, deliveries: AbortHandle, admin: config::Admin) {
    let Some(interval) = notifier.watchdog() else { return };
    let mut ticks = tokio::time::interval(interval / PINGS_PER_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if deliveries.is_finished() {
            return;
        }
        match health::run(&admin).await {
            Ok(()) => notifier.alive(),
            Err(failure) => {
                tracing::warn!(%failure, "the bridge does not answer itself; systemd's watchdog is not told")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::super::super::notify::tests::{next, notified};
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_bridge_that_does_not_answer_tells_the_watchdog_nothing() {
        let (notifier, manager) = notified(Some(INTERVAL));
        let silent = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let admin = config::Admin { listen: silent.local_addr().expect("bound"), ready_needs_bus: false };
        let deliveries = tokio::spawn(std::future::pending::<()>());
        let pinging = ping(notifier, deliveries.abort_handle(), admin);
        assert!(tokio::time::timeout(3 * INTERVAL, pinging).await.is_err(), "it goes on asking");
        assert_eq!(next(&manager), None);
    }

    #[tokio::test]
    async fn a_bridge_whose_listener_ended_tells_the_watchdog_nothing() {
        let (notifier, manager) = notified(Some(INTERVAL));
        let admin = config::Admin { listen: ([127, 0, 0, 1], 1).into(), ready_needs_bus: false };
        let deliveries = tokio::spawn(async {});
        while !deliveries.is_finished() {
            tokio::task::yield_now().await;
        }
        ping(notifier, deliveries.abort_handle(), admin).await;
        assert_eq!(next(&manager), None);
    }
}
