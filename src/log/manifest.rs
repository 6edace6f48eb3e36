//! Which segments make up the log. Written before a segment gets its first record, and before the file of a removed
//! one goes.
//!
//! The file has two slots, allocated when it is made and written in turn, so that one of them is always whole, and
//! none needs space on a full disk.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::codec::{Corrupt, Cursor, FORMAT, put_number};
use super::failure::Failure;
use super::files::{File, Files, Gone};

pub(super) const NAME: &str = "manifest";

const MAGIC: &[u8; 7] = b"terra-b";

const SLOT: usize = 32 << 10;
const SLOTS: u64 = 2;
/// Checksum, magic and format, sequence, number of ranges.
const FIXED: usize = 8 + 8 + 8 + 8;
/// The most runs of numbers that a slot holds.
const RANGES: usize = (SLOT - FIXED) / 16;

pub(super) struct Manifest {
    file: Arc<dyn File>,
    /// Grows with each write; tells the newer slot, and which one is written next.
    sequence: u64,
}

impl Manifest {
    /// Makes the file, with no segment in it yet. On disk with the next [`Files::sync`].
    pub(super) fn create(files: &dyn Files) -> io::Result<Self> {
        let file = files.create(NAME)?;
        file.write(&[0; SLOT * SLOTS as usize], 0)?;
        file.sync()?;
        Ok(Self { file, sequence: 0 })
    }

    /// The numbers of the segments, ascending; `None` if neither slot was ever written.
    pub(super) fn open(files: &dyn Files) -> Result<(Self, Option<Vec<u64>>), Failure> {
        let file = files.open(NAME)?;
        let mut newest = None;
        for slot in 0..SLOTS {
            let mut bytes = [0; SLOT];
            file.read(&mut bytes, slot * SLOT as u64)?;
            let Ok((sequence, format, segments)) = decode(&bytes) else { continue };
            if format != FORMAT {
                return Err(Failure::OtherFormat { found: format });
            }
            if newest.as_ref().is_none_or(|(newest, _)| *newest < sequence) {
                newest = Some((sequence, segments));
            }
        }
        // The newer slot is written again at first: it may not be on disk yet, and then only the older one is.
        let sequence = newest.as_ref().map_or(0, |(sequence, _)| sequence.saturating_sub(1));
        Ok((Self { file, sequence }, newest.map(|(_, segments)| segments)))
    }

    /// On disk when it returns. After an error the slot written before still counts, or else this one.
    pub(super) fn write(&mut self, segments: &[u64]) -> io::Result<()> {
        let bytes = encode(self.sequence + 1, segments).ok_or(io::ErrorKind::FileTooLarge)?;
        self.file.write(&bytes, (self.sequence + 1) % SLOTS * SLOT as u64)?;
        self.file.sync()?;
        self.sequence += 1;
        Ok(())
    }

    pub(super) fn in_place(&self) -> Result<(), Gone> {
        self.file.in_place()
    }
}

/// Whether a slot holds them, and as many gaps again: new segments may leave some, and must be named at all events.
pub(super) fn fits(segments: &[u64]) -> bool {
    ranges(segments).len() <= RANGES / 2
}

fn ranges(segments: &[u64]) -> Vec<RangeInclusive<u64>> {
    let runs = segments.chunk_by(|one, next| one + 1 == *next);
    runs.map(|run| run[0]..=run[run.len() - 1]).collect()
}

fn encode(sequence: u64, segments: &[u64]) -> Option<[u8; SLOT]> {
    let ranges = ranges(segments);
    let mut bytes = vec![0; 8];
    bytes.extend_from_slice(MAGIC);
    bytes.push(FORMAT);
    put_number(&mut bytes, sequence);
    put_number(&mut bytes, ranges.len() as u64);
    for range in ranges {
        put_number(&mut bytes, *range.start());
        put_number(&mut bytes, *range.end());
    }
    bytes.resize(SLOT.max(bytes.len()), 0);
    let checksum = xxh3_64(&bytes[8..]);
    bytes[..8].copy_from_slice(&checksum.to_le_bytes());
    bytes.try_into().ok()
}

/// Sequence, format, and the numbers of the segments.
fn decode(bytes: &[u8; SLOT]) -> Result<(u64, u8, Vec<u64>), Corrupt> {
    const WRONG: Corrupt = Corrupt("the manifest");
    let mut cursor = Cursor { rest: bytes, what: WRONG };
    let checksum = cursor.number()?;
    if checksum != xxh3_64(&bytes[8..]) || cursor.array()? != *MAGIC {
        return Err(WRONG);
    }
    let ([format], sequence, mut segments) = (cursor.array()?, cursor.number()?, Vec::new());
    if format != FORMAT {
        return Ok((sequence, format, segments));
    }
    for _ in 0..cursor.number()? {
        segments.extend(cursor.number()?..=cursor.number()?);
    }
    Ok((sequence, format, segments))
}

#[cfg(test)]
mod tests {
    use super::super::files::Directory;
    use super::*;

    fn segments(dir: &std::path::Path) -> Option<Vec<u64>> {
        Manifest::open(&Directory::open(dir).unwrap()).unwrap().1
    }

    #[test]
    fn the_newer_whole_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = Manifest::create(&Directory::open(dir.path()).unwrap()).unwrap();
        assert_eq!(segments(dir.path()), None);
        for last in 0..5 {
            let written: Vec<u64> = (last..=last + 1).chain([90]).collect();
            manifest.write(&written).unwrap();
            assert_eq!(segments(dir.path()), Some(written));
        }
        let path = dir.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(whole.len(), SLOT * 2, "it never grows");
        for bit in (0..SLOT * 8).step_by(3700) {
            let mut flipped = whole.clone();
            flipped[SLOT + bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, flipped).unwrap();
            assert_eq!(segments(dir.path()), Some(vec![3, 4, 90]), "{bit}");
        }
    }

    #[test]
    fn another_format_is_told_from_damage() {
        let dir = tempfile::tempdir().unwrap();
        Manifest::create(&Directory::open(dir.path()).unwrap()).unwrap();
        let mut bytes = encode(1, &[0]).unwrap();
        bytes[15] = FORMAT + 1;
        std::fs::write(dir.path().join(NAME), bytes).unwrap();
        assert_eq!(segments(dir.path()), None, "the checksum is that of another format");
        let checksum = xxh3_64(&bytes[8..]);
        bytes[..8].copy_from_slice(&checksum.to_le_bytes());
        std::fs::write(dir.path().join(NAME), bytes).unwrap();
        let opened = Manifest::open(&Directory::open(dir.path()).unwrap());
        assert!(matches!(opened, Err(Failure::OtherFormat { found }) if found == FORMAT + 1));
    }

    #[test]
    fn as_many_gaps_fit_as_a_slot_holds() {
        let gaps = |count: u64| (0..count).map(|n| 2 * n).collect::<Vec<_>>();
        assert!(fits(&gaps(RANGES as u64 / 2)) && !fits(&gaps(RANGES as u64 / 2 + 1)));
        assert!(encode(1, &gaps(RANGES as u64)).is_some() && encode(1, &gaps(RANGES as u64 + 1)).is_none());
        assert!(fits(&(0..100_000).collect::<Vec<_>>()));
    }
}
