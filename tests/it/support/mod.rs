//! Shared support for the tests.

pub mod accounts;
pub mod bridge;
pub mod brokers;
pub mod certificates;
pub mod changing;
pub mod collector;
pub mod consumers;
pub mod crowd;
pub mod expected;
pub mod http;
pub mod json;
pub mod kafka_proxy;
pub mod measured;
pub mod pages;
pub mod shapes;
pub mod store;
pub mod terra;
pub mod tls;
pub mod tokens;

use std::time::{Duration, Instant};

/// Polls until there is an answer; panics with `what` if there is none in time.
pub fn until<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + within;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "{what}: not within {within:?}");
        // The polling interval, not a wait for an event.
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// A name that no other test or run uses.
pub fn unique() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("t{:012x}", RandomState::new().hash_one(0) & 0xffff_ffff_ffff)
}

/// A broker that a test needs: without it the test fails if `CI` is set, and is skipped loudly otherwise.
pub fn needed(variable: &str) -> Option<String> {
    match std::env::var(variable) {
        Ok(value) if !value.is_empty() => Some(value),
        _ if std::env::var_os("CI").is_some() => panic!("{variable} is not set: run ./tests/run"),
        _ => {
            eprintln!("SKIPPED: {variable} is not set; ./tests/run sets it");
            None
        }
    }
}
