//! The command line: commands, arguments and their help.

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{ArgGroup, Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

use super::dead_letters::args::DeadLettersCommand;
use super::find::FindArgs;
use super::replay::args::ReplayArgs;
use super::spool::args::SpoolCommand;
use super::url::url;
use crate::bus::{StartPosition, adapters};
use crate::config;
use crate::samples::SAMPLES;

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let commit = format!("commit {}", env!("TERRA_BRIDGE_COMMIT"));
    let left_out = adapters::LEFT_OUT.iter().map(|bus| format!("without {bus}"));
    let built: Vec<_> = std::iter::once(commit).chain(adapters::client_versions()).chain(left_out).collect();
    format!("{} ({})", env!("CARGO_PKG_VERSION"), built.join(", "))
});

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed while running
  2  wrong usage or configuration";

const ABOUT_ALL: &str = "\
Without a command it runs `serve`. Settings come from defaults, then the file, then the environment; \
`terra-bridge check` prints each one with its source.

Examples:
  TERRA_SIGNING_SECRET=… terra-bridge
      receive events and store them in ./terra-bridge-data
  TERRA_SIGNING_SECRET=… TERRA_BRIDGE_BUS=kafka TERRA_BRIDGE_KAFKA__BROKERS=host:9092 terra-bridge
      receive events and store them in Kafka
  terra-bridge check --online
      check the configuration and the bus
  terra-bridge send daily
      post a signed sample to the bridge on this machine
  terra-bridge tail
      watch what arrives on the bus
  terra-bridge requests --follow
      watch large historical requests arrive";

const SEND_EXAMPLES: &str = "\
Up to 50 deliveries print each reply, more a summary with rate and percentiles.

Examples:
  terra-bridge send daily sleep
  terra-bridge send --all
  terra-bridge send --large-request 12
  terra-bridge send daily --count 10000 --concurrency 32
  terra-bridge send --file event.json --url https://bridge.example.com/terra
  terra-bridge send daily --forge";

/// The known types, then [`SEND_EXAMPLES`].
fn about_send() -> String {
    let names: Vec<_> = SAMPLES.iter().map(|sample| sample.name).collect();
    format!("Types:\n  {}\n\n{SEND_EXAMPLES}", names.join(" "))
}

const ABOUT_TAIL: &str = "\
Like tail -f it begins with what arrives from now on; --from earliest begins with the oldest message \
that is kept. Times are UTC. Colours only on a terminal, and never with NO_COLOR set.

Examples:
  terra-bridge tail
  terra-bridge tail --from earliest --limit 3
  terra-bridge tail terra.daily terra.sleep --from 1200
  terra-bridge tail terra.daily --json | jq .headers";

const ABOUT_REQUESTS: &str = "\
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

const ABOUT_FIND: &str = "\
Examples:
  terra-bridge find --trace 5a0c1d7e-dd0d-472a-b906-d50a48e7400d
  terra-bridge find --id 3fa9b2c1d4e5
  terra-bridge find --user 3f2a0b1c --json";

const ABOUT_DEAD_LETTERS: &str = "\
Examples:
  terra-bridge dead-letters list
  terra-bridge dead-letters show 3fa9b2c1d4e5 --payload
  terra-bridge dead-letters replay --all --dry-run";

const ABOUT_REPLAY: &str = "\
Examples:
  terra-bridge replay --topic terra.sleep --from 2026-11-28T04:00:00Z --into sleep.ndjson
  terra-bridge replay --file sleep.ndjson --into bus --dry-run
  terra-bridge replay --file sleep.ndjson --into bus --checkpoint sleep.checkpoint
  terra-bridge replay --source old.toml --user 3f2a --into bus
  terra-bridge replay --file sleep.ndjson --into https://bridge.example.com/terra --rate 50";

const ABOUT_SPOOL: &str = "\
Examples:
  terra-bridge spool list
  terra-bridge spool show 3fa9b2c1d4e5 --payload
  terra-bridge spool export --file set-aside.ndjson
  terra-bridge spool retry --all
  terra-bridge spool discard 3fa9b2c1d4e5";

const ABOUT_VERIFY: &str = "\
Examples:
  terra-bridge log verify terra-bridge-data";

const ABOUT_ASYNCAPI: &str = "\
Examples:
  terra-bridge asyncapi > topics.json
  terra-bridge asyncapi | jq '.channels | map_values(.messages | keys)'
  curl http://127.0.0.1:8081/asyncapi";

