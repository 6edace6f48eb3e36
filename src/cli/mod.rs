//! The commands, one file each. Comes in: the command line. Goes out: an exit code, as the help
//! lists them. Loads the configuration once and hands each command what it needs of it.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{ArgGroup, Args, CommandFactory, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

use crate::bus::{self, StartPosition};
use crate::config::{self, Config, Loaded, Mistakes};
use crate::route::RouteTable;
use crate::samples::SAMPLES;

mod cause;
mod check;
mod health;
mod pretty;
mod private;
mod reading;
mod reload;
mod requests;
mod send;
mod serve;
mod tail;
mod tally;

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
    format!("{} (commit {}, librdkafka {librdkafka})", env!("CARGO_PKG_VERSION"), env!("TERRA_BRIDGE_COMMIT"))
});

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed while running
  2  wrong usage or configuration";

const ABOUT_ALL: &str = "\
Without a command it serves. Settings come from defaults, then the file, then the environment; \
`terra-bridge check` prints each one with its source.

Examples:
  TERRA_SIGNING_SECRET=… terra-bridge
      serve, keep events in ./terra-bridge-data
  TERRA_SIGNING_SECRET=… TERRA_BRIDGE_BUS=kafka TERRA_BRIDGE_KAFKA__BROKERS=host:9092 terra-bridge
      serve, keep events on Kafka
  terra-bridge check --online
      judge the configuration and the bus
  terra-bridge send daily
      post a signed sample to the bridge that runs here
  terra-bridge tail
      watch what arrives on the bus
  terra-bridge requests --follow
      watch large historical requests arrive";

/// Receives Terra's webhooks, proves who sent them, and keeps every event on Kafka, NATS JetStream
/// or an embedded log.
#[derive(Debug, Parser)]
#[command(name = "terra-bridge", version = VERSION.as_str(), after_help = with_codes(ABOUT_ALL), max_term_width = 100)]
pub(crate) struct Cli {
    /// The configuration file, in TOML.
    ///
    /// Without it the one that TERRA_BRIDGE_CONFIG names, or none: the environment alone is enough.
    /// The environment stands above the file.
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take deliveries and keep them until a signal ends it (the default)
    ///
    /// SIGTERM or SIGINT: takes nothing new, finishes what it has within `server.drain_timeout`, and
    /// exits with 0. A second signal ends it at once.
    ///
    /// SIGHUP: reads the configuration anew. Endpoints, routes and a few more keys (the head of the
    /// reference file lists them) are taken over at once, what else differs is named and takes effect at
    /// the next start; a configuration with a mistake changes nothing. Files of signing secrets are
    /// looked at without it.
    #[command(after_help = EXIT_CODES)]
    Serve,
    /// Judge the configuration: every mistake at once, or every value with its source
    ///
    /// Prints the configuration that counts (secrets only as "set, N bytes") and the routing table,
    /// or else every mistake with its remedy. Opens no port and sends nothing.
    #[command(after_help = EXIT_CODES)]
    Check(CheckArgs),
    /// Post signed sample deliveries to a bridge, as Terra would
    #[command(after_help = with_codes(&send::after_help()))]
    Send(SendArgs),
    /// Print messages of the configured bus as they arrive
    ///
    /// Reads beside all consumers: it joins no consumer group and leaves no durable consumer behind. Needs
    /// what the bus wants of a reader, and no signing secret.
    #[command(after_help = with_codes(tail::EXAMPLES))]
    Tail(TailArgs),
    /// Show how much of each large historical request has arrived
    ///
    /// Reads what the configured bus keeps, whichever bridge took it, beside all consumers, and compares what
    /// arrived with what Terra announced. A request is what shares an endpoint and a `terra-reference`.
    #[command(after_help = with_codes(requests::EXPLAINED))]
    Requests(RequestsArgs),
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  terra-bridge completions bash > ~/.local/share/bash-completion/completions/terra-bridge"
    )]
    Completions { shell: Shell },
    /// Ask the bridge that runs here whether it lives, for a container's health check
    ///
    /// GETs /livez on `admin.listen`, within two seconds. Nothing else of the configuration is looked at.
    #[command(after_help = "\
