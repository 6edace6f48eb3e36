//! What `check --online` reports about the embedded log: its directory and disk, its retention, and what a receipt is
//! worth. Opens nothing and writes nothing.

use std::path::Path;

use bytesize::ByteSize;

use super::client::Client;
use crate::bus::{Finding, Level, OpenError, Setup, integrity};
use crate::config;
use crate::log::disk;

/// The report. If a bridge has the log open, that bridge is asked over HTTP.
pub async fn inspect(config: &config::Embedded, setup: &Setup) -> Result<Vec<Finding>, OpenError> {
    let mut findings = vec![directory(config), durability(config), retention(config)];
    findings.extend(space(config));
    findings.push(topics(config, setup).await);
    findings.extend(integrity(ABOUT, &config.dir));
    Ok(findings)
}

const ABOUT: &str = "embedded log";

fn directory(config: &config::Embedded) -> Finding {
    let dir = config.dir.display();
    match std::fs::metadata(&config.dir) {
        Ok(metadata) if !metadata.is_dir() => {
            Finding::mistake(ABOUT, format!("{dir} is not a directory"), "set embedded.dir to a directory")
        }
        Ok(_) if rustix::fs::access(&config.dir, rustix::fs::Access::WRITE_OK).is_err() => Finding::mistake(
            ABOUT,
            format!("{dir} is not writable for this user"),
            "make it writable for the user that terra-bridge runs as, or set embedded.dir to a directory that is",
        ),
        Ok(_) => match disk::open_to_others(&config.dir) {
            Some((says, remedy)) => Finding::advice(ABOUT, says, remedy),
            None => Finding::fine(ABOUT, format!("{dir}, for its owner alone")),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Finding::fine(ABOUT, format!("{dir} does not exist yet; it is made at the first start, mode 0700"))
        }
        Err(error) => {
            let says = disk::unusable("embedded", &config.dir, &error).0;
            Finding { level: Level::Mistake, ..Finding::fine(ABOUT, says) }
        }
    }
}

fn durability(config: &config::Embedded) -> Finding {
    let dir = config.dir.display();
    Finding::advice(
        ABOUT,
        "one copy on one disk: every receipt follows an fsync, so what was acknowledged survives kill -9 and a power \
         cut, but not the loss of the disk",
        format!("put {dir} on a disk that is mirrored or replicated, or use Kafka or NATS with three replicas"),
    )
}

fn retention(config: &config::Embedded) -> Finding {
    let age = jiff::SignedDuration::try_from(config.retention).unwrap_or(jiff::SignedDuration::MAX);
    let says = format!(
        "messages are kept for {age:#} (removed within an eighth more), or until all of them exceed {}; then the oldest \
         eighth goes, read or not",
        ByteSize(config.max_bytes)
    );
    Finding::fine(ABOUT, says)
}

fn space(config: &config::Embedded) -> Option<Finding> {
    let free = disk::free(existing(&config.dir)).ok()?;
    let used = disk::used(&config.dir).unwrap_or(0);
    let (reserve, max_bytes) = (config.reserve, config.max_bytes);
    let says = format!("{} used, {} free, {} in reserve", ByteSize(used), ByteSize(free), ByteSize(reserve));
    Some(if free < reserve {
        let says = format!("{says}: below the reserve every delivery is answered with 503");
        Finding::mistake(ABOUT, says, "free some space on that disk, or set embedded.dir to another")
    } else if free.saturating_add(used) < reserve.saturating_add(max_bytes) {
        let says =
            format!("{says}: the disk is full before embedded.max_bytes ({}) removes anything", ByteSize(max_bytes));
        Finding::advice(ABOUT, says, "lower embedded.max_bytes below what the disk has without the reserve")
    } else {
        Finding::fine(ABOUT, says)
    })
}

async fn topics(config: &config::Embedded, setup: &Setup) -> Finding {
    if !disk::locked(&config.dir).unwrap_or(false) {
        let says = format!("no bridge has the log open; {} topics are ready to be written", setup.topics.len());
        return Finding::fine(ABOUT, says);
    }
    let topics = match Client::new(config) {
        Ok(client) => client.topics().await,
        Err(error) => Err(error),
    };
    match topics {
        Ok(topics) => {
            let messages: u64 = topics.iter().map(|topic| topic.messages).sum();
            let bytes = ByteSize(topics.iter().map(|topic| topic.bytes).sum());
            Finding::fine(
                ABOUT,
                format!("a bridge has it open: {messages} messages, {bytes} in {} topics", topics.len()),
            )
        }
        Err(error) => Finding::advice(
            ABOUT,
            format!("another process has the log open, but does not answer as this configuration says: {error}"),
            "stop it before a bridge starts on this directory, or give each a directory of its own",
        ),
    }
}

/// The directory itself or, before it is created, its nearest existing parent.
fn existing(dir: &Path) -> &Path {
    let above = dir.ancestors().find(|path| path.is_dir());
    above.unwrap_or(Path::new("."))
}
