//! The floor as it is measured.

fn main() -> Result<(), measuring::destination::Error> {
    measuring::floor::main()
}
