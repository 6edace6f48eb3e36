//! The sections of the buses, of which one is used: see [`super::sections`] for all others.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::declaration::*;
use super::format::*;
use super::key::{BUSES, KeyDefault};
use super::secret::Secret;
use super::section_reader::SectionReader;
use super::texts::{
    ADDRESS, BROKER, CLIENT_ID, DIRECTORY, NAME, NATS_SERVER, NOT_EMPTY, SASL_EXTENSION, SASL_MECHANISM, SUBJECT,
    TOKEN_URL,
};
use super::tls::{CertificatePair, Tls};

/// Where events are kept.
#[derive(Debug, Clone)]
pub enum Bus {
    Embedded(Embedded),
    Kafka(Kafka),
    Nats(Nats),
}

impl Bus {
    /// As the configuration has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Embedded(_) => "embedded",
            Self::Kafka(_) => "kafka",
            Self::Nats(_) => "nats",
        }
    }

    /// The name of the bus that is used; `None` where that is mistaken.
    pub(super) fn choose(keys: &mut SectionReader<'_>) -> Option<&'static str> {
        keys.value(KeyDefault::Value("embedded"), &choice(BUSES.map(|bus| (bus, bus))))
    }

    pub(super) fn read(chosen: Option<&str>, keys: &mut SectionReader<'_>) -> Self {
        let kafka: Kafka = section_of("kafka", chosen, keys);
        let nats = section_of("nats", chosen, keys);
        let embedded = section_of("embedded", chosen, keys);
        match chosen {
            Some("kafka") => Self::Kafka(kafka.with_mechanism()),
            Some("nats") => Self::Nats(nats),
            _ => Self::Embedded(embedded),
        }
    }
}

fn section_of<S: Section>(bus: &str, chosen: Option<&str>, keys: &mut SectionReader<'_>) -> S {
    let used = chosen.map(|chosen| chosen == bus);
    keys.within(|scope| scope.used = used, |keys| keys.field(bus, "", table))
}

section! {
    /// Kafka.
    pub struct Kafka {
        /// Brokers to start from, host:port
        brokers: Vec<String> = required("localhost:9092", list(text(BROKER))),
        /// For SASL
        username: Option<String> = optional("terra-bridge", text(NOT_EMPTY)),
        /// A reference: env:NAME, file:PATH, credential:NAME
        password: Option<Secret> = optional("env:KAFKA_PASSWORD", secret()),
        /// PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, PLAIN where only a username is given; OAUTHBEARER with kafka.oauth
        sasl_mechanism: Option<String> = optional("SCRAM-SHA-512", text(SASL_MECHANISM)),
        /// Make missing topics at start; otherwise they are only checked
        create_topics: bool = default("true", flag()),
        /// Of topics that the bridge makes
        partitions: i32 = default("6", count(1, 10_000)),
        /// Of topics that the bridge makes; the broker's own where not given
        replication_factor: Option<i32> = optional("3", count(1, 100)),
        /// lz4, zstd, snappy, gzip or none; some clients need a package to read the first three
        compression: Compression = default("lz4", choice(COMPRESSIONS)),
        /// TLS
        tls: Tls = table,
        /// Logging in with tokens
        oauth: Option<OAuth> = table_if(&["token_url", "client_id", "client_secret"]),
        /// Further settings of topics that the bridge makes, such as retention.ms
        topic_config: BTreeMap<String, String> = open_table("604800000", scalar()),
        /// librdkafka's own properties, such as linger.ms; a value may be a reference
        properties: BTreeMap<String, Secret> = open_table("50", property()),
    }
}

section! {
    /// Logging in with tokens of an OIDC server, which the bridge gets for its client credentials.
    pub struct OAuth {
        /// Turns the login by OAUTHBEARER on, with the next two: where an OIDC server gives tokens for client
        /// credentials
        token_url: String = switch("https://login.example.com/oauth2/token", text(TOKEN_URL)),
        /// The name under which the bridge is known there
        client_id: String = switch("terra-bridge", text(CLIENT_ID)),
        /// A reference: env:NAME, file:PATH, credential:NAME
        client_secret: Secret = switch("env:KAFKA_CLIENT_SECRET", secret()),
        /// The scopes to ask for, with blanks between them
        scope: Option<String> = optional("kafka", text(NOT_EMPTY)),
        /// What the brokers want to be told beside the token, each name=value
        extensions: Vec<String> = or_empty("logicalCluster=lkc-abc123", list(text(SASL_EXTENSION))),
        /// The token server's authority, a PEM file; the machine's own where not given
        ca: Option<PathBuf> = optional("/etc/terra-bridge/ca.pem", pem_file()),
    }
}

/// How a batch of messages is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Lz4,
    Zstd,
    Snappy,
    Gzip,
    None,
}

const COMPRESSIONS: [(&str, Compression); 5] = [
    ("lz4", Compression::Lz4),
    ("zstd", Compression::Zstd),
    ("snappy", Compression::Snappy),
    ("gzip", Compression::Gzip),
    ("none", Compression::None),
];

