//! A secret's file, reread periodically: reports when the secret has changed for good, or is gone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::files::{TimedOut, TimedReads};
use super::secret::{self, Secret};

/// The time limit for reading one file.
const READ_WITHIN: Duration = Duration::from_secs(2);

/// The secret in the file, or why there is none.
type Found = Result<Secret, String>;

/// One secret and its file.
#[derive(Debug, Clone)]
pub(super) struct SecretFile {
    path: PathBuf,
    current: Secret,
    /// The result of the last read that ended.
    last_read: Found,
    said_lost: bool,
    said_slow: bool,
    reads: Arc<TimedReads<Found>>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum SecretChange {
    None,
    Rotated(Secret),
    /// Empty, unreadable or missing, twice in a row, with the reason. Reported once.
    Lost(String),
    /// Reading hangs. Reported once, until it ends.
    TimedOut,
}

impl SecretFile {
    pub(super) fn new(path: PathBuf, current: Secret) -> Self {
        Self {
            path,
            last_read: Ok(current.clone()),
            current,
            said_lost: false,
            said_slow: false,
            reads: Arc::default(),
        }
    }

    /// Reads the file. A value counts once two reads in a row find it, because the file may be in the middle of a
    /// write. Blocks for [`READ_WITHIN`] at most.
    pub(super) fn reread(&mut self) -> SecretChange {
        self.reread_by(secret::read, READ_WITHIN)
    }

    fn reread_by(&mut self, read: impl FnOnce(&Path) -> Found + Send + 'static, within: Duration) -> SecretChange {
        let path = self.path.clone();
        let found = match self.reads.within(within, move || read(&path)) {
            Ok(found) => found,
            Err(TimedOut) if std::mem::replace(&mut self.said_slow, true) => return SecretChange::None,
            Err(TimedOut) => return SecretChange::TimedOut,
        };
        self.said_slow = false;
        let before = std::mem::replace(&mut self.last_read, found);
        if before.ok().as_ref() != self.last_read.as_ref().ok() {
            return SecretChange::None;
        }
        let said_lost = std::mem::replace(&mut self.said_lost, self.last_read.is_err());
        match &self.last_read {
            Ok(found) if *found != self.current => {
                self.current = found.clone();
                SecretChange::Rotated(found.clone())
            }
            Err(why) if !said_lost => SecretChange::Lost(why.clone()),
            Ok(_) | Err(_) => SecretChange::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text)
    }

    #[test]
    fn a_secret_counts_once_two_reads_in_a_row_find_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "old\n").unwrap();
        let mut watched = SecretFile::new(path.clone(), secret("old"));
        assert_eq!(watched.reread(), SecretChange::None);
        for half in ["n", "ne"] {
            std::fs::write(&path, half).unwrap();
            assert_eq!(watched.reread(), SecretChange::None, "half written");
        }
        std::fs::write(&path, "new").unwrap();
        assert_eq!((watched.reread(), watched.reread()), (SecretChange::None, SecretChange::Rotated(secret("new"))));
        assert_eq!(watched.reread(), SecretChange::None);
    }

    #[test]
    fn a_missing_file_is_reported_once_and_its_return_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "old").unwrap();
        let mut watched = SecretFile::new(path.clone(), secret("old"));
        std::fs::write(&path, "").unwrap();
        let empty = SecretChange::Lost("it is empty".to_owned());
        assert_eq!((watched.reread(), watched.reread()), (SecretChange::None, empty));
        std::fs::remove_file(&path).unwrap();
        assert_eq!((watched.reread(), watched.reread()), (SecretChange::None, SecretChange::None));
        std::fs::write(&path, "old").unwrap();
        assert_eq!((watched.reread(), watched.reread()), (SecretChange::None, SecretChange::None), "the same again");
        std::fs::remove_file(&path).unwrap();
        assert!(
            matches!((watched.reread(), watched.reread()), (SecretChange::None, SecretChange::Lost(_))),
            "said again"
        );
        std::fs::write(&path, "new").unwrap();
        assert_eq!((watched.reread(), watched.reread()), (SecretChange::None, SecretChange::Rotated(secret("new"))));
    }

    #[test]
    fn a_hanging_read_is_reported_once_and_the_next_one_finds_the_change() {
        let mut watched = SecretFile::new("s".into(), secret("old"));
        let mut look = |read: Box<dyn FnOnce() -> Found + Send>, within| watched.reread_by(move |_| read(), within);
        let (soon, long) = (Duration::from_millis(20), Duration::from_secs(60));
        for news in [SecretChange::TimedOut, SecretChange::None] {
            let (disk, answers) = std::sync::mpsc::channel::<Found>();
            assert_eq!(look(Box::new(move || answers.recv().unwrap()), soon), news);
            std::mem::forget(disk);
        }
        let mut new = || look(Box::new(|| Ok(secret("new"))), long);
        assert_eq!((new(), new()), (SecretChange::None, SecretChange::Rotated(secret("new"))));
        let (disk, answers) = std::sync::mpsc::channel::<Found>();
        assert_eq!(look(Box::new(move || answers.recv().unwrap()), soon), SecretChange::TimedOut, "said again");
        drop(disk);
    }

    #[test]
    fn a_replaced_symlink_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (version, text) in [("1", "old"), ("2", "new")] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("s"), text).unwrap();
        }
        std::os::unix::fs::symlink("1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/s", at("s")).unwrap();
        let mut watched = SecretFile::new(at("s"), secret("old"));
        assert_eq!(watched.reread(), SecretChange::None);
        std::os::unix::fs::symlink("2", at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!((watched.reread(), watched.reread()), (SecretChange::None, SecretChange::Rotated(secret("new"))));
    }
}
