//! The command line of `replay`.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueHint};
use jiff::Timestamp;

use crate::cli::url::url;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("origin"))]
pub(in crate::cli) struct ReplayArgs {
    /// Whole names of topics, each with its own --topic [default: all that the routes lead to, or that the file has]
    #[arg(long = "topic", value_name = "TOPIC")]
    pub(in crate::cli) topics: Vec<String>,
    /// Read from this file: JSON, one a line, as `tail --json` and `spool export` print it
    #[arg(long, group = "origin", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) file: Option<PathBuf>,
    /// Read from the bus of this configuration file [default: the configured bus]
    ///
    /// No variable TERRA_BRIDGE_… counts for it.
    #[arg(long, group = "origin", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) source: Option<PathBuf>,
    /// The first: `earliest`, an offset, or a time such as 2026-11-28T04:00:00Z
    ///
    /// An offset applies to each partition of each topic. The time is that at which the bus stored a message.
    #[arg(long, value_name = "WHERE", default_value = "earliest", value_parser = bound)]
    pub(in crate::cli) from: Bound,
    /// The last, an offset or a time [default: what is there now]
    #[arg(long, value_name = "WHERE", value_parser = bound)]
    pub(in crate::cli) to: Option<Bound>,
    /// Only events of these types, each with its own --type
    #[arg(long = "type", value_name = "TYPE")]
    pub(in crate::cli) types: Vec<String>,
    /// Only events of these users, each with its own --user
    #[arg(long = "user", value_name = "USER")]
    pub(in crate::cli) users: Vec<String>,
    /// Where to: `bus` is the configured one; the URL of a bridge gets signed deliveries; anything else is a file
    #[arg(long, value_name = "bus|URL|FILE", value_parser = into)]
    pub(in crate::cli) into: Into,
    /// The endpoint whose first secret signs for a URL [default: the only one, or the one called `terra`]
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) endpoint: Option<String>,
    /// The most messages a second
    #[arg(long, value_name = "N", default_value = "1000")]
    pub(in crate::cli) rate: NonZeroU32,
    /// Remember in this file how far it got: the same command goes on from there
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) checkpoint: Option<PathBuf>,
    /// Only count what would be replayed
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Bound {
    Earliest,
    Offset(u64),
    Time(Timestamp),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Into {
    Bus,
    Url(http::Uri),
    File(PathBuf),
}

fn bound(text: &str) -> Result<Bound, String> {
    if text == "earliest" {
        return Ok(Bound::Earliest);
    }
    let offset = text.parse().map(Bound::Offset);
    let time = || text.parse().map(Bound::Time);
    offset.or_else(|_| time()).map_err(|_: jiff::Error| "expected an offset, or a time in UTC with a Z".to_owned())
}

fn into(text: &str) -> Result<Into, String> {
    match text {
        "bus" => Ok(Into::Bus),
        _ if text.starts_with("http://") || text.starts_with("https://") => url(text).map(Into::Url),
        _ => Ok(Into::File(text.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_and_destinations_are_told_apart() {
        assert_eq!(bound("earliest"), Ok(Bound::Earliest));
        assert_eq!(bound("17"), Ok(Bound::Offset(17)));
        assert!(matches!(bound("2026-11-28T04:00:00Z"), Ok(Bound::Time(_))));
        assert!(bound("yesterday").is_err() && bound("-1").is_err());
        assert!(matches!(into("https://a/terra"), Ok(Into::Url(_))));
        assert_eq!((into("bus"), into("./bus")), (Ok(Into::Bus), Ok(Into::File("./bus".into()))));
    }
}