impl Kafka {
    /// librdkafka's own default is GSSAPI, which this build does not have.
    fn with_mechanism(mut self) -> Self {
        let usual = match (&self.oauth, &self.username) {
            (Some(_), _) => Some("OAUTHBEARER"),
            (None, Some(_)) => Some("PLAIN"),
            (None, None) => None,
        };
        self.sasl_mechanism = self.sasl_mechanism.or(usual.map(str::to_owned));
        self
    }

    /// librdkafka's `security.protocol`: follows from TLS and login, unless a property says it.
    pub fn protocol(&self) -> String {
        let property = self.properties.get("security.protocol").map(|given| String::from_utf8_lossy(given.expose()));
        let tls = self.tls.ca.is_some() || self.tls.certificate.is_some() || self.tls.key.is_some();
        let follows = match (tls, self.username.is_some() || self.oauth.is_some()) {
            (false, false) => "plaintext",
            (true, false) => "ssl",
            (false, true) => "sasl_plaintext",
            (true, true) => "sasl_ssl",
        };
        property.map_or_else(|| follows.to_owned(), |given| given.to_ascii_lowercase())
    }
}

section! {
    /// NATS JetStream.
    pub struct Nats {
        /// URLs without user and password in them, nats:// or tls://; where one is tls://, all of them and those that
        /// they name have to speak TLS
        servers: Vec<String> = required("nats://localhost:4222", list(written(NATS_SERVER))),
        /// The stream that keeps the events
        stream: String = default("TERRA", text(NAME)),
        /// Make the stream where it is missing; otherwise it is only checked
        create_stream: bool = default("true", flag()),
        /// Of a stream that the bridge makes; 3 outlives the loss of a server
        replicas: usize = default("1", count(1, 5)),
        /// How long such a stream keeps events
        max_age: Duration = default("7d", duration(MINUTE, 3650 * DAY)),
        /// How much such a stream keeps; when full, deliveries are answered 503
        max_bytes: Option<u64> = optional("100 GiB", size(MIB, MAX)),
        /// How long such a stream knows a delivery again, at most nats.max_age; about 200 bytes of the server's memory
        /// each
        duplicate_window: Duration = default("2h", duration(100 * MILLISECOND, 30 * DAY)),
        /// A bucket for payloads larger than the servers' max_payload; made with the stream where it is missing
        object_store: Option<String> = optional("TERRA_LARGE", text(NAME)),
        /// The JetStream domain
        domain: Option<String> = optional("hub", text(NAME)),
        /// Where replies arrive, if the user's rights demand it
        inbox_prefix: Option<String> = optional("_INBOX_TERRA", text(SUBJECT)),
        /// A reference to the text of a .creds file; one of credentials, nkey, user, token
        credentials: Option<Secret> = optional("file:/etc/terra-bridge/nats.creds", secret()),
        /// A reference to an nkey seed
        nkey: Option<Secret> = optional("file:/etc/terra-bridge/nats.nkey", secret()),
        /// Needs nats.password
        user: Option<String> = optional("terra-bridge", text(NOT_EMPTY)),
        /// A reference: env:NAME, file:PATH, credential:NAME
        password: Option<Secret> = optional("env:NATS_PASSWORD", secret()),
        /// A reference: env:NAME, file:PATH, credential:NAME
        token: Option<Secret> = optional("env:NATS_TOKEN", secret()),
        /// TLS, beside tls:// in servers
        tls: Tls = table,
    }
}

impl Nats {
    /// Whether every server has to speak TLS, also those that others name later.
    pub fn wants_tls(&self) -> bool {
        let tls = |server: &String| server.starts_with("tls://");
        self.tls.ca.is_some() || self.tls.certificate.is_some() || self.servers.iter().any(tls)
    }
}

section! {
    /// The embedded log.
    pub struct Embedded {
        /// Where the log lies; $STATE_DIRECTORY where that is set and this is not
        dir: PathBuf = default("./terra-bridge-data", written(DIRECTORY)),
        /// Where subscribers read the log over HTTP
        listen: SocketAddr = default("127.0.0.1:8082", written(ADDRESS)),
        /// A reference to the bearer token of subscribers; demanded beyond loopback
        token: Option<Secret> = reloadable(optional("env:TERRA_READ_TOKEN", secret())),
        /// How long the log keeps events
        retention: Duration = default("7d", duration(MINUTE, 3650 * DAY)),
        /// How much the log keeps; the oldest events go first
        max_bytes: u64 = default("10 GiB", size(MIB, MAX)),
        /// Below so much free space deliveries are answered 503
        reserve: u64 = default("256 MiB", size(0, MAX)),
        /// HTTPS for subscribers; plain HTTP where not given
        tls: Option<CertificatePair> = table_if(&["certificate", "key"]),
    }
}
