//! The process itself, by the names that Prometheus' own clients use. What the system does not tell is left out.

use std::fmt;
use std::sync::OnceLock;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::text::Text;

#[derive(Debug, Default)]
pub(super) struct Process {
    /// Unix seconds.
    started: OnceLock<Option<f64>>,
}

/// Of `/proc/self/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    threads: u64,
    /// Clock ticks from the machine's start.
    started: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the program's name, which may have blanks and brackets in it.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        // Numbered as in proc(5); the first behind the name is 3.
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Self { threads: field(20)?, started: field(22)?, virtual_bytes: field(23)?, resident_pages: field(24)? })
    }
}

/// When the machine started, in Unix seconds.
fn boot_time(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let text = &mut Text(encoder);
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = ConstCounter::new(cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9);
        text.one("process_cpu", Some(Unit::Seconds), "CPU time that the process has taken", cpu)?;
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            // One of them is the directory itself.
            let open = ConstGauge::new(open.count().saturating_sub(1));
            text.one("process_open_fds", None, "Open file descriptors", open)?;
        }
        if let Some(limit) = getrlimit(Resource::Nofile).current {
            text.one("process_max_fds", None, "The most file descriptors that may be open", ConstGauge::new(limit))?;
        }
        let Some(stat) = std::fs::read_to_string("/proc/self/stat").ok().and_then(|stat| Stat::parse(&stat)) else {
            return Ok(());
        };
        let bytes = || Some(Unit::Bytes);
        let resident = ConstGauge::new(stat.resident_pages.saturating_mul(page_size() as u64));
        text.one("process_resident_memory", bytes(), "Memory that the process has in RAM", resident)?;
        let reserved = ConstGauge::new(stat.virtual_bytes);
        text.one("process_virtual_memory", bytes(), "Address space that the process has taken", reserved)?;
        text.one("process_threads", None, "Threads of the process", ConstGauge::new(stat.threads))?;
        let started = || {
            let boot = boot_time(&std::fs::read_to_string("/proc/stat").ok()?)?;
            Some(boot + stat.started as f64 / clock_ticks_per_second() as f64)
        };
        let Some(started) = *self.started.get_or_init(started) else { return Ok(()) };
        let help = "When the process started, in Unix time";
        text.one("process_start_time", Some(Unit::Seconds), help, ConstGauge::new(started))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_procfs_is_read_whatever_the_programs_name() {
        let line =
            "7 (a) b (c) S 1 7 7 0 -1 4194560 900 0 0 0 12 3 0 0 20 0 9 0 4242 123456789 321 18446744073709551615";
        let stat = Stat { threads: 9, started: 4242, virtual_bytes: 123_456_789, resident_pages: 321 };
        assert_eq!(Stat::parse(line), Some(stat));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000.0));
    }
}
