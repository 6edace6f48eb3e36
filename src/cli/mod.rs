//! The commands: reads the command line, loads the configuration once, and passes each command what it needs.
//!
//! - `args`: the command line; `load`: the configuration; `failure`: exit codes
//! - `serve`: runs the bridge; `reload`: applies a changed configuration; `notify`: tells systemd how it is going;
//!   `private`: no core dumps, private files
//! - `check`, `send`, `health`: check the configuration, send deliveries, check health; `asyncapi` only prints what the
//!   module of that name makes
//! - `log`: what is in a directory of the log; `memory`: what a configuration lets the bridge take
//! - `tail`, `requests`: what is on the bus; `reading` is what they share
//! - `find`: where a delivery is; `dead_letters`: what nobody could read; `record_view` shows one record
//! - `replay`: from a bus or a file to a bus, a bridge or a file; `signing` signs as Terra does
//! - `spool`: what the spool holds, and getting it back; `access` asks the bridge that has it open
//! - `terminal`, `pretty`: output for people; `cause`: why a client got no answer

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use clap_complete::Shell;

use crate::asyncapi;
use crate::config::{self, Mistakes};

mod access;
mod args;
mod cause;
mod check;
mod dead_letters;
mod failure;
mod find;
mod health;
mod load;
mod log;
mod memory;
mod notify;
mod pretty;
mod private;
mod reading;
mod record_view;
mod reload;
mod replay;
mod requests;
mod send;
mod serve;
mod signing;
mod spool;
mod tail;
mod terminal;
mod url;

use load::load_for_operator;
pub use load::{Loaded, load, load_for_reader};
#[cfg(test)]
pub(crate) use load::{load_for_reader_without, load_without};

use args::{Cli, Command, LogCommand};
use dead_letters::args::DeadLettersCommand;
use failure::Failure;
use replay::args::Into;
use replay::{Destination, Origin};

/// The whole program: reads the command line, runs the command, and prints on stderr why it failed. Usage errors,
/// `--help` and `--version` end the process here.
pub fn run() -> ExitCode {
    private::keep_private();
    match execute(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", terminal::harmless(&failure.to_string()));
            failure.code()
        }
    }
}

fn execute(cli: Cli) -> Result<(), Failure> {
    let file = cli.config.as_deref();
    let load = || load(file, std::env::vars_os(), io::stdout().is_terminal()).map_err(mistaken);
    let load_for_reader = || load_for_reader(file, std::env::vars_os()).map_err(mistaken);
    let load_for_operator = || load_for_operator(file, std::env::vars_os()).map_err(mistaken);
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => finish(async {
            let running = |error: serve::StartError| Failure::Running(error.to_string());
            // A SIGHUP that arrives while the configuration is being read must not end the process.
            let hangup = serve::hangup().map_err(running)?;
            serve::run(load()?, file.map(Path::to_owned), hangup).await.map_err(running)
        }),
        Command::Check(args) => finish(check::run(&args, &load()?)),
        Command::Send(args) => finish(send::run(&args, &load()?.config)),
        Command::Tail(args) => {
            let (bus, table) = load_for_reader()?;
            let topics = table.topics().iter().map(ToString::to_string).collect();
            finish(tail::run(&args, &bus, topics))
        }
        Command::Requests(args) => {
            let (bus, table) = load_for_reader()?;
            let topics = table.topics_of(requests::may_concern).iter().map(ToString::to_string).collect();
            finish(requests::run(&args, &bus, topics))
        }
        Command::Asyncapi => {
            let (bus, table) = load_for_reader()?;
            terminal::print(&asyncapi::document(&bus, &table))
        }
        Command::Find(args) => {
            let (config, table) = load_for_operator()?;
            finish(find::run(&args, &config, &table))
        }
        Command::DeadLetters(DeadLettersCommand::List(args)) => {
            let (bus, table) = load_for_reader()?;
            finish(dead_letters::list(&args, &bus, &table))
        }
        Command::DeadLetters(DeadLettersCommand::Show(args)) => {
            let (bus, table) = load_for_reader()?;
            finish(dead_letters::show(&args, &bus, &table))
        }
        Command::DeadLetters(DeadLettersCommand::Replay(args)) => finish(dead_letters::replay(&args, &load()?)),
        Command::Replay(args) => {
            let origin = |file| match file {
                Some(file) => replay::foreign(file).map_err(mistaken),
                None => load_for_reader().map(|(bus, table)| Origin::new(bus, &table)),
            };
            let origin = origin(args.source.as_deref())?;
            match &args.into {
                Into::Url(_) => finish(replay::run(&args, &origin, Destination::Bridge(&load()?))),
                Into::File(_) => finish(replay::run(&args, &origin, Destination::File)),
                Into::Bus => {
                    let (config, routes) = load_for_operator()?;
                    finish(replay::run(&args, &origin, Destination::Bus { config: &config, routes: &routes }))
                }
            }
        }
        Command::Spool(command) => {
            let (config, table) = load_for_operator()?;
            finish(spool::run(&command, &config, &table))
        }
        Command::Log(LogCommand::Verify { dir }) => log::run(&dir),
        Command::Completions { shell } => completions(shell),
        Command::Man { dir } => manual(&dir),
        Command::Health => finish(health::run(&config::read_admin(file, std::env::vars_os()).map_err(mistaken)?)),
    }
}

/// Runs a command to its end, and exits without waiting for its clients' background tasks.
fn finish(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(command);
    runtime.shutdown_background();
    ended
}

/// The failure that lists the mistakes.
fn mistaken(mistakes: Mistakes) -> Failure {
    let count = match mistakes.all.len() {
        1 => "1 mistake".to_owned(),
        count => format!("{count} mistakes"),
    };
    Failure::Mistake(format!("{count} in the configuration\n\n{mistakes}\n{}", check::ignored(&mistakes.ignored)))
}

fn completions(shell: Shell) -> Result<(), Failure> {
    // clap_complete panics if it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "terra-bridge", &mut script);
    terminal::print(&String::from_utf8_lossy(&script))
}

fn manual(dir: &Path) -> Result<(), Failure> {
    // Whatever is built in, the pages are the same.
    let command = Cli::command().version(env!("CARGO_PKG_VERSION"));
    let failed = |error| format!("cannot write manual pages into {}: {error}", dir.display());
    clap_mangen::generate_to(command, dir).map_err(|error| Failure::Running(failed(error)))
}
