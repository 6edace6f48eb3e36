//! File descriptors: each connection takes one, and the usual soft limit of 1024 is for programs
//! that use `select`, which nothing here does.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the soft limit to the hard one. Returns how many descriptors may be open then; `None`: any number.
pub fn raise_limit() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    let soft = limit.current;
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_ok() { limit.maximum } else { soft }
}
