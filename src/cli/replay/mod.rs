//! `replay`: brings records from a bus or a captured file to the configured bus, to a bridge or into a file, each under
//! its own id, each key in order, and no faster than allowed.
//!
//! `args` is the command line; records come from a `source` through a `filter` to a `target` (`bridge` signs), which
//! gives an `answer` for each, and a `checkpoint` says how far.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::access::Access;
use super::failure::Failure;
use super::load::Loaded;
use super::reading::Topics;
use super::terminal::{harmless, print};
use crate::attribute::Attribute;
use crate::bus::Record;
use crate::config::{self, Config};
use crate::route::RouteTable;
use crate::vocabulary::TYPE_PREFIX;

mod answer;
pub(super) mod args;
mod bridge;
mod checkpoint;
mod filter;
mod source;
mod target;

pub(super) use answer::Answer;
use args::{Into, ReplayArgs};
pub(super) use bridge::Bridge;
use checkpoint::Checkpoint;
use filter::Filter;
use source::{Found, Shard, Source};
use target::{Output, Target};

/// The most records and bytes that are sent between two checkpoints; a single record may exceed the bytes.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 8 << 20;

/// How often a batch is tried, and how long between two attempts.
const ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How many records that were not taken are named.
const NAMED: usize = 10;

/// The bus to read, and its topics.
pub(super) struct Origin {
    pub(super) bus: config::Bus,
    pub(super) topics: Vec<String>,
}

impl Origin {
    pub(super) fn new(bus: config::Bus, routes: &RouteTable) -> Self {
        Self { bus, topics: routes.topics().iter().map(ToString::to_string).collect() }
    }
}

/// What the destination needs of the configuration.
pub(super) enum Destination<'a> {
    Bus {
        config: &'a Config,
        routes: &'a RouteTable,
    },
    /// With its signing secrets.
    Bridge(&'a Loaded),
    File,
}

/// Replays until the end of what is there now. Ctrl-C stops between two batches.
///
/// # Errors
/// Something was not taken.
pub(super) async fn run(args: &ReplayArgs, origin: &Origin, destination: Destination<'_>) -> Result<(), Failure> {
    if matches!(args.into, Into::Bus) && args.file.is_none() && args.source.is_none() {
        let says = "from the configured bus to itself: give --file or --source, or another --into";
        return Err(Failure::Mistake(says.to_owned()));
    }
    let mut checkpoint = Checkpoint::open(args.checkpoint.as_deref(), described(args))?;
    if checkpoint.is_finished {
        return print("this replay is finished; remove its checkpoint to begin again\n");
    }
    let topics = match &args.topics[..] {
        [] => Topics::Routed(origin.topics.clone()),
        named => Topics::Named(named.to_vec()),
    };
    let source = match &args.file {
        Some(path) => Source::file(path)?,
        None => Source::bus(&origin.bus, &topics, args.from).await?,
    };
    let records = Records { source, filter: Filter::new(args), pending: None };
    if args.dry_run {
        return count(records, &checkpoint).await;
    }
    if matches!(destination, Destination::Bus { config: Config { bus: config::Bus::Kafka(_), .. }, .. }) {
        eprintln!(
            "Kafka keeps what it is given again: whatever is there already will be there twice, under the same id"
        );
    }
    let target = target(args, destination, &checkpoint).await?;
    // What is written from here on can be gone on with.
    checkpoint.save()?;
    let mut replay =
        Replay { records, target, sum: Sum::default(), bar: bar(), began: Instant::now(), rate: args.rate.get() };
    let done = replay.run(&mut checkpoint).await;
    replay.bar.finish_and_clear();
    let Replay { target, sum, .. } = replay;
    let other_ids = if let Target::Bridge(bridge) = &target { bridge.other_ids() } else { 0 };
    target.close().await;
    let ended = sum.report(other_ids);
    done.and(ended)
}

/// The arguments that must be the same for a checkpoint to count.
fn described(args: &ReplayArgs) -> String {
    let ReplayArgs { topics, file, source, from, to, types, users, into, .. } = args;
    let text = format!("{topics:?} {file:?} {source:?} {from:?} {to:?} {types:?} {users:?} {into:?}");
    // It names users and URLs.
    data_encoding::HEXLOWER.encode(&crate::identity::digest(&[text.as_bytes()]))
}

