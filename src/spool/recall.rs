//! What a part of the spool holds, as its disk has it: asked at the start and after a failure. Comes in: its
//! log, and what is known to be done though the disk may not know it. Goes out: what is pending.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::progress::Progress;
use super::{Inner, Part};
use crate::bus::OpenError;
use crate::dedupe::Known;
use crate::log::{Done, Store};

/// Waits after what is pending could not be counted.
const COUNT_AGAIN: Duration = Duration::from_secs(5);

pub(super) struct Recalled {
    pub(super) topics: BTreeMap<Arc<str>, Progress>,
    /// How many messages of each key are pending, by the digest of the key.
    pub(super) held: HashMap<u64, u32>,
    pub(super) waiting: u64,
    /// What the disk takes for pending that was `done`.
    pub(super) unmarked: Vec<(Arc<str>, u64)>,
}

/// Blocks on the disk. An error where the log is closed, or not sure of every record; it has its remedy.
pub(super) fn recall(
    store: &Store,
    done: &BTreeMap<Arc<str>, Progress>,
    known: impl FnMut(Known),
) -> Result<Recalled, OpenError> {
    let mut pending: BTreeMap<Arc<str>, Progress> = BTreeMap::new();
    let (mut held, mut waiting, mut unmarked) = (HashMap::new(), 0, Vec::new());
    let each = |topic: Arc<str>, offset, key| {
        if done.get(&topic).is_some_and(|progress| progress.is_done(offset)) {
            unmarked.push((topic, offset));
            return;
        }
        pending.entry(topic).or_insert_with(|| Progress::starting(offset)).pending(offset);
        *held.entry(key).or_insert(0) += 1;
        waiting += 1;
    };
    store.recall(each, known)?;
    let topics = store.topics().into_iter().map(|(topic, extent)| {
        let progress = pending.remove(&topic).unwrap_or_else(|| Progress::starting(extent.next));
        (topic, progress.until(extent.next))
    });
    Ok(Recalled { topics: topics.collect(), held, waiting, unmarked })
}

impl Inner {
    /// Counts anew what a part holds whenever its log was opened again: what was refused as it failed may be on
    /// disk all the same, and what was done not be marked there.
    pub(super) async fn count_again(self: &Arc<Self>, part: fn(&Inner) -> &Part) {
        let mut reopened = part(self).log.reopened();
        while reopened.changed().await.is_ok() {
            let nth = *reopened.borrow_and_update();
            while let Err(error) = self.count(part, nth).await {
                tracing::error!(%error, "what the spool holds could not be counted after a failure: it takes nothing");
                tokio::time::sleep(COUNT_AGAIN).await;
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
