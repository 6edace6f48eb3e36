//! What a test's thread logs.

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
    /// Those of this thread, until the guard goes.
    pub(crate) fn taken() -> (Self, tracing::subscriber::DefaultGuard) {
        // Where a process has one subscriber alone, tracing asks the thread that first meets a line whether anybody
        // reads it, and that thread may be another test's.
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
