//! Which topic an event goes to, by its endpoint and its type.
//!
//! `topic` is the answer, `table` has it for every type, `layers` are the two parts of the configuration that a table is
//! made of: an endpoint's own routes, and the common ones.

mod layers;
mod table;
mod topic;

pub use layers::RouteError;
pub use table::RouteTable;
pub use topic::{Route, Topic};

#[cfg(test)]
mod tests;
