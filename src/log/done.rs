//! Which records of a spool's segment are done: one number for each, appended to a file beside the segment. Survives
//! `kill -9`; after a power cut, or damage, a record may count as pending again. Then it is sent again, under the same
//! id.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use super::codec::{place, put_number};
use super::failure::Failure;
use super::files::{File, Files};
use super::segment::Segment;

pub(super) fn name(number: u64) -> String {
    format!("{number}.done")
}

/// The records of one segment that are done.
pub(super) struct Done(HashSet<u64>);

impl Done {
    /// What cannot be read counts as pending.
    pub(super) fn load(files: &dyn Files, number: u64) -> Self {
        let read = || {
            let file = files.open(&name(number))?;
            let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(0)];
            file.read(&mut bytes, 0)?;
            io::Result::Ok(bytes.as_chunks().0.iter().map(|mark| u64::from_le_bytes(*mark)).collect())
        };
        Self(read().unwrap_or_default())
    }

    pub(super) fn contains(&self, segment: u64, topic: &str, offset: u64) -> bool {
        self.0.contains(&place(segment, topic, offset))
    }
}

/// Appends to the file of one segment.
pub(super) struct Marks {
    file: Arc<dyn File>,
    len: u64,
}

impl Marks {
    pub(super) fn open(files: &dyn Files, number: u64) -> io::Result<Self> {
        let file = match files.open(&name(number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => files.create(&name(number))?,
            opened => opened?,
        };
        // What was cut within a mark would shift those behind it.
        let len = file.len()? / 8 * 8;
        Ok(Self { file, len })
    }

    pub(super) fn append<'r>(&mut self, segment: u64, records: impl Iterator<Item = (&'r str, u64)>) -> io::Result<()> {
        let mut bytes = Vec::new();
        records.for_each(|(topic, offset)| put_number(&mut bytes, place(segment, topic, offset)));
        self.file.write(&bytes, self.len)?;
        self.len += bytes.len() as u64;
        Ok(())
    }
}

/// What of a segment is pending.
#[derive(Default)]
pub(super) struct Pending {
    /// How many records.
    pub(super) left: u64,
    /// The file of those that are done, once one is.
    done: Option<Marks>,
}

impl Pending {
    pub(super) fn count(files: &dyn Files, segment: &Segment) -> Result<Self, Failure> {
        let (done, mut left) = (Done::load(files, segment.number()), 0);
        segment.every_entry(|topic, offset, _| left += u64::from(!done.contains(segment.id, topic, offset)))?;
        Ok(Self { left, done: None })
    }

    pub(super) fn mark<'r>(
        &mut self,
        files: &dyn Files,
        segment: &Segment,
        records: impl Iterator<Item = (&'r str, u64)>,
    ) -> io::Result<()> {
        let marks = match &mut self.done {
            Some(marks) => marks,
            none => none.insert(Marks::open(files, segment.number())?),
        };
        marks.append(segment.id, records)
    }
}
