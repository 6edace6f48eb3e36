//! The resolved configuration: what every other room may rely on.
//! Comes in: defaults, a TOML file, the environment. Goes out: [`Config`], or every mistake at once.
//! Knows no network; opens no port.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

mod advice;
mod checks;
mod environment;
mod file;
pub(crate) mod files;
mod inventory;
mod keys;
mod kind;
mod mistake;
mod print;
mod resolve;
mod rules;
mod secret;
mod sheet;
mod units;
mod values;
mod watched;

use values::{Purpose, Values};

#[cfg(test)]
mod tests;

pub use advice::Advice;
pub use inventory::{Difference, Inventory, Looked};
pub use mistake::{Ignored, Mistake, Mistakes, Source};
pub use print::{Effective, Line};
pub(crate) use units::parse_duration;
pub use units::topic_name;

/// What [`load`] gives.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// To be shown to people; has no secret in it.
    pub effective: Effective,
    /// All of it by key, to be compared with the next load's.
    pub inventory: Inventory,
}

/// What [`load_reader`] gives: as much as whoever reads the bus needs to hold.
#[derive(Debug, Clone)]
pub struct Reader {
    pub bus: Bus,
    pub routes: Routes,
    /// Every endpoint by its name.
    pub endpoints: Vec<(String, OwnRoutes)>,
}

/// Defaults, then the file (or else the one that `TERRA_BRIDGE_CONFIG` names), then the environment.
/// Reads that file, the files that its values name, and nothing else: no network, no clock, and no
/// variable but the given ones. `is_terminal`: whether logs go to a terminal.
/// The error has every mistake at once, and no secret in any of them.
pub fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
    is_terminal: bool,
) -> Result<Loaded, Mistakes> {
    let (config, values, ignored) = read(file, environment, Purpose::Serve, is_terminal, resolve::config)?;
    let effective = print::effective(&values, ignored);
    Ok(Loaded { config, effective, inventory: Inventory::of(values) })
}

/// The same, for whoever reads the bus: needs no signing secret and no file that only a server holds.
/// All else is judged as [`load`] does.
pub fn load_reader(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Reader, Mistakes> {
    read(file, environment, Purpose::ReadBus, false, resolve::reader).map(|(reader, ..)| reader)
}

/// The same, for whoever asks for the bridge's health: reads no secret at all, and knows no mistake but of the
/// admin listener's own. Whether a new configuration is sound says nothing of a bridge that runs on another.
pub fn load_admin(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Admin, Mistakes> {
    read(file, environment, Purpose::AskHealth, false, resolve::admin).map(|(admin, ..)| admin)
}

fn read<T>(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
    purpose: Purpose,
    is_terminal: bool,
    resolve: fn(&Values) -> Option<T>,
) -> Result<(T, Values, Vec<Ignored>), Mistakes> {
    let environment = environment::Environment::new(environment);
    let ignored = environment.ignored();
    let mut sheet = match sheet::lay(file, &environment) {
        Ok(sheet) => sheet,
        Err(all) => return Err(Mistakes { all, ignored }),
    };
    if purpose == Purpose::AskHealth {
        sheet.keep("admin");
    }
    let mut values = values::walk(sheet, &environment, purpose, is_terminal);
    values.mistakes.extend(rules::judge(&values));
    match resolve(&values) {
        Some(resolved) if values.mistakes.is_empty() => Ok((resolved, values, ignored)),
        _ => Err(Mistakes { all: values.mistakes, ignored }),
    }
}

/// A configuration that was checked as a whole.
#[derive(Debug, Clone)]
pub struct Config {
    pub bus: Bus,
    pub server: Server,
    /// At least one, each with its own path.
    pub endpoints: Vec<Endpoint>,
    pub routes: Routes,
    /// `None`: links are forwarded.
    pub s3: Option<S3>,
    pub dedupe: Dedupe,
    /// `None`: off.
    pub spool: Option<Spool>,
    pub admin: Admin,
    pub log: Log,
}

impl Config {
    /// From a message's way to the bus to the bus's answer, at most: the spool, where there is one, needs
    /// the rest of `server.publish_timeout`.
    pub fn bus_timeout(&self) -> Duration {
        bus_timeout(self.server.publish_timeout, self.spool.is_some())
    }
}

fn bus_timeout(publish_timeout: Duration, spool: bool) -> Duration {
    const FOR_THE_SPOOL: Duration = Duration::from_secs(1);
    if spool { publish_timeout - FOR_THE_SPOOL.min(publish_timeout / 4) } else { publish_timeout }
}

#[derive(Debug, Clone)]
pub enum Bus {
    Embedded(Embedded),
    Kafka(Kafka),
    Nats(Nats),
}

#[derive(Debug, Clone)]
pub struct Server {
    pub listen: SocketAddr,
    pub senders: Senders,
    /// Bytes.
    pub max_body: usize,
    /// From the last byte of the body to the answer, at most.
    pub publish_timeout: Duration,
    /// From the first byte of the request to the answer, at most.
    pub deadline: Duration,
    pub max_connections: usize,
    /// Bytes.
    pub max_header_bytes: usize,
    pub max_headers: usize,
    /// Bytes of all bodies between socket and receipt together.
    pub bytes_in_flight: usize,
    /// From the first byte of a head to its last.
    pub header_timeout: Duration,
    /// How long a connection may rest between two requests.
    pub idle_timeout: Duration,
    /// Bytes a second, averaged since the head was complete.
    pub min_body_rate: u64,
    pub drain_timeout: Duration,
    /// `None`: plain HTTP.
    pub tls: Option<CertificatePair>,
}

/// What a listener proves itself with: PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificatePair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Who may try. IPv4 networks hold IPv4 addresses in IPv6's clothes too, which are the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Senders {
    /// `None`: everybody.
    pub allow: Option<Vec<IpNet>>,
    /// Whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<IpNet>,
}

#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `[a-z0-9_-]+`: it stands in metrics, topics and the CloudEvents source.
    pub name: String,
    /// Begins with `/`.
    pub path: String,
    /// At least one, none of them empty.
    pub secrets: Vec<Secret>,
    pub max_age: Duration,
    pub max_skew: Duration,
    /// 401 or 503.
    pub rejected_status: http::StatusCode,
    pub routes: OwnRoutes,
}

