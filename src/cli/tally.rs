//! What came of many deliveries. Comes in: one answer after the other. Goes out: counts, rate and
//! percentiles. Knows no network.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How one delivery ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    Status(u16),
    /// Nobody answered; why.
    None(String),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{status}"),
            Self::None(why) => f.write_str(why),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    endings: BTreeMap<Ending, Seen>,
    /// Of the answered ones, in microseconds: 4 bytes each, as there may be millions.
    micros: Vec<u32>,
}

#[derive(Debug)]
struct Seen {
    times: u64,
    /// The first one's body.
    says: String,
}

impl Tally {
    pub(super) fn add(&mut self, ending: Ending, says: &str, took: Duration) {
        if let Ending::Status(_) = ending {
            self.micros.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        }
        self.endings.entry(ending).or_insert_with(|| Seen { times: 0, says: says.to_owned() }).times += 1;
    }

    pub(super) fn total(&self) -> u64 {
        self.endings.values().map(|seen| seen.times).sum()
    }

    pub(super) fn count(&self, wanted: impl Fn(&Ending) -> bool) -> u64 {
        self.endings.iter().filter(|(ending, _)| wanted(ending)).map(|(_, seen)| seen.times).sum()
    }

    /// Lines for people; `took` is the time of all together.
    pub(super) fn summary(mut self, took: Duration) -> String {
        let total = self.total();
        let rate = total as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE);
        let mut text = format!("{total} deliveries in {:.2} s, {rate:.0}/s\n", took.as_secs_f64());
        for (ending, seen) in &self.endings {
            text += format!("  {:>8} × {ending}  {}", seen.times, seen.says).trim_end();
            text.push('\n');
        }
        self.micros.sort_unstable();
        if let Some(max) = self.micros.last() {
            let [p50, p90, p99] = [50, 90, 99].map(|percent| percentile(&self.micros, percent));
            let ms = |micros: u32| f64::from(micros) / 1000.0;
            text += &format!("  ms: p50 {:.1}, p90 {:.1}, p99 {:.1}, max {:.1}\n", ms(p50), ms(p90), ms(p99), ms(*max));
        }
        text
    }
}

/// By nearest rank: the smallest value that at least so many percent do not exceed.
/// Sorted, and at least one.
fn percentile(sorted: &[u32], percent: usize) -> u32 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted[rank.max(1) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!([50, 90, 99, 100].map(|percent| percentile(&hundred, percent)), [50, 90, 99, 100]);
        assert_eq!([50, 90, 99].map(|percent| percentile(&[7], percent)), [7, 7, 7]);
        assert_eq!([50, 90, 99].map(|percent| percentile(&[1, 2, 3], percent)), [2, 3, 3]);
    }

    #[test]
    fn summary_counts_each_ending_and_times_only_answers() {
        let mut tally = Tally::default();
        for ms in [1, 2, 3, 10] {
            tally.add(Ending::Status(200), "{}", Duration::from_millis(ms));
        }
        tally.add(Ending::Status(503), r#"{"error":"busy"}"#, Duration::from_millis(4));
        tally.add(Ending::None("no answer within 10 s".to_owned()), "", Duration::from_secs(10));
        assert_eq!(tally.count(|ending| *ending == Ending::Status(200)), 4);
        assert_eq!(
            tally.summary(Duration::from_secs(2)),
            "6 deliveries in 2.00 s, 3/s\n\
             \x20        4 × 200  {}\n\
             \x20        1 × 503  {\"error\":\"busy\"}\n\
             \x20        1 × no answer within 10 s\n\
             \x20 ms: p50 3.0, p90 10.0, p99 10.0, max 10.0\n"
        );
    }

    #[test]
    fn summary_of_nothing_answered_has_no_percentiles() {
        assert_eq!(Tally::default().summary(Duration::from_secs(1)), "0 deliveries in 1.00 s, 0/s\n");
    }
}