Exit codes:
  0  it answered 200
  1  it answered something else, or not in time
  2  wrong usage or configuration")]
    Health,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Also connect to the bus: do its topics exist, how safely does it keep them, does the largest
    /// body fit
    #[arg(long)]
    pub(crate) online: bool,
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(group = ArgGroup::new("what").required(true))]
pub(crate) struct SendArgs {
    /// Event types, one sample of each
    #[arg(value_name = "TYPE", group = "what", value_parser = type_names(), hide_possible_values = true)]
    types: Vec<String>,
    /// One sample of every known type
    #[arg(long, group = "what")]
    all: bool,
    /// A body of your own, sent byte for byte; `-` reads standard input
    ///
    /// A lab report or one of Vantage's events is known by its `event_id`: sent again, it is kept once.
    #[arg(long, group = "what", value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// A historical request as Terra sends it: announced, then N chunks
    #[arg(long, group = "what", value_name = "N", conflicts_with = "count")]
    large_request: Option<NonZeroU32>,
    /// Where to, in full, path included; http or https [default: the bridge that runs here]
    ///
    /// The default is made of `server.listen` and the endpoint's path.
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url, value_parser = url)]
    url: Option<http::Uri>,
    /// Whose secret signs [default: the only endpoint, or the one called `terra`]
    ///
    /// The endpoint's first secret signs.
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
    /// How often each is sent
    ///
    /// Each time is an event of its own: the trace id is new, and so is a sample's `event_id`.
    #[arg(long, value_name = "N", default_value = "1")]
    count: NonZeroU64,
    /// Deliveries under way at once
    ///
    /// With 1, they arrive in the order in which they are sent.
    #[arg(long, value_name = "N", default_value = "1")]
    concurrency: NonZeroUsize,
    /// Sign with a wrong secret, to see the rejection
    ///
    /// Then 0 means that all were answered with the endpoint's `rejected_status`.
    #[arg(long)]
    forge: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// Topics, by their whole names [default: those that the configuration routes to and the bus has]
    #[arg(value_name = "TOPIC")]
    topics: Vec<String>,
    /// Where to begin: `earliest`, `latest` or an offset
    ///
    /// `latest` prints only what arrives from now on. An offset is inclusive and counts in each
    /// partition of each topic; for NATS it is the stream's sequence.
    #[arg(long, value_name = "WHERE", default_value = "latest", value_parser = from)]
    from: StartPosition,
    /// One JSON object a line: topic, key, partition, offset, time, headers, payload
    ///
    /// The payload is a string, or `payload_base64` where it is not UTF-8.
    #[arg(long)]
    json: bool,
    /// End after N messages; without it, Ctrl-C ends it
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroU64>,
}

#[derive(Debug, Args)]
pub(crate) struct RequestsArgs {
    /// Only the request of this reference, even where it is no large one
    #[arg(long, value_name = "R")]
    reference: Option<String>,
    /// Go on with what arrives; Ctrl-C ends it
    ///
    /// A terminal is redrawn; elsewhere each change is a line.
    #[arg(long)]
    follow: bool,
    /// One JSON object a line for each request; with --follow, again at each change
    #[arg(long)]
    json: bool,
    /// What is not finished and got nothing for so long is stalled
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    stalled_after: Duration,
}

/// Why a command ends with another code than 0, in words for people.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Wrong usage or configuration.
    Mistake(String),
    Running(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Mistake(says) | Self::Running(says)) = self;
        f.write_str(says)
    }
}

impl std::convert::From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Running(error.to_string())
    }
}

impl Failure {
    /// With more words behind it.
    fn with(self, more: &str) -> Self {
        match self {
            Self::Mistake(says) => Self::Mistake(says + more),
            Self::Running(says) => Self::Running(says + more),
        }
    }

    fn code(&self) -> ExitCode {
        match self {
            Self::Running(_) => ExitCode::from(1),
            Self::Mistake(_) => ExitCode::from(2),
        }
    }
}

/// The whole program: reads the command line, does what it says, and says on stderr why it failed.
/// Usage errors, `--help` and `--version` end the process here.
pub fn run() -> ExitCode {
    private::keep_private();
    match execute(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", pretty::harmless(&failure.to_string()));
            failure.code()
        }
    }
}

