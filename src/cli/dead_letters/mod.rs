//! `dead-letters`: what Terra signed and nobody could read, and handing it to a bridge again.

use std::collections::{BTreeMap, BTreeSet};

use bytesize::ByteSize;

use super::failure::Failure;
use super::load::Loaded;
use super::reading::{self, Topics};
use super::record_view::view;
use super::replay::{Answer, Bridge};
use super::send::{default_url, endpoint};
use super::terminal::{json_line, one_line, print, quiet_on_broken_pipe, write_from_task};
use crate::attribute::Attribute;
use crate::bus::{Payloads, Record, StartPosition};
use crate::config;
use crate::event::readable;
use crate::route::RouteTable;
use crate::vocabulary::SOURCE_PREFIX;

pub(super) mod args;

use args::{ListArgs, ReplayArgs, ShowArgs};

/// How many of an id's 64 digits to show.
const ID_SHOWN: usize = 12;
const TRACE_SHOWN: usize = 60;

/// The end of a replayed dead letter's trace id: the bridge knows the old one as kept.
const REPLAYED: &str = ":dead-letter";

const TITLES: &str = "ID            REASON         SIZE      ENDPOINT          STORED                    TRACE ID\n";

/// The topics of dead letters.
fn topics(routes: &RouteTable) -> Topics {
    let topics: BTreeSet<String> = routes.endpoints().map(|name| routes.dead_letter(name).to_string()).collect();
    Topics::Routed(topics.into_iter().collect())
}

/// Every dead letter that the bus has now, with these ids if there are any, until `each` returns `false`.
async fn read(
    bus: &config::Bus,
    routes: &RouteTable,
    ids: &[String],
    mut each: impl FnMut(Record) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let (_, mut steps) = reading::open(bus, &topics(routes), StartPosition::Earliest, Payloads::All).await?;
    while let Some(record) = reading::next(&mut steps).await? {
        // A topic may also have events.
        let id = record.attribute(Attribute::Id).filter(|_| record.attribute(Attribute::TerraDeadLetter).is_some());
        let is_wanted = id.is_some_and(|id| ids.is_empty() || ids.iter().any(|wanted| id.starts_with(wanted.as_str())));
        if is_wanted && !each(record)? {
            break;
        }
    }
    Ok(())
}

pub(super) async fn list(args: &ListArgs, bus: &config::Bus, routes: &RouteTable) -> Result<(), Failure> {
    let (mut count, mut written) = (0, Ok(()));
    read(bus, routes, &[], |mut record| {
        let titles = if count == 0 && !args.json { TITLES } else { "" };
        count += 1;
        let row = row(&record);
        record.payload.clear();
        let text = if args.json { json_line(&record)? } else { format!("{titles}{row}") };
        written = write_from_task(&text);
        Ok(written.is_ok())
    })
    .await?;
    eprintln!("{count} dead letters");
    quiet_on_broken_pipe(written)
}

fn row(record: &Record) -> String {
    let shown = |attribute, width| one_line(&record.attribute(attribute).unwrap_or_default(), width);
    let id: String = shown(Attribute::Id, ID_SHOWN + 1).chars().take(ID_SHOWN).collect();
    let (reason, size) = (shown(Attribute::TerraDeadLetter, 13), ByteSize(record.payload.len() as u64).to_string());
    let endpoint = one_line(&endpoint_of(record).unwrap_or_default(), 16);
    let (time, trace) = (format!("{:.3}", record.time), shown(Attribute::TerraTraceId, TRACE_SHOWN));
    format!("{}\n", format!("{id:12}  {reason:13}  {size:8}  {endpoint:16}  {time:24}  {trace}").trim_end())
}

fn endpoint_of(record: &Record) -> Option<String> {
    let source = record.attribute(Attribute::Source)?;
    source.strip_prefix(SOURCE_PREFIX).map(str::to_owned)
}

