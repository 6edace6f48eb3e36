//! What is read only when Prometheus scrapes.

use std::time::Duration;

/// How to read it. Each is quick, and asks no disk.
pub struct Readings {
    pub bytes_in_flight: Reading<usize>,
    pub log_lines_dropped: Reading<usize>,
    pub dedupe: Reading<DedupeGauges>,
    /// `None`: there is no spool.
    pub spool: Reading<Option<SpoolGauges>>,
    /// `None`: the bus is not the embedded log.
    pub readers: Reading<Option<ReaderGauges>>,
    pub directories: Reading<Vec<DirectoryGauges>>,
    /// The key of each certificate, and when it expires, in Unix seconds.
    pub certificates: Reading<Vec<(&'static str, i64)>>,
}

pub type Reading<T> = Box<dyn Fn() -> T + Send + Sync>;

/// How many deliveries deduplication remembers, and how many it evicted early.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DedupeGauges {
    pub entries: usize,
    pub evictions: u64,
}

/// The current content of a spool.
#[derive(Debug, Clone, Copy, Default)]
pub struct SpoolGauges {
    pub messages: u64,
    pub bytes: u64,
    /// The age of the oldest message.
    pub oldest: Duration,
    pub set_aside: u64,
    pub set_aside_bytes: u64,
    /// Messages sent to the bus or set aside since the start.
    pub drained: u64,
}

/// The current memory of the embedded log's readers, and how many were refused.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReaderGauges {
    pub bytes: usize,
    pub refused: u64,
}

/// The current state of a directory of events.
#[derive(Debug, Clone, Copy)]
pub struct DirectoryGauges {
    pub name: &'static str,
    /// Bytes of its files.
    pub bytes: u64,
    /// The most that they may be.
    pub limit: u64,
    /// With less free space than this many bytes, it takes nothing more.
    pub reserve: u64,
    /// `None` if the disk has not said for a while.
    pub free: Option<u64>,
}

/// For an idle bridge without a spool.
impl Default for Readings {
    fn default() -> Self {
        Self {
            bytes_in_flight: Box::new(|| 0),
            log_lines_dropped: Box::new(|| 0),
            dedupe: Box::new(DedupeGauges::default),
            spool: Box::new(|| None),
            readers: Box::new(|| None),
            directories: Box::new(Vec::new),
            certificates: Box::new(Vec::new),
        }
    }
}
