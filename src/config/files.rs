//! Reads files that may be replaced while the bridge runs: only regular ones, and within a deadline. A FIFO would
//! block until it has a writer, and so may a network file system that does not answer.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::OFlags;

/// Opens a regular file; anything else is an error at once instead of blocking. The check applies to the opened file,
/// because the path may lead elsewhere a moment later.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    match file.metadata()?.file_type() {
        sort if sort.is_file() => Ok(file),
        sort => Err(io::Error::new(io::ErrorKind::InvalidInput, irregular(sort))),
    }
}

/// All bytes of a regular file.
///
/// # Errors
/// As for [`open_regular`], and [`io::ErrorKind::FileTooLarge`] if there are more than `limit` bytes.
pub(crate) fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

fn irregular(sort: FileType) -> &'static str {
    match sort {
        sort if sort.is_dir() => "it is a directory, not a file",
        sort if sort.is_fifo() => "it is a FIFO, not a regular file",
        _ => "it is not a regular file",
    }
}

/// A hanging read is abandoned with its thread; with this many of them, no further one is started.
const LEFT_AT_ONCE: usize = 4;

/// Reads on a separate thread, so that no caller waits longer than a deadline. The late result of a hanging read is
/// out of date, and dropped.
#[derive(Debug)]
pub(crate) struct TimedReads<T>(Mutex<Vec<Receiver<T>>>);

/// A read did not end within its deadline, or was not started because too many others hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimedOut;

impl<T> Default for TimedReads<T> {
    fn default() -> Self {
        Self(Mutex::new(Vec::new()))
    }
}

impl<T: Send + 'static> TimedReads<T> {
    /// The result of `read` within the deadline. Blocks for that long; two concurrent callers wait for each other.
    pub(crate) fn within(&self, deadline: Duration, read: impl FnOnce() -> T + Send + 'static) -> Result<T, TimedOut> {
        let mut hanging = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hanging.retain(|read| matches!(read.try_recv(), Err(TryRecvError::Empty)));
        if hanging.len() >= LEFT_AT_ONCE {
            return Err(TimedOut);
        }
        let (answer, answered) = sync_channel(1);
        let reading = move || drop(answer.send(read()));
        // Without a free thread nothing is read either; the next attempt may get one.
        std::thread::Builder::new().name("file".to_owned()).spawn(reading).map_err(|_| TimedOut)?;
        answered.recv_timeout(deadline).map_err(|_| {
            hanging.push(answered);
            TimedOut
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn only_regular_files_are_read_and_a_fifo_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("regular"), "12345").unwrap();
        std::os::unix::fs::symlink("regular", at("link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert_eq!(read_regular(&at("regular"), 5).unwrap(), b"12345");
        assert_eq!(read_regular(&at("link"), 5).unwrap(), b"12345");
        assert_eq!(read_regular(&at("regular"), 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        let error_text = |path: &Path| open_regular(path).unwrap_err().to_string();
        assert_eq!(error_text(&at("fifo")), "it is a FIFO, not a regular file");
        assert_eq!(error_text(dir.path()), "it is a directory, not a file");
        assert_eq!(error_text(Path::new("/dev/zero")), "it is not a regular file");
        assert!(open_regular(&at("socket")).is_err() && open_regular(&at("none")).is_err());
    }

    #[test]
    fn a_hanging_read_does_not_stop_the_next_and_abandoned_reads_are_limited() {
        let reading = TimedReads::default();
        let mut disks = Vec::new();
        for _ in 0..LEFT_AT_ONCE {
            assert_eq!(reading.within(LONG, || 1), Ok(1));
            let (disk, answers) = channel();
            disks.push(disk);
            assert_eq!(reading.within(SOON, move || answers.recv().unwrap()), Err(TimedOut));
        }
        assert_eq!(reading.within(LONG, || unreachable!("no other is begun")), Err(TimedOut));
        disks.pop().unwrap().send(2).unwrap();
        let end = std::time::Instant::now() + LONG;
        while reading.within(LONG, || 3) != Ok(3) {
            assert!(std::time::Instant::now() < end, "the disk answers again");
        }
    }
}
