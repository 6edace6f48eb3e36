//! A pretend Terra in a hurry: delivers on so many connections as fast as answers come. Prints what it saw, and what
//! the target's process used meanwhile, as one line of JSON.
//!
//! - `body`: deliveries, each one signed by itself and like no other
//! - `connection`: sends them, one after the other
//! - `tally`: what came back, and when it counts
//! - `usage`: CPU time and memory of the target

mod body;
mod connection;
mod tally;
mod usage;

use std::error::Error;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;

use body::Kind;
use tally::{Tally, Window};
use usage::Usage;

/// Delivers to a bridge or a floor. The secret is in TERRA_SIGNING_SECRET.
#[derive(Parser)]
struct Arguments {
    /// The target's address
    #[arg(long)]
    to: SocketAddr,
    /// The target's process, whose CPU time and memory are reported
    #[arg(long)]
    pid: Option<u32>,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Bytes of a body
    #[arg(long, default_value_t = 1600)]
    size: usize,
    #[arg(long, default_value_t = 1000)]
    users: usize,
    /// How long to measure
    #[arg(long, default_value_t = 7.0)]
    seconds: f64,
    /// How long to deliver before that
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// So many deliveries, and no warm-up, in place of a time
    #[arg(long)]
    deliveries: Option<u64>,
    /// Connections beside these, for bodies of `--large-size`; reported apart
    #[arg(long, default_value_t = 0)]
    large_connections: usize,
    /// Bytes
    #[arg(long, default_value_t = 10_000_000)]
    large_size: usize,
    /// One for every four processors where not given: the target and its broker need the rest
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let arguments = Arguments::parse();
    let secret = std::env::var("TERRA_SIGNING_SECRET")?;
    let end = arguments.deliveries.unwrap_or(u64::MAX);
    let kinds =
        [arguments.size, arguments.large_size].map(|size| Arc::new(Kind::new(&secret, size, arguments.users, end)));
    let large = std::iter::repeat_n(1, arguments.large_connections);
    let connections = std::iter::repeat_n(0, arguments.connections).chain(large);
    let window = arguments.window();

    let mut shares = vec![Vec::new(); arguments.threads()];
    for (number, kind) in connections.enumerate() {
        let share = number % shares.len();
        shares[share].push((kind, kinds[kind].clone()));
    }
    let to = arguments.to;
    let workers: Vec<_> =
        shares.into_iter().map(|share| std::thread::spawn(move || connection::deliver(to, share, window))).collect();

    std::thread::sleep(window.opens.saturating_duration_since(Instant::now()));
    let before = arguments.pid.map(Usage::of).transpose()?;
    std::thread::sleep(window.closes.saturating_duration_since(Instant::now()));
    let after = arguments.pid.map(Usage::of).transpose()?;

    let mut tallies = [Tally::new(), Tally::new()];
    for worker in workers {
        for (kind, tally) in worker.join().map_err(|_| "a thread panicked")?? {
            tallies[kind].add(tally);
        }
    }
    let [small, large] = &tallies;
    let mut report = small.report(arguments.seconds);
    if arguments.large_connections > 0 {
        report.insert("large".to_owned(), large.report(arguments.seconds).into());
    }
    if let (Some(before), Some(after)) = (before, after) {
        report.extend(before.until(&after, small.counted + large.counted));
    }
    println!("{}", serde_json::Value::from(report));
    Ok(())
}

impl Arguments {
    /// Of a number of deliveries only the answers are of interest: nothing is measured.
    fn window(&self) -> Window {
        let begin = Instant::now();
        match self.deliveries {
            Some(_) => Window { opens: begin, closes: begin, ends: None },
            None => {
                let opens = begin + Duration::from_secs_f64(self.warmup);
                let closes = opens + Duration::from_secs_f64(self.seconds);
                Window { opens, closes, ends: Some(closes) }
            }
        }
    }

    fn threads(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        self.threads.unwrap_or(processors.div_ceil(4)).max(1)
    }
}
