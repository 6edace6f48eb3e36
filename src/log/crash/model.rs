//! A directory in memory. It knows what a process sees, which is the page cache, and what is on the disk for certain.
//! A power cut leaves that and any part of the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::damage::Dice;
use super::super::files::{File, Files, Gone};

/// What a disk writes at once, and what the page cache does.
const GRANULES: [u64; 2] = [512, 4096];

/// Cloning shares it.
#[derive(Clone)]
pub(super) struct Machine(Arc<Mutex<State>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// `kill -9`: the page cache survives.
    Kill,
    PowerCut,
}

/// What goes wrong, by the number of the call, and the calls so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    /// The process ends in this call that changes something.
    pub(super) end: Option<u64>,
    /// The calls that fail of those that change something, and of those that read.
    pub(super) changes: BTreeSet<u64>,
    pub(super) reads: BTreeSet<u64>,
    pub(super) changed: u64,
    pub(super) read: u64,
    pub(super) failed: u64,
    pub(super) has_ended: bool,
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    /// The names on the disk for certain, and those given and taken since, in order.
    synced: BTreeMap<String, usize>,
    unsynced: Vec<(String, Option<usize>)>,
    can_allocate: bool,
    faults: Faults,
    dice: Dice,
}

#[derive(Default)]
struct Inode {
    cache: Content,
    /// What is on the disk for certain, and what was changed since, in order.
    synced: Content,
    unsynced: Vec<Change>,
}

/// Zeros follow the bytes, up to the length.
#[derive(Default, Clone)]
struct Content {
    bytes: Vec<u8>,
    len: u64,
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Len(u64),
}

impl Content {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write(at, bytes) => {
                let at = *at as usize;
                self.bytes.resize(self.bytes.len().max(at + bytes.len()), 0);
                self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
                self.len = self.len.max(self.bytes.len() as u64);
            }
            Change::Len(len) => {
                self.bytes.truncate(*len as usize);
                self.len = *len;
            }
        }
    }
}

impl Change {
    /// What reaches the disk at once.
    fn split(&self, granule: u64) -> Vec<Change> {
        let Self::Write(at, bytes) = self else { return vec![self.clone()] };
        let (mut at, mut rest, mut parts) = (*at, &bytes[..], Vec::new());
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.len().min((granule - at % granule) as usize));
            parts.push(Self::Write(at, part.to_vec()));
            (at, rest) = (at + part.len() as u64, after);
        }
        parts
    }
}

impl Inode {
    fn change(&mut self, change: Change) {
        self.cache.apply(&change);
        self.unsynced.push(change);
    }
}

/// What a power cut may leave of a file that would be `len` long.
fn torn(synced: &Content, unsynced: &[Change], len: u64, dice: &mut Dice) -> Content {
    let granule = GRANULES[dice.below(2) as usize];
    let parts: Vec<Change> = unsynced.iter().flat_map(|change| change.split(granule)).collect();
    let (how, cut) = (dice.below(5), dice.below(parts.len() as u64 + 1) as usize);
    let mut content = synced.clone();
    for (index, part) in parts.iter().enumerate() {
        let reached = match how {
            0 => false,
            1 => true,
            2 => index < cut,
            3 => index != cut,
            _ => dice.below(2) == 0,
        };
        if reached {
            content.apply(part);
        }
    }
    // A file that grew may have its old length, or the new one without what was written there.
    match dice.below(4) {
        0 if content.len > synced.len => content.apply(&Change::Len(synced.len)),
        1 if content.len < len => content.apply(&Change::Len(len)),
        _ => {}
    }
    content
}

impl State {
    /// Counts a call that changes something. An error: it fails. It may have had an effect then.
    fn change(&mut self) -> io::Result<()> {
        let faults = &mut self.faults;
        faults.changed += 1;
        faults.has_ended |= faults.end == Some(faults.changed);
        let fails = faults.changes.contains(&faults.changed);
        faults.result(fails)
    }

    fn read(&mut self) -> io::Result<()> {
        self.faults.read += 1;
        let fails = self.faults.reads.contains(&self.faults.read);
        self.faults.result(fails)
    }

    /// The process that has ended changes nothing after the call in which it did.
    fn is_over(&self) -> bool {
        self.faults.has_ended && self.faults.end != Some(self.faults.changed)
    }

    /// Whether a call has its effect: one that fails may have it too.
    fn has_effect(&mut self, called: &io::Result<()>) -> bool {
        called.is_ok() || !self.is_over() && self.dice.below(2) == 0
    }

    /// The names that a power cut may leave: of each, any number of its changes, in order.
    fn torn_names(&mut self) -> BTreeMap<String, usize> {
        let (how, mut stopped, mut names) = (self.dice.below(3), BTreeSet::new(), self.synced.clone());
        for (name, inode) in &self.unsynced {
            let reached = how == 0 || how == 1 && self.dice.below(2) == 0;
            if stopped.contains(name) || !reached {
                stopped.insert(name);
                continue;
            }
            set(&mut names, name, *inode);
        }
        names
    }

