//! Where records go: the configured bus, a bridge that gets signed deliveries, or a file.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::answer::Answer;
use super::bridge::Bridge;
use crate::admin_socket::Published;
use crate::bus::Record;
use crate::cli::access::Access;
use crate::cli::failure::Failure;

pub(super) enum Target {
    Bus(Access),
    Bridge(Box<Bridge>),
    File(Output),
}

impl Target {
    /// The answers are in the records' order.
    pub(super) async fn send(&mut self, records: Vec<Record>) -> Result<Vec<Answer>, Failure> {
        match self {
            Self::Bus(access) => {
                let mut lines = Vec::new();
                for record in &records {
                    serde_json::to_writer(&mut lines, record)?;
                    lines.push(b'\n');
                }
                let published: Vec<Published> = access.post_bytes("/publish", lines).await?;
                Ok(published.into_iter().map(of_published).collect())
            }
            Self::Bridge(bridge) => Ok(bridge.send(records).await),
            Self::File(output) => {
                output.write(&records)?;
                Ok(records.iter().map(|_| Answer::Done("written".to_owned())).collect())
            }
        }
    }

    /// How long the file is that is written, where one is.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::File(output) => output.bytes,
            Self::Bus(_) | Self::Bridge(_) => 0,
        }
    }

    pub(super) async fn close(self) {
        if let Self::Bus(access) = self {
            access.close().await;
        }
    }
}

fn of_published(published: Published) -> Answer {
    match published {
        Published::Kept => Answer::Done("kept".to_owned()),
        Published::Duplicate => Answer::Done("duplicate".to_owned()),
        Published::Refused { reason, is_final: false } => Answer::NotYet(reason),
        Published::Refused { reason, is_final: true } => Answer::Never(reason),
        Published::Untried => Answer::NotYet("one before it was not taken".to_owned()),
        Published::NotAMessage => Answer::Never("no bridge wrote it, or its payload is missing".to_owned()),
    }
}

/// A file of JSON lines.
pub(super) struct Output {
    writer: BufWriter<File>,
    path: PathBuf,
    bytes: u64,
}

impl Output {
    /// A new file; or, with the length that it had at a checkpoint, that file as it was then.
    pub(super) fn open(path: &Path, known: Option<u64>) -> Result<Self, Failure> {
        let mut options = File::options();
        options.write(true);
        let opened = match known {
            None => options.create_new(true).open(path),
            Some(bytes) => options.open(path).and_then(|mut file| {
                file.set_len(bytes)?;
                file.seek(SeekFrom::End(0))?;
                Ok(file)
            }),
        };
        let file = opened.map_err(|error| {
            Failure::Running(format!("--into {}: {error}; a file that exists is never replaced", path.display()))
        })?;
        Ok(Self { writer: BufWriter::new(file), path: path.to_owned(), bytes: known.unwrap_or(0) })
    }

    /// `Ok` means that they are on disk.
    fn write(&mut self, records: &[Record]) -> Result<(), Failure> {
        let mut write = || {
            for record in records {
                let mut line = serde_json::to_vec(record)?;
                line.push(b'\n');
                self.writer.write_all(&line)?;
                self.bytes += line.len() as u64;
            }
            self.writer.flush()?;
            self.writer.get_ref().sync_data()
        };
        write().map_err(|error: std::io::Error| Failure::Running(format!("--into {}: {error}", self.path.display())))
    }
}
