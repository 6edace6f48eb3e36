//! What does not depend on how busy the machine is: the allocations and the system calls of a delivery that comes alone.
//!
//! Deliveries come one after the other, because what shares a batch costs less, and that depends on the machine. Once the target is warm, N deliveries are counted, then twice as many: the difference is what N cost, without their
//! connections.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use measuring::destination::Error;
use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::round::deliver;
use crate::target::{Program, Programs, Target, Way};

/// On the average of a delivery.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Allocations {
    pub(crate) count: f64,
    pub(crate) bytes: f64,
}

/// Of the program's Rust; C's malloc is not seen.
pub(crate) async fn allocations(programs: &Programs, program: Program, cell: Cell) -> Result<Allocations, Error> {
    let socket = Temporary::new("allocations");
    let target = Target::start(programs, program, cell.bus, &Way::Counted(&socket.0)).await?;
    let (cell, deliveries) = (alone(cell), enough(cell, 250));
    let counted = deliver_twice(programs, &target, cell, deliveries, || told(&socket.0))?;
    target.stop().await?;
    let of_one = |of: fn(&(u64, u64)) -> u64| {
        let [before, once, twice] = counted.each_ref().map(|counts| of(counts) as f64);
        ((twice - once) - (once - before)) / deliveries as f64
    };
    Ok(Allocations { count: of_one(|counts| counts.0), bytes: of_one(|counts| counts.1) })
}

/// By name, on the average of a delivery. `None` where there is no strace.
pub(crate) async fn syscalls(
    programs: &Programs,
    program: Program,
    cell: Cell,
) -> Result<Option<BTreeMap<String, f64>>, Error> {
    let strace = Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !strace.is_ok_and(|status| status.success()) {
        return Ok(None);
    }
    let trace = Temporary::new("syscalls");
    let target = Target::start(programs, program, cell.bus, &Way::Traced(&trace.0)).await?;
    let (cell, deliveries) = (alone(cell), enough(cell, 150));
    let moments = deliver_twice(programs, &target, cell, deliveries, || Ok(now()))?;
    target.stop().await?;
    let mut calls = BTreeMap::<String, f64>::new();
    for (name, time) in calls_in(&std::fs::read_to_string(&trace.0)?) {
        let sign = match moments.partition_point(|moment| *moment <= time) {
            1 => -1.0,
            2 => 1.0,
            _ => continue,
        };
        *calls.entry(name.to_owned()).or_default() += sign / deliveries as f64;
    }
    calls.retain(|_, count| count.abs() >= 0.005);
    Ok(Some(calls))
}

fn alone(cell: Cell) -> Cell {
    Cell { connections: 1, ..cell }
}

/// So many, or fewer of large ones.
fn enough(cell: Cell, deliveries: u64) -> u64 {
    (3_200_000 / cell.size as u64).clamp(10, deliveries)
}

/// So many deliveries, then twice as many; `look` is called before, between and after.
fn deliver_twice<T>(
    programs: &Programs,
    target: &Target,
    cell: Cell,
    deliveries: u64,
    look: impl Fn() -> Result<T, Error>,
) -> Result<[T; 3], Error> {
    deliver(programs, target, cell, deliveries)?;
    let before = look()?;
    deliver(programs, target, cell, deliveries)?;
    let between = look()?;
    deliver(programs, target, cell, 2 * deliveries)?;
    Ok([before, between, look()?])
}

fn told(socket: &Path) -> Result<(u64, u64), Error> {
    let mut counts = String::new();
    UnixStream::connect(socket)?.read_to_string(&mut counts)?;
    let (count, bytes) = counts.trim().split_once(' ').ok_or("no counts")?;
    Ok((count.parse()?, bytes.parse()?))
}

/// Unix seconds.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Names and times of the calls that begin in these lines, such as `17 1700000000.123456 read(3, ""..., 8) = 8`.
fn calls_in(trace: &str) -> impl Iterator<Item = (&str, f64)> {
    trace.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let time = words.next()?.parse().ok()?;
        let (name, _) = words.next()?.split_once('(')?;
        Some((name, time))
    })
}

/// A path that nothing is at, and nothing is left at.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bench-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