pub(super) async fn show(args: &ShowArgs, bus: &config::Bus, routes: &RouteTable) -> Result<(), Failure> {
    let mut shown = 0;
    read(bus, routes, std::slice::from_ref(&args.id), |record| {
        let id = record.attribute(Attribute::Id).unwrap_or_default();
        let rows = [
            ("topic", format!("{} partition {} offset {}", record.topic, record.partition, record.offset)),
            ("stored", format!("{:.3}", record.time)),
            ("size", format!("{} bytes", record.payload.len())),
        ];
        print(&view(&id, &rows, &record, args.payload))?;
        shown += 1;
        Ok(true)
    })
    .await?;
    if shown == 0 { Err(none_such()) } else { Ok(()) }
}

pub(super) async fn replay(args: &ReplayArgs, loaded: &Loaded) -> Result<(), Failure> {
    let mut letters = Vec::new();
    read(&loaded.config.bus, &loaded.routes, &args.ids, |record| {
        letters.push(record);
        Ok(true)
    })
    .await?;
    if letters.is_empty() && !args.all {
        return Err(none_such());
    }
    let (mut sent, mut left) = (BTreeMap::<String, u64>::new(), 0_u64);
    let mut bridges = BTreeMap::new();
    for letter in letters {
        let id = letter.attribute(Attribute::Id).unwrap_or_default();
        let ended = match readable(&letter.payload) {
            Err(reason) => Err(format!("still unreadable: {}", reason.as_str())),
            Ok(()) if args.dry_run => Ok("can be read".to_owned()),
            Ok(()) => match post(args, loaded, &mut bridges, letter).await? {
                Answer::Done(outcome) => Ok(outcome),
                Answer::NotYet(reason) | Answer::Never(reason) => Err(reason),
            },
        };
        match ended {
            Ok(outcome) => *sent.entry(outcome).or_insert(0) += 1,
            Err(reason) => {
                left += 1;
                print(&format!("{}  {}\n", &id[..ID_SHOWN.min(id.len())], one_line(&reason, 120)))?;
            }
        }
    }
    let sent: Vec<String> = sent.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    print(&format!("{}\n", if sent.is_empty() { "none was replayed".to_owned() } else { sent.join(", ") }))?;
    if left == 0 { Ok(()) } else { Err(Failure::Running(format!("{left} stay dead letters"))) }
}

/// Posts it to the endpoint that it came from.
async fn post(
    args: &ReplayArgs,
    loaded: &Loaded,
    bridges: &mut BTreeMap<String, Bridge>,
    letter: Record,
) -> Result<Answer, Failure> {
    let name = endpoint_of(&letter).unwrap_or_default();
    if !bridges.contains_key(&name) {
        let (config, endpoint) = (&loaded.config, endpoint(&loaded.config, Some(&name))?);
        let bridge = match &args.into {
            Some(url) => Bridge::new(url.clone(), endpoint, None)?,
            None => Bridge::new(default_url(config, endpoint)?, endpoint, config.server.tls.as_ref())?,
        };
        bridges.insert(name.clone(), bridge);
    }
    let answers = bridges[&name].send(vec![replayed(letter)]).await;
    Ok(answers.into_iter().next().unwrap_or_else(|| Answer::NotYet("no answer".to_owned())))
}

/// With a trace id of its own, which makes an id of its own: the same at every replay.
fn replayed(mut letter: Record) -> Record {
    let trace = letter.attribute(Attribute::TerraTraceId).or_else(|| letter.attribute(Attribute::Id));
    let is_trace = |name: &String| {
        [Attribute::TerraTraceId.kafka_header(), Attribute::TerraTraceId.nats_header()]
            .iter()
            .any(|header| name.eq_ignore_ascii_case(header))
    };
    letter.headers.retain(|(name, _)| !is_trace(name));
    let trace = format!("{}{REPLAYED}", trace.unwrap_or_default());
    letter.headers.push((Attribute::TerraTraceId.kafka_header().to_owned(), trace));
    letter
}

fn none_such() -> Failure {
    Failure::Running("there is no such dead letter; `terra-bridge dead-letters list` shows the ids".to_owned())
}
