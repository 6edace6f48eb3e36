//! File descriptors: each connection takes one, and so do the bus, the logs and health checks. Connections leave a
//! reserve for the others. The usual soft limit of 1024 exists for programs that use `select`, which nothing here
//! does.

use rustix::process::{Resource, getrlimit, setrlimit};

/// The open descriptors when the listeners start, if the system does not tell: an estimate.
const USUALLY_OPEN: usize = 64;

/// Connections leave this fraction of the limit to the bus, fetches and logs, within these bounds.
const RESERVED_PART: usize = 8;
const LEAST_RESERVE: usize = 16;
const MOST_RESERVE: usize = 512;

/// Connections of an internal listener: this fraction of the rest, within these bounds.
const INTERNAL_PART: usize = 8;
const FEWEST_INTERNAL: usize = 4;
const MOST_INTERNAL: usize = 1024;

/// The listeners besides the one for deliveries: admin, and the embedded log's.
const INTERNAL_LISTENERS: usize = 2;

/// How many connections each listener may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    pub deliveries: usize,
    /// For each internal listener.
    pub internal: usize,
}

impl Shares {
    /// Splits `limit` descriptors (`None`: unlimited), of which `open` are in use, when deliveries want
    /// `max_connections`. Each listener gets at least one.
    pub fn of(limit: Option<u64>, open: usize, max_connections: usize) -> Self {
        let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let reserve = (limit / RESERVED_PART).clamp(LEAST_RESERVE, MOST_RESERVE);
        // Each listener accepts one connection more than it has slots.
        let free = limit.saturating_sub(open + reserve + INTERNAL_LISTENERS + 1);
        let internal = (free / INTERNAL_PART).clamp(FEWEST_INTERNAL, MOST_INTERNAL);
        let deliveries = free.saturating_sub(INTERNAL_LISTENERS * internal).clamp(1, max_connections.max(1));
        Self { deliveries, internal }
    }
}

/// Raises the soft limit to the hard one. Returns how many descriptors may then be open; `None`: unlimited.
pub fn raise_limit() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    let soft = limit.current;
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_ok() { limit.maximum } else { soft }
}

/// How many descriptors a bridge started here could open; `None`: unlimited.
pub fn hard_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// How many descriptors this process has open.
pub fn open() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(USUALLY_OPEN, Iterator::count)
}

/// Roughly how many descriptors a bridge has open when its listeners start.
pub fn usually_open() -> usize {
    USUALLY_OPEN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_to_bus_log_and_health() {
        let shares = |limit, open, wanted| {
            let Shares { deliveries, internal } = Shares::of(limit, open, wanted);
            (deliveries, internal)
        };
        assert_eq!(shares(None, 60, 10_000), (10_000, 1024));
        assert_eq!(shares(Some(1 << 20), 60, 10_000), (10_000, 1024));
        assert_eq!(shares(Some(64), 20, 10_000), (17, 4));
        assert_eq!(shares(Some(16), 20, 10_000), (1, 4), "too few for anything");
        for limit in [64, 256, 1024, 4096, 20_000] {
            let (deliveries, internal) = shares(Some(limit), 24, usize::MAX);
            let reserve = limit as usize - 24 - deliveries - 2 * internal;
            assert!(reserve >= limit as usize / RESERVED_PART || reserve >= MOST_RESERVE, "{reserve} of {limit}");
        }
    }
}
