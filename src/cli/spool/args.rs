//! The command line of `spool`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueHint};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SpoolCommand {
    /// List what was set aside, with the bus's reason
    List(ListArgs),
    /// Show one message: its headers and, with --payload, its payload
    Show(ShowArgs),
    /// Write messages as JSON, one a line, with their payloads: what `tail --json` prints
    Export(ExportArgs),
    /// Send what was set aside now, instead of within five minutes
    ///
    /// A message is sent behind the earlier ones of its user. What the bus still refuses stays set aside.
    Retry(RetryArgs),
    /// Remove messages that were set aside, after writing them to a file
    ///
    /// The file is on disk before anything is removed.
    Discard(DiscardArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    /// Also those that wait for the bus
    #[arg(long)]
    pub(in crate::cli) waiting: bool,
    /// One JSON object a line: id, type, bytes, first_try, last_try, reason, and record without its payload
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ShowArgs {
    /// Its id, or the beginning of it
    #[arg(value_name = "ID", value_parser = id)]
    pub(in crate::cli) id: String,
    /// Also the whole payload
    #[arg(long)]
    pub(in crate::cli) payload: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArgs {
    /// Ids, or beginnings of them [default: all that were set aside]
    #[arg(value_name = "ID", value_parser = id)]
    pub(in crate::cli) ids: Vec<String>,
    /// Also those that wait for the bus
    #[arg(long)]
    pub(in crate::cli) waiting: bool,
    /// A new file [default: standard output]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true))]
pub(in crate::cli) struct RetryArgs {
    /// Ids, or beginnings of them
    #[arg(value_name = "ID", group = "which", value_parser = id)]
    pub(in crate::cli) ids: Vec<String>,
    /// All that was set aside
    #[arg(long, group = "which")]
    pub(in crate::cli) all: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DiscardArgs {
    /// Ids, or beginnings of them
    #[arg(value_name = "ID", required = true, value_parser = id)]
    pub(in crate::cli) ids: Vec<String>,
    /// Do not ask
    #[arg(long)]
    pub(in crate::cli) yes: bool,
    /// The new file for what is removed [default: terra-bridge-discarded-TIME.ndjson here]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) file: Option<PathBuf>,
}

/// Shorter beginnings are no ids: a slip of the hand would name many.
const SHORTEST_ID: usize = 8;
const WHOLE_ID: usize = 64;

pub(in crate::cli) fn id(text: &str) -> Result<String, String> {
    let is_hex = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    match is_hex && (SHORTEST_ID..=WHOLE_ID).contains(&text.len()) {
        true => Ok(text.to_owned()),
        false => Err(format!("an id has {WHOLE_ID} digits, 0-9 and a-f; give at least its first {SHORTEST_ID}")),
    }
}
