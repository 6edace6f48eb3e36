//! What `./tests/bench` measures with: binaries that are started and asked by `bench`, the driver.
//!
//! - `floor`: the least that a bridge can do, to compare with
//! - `load` (a binary): the pretend Terra
//! - `counting`: the allocator of `counted-floor` and `counted-bridge`
//! - `destination`: topics and streams, and how many messages are in them

pub mod counting;
pub mod destination;
pub mod floor;
