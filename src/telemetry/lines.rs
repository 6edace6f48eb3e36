//! Captures what a test's thread logs.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, OnceLock};

use tracing::Dispatch;

#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Captures this thread's lines until the guard is dropped.
    pub(crate) fn taken() -> (Self, tracing::subscriber::DefaultGuard) {
        // With a single subscriber in the process, tracing caches whether the thread that first reaches a log line
        // reads it, and that may be another test's thread.
        static SECOND: OnceLock<Dispatch> = OnceLock::new();
        SECOND.get_or_init(|| Dispatch::new(tracing_subscriber::registry()));
        let lines = Self::default();
        let writer = lines.clone();
        let logs = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::DEBUG);
        (lines, tracing::subscriber::set_default(logs.with_writer(move || writer.clone()).finish()))
    }

    pub(crate) fn with(&self, pattern: &str) -> Vec<String> {
        let bytes = self.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().filter(|line| line.contains(pattern)).map(str::to_owned).collect()
    }
}
