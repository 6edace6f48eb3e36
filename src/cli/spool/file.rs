//! A new file of messages, one JSON object a line, that is on disk before anything relies on it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::cli::failure::Failure;

pub(in crate::cli) struct NewFile {
    writer: BufWriter<File>,
    path: PathBuf,
}

impl NewFile {
    /// Never replaces a file.
    pub(in crate::cli) fn create(path: &Path) -> Result<Self, Failure> {
        let created = File::options().write(true).create_new(true).open(path);
        let file = created.map_err(|error| failed(path, &error, "name another with --file"))?;
        Ok(Self { writer: BufWriter::new(file), path: path.to_owned() })
    }

    pub(in crate::cli) fn write(&mut self, line: &str) -> Result<(), Failure> {
        let mut written = self.writer.write_all(line.as_bytes());
        written = written.and_then(|()| self.writer.write_all(b"\n"));
        written.map_err(|error| failed(&self.path, &error, "free some space, or name another with --file"))
    }

    /// `Ok` means that the file and its name are on disk.
    pub(in crate::cli) fn finish(mut self) -> Result<PathBuf, Failure> {
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = self.writer.flush().and_then(|()| self.writer.get_ref().sync_all());
        let synced = synced.and_then(|()| File::open(dir)?.sync_all());
        synced.map_err(|error| failed(&self.path, &error, "name a file on another disk with --file"))?;
        Ok(self.path)
    }
}

fn failed(path: &Path, error: &std::io::Error, remedy: &str) -> Failure {
    Failure::Running(format!("{}: {error}; {remedy}", path.display()))
}
