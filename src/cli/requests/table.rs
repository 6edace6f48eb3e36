//! How requests look to people. Comes in: summaries. Goes out: lines of a table, as wide as the screen, or
//! one line for one change. Knows neither where they come from nor when.

use std::time::Duration;

use jiff::Timestamp;

use super::ledger::{State, Summary};
use crate::cli::pretty::one_line;

/// Characters of a bar.
const BAR: u64 = 12;

/// Ranges of missing numbers that are shown.
const RANGES: usize = 8;

/// Characters of a reference, a provider or an endpoint: Terra's references have 36.
const NAME: usize = 40;

const COLUMNS: [&str; 9] =
    ["REFERENCE", "PROVIDER", "ENDPOINT", "STATE", "ARRIVED", "FIRST", "LAST", "AGO", "MISSING CHUNKS"];

const STATE: usize = 3;
const MISSING: usize = 8;

/// What a narrow screen does without, in this order.
const SPARED: [usize; 4] = [5, 6, 2, 1];

/// What is between two columns.
const GAP: &str = "  ";

pub(super) struct Look {
    /// Characters; `None` where nobody has to fit it on a screen.
    pub(super) width: Option<usize>,
    pub(super) colours: bool,
}

impl Look {
    /// A header and a line for each.
    pub(super) fn table(&self, summaries: &[Summary]) -> Vec<String> {
        let rows: Vec<_> = summaries.iter().map(cells).collect();
        let header = COLUMNS.map(str::to_owned);
        let all = || std::iter::once(&header).chain(&rows);
        let widths: Vec<_> = (0..COLUMNS.len())
            .map(|column| all().map(|cells| cells[column].chars().count()).max().unwrap_or(0))
            .collect();
        let columns = self.columns(&widths);
        let states = std::iter::once(None).chain(summaries.iter().map(|summary| Some(summary.state)));
        all().zip(states).map(|(cells, state)| self.line(cells, &columns, &widths, state)).collect()
    }

    /// Those that fit.
    fn columns(&self, widths: &[usize]) -> Vec<usize> {
        let mut columns: Vec<_> = (0..widths.len()).collect();
        for spared in SPARED {
            let needed: usize = columns.iter().map(|column| widths[*column] + GAP.len()).sum();
            if self.width.is_none_or(|width| needed <= width + GAP.len()) {
                break;
            }
            columns.retain(|column| *column != spared);
        }
        columns
    }

    fn line(&self, cells: &[String; 9], columns: &[usize], widths: &[usize], state: Option<State>) -> String {
        let (mut line, mut room) = (String::new(), self.width.unwrap_or(usize::MAX));
        for column in columns {
            let text =
                format!("{:width$}", cells[*column], width = if *column == MISSING { 0 } else { widths[*column] });
            let text = if text.chars().count() > room { one_line(&text, room) } else { text };
            room = room.saturating_sub(text.chars().count() + GAP.len());
            let coloured = self.colours && (state.is_none() || *column == STATE);
            let code = state.map_or("2", colour);
            line += &if coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text };
            if room == 0 {
                break;
            }
            line += GAP;
        }
        line.trim_end().to_owned()
    }
}

/// For a change, where the table cannot be drawn again.
pub(super) fn change(summary: &Summary) -> String {
    let [reference, provider, endpoint, state, _, _, _, _, missing] = cells(summary);
    let missing = if missing.is_empty() { missing } else { format!("{GAP}missing {missing}") };
    [reference, provider, endpoint, state, arrived(summary)].join(GAP) + &missing
}

fn cells(summary: &Summary) -> [String; 9] {
    let name = |text: &str| if text.is_empty() { "-".to_owned() } else { one_line(text, NAME) };
    let time = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| format!("{at:.0}"));
    [
        name(&summary.request.reference),
        name(summary.provider.as_deref().unwrap_or_default()),
        name(&summary.request.endpoint),
        summary.state.as_str().to_owned(),
        format!("{} {}", bar(summary), arrived(summary)),
        time(summary.first),
        time(summary.last),
        ago(summary.age),
        missing(summary),
    ]
}

fn arrived(summary: &Summary) -> String {
    let expected = summary.expected.map_or_else(|| "?".to_owned(), |expected| expected.to_string());
    format!("{}/{expected}", summary.arrived)
}

/// Full only when all has arrived.
fn bar(summary: &Summary) -> String {
    let filled = match summary.expected {
        Some(expected) if summary.arrived < expected => {
            u128::from(summary.arrived) * u128::from(BAR) / u128::from(expected)
        }
        Some(_) => u128::from(BAR),
        None => 0,
    };
    (0..u128::from(BAR)).map(|at| if at < filled { '█' } else { '░' }).collect()
}

/// Of what is missing as much as is known.
fn missing(summary: &Summary) -> String {
    let numbers = &summary.missing;
    let range = |(first, last): &(u32, u32)| match last - first {
        0 => first.to_string(),
        _ => format!("{first}-{last}"),
    };
    let mut parts: Vec<_> = numbers.ranges.iter().take(RANGES).map(range).collect();
    parts.extend(numbers.either.map(|(one, other)| format!("{one} or {other}")));
    if let more @ 1.. = numbers.ranges.len().saturating_sub(RANGES) {
        parts.push(format!("{more} more ranges"));
    }
    match summary.lacking() {
        Some(lacking @ 1..) if parts.is_empty() => format!("{lacking}, numbers unknown"),
        _ => parts.join(", "),
    }
}