/// What an endpoint says itself, before the common routes. Names are as theirs.
#[derive(Debug, Clone, Default)]
pub struct OwnRoutes {
    pub template: Option<String>,
    pub unknown: Option<Option<String>>,
    pub dead_letter: Option<String>,
    pub types: BTreeMap<String, Option<String>>,
}

/// Every topic may have `{endpoint}` in it.
#[derive(Debug, Clone)]
pub struct Routes {
    /// Has `{type}` in it.
    pub template: String,
    /// `None` drops.
    pub unknown: Option<String>,
    pub dead_letter: String,
    /// Type, or a prefix with a final `*`, to a topic; `None` drops.
    pub types: BTreeMap<String, Option<String>>,
}

/// How links are followed.
#[derive(Debug, Clone)]
pub struct S3 {
    /// With a port where that is not 443; `*` stands for one part between dots.
    pub hosts: Vec<String>,
    /// Networks that are not the internet, and allowed all the same.
    pub allow_networks: Vec<IpNet>,
    /// A PEM file; `None`: the machine's own authorities.
    pub ca: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy)]
pub struct Dedupe {
    /// At least `max_age` and `max_skew` of every endpoint.
    pub window: Duration,
    /// Deliveries.
    pub entries: usize,
}

#[derive(Debug, Clone)]
pub struct Spool {
    pub dir: PathBuf,
    /// Bytes.
    pub max_bytes: u64,
    pub max_age: Duration,
    /// Bytes of free space below which nothing more is taken.
    pub reserve: u64,
}

#[derive(Debug, Clone)]
pub struct Kafka {
    /// `host:port`, at least one.
    pub brokers: Vec<String>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub sasl_mechanism: Option<String>,
    pub tls: Tls,
    pub create_topics: bool,
    pub partitions: i32,
    /// `None`: the broker's own.
    pub replication_factor: Option<i32>,
    pub topic_config: BTreeMap<String, String>,
    /// The user's librdkafka properties, references resolved, names as the user wrote them.
    pub properties: BTreeMap<String, Secret>,
}

#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// A PEM file, or `system`.
    pub ca: Option<String>,
    /// PEM files, both or none.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub struct Nats {
    /// `nats://` or `tls://` URLs without credentials in them, at least one.
    pub servers: Vec<String>,
    pub stream: String,
    pub create_stream: bool,
    pub replicas: usize,
    pub max_age: Duration,
    /// Bytes; `None`: no limit.
    pub max_bytes: Option<u64>,
    /// At most `max_age`.
    pub duplicate_window: Duration,
    /// A bucket for what is too large for a message.
    pub object_store: Option<String>,
    pub domain: Option<String>,
    pub inbox_prefix: Option<String>,
    /// The text of a credentials file.
    pub credentials: Option<Secret>,
    pub nkey: Option<Secret>,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub token: Option<Secret>,
    pub tls: Tls,
}

impl Nats {
    /// Whether every server has to speak TLS, also those that others name later.
    pub fn wants_tls(&self) -> bool {
        let tls = |server: &String| server.starts_with("tls://");
        self.tls.ca.is_some() || self.tls.certificate.is_some() || self.servers.iter().any(tls)
    }
}

#[derive(Debug, Clone)]
pub struct Embedded {
    pub dir: PathBuf,
    pub listen: SocketAddr,
    /// Demanded wherever `listen` is not a loopback address.
    pub token: Option<Secret>,
    /// `None`: plain HTTP.
    pub tls: Option<CertificatePair>,
    pub retention: Duration,
    /// Bytes.
    pub max_bytes: u64,
    /// Bytes of free space below which nothing more is taken.
    pub reserve: u64,
}

#[derive(Debug, Clone)]
pub struct Admin {
    pub listen: SocketAddr,
    pub ready_needs_bus: bool,
}

#[derive(Debug, Clone)]
pub struct Log {
    pub format: LogFormat,
    /// In the syntax of `tracing_subscriber::EnvFilter`.
    pub filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}

/// Bytes that are shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes themselves: for a signature, a login, a comparison, and nothing else.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set, {} bytes", self.0.len())
    }
}
