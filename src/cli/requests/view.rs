//! Prints what the tracker knows: once when everything is read, or again at each change.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::time::Duration;

use jiff::Timestamp;

use super::event::{RequestEvent, RequestId};
use super::summary::{RequestState, RequestSummary};
use super::table::{change, table};
use super::tracker::RequestTracker;
use crate::cli::args::RequestsArgs;
use crate::cli::terminal::{self, Style, json_line, write_from_task};

/// The assumed height of a terminal that does not report one.
const HEIGHT: usize = 24;

pub(super) struct View {
    tracker: RequestTracker,
    stalled_after: Duration,
    output: Output,
}

enum Output {
    Once {
        json: bool,
    },
    /// Redrawn each time: this many lines are on the screen.
    Screen {
        lines: usize,
    },
    /// A line for each request, then one for each change: the state last printed of each.
    Changes {
        printed: HashMap<RequestId, RequestState>,
        json: bool,
    },
}

impl View {
    pub(super) fn new(args: &RequestsArgs) -> Self {
        let json = args.json;
        let output = match args.follow {
            false => Output::Once { json },
            true if !json && io::stdout().is_terminal() => Output::Screen { lines: 0 },
            true => Output::Changes { printed: HashMap::new(), json },
        };
        Self { tracker: RequestTracker::new(args.reference.clone()), stalled_after: args.stalled_after, output }
    }

    /// Records stored before the start are not printed one by one.
    pub(super) fn add(&mut self, event: RequestEvent, is_caught_up: bool) -> io::Result<()> {
        let Some(request) = self.tracker.add(event) else { return Ok(()) };
        let Output::Changes { printed, json } = &mut self.output else { return Ok(()) };
        let summary = self.tracker.summary(&request, Timestamp::now(), self.stalled_after);
        let Some(summary) = summary.filter(|_| is_caught_up) else { return Ok(()) };
        printed.insert(request, summary.state);
        write_from_task(&line(&summary, *json)?)
    }

    /// Prints everything once all stored records are read.
    pub(super) fn print_all(&mut self) -> io::Result<()> {
        if let forgotten @ 1.. = self.tracker.forgotten() {
            eprintln!("{forgotten} older references are left out; only so many of the latest are held");
        }
        let summaries = self.tracker.summaries(Timestamp::now(), self.stalled_after);
        match &mut self.output {
            Output::Screen { .. } => self.redraw(),
            Output::Once { json: false } if summaries.is_empty() => {
                eprintln!("no such request is kept on the bus");
                Ok(())
            }
            Output::Once { json: false } => write_from_task(&text(&table(Style::of_stdout(), &summaries))),
            Output::Once { json: true } => write_from_task(&lines(&summaries, true)?),
            Output::Changes { printed, json } => {
                *printed = states(&summaries);
                write_from_task(&lines(&summaries, *json)?)
            }
        }
    }

    /// Prints changes that come only from the passage of time.
    pub(super) fn tick(&mut self) -> io::Result<()> {
        let Output::Changes { printed, json } = &mut self.output else { return self.redraw() };
        let mut summaries = self.tracker.summaries(Timestamp::now(), self.stalled_after);
        let before = std::mem::replace(printed, states(&summaries));
        summaries.retain(|summary| before.get(&summary.request) != Some(&summary.state));
        write_from_task(&lines(&summaries, *json)?)
    }

    /// Shows as many of the latest requests as the screen has lines for.
    fn redraw(&mut self) -> io::Result<()> {
        let Output::Screen { lines } = &mut self.output else { return Ok(()) };
        let (_, height) = terminal::size();
        let room = height.unwrap_or(HEIGHT).saturating_sub(3).max(1);
        let mut summaries = self.tracker.summaries(Timestamp::now(), self.stalled_after);
        let hidden = summaries.len().saturating_sub(room);
        let mut drawn = table(Style::of_stdout(), &summaries.split_off(hidden));
        if hidden > 0 {
            drawn.push(format!("{hidden} older ones not shown"));
        }
        let back = if *lines > 0 { format!("\x1b[{lines}A\x1b[J") } else { String::new() };
        *lines = drawn.len();
        write_from_task(&(back + &text(&drawn)))
    }
}

fn states(summaries: &[RequestSummary]) -> HashMap<RequestId, RequestState> {
    summaries.iter().map(|summary| (summary.request.clone(), summary.state)).collect()
}

fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn lines(summaries: &[RequestSummary], json: bool) -> io::Result<String> {
    summaries.iter().map(|summary| line(summary, json)).collect()
}

fn line(summary: &RequestSummary, json: bool) -> io::Result<String> {
    Ok(if json { json_line(summary)? } else { change(summary) + "\n" })
}
