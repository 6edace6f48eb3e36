//! The command line of `dead-letters`.

use clap::{ArgGroup, Args, Subcommand, ValueHint};

use crate::cli::spool::args::id;
use crate::cli::url::url;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum DeadLettersCommand {
    /// List what Terra signed and nobody could read, with the reason
    List(ListArgs),
    /// Show one: its headers and, with --payload, its payload
    Show(ShowArgs),
    /// Hand dead letters that this version can read to a bridge again, signed
    ///
    /// Each becomes an event of its type with an id of its own, the same at every replay, and its trace id gets the
    /// ending `:dead-letter`. What is still unreadable is named and not sent.
    Replay(ReplayArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    /// One JSON object a line, as `tail --json` prints it, without payloads
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
#[command(group = ArgGroup::new("which").required(true))]
pub(in crate::cli) struct ReplayArgs {
    /// Ids, or beginnings of them
    #[arg(value_name = "ID", group = "which", value_parser = id)]
    pub(in crate::cli) ids: Vec<String>,
    /// All of them
    #[arg(long, group = "which")]
    pub(in crate::cli) all: bool,
    /// The URL of a bridge, up to the endpoint's path [default: the bridge on this machine]
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url, value_parser = url)]
    pub(in crate::cli) into: Option<http::Uri>,
    /// Only say which can be read
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
}
