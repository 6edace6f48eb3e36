//! `log verify`: checks every record of a log on disk.

use std::path::Path;

use super::failure::Failure;
use super::terminal;
use crate::log::{Checked, verify};

/// Prints a line for each file of the log.
///
/// # Errors
/// There is no log, or some of it is damaged.
pub(super) fn run(dir: &Path) -> Result<(), Failure> {
    let (mut printed, mut damaged) = (Ok(()), 0);
    let print = |Checked { file, found }: Checked| {
        let line = match found {
            Ok(says) => format!("{file}  {says}\n"),
            Err(says) => {
                damaged += 1;
                format!("{file}  DAMAGED: {says}\n")
            }
        };
        if printed.is_ok() {
            printed = terminal::print(&line);
        }
    };
    let is_log = verify(dir, print).map_err(Failure::Running)?;
    printed?;
    if !is_log {
        return Err(Failure::Running(format!("{}: there is no log of this version", dir.display())));
    }
    match damaged {
        0 => Ok(()),
        _ => Err(Failure::Running(format!(
            "{damaged} files of {} are damaged; restore the directory from a copy, or move it aside and start with an \
             empty one",
            dir.display()
        ))),
    }
}
