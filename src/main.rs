//! The binary: everything is in the library, where the tests can reach it.

use std::process::ExitCode;

/// A delivery to NATS takes a tenth less of the processor with it than with glibc's.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    terra_bridge::cli::run()
}
