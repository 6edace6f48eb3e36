//! What `check --online` finds where it reads every record of a log on this machine.

use std::path::Path;

use super::Finding;
use crate::log::{Checked, verify};

/// Empty if there is no log yet. Blocks on the disk.
pub(crate) fn integrity(about: &str, dir: &Path) -> Vec<Finding> {
    const REMEDY: &str = "restore the directory from a copy, or move it aside and start with an empty one";
    let (mut intact, mut findings) = (0, Vec::new());
    let each = |Checked { file, found }: Checked| match found {
        Ok(_) => intact += 1,
        Err(why) => findings.push(Finding::mistake(about, format!("{file} is damaged: {why}"), REMEDY)),
    };
    match verify(dir, each) {
        Ok(_) if intact == 0 => {}
        Ok(_) => findings.push(Finding::fine(about, format!("{intact} files in {} are intact", dir.display()))),
        Err(why) => findings.push(Finding::mistake(about, why, REMEDY)),
    }
    findings
}
