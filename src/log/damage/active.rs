//! The commits of the segment that is not sealed, and which of them a damage may have cost.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::super::files::{Directory, Files};
use super::super::frame::Frames;
use super::super::manifest::Manifest;
use super::super::segment;
use super::faults::Fault;

pub(super) struct Active {
    name: String,
    /// Its head, and then every commit.
    commits: Vec<Range<u64>>,
    /// Topic and offset of its records, and where they lie.
    records: Vec<(String, u64, u64)>,
}

impl Active {
    /// Of an intact log.
    pub(super) fn read(dir: &Path) -> Self {
        let files = Directory::open(dir).expect("ours");
        let numbers = Manifest::open(&files).expect("intact").1.expect("written");
        let number = *numbers.last().expect("there is one");
        let file = files.open(&segment::name(number)).expect("named");
        let scan = segment::scan(&*file, number, None).expect("intact");
        let (mut frames, mut commits) = (Frames::new(&*file, scan.summary.end, 1 << 20), Vec::<Range<u64>>::new());
        let mut at = 0;
        while let Some((header, _)) = frames.at(at).expect("intact") {
            let end = at + header.bytes();
            match commits.get_mut(header.commit as usize) {
                Some(commit) => commit.end = end,
                None => commits.push(at..end),
            }
            at = end;
        }
        let mut records = Vec::new();
        for (topic, entries) in &scan.records {
            let first = scan.head.begins.get(topic).map_or(0, |mark| mark.next);
            records.extend((first..).zip(entries).map(|(offset, entry)| (topic.to_string(), offset, entry.at)));
        }
        Self { name: segment::name(number), commits, records }
    }

    /// For each topic, from where on records may be gone: those of the last commits, if no intact one follows. Damage
    /// cannot be told there from a commit that a crash cut short.
    pub(super) fn losable(&self, faults: &[Fault]) -> BTreeMap<String, u64> {
        let faults: Vec<_> = faults.iter().filter(|fault| fault.is_of(&self.name)).collect();
        let is_intact = |commit: &Range<u64>| !faults.iter().any(|fault| fault.touches(commit));
        let end = self.commits.iter().rfind(|commit| is_intact(commit)).map_or(0, |commit| commit.end);
        let mut from = BTreeMap::new();
        for (topic, offset, _) in self.records.iter().filter(|(_, _, at)| *at >= end) {
            let first = from.entry(topic.clone()).or_insert(*offset);
            *first = (*first).min(*offset);
        }
        from
    }
}