async fn target(args: &ReplayArgs, destination: Destination<'_>, checkpoint: &Checkpoint) -> Result<Target, Failure> {
    match (&args.into, destination) {
        (Into::Bus, Destination::Bus { config, routes }) => Ok(Target::Bus(Access::to_bus(config, routes).await?)),
        (Into::Url(url), Destination::Bridge(loaded)) => {
            let endpoint = super::send::endpoint(&loaded.config, args.endpoint.as_deref())?;
            Ok(Target::Bridge(Box::new(Bridge::new(url.clone(), endpoint, None)?)))
        }
        (Into::File(path), _) => {
            let known = checkpoint.goes_on.then_some(checkpoint.bytes);
            Ok(Target::File(Output::open(path, known)?))
        }
        _ => Err(Failure::Mistake("--into and its configuration do not fit".to_owned())),
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {human_pos} replayed  {per_sec}  {msg}");
    let bar = ProgressBar::new_spinner().with_style(style.expect("the template is legal"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// The wanted records of a source.
struct Records {
    source: Source,
    filter: Filter,
    /// Did not fit into the last batch.
    pending: Option<Found>,
}

/// What is sent between two checkpoints.
#[derive(Default)]
struct Batch {
    wanted: Vec<Found>,
    /// The last record that was seen of each shard, wanted or not.
    seen: BTreeMap<Shard, u64>,
    is_last: bool,
}

impl Records {
    async fn batch(&mut self, checkpoint: &Checkpoint) -> Result<Batch, Failure> {
        let (mut batch, mut bytes) = (Batch::default(), 0);
        while batch.wanted.len() < BATCH {
            let next = match self.pending.take() {
                Some(found) => Some(found),
                None => self.source.next().await?,
            };
            let Some(found) = next else {
                batch.is_last = true;
                break;
            };
            let is_wanted = self.filter.takes(&found.record) && !checkpoint.is_done(&found.shard, found.number);
            bytes += if is_wanted { found.record.payload.len() } else { 0 };
            if bytes > BATCH_BYTES && !batch.wanted.is_empty() {
                self.pending = Some(found);
                break;
            }
            batch.seen.insert(found.shard.clone(), found.number);
            if is_wanted {
                batch.wanted.push(found);
            }
        }
        Ok(batch)
    }
}

struct Replay {
    records: Records,
    target: Target,
    sum: Sum,
    bar: ProgressBar,
    began: Instant,
    rate: u32,
}

impl Replay {
    async fn run(&mut self, checkpoint: &mut Checkpoint) -> Result<(), Failure> {
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        tokio::spawn(async move {
            let _ = tokio::signal::ctrl_c().await;
            stopping.cancel();
        });
        let mut sent = 0_u64;
        loop {
            let batch = self.records.batch(checkpoint).await?;
            sent += batch.wanted.len() as u64;
            let (is_last, seen) = (batch.is_last, batch.seen);
            self.send(batch.wanted, checkpoint, &stop).await?;
            checkpoint.advance(seen);
            checkpoint.bytes = self.target.bytes();
            checkpoint.is_finished = is_last;
            checkpoint.save()?;
            if is_last {
                return Ok(());
            }
            let due = self.began + Duration::from_secs_f64(sent as f64 / f64::from(self.rate));
            tokio::select! {
                () = sleep_until(due) => {}
                () = stop.cancelled() => {}
            }
            if stop.is_cancelled() {
                return Err(stopped("Ctrl-C", checkpoint));
            }
        }
    }

    /// Sends the batch, again and again what is not taken yet.
    async fn send(
        &mut self,
        mut batch: Vec<Found>,
        checkpoint: &mut Checkpoint,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let (mut pause, mut why) = (FIRST_PAUSE, String::new());
        for attempt in 0..ATTEMPTS {
            if batch.is_empty() {
                return Ok(());
            }
            if attempt > 0 {
                self.bar.set_message("waiting: not everything was taken");
                tokio::select! {
                    () = sleep(pause) => {}
                    () = stop.cancelled() => break,
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            let records = batch.iter().map(|found| found.record.clone()).collect();
            let answers = self.target.send(records).await?;
            let mut left = Vec::new();
            for (found, answer) in batch.into_iter().zip(answers) {
                match answer {
                    Answer::NotYet(reason) => {
                        why = reason;
                        left.push(found);
                        continue;
                    }
                    Answer::Done(outcome) => {
                        checkpoint.replayed += 1;
                        self.bar.inc(1);
                        *self.sum.outcomes.entry(outcome).or_insert(0) += 1;
                    }
                    Answer::Never(reason) => self.sum.never(&found.record, reason),
                }
                checkpoint.done(&found.shard, found.number);
            }
            batch = left;
        }
        if batch.is_empty() {
            return Ok(());
        }
        checkpoint.bytes = self.target.bytes();
        checkpoint.save()?;
        Err(stopped(&why, checkpoint))
    }
}

fn stopped(why: &str, checkpoint: &Checkpoint) -> Failure {
    let on = "with a --checkpoint the same command goes on from there";
    Failure::Running(format!("stopped after {} ({why}); {on}", checkpoint.replayed))
}

/// How the records ended.
#[derive(Default)]
struct Sum {
    outcomes: BTreeMap<String, u64>,
    never: u64,
    /// The first of those that were never taken.
    named: Vec<String>,
}

impl Sum {
    fn never(&mut self, record: &Record, reason: String) {
        self.never += 1;
        if self.named.len() < NAMED {
            let id = record.attribute(Attribute::Id).unwrap_or_else(|| "?".to_owned());
            self.named.push(format!("  {id} ({} at {}): {reason}", record.topic, record.offset));
        }
    }

    fn report(&self, other_ids: u64) -> Result<(), Failure> {
        let all: u64 = self.outcomes.values().sum();
        let by_outcome: Vec<String> =
            self.outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
        let detail = if by_outcome.is_empty() { String::new() } else { format!(": {}", by_outcome.join(", ")) };
        print(&harmless(&format!("replayed {all}{detail}\n")))?;
        if other_ids > 0 {
            print(&format!("{other_ids} got another id: they came without a trace id, or from another endpoint\n"))?;
        }
        match self.never {
            0 => Ok(()),
            never => Err(Failure::Running(format!("{never} were not taken:\n{}", self.named.join("\n")))),
        }
    }
}

/// What `--dry-run` prints.
async fn count(mut records: Records, checkpoint: &Checkpoint) -> Result<(), Failure> {
    let mut rows: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    let (mut times, mut incomplete) = (None, 0);
    loop {
        let batch = records.batch(checkpoint).await?;
        for Found { record, .. } in batch.wanted {
            let name = record.attribute(Attribute::Type).unwrap_or_else(|| "?".to_owned());
            let name = name.strip_prefix(TYPE_PREFIX).unwrap_or(&name).to_owned();
            let row = rows.entry((record.topic.clone(), name)).or_default();
            *row = (row.0 + 1, row.1 + record.payload.len() as u64);
            let (first, last) = times.unwrap_or((record.time, record.time));
            times = Some((first.min(record.time), last.max(record.time)));
            incomplete += u64::from(record.problem.is_some() || record.attribute(Attribute::Id).is_none());
        }
        if batch.is_last {
            break;
        }
    }
    let (all, bytes) = rows.values().fold((0, 0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
    let mut text: String = rows
        .iter()
        .map(|((topic, name), (count, bytes))| format!("  {topic}  {name}  {count}  {}\n", ByteSize(*bytes)))
        .collect();
    text += &format!("{all} would be replayed, {}", ByteSize(bytes));
    if let Some((first, last)) = times {
        text += &format!(", stored from {first:.3} to {last:.3}");
    }
    if incomplete > 0 {
        text += &format!("\n{incomplete} of them cannot be: no bridge wrote them, or their payload is missing");
    }
    print(&harmless(&format!("{text}\n")))
}

/// The bus of another configuration file, for which no variable of the bridge's counts.
pub(super) fn foreign(file: &Path) -> Result<Origin, crate::config::Mistakes> {
    let environment = std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("TERRA_BRIDGE_"));
    let (bus, routes) = super::load::load_for_reader(Some(file), environment)?;
    Ok(Origin::new(bus, &routes))
}
