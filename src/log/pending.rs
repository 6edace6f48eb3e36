//! What a spool still has to send, and the space freed by what it has sent. Does not know the sender.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::done::{self, Done};
use super::entry::OpenError;
use super::failure::{Failure, ReadError};
use super::files::Files;
use super::reading::{ENTRIES, every_entry};
use super::segment::Segment;
use super::store::Store;
use crate::dedupe::DedupeEntry;
use crate::record::Record;

/// The most index entries to look at for one [`Chunk`]: most of them may not be wanted.
const LOOKED_AT: usize = 1 << 16;

/// The pending and wanted records of a topic from some offset on.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) records: Vec<Record>,
    /// Offsets of records that should be here but cannot be read.
    pub(crate) damaged: Vec<u64>,
    /// The chunk has every wanted record before this offset.
    pub(crate) until: u64,
}

/// What of a segment is pending.
#[derive(Default)]
pub(super) struct Pending {
    /// How many records.
    pub(super) left: u64,
    /// The file of those that are done, once one is.
    done: Option<done::Marks>,
}

impl Pending {
    pub(super) fn count(files: &dyn Files, segment: &Segment) -> Result<Self, Failure> {
        let (done, mut left) = (Done::load(files, segment.number()), 0);
        every_entry(segment, |topic, offset, _| left += u64::from(!done.contains(segment.id, topic, offset)))?;
        Ok(Self { left, done: None })
    }

    fn mark<'r>(
        &mut self,
        files: &dyn Files,
        segment: &Segment,
        records: impl Iterator<Item = (&'r str, u64)>,
    ) -> io::Result<()> {
        let marks = match &mut self.done {
            Some(marks) => marks,
            none => none.insert(done::Marks::open(files, segment.number())?),
        };
        marks.append(segment.id, records)
    }
}

impl Store {
    /// Spools only: marks these records as done. Survives `kill -9`. After an error they count as done until the next
    /// start, and then as pending.
    pub(super) fn done(&self, topic: &str, offsets: &[u64]) -> io::Result<()> {
        let mut writing = self.writing();
        let Some(writing) = writing.as_mut() else { return Ok(()) };
        let mut written = Ok(());
        for segment in self.segments().iter() {
            let here = segment.begin_of(topic).next..segment.end_of(topic).next;
            let offsets: Vec<u64> = offsets.iter().copied().filter(|offset| here.contains(offset)).collect();
            let Some(pending) = writing.pending.get_mut(&segment.number()) else { continue };
            if offsets.is_empty() {
                continue;
            }
            pending.left = pending.left.saturating_sub(offsets.len() as u64);
            let marked = pending.mark(&*self.files, segment, offsets.iter().map(|offset| (topic, *offset)));
            written = marked.and(written);
        }
        written
    }

    /// Spools only: remembers deliveries that are stored elsewhere. Survives `kill -9`.
    pub(super) fn remember(&self, known: &[DedupeEntry]) -> io::Result<()> {
        match self.writing().as_mut().and_then(|writing| writing.ledger.as_mut()) {
            Some(ledger) => ledger.remember(&*self.files, known),
            None => Ok(()),
        }
    }

    /// Spools only: removes every segment but the last that has nothing pending. Returns the bytes freed.
    pub(super) fn remove_done(&self) -> io::Result<u64> {
        let mut writing = self.writing();
        let Some(writing) = writing.as_mut() else { return Ok(0) };
        let mut kept = self.segments().clone();
        let Some(last) = kept.pop() else { return Ok(0) };
        let is_done =
            |segment: &Segment| writing.pending.get(&segment.number()).is_some_and(|pending| pending.left == 0);
        // The one after a removed segment says where the one before it ends, unless that is sealed.
        let mut is_bounded = true;
        kept.retain(|segment| {
            let goes = is_bounded && is_done(segment);
            is_bounded = segment.is_sealed() || goes && is_bounded;
            !goes
        });
        kept.push(last);
        self.remove_others(writing, kept)
    }

    /// Spools only: every pending record with the digest of its key, each topic by offset. Blocks on the disk.
    pub(crate) fn pending(&self, mut each: impl FnMut(&Arc<str>, u64, u64)) -> Result<(), OpenError> {
        let all = self.segments().iter().try_for_each(|segment| {
            let done = Done::load(&*self.files, segment.number());
            every_entry(segment, |topic, offset, entry| {
                if !done.contains(segment.id, topic, offset) {
                    each(topic, offset, entry.key);
                }
            })
        });
        all.map_err(|failure| failure.explain(&self.settings))
    }

    /// Spools only: the records at `offsets` that `wanted` accepts by offset and key digest; at most `records` records
    /// and `bytes` bytes, though always at least one. A damaged record hides no other. Blocks on the disk.
    pub(crate) fn read_pending(
        &self,
        topic: &str,
        offsets: Range<u64>,
        records: usize,
        bytes: usize,
        mut wanted: impl FnMut(u64, u64) -> bool,
    ) -> Result<Chunk, ReadError> {
        if self.segments().is_empty() {
            return Err(ReadError::Closed);
        }
        let (mut chunk, mut taken, mut looked) = (Chunk { until: offsets.start, ..Chunk::default() }, 0, 0);
        for segment in self.segments_with(topic, offsets.start) {
            chunk.until = chunk.until.max(segment.begin_of(topic).next);
            loop {
                let left = usize::try_from(offsets.end.saturating_sub(chunk.until)).unwrap_or(ENTRIES);
                let entries = segment.entries(topic, chunk.until, ENTRIES.min(left))?;
                if entries.is_empty() {
                    break;
                }
                let mut reader = segment.reader(&entries);
                for entry in &entries {
                    if looked == LOOKED_AT || chunk.records.len() == records {
                        return Ok(chunk);
                    }
                    looked += 1;
                    if wanted(chunk.until, entry.key) {
                        if taken > 0 && taken + entry.len as usize > bytes {
                            return Ok(chunk);
                        }
                        match reader.record(topic, chunk.until, entry) {
                            Ok(record) => chunk.records.push(record),
                            Err(_) => chunk.damaged.push(chunk.until),
                        }
                        taken += entry.len as usize;
                    }
                    chunk.until += 1;
                }
            }
        }
        chunk.until = offsets.end;
        Ok(chunk)
    }
}
