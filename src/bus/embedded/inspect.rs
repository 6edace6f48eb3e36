//! What `check --online` says of the embedded log: where it lies, how much room it has, what it
//! keeps and what a receipt is worth. Opens nothing and writes nothing.

use std::path::Path;

use bytesize::ByteSize;

use super::client::Client;
use crate::bus::{Finding, Level, OpenError, Setup};
use crate::config;
use crate::log::disk;

/// What `check --online` reports. While a bridge has the log open, that bridge is asked over HTTP.
pub async fn inspect(config: &config::Embedded, setup: &Setup) -> Result<Vec<Finding>, OpenError> {
    let mut findings = vec![directory(config), durability(config), retention(config)];
    findings.extend(space(config));
    findings.push(topics(config, setup).await);
    Ok(findings)
}

const ABOUT: &str = "embedded log";

fn finding(level: Level, says: String, remedy: Option<&str>) -> Finding {
    Finding { about: ABOUT.to_owned(), level, says, remedy: remedy.map(str::to_owned) }
}

fn directory(config: &config::Embedded) -> Finding {
    let dir = config.dir.display();
    match std::fs::metadata(&config.dir) {
        Ok(metadata) if !metadata.is_dir() => {
            finding(Level::Mistake, format!("{dir} is not a directory"), Some("set embedded.dir to a directory"))
        }
        Ok(_) if rustix::fs::access(&config.dir, rustix::fs::Access::WRITE_OK).is_err() => finding(
            Level::Mistake,
            format!("{dir} is not writable for this user"),
            Some("make it writable for the user that terra-bridge runs as, or set embedded.dir to a directory that is"),
        ),
        Ok(_) => match disk::open_to_others(&config.dir) {
            Some((says, remedy)) => finding(Level::Advice, says, Some(&remedy)),
            None => finding(Level::Fine, format!("{dir}, for its owner alone"), None),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            finding(Level::Fine, format!("{dir} does not exist yet; it is made at the first start, mode 0700"), None)
        }
        Err(error) => finding(Level::Mistake, disk::unusable("embedded", &config.dir, &error).0, None),
    }
}

fn durability(config: &config::Embedded) -> Finding {
    finding(
        Level::Advice,
        "one copy on one disk: every receipt follows an fsync, so what was acknowledged survives kill -9 and a power \
         cut, but not the loss of the disk"
            .to_owned(),
        Some(&format!(
            "put {} on a disk that is mirrored or replicated, or use Kafka or NATS with three replicas",
            config.dir.display()
        )),
    )
}

fn retention(config: &config::Embedded) -> Finding {
    let age = jiff::SignedDuration::try_from(config.retention).unwrap_or(jiff::SignedDuration::MAX);
    finding(
        Level::Fine,
        format!(
            "messages are kept for {age:#} (removed within an eighth more), or until all of them exceed {}; then the \
             oldest eighth goes, read or not",
            ByteSize(config.max_bytes)
        ),
        None,
    )
}

fn space(config: &config::Embedded) -> Option<Finding> {
    let free = disk::free(existing(&config.dir)).ok()?;
    let used = disk::used(&config.dir).unwrap_or(0);
    let (reserve, max_bytes) = (config.reserve, config.max_bytes);
    let says = format!("{} used, {} free, {} in reserve", ByteSize(used), ByteSize(free), ByteSize(reserve));
    Some(if free < reserve {
        finding(
            Level::Mistake,
            format!("{says}: below the reserve every delivery is answered with 503"),
            Some("free some space on that disk, or set embedded.dir to another"),
        )
    } else if free.saturating_add(used) < reserve.saturating_add(max_bytes) {
        finding(
            Level::Advice,
            format!("{says}: the disk is full before embedded.max_bytes ({}) removes anything", ByteSize(max_bytes)),
            Some("lower embedded.max_bytes below what the disk has without the reserve"),
        )
    } else {
        finding(Level::Fine, says, None)
    })
}

async fn topics(config: &config::Embedded, setup: &Setup) -> Finding {
    if !disk::locked(&config.dir).unwrap_or(false) {
        let says = format!("no bridge has the log open; {} topics are ready to be written", setup.topics.len());
        return finding(Level::Fine, says, None);
    }
    let asked = match Client::new(config) {
        Ok(client) => client.topics().await,
        Err(error) => Err(error),
    };
    match asked {
        Ok(topics) => {
            let (messages, bytes) =
                topics.iter().fold((0, 0), |sum, topic| (sum.0 + topic.messages, sum.1 + topic.bytes));
            let says =
                format!("a bridge has it open: {messages} messages, {} in {} topics", ByteSize(bytes), topics.len());
            finding(Level::Fine, says, None)
        }
        Err(error) => finding(
            Level::Advice,
            format!("another process has the log open, but does not answer as this configuration says: {error}"),
            Some("stop it before a bridge starts on this directory, or give each a directory of its own"),
        ),
    }
}

/// The directory itself or, before it is made, the nearest one above it.
fn existing(dir: &Path) -> &Path {
    let above = dir.ancestors().find(|path| path.is_dir());
    above.unwrap_or(Path::new("."))
}
