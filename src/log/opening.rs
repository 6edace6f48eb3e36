//! Opens a log with everything that it acknowledged, or says what is wrong with it; never a shorter log.

use std::sync::Arc;

use super::codec::{FORMAT, Marks, Previous};
use super::failure::Failure;
use super::files::Files;
use super::frame::Frames;
use super::manifest::{self, Manifest};
use super::segment::{self, LastCommit, Segment};
use super::settings::Settings;

/// Says what the files are to whoever comes across them.
const README: &str = "README";
const ABOUT: &[u8] = b"\
The log of a terra-bridge: health data. N.log are its records, manifest says which of them count, N.idx is made again
from N.log where it is missing, N.done and N.kept say what a spool has sent. Copy or restore the directory as a whole,
while no bridge runs on it. `terra-bridge log verify DIR` reads and checks every record.
";

/// What an earlier format has in its directory: it was a database.
const DATABASE: [&str; 2] = ["watermark", "keyspaces"];

pub(super) struct Opened {
    pub(super) manifest: Manifest,
    /// Oldest first.
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) last: LastCommit,
    /// Nothing but zeros follows the last commit.
    pub(super) is_clean: bool,
}

pub(super) fn open(files: &dyn Files, settings: &Settings) -> Result<Opened, Failure> {
    let names = files.names()?;
    if !names.iter().any(|name| name == manifest::NAME) {
        if names.iter().any(|name| DATABASE.contains(&name.as_str())) {
            return Err(Failure::OtherFormat { found: earlier_format(settings) });
        }
        return create(files, &names);
    }
    let (mut manifest, numbers) = Manifest::open(files)?;
    let Some(numbers) = numbers else { return create(files, &names) };
    // What the last process wrote of it may not be on disk, and nothing is cut or removed before that is certain.
    files.sync()?;
    manifest.write(&numbers)?;
    remove_unnamed(files, &names, &numbers)?;
    let segments = adopt(files, &numbers)?;
    let Some(&active) = numbers.last() else { return Ok(empty(manifest)) };
    let file = segment::open_file(files, active)?;
    let scan = segment::scan(&*file, active, None)?;
    if let Some(before) = segments.last() {
        fits(before, &scan.head.previous, &scan.head.begins)?;
    }
    // The last process may have ended before the fsync of its last commit, or have seen it fail: then the pages read
    // here are not on the disk, and the system does not write them again by itself.
    let (last, is_clean) = (scan.last, scan.is_clean);
    let mut bytes = vec![0; usize::try_from(scan.summary.end - last.start).unwrap_or(0)];
    file.read(&mut bytes, last.start)?;
    file.write(&bytes, last.start)?;
    file.sync()?;
    let segments = segments.into_iter().chain([Arc::new(Segment::of_scan(file, scan))]).collect();
    Ok(Opened { manifest, segments, last, is_clean })
}

fn empty(manifest: Manifest) -> Opened {
    let last = LastCommit { number: 0, start: 0, checksum: 0 };
    Opened { manifest, segments: Vec::new(), last, is_clean: true }
}

/// There is no manifest yet, or none that was ever whole: then no commit was acknowledged either.
fn create(files: &dyn Files, names: &[String]) -> Result<Opened, Failure> {
    remove_unnamed(files, names, &[])?;
    for name in [manifest::NAME, README] {
        if names.iter().any(|found| found == name) {
            files.remove(name)?;
        }
    }
    files.create(README)?.write(ABOUT, 0)?;
    Ok(empty(Manifest::create(files)?))
}

/// Removes the files of segments that the manifest does not name: removed ones, and new ones without a commit.
fn remove_unnamed(files: &dyn Files, names: &[String], numbers: &[u64]) -> Result<(), Failure> {
    let unnamed = names.iter().filter_map(|name| {
        let (number, kind) = name.split_once('.')?;
        let number = number.parse::<u64>().ok().filter(|number| !numbers.contains(number))?;
        ["log", "idx", "done"].contains(&kind).then_some((name, number, kind))
    });
    let unnamed: Vec<_> = unnamed.collect();
    for (name, number, _) in unnamed.iter().filter(|(_, _, kind)| *kind == "log") {
        let is_lost = match numbers.last() {
            Some(last) => number > last && has_commit(files, *number)?,
            // Only the very first segment is made before there is a manifest that names it.
            None => *number > 0 || has_commit(files, *number)?,
        };
        if is_lost {
            return Err(Failure::damaged(manifest::NAME, 0, format!("it does not name {name}, which it should")));
        }
    }
    Ok(unnamed.iter().try_for_each(|(name, ..)| files.remove(name))?)
}

fn has_commit(files: &dyn Files, number: u64) -> Result<bool, Failure> {
    let file = files.open(&segment::name(number))?;
    let mut frames = Frames::new(&*file, file.len()?, 0);
    // Its head, which may be bad, begins at 0.
    Ok(frames.find(None, 1)?.is_some())
}

/// Opens all segments but the last, each of which must end where the next one begins.
fn adopt(files: &dyn Files, numbers: &[u64]) -> Result<Vec<Arc<Segment>>, Failure> {
    let mut segments: Vec<Arc<Segment>> = Vec::with_capacity(numbers.len());
    for (&number, &next) in numbers.iter().zip(numbers.iter().skip(1)) {
        let next = segment::head(&*segment::open_file(files, next)?, next)?.1;
        let end = next.previous.filter(|previous| previous.number == number).map(|previous| previous.end);
        let segment = Segment::open(files, number, end)?;
        if let Some(before) = segments.last() {
            fits(before, &segment.head.previous, &segment.head.begins)?;
        }
        segments.push(Arc::new(segment));
    }
    Ok(segments)
}

/// Whether a segment that begins so may follow this one. Between the two, others may have been removed.
pub(super) fn fits(before: &Segment, previous: &Option<Previous>, begins: &Marks) -> Result<(), Failure> {
    let ends = before.ends();
    let follows = previous.is_some_and(|previous| previous.number == before.number());
    let is_behind = || ends.iter().all(|(topic, end)| begins.get(topic).is_some_and(|begin| begin.next >= end.next));
    if if follows { ends == *begins } else { is_behind() } {
        return Ok(());
    }
    Err(Failure::damaged(segment::name(before.number()), before.end(), "the next segment does not begin where it ends"))
}

fn earlier_format(settings: &Settings) -> u8 {
    let watermark = std::fs::read(settings.dir.join(DATABASE[0])).unwrap_or_default();
    watermark.first().copied().filter(|format| *format < FORMAT).unwrap_or(FORMAT - 1)
}