/// Receives Terra's webhooks, verifies their signatures, and stores every event in Kafka, NATS
/// JetStream or an embedded log.
#[derive(Debug, Parser)]
#[command(name = "terra-bridge", version = VERSION.as_str(), after_help = with_codes(ABOUT_ALL), max_term_width = 100)]
pub(super) struct Cli {
    /// The configuration file, in TOML.
    ///
    /// Default: the file that TERRA_BRIDGE_CONFIG names, or none: the environment alone is enough.
    /// The environment overrides the file.
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Read and check every record, without changing anything
    ///
    /// Prints what each file holds, or where it is damaged. A bridge may run on the directory. The messages that
    /// a spool set aside lie in its directory `set-aside`.
    #[command(after_help = with_codes(ABOUT_VERIFY))]
    Verify {
        /// `embedded.dir` or `spool.dir`
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Receive deliveries and store them until a signal (the default)
    ///
    /// SIGTERM or SIGINT: accepts nothing new, finishes running deliveries within
    /// `server.drain_timeout`, and exits with 0. A second signal exits at once.
    ///
    /// SIGHUP: reads the configuration again. Endpoints, routes and a few more keys (listed at the top of
    /// the reference file) change at once; the log names the others that differ, which need a restart. A
    /// configuration with a mistake changes nothing. Files of signing secrets are read again without it.
    #[command(after_help = EXIT_CODES)]
    Serve,
    /// Check the configuration: show every mistake, or every value with its source
    ///
    /// Prints the effective configuration (secrets only as "set, N bytes"), the routing table and the most
    /// memory that the bridge takes, or every mistake with its remedy. Opens no port and sends nothing.
    #[command(after_help = EXIT_CODES)]
    Check(CheckArgs),
    /// Post signed sample deliveries to a bridge, as Terra would
    #[command(after_help = with_codes(&about_send()))]
    Send(SendArgs),
    /// Print messages of the configured bus as they arrive
    ///
    /// Disturbs no consumer: it joins no consumer group and leaves no durable consumer behind. Needs a login
    /// that may read the bus, and no signing secret.
    #[command(after_help = with_codes(ABOUT_TAIL))]
    Tail(TailArgs),
    /// Find where one delivery, or those of a user or a reference, are
    ///
    /// Looks on the bus, among the dead letters and, where spool.dir is set, in the spool. Prints no payload.
    #[command(after_help = with_codes(ABOUT_FIND))]
    Find(FindArgs),
    /// See what Terra signed and nobody could read, and hand it to a bridge again
    #[command(name = "dead-letters", subcommand, after_help = with_codes(ABOUT_DEAD_LETTERS))]
    DeadLetters(DeadLettersCommand),
    /// Bring messages from a bus or a file to a bus, a bridge or a file
    ///
    /// Each keeps its id, and each user's stay in order. What NATS or the embedded log still remembers is a duplicate
    /// there and kept once. Kafka cannot know it: a copy has the same id. Try --dry-run first.
    #[command(after_help = with_codes(ABOUT_REPLAY))]
    Replay(ReplayArgs),
    /// See what the spool set aside, send it again, export it, or discard it
    ///
    /// A message is set aside when the bus refuses it for good: it is too large, or its topic takes none. A running
    /// bridge is asked over its socket in `spool.dir`, as the user that it runs as, or as root. Where none runs, the
    /// command opens the spool itself, and no bridge can start until it has ended. Needs no signing secret.
    #[command(subcommand, after_help = with_codes(ABOUT_SPOOL))]
    Spool(SpoolCommand),
    /// Look at a directory of the embedded log or of the spool
    #[command(subcommand)]
    Log(LogCommand),
    /// Show how much of each large historical request has arrived
    ///
    /// Reads what the configured bus keeps, whichever bridge received it, without disturbing any consumer, and
    /// compares what arrived with what Terra announced. The events of a request share an endpoint and a
    /// `terra-reference`.
    #[command(after_help = with_codes(ABOUT_REQUESTS))]
    Requests(RequestsArgs),
    /// Print the topics as an AsyncAPI document
    ///
    /// In JSON, from the configuration alone: servers, topics, the types that go to each, headers, keys and
    /// examples. The same configuration gives the same text, so that you can keep it in a repository and compare.
    /// Needs no signing secret. A running bridge serves it at /asyncapi.
    #[command(after_help = with_codes(ABOUT_ASYNCAPI))]
    Asyncapi,
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  terra-bridge completions bash > ~/.local/share/bash-completion/completions/terra-bridge"
    )]
    Completions { shell: Shell },
    /// Write the manual pages into a directory, one for each command
    #[command(after_help = "Example:\n  terra-bridge man ~/.local/share/man/man1")]
    Man {
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
    /// Ask the bridge on this machine whether it is alive, for a container's health check
    ///
    /// GETs /livez on `admin.listen`, within two seconds. Reads nothing else of the configuration.
    #[command(after_help = "\
Exit codes:
  0  the bridge answered 200
  1  it answered something else, or not in time
  2  wrong usage or configuration")]
    Health,
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Also connect to the bus: check that its topics exist, how safely it stores them, and that the
    /// largest body fits
    #[arg(long)]
    pub(super) online: bool,
    /// Print only the most memory that the bridge takes, in bytes
    #[arg(long, conflicts_with = "online")]
    pub(super) memory: bool,
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(group = ArgGroup::new("what").required(true))]
pub(super) struct SendArgs {
    /// Event types, one sample of each
    #[arg(value_name = "TYPE", group = "what", value_parser = type_names(), hide_possible_values = true)]
    pub(super) types: Vec<String>,
    /// One sample of every known type
    #[arg(long, group = "what")]
    pub(super) all: bool,
    /// A body of your own, sent byte for byte; `-` reads standard input
    ///
    /// A lab report or one of Vantage's events is identified by its `event_id`: sent twice, it is stored once.
    #[arg(long, group = "what", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) file: Option<PathBuf>,
    /// A large historical request as Terra sends it: two announcements, then N chunks
    #[arg(long, group = "what", value_name = "N", conflicts_with = "count")]
    pub(super) large_request: Option<NonZeroU32>,
    /// The whole URL to post to, http or https [default: the bridge on this machine]
    ///
    /// The default follows from `server.listen` and the endpoint's path.
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url, value_parser = url)]
    pub(super) url: Option<http::Uri>,
    /// The endpoint whose first secret signs [default: the only one, or the one called `terra`]
    #[arg(long, value_name = "NAME")]
    pub(super) endpoint: Option<String>,
    /// How often to send each
    ///
    /// Each time it is a new event, with a new trace id; a sample's `event_id` is new as well.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(super) count: NonZeroU64,
    /// Deliveries in flight at once
    ///
    /// With 1, they arrive in the order in which they are sent.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(super) concurrency: NonZeroUsize,
    /// Sign with a wrong secret, to see the rejection
    ///
    /// Exit code 0 then means that every answer was the endpoint's `rejected_status`.
    #[arg(long)]
    pub(super) forge: bool,
}