/// In its largest unit.
fn ago(age: Duration) -> String {
    match age.as_secs() {
        seconds @ ..60 => format!("{seconds}s"),
        seconds @ ..3600 => format!("{}m", seconds / 60),
        seconds @ ..86_400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

fn colour(state: State) -> &'static str {
    match state {
        State::Finished => "32",
        State::Stalled => "31",
        State::Sending => "36",
        State::Processing | State::Unannounced => "2",
    }
}

#[cfg(test)]
mod tests {
    use super::super::numbers::Missing;
    use super::super::sign::Request;
    use super::*;

    const WIDE: Look = Look { width: None, colours: false };

    fn summary(reference: &str, state: State, arrived: u64, expected: Option<u64>, ranges: &[(u32, u32)]) -> Summary {
        Summary {
            request: Request { endpoint: "terra".to_owned(), reference: reference.to_owned() },
            provider: Some("POLAR".to_owned()),
            state,
            arrived,
            expected,
            missing: Missing { ranges: ranges.to_vec(), either: None },
            first: Some("2026-07-14T05:01:10.25Z".parse().unwrap()),
            last: None,
            age: Duration::from_secs(250),
        }
    }

    #[test]
    fn people_see_a_bar_what_lacks_and_when() {
        let lines = WIDE.table(&[
            summary("one", State::Stalled, 9, Some(12), &[(3, 3), (7, 8)]),
            summary("another", State::Finished, 2, Some(2), &[]),
        ]);
        assert_eq!(
            lines,
            [
                "REFERENCE  PROVIDER  ENDPOINT  STATE     ARRIVED            FIRST                 LAST  AGO  MISSING CHUNKS",
                "one        POLAR     terra     stalled   █████████░░░ 9/12  2026-07-14T05:01:10Z  -     4m   3, 7-8",
                "another    POLAR     terra     finished  ████████████ 2/2   2026-07-14T05:01:10Z  -     4m",
            ]
        );
        assert_eq!(
            change(&summary("one", State::Sending, 9, Some(12), &[(3, 3)])),
            "one  POLAR  terra  sending  9/12  missing 3"
        );
    }

    #[test]
    fn a_narrow_screen_has_fewer_columns_and_no_line_that_wraps() {
        let summaries = [summary("5a0c1d7e-dd0d-472a-b906-d50a48e7400d", State::Stalled, 9, Some(12), &[(1, 3); 8])];
        for width in [10, 40, 80, 100, 120] {
            for colours in [false, true] {
                for line in (Look { width: Some(width), colours }).table(&summaries) {
                    let shown = line.replace("\x1b[2m", "").replace("\x1b[31m", "").replace("\x1b[0m", "");
                    assert!(shown.chars().count() <= width, "{width}: {line}");
                }
            }
        }
        let line = &Look { width: Some(80), colours: false }.table(&summaries)[1];
        assert!(line.contains("stalled") && line.contains("9/12") && line.contains("4m"), "{line}");
        assert!(!line.contains("2026"), "{line}");
    }

    #[test]
    fn a_bar_is_full_only_when_all_has_arrived() {
        let bar = |arrived, expected| bar(&summary("r", State::Sending, arrived, expected, &[]));
        assert_eq!(bar(99_999, Some(100_000)).matches('█').count(), 11);
        assert_eq!(bar(u64::MAX, Some(u64::MAX)).matches('█').count(), 12);
        assert_eq!(bar(3, Some(2)).matches('█').count(), 12);
        assert_eq!(bar(0, Some(0)).matches('█').count(), 12);
        assert_eq!(bar(5, None).matches('█').count(), 0);
    }

    #[test]
    fn missing_numbers_are_told_as_far_as_they_are_known() {
        let missing = |ranges: &[(u32, u32)], either| {
            let mut summary = summary("r", State::Sending, 1, Some(40), ranges);
            summary.missing.either = either;
            missing(&summary)
        };
        assert_eq!(missing(&[(2, 4)], Some((0, 40))), "2-4, 0 or 40");
        assert_eq!(missing(&[], None), "39, numbers unknown");
        assert_eq!(missing(&[(1, 1); 10], None), "1, 1, 1, 1, 1, 1, 1, 1, 2 more ranges");
    }

    #[test]
    fn nothing_reaches_the_terminal_as_a_command() {
        let lines = WIDE.table(&[summary("\x1b[2J", State::Sending, 1, None, &[])]);
        assert!(!lines[1].contains('\x1b'), "{}", lines[1]);
    }

    #[test]
    fn ages_have_one_unit() {
        let ages = [(0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (7200, "2h"), (90_000, "1d")];
        for (seconds, says) in ages {
            assert_eq!(ago(Duration::from_secs(seconds)), says);
        }
    }
}
