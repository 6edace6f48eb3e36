//! The floor with its allocations counted.

#[global_allocator]
static ALLOCATOR: measuring::counting::Counting = measuring::counting::Counting;

fn main() -> Result<(), measuring::destination::Error> {
    measuring::counting::serve();
    measuring::floor::main()
}
