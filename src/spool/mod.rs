//! Stores what the bus refuses for the moment, and delivers it later: every message ends on the bus or is set aside.
//!
//! A receipt from the spool rests on an fsync, as in `log`. A message counts as sent only with a receipt from the
//! bus: one that the bus refuses, leaves unanswered or does not confirm stays in the spool.
//!
//! `intake` takes messages, in the order that `slots` keeps for each key. `drain` sends them to the bus in batches
//! (`batch`). `progress` tracks how far a topic is drained, `recall` reads what the disk holds, and `state`
//! is what they all share.
//! `held` is for the commands that show, retry and discard, with the last `tries` of what is set aside; `inspect` is for
//! `check`.

mod batch;
mod drain;
mod held;
mod inspect;
mod intake;
mod progress;
mod recall;
mod slots;
mod state;
mod tries;

pub use drain::drain;
pub use held::{Held, Place, Retried, SetAside, Which};
pub use inspect::inspect;
pub use intake::{DeliveryPath, KeySlot, Spool};

#[cfg(test)]
mod tests;
