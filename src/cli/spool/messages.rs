//! Asks for the messages that the spool holds.

use crate::cli::access::{Access, Lines};
use crate::cli::failure::Failure;

/// The messages with these ids; all of that state if there are none.
pub(super) async fn messages(
    access: &mut Access,
    state: &str,
    ids: &[String],
    with_payload: bool,
) -> Result<Lines, Failure> {
    let ids: String = ids.iter().map(|id| format!("&id={id}")).collect();
    access.get(&format!("/spool/messages?state={state}&payload={with_payload}{ids}")).await
}

pub(super) fn none_such() -> Failure {
    Failure::Running("there is no such message; `terra-bridge spool list` shows the ids".to_owned())
}