fn execute(cli: Cli) -> Result<(), Failure> {
    let file = cli.config.as_deref();
    let load = || judged(file).map_err(mistaken);
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => finish(async {
            let running = |error: serve::StartError| Failure::Running(error.to_string());
            // One that comes while the configuration is being read must not end the process.
            let hangup = serve::hangup().map_err(running)?;
            let (loaded, table) = load()?;
            serve::run(loaded, table, file.map(Path::to_owned), hangup).await.map_err(running)
        }),
        Command::Check(args) => {
            let (loaded, table) = load()?;
            finish(check::run(&args, &loaded, &table))
        }
        Command::Send(args) => finish(send::run(&args, &load()?.0.config)),
        Command::Tail(args) => {
            let (bus, table) = reader(file)?;
            let topics = table.topics().iter().map(ToString::to_string).collect();
            finish(tail::run(&args, &bus, topics))
        }
        Command::Requests(args) => {
            let (bus, table) = reader(file)?;
            let topics = table.topics_of(requests::may_concern).iter().map(ToString::to_string).collect();
            finish(requests::run(&args, &bus, topics))
        }
        Command::Completions { shell } => completions(shell),
        Command::Health => finish(health::run(&config::load_admin(file, std::env::vars_os()).map_err(mistaken)?)),
    }
}

/// Runs a command to its end and leaves without waiting for what its clients still do.
fn finish(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(command);
    runtime.shutdown_background();
    ended
}

/// What is wrong, for people.
fn mistaken(mistakes: Mistakes) -> Failure {
    let count = match mistakes.all.len() {
        1 => "1 mistake".to_owned(),
        count => format!("{count} mistakes"),
    };
    Failure::Mistake(format!("{count} in the configuration\n\n{mistakes}\n{}", check::ignored(&mistakes.ignored)))
}

/// What whoever reads the bus needs of the configuration, and the table that it makes.
fn reader(file: Option<&Path>) -> Result<(config::Bus, RouteTable), Failure> {
    let config::Reader { bus, routes, endpoints } = config::load_reader(file, std::env::vars_os()).map_err(mistaken)?;
    let table = RouteTable::build(&routes, endpoints.iter().map(|(name, own)| (name.as_str(), own)));
    Ok((bus, table.expect(JUDGED)))
}

/// The configuration from the process's own environment, and the table that it makes.
fn judged(file: Option<&Path>) -> Result<(Loaded, RouteTable), Mistakes> {
    let loaded = config::load(file, std::env::vars_os(), io::stdout().is_terminal())?;
    let table = RouteTable::of(&loaded.config).expect(JUDGED);
    Ok((loaded, table))
}

/// Why there is a table wherever there is a configuration.
const JUDGED: &str = "the configuration was judged with its table";

/// What the bus is to know of the configuration.
fn setup(config: &Config, routes: &RouteTable) -> bus::Setup {
    bus::Setup {
        topics: routes.topics(),
        publish_timeout: config.bus_timeout(),
        max_body: config.server.max_body,
        bytes_in_flight: config.server.bytes_in_flight,
    }
}

fn completions(shell: Shell) -> Result<(), Failure> {
    // clap_complete panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "terra-bridge", &mut script);
    quiet_on_broken_pipe(io::stdout().write_all(&script))
}

