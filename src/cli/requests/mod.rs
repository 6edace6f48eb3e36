//! `requests`: how much of each large historical request has arrived, according to the records on the bus. None of it
//! is ever logged.
//!
//! `event` reads a record, `tracker` counts, `chunks` finds what is missing, `summary` is the result, and `view`
//! prints it with `table`.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::args::RequestsArgs;
use super::failure::Failure;
use super::reading::{self, Topics, failed, until_ctrl_c};
use super::terminal::quiet_on_broken_pipe;
use crate::bus::{Payloads, StartPosition, Step, Steps};
use crate::config;

mod chunks;
mod event;
mod summary;
mod table;
mod tracker;
mod view;

use event::{RequestEvent, is_announcement};
use view::View;

pub(super) use event::may_concern;

/// How long to wait for the next of the records that the bus reports.
const SILENCE: Duration = Duration::from_secs(20);

/// The interval between two updates of ages and of the table.
const REDRAWN_EVERY: Duration = Duration::from_millis(500);

/// Prints once everything is read; with `--follow` until Ctrl-C or a broken pipe, which are `Ok`.
pub(super) async fn run(args: &RequestsArgs, config: &config::Bus, topics: Vec<String>) -> Result<(), Failure> {
    let (config, follow, mut view) = (config.clone(), args.follow, View::new(args));
    until_ctrl_c(async move {
        let (topics, payloads) = (Topics::Routed(topics), Payloads::Only(is_announcement));
        let (_, mut steps) = reading::open(&config, &topics, StartPosition::Earliest, payloads).await?;
        let mut clock = interval(REDRAWN_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut is_caught_up = false;
        loop {
            let printed = tokio::select! {
                step = next(&mut steps, is_caught_up) => match step? {
                    Step::Record(record) => {
                        RequestEvent::of(&record).map_or(Ok(()), |event| view.add(event, is_caught_up))
                    }
                    Step::CaughtUp if follow => {
                        is_caught_up = true;
                        view.print_all()
                    }
                    Step::CaughtUp => return quiet_on_broken_pipe(view.print_all()),
                },
                _ = clock.tick(), if is_caught_up => view.tick(),
            };
            if printed.is_err() {
                return quiet_on_broken_pipe(printed);
            }
        }
    })
    .await
}

/// Waits without a limit only for new records: those that the bus reports must arrive in time.
async fn next(steps: &mut Steps, is_caught_up: bool) -> Result<Step, Failure> {
    let next = steps.next();
    let step = if is_caught_up { Ok(next.await) } else { timeout(SILENCE, next).await };
    let step = step.map_err(|_| {
        Failure::Running(format!("the bus was silent for {SILENCE:?} before it gave all that it keeps; try again"))
    });
    step?.ok_or_else(|| Failure::Running("reading the bus ended; try again".to_owned()))?.map_err(failed)
}
