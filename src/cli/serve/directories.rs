//! The directories of log and spool as their metrics show them. Free space is asked every ten seconds beside all else,
//! because a disk may not answer.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::bus::embedded::Api;
use crate::config::{Bus, Config};
use crate::log::disk;
use crate::metrics::{DirectoryGauges, Reading};
use crate::spool::Spool;

const LOOK_EVERY: Duration = Duration::from_secs(10);

/// An older answer says nothing of the disk.
const VALID_FOR: Duration = Duration::from_secs(60);

/// The free space under a directory. Cloning shares it.
#[derive(Clone, Default)]
struct FreeSpace(Arc<Mutex<Option<(Instant, u64)>>>);

impl FreeSpace {
    fn of(dir: PathBuf) -> Self {
        let space = Self::default();
        tokio::spawn(space.clone().watch(dir));
        space
    }

    async fn watch(self, dir: PathBuf) {
        loop {
            let asked = dir.clone();
            // One thread at most: it is waited for before the next look.
            if let Ok(Ok(free)) = tokio::task::spawn_blocking(move || disk::free(&asked)).await {
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), free));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn seen(&self) -> Option<u64> {
        let seen = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.filter(|(at, _)| at.elapsed() < VALID_FOR).map(|(_, free)| free)
    }
}

/// Reads them at the scrape.
pub(super) fn reading(config: &Config, api: Option<Api>, spool: Option<Spool>) -> Reading<Vec<DirectoryGauges>> {
    let embedded = match &config.bus {
        Bus::Embedded(embedded) => api.map(|api| (api, FreeSpace::of(embedded.dir.clone()), embedded.clone())),
        Bus::Kafka(_) | Bus::Nats(_) => None,
    };
    let spool = spool.zip(config.spool.clone());
    let spool = spool.map(|(spool, config)| (spool, FreeSpace::of(config.dir.clone()), config));
    Box::new(move || {
        let mut directories = Vec::new();
        if let Some((api, free, config)) = &embedded {
            let (bytes, limit, reserve) = (api.bytes(), config.max_bytes, config.reserve);
            directories.push(DirectoryGauges { name: "embedded", bytes, limit, reserve, free: free.seen() });
        }
        if let Some((spool, free, config)) = &spool {
            let (gauges, limit, reserve) = (spool.gauges(), config.max_bytes, config.reserve);
            for (name, bytes) in [("spool", gauges.bytes), ("set_aside", gauges.set_aside_bytes)] {
                directories.push(DirectoryGauges { name, bytes, limit, reserve, free: free.seen() });
            }
        }
        directories
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn free_space_is_unknown_once_the_disk_has_not_answered_for_a_minute() {
        let dir = tempfile::tempdir().unwrap();
        let (space, held) = (FreeSpace::default(), dir.path().join("held"));
        std::fs::create_dir(&held).unwrap();
        tokio::spawn(space.clone().watch(held.clone()));
        while space.seen().is_none() {
            tokio::task::yield_now().await;
        }
        assert!(space.seen() > Some(0));
        std::fs::remove_dir(held).unwrap();
        tokio::time::sleep(VALID_FOR + LOOK_EVERY).await;
        assert_eq!(space.seen(), None);
    }
}
