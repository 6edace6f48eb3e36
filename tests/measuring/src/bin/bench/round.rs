//! One run of the load against a floor or a bridge of its own.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use measuring::destination::Error;
use serde::{Deserialize, Serialize};

use crate::cell::{Bus, Cell};
use crate::target::{Program, Programs, SECRET, Target, Way};

/// What the load saw.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Round {
    pub(crate) per_second: f64,
    /// CPU time of a delivery.
    pub(crate) cpu_us: f64,
    pub(crate) user_us: f64,
    pub(crate) system_us: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) peak_rss_mib: f64,
    /// With a 2xx.
    pub(crate) acknowledged: u64,
    /// How often each other status came.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Without an answer.
    pub(crate) failed: u64,
    /// Messages on the bus; `None` where the floor keeps nothing.
    #[serde(default)]
    pub(crate) kept: Option<u64>,
    /// Of the large bodies beside, if there were any.
    #[serde(default)]
    large: Option<Large>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Large {
    per_second: f64,
    acknowledged: u64,
    refused: BTreeMap<String, u64>,
}

impl Round {
    /// Acknowledged, and not on the bus.
    pub(crate) fn lost(&self) -> u64 {
        let acknowledged = self.acknowledged + self.large.as_ref().map_or(0, |large| large.acknowledged);
        self.kept.map_or(0, |kept| acknowledged.saturating_sub(kept))
    }

    pub(crate) fn not_taken(&self) -> u64 {
        self.refused.values().sum::<u64>() + self.failed
    }
}

/// `large`: connections beside, and the size of their bodies.
pub(crate) async fn run(
    programs: &Programs,
    program: Program,
    cell: Cell,
    seconds: f64,
    large: Option<(usize, usize)>,
) -> Result<Round, Error> {
    let target = Target::start(programs, program, cell.bus, &Way::Measured).await?;
    let mut load = load(programs, &target, cell);
    load.arg("--seconds").arg(seconds.to_string()).arg("--pid").arg(target.pid().to_string());
    if let Some((connections, size)) = large {
        load.arg("--large-connections").arg(connections.to_string()).arg("--large-size").arg(size.to_string());
    }
    let mut round: Round = serde_json::from_slice(&output(load)?)?;
    round.kept = target.kept().await?;
    target.stop().await?;
    Ok(round)
}

/// So many deliveries, as fast as they are answered.
pub(crate) fn deliver(programs: &Programs, target: &Target, cell: Cell, deliveries: u64) -> Result<(), Error> {
    let mut load = load(programs, target, cell);
    load.arg("--deliveries").arg(deliveries.to_string());
    let said: serde_json::Value = serde_json::from_slice(&output(load)?)?;
    if said["acknowledged"] != deliveries {
        return Err(format!("of {deliveries} deliveries not all were taken: {said}").into());
    }
    Ok(())
}

fn load(programs: &Programs, target: &Target, cell: Cell) -> Command {
    let mut load = Command::new(programs.measured.join("load"));
    load.env("TERRA_SIGNING_SECRET", SECRET).stderr(Stdio::inherit());
    load.arg("--to").arg(target.deliveries.to_string());
    load.arg("--size").arg(cell.size.to_string()).arg("--connections").arg(cell.connections.to_string());
    load
}

fn output(mut load: Command) -> Result<Vec<u8>, Error> {
    let output = load.output()?;
    if output.status.success() { Ok(output.stdout) } else { Err("the load failed".into()) }
}

/// From starting the bridge on an empty embedded log to its readiness.
pub(crate) async fn start(programs: &Programs) -> Result<Duration, Error> {
    let begin = Instant::now();
    let target = Target::start(programs, Program::Bridge, Bus::Embedded, &Way::Measured).await?;
    let took = begin.elapsed();
    target.stop().await?;
    Ok(took)
}
