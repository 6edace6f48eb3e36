//! Which topic an event goes to, by its endpoint and its type.
//!
//! `topic` is the result, `table` has it for every type, and `layers` are the two parts of the configuration behind a
//! table: an endpoint's own routes, and the common ones.

mod layers;
mod table;
mod topic;

pub use layers::RouteError;
pub use table::{Content, Contents, RouteTable};
pub use topic::{Route, Topic};

#[cfg(test)]
mod tests;
