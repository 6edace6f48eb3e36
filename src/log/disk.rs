//! The directory and the disk under it: creates it with mode 0700, measures it, and explains why it cannot be used.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use super::entry::OpenError;

/// The file that the process with the log holds locked.
pub(crate) const LOCK_FILE: &str = "lock";

/// Creates the directory if it is missing, readable by its owner only.
pub(crate) fn prepare(section: &str, dir: &Path) -> Result<(), OpenError> {
    if dir.is_dir() {
        if let Some((says, remedy)) = open_to_others(dir) {
            tracing::warn!(remedy, "{section}.dir: {says}");
        }
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| unusable(section, dir, &error))
}

/// Makes the names that lead to a new log survive a power cut, whoever made its directory. What this user may not read,
/// or nobody may write, was not made for it.
pub(super) fn sync_path(dir: &Path) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem};
    let above = dir.ancestors().skip(1).map(|above| if above.as_os_str().is_empty() { Path::new(".") } else { above });
    above.map(|above| File::open(above)?.sync_all()).try_for_each(|synced| match synced {
        Err(error) if [InvalidInput, PermissionDenied, ReadOnlyFilesystem].contains(&error.kind()) => Ok(()),
        synced => synced,
    })
}

/// The warning for a directory that users other than its owner can access, and the remedy.
pub(crate) fn open_to_others(dir: &Path) -> Option<(String, String)> {
    const OTHERS: u32 = 0o077;
    let (mode, dir) = (dir.metadata().ok()?.permissions().mode() & 0o777, dir.display());
    let says = format!("{dir} is open to other users of this machine (mode {mode:o}), and health data lies in it");
    (mode & OTHERS != 0).then(|| (says, format!("chmod 700 {dir}")))
}

/// Bytes that this process may still write.
pub(crate) fn free(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether a process has the log open. `Ok(false)` also if there is no log yet.
pub(crate) fn locked(dir: &Path) -> io::Result<bool> {
    Ok(dir.join(LOCK_FILE).try_exists()? && lock(dir)?.is_none())
}

/// The log's lock, held until it is dropped; `None` if a process has it.
pub(super) fn lock(dir: &Path) -> io::Result<Option<File>> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(dir.join(LOCK_FILE))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Disk bytes used by all files below this directory, as far as they can be read.
pub(crate) fn used(dir: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    const BLOCK: u64 = 512;
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes += used(&entry.path())?,
            Ok(metadata) => bytes += metadata.blocks() * BLOCK,
            // A running log removes files while this looks at them.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

/// Why the directory that `<section>.dir` names cannot be used, with the remedy.
pub(crate) fn unusable(section: &str, dir: &Path, error: &io::Error) -> OpenError {
    let dir = dir.display();
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "make it writable for the user that terra-bridge runs as, or choose a directory that is"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space there, or choose another disk",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "choose a directory",
        _ => "choose a directory on a disk that works",
    };
    OpenError(format!("{section}.dir {dir} cannot be used: {error}; {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_directory_is_created_for_its_owner_only() {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("a/b");
        prepare("embedded", &dir).unwrap();
        assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(open_to_others(&dir), None);
        assert!(free(&dir).unwrap() > 0);
        assert!(!locked(&dir).unwrap());
    }

    #[test]
    fn a_file_in_place_of_the_directory_is_named_with_the_remedy() {
        let above = tempfile::tempdir().unwrap();
        let file = above.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = prepare("embedded", &file.join("dir")).unwrap_err();
        assert!(error.0.contains("embedded.dir") && error.0.contains("choose a directory"), "{error}");
    }
}
