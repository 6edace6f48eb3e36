//! Everything that was measured, as it is written to a file.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use measuring::destination::Error;
use serde::{Deserialize, Serialize};

use crate::cell::{Bus, Cell};
use crate::counts::Allocations;
use crate::round::Round;
use crate::target::{Program, Programs};

#[derive(Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: String,
    pub(crate) machine: String,
    pub(crate) cells: Vec<Measured>,
    pub(crate) mixed: Vec<Mixed>,
    /// From starting the bridge on an empty embedded log to its readiness.
    pub(crate) starts_ms: Vec<f64>,
}

/// One cell. The rounds of floor and bridge took turns.
#[derive(Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) cell: Cell,
    pub(crate) floor: OfProgram,
    pub(crate) bridge: OfProgram,
}

#[derive(Default, Serialize, Deserialize)]
pub(crate) struct OfProgram {
    pub(crate) rounds: Vec<Round>,
    pub(crate) allocations: Option<Allocations>,
    /// By name; `None` where there was no strace.
    pub(crate) syscalls: Option<BTreeMap<String, f64>>,
}

/// Small deliveries alone, and while large ones pass.
#[derive(Serialize, Deserialize)]
pub(crate) struct Mixed {
    pub(crate) bus: Bus,
    pub(crate) floor: Vec<(Round, Round)>,
    pub(crate) bridge: Vec<(Round, Round)>,
}

impl Record {
    pub(crate) fn new(programs: &Programs) -> Result<Self, Error> {
        let version = Command::new(programs.measured.join("terra-bridge")).arg("--version").output()?.stdout;
        Ok(Self {
            version: String::from_utf8(version)?.trim().to_owned(),
            machine: machine(),
            cells: Vec::new(),
            mixed: Vec::new(),
            starts_ms: Vec::new(),
        })
    }

    pub(crate) fn read(file: &Path) -> Result<Self, Error> {
        Ok(serde_json::from_slice(&std::fs::read(file)?)?)
    }

    pub(crate) fn write(&self, file: &Path) -> Result<(), Error> {
        Ok(std::fs::write(file, serde_json::to_string_pretty(self)? + "\n")?)
    }

    /// Whether a bus does not keep what was acknowledged.
    pub(crate) fn has_lost(&self) -> bool {
        let of_cells = self.cells.iter().flat_map(|cell| cell.floor.rounds.iter().chain(&cell.bridge.rounds));
        let mixed = self.mixed.iter().flat_map(|mixed| mixed.floor.iter().chain(&mixed.bridge));
        of_cells.chain(mixed.flat_map(|(alone, beside)| [alone, beside])).any(|round| round.lost() > 0)
    }
}

impl Measured {
    pub(crate) fn new(cell: Cell) -> Self {
        Self { cell, floor: OfProgram::default(), bridge: OfProgram::default() }
    }

    pub(crate) fn of(&mut self, program: Program) -> &mut OfProgram {
        match program {
            Program::Floor => &mut self.floor,
            Program::Bridge => &mut self.bridge,
        }
    }
}

impl Mixed {
    pub(crate) fn new(bus: Bus) -> Self {
        Self { bus, floor: Vec::new(), bridge: Vec::new() }
    }

    pub(crate) fn of(&mut self, program: Program) -> &mut Vec<(Round, Round)> {
        match program {
            Program::Floor => &mut self.floor,
            Program::Bridge => &mut self.bridge,
        }
    }
}

/// Its processors and memory.
fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, model)| model);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{count} × {}, {} GiB", model.unwrap_or("unknown processor"), kib.unwrap_or(0_u64) >> 20)
}

/// `None` of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
