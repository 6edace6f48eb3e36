//! All sections of the configuration except those of the buses. Each key is declared once, here: its type, default,
//! format and documentation.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ipnet::IpNet;

use super::buses::Bus;
use super::declaration::*;
use super::format::*;
use super::key::Keys;
use super::otlp::Otlp;
use super::secret::Secret;
use super::section_reader::SectionReader;
use super::texts::{ADDRESS, DIRECTORY, FILTER, HOST, NETWORK, PATH, PROXY, TEMPLATE, TOPIC};
use super::tls::CertificatePair;

/// Every key, in the order of the reference file.
pub(super) static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::new(SectionReader::list(Config::read)));

/// The whole of it.
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
    /// `None`: no spans.
    pub otlp: Option<Otlp>,
}

impl Section for Config {
    fn read(keys: &mut SectionReader<'_>) -> Self {
        let bus = keys.field("bus", "Where events are kept: embedded, kafka or nats", Bus::choose);
        Self {
            server: keys.field("server", "", server_only(table)),
            endpoints: keys.field("endpoints", "", reloadable(table_of_endpoints)),
            routes: keys.field("routes", "", reloadable(table)),
            s3: keys.field("s3", "", s3),
            dedupe: keys.field("dedupe", "", table),
            spool: keys.field("spool", "", table_if(&["dir"])),
            bus: Bus::read(bus, keys),
            admin: keys.field("admin", "", table),
            log: keys.field("log", "", table),
            otlp: keys.field("otlp", "", table_if(&["endpoint"])),
        }
    }
}

impl Config {
    /// From a message's way to the bus to the bus's answer, at most: the spool, where there is one, needs
    /// the rest of `server.publish_timeout`.
    pub fn bus_timeout(&self) -> Duration {
        const FOR_THE_SPOOL: Duration = Duration::from_secs(1);
        let whole = self.server.publish_timeout;
        if self.spool.is_some() { whole - FOR_THE_SPOOL.min(whole / 4) } else { whole }
    }
}

section! {
    /// How deliveries are received.
    pub struct Server {
        /// Where Terra's deliveries arrive
        listen: SocketAddr = default("0.0.0.0:8080", written(ADDRESS)),
        /// Who may send at all
        senders: Senders = Section::read,
        /// A larger body is answered 413; Terra sends up to 10 MB
        max_body: usize = default("12 MiB", size(KIB, 512 * MIB)),
        /// From the last byte of the body to the answer, at most
        publish_timeout: Duration = default("5s", duration(250 * MILLISECOND, 7 * SECOND)),
        /// From the first byte of the request to the answer, at most
        deadline: Duration = default("7.5s", duration(1500 * MILLISECOND, 7500 * MILLISECOND)),
        /// Connections at once; at the limit the longest-idle one is closed for a new one
        max_connections: usize = default("10000", count(1, 1_000_000)),
        /// A larger head is answered 431
        max_header_bytes: usize = default("16 KiB", size(8 * KIB, MIB)),
        /// More headers are answered 431
        max_headers: usize = default("100", count(10, 1000)),
        /// All bodies between socket and receipt together; above it 503
        bytes_in_flight: usize = default("256 MiB", size(MIB, 1024 * GIB)),
        /// From the first byte of a head to its last
        header_timeout: Duration = default("5s", duration(100 * MILLISECOND, MINUTE)),
        /// A connection may rest so long between requests; keep it above your load balancer's
        idle_timeout: Duration = default("75s", duration(SECOND, HOUR)),
        /// A body that arrives more slowly is answered 408
        min_body_rate: u64 = default("16 KiB/s", rate(1, GIB)),
        /// Running requests may take so long to finish after SIGTERM
        drain_timeout: Duration = default("20s", duration(100 * MILLISECOND, HOUR)),
        /// HTTPS; plain HTTP where not given
        tls: Option<CertificatePair> = table_if(&["certificate", "key"]),
    }
}

section! {
    /// Whose deliveries are allowed. IPv4 networks also hold IPv4-mapped IPv6 addresses, which are the same.
    #[derive(Default, PartialEq, Eq)]
    pub struct Senders {
        /// Addresses and networks whose deliveries may be kept, beside their signature; everybody where not given
        allow: Option<Vec<IpNet>> = reloadable(optional("203.0.113.0/24", list(written(NETWORK)))),
        /// Proxies in front of the bridge, whose X-Forwarded-For server.allow believes
        trusted_proxies: Vec<IpNet> = reloadable(or_empty("10.0.0.0/8", list(written(PROXY)))),
    }
}

section! {
    /// A destination of Terra's.
    pub struct Endpoint {
        /// `[a-z0-9_-]+`: it stands in metrics, topics and the CloudEvents source.
        name: Arc<str> = table_name,
        /// Where this destination's deliveries arrive; each endpoint has its own path
        path: String = default_of_terra("/terra", text(PATH)),
        /// References to signing secrets, each one valid: env:NAME, file:PATH, credential:NAME
        secrets: Vec<Secret> = server_only(default_of_terra("env:TERRA_SIGNING_SECRET", secrets())),
        /// A signature older than this is rejected; Terra retries for about a day
        max_age: Duration = default("26h", duration(MINUTE, 30 * DAY)),
        /// A signature further in the future than this is rejected
        max_skew: Duration = default("5m", duration(SECOND, HOUR)),
        /// The answer to a rejected delivery: 401; or 503, also in place of 413, 415 and an incomplete body's 400,
        /// after which every sender tries again
        rejected_status: http::StatusCode = default("401", rejected_status()),
        /// Before the common routes
        routes: OwnRoutes = table,
    }
}

