//! A file that a secret comes from, looked at again and again. Comes in: what is in it now. Goes out:
//! the secret once it has changed for good, or that it is gone. Tells nobody what was in the file.

use std::path::PathBuf;

use super::{Secret, secret};

/// One secret and its file.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    path: PathBuf,
    held: Secret,
    /// At the last look.
    seen: Option<Secret>,
    missed: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    Nothing,
    Changed(Secret),
    /// Empty, unreadable or not there, since the look before the last one. Said once.
    Gone,
}

impl Watched {
    pub(super) fn new(path: PathBuf, held: Secret) -> Self {
        Self { path, seen: Some(held.clone()), held, missed: false }
    }

    /// Reads the file. What two looks in a row find counts: a file may be looked at while somebody
    /// writes it.
    pub(super) fn look(&mut self) -> News {
        let before = std::mem::replace(&mut self.seen, secret::read(&self.path));
        if before != self.seen {
            return News::Nothing;
        }
        let missed = std::mem::replace(&mut self.missed, self.seen.is_none());
        match &self.seen {
            Some(seen) if *seen != self.held => {
                self.held = seen.clone();
                News::Changed(seen.clone())
            }
            None if !missed => News::Gone,
            Some(_) | None => News::Nothing,
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
    fn a_secret_counts_once_two_looks_in_a_row_find_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "old\n").unwrap();
        let mut watched = Watched::new(path.clone(), secret("old"));
        assert_eq!(watched.look(), News::Nothing);
        for half in ["n", "ne"] {
            std::fs::write(&path, half).unwrap();
            assert_eq!(watched.look(), News::Nothing, "half written");
        }
        std::fs::write(&path, "new").unwrap();
        assert_eq!((watched.look(), watched.look()), (News::Nothing, News::Changed(secret("new"))));
        assert_eq!(watched.look(), News::Nothing);
    }

    #[test]
    fn a_file_that_is_gone_is_said_once_and_its_return_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "old").unwrap();
        let mut watched = Watched::new(path.clone(), secret("old"));
        std::fs::write(&path, "").unwrap();
        assert_eq!((watched.look(), watched.look()), (News::Nothing, News::Gone));
        std::fs::remove_file(&path).unwrap();
        assert_eq!((watched.look(), watched.look()), (News::Nothing, News::Nothing));
        std::fs::write(&path, "old").unwrap();
        assert_eq!((watched.look(), watched.look()), (News::Nothing, News::Nothing), "the same again");
        std::fs::remove_file(&path).unwrap();
        assert_eq!((watched.look(), watched.look()), (News::Nothing, News::Gone), "said again");
        std::fs::write(&path, "new").unwrap();
        assert_eq!((watched.look(), watched.look()), (News::Nothing, News::Changed(secret("new"))));
    }

    #[test]
    fn a_symlink_that_is_swapped_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (version, text) in [("1", "old"), ("2", "new")] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("s"), text).unwrap();
        }
        std::os::unix::fs::symlink("1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/s", at("s")).unwrap();
        let mut watched = Watched::new(at("s"), secret("old"));
        assert_eq!(watched.look(), News::Nothing);
        std::os::unix::fs::symlink("2", at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!((watched.look(), watched.look()), (News::Nothing, News::Changed(secret("new"))));
    }
}
