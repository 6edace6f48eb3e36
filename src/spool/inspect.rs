//! What `check` reports about the spool. Opens the directory only if no bridge has it open.

use std::collections::BTreeMap;

use bytesize::ByteSize;

use super::state::{SET_ASIDE, settings};
use crate::bus::{Finding, Level, OpenError, integrity};
use crate::config;
use crate::log::{Store, disk};
use crate::message::SET_ASIDE as REASON;

/// The most reasons to list.
const REASONS: usize = 10;

/// The current state of the spool. Blocks on the disk.
///
/// # Errors
/// The directory cannot be used; the error names the remedy.
pub fn inspect(config: &config::Spool) -> Result<Vec<Finding>, OpenError> {
    let mut findings = vec![place(config)];
    for dir in [config.dir.clone(), config.dir.join(SET_ASIDE)] {
        findings.extend(disk::open_to_others(&dir).map(|(says, remedy)| finding(Level::Advice, says, Some(&remedy))));
    }
    if !config.dir.is_dir() {
        let says = "the directory does not exist yet; the first start creates it, mode 0700".to_owned();
        findings.push(finding(Level::Fine, says, None));
    } else if disk::locked(&config.dir).map_err(|error| disk::unusable("spool", &config.dir, &error))? {
        let says = "a bridge has it open; its metrics terra_bridge_spool_* say what it holds".to_owned();
        findings.push(finding(Level::Fine, says, None));
    } else {
        findings.push(held(config)?);
        findings.extend(set_aside(config)?);
        findings.extend(integrity("spool", &config.dir));
        findings.extend(integrity("spool", &config.dir.join(SET_ASIDE)));
    }
    Ok(findings)
}

fn finding(level: Level, says: String, remedy: Option<&str>) -> Finding {
    Finding { about: "spool".to_owned(), level, says, remedy: remedy.map(str::to_owned) }
}

fn place(config: &config::Spool) -> Finding {
    let says = format!(
        "{} holds what was answered 200 and is not on the bus yet, up to {}: on this disk alone",
        config.dir.display(),
        ByteSize(config.max_bytes)
    );
    let remedy = "it must outlive the process, its container and its pod: a persistent volume, not an emptyDir or a \
                  container's own layer; and each bridge needs one of its own";
    finding(Level::Advice, says, Some(remedy))
}

fn held(config: &config::Spool) -> Result<Finding, OpenError> {
    let store = Store::open(&settings(config, &config.dir, 0), std::iter::empty())?;
    let mut messages = 0;
    store.pending(|_, _, _| messages += 1)?;
    Ok(match messages {
        0 => finding(Level::Fine, "nothing is spooled".to_owned(), None),
        _ => finding(
            Level::Advice,
            format!("{messages} messages are spooled"),
            Some("start the bridge: it brings them to the bus"),
        ),
    })
}

/// The messages that were set aside, by topic and reason.
fn set_aside(config: &config::Spool) -> Result<Vec<Finding>, OpenError> {
    let dir = config.dir.join(SET_ASIDE);
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let store = Store::open(&settings(config, &dir, 0), std::iter::empty())?;
    let mut places = Vec::new();
    store.pending(|topic, offset, _| places.push((topic.clone(), offset)))?;
    let mut reasons: BTreeMap<(String, String), u64> = BTreeMap::new();
    for (topic, offset) in places {
        let record = store.read(&topic, offset, offset + 1, 1, 0).ok().and_then(|mut records| records.pop());
        let headers = record.map(|record| record.headers).unwrap_or_default();
        let reason = headers.into_iter().find(|(name, _)| name == REASON).map(|(_, reason)| reason);
        let reason = reason.unwrap_or_else(|| "unknown".to_owned());
        let reason = percent_encoding::percent_decode_str(&reason).decode_utf8_lossy().into_owned();
        *reasons.entry((topic.to_string(), reason)).or_insert(0) += 1;
    }
    let remedy = "fix that; they are sent again at the next start and every five minutes";
    let findings = reasons.into_iter().take(REASONS).map(|((topic, reason), messages)| {
        finding(Level::Mistake, format!("{messages} messages for {topic} are set aside: {reason}"), Some(remedy))
    });
    Ok(findings.collect())
}
