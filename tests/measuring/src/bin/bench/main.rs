//! Measures terra-bridge beside the floor. See `./tests/bench --help`.
//!
//! - `cell`: what is measured: a bus, a size, a number of connections
//! - `target`: a floor or a bridge that runs, on a topic or stream of its own
//! - `round`, `counts`: what one run of the load saw; allocations and system calls of a delivery
//! - `record`: all of it, as it is written to a file; `table` and `compare` say it in words

mod cell;
mod compare;
mod counts;
mod record;
mod round;
mod table;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use measuring::destination::Error;

use cell::{Bus, Cell};
use record::{Measured, Mixed, Record};
use target::{Program, Programs};

/// Bytes: two of these bodies pass beside the small ones with `--mixed`.
const LARGE: usize = 10_000_000;
const LARGE_CONNECTIONS: usize = 2;
/// How often a bridge is started to see how long that takes.
const STARTS: usize = 5;

/// Measures terra-bridge beside the floor, a program that verifies, publishes, and does nothing else. Load generator
/// and brokers share the machine with them: read the ratios.
#[derive(Parser)]
#[command(name = "tests/bench")]
struct Arguments {
    /// One round of two seconds, of small deliveries, if nothing else is said
    #[arg(long)]
    quick: bool,
    /// kafka, nats, embedded; all three where not given
    #[arg(long, value_delimiter = ',')]
    bus: Vec<Bus>,
    /// Bytes of a body [default: 1600,200000,10000000]
    #[arg(long, value_delimiter = ',')]
    size: Vec<usize>,
    /// As many at once; fewer where their bodies would be more than 100 MB
    #[arg(long, value_delimiter = ',', default_value = "64")]
    connections: Vec<usize>,
    /// Floor and bridge take turns so many times; 0 only counts allocations and system calls [default: 3]
    #[arg(long)]
    rounds: Option<usize>,
    /// How long a round is [default: 7]
    #[arg(long)]
    seconds: Option<f64>,
    /// Also small deliveries while bodies of 10 MB pass, and starts of the bridge on the embedded log
    #[arg(long)]
    mixed: bool,
    /// Write everything to this file, as JSON
    #[arg(long)]
    record: Option<PathBuf>,
    /// Say what is different from this file, which --record wrote
    #[arg(long)]
    compare: Option<PathBuf>,
    /// The directory of terra-bridge, floor and load
    #[arg(long, hide = true)]
    programs: PathBuf,
    /// The directory of the programs that count their allocations
    #[arg(long, hide = true)]
    counted: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the buses keep all that was acknowledged.
async fn run(arguments: Arguments) -> Result<bool, Error> {
    let before = arguments.compare.as_deref().map(Record::read).transpose()?;
    let programs = Programs { measured: arguments.programs.clone(), counted: arguments.counted.clone() };
    let rounds = arguments.rounds.unwrap_or(if arguments.quick { 1 } else { 3 });
    let seconds = arguments.seconds.unwrap_or(if arguments.quick { 2.0 } else { 7.0 });
    let mut record = Record::new(&programs)?;
    for cell in arguments.cells() {
        eprintln!("{cell}");
        let mut measured = Measured::new(cell);
        for _ in 0..rounds {
            for program in [Program::Floor, Program::Bridge] {
                measured.of(program).rounds.push(round::run(&programs, program, cell, seconds, None).await?);
            }
        }
        for program in [Program::Floor, Program::Bridge] {
            measured.of(program).allocations = Some(counts::allocations(&programs, program, cell).await?);
            measured.of(program).syscalls = counts::syscalls(&programs, program, cell).await?;
        }
        record.cells.push(measured);
    }
    if arguments.mixed {
        for bus in arguments.buses() {
            eprintln!("{bus}, small beside large");
            let mut mixed = Mixed::new(bus);
            for _ in 0..rounds.max(1) {
                for program in [Program::Floor, Program::Bridge] {
                    let cell = Cell { bus, size: 1600, connections: 64 };
                    let alone = round::run(&programs, program, cell, seconds, None).await?;
                    let beside =
                        round::run(&programs, program, cell, seconds, Some((LARGE_CONNECTIONS, LARGE))).await?;
                    mixed.of(program).push((alone, beside));
                }
            }
            record.mixed.push(mixed);
        }
        for _ in 0..STARTS {
            record.starts_ms.push(round::start(&programs).await?.as_secs_f64() * 1e3);
        }
    }
    print!("{}", table::draw(&record));
    if let Some(before) = before {
        print!("{}", compare::differences(&before, &record));
    }
    if let Some(file) = &arguments.record {
        record.write(file)?;
    }
    Ok(!record.has_lost())
}

impl Arguments {
    fn buses(&self) -> Vec<Bus> {
        if self.bus.is_empty() { vec![Bus::Kafka, Bus::Nats, Bus::Embedded] } else { self.bus.clone() }
    }

    fn cells(&self) -> Vec<Cell> {
        let sizes: &[usize] = match &self.size[..] {
            [] if self.quick => &[1600],
            [] => &[1600, 200_000, 10_000_000],
            given => given,
        };
        let mut cells = Vec::new();
        for bus in self.buses() {
            for &size in sizes {
                for &connections in &self.connections {
                    let cell = Cell::new(bus, size, connections);
                    if !cells.contains(&cell) {
                        cells.push(cell);
                    }
                }
            }
        }
        cells
    }
}
