//! Checks that the files of a log are still at their paths. Does not know their contents.
//!
//! If somebody removes or moves the directory, open files go with it: writes and fsyncs still succeed, but the next
//! start finds none of it. The files stay open here because the system reuses the inode number of a file that nobody
//! has open.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A path leads to a different file than the one that was opened, or to none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not what was opened: it was moved or removed while the bridge runs", .0.display())]
pub(crate) struct Gone(pub(super) PathBuf);

pub(super) struct Directory(Vec<Held>);

impl Directory {
    /// Watches the log that is open in `dir`; `within` are the files and directories that must stay.
    pub(super) fn hold(dir: &Path, within: &[&str]) -> io::Result<Self> {
        let below = within.iter().map(|name| dir.join(name));
        std::iter::once(dir.to_owned()).chain(below).map(Held::open).collect::<io::Result<_>>().map(Self)
    }

    /// Takes a few microseconds: one `stat` for each path.
    pub(super) fn check(&self) -> Result<(), Gone> {
        self.0.iter().try_for_each(Held::check)
    }
}

/// One file or directory, with the path it was opened by.
pub(super) struct Held {
    path: PathBuf,
    id: (u64, u64),
    _open: File,
}

impl Held {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let file = File::open(&path)?;
        Ok(Self { id: id(&file.metadata()?), path, _open: file })
    }

    pub(super) fn check(&self) -> Result<(), Gone> {
        // A path that cannot be checked cannot be relied on either.
        match std::fs::metadata(&self.path) {
            Ok(found) if id(&found) == self.id => Ok(()),
            Ok(_) | Err(_) => Err(Gone(self.path.clone())),
        }
    }
}

fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What somebody does to the directory, and whether the log is still there.
    #[test]
    fn only_the_files_that_were_opened_pass_the_check() {
        type Act = fn(&Path);
        let acts: [(Act, bool); 8] = [
            (|_| {}, true),
            (|dir| std::fs::write(dir.join("lock"), "written").unwrap(), true),
            (|dir| std::fs::remove_dir_all(dir).unwrap(), false),
            (
                |dir| {
                    std::fs::remove_dir_all(dir).unwrap();
                    made(dir);
                },
                false,
            ),
            (|dir| std::fs::rename(dir, dir.with_extension("away")).unwrap(), false),
            (
                |dir| {
                    std::fs::rename(dir, dir.with_extension("away")).unwrap();
                    made(dir);
                },
                false,
            ),
            (
                |dir| {
                    std::fs::rename(dir, dir.with_extension("away")).unwrap();
                    std::fs::rename(dir.with_extension("away"), dir).unwrap();
                },
                true,
            ),
            (|dir| std::fs::rename(dir.join("lock"), dir.join("lock.old")).unwrap(), false),
        ];
        for (at, (act, stays)) in acts.into_iter().enumerate() {
            let above = tempfile::tempdir().unwrap();
            let dir = above.path().join("log");
            made(&dir);
            let directory = Directory::hold(&dir, &["lock"]).unwrap();
            act(&dir);
            assert_eq!(directory.check().is_ok(), stays, "{at}");
        }
    }

    fn made(dir: &Path) {
        std::fs::create_dir(dir).unwrap();
        std::fs::write(dir.join("lock"), "").unwrap();
    }
}
