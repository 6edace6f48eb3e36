//! The bridge, as its own `main` runs it, with its allocations counted.

#[global_allocator]
static ALLOCATOR: measuring::counting::Counting = measuring::counting::Counting;

fn main() -> std::process::ExitCode {
    measuring::counting::serve();
    terra_bridge::cli::run()
}
