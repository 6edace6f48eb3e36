//! Reads from disk what is pending in a part of the spool, at the start and again after a failure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::progress::Progress;
use crate::log::{LedgerEntry, OpenError, Store};

pub(super) struct Recalled {
    pub(super) topics: BTreeMap<Arc<str>, Progress>,
    /// How many messages of each key are pending, by the digest of the key.
    pub(super) held: HashMap<u64, u32>,
    pub(super) waiting: u64,
    /// Records that are `done` but still pending on disk.
    pub(super) unmarked: Vec<(Arc<str>, u64)>,
}

/// Blocks on the disk. An error if the log is closed, or not sure of every record; it names its remedy.
pub(super) fn recall(
    store: &Store,
    done: &BTreeMap<Arc<str>, Progress>,
    known: impl FnMut(LedgerEntry),
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