section! {
    /// What an endpoint says itself, before the common routes; `None` in a topic drops what would go there.
    #[derive(Default)]
    pub struct OwnRoutes {
        /// This endpoint's own, which comes before all common routes: the topic of a known type that its own types do
        /// not name
        template: Option<String> = optional("terra.{endpoint}.{type}", text(TEMPLATE)),
        /// The topic of all unknown types that its own types do not name; false drops them
        unknown: Option<Option<String>> = optional("terra.{endpoint}.unknown", topic_or_false()),
        /// The topic of what Terra signed for it but nobody can read
        dead_letter: Option<String> = optional("terra.{endpoint}.dead-letter", text(TOPIC)),
        /// The topic of one type, or false to drop it; a final * matches any rest
        types: BTreeMap<String, Option<String>> = table_of_types("terra.{endpoint}.days", topic_or_false()),
    }
}

section! {
    /// The topic of every type; `None` in a topic drops what would go there. Each may have `{endpoint}` in it.
    pub struct Routes {
        /// The topic of a known type that routes.types does not name; {type} and, as in every topic here, {endpoint}
        /// are filled in
        template: String = default("terra.{type}", text(TEMPLATE)),
        /// The topic of all unknown types; false drops them
        unknown: Option<String> = default("terra.unknown", topic_or_false()),
        /// The topic of what Terra signed but nobody can read
        dead_letter: String = default("terra.dead-letter", text(TOPIC)),
        /// The topic of one type, or false to drop it; a final * matches any rest
        types: BTreeMap<String, Option<String>> = table_of_types("health.daily", topic_or_false()),
    }
}

fn s3(keys: &mut SectionReader<'_>) -> Option<S3> {
    const DOC: &str = "Where Terra sends only a link (s3_payload): fetch what it leads to, or forward the link";
    keys.table(|keys| {
        let fetches = keys.field("mode", DOC, default("fetch", choice([("fetch", true), ("forward", false)])));
        let s3 = S3::read(keys);
        fetches.then_some(s3)
    })
}

section! {
    /// How links are followed.
    pub struct S3 {
        /// Hosts that links may name, with :port where that is not 443; * stands for one part between dots
        hosts: Vec<String> = default("*.s3.*.amazonaws.com, *.s3.amazonaws.com", list(text(HOST))),
        /// Private networks that links may lead into; otherwise none
        allow_networks: Vec<IpNet> = or_empty("10.20.0.0/16", list(written(NETWORK))),
        /// The stores' authority, a PEM file; the machine's own where not given
        ca: Option<PathBuf> = server_only(optional("/etc/terra-bridge/ca.pem", pem_file())),
    }
}

section! {
    /// What is remembered of deliveries, to know them again.
    #[derive(Copy)]
    pub struct Dedupe {
        /// How long a kept delivery is known again; at least max_age and max_skew of every endpoint
        window: Duration = default("27h", duration(MINUTE, 60 * DAY)),
        /// How many kept deliveries are known, the newest; 58 bytes of memory each
        entries: usize = default("1000000", count(1, 100_000_000)),
    }
}

section! {
    /// Keeps what the bus refuses for the moment.
    pub struct Spool {
        /// Turns the spool on: what the bus refuses for the moment is kept here, and answered 200
        dir: PathBuf = switch("/var/lib/terra-bridge/spool", written(DIRECTORY)),
        /// How much the spool holds; beyond it the bus alone is asked, and what it refuses is answered 503
        max_bytes: u64 = default("10 GiB", size(16 * MIB, MAX)),
        /// While the oldest message in the spool is older, the bus alone is asked, and what it refuses is answered 503
        max_age: Duration = default("7d", duration(MINUTE, 3650 * DAY)),
        /// Below so much free space the spool takes nothing
        reserve: u64 = default("256 MiB", size(0, MAX)),
    }
}

section! {
    /// The listener for whoever watches the bridge.
    pub struct Admin {
        /// Health and metrics
        listen: SocketAddr = default("127.0.0.1:8081", written(ADDRESS)),
        /// Answer 503 on /readyz while the bus is away
        ready_needs_bus: bool = default("false", flag()),
    }
}

section! {
    /// What the bridge logs, and how.
    pub struct Log {
        /// json or text; text where not given and the output is a terminal
        format: LogFormat = default("json", choice([("json", LogFormat::Json), ("text", LogFormat::Text)])),
        /// What is logged, as in RUST_LOG
        filter: String = reloadable(default("info", text(FILTER))),
        /// A line for each delivery: off, refused for those that were not kept, or all
        access: Access = reloadable(default("refused", choice(ACCESS))),
    }
}

/// Which deliveries get a line of their own in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Off,
    /// Those that were not kept.
    Refused,
    All,
}

const ACCESS: [(&str, Access); 3] = [("off", Access::Off), ("refused", Access::Refused), ("all", Access::All)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}