#[derive(Debug, Args)]
pub(super) struct TailArgs {
    /// Whole names of topics [default: those that the configuration routes to and the bus has]
    #[arg(value_name = "TOPIC")]
    pub(super) topics: Vec<String>,
    /// Where to begin: `earliest`, `latest` or an offset
    ///
    /// `latest` prints only what arrives from now on. An offset is inclusive and applies to each
    /// partition of each topic; for NATS it is the stream's sequence.
    #[arg(long, value_name = "WHERE", default_value = "latest", value_parser = start_position)]
    pub(super) from: StartPosition,
    /// One JSON object a line: topic, key, partition, offset, time, headers, payload
    ///
    /// The payload is a string, or `payload_base64` where it is not UTF-8.
    #[arg(long)]
    pub(super) json: bool,
    /// Stop after N messages; without it, Ctrl-C stops it
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<NonZeroU64>,
}

#[derive(Debug, Args)]
pub(super) struct RequestsArgs {
    /// Only the request with this reference, even if it is not a large one
    #[arg(long, value_name = "R")]
    pub(super) reference: Option<String>,
    /// Keep watching; Ctrl-C stops it
    ///
    /// A terminal is redrawn; elsewhere each change is a line.
    #[arg(long)]
    pub(super) follow: bool,
    /// One JSON object a line for each request; with --follow, again at each change
    #[arg(long)]
    pub(super) json: bool,
    /// A request that is not finished and got nothing for so long is stalled
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub(super) stalled_after: Duration,
}

fn with_codes(text: &str) -> String {
    format!("{text}\n\n{EXIT_CODES}")
}

fn type_names() -> PossibleValuesParser {
    SAMPLES.iter().map(|sample| sample.name).into()
}

fn start_position(text: &str) -> Result<StartPosition, String> {
    match text {
        "earliest" => Ok(StartPosition::Earliest),
        "latest" => Ok(StartPosition::Latest),
        _ => text.parse().map(StartPosition::Offset).map_err(|_| "expected earliest, latest or an offset".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    config::parse_duration(text).map_err(|why| format!("{why}; expected numbers with units, such as 90s or 1h 30m"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
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
    fn serve_is_the_default_command_and_config_may_stand_anywhere() {
        assert!(parsed("terra-bridge").expect("parses").command.is_none());
        for line in ["terra-bridge --config a.toml check --online", "terra-bridge check --online --config a.toml"] {
            let cli = parsed(line).expect(line);
            assert_eq!(cli.config, Some(PathBuf::from("a.toml")), "{line}");
            assert!(matches!(cli.command, Some(Command::Check(CheckArgs { online: true, memory: false }))), "{line}");
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
    fn tail_takes_a_start_position() {
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
    fn requests_takes_a_stall_time_with_a_unit() {
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
    fn version_names_the_commit_and_what_is_left_out() {
        let error = parsed("terra-bridge --version").expect_err("says its version");
        let says = error.to_string();
        assert_eq!(error.exit_code(), 0);
        assert!(says.starts_with("terra-bridge 0.") && says.contains("(commit "), "{says}");
        let of_kafka = if adapters::LEFT_OUT.contains(&"kafka") { "without kafka" } else { "librdkafka 2." };
        assert!(says.contains(of_kafka), "{says}");
    }
}
