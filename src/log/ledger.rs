//! What a spool remembers besides its records: deliveries that are stored elsewhere. Losing an entry costs at most a
//! second copy.

use std::collections::VecDeque;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use jiff::Timestamp;

use super::codec::Corrupt;
use super::entry::LedgerEntry;
use super::failure::Failure;

const KNOWN_PREFIX: &str = "known-";

/// The ledger is split into this many parts plus the one being written. The oldest part is removed as a whole.
const PARTS: usize = 4;

pub(super) struct Ledger {
    /// Oldest first, never empty; the last one is being written.
    known: VecDeque<Part>,
    /// Deliveries in a full part.
    part: usize,
}

struct Part {
    number: u64,
    keyspace: Keyspace,
    /// Counted only for the last part.
    len: usize,
}

/// Whether the database's keyspace of this name belongs to a ledger.
pub(super) fn owns(name: &str) -> bool {
    name.starts_with(KNOWN_PREFIX)
}

impl Ledger {
    /// Remembers `known` deliveries, and at most half as many more.
    pub(super) fn open(database: &Database, known: usize) -> Result<Self, Failure> {
        let mut ledger = Self { known: VecDeque::new(), part: known.div_ceil(PARTS).max(1) };
        let names = database.list_keyspace_names();
        let mut numbers: Vec<u64> =
            names.iter().filter_map(|name| name.strip_prefix(KNOWN_PREFIX)?.parse().ok()).collect();
        numbers.sort_unstable();
        for number in numbers {
            ledger.known.push_back(Part { number, keyspace: part(database, number)?, len: 0 });
        }
        match ledger.known.back_mut() {
            // Counting reads the whole part; only the last one's count is needed.
            Some(last) => last.len = last.keyspace.len()?,
            None => ledger.known.push_back(Part { number: 0, keyspace: part(database, 0)?, len: 0 }),
        }
        Ok(ledger)
    }

    /// The keyspace being written. Its memtables count in the check that a commit cannot get stuck.
    pub(super) fn written(&self) -> &Keyspace {
        &self.known.back().expect("never empty").keyspace
    }

    /// Survives `kill -9`.
    pub(super) fn remember(&mut self, database: &Database, known: &[LedgerEntry]) -> Result<(), Failure> {
        let last = self.known.back_mut().expect("never empty");
        let mut batch = database.batch().durability(Some(PersistMode::Buffer));
        for known in known {
            let mut key = [0; 24];
            key[..8].copy_from_slice(&known.kept.as_millisecond().to_be_bytes());
            key[8..].copy_from_slice(&known.keys[0]);
            batch.insert(&last.keyspace, key.as_slice(), known.keys[1].as_slice());
        }
        batch.commit()?;
        last.len += known.len();
        if last.len < self.part {
            return Ok(());
        }
        let (full, number) = (last.keyspace.clone(), last.number + 1);
        self.known.push_back(Part { number, keyspace: part(database, number)?, len: 0 });
        full.rotate_memtable()?;
        while self.known.len() > PARTS + 1 {
            let oldest = self.known.pop_front().expect("there are several");
            database.delete_keyspace(oldest.keyspace)?;
        }
        Ok(())
    }

    /// All remembered deliveries, oldest first.
    pub(super) fn known(&self, mut each: impl FnMut(LedgerEntry)) -> Result<(), Failure> {
        const WRONG: Corrupt = Corrupt("what is known to be kept");
        for part in &self.known {
            for pair in part.keyspace.iter() {
                let (key, value) = pair.into_inner()?;
                let (kept, id) = key.split_first_chunk().ok_or(WRONG)?;
                let kept = Timestamp::from_millisecond(i64::from_be_bytes(*kept)).map_err(|_| WRONG)?;
                let keys = [id.try_into().map_err(|_| WRONG)?, value[..].try_into().map_err(|_| WRONG)?];
                each(LedgerEntry { kept, keys });
            }
        }
        Ok(())
    }
}

fn part(database: &Database, number: u64) -> Result<Keyspace, Failure> {
    Ok(database.keyspace(&format!("{KNOWN_PREFIX}{number:020}"), KeyspaceCreateOptions::default)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(dir: &std::path::Path, known: usize) -> (Database, Ledger) {
        let database = Database::builder(dir).open().unwrap();
        let ledger = Ledger::open(&database, known).unwrap();
        (database, ledger)
    }

    fn known(number: u8) -> LedgerEntry {
        LedgerEntry { kept: Timestamp::from_second(number.into()).unwrap(), keys: [[number; 16], [number + 100; 16]] }
    }

    fn all_known(ledger: &Ledger) -> Vec<LedgerEntry> {
        let mut all = Vec::new();
        ledger.known(|known| all.push(known)).unwrap();
        all
    }

    #[test]
    fn remembered_deliveries_come_back_in_order_without_the_oldest() {
        let dir = tempfile::tempdir().unwrap();
        let (database, mut ledger) = opened(dir.path(), 8);
        for number in 0..5 {
            ledger.remember(&database, &[known(number)]).unwrap();
        }
        drop((database, ledger));
        let (database, mut ledger) = opened(dir.path(), 8);
        assert_eq!(all_known(&ledger), (0..5).map(known).collect::<Vec<_>>());
        for number in 5..20 {
            ledger.remember(&database, &[known(number)]).unwrap();
        }
        let kept = all_known(&ledger);
        assert!((8..=12).contains(&kept.len()), "{}", kept.len());
        assert_eq!(kept.last(), Some(&known(19)));
    }
}
