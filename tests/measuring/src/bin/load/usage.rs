//! CPU time and memory of a process, according to Linux.

use std::io;
use std::time::Duration;

use serde_json::Value;

/// Of the times in /proc/PID/stat.
const TICK: Duration = Duration::from_millis(10);

/// What a process has used so far.
pub(crate) struct Usage {
    user: Duration,
    system: Duration,
    peak_rss_kib: u64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field, in parentheses, may contain blanks; user time is the fourteenth.
        let (_, rest) = stat.rsplit_once(')').ok_or(io::ErrorKind::InvalidData)?;
        let mut ticks = rest.split_whitespace().skip(11).map_while(|ticks| ticks.parse::<u32>().ok());
        let mut next = || ticks.next().map(|ticks| TICK * ticks).ok_or(io::ErrorKind::InvalidData);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        let peak_rss_kib = peak.and_then(|peak| peak.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { user: next()?, system: next()?, peak_rss_kib })
    }

    /// What each of so many deliveries took until then.
    pub(crate) fn until(&self, after: &Self, deliveries: u64) -> [(String, Value); 4] {
        let of_one = |time: Duration| time.as_secs_f64() * 1e6 / deliveries.max(1) as f64;
        let (user, system) = (of_one(after.user - self.user), of_one(after.system - self.system));
        [
            ("cpu_us", user + system),
            ("user_us", user),
            ("system_us", system),
            ("peak_rss_mib", after.peak_rss_kib as f64 / 1024.0),
        ]
        .map(|(name, value)| (name.to_owned(), value.into()))
    }
}
