//! Breaks things while a pretend Terra delivers, and checks the promise. See `./tests/faults --help`.
//!
//! - `kinds`, `plan`, `rounds`, `bodies`: the meaning of a seed; pure values
//! - `terra`, `wire`, `ledger`: the sender, its connections, and its records
//! - `world`, `settings`, `cluster`, `proxy`, `refused`, `disk`, `busy`, `admin`: the targets and tools of faults;
//!   `burst`, `strikes`: carry them out
//! - `readers`, `judge`, `report`: the final content of the bus, the verdict, and its report

#![expect(unreachable_pub, reason = "a test crate has no public")]

mod admin;
mod bodies;
mod burst;
mod busy;
mod cluster;
mod disk;
mod judge;
mod kinds;
mod ledger;
mod plan;
mod proxy;
mod readers;
mod refused;
mod report;
mod rounds;
mod settings;
mod strikes;
#[path = "../it/support/mod.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod support;
mod terra;
mod wire;
mod world;

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;

use cluster::Cluster;
use judge::Judge;
use kinds::{BusName, Kind};
use ledger::Ledger;
use plan::{Narrowed, Plan};
use report::Line;
use terra::Terra;
use world::World;

/// From the last repair until every delivery has its 2xx.
const DONE_WITHIN: Duration = Duration::from_secs(90);

/// Breaks things while a pretend Terra delivers, and judges by the promise: a 2xx means that the bus
/// keeps the event, nothing else gets a 2xx, and nothing that Terra signed is lost.
#[derive(Parser)]
#[command(name = "tests/faults")]
struct Arguments {
    /// Seeds from 1 on
    #[arg(long, default_value_t = 10, conflicts_with = "seed")]
    seeds: u64,
    /// One seed alone
    #[arg(long)]
    seed: Option<u64>,
    /// kafka, nats, embedded, kafka3 or nats3; by turns where not given
    #[arg(long)]
    bus: Option<BusName>,
    /// Only these kinds of fault; --list names them
    #[arg(long, value_delimiter = ',')]
    kinds: Option<Vec<Kind>>,
    /// Begin no further seed after so many minutes; without --seeds, as many as fit. Where CI is set every
    /// kind of fault must have had its turn by then
    #[arg(long)]
    minutes: Option<u64>,
    /// Append a line of JSON for each seed to this file
    #[arg(long)]
    report: Option<PathBuf>,
    /// Go on with the report: no seed that it has, and the table over all of it
    #[arg(long, requires = "report")]
    resume: bool,
    /// Name the kinds of fault
    #[arg(long)]
    list: bool,
}

impl Arguments {
    fn seeds(&self, given: bool) -> std::ops::RangeInclusive<u64> {
        match (self.seed, self.minutes) {
            (Some(seed), _) => seed..=seed,
            (None, Some(_)) if !given => 1..=u64::MAX,
            (None, _) => 1..=self.seeds,
        }
    }

    /// The seeds, if not limited only by `--minutes`.
    fn asked(&self, given: bool) -> Option<std::ops::RangeInclusive<u64>> {
        (self.seed.is_some() || self.minutes.is_none() || given).then(|| self.seeds(given))
    }

    fn narrowed(&self) -> Narrowed {
        Narrowed { bus: self.bus, kinds: self.kinds.clone() }
    }

