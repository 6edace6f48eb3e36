//! `find`: where one delivery, or those of a user or a reference, are: on the bus, as dead letters, or in the spool.

use clap::{ArgGroup, Args};

use super::access::Access;
use super::failure::Failure;
use super::reading::{self, Topics};
use super::spool::args::id;
use super::terminal::{json_line, one_line, quiet_on_broken_pipe, write_from_task};
use crate::admin_socket::Line;
use crate::attribute::Attribute;
use crate::bus::{Payloads, Record, StartPosition};
use crate::config::Config;
use crate::route::RouteTable;
use crate::vocabulary::TYPE_PREFIX;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true))]
pub(super) struct FindArgs {
    /// Terra's trace id; that of a large request finds all its chunks
    #[arg(long, value_name = "TRACE", group = "what")]
    trace: Option<String>,
    /// The delivery id, or the beginning of it
    #[arg(long, value_name = "ID", group = "what", value_parser = id)]
    id: Option<String>,
    /// The user's id
    #[arg(long, value_name = "USER", group = "what")]
    user: Option<String>,
    /// Terra's reference
    #[arg(long, value_name = "REFERENCE", group = "what")]
    reference: Option<String>,
    /// One JSON object a line: where, and record without its payload
    #[arg(long)]
    json: bool,
}

impl FindArgs {
    fn fits(&self, record: &Record) -> bool {
        let has = |attribute, wanted: &str| record.attribute(attribute).is_some_and(|value| value == wanted);
        if let Some(trace) = &self.trace {
            let chunk = format!("{trace}:chunk:");
            let value = record.attribute(Attribute::TerraTraceId);
            return value.is_some_and(|value| value == *trace || value.starts_with(&chunk));
        }
        if let Some(wanted) = &self.id {
            return record.attribute(Attribute::Id).is_some_and(|id| id.starts_with(wanted.as_str()));
        }
        if let Some(user) = &self.user {
            return has(Attribute::Subject, user) || has(Attribute::PartitionKey, user);
        }
        self.reference.as_ref().is_some_and(|reference| has(Attribute::CorrelationId, reference))
    }
}

#[derive(serde::Serialize)]
struct Found<'r> {
    #[serde(rename = "where")]
    place: &'r str,
    record: &'r Record,
}

/// Prints a line for each place.
///
/// # Errors
/// It is nowhere, or not everywhere could be looked.
pub(super) async fn run(args: &FindArgs, config: &Config, routes: &RouteTable) -> Result<(), Failure> {
    let mut found = 0;
    let on_bus = on_bus(args, config, routes, &mut found).await;
    let in_spool = match &config.spool {
        Some(spool) if spool.dir.is_dir() => in_spool(args, config, routes, &mut found).await,
        _ => Ok(()),
    };
    on_bus.and(in_spool)?;
    match found {
        0 => Err(Failure::Running("found nowhere: not on the bus, nor as a dead letter, nor in the spool".to_owned())),
        _ => Ok(()),
    }
}

async fn on_bus(args: &FindArgs, config: &Config, routes: &RouteTable, found: &mut u64) -> Result<(), Failure> {
    let topics = Topics::Routed(routes.topics().iter().map(ToString::to_string).collect());
    let payloads = Payloads::Only(|_| false);
    let (_, mut steps) = reading::open(&config.bus, &topics, StartPosition::Earliest, payloads).await?;
    while let Some(record) = reading::next(&mut steps).await? {
        if !args.fits(&record) {
            continue;
        }
        let place = match record.attribute(Attribute::TerraDeadLetter) {
            Some(reason) => format!("dead letter ({reason})"),
            None => "bus".to_owned(),
        };
        *found += 1;
        print(args, &place, record)?;
    }
    Ok(())
}

async fn in_spool(args: &FindArgs, config: &Config, routes: &RouteTable, found: &mut u64) -> Result<(), Failure> {
    let mut access = Access::to_spool(config, routes, false).await?;
    let mut lines = access.get("/spool/messages?state=all&payload=false").await?;
    while let Some(line) = lines.next::<Line>().await? {
        let Ok(record) = Record::parse(line.record.get().as_bytes()) else { continue };
        if args.fits(&record) {
            let place = line.reason.map_or_else(|| "spool".to_owned(), |reason| format!("set aside ({reason})"));
            *found += 1;
            print(args, &place, record)?;
        }
    }
    access.close().await;
    Ok(())
}

fn print(args: &FindArgs, place: &str, mut record: Record) -> Result<(), Failure> {
    record.payload.clear();
    let text = match args.json {
        true => json_line(&Found { place, record: &record })?,
        false => row(place, &record),
    };
    quiet_on_broken_pipe(write_from_task(&text))
}

fn row(place: &str, record: &Record) -> String {
    let shown = |attribute| one_line(&record.attribute(attribute).unwrap_or_default(), 64);
    let name = shown(Attribute::Type);
    let name = name.strip_prefix(TYPE_PREFIX).unwrap_or(&name);
    let at = format!("{} {}/{}", one_line(&record.topic, 64), record.partition, record.offset);
    format!("{:.3}  {at}  {name}  {}  {}\n", record.time, shown(Attribute::Id), one_line(place, 160))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_ask_compares_its_own_attribute() {
        let headers = [
            ("ce_id", "ab".repeat(32)),
            ("ce_terratraceid", "t:chunk:3".to_owned()),
            ("ce_subject", "u".to_owned()),
            ("ce_correlationid", "r".to_owned()),
        ];
        let record = Record {
            topic: "t".to_owned(),
            key: None,
            partition: 0,
            offset: 0,
            time: jiff::Timestamp::UNIX_EPOCH,
            headers: headers.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            payload: bytes::Bytes::new(),
            problem: None,
        };
        let args = || FindArgs { trace: None, id: None, user: None, reference: None, json: false };
        let some = |text: &str| Some(text.to_owned());
        for (fits, wanted) in [
            (true, FindArgs { trace: some("t"), ..args() }),
            (true, FindArgs { trace: some("t:chunk:3"), ..args() }),
            (false, FindArgs { trace: some("t:chunk"), ..args() }),
            (true, FindArgs { id: some("abababab"), ..args() }),
            (false, FindArgs { id: some("babababa"), ..args() }),
            (true, FindArgs { user: some("u"), ..args() }),
            (false, FindArgs { user: some("r"), ..args() }),
            (true, FindArgs { reference: some("r"), ..args() }),
            (false, FindArgs { reference: some("u"), ..args() }),
        ] {
            assert_eq!(wanted.fits(&record), fits, "{wanted:?}");
        }
    }
}
