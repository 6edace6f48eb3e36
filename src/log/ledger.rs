//! The deliveries that a spool remembers although the bus keeps them. Survives `kill -9`. Losing an entry costs at most
//! a second copy, so that what does not decode is passed over.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::codec::{Corrupt, Cursor, put_number};
use super::files::{File, Files};
use crate::dedupe::DedupeEntry;

/// The ledger has this many files besides the one being written. The oldest is removed as a whole.
const PARTS: u64 = 4;

/// Time, two ids, checksum.
const ENTRY: usize = 8 + 32 + 8;

pub(super) struct Ledger {
    /// The numbers of the full files, oldest first.
    full: VecDeque<u64>,
    number: u64,
    file: Arc<dyn File>,
    len: u64,
    /// Bytes of a full file.
    part: u64,
}

fn name(number: u64) -> String {
    format!("{number}.kept")
}

fn number(name: &str) -> Option<u64> {
    name.strip_suffix(".kept")?.parse().ok()
}

impl Ledger {
    /// Remembers `most` deliveries, and at most half as many more. Passes on those remembered before, oldest first.
    pub(super) fn open(files: &dyn Files, most: usize, mut each: impl FnMut(DedupeEntry)) -> io::Result<Self> {
        let mut numbers: Vec<u64> = files.names()?.iter().filter_map(|name| number(name)).collect();
        numbers.sort_unstable();
        for number in &numbers {
            let file = files.open(&name(*number))?;
            let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(0)];
            file.read(&mut bytes, 0)?;
            bytes.as_chunks().0.iter().filter_map(|entry| decode(entry).ok()).for_each(&mut each);
        }
        let last = numbers.pop();
        let file = match last {
            Some(number) => files.open(&name(number))?,
            None => files.create(&name(0))?,
        };
        let len = file.len()? / ENTRY as u64 * ENTRY as u64;
        let part = (most as u64).div_ceil(PARTS).max(1) * ENTRY as u64;
        Ok(Self { full: numbers.into(), number: last.unwrap_or(0), file, len, part })
    }

    pub(super) fn remember(&mut self, files: &dyn Files, known: &[DedupeEntry]) -> io::Result<()> {
        if self.len >= self.part {
            self.file = files.create(&name(self.number + 1))?;
            self.full.push_back(self.number);
            (self.number, self.len) = (self.number + 1, 0);
            while self.full.len() as u64 > PARTS {
                let _ = self.full.pop_front().map(|oldest| files.remove(&name(oldest)));
            }
        }
        let mut bytes = Vec::with_capacity(known.len() * ENTRY);
        known.iter().for_each(|known| encode(known, &mut bytes));
        self.file.write(&bytes, self.len)?;
        self.len += bytes.len() as u64;
        Ok(())
    }
}

fn encode(known: &DedupeEntry, to: &mut Vec<u8>) {
    let start = to.len();
    put_number(to, known.kept.as_millisecond().cast_unsigned());
    known.keys.iter().for_each(|id| to.extend_from_slice(id));
    let checksum = xxh3_64(&to[start..]);
    put_number(to, checksum);
}

fn decode(bytes: &[u8; ENTRY]) -> Result<DedupeEntry, Corrupt> {
    let mut cursor = Cursor { rest: bytes, what: Corrupt("an entry of the ledger") };
    let (kept, keys) = (cursor.time()?, [cursor.array()?, cursor.array()?]);
    let is_intact = cursor.number()? == xxh3_64(&bytes[..ENTRY - 8]);
    if is_intact { Ok(DedupeEntry { kept, keys }) } else { Err(cursor.what) }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::files::Directory;
    use super::*;

    fn known(number: u8) -> DedupeEntry {
        DedupeEntry { kept: Timestamp::from_second(number.into()).unwrap(), keys: [[number; 16], [number + 100; 16]] }
    }

    fn opened(files: &Directory) -> (Ledger, Vec<DedupeEntry>) {
        let mut all = Vec::new();
        let ledger = Ledger::open(files, 8, |known| all.push(known)).unwrap();
        (ledger, all)
    }

    #[test]
    fn remembered_deliveries_come_back_in_order_without_the_oldest() {
        let dir = tempfile::tempdir().unwrap();
        let files = Directory::open(dir.path()).unwrap();
        let mut ledger = opened(&files).0;
        for number in 0..5 {
            ledger.remember(&files, &[known(number)]).unwrap();
        }
        let (mut ledger, all) = opened(&files);
        assert_eq!(all, (0..5).map(known).collect::<Vec<_>>());
        for number in 5..20 {
            ledger.remember(&files, &[known(number)]).unwrap();
        }
        let all = opened(&files).1;
        assert!((8..=12).contains(&all.len()), "{}", all.len());
        assert_eq!(all.last(), Some(&known(19)));
    }

    #[test]
    fn a_damaged_entry_is_forgotten_alone() {
        let dir = tempfile::tempdir().unwrap();
        let files = Directory::open(dir.path()).unwrap();
        opened(&files).0.remember(&files, &[known(0), known(1)]).unwrap();
        let path = dir.path().join(name(0));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[10] ^= 1;
        // Cut within a third one.
        bytes.extend_from_slice(&[7; 20]);
        std::fs::write(&path, bytes).unwrap();
        let (mut ledger, all) = opened(&files);
        assert_eq!(all, [known(1)]);
        ledger.remember(&files, &[known(2)]).unwrap();
        assert_eq!(opened(&files).1, [known(1), known(2)]);
    }
}
