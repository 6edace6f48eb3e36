//! Which journal fjall goes on with. Comes in: a directory that nobody has open. Goes out: the same with a new
//! journal behind what the others hold, so that fjall writes to none of them any more.
//!
//! Where a write of the system's failed, the memory has what the disk has not, and nothing tells which pages
//! those are. A power cut would leave a hole there, and fjall takes a hole for the end of the journal: all that
//! was acknowledged since would go with it, as far as it is in no table yet.

use std::fs::File;
use std::io;
use std::path::Path;

use super::disk;

/// Ends what there is with an empty journal. Does nothing where there is no log, or where a process has it open.
pub(super) fn seal(dir: &Path) -> io::Result<()> {
    let Some(_locked) = disk::lock(dir)? else { return Ok(()) };
    let mut newest = None;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if let Some(number) = number(Path::new(&entry.file_name())) {
            newest = newest.max(Some((number, entry.metadata()?.len())));
        }
    }
    match newest {
        Some((number, len)) if len > 0 => {
            File::create_new(dir.join(format!("{}.jnl", number + 1)))?.sync_all()?;
            File::open(dir)?.sync_all()
        }
        _ => Ok(()),
    }
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
    fn what_is_written_after_sealing_needs_nothing_of_the_journals_before() {
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
        // As if none of it had ever reached the disk.
        if let Ok(before) = File::options().write(true).open(dir.path().join("0.jnl")) {
            before.set_len(0).unwrap();
        }
        let open = Log::open(&settings).unwrap();
        assert_eq!(open.read("a", 0..5, 9, usize::MAX).unwrap().len(), 5);
    }
}
