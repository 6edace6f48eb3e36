//! Busy loops, so that everything else on the machine waits for a processor. Bounded in number and time.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// For each processor.
const LOOPS: usize = 2;
/// Whoever started them may never come to end them.
const AT_MOST: Duration = Duration::from_secs(12);
/// Turns of a loop between two looks at the clock.
const TURNS: u64 = 1 << 16;

/// They end when this is dropped.
pub struct BusyLoops {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl BusyLoops {
    pub fn start() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let end = Instant::now() + AT_MOST;
        let start = |_| {
            let over = over.clone();
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) && Instant::now() < end {
                    black_box((0..TURNS).fold(0, |sum: u64, turn| black_box(sum ^ turn)));
                }
            })
        };
        let threads = (0..LOOPS * processors).map(start).collect();
        Self { over, threads }
    }
}

impl Drop for BusyLoops {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a loop does not panic");
        }
    }
}
