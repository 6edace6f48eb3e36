//! Busy loops that make everything else on the machine wait for a processor. Limited in number and time.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Loops per processor.
const LOOPS: usize = 2;
/// A limit, in case they are never dropped.
const AT_MOST: Duration = Duration::from_secs(12);
/// Iterations of a loop between two checks of the clock.
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