/// A reader that has seen enough, as `head` does, is no failure.
fn quiet_on_broken_pipe(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn with_codes(text: &str) -> String {
    format!("{text}\n\n{EXIT_CODES}")
}

fn type_names() -> PossibleValuesParser {
    SAMPLES.iter().map(|sample| sample.name).into()
}

fn from(text: &str) -> Result<StartPosition, String> {
    match text {
        "earliest" => Ok(StartPosition::Earliest),
        "latest" => Ok(StartPosition::Latest),
        _ => text.parse().map(StartPosition::Offset).map_err(|_| "expected earliest, latest or an offset".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    config::parse_duration(text).map_err(|why| format!("{why}; expected numbers with units, such as 90s or 1h 30m"))
}

fn url(text: &str) -> Result<http::Uri, String> {
    let url: http::Uri = text.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    match (url.scheme_str(), url.host()) {
        (Some("http" | "https"), Some(_)) => Ok(url),
        _ => Err("expected a whole URL, such as http://127.0.0.1:8080/terra".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind;

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    fn refused(line: &str) -> clap::Error {
        let error = parsed(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
        error
    }

    fn send(line: &str) -> SendArgs {
        match parsed(line).expect(line).command {
            Some(Command::Send(args)) => args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_command_it_serves_and_config_may_stand_anywhere() {
        assert!(parsed("terra-bridge").expect("parses").command.is_none());
        for line in ["terra-bridge --config a.toml check --online", "terra-bridge check --online --config a.toml"] {
            let cli = parsed(line).expect(line);
            assert_eq!(cli.config, Some(PathBuf::from("a.toml")), "{line}");
            assert!(matches!(cli.command, Some(Command::Check(CheckArgs { online: true }))), "{line}");
        }
    }

    #[test]
    fn send_needs_exactly_one_thing_to_send() {
        assert_eq!(refused("terra-bridge send").kind(), ErrorKind::MissingRequiredArgument);
        assert_eq!(refused("terra-bridge send daily --all").kind(), ErrorKind::ArgumentConflict);
        assert_eq!(refused("terra-bridge send --all --file a.json").kind(), ErrorKind::ArgumentConflict);
        assert_eq!(send("terra-bridge send daily sleep").types, ["daily", "sleep"]);
        assert!(send("terra-bridge send --all").all);
        assert_eq!(send("terra-bridge send --file -").file, Some(PathBuf::from("-")));
    }

    #[test]
    fn misspelt_type_is_answered_with_the_list_and_a_suggestion() {
        let says = refused("terra-bridge send dayly").to_string();
        assert!(says.contains("'daily'"), "{says}");
        assert!(SAMPLES.iter().all(|sample| says.contains(sample.name)), "{says}");
    }

    #[test]
    fn counts_and_urls_are_checked_before_anything_is_sent() {
        for wrong in ["--count 0", "--concurrency 0", "--count many", "--url 127.0.0.1:8080/terra", "--url ftp://a/b"] {
            let kind = refused(&format!("terra-bridge send daily {wrong}")).kind();
            assert!(matches!(kind, ErrorKind::ValueValidation), "{wrong}: {kind:?}");
        }
        let args = send("terra-bridge send daily --count 3 --concurrency 2 --url https://bridge.example/terra");
        assert_eq!((args.count.get(), args.concurrency.get()), (3, 2));
    }

    #[test]
    fn tail_begins_where_it_is_told() {
        let from = |line: &str| match parsed(line).expect(line).command {
            Some(Command::Tail(args)) => args.from,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(from("terra-bridge tail"), StartPosition::Latest);
        assert_eq!(from("terra-bridge tail a b --from earliest"), StartPosition::Earliest);
        assert_eq!(from("terra-bridge tail --from 1200"), StartPosition::Offset(1200));
        refused("terra-bridge tail --from -1");
        refused("terra-bridge tail --from yesterday");
    }

    #[test]
    fn requests_are_stalled_after_a_time_with_a_unit() {
        let stalled_after = |line: &str| match parsed(line).expect(line).command {
            Some(Command::Requests(args)) => args.stalled_after,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(stalled_after("terra-bridge requests"), Duration::from_secs(600));
        assert_eq!(stalled_after("terra-bridge requests --follow --stalled-after 1h30m"), Duration::from_secs(5400));
        let says = refused("terra-bridge requests --stalled-after 10").to_string();
        assert!(says.contains("has no unit") && says.contains("90s"), "{says}");
        refused("terra-bridge requests some-reference");
    }

    #[test]
    fn version_names_the_commit_and_librdkafka() {
        let error = parsed("terra-bridge --version").expect_err("says its version");
        let says = error.to_string();
        assert_eq!(error.exit_code(), 0);
        assert!(
            says.starts_with("terra-bridge 0.") && says.contains("commit") && says.contains("librdkafka 2."),
            "{says}"
        );
    }
}
