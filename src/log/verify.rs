//! Reads and checks every record of a log, without changing anything. A bridge may run on it meanwhile.

use std::io;
use std::path::Path;

use bytesize::ByteSize;

use super::failure::Failure;
use super::files::{Directory, Files};
use super::manifest::{self, Manifest};
use super::opening::fits;
use super::segment::{self, Segment};

/// What was found in one file.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) file: String,
    /// The error says where.
    pub(crate) found: Result<String, String>,
}

/// The files of the log in that directory, oldest first. `false`: there is no log of this version.
///
/// # Errors
/// Nothing tells which files make up the log.
pub(crate) fn verify(dir: &Path, mut each: impl FnMut(Checked)) -> Result<bool, String> {
    let wrong = |failure: Failure| format!("{}: {failure}", dir.display());
    let files = match Directory::read_only(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened.map_err(|error| wrong(error.into()))?,
    };
    let Some(numbers) = live(&files).map_err(wrong)? else { return Ok(false) };
    let mut before = None;
    for (index, &number) in numbers.iter().enumerate() {
        let next = numbers.get(index + 1).copied();
        let found = check(&files, number, next, before.take());
        if found.is_err() && is_removed(&files, number) {
            continue;
        }
        let found = found.map(|(segment, says)| {
            before = Some(segment);
            says
        });
        each(Checked { file: segment::name(number), found: found.map_err(|failure| failure.to_string()) });
    }
    Ok(true)
}

/// The segments that count; `None` if there is no log.
fn live(files: &dyn Files) -> Result<Option<Vec<u64>>, Failure> {
    match Manifest::open(files) {
        Ok((_, numbers)) => {
            numbers.map(Some).ok_or_else(|| Failure::damaged(manifest::NAME, 0, "neither of its halves is intact"))
        }
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Whether a running bridge has removed it meanwhile.
fn is_removed(files: &dyn Files, number: u64) -> bool {
    live(files).is_ok_and(|numbers| numbers.is_some_and(|numbers| !numbers.contains(&number)))
}

fn check(
    files: &dyn Files,
    number: u64,
    next: Option<u64>,
    before: Option<Segment>,
) -> Result<(Segment, String), Failure> {
    let file = segment::open_file(files, number)?;
    let end = match next {
        Some(next) => {
            let (_, head) = segment::head(&*segment::open_file(files, next)?, next)?;
            let previous = head.previous.filter(|previous| previous.number == number);
            Some(previous.map_or(file.len()?, |previous| previous.end))
        }
        None => None,
    };
    // A bridge that writes it may have ended one commit and begun another while it was read.
    let scan = segment::scan(&*file, number, end).or_else(|_| segment::scan(&*file, number, end))?;
    if let Some(before) = before {
        fits(&before, &scan.head.previous, &scan.head.begins)?;
    }
    let records: usize = scan.records.values().map(Vec::len).sum();
    let rest = if scan.is_clean { "" } else { "; behind them what is left of a commit without a receipt" };
    let says = format!("{records} records, {}{rest}", ByteSize(scan.summary.end));
    Ok((Segment::of_scan(file, scan), says))
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::super::store::Store;
    use super::*;
    use crate::message::Message;

    #[test]
    fn every_record_is_checked_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let found = || {
            let mut all = Vec::new();
            verify(dir.path(), |checked| all.push(checked)).map(|is_log| is_log.then_some(all))
        };
        assert!(found().unwrap().is_none() && !verify(&dir.path().join("none"), |_| {}).unwrap());
        let store = Store::open(&Settings::sample(dir.path()), std::iter::empty()).unwrap();
        for n in 0..3 {
            store.append([Message::sample("a", "key", [n; 32], vec![n; 100])].iter()).unwrap();
            store.roll().unwrap();
        }
        let says: Vec<_> = found().unwrap().unwrap().into_iter().map(|checked| checked.found.unwrap()).collect();
        assert_eq!(says.len(), 4);
        assert!(says[0].starts_with("1 records, ") && says[3].starts_with("0 records, "), "{says:?}");
        store.lose("a", 1);
        let found = found().unwrap().unwrap();
        assert_eq!(found.iter().filter(|checked| checked.found.is_err()).count(), 1);
        let why = found[1].found.as_ref().unwrap_err();
        assert!(found[1].file == "1.log" && why.starts_with("1.log at byte "), "{why}");
        std::fs::write(dir.path().join(manifest::NAME), [1; 9000]).unwrap();
        assert!(verify(dir.path(), |_| {}).unwrap_err().contains("manifest at byte 0"));
    }
}
