//! What a spool still has to send, and the space freed by what it has sent. Does not know the sender.

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

/// The most entries to scan for one [`Chunk`]: most of them may not be wanted.
const LOOKED_AT: usize = 1 << 16;

/// The pending and wanted records of a topic from some offset on.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) records: Vec<Record>,
    /// Offsets of records that should be here but cannot be read.
    pub(crate) damaged: Vec<u64>,
    /// The chunk has every pending and wanted record before this offset.
    pub(crate) until: u64,
}

impl Log {
    /// Spools only: the pending records that `wanted` accepts by offset and key digest. Reads no other payload. A
    /// damaged record hides no other.
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

    /// How many of the oldest segments have nothing pending, given that no topic has anything pending before its mark
    /// in `cursors`.
    pub(super) fn drained(&self, cursors: &BTreeMap<Arc<str>, u64>) -> usize {
        let before = |(topic, mark): (&Arc<str>, &Mark)| cursors.get(topic).is_some_and(|cursor| mark.next <= *cursor);
        let begins = self.segments.iter().skip(1).map(|segment| &segment.head.marks);
        begins.take_while(|marks| marks.iter().all(before)).count()
    }

    /// Marks these records as done. Survives `kill -9`, and a power cut only after the next fsync: a record that
    /// becomes pending again is sent again, under the same id.
    pub(super) fn done<'r>(&self, records: impl Iterator<Item = (&'r str, u64)>) -> Result<(), Failure> {
        if self.ledger.is_none() {
            return Ok(());
        }
        let mut batch = self.database.batch().durability(Some(PersistMode::Buffer));
        let mut counts = vec![0; self.segments.len()];
        for (topic, offset) in records {
            // A record in no segment, or between two, is already done.
            let Some(at) = self.segments.iter().rposition(|segment| segment.begin(topic) <= offset) else { continue };
            let (keyspace, key) = (&self.segments[at].keyspace, codec::pending_key(topic, offset));
            let Some(mark) = keyspace.get(&key)? else { continue };
            if codec::decode_pending(&mark)?.is_some() {
                batch.insert(keyspace, key, codec::DONE);
                counts[at] += 1;
            }
        }
        batch.commit()?;
        self.segments.iter().zip(counts).for_each(|(segment, count)| segment.pending.change(0, count));
        Ok(())
    }

    /// Spools only: every pending record with the digest of its key, each topic by offset. An error if any record has
    /// no pending mark. Blocks on the disk.
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

    /// Remembers deliveries that are stored elsewhere.
    pub(super) fn remember(&mut self, known: &[LedgerEntry]) -> Result<(), Failure> {
        let Some(ledger) = &mut self.ledger else { return Ok(()) };
        ledger.remember(&self.database, known)
    }

    /// Spools only: all deliveries known to be stored elsewhere, oldest first.
    pub(super) fn known(&self, each: impl FnMut(LedgerEntry)) -> Result<(), Failure> {
        guarded(|| self.ledger.as_ref().map_or(Ok(()), |ledger| ledger.known(each)))
    }

    /// Spools only: whether a segment between two others has nothing pending.
    pub(super) fn has_done(&self) -> bool {
        let closed = &self.segments[..self.segments.len() - 1];
        self.ledger.is_some() && closed.iter().skip(1).any(|segment| segment.pending.is_none())
    }

    /// Spools only: removes each segment between two others that has nothing pending, so that a stuck record keeps no
    /// more than its own segment. Returns the bytes freed.
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

    /// Records on disk where the previous segment ends: a missing segment without this record counts as damage.
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
