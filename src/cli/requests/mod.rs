//! `requests`: how much of each large historical request has arrived. Comes in: what the bus keeps. Goes
//! out: a table with progress bars, or one JSON object a line. Nothing of it is ever logged.
//!
//! `sign` reads a record, `ledger` counts, `numbers` knows what is missing, `table` draws.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use futures_util::StreamExt;
use jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval};

use super::pretty::json_line;
use super::reading::{self, Topics, failed, until_ctrl_c};
use super::{Failure, RequestsArgs, quiet_on_broken_pipe};
use crate::bus::{Payloads, StartPosition, Step, Steps};
use crate::config;

mod ledger;
mod numbers;
mod sign;
mod table;

use ledger::{Ledger, State, Summary};
use sign::{Request, Sign};
use table::Look;

pub(super) use sign::may_concern;

pub(super) const EXPLAINED: &str = "\
States: processing (Terra assembles it), sending, finished (as many arrived as were announced), stalled \
(not finished, and nothing arrived for --stalled-after), unannounced (its announcement is not kept: nobody \
knows how many there will be). Copies count once. Missing numbers are shown where each payload came with one \
of its own. At most the 10000 latest references are held, large requests before others.

With --json each request is one object: reference, endpoint, provider, state, arrived, expected, missing (how \
many), missing_chunks (first and last of each range; only those that are certain), first_arrival, \
last_arrival, age_seconds. What is not known is null.

Examples:
  terra-bridge requests
  terra-bridge requests --follow
  terra-bridge requests --reference 5a0c1d7e-dd0d-472a-b906-d50a48e7400d
  terra-bridge requests --json | jq 'select(.state == \"stalled\")'";

/// How long to wait for the next of the records that the bus says it keeps.
const SILENCE: Duration = Duration::from_secs(20);

/// Between two looks at the clock, and two drawings of the table.
const REDRAWN_EVERY: Duration = Duration::from_millis(500);

/// Lines of a terminal, where it does not say.
const HEIGHT: usize = 24;

