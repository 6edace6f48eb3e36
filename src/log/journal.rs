//! Makes fjall continue with a new journal, so that it writes to none of the older ones, and checks that the current
//! journal still exists ([`Newest`]).
//!
//! After a failed write, the page cache may have bytes that the disk does not, and nothing tells which pages those
//! are. A power cut would leave a hole there, and fjall takes a hole for the end of the journal: everything
//! acknowledged after it would be lost, unless it is already in a table.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::directory::{Gone, Held};
use super::disk;

/// Adds an empty journal after the existing ones. Does nothing if there is no log, or a process has it open.
pub(super) fn seal(dir: &Path) -> io::Result<()> {
    let Some(_locked) = disk::lock(dir)? else { return Ok(()) };
    match newest(dir)? {
        Some(number) if path(dir, number).metadata()?.len() > 0 => {
            File::create_new(path(dir, number + 1))?.sync_all()?;
            File::open(dir)?.sync_all()
        }
        _ => Ok(()),
    }
}

/// The journal that fjall writes: the one with the highest number.
pub(super) struct Newest {
    dir: PathBuf,
    written: Mutex<(u64, Held)>,
}

impl Newest {
    /// Watches the journal of the log that is open in `dir`.
    pub(super) fn hold(dir: &Path) -> io::Result<Self> {
        let number = newest(dir)?.ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { dir: dir.to_owned(), written: Mutex::new((number, Held::open(path(dir, number))?)) })
    }

    /// Whether every commit lies in files that still exist, apart from those that fjall removed itself. Takes a few
    /// microseconds.
    pub(super) fn check(&self) -> Result<(), Gone> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        // fjall may switch to the next number at any time.
        while let Ok(next) = Held::open(path(&self.dir, written.0 + 1)) {
            *written = (written.0 + 1, next);
        }
        written.1.check().or_else(|gone| {
            // fjall removes a journal once all its records are in tables, but only if a newer one exists.
            let newest = newest(&self.dir).ok().flatten().filter(|newest| *newest > written.0);
            let (number, held) = newest.and_then(|n| Some((n, Held::open(path(&self.dir, n)).ok()?))).ok_or(gone)?;
            *written = (number, held);
            Ok(())
        })
    }
}

fn newest(dir: &Path) -> io::Result<Option<u64>> {
    let mut newest = None;
    for entry in std::fs::read_dir(dir)? {
        newest = newest.max(number(Path::new(&entry?.file_name())));
    }
    Ok(newest)
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number}.jnl"))
}

fn number(name: &Path) -> Option<u64> {
    let is_journal = name.extension().is_some_and(|end| end == "jnl");
    is_journal.then(|| name.file_stem()?.to_str()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::super::database::Log;
    use super::*;

    fn journals(dir: &Path) -> Vec<u64> {
        let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        let mut numbers: Vec<_> = names.filter_map(|name| number(Path::new(&name))).collect();
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn a_missing_current_journal_is_noticed_and_a_missing_older_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let made = |number: u64| std::fs::write(path(dir.path(), number), "x").unwrap();
        let gone = |number: u64| std::fs::remove_file(path(dir.path(), number)).unwrap();
        made(0);
        let newest = Newest::hold(dir.path()).unwrap();
        assert_eq!(newest.check(), Ok(()));
        made(1);
        assert_eq!(newest.check(), Ok(()));
        gone(0);
        assert_eq!(newest.check(), Ok(()));
        made(2);
        made(3);
        (1..3).for_each(gone);
        assert_eq!(newest.check(), Ok(()), "several were begun since the last look");
        gone(3);
        assert_eq!(newest.check(), Err(Gone(path(dir.path(), 3))));
        made(3);
        assert!(newest.check().is_err(), "another under its name");
    }

    #[test]
    fn records_written_after_sealing_do_not_depend_on_older_journals() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings::sample(dir.path());
        seal(dir.path()).unwrap();
        let open = Log::open(&settings).unwrap();
        open.append_samples(0..3);
        seal(dir.path()).unwrap();
        assert_eq!(journals(dir.path()), [0], "it is open");
        drop(open);
        for _ in 0..2 {
            seal(dir.path()).unwrap();
            assert_eq!(journals(dir.path()), [0, 1]);
        }
        let open = Log::open(&settings).unwrap();
        open.rewrite().unwrap();
        open.append_samples(3..5);
        drop(open);
        // As if none of it had reached the disk.
        if let Ok(before) = File::options().write(true).open(dir.path().join("0.jnl")) {
            before.set_len(0).unwrap();
        }
        let open = Log::open(&settings).unwrap();
        assert_eq!(open.read("a", 0..5, 9, usize::MAX).unwrap().len(), 5);
    }
}
