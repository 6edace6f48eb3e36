//! An allocator that counts, for binaries that make it theirs; and where their counts are read.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU64, Ordering};

/// Names the socket at which [`serve`] answers.
pub const SOCKET: &str = "MEASURING_ALLOCATIONS";

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// The system's allocator. A reallocation counts as an allocation; what C allocates does not.
pub struct Counting;

fn count(size: usize) {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(size as u64, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe { System.dealloc(block, layout) }
    }
}

/// Tells everyone who connects to the socket how many allocations there were, and of how many bytes.
pub fn serve() {
    let path = std::env::var(SOCKET).unwrap_or_else(|_| panic!("{SOCKET} names no socket"));
    let listener = UnixListener::bind(&path).expect("a socket of its own");
    std::thread::spawn(move || {
        for mut reader in listener.incoming().flatten() {
            let counts = (ALLOCATIONS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
            let _ = writeln!(reader, "{} {}", counts.0, counts.1);
        }
    });
}
