//! What a spool still has to send, and the space of what it has sent. Knows nothing of who sends it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use fjall::PersistMode;
use jiff::Timestamp;

use super::codec::{self, Head, Mark};
use super::database::Log;
use super::entry::LedgerEntry;
use super::failure::{Failure, ReadError, guarded};
use crate::record::Record;

/// Entries that are looked at for one [`Chunk`], at most: most of them may be of no use.
const LOOKED_AT: usize = 1 << 16;

/// What of a topic is pending and wanted, from some offset on.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) records: Vec<Record>,
    /// Offsets of what should be here and cannot be read.
    pub(crate) damaged: Vec<u64>,
    /// All before this offset that is pending and wanted is here.
    pub(crate) until: u64,
}

impl Log {
    /// Of a spool: what is pending and, by its offset and the digest of its key, wanted. No payload is read
    /// of anything else. A damaged record hides no other.
    pub(super) fn read_pending(
        &self,
        topic: &str,
        offsets: Range<u64>,
        records: usize,
        bytes: usize,
        mut wanted: impl FnMut(u64, u64) -> bool,
    ) -> Result<Chunk, ReadError> {
        guarded(|| {
            let (mut chunk, mut taken, mut looked) = (Chunk { until: offsets.start, ..Chunk::default() }, 0, 0);
            for (index, segment) in self.segments.iter().enumerate() {
                let behind = self.segments.get(index + 1).is_some_and(|next| next.begin(topic) <= chunk.until);
                if behind || chunk.until >= offsets.end {
                    continue;
                }
                for entry in segment.whether_pending(topic, chunk.until..offsets.end) {
                    let (offset, key) = entry?;
                    if looked == LOOKED_AT || chunk.records.len() == records {
                        return Ok(chunk);
                    }
                    looked += 1;
                    if key.is_some_and(|key| wanted(offset, key)) {
                        match segment.record(topic, offset) {
                            Ok((_, len)) if taken > 0 && taken + len > bytes => return Ok(chunk),
                            Ok((record, len)) => {
                                taken += len;
                                chunk.records.push(record);
                            }
                            Err(_) => chunk.damaged.push(offset),
                        }
                    }
                    chunk.until = offset + 1;
                }
            }
            chunk.until = offsets.end;
            Ok(chunk)
        })
    }

    /// How many of the oldest segments have nothing pending, where each topic has nothing pending before
    /// its mark in `cursors`.
    pub(super) fn drained(&self, cursors: &BTreeMap<Arc<str>, u64>) -> usize {
        let before = |(topic, mark): (&Arc<str>, &Mark)| cursors.get(topic).is_some_and(|cursor| mark.next <= *cursor);
        let begins = self.segments.iter().skip(1).map(|segment| &segment.head.marks);
        begins.take_while(|marks| marks.iter().all(before)).count()
    }

    /// These records are pending no more. Survives `kill -9`, and a power cut only with the next fsync: what
    /// is pending again then is sent again, under the same id.
    pub(super) fn done<'r>(&self, records: impl Iterator<Item = (&'r str, u64)>) -> Result<(), Failure> {
        if self.ledger.is_none() {
            return Ok(());
        }
        let mut batch = self.database.batch().durability(Some(PersistMode::Buffer));
        let mut counts = vec![0; self.segments.len()];
        for (topic, offset) in records {
            // What lies in none, or between two, is done.
            let Some(at) = self.segments.iter().rposition(|segment| segment.begin(topic) <= offset) else { continue };
            let (keyspace, key) = (&self.segments[at].keyspace, codec::pending_key(topic, offset));
            let Some(said) = keyspace.get(&key)? else { continue };
            if codec::decode_pending(&said)?.is_some() {
                batch.insert(keyspace, key, codec::DONE);
                counts[at] += 1;
            }
        }
        batch.commit()?;
        self.segments.iter().zip(counts).for_each(|(segment, count)| segment.pending.change(0, count));
        Ok(())
    }

    /// Of a spool: every pending record, each topic's by offset, with the digest of its key; an error where
    /// it is not known of all. Blocks on the disk.
    pub(super) fn pending(&self, mut each: impl FnMut(Arc<str>, u64, u64)) -> Result<(), Failure> {
        if self.ledger.is_none() {
            return Ok(());
        }
        guarded(|| {
            let last = self.ends();
            let mut segments = self.segments.iter().zip(self.segment_ends(&last));
            segments.try_for_each(|(segment, ends)| segment.pending(ends, &mut each))
        })
    }

    /// Keeps in mind what is kept elsewhere.
    pub(super) fn remember(&mut self, known: &[LedgerEntry]) -> Result<(), Failure> {
        let Some(ledger) = &mut self.ledger else { return Ok(()) };
        ledger.remember(&self.database, known)
    }

    /// Of a spool: all that is known to be kept elsewhere, the oldest first.
    pub(super) fn known(&self, each: impl FnMut(LedgerEntry)) -> Result<(), Failure> {
        guarded(|| self.ledger.as_ref().map_or(Ok(()), |ledger| ledger.known(each)))
    }

    /// Of a spool: whether a segment between others has nothing pending.
    pub(super) fn has_done(&self) -> bool {
        let closed = &self.segments[..self.segments.len() - 1];
        self.ledger.is_some() && closed.iter().skip(1).any(|segment| segment.pending.is_none())
    }

    /// Of a spool: removes each segment with nothing pending that lies between others, so that what is stuck in
    /// one costs no more than that one. Goes out: the bytes that it held.
    pub(super) fn remove_done(&mut self) -> Result<u64, Failure> {
        let (mut removed, mut at) = (0, 1);
        while self.ledger.is_some() && at + 1 < self.segments.len() {
            if !self.segments[at].pending.is_none() {
                at += 1;
                continue;
            }
            removed += self.facts()[at].bytes;
            if self.segments[at - 1].end.is_none() {
                self.end_before(at)?;
            }
            let gone = self.segments.remove(at);
            self.database.delete_keyspace(gone.keyspace)?;
        }
        if removed > 0 {
            self.last().keyspace.rotate_memtable()?;
        }
        Ok(removed)
    }

    /// Says on disk where the segment before this one ends: one that is missing without this is damage.
    fn end_before(&mut self, at: usize) -> Result<(), Failure> {
        let end = Head { created: Timestamp::now(), marks: self.segments[at].head.marks.clone() };
        let keyspace = &self.segments[at - 1].keyspace;
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(keyspace, codec::END, codec::encode_head(&end));
        batch.commit()?;
        keyspace.rotate_memtable()?;
        self.segments[at - 1].end = Some(end.marks);
        Ok(())
    }
}
