//! The files of a log's directory: what a log asks of the file system, and the real one. A test puts a model in its
//! place.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};

/// A path leads to a different file than the one that was opened, or to none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not what was opened: it was moved or removed while the bridge runs", .0.display())]
pub(crate) struct Gone(pub(super) PathBuf);

/// One directory. Only [`Files::sync`] makes a created or removed name survive a power cut.
pub(super) trait Files: Send + Sync {
    /// A new, empty file. An error if the name is taken.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    fn names(&self) -> io::Result<Vec<String>>;
    fn remove(&self, name: &str) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;
    /// Whether the directory is still at its path.
    fn in_place(&self) -> Result<(), Gone>;
}

/// One file. Only [`File::sync`] makes what was written, and its length, survive a power cut.
pub(super) trait File: Send + Sync {
    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Reads as much as there is: less than the buffer takes only at the end of the file.
    fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
    fn len(&self) -> io::Result<u64>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves space for so many bytes, which read as zeros. An error where the file system cannot.
    fn allocate(&self, len: u64) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;
    /// Whether the file is still at its path. An open file goes along with a directory that somebody moves or
    /// removes: writes and fsyncs still succeed, but the next start finds none of it.
    fn in_place(&self) -> Result<(), Gone>;
}

/// Everything goes through the directory that was opened, so that nothing happens to another one at its path.
pub(super) struct Directory {
    held: Held,
    access: OFlags,
}

impl Directory {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { held: Held::new(fs::File::open(path)?, path.to_owned())?, access: OFlags::RDWR })
    }

    /// For whoever may only read the files, such as those of a backup.
    pub(super) fn read_only(path: &Path) -> io::Result<Self> {
        Ok(Self { access: OFlags::RDONLY, ..Self::open(path)? })
    }

    fn open_at(&self, name: &str, flags: OFlags) -> io::Result<Arc<dyn File>> {
        let flags = flags | self.access | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.held.file, name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(Arc::new(Held::new(file.into(), self.held.path.join(name))?))
    }
}

impl Files for Directory {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.open_at(name, OFlags::CREATE | OFlags::EXCL)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.open_at(name, OFlags::empty())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = rustix::fs::Dir::read_from(&self.held.file)?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.held.file, name, AtFlags::empty())?)
    }

    fn sync(&self) -> io::Result<()> {
        self.held.file.sync_all()
    }

    fn in_place(&self) -> Result<(), Gone> {
        self.held.in_place()
    }
}

/// An open file or directory, and the path that it was opened by. While it is open, the system gives its inode number
/// to no other.
struct Held {
    file: fs::File,
    path: PathBuf,
    id: (u64, u64),
}

impl Held {
    fn new(file: fs::File, path: PathBuf) -> io::Result<Self> {
        Ok(Self { id: id(&file.metadata()?), file, path })
    }
}

fn id(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl File for Held {
    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match self.file.read_at(&mut buffer[read..], at + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len)?)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn in_place(&self) -> Result<(), Gone> {
        // A path that cannot be looked at cannot be relied on either.
        match fs::metadata(&self.path) {
            Ok(found) if id(&found) == self.id => Ok(()),
            Ok(_) | Err(_) => Err(Gone(self.path.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What somebody does to the directory, and whether its file is still there.
    #[test]
    fn only_the_files_that_were_opened_are_in_place() {
        type Act = fn(&Path);
        let make = |dir: &Path| {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join("file"), "").unwrap();
        };
        let away = |dir: &Path| dir.with_extension("away");
        let acts: [(Act, bool); 6] = [
            (|_| {}, true),
            (|dir| fs::write(dir.join("file"), "written").unwrap(), true),
            (|dir| fs::remove_dir_all(dir).unwrap(), false),
            (|dir| fs::rename(dir, dir.with_extension("away")).unwrap(), false),
            (|dir| fs::rename(dir.join("file"), dir.join("file.old")).unwrap(), false),
            (
                |dir| {
                    fs::remove_file(dir.join("file")).unwrap();
                    fs::write(dir.join("file"), "").unwrap();
                },
                false,
            ),
        ];
        for (at, (act, stays)) in acts.into_iter().enumerate() {
            let above = tempfile::tempdir().unwrap();
            let dir = above.path().join("log");
            make(&dir);
            let file = Directory::open(&dir).unwrap().open("file").unwrap();
            act(&dir);
            assert_eq!(file.in_place().is_ok(), stays, "{at}");
        }
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("log");
        make(&dir);
        let (directory, file) = (Directory::open(&dir).unwrap(), Directory::open(&dir).unwrap().open("file").unwrap());
        fs::rename(&dir, away(&dir)).unwrap();
        make(&dir);
        assert!(directory.in_place().is_err() && file.in_place().is_err(), "another under its name");
        fs::remove_dir_all(&dir).unwrap();
        fs::rename(away(&dir), &dir).unwrap();
        assert!(directory.in_place().is_ok() && file.in_place().is_ok(), "put back");
    }
}
