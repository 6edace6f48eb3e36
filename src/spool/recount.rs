//! Recounts the messages in a part of the spool whenever its log was reopened after a failure.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::recall::recall;
use super::state::{Inner, Part};
use crate::log::{Done, OpenError};

/// Back-off after a count that failed.
const RETRY_AFTER: Duration = Duration::from_secs(5);

impl Inner {
    /// A message that was refused when the log failed may be on disk all the same, and a done one may lack its mark.
    pub(super) async fn recount_on_reopen(self: &Arc<Self>, part: fn(&Inner) -> &Part) {
        let mut reopened = part(self).log.reopened();
        while reopened.changed().await.is_ok() {
            let nth = *reopened.borrow_and_update();
            while let Err(error) = self.count(part, nth).await {
                tracing::error!(%error, "could not count the messages in the spool after a failure: it takes nothing until that succeeds");
                tokio::time::sleep(RETRY_AFTER).await;
                if reopened.has_changed().unwrap_or(true) {
                    break;
                }
            }
        }
        // The writer has ended.
        std::future::pending().await
    }

    async fn count(self: &Arc<Self>, part: fn(&Inner) -> &Part, nth: u64) -> Result<(), OpenError> {
        self.recounts.store(true, Relaxed);
        let alone = self.counting.clone().write_owned().await;
        self.recounts.store(false, Relaxed);
        let inner = self.clone();
        let counting = move || {
            let (_alone, part) = (alone, part(&inner));
            let done = part.topics().clone();
            let recalled = recall(&part.log.store, &done, |_| {})?;
            *part.topics() = recalled.topics;
            part.waiting.store(recalled.waiting, Relaxed);
            if !std::ptr::eq(part, &inner.set_aside) {
                *inner.held() = recalled.held;
                if recalled.waiting == 0 {
                    inner.nothing_waits();
                }
            }
            Ok(recalled.unmarked)
        };
        let unmarked = tokio::task::spawn_blocking(counting).await;
        let records = unmarked.unwrap_or_else(|_| Err(OpenError("the count was not finished".to_owned())))?;
        let part = part(self);
        part.log.done(Done { records, cursors: part.cursors(), empty: false }).await;
        part.log.counted(nth).await;
        self.wake.notify_one();
        Ok(())
    }
}
