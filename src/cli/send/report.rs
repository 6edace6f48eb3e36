//! Shows the results of deliveries: each reply of a few; counts, rate and percentiles of many.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};

use super::body::Body;
use crate::cli::failure::Failure;
use crate::cli::terminal::print;
use crate::config::Endpoint;

/// Up to this many deliveries, each reply gets a line of its own.
const FEW: u64 = 50;

/// The longest latency in microseconds; the deadline is shorter.
const LONGEST: u64 = 60_000_000;

/// Significant digits of a latency.
const DIGITS: u8 = 3;

/// How one delivery ended.
pub(super) struct Answer<'a> {
    pub(super) name: &'a str,
    pub(super) took: Duration,
    pub(super) reply: Result<Reply, NoReply>,
}

pub(super) struct Reply {
    pub(super) status: u16,
    /// The body in one line.
    pub(super) text: String,
}

pub(super) struct NoReply {
    pub(super) reason: String,
    pub(super) is_connected: bool,
}

pub(super) struct Report {
    planned: u64,
    /// Characters of the longest name.
    width: usize,
    /// Hidden for few deliveries, or without a terminal.
    bar: ProgressBar,
    /// By status, or by the reason why there is none: how many, and the text of the first.
    endings: BTreeMap<Result<u16, String>, (u64, String)>,
    /// In microseconds, only of deliveries with a reply.
    latencies: Histogram<u64>,
    is_connected: bool,
    is_rejected: bool,
    is_unknown_path: bool,
    /// A reply came that the bridge never sends.
    is_foreign: bool,
}

impl Report {
    pub(super) fn new(planned: u64, bodies: &[Body]) -> Self {
        let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len}  {per_sec}  {eta} left")
            .expect("the template is legal");
        let bar = if planned > FEW { ProgressBar::new(planned).with_style(style) } else { ProgressBar::hidden() };
        Self {
            planned,
            width: bodies.iter().map(|body| body.name.chars().count()).max().unwrap_or(0),
            bar,
            endings: BTreeMap::new(),
            latencies: Histogram::new_with_max(LONGEST, DIGITS).expect("legal bounds"),
            is_connected: false,
            is_rejected: false,
            is_unknown_path: false,
            is_foreign: false,
        }
    }

    /// Whether any delivery reached a server.
    pub(super) fn is_connected(&self) -> bool {
        self.is_connected
    }

    pub(super) fn add(&mut self, Answer { name, took, reply }: Answer<'_>) -> Result<(), Failure> {
        self.bar.inc(1);
        let (ending, text) = match reply {
            Ok(Reply { status, text }) => {
                self.is_connected = true;
                self.latencies.saturating_record(took.as_micros().try_into().unwrap_or(u64::MAX));
                // The status alone is ambiguous: an endpoint may answer 503 instead of 401.
                let has_outcome = |outcome: &str| text.contains(&format!(r#""outcome":"{outcome}""#));
                self.is_rejected |= has_outcome("rejected");
                self.is_unknown_path |= has_outcome("unknown_path");
                self.is_foreign |= !text.contains(r#""outcome":"#);
                (Ok(status), text)
            }
            Err(NoReply { reason, is_connected }) => {
                self.is_connected |= is_connected;
                (Err(reason), String::new())
            }
        };
        if self.planned <= FEW {
            let (ending, width, millis) = (described(&ending), self.width, took.as_secs_f64() * 1000.0);
            let line = format!("{ending}  {name:width$}  {millis:>7.1} ms  {text}");
            print(&format!("{}\n", line.trim_end()))?;
        }
        self.endings.entry(ending).or_insert((0, text)).0 += 1;
        Ok(())
    }

    /// How many got such a status.
    pub(super) fn count(&self, is_wanted: impl Fn(u16) -> bool) -> u64 {
        let wanted = self.endings.iter().filter(|(ending, _)| ending.as_ref().is_ok_and(|status| is_wanted(*status)));
        wanted.map(|(_, (times, _))| times).sum()
    }

    /// Possible causes of replies other than 2xx: a reply tells no more than it tells a forger.
    pub(super) fn hints(&self, Endpoint { name, path, .. }: &Endpoint) -> String {
        let mut hints = String::new();
        if self.is_rejected {
            hints += &format!(
                "; rejected: the bridge that answered may have another signing secret than the first of \
                 endpoints.{name}.secrets here, which signed; or the clocks differ, or its server.allow leaves this \
                 machine out"
            );
        }
        if self.is_unknown_path {
            hints += &format!("; unknown path: that of the endpoint here is {path}");
        }
        if self.is_foreign {
            hints += "; that is no answer of a bridge's server.listen: something else listens there, or stands between";
        }
        hints
    }

    /// `took` is the duration of the whole run.
    pub(super) fn finish(self, took: Duration) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        if self.planned <= FEW { Ok(()) } else { print(&self.summary(took)) }
    }

    fn summary(&self, took: Duration) -> String {
        let total: u64 = self.endings.values().map(|(times, _)| times).sum();
        let rate = total as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE);
        let mut text = format!("{total} deliveries in {:.2} s, {rate:.0}/s\n", took.as_secs_f64());
        for (ending, (times, first)) in &self.endings {
            text += format!("  {times:>8} × {}  {first}", described(ending)).trim_end();
            text.push('\n');
        }
        if !self.latencies.is_empty() {
            let [p50, p90, p99, max] =
                [0.5, 0.9, 0.99, 1.0].map(|part| self.latencies.value_at_quantile(part) as f64 / 1000.0);
            text += &format!("  ms: p50 {p50:.1}, p90 {p90:.1}, p99 {p99:.1}, max {max:.1}\n");
        }
        text
    }
}

