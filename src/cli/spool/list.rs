//! `spool list` and `spool show`.

use bytesize::ByteSize;
use serde::Deserialize;

use super::args::{ListArgs, ShowArgs};
use super::messages::{messages, none_such};
use crate::admin_socket::Line;
use crate::cli::access::Access;
use crate::cli::failure::Failure;
use crate::cli::record_view::view;
use crate::cli::terminal::{json_line, one_line, print, quiet_on_broken_pipe, write_from_task};
use crate::record::Record;

/// How many of an id's 64 digits to show.
const ID_SHOWN: usize = 12;
const TYPE_SHOWN: usize = 24;
const REASON_SHOWN: usize = 120;

const TITLES: &str = "ID            STATE      TYPE                      SIZE      FIRST TRY                 LAST TRY                  REASON\n";

#[derive(Deserialize)]
struct Counts {
    waiting: u64,
    set_aside: u64,
}

pub(super) async fn list(access: &mut Access, args: &ListArgs) -> Result<(), Failure> {
    let counts: Option<Counts> = access.get("/spool").await?.next().await?;
    let state = if args.waiting { "all" } else { "set_aside" };
    let mut lines = messages(access, state, &[], false).await?;
    let mut is_first = !args.json;
    while let Some(line) = lines.next::<Line>().await? {
        let titles = if std::mem::take(&mut is_first) { TITLES } else { "" };
        let text = if args.json { json_line(&line)? } else { format!("{titles}{}", row(&line)) };
        let written = write_from_task(&text);
        if written.is_err() {
            return quiet_on_broken_pipe(written);
        }
    }
    if let Some(Counts { waiting, set_aside }) = counts {
        eprintln!("{set_aside} set aside, {waiting} wait for the bus");
    }
    Ok(())
}

fn row(line: &Line) -> String {
    let shown = |text: &Option<String>, width| one_line(text.as_deref().unwrap_or("?"), width);
    let id: String = shown(&line.id, ID_SHOWN + 1).chars().take(ID_SHOWN).collect();
    let state = if line.reason.is_some() { "set aside" } else { "waiting" };
    let (event_type, size) = (shown(&line.event_type, TYPE_SHOWN), ByteSize(line.bytes as u64).to_string());
    let (first, last) = (shown(&line.first_try, 24), one_line(line.last_try.as_deref().unwrap_or("-"), 24));
    let reason = one_line(line.reason.as_deref().unwrap_or_default(), REASON_SHOWN);
    let row = format!("{id:12}  {state:9}  {event_type:24}  {size:8}  {first:24}  {last:24}  {reason}");
    format!("{}\n", row.trim_end())
}

pub(super) async fn show(access: &mut Access, args: &ShowArgs) -> Result<(), Failure> {
    let mut lines = messages(access, "all", std::slice::from_ref(&args.id), args.payload).await?;
    let mut shown = 0;
    while let Some(line) = lines.next::<Line>().await? {
        let record = Record::parse(line.record.get().as_bytes())
            .map_err(|error| Failure::Running(format!("the message cannot be read: {error}")))?;
        print(&block(&line, &record, args.payload))?;
        shown += 1;
    }
    if shown == 0 { Err(none_such()) } else { Ok(()) }
}

fn block(line: &Line, record: &Record, with_payload: bool) -> String {
    let state = match &line.reason {
        Some(reason) => format!("set aside: {reason}"),
        None => "waits for the bus".to_owned(),
    };
    let unknown = || "?".to_owned();
    let rows = [
        ("state", state),
        ("topic", record.topic.clone()),
        ("key", record.key.clone().unwrap_or_else(unknown)),
        ("size", format!("{} bytes", line.bytes)),
        ("first try", line.first_try.clone().unwrap_or_else(unknown)),
        ("last try", line.last_try.clone().unwrap_or_else(unknown)),
    ];
    view(line.id.as_deref().unwrap_or("?"), &rows, record, with_payload)
}
