//! Where records come from: a bus, up to what it has at the start, or a captured file.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::args::Bound;
use crate::bus::{Payloads, Record, StartPosition, Steps};
use crate::cli::failure::Failure;
use crate::cli::reading::{self, Topics};
use crate::config;

/// Where a record was found: on a bus its place there; in a file only its line counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub(super) struct Shard {
    pub(super) topic: String,
    pub(super) partition: i32,
}

pub(super) enum Source {
    Bus(Steps),
    File { lines: BufReader<File>, path: PathBuf, line: u64 },
}

/// A record with its shard and its number there.
pub(super) struct Found {
    pub(super) shard: Shard,
    pub(super) number: u64,
    pub(super) record: Record,
}

impl Source {
    pub(super) async fn bus(bus: &config::Bus, topics: &Topics, from: Bound) -> Result<Self, Failure> {
        let from = match from {
            Bound::Offset(offset) => StartPosition::Offset(offset),
            Bound::Earliest | Bound::Time(_) => StartPosition::Earliest,
        };
        let (_, steps) = reading::open(bus, topics, from, Payloads::All).await?;
        Ok(Self::Bus(steps))
    }

    pub(super) fn file(path: &Path) -> Result<Self, Failure> {
        let file = File::open(path).map_err(|error| Failure::Mistake(format!("{}: {error}", path.display())))?;
        Ok(Self::File { lines: BufReader::new(file), path: path.to_owned(), line: 0 })
    }

    /// `None` at the end of the file, or when everything was read that the bus had at the start.
    pub(super) async fn next(&mut self) -> Result<Option<Found>, Failure> {
        match self {
            Self::Bus(steps) => {
                let record = reading::next(steps).await?;
                Ok(record.map(|record| {
                    let shard = Shard { topic: record.topic.clone(), partition: record.partition };
                    Found { shard, number: record.offset, record }
                }))
            }
            Self::File { lines, path, line } => {
                let mut text = Vec::new();
                loop {
                    text.clear();
                    *line += 1;
                    if lines.read_until(b'\n', &mut text)? == 0 {
                        return Ok(None);
                    }
                    if text.trim_ascii().is_empty() {
                        continue;
                    }
                    let record = Record::parse(&text).map_err(|error| {
                        Failure::Running(format!(
                            "{} line {line} is no record as `tail --json` prints it: {error}; remove the line",
                            path.display()
                        ))
                    })?;
                    return Ok(Some(Found {
                        shard: Shard { topic: String::new(), partition: 0 },
                        number: *line,
                        record,
                    }));
                }
            }
        }
    }
}
