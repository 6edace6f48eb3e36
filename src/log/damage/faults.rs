//! Damages one file of a directory: truncates it, flips or zeroes bytes, repeats a part, or removes it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::Dice;

/// What was done to which file.
#[derive(Debug)]
pub(super) struct Fault {
    file: PathBuf,
    how: How,
}

impl Fault {
    pub(super) fn is_of(&self, name: &str) -> bool {
        self.file == Path::new(name)
    }

    /// Whether these bytes of the file may be others now.
    pub(super) fn touches(&self, bytes: &Range<u64>) -> bool {
        let touches = |from: u64, until: u64| from < bytes.end && bytes.start < until;
        match &self.how {
            How::Flipped { at } => at.iter().any(|at| touches(*at, at + 1)),
            How::Zeroed { at, len } | How::Repeated { at, len, .. } | How::Appended { at, len } => {
                touches(*at, at + len)
            }
            How::Truncated { at } | How::Inserted { at, .. } => touches(*at, u64::MAX),
            How::Removed => true,
        }
    }
}

#[derive(Debug)]
#[expect(dead_code, reason = "printed where a test fails")]
enum How {
    Truncated { at: u64 },
    Flipped { at: Vec<u64> },
    Zeroed { at: u64, len: u64 },
    Repeated { from: u64, at: u64, len: u64 },
    Inserted { from: u64, at: u64, len: u64 },
    Appended { at: u64, len: u64 },
    Removed,
}

/// Copies a tree but skips the trailing zeros: a segment is made as long as it may become.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir_all(&target)?;
            copy(&entry.path(), &target)?;
            continue;
        }
        let (source, target) = (File::open(entry.path())?, File::create(target)?);
        let len = source.metadata()?.len();
        target.set_len(len)?;
        let bytes = held(&source, len)?;
        target.write_all_at(&bytes, 0)?;
    }
    Ok(())
}

/// The bytes up to the last non-zero one.
fn held(file: &File, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut at = 0;
    loop {
        let begin = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(begin))?.min(len);
        bytes.resize(usize::try_from(end).expect("it fits"), 0);
        file.read_exact_at(&mut bytes[usize::try_from(begin).expect("it fits")..], begin)?;
        at = end;
    }
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir).expect("ours").map(|entry| entry.expect("ours")).collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        match entry.file_type().expect("ours").is_dir() {
            true => files(&entry.path(), found),
            false => found.push(entry.path()),
        }
    }
}

/// Damages one file: in half of the cases a segment.
pub(super) fn strike(dir: &Path, dice: &mut Dice) -> Fault {
    let mut all = Vec::new();
    files(dir, &mut all);
    let segments: Vec<_> = all.iter().filter(|file| file.extension().is_some_and(|end| end == "log")).collect();
    let pick = |dice: &mut Dice, len: usize| usize::try_from(dice.below(len as u64)).expect("few");
    let path = match dice.below(2) {
        0 if !segments.is_empty() => segments[pick(dice, segments.len())].clone(),
        _ => all[pick(dice, all.len())].clone(),
    };
    let how = strike_file(&path, dice).expect("ours");
    Fault { file: path.strip_prefix(dir).expect("below").to_owned(), how }
}

fn strike_file(path: &Path, dice: &mut Dice) -> io::Result<How> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut bytes = held(&file, file.metadata()?.len())?;
    let size = bytes.len() as u64;
    // Often near the end, where an unfinished write would be.
    let at = if dice.below(3) == 0 { size - dice.below(300).min(size) } else { dice.below(size) };
    let longest = 1 << dice.below(13);
    let len = (1 + dice.below(longest)).min(size - at);
    let from = dice.below(size.saturating_sub(len).max(1));
    let range =
        |from: u64, len: u64| usize::try_from(from).expect("it fits")..usize::try_from(from + len).expect("it fits");
    Ok(match dice.below(14) {
        _ if size == 0 => {
            std::fs::remove_file(path)?;
            How::Removed
        }
        0..=2 => {
            file.set_len(at)?;
            How::Truncated { at }
        }
        4..=7 => {
            let places: Vec<_> = (0..1 + dice.below(4)).map(|_| (at + dice.below(64)).min(size - 1)).collect();
            for place in &places {
                let byte = bytes[range(*place, 1)][0] ^ (1 << dice.below(8));
                file.write_all_at(&[byte], *place)?;
            }
            How::Flipped { at: places }
        }
        3 | 8 | 9 => {
            file.write_all_at(&vec![0; range(0, len).end], at)?;
            How::Zeroed { at, len }
        }
        10 => {
            file.write_all_at(&bytes[range(from, len)], at)?;
            How::Repeated { from, at, len }
        }
        11 => {
            let block = bytes[range(from, len)].to_vec();
            let place = range(at, 0);
            bytes.splice(place, block);
            file.write_all_at(&bytes, 0)?;
            How::Inserted { from, at, len }
        }
        12 => {
            file.write_all_at(&bytes[range(from, len)], size)?;
            How::Appended { at: size, len }
        }
        _ => {
            std::fs::remove_file(path)?;
            How::Removed
        }
    })
}
