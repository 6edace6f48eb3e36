//! `spool discard`: writes the messages to a file, asks, and removes them.

use std::collections::BTreeSet;
use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::args::DiscardArgs;
use super::file::NewFile;
use super::messages::{messages, none_such};
use crate::admin_socket::Line;
use crate::cli::access::Access;
use crate::cli::failure::Failure;
use crate::cli::terminal::print;
use crate::record::Record;
use crate::spool::Place;

#[derive(Deserialize)]
struct Answer {
    discarded: u64,
}

pub(super) async fn run(access: &mut Access, args: &DiscardArgs) -> Result<(), Failure> {
    if !args.yes && !io::stdin().is_terminal() {
        return Err(Failure::Mistake("nobody can be asked here: add --yes to discard without asking".to_owned()));
    }
    let (places, file) = write(access, args).await?;
    if places.is_empty() {
        let _ = std::fs::remove_file(&file);
        return Err(none_such());
    }
    if let Err(failure) = unambiguous(&args.ids, &places) {
        let _ = std::fs::remove_file(&file);
        return Err(failure);
    }
    print(&format!("{} written to {}\n", count(places.len() as u64), file.display()))?;
    if !args.yes && !agreed()? {
        let _ = std::fs::remove_file(&file);
        return print("nothing was discarded, and the file is removed\n");
    }
    let asked = places.len() as u64;
    let Answer { discarded } = access.post("/spool/discard", &json!({ "places": places })).await?;
    print(&format!("discarded {discarded}\n"))?;
    match asked - discarded {
        0 => Ok(()),
        gone => print(&format!("{gone} had been sent in the meantime\n")),
    }
}

/// Each of the ids is that of one delivery, though there may be copies of it.
fn unambiguous(ids: &[String], places: &[Place]) -> Result<(), Failure> {
    for wanted in ids {
        let found: BTreeSet<&str> =
            places.iter().map(|place| place.id.as_str()).filter(|id| id.starts_with(wanted.as_str())).collect();
        match found.len() {
            1 => {}
            0 => return Err(Failure::Running(format!("{wanted} is not set aside; nothing was discarded"))),
            several => {
                return Err(Failure::Mistake(format!(
                    "{several} ids begin with {wanted}: give more of its digits; nothing was discarded"
                )));
            }
        }
    }
    Ok(())
}

/// Where the messages are, and the file that has them.
async fn write(access: &mut Access, args: &DiscardArgs) -> Result<(Vec<Place>, PathBuf), Failure> {
    let here = || format!("terra-bridge-discarded-{:.0}.ndjson", Timestamp::now()).replace(':', "").into();
    let mut file = NewFile::create(&args.file.clone().unwrap_or_else(here))?;
    let mut lines = messages(access, "set_aside", &args.ids, true).await?;
    let mut places = Vec::new();
    while let Some(Line { id, record, .. }) = lines.next::<Line>().await? {
        let Ok(Record { topic, offset, problem: None, .. }) = Record::parse(record.get().as_bytes()) else { continue };
        file.write(record.get())?;
        places.extend(id.map(|id| Place { topic, offset, id }));
    }
    Ok((places, file.finish()?))
}

fn agreed() -> Result<bool, Failure> {
    eprint!("Discard for good? The bus never gets them. Type yes: ");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

fn count(messages: u64) -> String {
    if messages == 1 { "1 message".to_owned() } else { format!("{messages} messages") }
}
