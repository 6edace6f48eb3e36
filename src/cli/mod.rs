//! The commands: reads the command line, loads the configuration once, and passes each command what it needs.
//!
//! - `args`: the command line; `load`: the configuration; `failure`: exit codes
//! - `serve`: runs the bridge; `reload`: applies a changed configuration; `private`: no core dumps, private files
//! - `check`, `send`, `health`: check the configuration, send deliveries, check health; `asyncapi` only prints what the
//!   module of that name makes
//! - `log`: what is in a directory of the log; `memory`: what a configuration lets the bridge take
//! - `tail`, `requests`: what is on the bus; `reading` is what they share
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
mod failure;
mod health;
mod load;
mod log;
mod memory;
mod pretty;
mod private;
mod reading;
mod record_view;
mod reload;
mod requests;
mod send;
mod serve;
mod spool;
mod tail;
mod terminal;

use load::load_for_operator;
pub use load::{Loaded, load, load_for_reader};
#[cfg(test)]
pub(crate) use load::{load_for_reader_without, load_without};

use args::{Cli, Command, LogCommand};
use failure::Failure;

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
        Command::Spool(command) => {
            let (config, table) = load_for_operator()?;
            finish(spool::run(&command, &config, &table))
        }
        Command::Log(LogCommand::Verify { dir }) => log::run(&dir),
        Command::Completions { shell } => completions(shell),
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
