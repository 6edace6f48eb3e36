//! Keeps what the bus refuses for the moment, and brings it there later: every message ends on the bus, or set aside.
//!
//! A receipt of the spool rests on an fsync, as `log` says. A message counts as sent with a receipt of the bus, and with
//! nothing else: what the bus refuses, leaves unanswered or does not confirm stays.
//!
//! `intake` takes messages, in the order that `slots` keeps for each key. `drain` brings them to the bus, batch by batch
//! (`batch`); `progress` is how far it is in a topic, `recall` what the disk holds (`recount`: again, after a
//! failure), `state` what they all share.
//! `inspect` is for `check`.

mod batch;
mod drain;
mod inspect;
mod intake;
mod progress;
mod recall;
mod recount;
mod slots;
mod state;

pub use drain::drain;
pub use inspect::inspect;
pub use intake::{DeliveryPath, KeySlot, Spool};

#[cfg(test)]
mod tests;
