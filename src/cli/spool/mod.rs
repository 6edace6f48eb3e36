//! `spool`: what the bus refused for good, and getting it back. Prints payloads only where somebody asked for them.
//!
//! `args` is the command line, `messages` asks for messages, `list` prints them, `discard` removes
//! them, and `file` is where they are written.

use std::io;

use serde_json::json;

use super::access::Access;
use super::failure::Failure;
use super::terminal::{quiet_on_broken_pipe, write_from_task};
use crate::admin_socket::Line;
use crate::config::Config;
use crate::route::RouteTable;
use crate::spool::Retried;

pub(super) mod args;
mod discard;
mod file;
mod list;
mod messages;

use args::{ExportArgs, RetryArgs, SpoolCommand};
use file::NewFile;
use messages::{messages, none_such};

pub(super) async fn run(command: &SpoolCommand, config: &Config, routes: &RouteTable) -> Result<(), Failure> {
    let sends = matches!(command, SpoolCommand::Retry(_));
    let mut access = Access::to_spool(config, routes, sends).await?;
    let done = match command {
        SpoolCommand::List(args) => list::list(&mut access, args).await,
        SpoolCommand::Show(args) => list::show(&mut access, args).await,
        SpoolCommand::Export(args) => export(&mut access, args).await,
        SpoolCommand::Retry(args) => retry(&mut access, args).await,
        SpoolCommand::Discard(args) => discard::run(&mut access, args).await,
    };
    access.close().await;
    done
}

async fn export(access: &mut Access, args: &ExportArgs) -> Result<(), Failure> {
    let mut file = args.file.as_deref().map(NewFile::create).transpose()?;
    let state = if args.waiting { "all" } else { "set_aside" };
    let mut lines = messages(access, state, &args.ids, true).await?;
    let mut exported = 0;
    while let Some(Line { record, .. }) = lines.next::<Line>().await? {
        match &mut file {
            Some(file) => file.write(record.get())?,
            None => {
                let written: io::Result<()> = write_from_task(&format!("{}\n", record.get()));
                if written.is_err() {
                    return quiet_on_broken_pipe(written);
                }
            }
        }
        exported += 1;
    }
    let place = file.map(NewFile::finish).transpose()?;
    let place = place.map_or_else(String::new, |place| format!(" to {}", place.display()));
    eprintln!("exported {exported}{place}");
    if exported == 0 && !args.ids.is_empty() { Err(none_such()) } else { Ok(()) }
}

async fn retry(access: &mut Access, args: &RetryArgs) -> Result<(), Failure> {
    let ids = (!args.all).then_some(&args.ids);
    let retried: Retried = access.post("/spool/retry", &json!({ "ids": ids })).await?;
    let Retried { sent, left, reasons, untried } = retried;
    if let Some(why) = untried {
        return Err(Failure::Running(format!("nothing was sent: {why}; try again later")));
    }
    if sent + left == 0 {
        return if args.all { super::terminal::print("nothing is set aside\n") } else { Err(none_such()) };
    }
    super::terminal::print(&format!("sent {sent}\n"))?;
    if left == 0 {
        return Ok(());
    }
    let reasons: String = reasons.iter().map(|(reason, count)| format!("\n  {count}: {reason}")).collect();
    Err(Failure::Running(format!("{left} stay set aside:{reasons}")))
}
