//! Requests for display: a table that fits the screen, or a line for each change.

use std::iter::once;
use std::time::Duration;

use jiff::Timestamp;

use super::summary::{RequestState, RequestSummary};
use crate::cli::terminal::{Style, one_line};

/// Characters of a bar.
const BAR: u128 = 12;

/// The most ranges of missing numbers to show.
const RANGES: usize = 8;

/// Characters of a reference, a provider or an endpoint: Terra's references have 36.
const NAME: usize = 40;

const COLUMNS: [&str; 9] =
    ["REFERENCE", "PROVIDER", "ENDPOINT", "STATE", "ARRIVED", "FIRST", "LAST", "AGO", "MISSING CHUNKS"];

const STATE: usize = 3;
const MISSING: usize = 8;

/// The columns that a narrow screen omits, in that order.
const DISPENSABLE: [usize; 4] = [5, 6, 2, 1];

/// The space between two columns.
const GAP: &str = "  ";

/// A header, and a line for each request.
pub(super) fn table(style: Style, summaries: &[RequestSummary]) -> Vec<String> {
    let rows: Vec<[String; 9]> = once(COLUMNS.map(str::to_owned)).chain(summaries.iter().map(cells)).collect();
    let width = |column: usize| rows.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 9] = std::array::from_fn(width);
    let columns = fitting(style.width, &widths);
    let states = once(None).chain(summaries.iter().map(|summary| Some(summary.state)));
    rows.iter().zip(states).map(|(cells, state)| line(style, cells, state, &columns, &widths)).collect()
}

fn fitting(width: Option<usize>, widths: &[usize; 9]) -> Vec<usize> {
    let mut columns: Vec<_> = (0..widths.len()).collect();
    for dispensable in DISPENSABLE {
        let needed: usize = columns.iter().map(|column| widths[*column] + GAP.len()).sum();
        if width.is_none_or(|width| needed <= width + GAP.len()) {
            break;
        }
        columns.retain(|column| *column != dispensable);
    }
    columns
}

fn line(
    style: Style,
    cells: &[String; 9],
    state: Option<RequestState>,
    columns: &[usize],
    widths: &[usize; 9],
) -> String {
    let (mut line, mut room) = (String::new(), style.width.unwrap_or(usize::MAX));
    for &column in columns {
        let width = if column == MISSING { 0 } else { widths[column] };
        let text = format!("{:width$}", cells[column]);
        let text = if text.chars().count() > room { one_line(&text, room) } else { text };
        room = room.saturating_sub(text.chars().count() + GAP.len());
        line += &match state {
            None => style.paint("2", &text),
            Some(state) if column == STATE => style.paint(colour(state), &text),
            Some(_) => text,
        };
        if room == 0 {
            break;
        }
        line += GAP;
    }
    line.trim_end().to_owned()
}

/// A line for a change, when the table cannot be redrawn.
pub(super) fn change(summary: &RequestSummary) -> String {
    let [reference, provider, endpoint, state, _, _, _, _, missing] = cells(summary);
    let missing = if missing.is_empty() { missing } else { format!("{GAP}missing {missing}") };
    [reference, provider, endpoint, state, arrived(summary)].join(GAP) + &missing
}

fn cells(summary: &RequestSummary) -> [String; 9] {
    let name = |text: &str| if text.is_empty() { "-".to_owned() } else { one_line(text, NAME) };
    let time = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| format!("{at:.0}"));
    [
        name(&summary.request.reference),
        name(summary.provider.as_deref().unwrap_or_default()),
        name(&summary.request.endpoint),
        <&str>::from(summary.state).to_owned(),
        format!("{} {}", bar(summary), arrived(summary)),
        time(summary.first_arrival),
        time(summary.last_arrival),
        ago(summary.age),
        missing(summary),
    ]
}

fn arrived(summary: &RequestSummary) -> String {
    let expected = summary.expected.map_or_else(|| "?".to_owned(), |expected| expected.to_string());
    format!("{}/{expected}", summary.arrived)
}

/// Full only when everything has arrived.
fn bar(summary: &RequestSummary) -> String {
    let filled = match summary.expected {
        Some(expected) if summary.arrived < expected => u128::from(summary.arrived) * BAR / u128::from(expected),
        Some(_) => BAR,
        None => 0,
    };
    (0..BAR).map(|at| if at < filled { '█' } else { '░' }).collect()
}

/// As much as is known about the missing chunks.
fn missing(summary: &RequestSummary) -> String {
    let numbers = &summary.missing_chunks;
    let range = |(first, last): &(u32, u32)| match last - first {
        0 => first.to_string(),
        _ => format!("{first}-{last}"),
    };
    let mut parts: Vec<_> = numbers.ranges.iter().take(RANGES).map(range).collect();
    parts.extend(numbers.either.map(|(one, other)| format!("{one} or {other}")));
    if let more @ 1.. = numbers.ranges.len().saturating_sub(RANGES) {
        parts.push(format!("{more} more ranges"));
    }
    match summary.missing {
        Some(missing @ 1..) if parts.is_empty() => format!("{missing}, numbers unknown"),
        _ => parts.join(", "),
    }
}

