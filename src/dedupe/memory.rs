//! The bounded memory of kept deliveries: a ring, oldest first, and an index of each delivery's two keys. Never
//! grows.

use std::time::Duration;

use hashbrown::HashTable;
use jiff::Timestamp;

use crate::clock::Clock;

/// A part of a delivery's identity.
pub type Key = [u8; 16];

/// Which of the two keys the signature covers.
const SIGNED: usize = 1;

pub(super) struct Memory {
    window: Duration,
    clock: Clock,
    most: usize,
    /// Used as a ring once it has `most` entries.
    entries: Vec<Entry>,
    /// The position of the oldest entry, and the number of entries.
    oldest: usize,
    len: usize,
    /// Positions of keys: entry and which key. In parts by the first byte of a key, so that memory is taken as it is
    /// needed, and that no delivery waits while more than one part grows.
    index: [HashTable<Place>; PARTS],
    evicted: u64,
}

/// 36 bytes.
#[derive(Clone, Copy)]
struct Entry {
    /// Unix seconds.
    kept: u32,
    keys: [Key; 2],
}

/// As many as a byte has values.
const PARTS: usize = 256;

/// Twice the entry's position in the ring, plus 1 for its second key.
type Place = u32;

impl Memory {
    pub(super) fn new(window: Duration, most: usize, clock: Clock) -> Self {
        assert!(most > 0 && most <= Place::MAX as usize / 2, "the configuration bounds it");
        Self {
            window,
            clock,
            most,
            entries: Vec::with_capacity(most),
            oldest: 0,
            len: 0,
            index: [const { HashTable::new() }; PARTS],
            evicted: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many were evicted before the window ended.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Whether either key was kept within the window.
    pub(super) fn knows(&mut self, keys: &[Key; 2]) -> bool {
        self.forget_old();
        keys.iter().any(|key| self.has(key))
    }

    /// Remembers both keys. A known key keeps its original time.
    pub(super) fn remember(&mut self, keys: &[Key; 2], now: Timestamp) {
        if keys.iter().all(|key| self.has(key)) {
            return;
        }
        if self.len == self.most {
            self.forget_oldest();
            self.evicted += 1;
        }
        let at = (self.oldest + self.len) % self.most;
        let entry = Entry { kept: u32::try_from(now.as_second()).unwrap_or(0), keys: *keys };
        if at == self.entries.len() {
            self.entries.push(entry);
        } else {
            self.entries[at] = entry;
        }
        self.len += 1;
        for (half, new) in keys.iter().enumerate() {
            if !self.has(new) {
                let (entries, place) = (&self.entries, (2 * at + half) as Place);
                self.index[part(new)].insert_unique(hash(new), place, |place| hash(key(entries, *place)));
            }
        }
    }

    /// For a delivery known by one key, remembers the other: Terra may have signed it again. An id alone is not
    /// learnt, because an attacker who captured one delivery could make up any number of ids.
    pub(super) fn learn(&mut self, keys: &[Key; 2], now: Timestamp) {
        if !self.has(&keys[SIGNED]) {
            self.remember(keys, now);
        }
    }

    fn has(&self, wanted: &Key) -> bool {
        self.index[part(wanted)].find(hash(wanted), |place| key(&self.entries, *place) == wanted).is_some()
    }

    fn forget_old(&mut self) {
        self.clock.look();
        while self.len > 0 && self.is_too_old(&self.entries[self.oldest]) {
            self.forget_oldest();
        }
    }

    fn is_too_old(&self, entry: &Entry) -> bool {
        let kept = Timestamp::from_second(entry.kept.into()).expect("32 bits of seconds");
        self.clock.is_older(kept, self.window)
    }

    fn forget_oldest(&mut self) {
        let at = self.oldest;
        for (half, old) in self.entries[at].keys.iter().enumerate() {
            let place = (2 * at + half) as Place;
            // A key that an older entry already had in the index was not inserted again.
            if let Ok(found) = self.index[part(old)].find_entry(hash(old), |other| *other == place) {
                found.remove();
            }
        }
        self.oldest = (at + 1) % self.most;
        self.len -= 1;
    }
}

fn key(entries: &[Entry], place: Place) -> &Key {
    &entries[place as usize / 2].keys[place as usize % 2]
}

/// The part of the index for a key.
fn part(key: &Key) -> usize {
    key[0].into()
}

/// The keys are digests already, so the last bytes of one serve as the hash.
pub(super) fn hash(key: &Key) -> u64 {
    u64::from_le_bytes(*key.last_chunk().expect("8 is less than 16"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Set;

    const WINDOW: Duration = Duration::from_secs(100);

    /// A trusted clock at 0.
    fn clock() -> Set {
        let clock = Set::new(at(-3600));
        clock.run(Duration::from_secs(3600));
        clock
    }

    fn memory(most: usize, clock: &Set) -> Memory {
        Memory::new(WINDOW, most, clock.clock.clone())
    }

    fn indexed(memory: &Memory) -> usize {
        memory.index.iter().map(HashTable::len).sum()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pair(number: u32) -> [Key; 2] {
        let key = |half: u32| {
            let mut key = [0; 16];
            // As evenly spread as a digest.
            let spread = u64::from(number * 2 + half).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
            key[..4].copy_from_slice(&spread[..4]);
            key[4..8].copy_from_slice(&number.to_be_bytes());
            key[8..].copy_from_slice(&spread);
            key
        };
        [key(0), key(1)]
    }

    #[test]
    fn the_oldest_are_evicted_first_and_only_when_full() {
        let mut memory = memory(1000, &clock());
        for number in 0..3500 {
            assert!(!memory.knows(&pair(number)));
            memory.remember(&pair(number), at(1));
        }
        assert_eq!((memory.len(), memory.evicted()), (1000, 2500));
        for number in 0..3500 {
            assert_eq!(memory.knows(&pair(number)), number >= 2500, "{number}");
        }
        assert_eq!(indexed(&memory), 2000);
    }

    #[test]
    fn each_entry_is_forgotten_after_its_window() {
        let clock = clock();
        let mut memory = memory(10, &clock);
        let run = |seconds| clock.run(Duration::from_secs(seconds));
        memory.remember(&pair(1), clock.wall());
        run(50);
        memory.remember(&pair(2), clock.wall());
        run(50);
        assert!(memory.knows(&pair(1)));
        run(1);
        assert!(!memory.knows(&pair(1)));
        run(49);
        assert!(memory.knows(&pair(2)));
        run(1);
        assert!(!memory.knows(&pair(2)));
        assert_eq!((memory.len(), memory.evicted(), indexed(&memory)), (0, 0, 0));
    }

    #[test]
    fn a_clock_jump_forgets_nothing() {
        let clock = clock();
        let mut memory = memory(10, &clock);
        for (number, days) in [30, -60, 30].into_iter().enumerate() {
            memory.remember(&pair(number as u32), clock.wall());
            clock.jump(jiff::SignedDuration::from_hours(24 * days));
            clock.run(Duration::from_secs(20));
        }
        assert!((0..3).all(|number| memory.knows(&pair(number))));
        // A jump is measured to within ten seconds.
        clock.run(WINDOW + Duration::from_secs(10));
        assert!((0..3).all(|number| !memory.knows(&pair(number))));
    }

    #[test]
    fn a_key_shared_by_two_deliveries_outlives_neither() {
        let clock = clock();
        let mut memory = memory(10, &clock);
        let run = |seconds| clock.run(Duration::from_secs(seconds));
        let (one, two) = (pair(1), pair(2));
        memory.remember(&one, clock.wall());
        run(50);
        memory.remember(&[one[0], two[1]], clock.wall());
        run(50);
        assert!(memory.knows(&[two[0], two[1]]), "the second half of the second");
        run(1);
        assert!(!memory.knows(&one));
        run(49);
        assert!(memory.knows(&[two[0], two[1]]));
        run(1);
        assert!(!memory.knows(&[two[0], two[1]]));
        assert_eq!(indexed(&memory), 0);
    }

    /// An eighth of a million fills the parts of the index exactly as far as a million does.
    #[test]
    fn one_million_take_less_than_64_mb_and_none_take_nothing() {
        let mut memory = memory(125_000, &clock());
        let index = |memory: &Memory| memory.index.iter().map(HashTable::allocation_size).sum::<usize>();
        assert_eq!(index(&memory), 0);
        (0..125_000).for_each(|number| memory.remember(&pair(number), at(1)));
        let entries = memory.entries.capacity() * size_of::<Entry>();
        assert!(entries + index(&memory) <= 64_000_000 / 8, "{entries} {}", index(&memory));
    }
}
