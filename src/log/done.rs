//! Which records of a spool's segment are done: one number for each, appended to a file beside the segment. Survives
//! `kill -9`; after a power cut, or damage, a record may count as pending again. Then it is sent again, under the same
//! id.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use super::codec::{place, put_number};
use super::files::{File, Files};

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
