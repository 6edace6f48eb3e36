//! How far a replay got, in a file that is replaced as a whole: the same command goes on from there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::source::Shard;
use crate::cli::failure::Failure;

/// What is replayed of each shard: everything before `next`, and single ones from there on.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Position {
    next: u64,
    done: BTreeSet<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    shard: Shard,
    #[serde(flatten)]
    position: Position,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    /// The arguments: another replay must not go on from here.
    replay: String,
    is_finished: bool,
    replayed: u64,
    /// Bytes of the file that is written, where one is.
    bytes: u64,
    positions: Vec<Entry>,
}

/// Without a path it forgets.
pub(super) struct Checkpoint {
    path: Option<PathBuf>,
    replay: String,
    positions: BTreeMap<Shard, Position>,
    pub(super) replayed: u64,
    pub(super) bytes: u64,
    pub(super) is_finished: bool,
    /// Whether there was a file to go on from.
    pub(super) goes_on: bool,
}

impl Checkpoint {
    /// Goes on from the file, if there is one.
    pub(super) fn open(path: Option<&Path>, replay: String) -> Result<Self, Failure> {
        let stored = match path.map(std::fs::read) {
            None => None,
            Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => None,
            Some(read) => Some(read_stored(path, read, &replay)?),
        };
        let goes_on = stored.is_some();
        let Stored { is_finished, replayed, bytes, positions, .. } = stored.unwrap_or_default();
        let positions = positions.into_iter().map(|Entry { shard, position }| (shard, position)).collect();
        Ok(Self { path: path.map(Path::to_owned), replay, positions, replayed, bytes, is_finished, goes_on })
    }

    pub(super) fn is_done(&self, shard: &Shard, number: u64) -> bool {
        let position = self.positions.get(shard);
        position.is_some_and(|position| number < position.next || position.done.contains(&number))
    }

    /// Everything up to and with these numbers is replayed, or not wanted.
    pub(super) fn advance(&mut self, up_to: impl IntoIterator<Item = (Shard, u64)>) {
        for (shard, number) in up_to {
            let position = self.positions.entry(shard).or_default();
            position.next = position.next.max(number + 1);
            position.done = position.done.split_off(&position.next);
        }
    }

    /// This one is replayed, and perhaps not all before it.
    pub(super) fn done(&mut self, shard: &Shard, number: u64) {
        self.positions.entry(shard.clone()).or_default().done.insert(number);
    }

    /// `Ok` means that it is on disk.
    pub(super) fn save(&self) -> Result<(), Failure> {
        let Some(path) = &self.path else { return Ok(()) };
        let positions = self.positions.iter().map(|(shard, position)| {
            let position = Position { next: position.next, done: position.done.clone() };
            Entry { shard: shard.clone(), position }
        });
        let stored = Stored {
            replay: self.replay.clone(),
            is_finished: self.is_finished,
            replayed: self.replayed,
            bytes: self.bytes,
            positions: positions.collect(),
        };
        let text = serde_json::to_vec(&stored).map_err(|error| Failure::Running(error.to_string()))?;
        replace(path, &text).map_err(|error| {
            Failure::Running(format!("--checkpoint {}: {error}; name a file that can be written", path.display()))
        })
    }
}

fn read_stored(path: Option<&Path>, read: std::io::Result<Vec<u8>>, replay: &str) -> Result<Stored, Failure> {
    let path = path.unwrap_or(Path::new("")).display();
    let wrong = |why: String| Failure::Mistake(format!("--checkpoint {path}: {why}; name another file, or remove it"));
    let stored: Stored = serde_json::from_slice(&read.map_err(|error| wrong(error.to_string()))?)
        .map_err(|error| wrong(format!("it is no checkpoint ({error})")))?;
    match stored.replay == replay {
        true => Ok(stored),
        false => Err(wrong("it is that of a replay with other arguments".to_owned())),
    }
}

fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = File::create(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(partition: i32) -> Shard {
        Shard { topic: "t".to_owned(), partition }
    }

    #[test]
    fn what_is_saved_is_not_replayed_again_and_another_replay_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        let mut checkpoint = Checkpoint::open(Some(&path), "this".to_owned()).unwrap();
        assert!(!checkpoint.goes_on);
        checkpoint.advance([(shard(0), 4), (shard(1), 0)]);
        checkpoint.done(&shard(0), 7);
        checkpoint.done(&shard(2), 3);
        checkpoint.save().unwrap();
        let mut checkpoint = Checkpoint::open(Some(&path), "this".to_owned()).unwrap();
        let done = |checkpoint: &Checkpoint, partition| {
            (0..9).filter(|number| checkpoint.is_done(&shard(partition), *number)).collect::<Vec<u64>>()
        };
        assert_eq!(done(&checkpoint, 0), [0, 1, 2, 3, 4, 7]);
        assert_eq!((done(&checkpoint, 1), done(&checkpoint, 2), done(&checkpoint, 3)), (vec![0], vec![3], vec![]));
        checkpoint.advance([(shard(0), 6)]);
        assert_eq!(done(&checkpoint, 0), (0..8).collect::<Vec<_>>());
        let other = Checkpoint::open(Some(&path), "that".to_owned()).err().expect("it is refused");
        assert!(other.to_string().contains("other arguments"), "{other}");
        std::fs::write(&path, "{").unwrap();
        assert!(Checkpoint::open(Some(&path), "this".to_owned()).is_err());
    }
}
