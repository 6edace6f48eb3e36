//! Reads from disk what is pending in a part of the spool, at the start.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::progress::Progress;
use crate::log::{OpenError, Store};

pub(super) struct Recalled {
    pub(super) topics: BTreeMap<Arc<str>, Progress>,
    /// How many messages of each key are pending, by the digest of the key.
    pub(super) held: HashMap<u64, u32>,
    pub(super) waiting: u64,
}

/// Blocks on the disk. An error names its remedy.
pub(super) fn recall(store: &Store) -> Result<Recalled, OpenError> {
    let mut pending: BTreeMap<Arc<str>, Progress> = BTreeMap::new();
    let (mut held, mut waiting) = (HashMap::new(), 0);
    store.pending(|topic, offset, key| {
        pending.entry(topic.clone()).or_insert_with(|| Progress::starting(offset)).pending(offset);
        *held.entry(key).or_insert(0) += 1;
        waiting += 1;
    })?;
    let topics = store.topics().into_iter().map(|(topic, extent)| {
        let progress = pending.remove(&topic).unwrap_or_else(|| Progress::starting(extent.next));
        (topic, progress.until(extent.next))
    });
    Ok(Recalled { topics: topics.collect(), held, waiting })
}