    /// In command-line notation.
    fn narrowed_text(&self) -> String {
        let bus = self.bus.map(|bus| format!("--bus {bus}"));
        let names = |kinds: &Vec<Kind>| kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(",");
        let kinds = self.kinds.as_ref().map(|kinds| format!("--kinds {}", names(kinds)));
        bus.into_iter().chain(kinds).collect::<Vec<_>>().join(" ")
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}

/// Whether the promise held.
fn run() -> Result<bool, String> {
    let matches = <Arguments as clap::CommandFactory>::command().get_matches();
    let arguments =
        <Arguments as clap::FromArgMatches>::from_arg_matches(&matches).map_err(|error| error.to_string())?;
    if arguments.list {
        list();
        return Ok(true);
    }
    let mut lines = match &arguments.report {
        Some(path) if arguments.resume => report::read(path)?,
        _ => Vec::new(),
    };
    let given = matches.value_source("seeds") == Some(clap::parser::ValueSource::CommandLine);
    let (narrowed, text) = (arguments.narrowed(), arguments.narrowed_text());
    let end = arguments.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let mut clusters = Clusters::default();
    let mut not_begun = None;
    for seed in arguments.seeds(given) {
        if end.is_some_and(|end| Instant::now() >= end) {
            not_begun = Some(seed);
            break;
        }
        if lines.iter().any(|line| line.seed == seed && line.narrowed == text) {
            continue;
        }
        let plan = plan::plan(seed, &narrowed);
        if !clusters.has(plan.bus) {
            eprintln!("seed {seed:>4} {:<8} SKIPPED: this machine has no such broker", plan.bus);
            continue;
        }
        let line = clusters.judged(&plan, Line::new(&plan, &text));
        eprintln!("{}", line.short());
        if let Some(path) = &arguments.report {
            report::append(path, &line).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        lines.push(line);
    }
    println!("{}", report::table(&lines));
    let enough = match (not_begun, arguments.asked(given)) {
        (Some(first), Some(asked)) => cut_short(first, asked, &lines, &narrowed),
        _ => true,
    };
    Ok(enough && lines.iter().all(|line| line.violations.is_empty()))
}

/// Reports that the time ran out before everything had its turn. With `CI` set, that passes only if every kind of
/// fault had one.
fn cut_short(first: u64, asked: std::ops::RangeInclusive<u64>, lines: &[Line], narrowed: &Narrowed) -> bool {
    let left = asked.end() - first + 1;
    println!("CUT SHORT by --minutes: {left} of {} seeds were not begun", asked.clone().count());
    let missing = report::missing(lines, asked.map(|seed| plan::plan(seed, narrowed)));
    let names = missing.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(" ");
    if !missing.is_empty() {
        println!("NEVER CARRIED OUT: {names}");
    }
    missing.is_empty() || !in_ci()
}

/// Where nothing may be skipped silently.
fn in_ci() -> bool {
    std::env::var_os("CI").is_some()
}

fn list() {
    for kind in Kind::ALL {
        let buses = BusName::ALL.iter().filter(|bus| kind.fits(**bus)).map(|bus| bus.name());
        println!("{kind:<22}{}", buses.collect::<Vec<_>>().join(" "));
    }
}

/// Brokers start slowly, so they are kept from seed to seed.
#[derive(Default)]
struct Clusters(BTreeMap<BusName, Cluster>);

impl Clusters {
    fn has(&mut self, bus: BusName) -> bool {
        if bus != BusName::Embedded && !self.0.contains_key(&bus) {
            self.0.extend(Cluster::start(bus).map(|cluster| (bus, cluster)));
        }
        bus == BusName::Embedded || self.0.contains_key(&bus)
    }

    /// A seed that cannot be run or judged at all is itself a violation.
    fn judged(&mut self, plan: &Plan, line: Line) -> Line {
        let began = Instant::now();
        let cluster = self.0.get_mut(&plan.bus);
        let judged = catch_unwind(AssertUnwindSafe(|| carry_out(plan, line.clone(), cluster)));
        let mut line = judged.unwrap_or_else(|panic| {
            let why = format!("it could not be carried out: {}", said(panic.as_ref()));
            Line { violations: vec![why], ..line }
        });
        line.took_ms = began.elapsed().as_millis() as u64;
        if !line.violations.is_empty() {
            // The next seed must not suffer from it.
            self.0.remove(&plan.bus);
        }
        line
    }
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked")
}

fn carry_out(plan: &Plan, line: Line, cluster: Option<&mut Cluster>) -> Line {
    let mut world = World::prepare(plan, cluster);
    let ledger = Arc::new(Ledger::new(plan));
    world.ledger = ledger.clone();
    let terra = Terra::start(plan, ledger.clone(), world.destination.clone());
    burst::carry_out(plan, &mut world, &terra);
    world.warm_up();
    terra.send_at_rate(plan);
    let skipped = strikes::carry_out(plan, &mut world);
    world.pass(DONE_WITHIN, |_| terra.is_done());
    if !terra.is_done() {
        world.looks_itself();
    }
    terra.stop();
    world.drain_spool();
    world.terminate();
    let mut judge = Judge::new(&ledger, plan, world.topic(""), line);
    match plan.bus {
        BusName::Embedded => {
            // Counts what is on disk, not what a process may still hold.
            world.bring_back();
            readers::embedded(world.bridge.as_ref().expect("it starts on its own log"), |got| judge.sees(got));
        }
        _ => readers::brokers(&world.admin(), |got| judge.sees(got)),
    }
    let mut line = judge.judges();
    line.peak_bytes = world.peak();
    if line.peak_bytes > plan.memory {
        line.violations.push(format!("the bridge took {} MiB of memory", line.peak_bytes >> 20));
    }
    if !line.violations.is_empty() {
        line.said = world.said();
    }
    line.skipped = skipped.into_iter().map(|(kind, why)| format!("{kind}: {why}")).collect();
    if in_ci() {
        line.violations.extend(line.skipped.iter().map(|skipped| format!("not carried out: {skipped}")));
    }
    if plan.bus != BusName::Embedded {
        world.admin().clean_up();
    }
    line
}
