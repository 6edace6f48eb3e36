//! What `check --online` says of the embedded log.

use std::path::Path;

use super::writer::free_space;
use crate::bus::{Finding, Level, OpenError, Setup};
use crate::config;

/// Looks at the directory and its disk; the log itself belongs to the bridge that may be running.
pub(in crate::bus) async fn inspect(config: &config::Embedded, _: &Setup) -> Result<Vec<Finding>, OpenError> {
    let about = || config.dir.display().to_string();
    let existing = config.dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("."));
    let mut findings = vec![Finding {
        about: about(),
        level: Level::Advice,
        says: "an acknowledged event is fsynced here: it survives `kill -9` and a power cut, but not the loss of \
               this disk, and one bridge alone can use it"
            .into(),
        remedy: Some(
            "put the directory on storage that outlives this machine or pod, or set `bus` to kafka or nats".into(),
        ),
    }];
    if existing != config.dir {
        findings.push(fine(about(), "does not exist yet; the bridge makes it, readable by its user alone".into()));
    }
    let mebibytes = |bytes: u64| bytes >> 20;
    findings.push(match free_space(existing) {
        None => Finding {
            about: about(),
            level: Level::Mistake,
            says: "the disk does not say how much space is free".into(),
            remedy: Some("name a directory on a local disk".into()),
        },
        Some(free) if free < config.reserve => Finding {
            about: about(),
            level: Level::Mistake,
            says: format!("{} MiB are free, less than `embedded.reserve`: every delivery gets a 503", mebibytes(free)),
            remedy: Some("free space on this disk".into()),
        },
        Some(free) if free < config.max_bytes => Finding {
            about: about(),
            level: Level::Advice,
            says: format!(
                "{} MiB are free, and the log may grow to {} MiB before retention drops its oldest",
                mebibytes(free),
                mebibytes(config.max_bytes)
            ),
            remedy: Some("lower `embedded.max_bytes`, or give it a larger disk".into()),
        },
        Some(free) => fine(about(), format!("{} MiB are free", mebibytes(free))),
    });
    Ok(findings)
}

fn fine(about: String, says: String) -> Finding {
    Finding { about, level: Level::Fine, says, remedy: None }
}