/// The age in its largest unit.
fn ago(age: Duration) -> String {
    match age.as_secs() {
        seconds @ ..60 => format!("{seconds}s"),
        seconds @ ..3600 => format!("{}m", seconds / 60),
        seconds @ ..86_400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

fn colour(state: RequestState) -> &'static str {
    match state {
        RequestState::Finished => "32",
        RequestState::Stalled => "31",
        RequestState::Sending => "36",
        RequestState::Processing | RequestState::Unannounced => "2",
    }
}

#[cfg(test)]
mod tests {
    use super::super::chunks::MissingChunks;
    use super::super::event::RequestId;
    use super::*;

    const WIDE: Style = Style { width: None, has_colours: false };

    fn summary(
        reference: &str,
        state: RequestState,
        arrived: u64,
        expected: Option<u64>,
        ranges: &[(u32, u32)],
    ) -> RequestSummary {
        RequestSummary {
            request: RequestId { endpoint: "terra".to_owned(), reference: reference.to_owned() },
            provider: Some("POLAR".to_owned()),
            state,
            arrived,
            expected,
            missing: expected.map(|expected| expected.saturating_sub(arrived)),
            missing_chunks: MissingChunks { ranges: ranges.to_vec(), either: None },
            first_arrival: Some("2026-07-14T05:01:10.25Z".parse().unwrap()),
            last_arrival: None,
            age: Duration::from_secs(250),
        }
    }

    #[test]
    fn the_table_shows_a_bar_the_missing_chunks_and_an_age() {
        let lines = table(
            WIDE,
            &[
                summary("one", RequestState::Stalled, 9, Some(12), &[(3, 3), (7, 8)]),
                summary("another", RequestState::Finished, 2, Some(2), &[]),
            ],
        );
        assert_eq!(
            lines,
            [
                "REFERENCE  PROVIDER  ENDPOINT  STATE     ARRIVED            FIRST                 LAST  AGO  MISSING CHUNKS",
                "one        POLAR     terra     stalled   █████████░░░ 9/12  2026-07-14T05:01:10Z  -     4m   3, 7-8",
                "another    POLAR     terra     finished  ████████████ 2/2   2026-07-14T05:01:10Z  -     4m",
            ]
        );
        assert_eq!(
            change(&summary("one", RequestState::Sending, 9, Some(12), &[(3, 3)])),
            "one  POLAR  terra  sending  9/12  missing 3"
        );
    }

    #[test]
    fn a_narrow_screen_has_fewer_columns_and_no_line_that_wraps() {
        let summaries =
            [summary("5a0c1d7e-dd0d-472a-b906-d50a48e7400d", RequestState::Stalled, 9, Some(12), &[(1, 3); 8])];
        for width in [10, 40, 80, 100, 120] {
            for colours in [false, true] {
                for line in table(Style { width: Some(width), has_colours: colours }, &summaries) {
                    let shown = line.replace("\x1b[2m", "").replace("\x1b[31m", "").replace("\x1b[0m", "");
                    assert!(shown.chars().count() <= width, "{width}: {line}");
                }
            }
        }
        let line = &table(Style { width: Some(80), has_colours: false }, &summaries)[1];
        assert!(line.contains("stalled") && line.contains("9/12") && line.contains("4m"), "{line}");
        assert!(!line.contains("2026"), "{line}");
    }

    #[test]
    fn a_bar_is_full_only_when_everything_has_arrived() {
        let bar = |arrived, expected| bar(&summary("r", RequestState::Sending, arrived, expected, &[]));
        assert_eq!(bar(99_999, Some(100_000)).matches('█').count(), 11);
        assert_eq!(bar(u64::MAX, Some(u64::MAX)).matches('█').count(), 12);
        assert_eq!(bar(3, Some(2)).matches('█').count(), 12);
        assert_eq!(bar(0, Some(0)).matches('█').count(), 12);
        assert_eq!(bar(5, None).matches('█').count(), 0);
    }

    #[test]
    fn missing_numbers_are_shown_as_far_as_they_are_known() {
        let missing = |ranges: &[(u32, u32)], either| {
            let mut summary = summary("r", RequestState::Sending, 1, Some(40), ranges);
            summary.missing_chunks.either = either;
            missing(&summary)
        };
        assert_eq!(missing(&[(2, 4)], Some((0, 40))), "2-4, 0 or 40");
        assert_eq!(missing(&[], None), "39, numbers unknown");
        assert_eq!(missing(&[(1, 1); 10], None), "1, 1, 1, 1, 1, 1, 1, 1, 2 more ranges");
    }

    #[test]
    fn no_control_character_reaches_the_terminal() {
        let lines = table(WIDE, &[summary("\x1b[2J", RequestState::Sending, 1, None, &[])]);
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
