//! Reads records by topic and offset, while another thread writes and removes.

use std::sync::Arc;

use jiff::Timestamp;

use super::codec::IndexEntry;
use super::entry::OpenError;
use super::failure::{Failure, ReadError};
use super::index;
use super::ledger::Ledger;
use super::segment::Segment;
use super::settings::Keep;
use super::store::{Store, read};
use crate::dedupe::DedupeEntry;
use crate::record::Record;

impl Store {
    /// Records from offset `from` on, without a gap: as many as there are before `until`, at most `records` records
    /// and `bytes` bytes, though always at least one. Empty if there are none yet. Blocks on the disk.
    pub(crate) fn read(
        &self,
        topic: &str,
        from: u64,
        until: u64,
        records: usize,
        bytes: usize,
    ) -> Result<Vec<Record>, ReadError> {
        if self.segments().is_empty() {
            return Err(ReadError::Closed);
        }
        let extent = *read(&self.topics).get(topic).ok_or(ReadError::UnknownTopic)?.borrow();
        if from < extent.earliest {
            return Err(ReadError::Gone(extent));
        }
        let (mut chunk, mut taken, until) = (Vec::new(), 0, until.min(extent.next));
        for segment in self.segments_with(topic, from) {
            let next = from + chunk.len() as u64;
            let wanted = usize::try_from(until.saturating_sub(next)).unwrap_or(usize::MAX).min(records - chunk.len());
            if wanted == 0 {
                break;
            }
            if segment.begin_of(topic).next > next {
                return Err(ReadError::Failed(format!("offset {next} of {topic} is missing")));
            }
            let mut entries = segment.entries(topic, next, wanted)?;
            let fits = entries.iter().take_while(|entry| {
                let fits = taken == 0 || taken + entry.len as usize <= bytes;
                taken += entry.len as usize;
                fits
            });
            let fits = fits.count();
            let is_full = fits < entries.len();
            entries.truncate(fits);
            let mut reader = segment.reader(&entries);
            for (offset, entry) in (next..).zip(&entries) {
                chunk.push(reader.record(topic, offset, entry)?);
            }
            if is_full {
                break;
            }
        }
        Ok(chunk)
    }

    /// When the record was written; `None` if there is none. Blocks on the disk.
    pub(crate) fn time(&self, topic: &str, offset: u64) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.entry(topic, offset)?.time).ok()
    }

    /// Bytes that the record takes; 0 if there is none. Blocks on the disk.
    pub(crate) fn size(&self, topic: &str, offset: u64) -> usize {
        self.entry(topic, offset).map_or(0, |entry| entry.len as usize)
    }

    fn entry(&self, topic: &str, offset: u64) -> Option<IndexEntry> {
        let segment = self.segments_with(topic, offset).into_iter().next()?;
        let is_here = segment.begin_of(topic).next <= offset;
        is_here.then(|| segment.entries(topic, offset, 1).ok()?.first().copied()).flatten()
    }

    /// The segments with records of the topic from that offset on.
    pub(super) fn segments_with(&self, topic: &str, offset: u64) -> Vec<Arc<Segment>> {
        let segments = self.segments();
        let wanted = segments.iter().filter(|segment| {
            let end = segment.end_of(topic).next;
            end > offset && end > segment.begin_of(topic).next
        });
        wanted.cloned().collect()
    }

    /// The newest stored deliveries, about `most` and roughly the oldest first; of a spool also those stored elsewhere.
    /// Blocks on the disk.
    pub(crate) fn kept(&self, most: usize, mut each: impl FnMut(DedupeEntry)) -> Result<(), OpenError> {
        if let Keep::UntilDone { known, .. } = self.settings.keep {
            let elsewhere = Ledger::open(&*self.files, known, &mut each);
            elsewhere.map_err(|error| Failure::from(error).explain(&self.settings))?;
        }
        let segments = self.segments().clone();
        let records =
            |segment: &Segment| index::counts(&segment.head.begins, &segment.ends()).map(|c| c.2).sum::<u64>();
        let mut left = most as u64;
        let newest = segments.iter().rev().take_while(|segment| {
            let wanted = left > 0;
            left = left.saturating_sub(records(segment));
            wanted
        });
        let skipped = segments.len() - newest.count();
        let all = segments[skipped..].iter().try_for_each(|segment| {
            let mut kept = Vec::new();
            segment.every_entry(|_, _, entry| kept.push((entry.time, entry.ids)))?;
            kept.sort_unstable_by_key(|(time, _)| *time);
            for (time, keys) in kept {
                let kept = Timestamp::from_millisecond(time).unwrap_or(Timestamp::UNIX_EPOCH);
                each(DedupeEntry { kept, keys });
            }
            Ok(())
        });
        all.map_err(|failure: Failure| failure.explain(&self.settings))
    }
}