fn described(ending: &Result<u16, String>) -> String {
    match ending {
        Ok(status) => status.to_string(),
        Err(reason) => reason.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(ms: u64, reply: Result<(u16, &str), &str>) -> Answer<'static> {
        let reply = reply.map(|(status, text)| Reply { status, text: text.to_owned() });
        let reply = reply.map_err(|reason| NoReply { reason: reason.to_owned(), is_connected: true });
        Answer { name: "daily", took: Duration::from_millis(ms), reply }
    }

    #[test]
    fn summary_counts_each_ending_and_times_only_answers() {
        let mut report = Report::new(FEW + 1, &[]);
        for ms in [1, 2, 3, 10] {
            report.add(answer(ms, Ok((200, "{}")))).unwrap();
        }
        report.add(answer(4, Ok((503, r#"{"error":"busy"}"#)))).unwrap();
        report.add(answer(10_000, Err("no answer within 10 s"))).unwrap();
        assert_eq!(report.count(|status| status == 200), 4);
        assert_eq!(
            report.summary(Duration::from_secs(2)),
            "6 deliveries in 2.00 s, 3/s\n\
             \x20        4 × 200  {}\n\
             \x20        1 × 503  {\"error\":\"busy\"}\n\
             \x20        1 × no answer within 10 s\n\
             \x20 ms: p50 3.0, p90 10.0, p99 10.0, max 10.0\n"
        );
    }

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let mut report = Report::new(FEW + 1, &[]);
        (1..=100).for_each(|ms| report.add(answer(ms, Ok((200, "{}")))).unwrap());
        let summary = report.summary(Duration::from_secs(1));
        assert!(summary.ends_with("  ms: p50 50.0, p90 90.0, p99 99.0, max 100.0\n"), "{summary}");
    }

    #[test]
    fn summary_of_nothing_answered_has_no_percentiles() {
        let report = Report::new(FEW + 1, &[]);
        assert_eq!(report.summary(Duration::from_secs(1)), "0 deliveries in 1.00 s, 0/s\n");
    }
}