/// Prints until all was read; with `--follow` until Ctrl-C or a broken pipe, which are `Ok`.
pub(super) async fn run(args: &RequestsArgs, config: &config::Bus, topics: Vec<String>) -> Result<(), Failure> {
    let (config, follow) = (config.clone(), args.follow);
    let mut watched = Watched::new(args);
    until_ctrl_c(async move {
        let (topics, payloads) = (Topics::Routed(topics), Payloads::Only(sign::is_announcement));
        let (_, mut steps) = reading::open(&config, &topics, StartPosition::Earliest, payloads).await?;
        let mut clock = interval(REDRAWN_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut caught_up = false;
        loop {
            let printed = tokio::select! {
                step = next(&mut steps, caught_up) => match step? {
                    Step::Record(record) => watched.take(Sign::of(&record), caught_up),
                    Step::CaughtUp if follow => {
                        caught_up = true;
                        watched.all()
                    }
                    Step::CaughtUp => return quiet_on_broken_pipe(watched.all()),
                },
                _ = clock.tick(), if caught_up => watched.tick(),
            };
            if printed.is_err() {
                return quiet_on_broken_pipe(printed);
            }
        }
    })
    .await
}

/// Waits without end only for what is still to arrive: what the bus says that it keeps, it has to give.
async fn next(steps: &mut Steps, caught_up: bool) -> Result<Step, Failure> {
    let next = steps.next();
    let step = match caught_up {
        true => next.await,
        false => tokio::time::timeout(SILENCE, next).await.map_err(|_| {
            Failure::Running(format!("the bus was silent for {SILENCE:?} before it gave all that it keeps; try again"))
        })?,
    };
    step.ok_or_else(|| Failure::Running("reading the bus ended".to_owned()))?.map_err(failed)
}

struct Watched {
    ledger: Ledger,
    stalled_after: Duration,
    output: Output,
}

enum Output {
    Json,
    Table,
    /// Drawn again and again: so many lines are on the screen.
    Screen {
        lines: usize,
    },
    /// A table, then a line for each change: the state that was last told of each request.
    Lines {
        told: HashMap<Request, State>,
        json: bool,
    },
}

impl Watched {
    fn new(args: &RequestsArgs) -> Self {
        let output = match (args.follow, args.json) {
            (true, json) if json || !io::stdout().is_terminal() => Output::Lines { told: HashMap::new(), json },
            (true, _) => Output::Screen { lines: 0 },
            (false, true) => Output::Json,
            (false, false) => Output::Table,
        };
        Self { ledger: Ledger::new(args.reference.clone()), stalled_after: args.stalled_after, output }
    }

    fn take(&mut self, sign: Option<Sign>, caught_up: bool) -> io::Result<()> {
        let Some(request) = sign.and_then(|sign| self.ledger.take(sign)) else { return Ok(()) };
        let Output::Lines { told, json } = &mut self.output else { return Ok(()) };
        let summary = self.ledger.summary(&request, Timestamp::now(), self.stalled_after);
        let Some(summary) = summary.filter(|_| caught_up) else { return Ok(()) };
        told.insert(request, summary.state);
        print(&line(&summary, *json)?)
    }

    /// What there is when all that was kept is read.
    fn all(&mut self) -> io::Result<()> {
        let summaries = self.ledger.summaries(Timestamp::now(), self.stalled_after);
        if let forgotten @ 1.. = self.ledger.forgotten() {
            eprintln!("{forgotten} older references are left out: at most so many are held at once");
        }
        match &mut self.output {
            Output::Screen { .. } => self.redraw(),
            Output::Table if summaries.is_empty() => {
                eprintln!("no such request is kept on the bus");
                Ok(())
            }
            Output::Table => print(&text(&look().table(&summaries))),
            Output::Json => print(&lines(&summaries, true)?),
            Output::Lines { told, json } => {
                *told = summaries.iter().map(|summary| (summary.request.clone(), summary.state)).collect();
                print(&lines(&summaries, *json)?)
            }
        }
    }

    /// What only the time changes.
    fn tick(&mut self) -> io::Result<()> {
        let Output::Lines { told, json } = &mut self.output else { return self.redraw() };
        let summaries = self.ledger.summaries(Timestamp::now(), self.stalled_after);
        let changed = summaries.iter().filter(|summary| told.get(&summary.request) != Some(&summary.state));
        let changed: Vec<_> = changed.cloned().collect();
        *told = summaries.into_iter().map(|summary| (summary.request, summary.state)).collect();
        print(&lines(&changed, *json)?)
    }

    /// As many of the latest as the screen has lines for.
    fn redraw(&mut self) -> io::Result<()> {
        let Output::Screen { lines } = &mut self.output else { return Ok(()) };
        let height = rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_row));
        let room = if height > 0 { height } else { HEIGHT }.saturating_sub(3).max(1);
        let mut summaries = self.ledger.summaries(Timestamp::now(), self.stalled_after);
        let hidden = summaries.len().saturating_sub(room);
        let mut drawn = look().table(&summaries.split_off(hidden));
        if hidden > 0 {
            drawn.push(format!("{hidden} older ones not shown"));
        }
        let back = if *lines > 0 { format!("\x1b[{lines}A\x1b[J") } else { String::new() };
        *lines = drawn.len();
        print(&(back + &text(&drawn)))
    }
}

/// Cut to a terminal, whole elsewhere.
fn look() -> Look {
    let stdout = io::stdout();
    let terminal = stdout.is_terminal();
    let size = rustix::termios::tcgetwinsize(&stdout).map(|size| usize::from(size.ws_col));
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Look { width: size.ok().filter(|columns| terminal && *columns > 0), colours: terminal && !plain }
}

fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn lines(summaries: &[Summary], json: bool) -> io::Result<String> {
    summaries.iter().map(|summary| line(summary, json)).collect()
}

fn line(summary: &Summary, json: bool) -> io::Result<String> {
    Ok(if json { json_line(summary)? } else { table::change(summary) + "\n" })
}

fn print(text: &str) -> io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    tokio::task::block_in_place(|| {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    })
}