    fn name(&mut self, name: &str, inode: Option<usize>) {
        set(&mut self.names, name, inode);
        self.unsynced.push((name.to_owned(), inode));
    }
}

impl Faults {
    fn result(&mut self, fails: bool) -> io::Result<()> {
        if self.has_ended || fails {
            self.failed += 1;
            return Err(io::Error::other("a fault of the test"));
        }
        Ok(())
    }
}

fn set(names: &mut BTreeMap<String, usize>, name: &str, inode: Option<usize>) {
    match inode {
        Some(inode) => drop(names.insert(name.to_owned(), inode)),
        None => drop(names.remove(name)),
    }
}

impl Machine {
    pub(super) fn new(seed: u64, can_allocate: bool) -> Self {
        Self(Arc::new(Mutex::new(State { can_allocate, dice: Dice(seed), ..State::default() })))
    }

    /// What a machine has after that end, with a new process on it.
    pub(super) fn restart(&self, end: End) {
        let mut state = self.state();
        let state = &mut *state;
        state.faults = Faults::default();
        if end == End::Kill {
            return;
        }
        state.names = state.torn_names();
        state.synced = state.names.clone();
        state.unsynced.clear();
        for Inode { cache, synced, unsynced } in &mut state.inodes {
            *synced = torn(synced, unsynced, cache.len, &mut state.dice);
            *cache = synced.clone();
            unsynced.clear();
        }
    }

    /// Counts from those of `faults` on. Returns the ones before.
    pub(super) fn replace_faults(&self, faults: Faults) -> Faults {
        std::mem::replace(&mut self.state().faults, faults)
    }

    pub(super) fn failed(&self) -> u64 {
        self.state().faults.failed
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state().faults.has_ended
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, inode: usize) -> Arc<dyn File> {
        Arc::new(Handle { machine: self.clone(), inode })
    }
}

impl Files for Machine {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        let called = state.change();
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        if state.has_effect(&called) {
            state.inodes.push(Inode::default());
            state.name(name, Some(inode));
        }
        called.map(|()| self.file(inode))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        state.read()?;
        state.names.get(name).map(|inode| self.file(*inode)).ok_or(io::ErrorKind::NotFound.into())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.read()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        let called = state.change();
        if !state.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.has_effect(&called) {
            state.name(name, None);
        }
        called
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        match state.change() {
            Ok(()) => {
                state.synced = state.names.clone();
                state.unsynced.clear();
                Ok(())
            }
            // Nothing is certain of the names that were changed; they stay in memory, and the next one writes them.
            error => error,
        }
    }

    fn in_place(&self) -> Result<(), Gone> {
        Ok(())
    }
}

struct Handle {
    machine: Machine,
    inode: usize,
}

impl Handle {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.machine.state();
        let called = state.change();
        if state.has_effect(&called) {
            state.inodes[self.inode].change(change);
        }
        called
    }
}

impl File for Handle {
    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.machine.state();
        let called = state.change();
        // The disk becomes full, or the process ends, in the middle.
        let written = match &called {
            Ok(()) => bytes.len(),
            Err(_) if state.is_over() => 0,
            Err(_) => state.dice.below(bytes.len() as u64 + 1) as usize,
        };
        if written > 0 {
            state.inodes[self.inode].change(Change::Write(at, bytes[..written].to_vec()));
        }
        called
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut state = self.machine.state();
        state.read()?;
        let Content { bytes, len } = &state.inodes[self.inode].cache;
        let count = buffer.len().min(len.saturating_sub(at) as usize);
        let there = bytes.get(at as usize..).unwrap_or_default();
        let there = &there[..there.len().min(count)];
        buffer[..there.len()].copy_from_slice(there);
        buffer[there.len()..count].fill(0);
        Ok(count)
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.machine.state();
        state.read()?;
        Ok(state.inodes[self.inode].cache.len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Len(len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let state = self.machine.state();
        if !state.can_allocate {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let longer = len.max(state.inodes[self.inode].cache.len);
        drop(state);
        self.change(Change::Len(longer))
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.machine.state();
        let called = state.change();
        if state.faults.has_ended {
            return called;
        }
        let State { inodes, dice, .. } = &mut *state;
        let Inode { cache, synced, unsynced } = &mut inodes[self.inode];
        if called.is_ok() {
            unsynced.drain(..).for_each(|change| synced.apply(&change));
            return Ok(());
        }
        // The pages count as written from now on, and are not written again. The length is no page.
        *synced = torn(synced, unsynced, cache.len, dice);
        *unsynced = vec![Change::Len(cache.len)];
        called
    }

    fn in_place(&self) -> Result<(), Gone> {
        Ok(())
    }
}
