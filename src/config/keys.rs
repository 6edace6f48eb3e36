//! The list of every key: its name, what it may be, what it is where nobody gives it, and what it is for.
//! The walk, the suggestions, the reference file and the printout all come from this list.

use super::checks as check;
use super::kind::Kind::{self, *};
use super::kind::{GIB, HOUR, KIB, MAX, MIB, MILLISECOND, MINUTE, SECOND};
use super::values::BUSES;

/// A key. A part of its name in angle brackets stands for any name.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) without: Without,
    /// One line, without a full stop.
    pub(super) doc: &'static str,
}

/// What a key is where nobody gives it. The texts are as in an environment variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Without {
    Default(&'static str),
    /// The same, for the endpoint `terra` alone; every other one has to say it.
    OfTerra(&'static str),
    /// Nothing; the text is an example.
    Unset(&'static str),
    /// A mistake where its section is used; the text is an example.
    Mistake(&'static str),
}

/// What a reload takes over: keys, and tables with all below them. Everything else takes effect at
/// the next start.
pub(super) const LIVE: &[&str] =
    &["endpoints", "routes", "server.allow", "server.trusted_proxies", "embedded.token", "log.filter"];

/// What only a server needs to hold: references and files that whoever reads the bus may lack.
const SERVERS: [&str; 5] =
    ["endpoints.<name>.secrets", "server.tls.certificate", "server.tls.key", "embedded.tls.key", "s3.ca"];

/// The tables whose names have dots: deeper levels join into one name.
const JOINED: [&str; 4] = ["routes.types", "endpoints.<name>.routes.types", "kafka.topic_config", "kafka.properties"];

/// The endpoint that exists where no other is named.
pub(super) const TERRA: &str = "terra";

impl Key {
    /// Whether a reload takes it over.
    pub(super) fn is_live(&self) -> bool {
        let below = |table: &str| self.name.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'));
        LIVE.iter().any(|live| self.name == *live || below(live))
    }

    /// Whether nobody but a server needs to hold what it names.
    pub(super) fn only_servers(&self) -> bool {
        SERVERS.contains(&self.name)
    }
}

const fn key(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { name, kind, without: Without::Default(default), doc }
}

const fn optional(name: &'static str, kind: Kind, example: &'static str, doc: &'static str) -> Key {
    Key { name, kind, without: Without::Unset(example), doc }
}

const fn needed(name: &'static str, kind: Kind, example: &'static str, doc: &'static str) -> Key {
    Key { name, kind, without: Without::Mistake(example), doc }
}

const fn of_terra(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { name, kind, without: Without::OfTerra(default), doc }
}

#[rustfmt::skip]
pub(super) static KEYS: &[Key] = &[
    key("bus", Word(&["embedded", "kafka", "nats"]), "embedded", "Where events are kept: embedded, kafka or nats"),

    key("server.listen", Address, "0.0.0.0:8080", "Where Terra's deliveries arrive"),
    optional("server.allow", Texts(check::NETWORK), "203.0.113.0/24", "Addresses and networks whose deliveries may be kept, beside their signature; everybody where not given"),
    optional("server.trusted_proxies", Texts(check::PROXY), "10.0.0.0/8", "Proxies in front of the bridge, whose X-Forwarded-For server.allow believes"),
    key("server.max_body", Size(KIB, 512 * MIB), "12 MiB", "A larger body is answered 413; Terra sends up to 10 MB"),
    key("server.publish_timeout", Duration(250 * MILLISECOND, 7 * SECOND), "5s", "From the last byte of the body to the answer, at most"),
    key("server.deadline", Duration(1500 * MILLISECOND, 7500 * MILLISECOND), "7.5s", "From the first byte of the request to the answer, at most"),
    key("server.max_connections", Count(1, 1_000_000), "10000", "Connections at once; beyond them the one that rests longest makes room"),
    key("server.max_header_bytes", Size(8 * KIB, MIB), "16 KiB", "A larger head is answered 431"),
    key("server.max_headers", Count(10, 1000), "100", "More headers are answered 431"),
    key("server.bytes_in_flight", Size(MIB, 1024 * GIB), "256 MiB", "All bodies between socket and receipt together; above it 503"),
    key("server.header_timeout", Duration(100 * MILLISECOND, MINUTE), "5s", "From the first byte of a head to its last"),
    key("server.idle_timeout", Duration(SECOND, HOUR), "75s", "A connection may rest so long between requests; keep it above your load balancer's"),
    key("server.min_body_rate", Rate(1, GIB), "16 KiB/s", "A body that arrives more slowly is answered 408"),
    key("server.drain_timeout", Duration(100 * MILLISECOND, HOUR), "20s", "Running requests may take so long to finish after SIGTERM"),

    optional("server.tls.certificate", File, "/etc/terra-bridge/tls.crt", "Turns HTTPS on: the certificate and those that vouch for it, a PEM file; needs server.tls.key"),
    optional("server.tls.key", File, "/etc/terra-bridge/tls.key", "Its private key, a PEM file; both are read again when they change"),

    of_terra("endpoints.<name>.path", Text(check::PATH), "/terra", "Where this destination's deliveries arrive; each endpoint has its own path"),
    of_terra("endpoints.<name>.secrets", Secrets, "env:TERRA_SIGNING_SECRET", "References to signing secrets, each one valid: env:NAME, file:PATH, credential:NAME"),
    key("endpoints.<name>.max_age", Duration(MINUTE, 30 * 24 * HOUR), "26h", "A signature older than this is rejected; Terra retries for about a day"),
    key("endpoints.<name>.max_skew", Duration(SECOND, HOUR), "5m", "A signature further in the future than this is rejected"),
    key("endpoints.<name>.rejected_status", Status, "401", "The answer to a rejected delivery: 401; or 503, also in place of 413, 415 and an incomplete body's 400, after which every sender tries again"),

    optional("endpoints.<name>.routes.template", Text(check::TEMPLATE), "terra.{endpoint}.{type}", "This endpoint's own, which comes before all common routes: the topic of a known type that its own types do not name"),
    optional("endpoints.<name>.routes.unknown", TopicOrFalse, "terra.{endpoint}.unknown", "The topic of all unknown types that its own types do not name; false drops them"),
    optional("endpoints.<name>.routes.dead_letter", Text(check::TOPIC), "terra.{endpoint}.dead-letter", "The topic of what Terra signed for it but nobody can read"),
    optional("endpoints.<name>.routes.types.<type>", TopicOrFalse, "terra.{endpoint}.days", "The topic of one type, or false to drop it; a final * matches any rest"),

    key("routes.template", Text(check::TEMPLATE), "terra.{type}", "The topic of a known type that routes.types does not name; {type} and, as in every topic here, {endpoint} are filled in"),
    key("routes.unknown", TopicOrFalse, "terra.unknown", "The topic of all unknown types; false drops them"),
    key("routes.dead_letter", Text(check::TOPIC), "terra.dead-letter", "The topic of what Terra signed but nobody can read"),
    optional("routes.types.<type>", TopicOrFalse, "health.daily", "The topic of one type, or false to drop it; a final * matches any rest"),

    key("s3.mode", Word(&["fetch", "forward"]), "fetch", "Where Terra sends only a link (s3_payload): fetch what it leads to, or forward the link"),
    key("s3.hosts", Texts(check::HOSTS), "*.s3.*.amazonaws.com, *.s3.amazonaws.com", "Hosts that links may name, with :port where that is not 443; * stands for one part between dots"),
    optional("s3.allow_networks", Texts(check::NETWORK), "10.20.0.0/16", "Private networks that links may lead into; otherwise none"),
    optional("s3.ca", File, "/etc/terra-bridge/ca.pem", "The stores' authority, a PEM file; the machine's own where not given"),

    key("dedupe.window", Duration(MINUTE, 60 * 24 * HOUR), "27h", "How long a kept delivery is known again; at least max_age and max_skew of every endpoint"),
    key("dedupe.entries", Count(1, 100_000_000), "1000000", "How many kept deliveries are known, the newest; 58 bytes of memory each"),

    optional("spool.dir", Directory, "/var/lib/terra-bridge/spool", "Turns the spool on: what the bus refuses for the moment is kept here, and answered 200"),
    key("spool.max_bytes", Size(16 * MIB, MAX), "10 GiB", "How much the spool holds; beyond it the bus alone is asked, and what it refuses is answered 503"),
    key("spool.max_age", Duration(MINUTE, 3650 * 24 * HOUR), "7d", "While the oldest message in the spool is older, the bus alone is asked, and what it refuses is answered 503"),
    key("spool.reserve", Size(0, MAX), "256 MiB", "Below so much free space the spool takes nothing"),

    needed("kafka.brokers", Texts(check::BROKER), "localhost:9092", "Brokers to start from, host:port"),
    optional("kafka.username", Text(check::ANY), "terra-bridge", "For SASL"),
    optional("kafka.password", Secret, "env:KAFKA_PASSWORD", "A reference: env:NAME, file:PATH, credential:NAME"),
    optional("kafka.sasl_mechanism", Word(&["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]), "SCRAM-SHA-512", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; PLAIN where only a username is given"),
    key("kafka.create_topics", Flag, "true", "Make missing topics at start; otherwise they are only checked"),
    key("kafka.partitions", Count(1, 10_000), "6", "Of topics that the bridge makes"),
    optional("kafka.replication_factor", Count(1, 100), "3", "Of topics that the bridge makes; the broker's own where not given"),
    optional("kafka.tls.ca", SystemOrFile, "system", "Turns TLS on: system for the machine's own authorities, or a PEM file"),
    optional("kafka.tls.certificate", File, "/etc/terra-bridge/client.pem", "The client's certificate, a PEM file; needs kafka.tls.key"),
    optional("kafka.tls.key", File, "/etc/terra-bridge/client.key", "Its private key, a PEM file"),
    optional("kafka.topic_config.<key>", Scalar, "604800000", "Further settings of topics that the bridge makes, such as retention.ms"),
    optional("kafka.properties.<key>", Property, "50", "librdkafka's own properties, such as linger.ms; a value may be a reference"),

    needed("nats.servers", Texts(check::SERVER), "nats://localhost:4222", "URLs without user and password in them, nats:// or tls://; where one is tls://, all of them and those that they name have to speak TLS"),
    key("nats.stream", Text(check::STREAM), "TERRA", "The stream that keeps the events"),
    key("nats.create_stream", Flag, "true", "Make the stream where it is missing; otherwise it is only checked"),
    key("nats.replicas", Count(1, 5), "1", "Of a stream that the bridge makes; 3 outlives the loss of a server"),
    key("nats.max_age", Duration(MINUTE, 3650 * 24 * HOUR), "7d", "How long such a stream keeps events"),
    optional("nats.max_bytes", Size(MIB, MAX), "100 GiB", "How much such a stream keeps; when full, deliveries are answered 503"),
    key("nats.duplicate_window", Duration(100 * MILLISECOND, 30 * 24 * HOUR), "2h", "How long such a stream knows a delivery again, at most nats.max_age; about 200 bytes of the server's memory each"),
    optional("nats.object_store", Text(check::STREAM), "TERRA_LARGE", "A bucket for payloads larger than the servers' max_payload; made with the stream where it is missing"),
    optional("nats.domain", Text(check::TOKEN), "hub", "The JetStream domain"),
    optional("nats.inbox_prefix", Text(check::SUBJECT), "_INBOX_TERRA", "Where replies arrive, if the user's rights demand it"),
    optional("nats.credentials", Secret, "file:/etc/terra-bridge/nats.creds", "A reference to the text of a .creds file; one of credentials, nkey, user, token"),
    optional("nats.nkey", Secret, "file:/etc/terra-bridge/nats.nkey", "A reference to an nkey seed"),
    optional("nats.user", Text(check::ANY), "terra-bridge", "Needs nats.password"),
    optional("nats.password", Secret, "env:NATS_PASSWORD", "A reference: env:NAME, file:PATH, credential:NAME"),
    optional("nats.token", Secret, "env:NATS_TOKEN", "A reference: env:NAME, file:PATH, credential:NAME"),
    optional("nats.tls.ca", SystemOrFile, "system", "Turns TLS on, as tls:// in nats.servers does: system for the machine's own authorities, or a PEM file"),
    optional("nats.tls.certificate", File, "/etc/terra-bridge/client.pem", "The client's certificate, a PEM file; needs nats.tls.key"),
    optional("nats.tls.key", File, "/etc/terra-bridge/client.key", "Its private key, a PEM file"),

    key("embedded.dir", Directory, "./terra-bridge-data", "Where the log lies; $STATE_DIRECTORY where that is set and this is not"),
    key("embedded.listen", Address, "127.0.0.1:8082", "Where subscribers read the log over HTTP"),
    optional("embedded.token", Secret, "env:TERRA_READ_TOKEN", "A reference to the bearer token of subscribers; demanded beyond loopback"),
    key("embedded.retention", Duration(MINUTE, 3650 * 24 * HOUR), "7d", "How long the log keeps events"),
    key("embedded.max_bytes", Size(MIB, MAX), "10 GiB", "How much the log keeps; the oldest events go first"),
    key("embedded.reserve", Size(0, MAX), "256 MiB", "Below so much free space deliveries are answered 503"),
    optional("embedded.tls.certificate", File, "/etc/terra-bridge/tls.crt", "Turns HTTPS on for subscribers, a PEM file; needs embedded.tls.key"),
    optional("embedded.tls.key", File, "/etc/terra-bridge/tls.key", "Its private key, a PEM file"),

    key("admin.listen", Address, "127.0.0.1:8081", "Health and metrics"),
    key("admin.ready_needs_bus", Flag, "false", "Answer 503 on /readyz while the bus is away"),

    key("log.format", Word(&["json", "text"]), "json", "json or text; text where not given and the output is a terminal"),
    key("log.filter", Text(check::FILTER), "info", "What is logged, as in RUST_LOG"),
];

/// What a path of names means.
#[derive(Debug, Clone, Copy)]
pub(super) enum Meaning {
    Key(&'static Key),
    /// Keys lie below it.
    Table,
    Unknown,
}

pub(super) fn meaning(path: &[String]) -> Meaning {
    let mut fitting = KEYS.iter().filter(|key| fits(key.name, path)).peekable();
    let is_table = fitting.peek().is_some();
    match fitting.find(|key| key.name.split('.').count() == path.len()) {
        Some(key) => Meaning::Key(key),
        None if is_table => Meaning::Table,
        None => Meaning::Unknown,
    }
}

/// Whether the path leads to what is called so, or to a table above it.
fn fits(called: &str, path: &[String]) -> bool {
    let mut parts = called.split('.');
    path.iter().all(|name| parts.next().is_some_and(|part| part == name || (part.starts_with('<') && !name.is_empty())))
}

/// Joins the levels below a table whose names have dots.
pub(super) fn join(mut path: Vec<String>) -> Vec<String> {
    let levels = |table: &str| table.split('.').count();
    let below = |table: &&&str| path.get(..levels(table)).is_some_and(|above| fits(table, above));
    if let Some(table) = JOINED.iter().find(below).filter(|table| path.len() > levels(table) + 1) {
        let name = path.split_off(levels(table)).join(".");
        path.push(name);
    }
    path
}

/// What other programs call a key of ours.
const ELSEWHERE: [(&str, &str); 8] = [
    ("kafka.bootstrap.servers", "kafka.brokers"),
    ("kafka.bootstrap_servers", "kafka.brokers"),
    ("kafka.servers", "kafka.brokers"),
    ("nats.url", "nats.servers"),
    ("nats.urls", "nats.servers"),
    ("nats.username", "nats.user"),
    ("server.port", "server.listen"),
    ("log.level", "log.filter"),
];

/// The known key that an unknown one was probably meant to be.
pub(super) fn suggest(path: &[String]) -> Option<Vec<String>> {
    let given = path.join(".");
    let elsewhere = ELSEWHERE.iter().find(|(name, _)| *name == given).map(|(_, ours)| *ours);
    let ours = elsewhere.map(|ours| ours.split('.').map(str::to_owned).collect());
    ours.or_else(|| alike(path, &given)).or_else(|| inner_table(path))
}

/// A name that belongs into a table whose names are the user's own.
fn inner_table(path: &[String]) -> Option<Vec<String>> {
    let (table, name) = match path {
        [section, name @ ..] if section == "kafka" => (vec!["kafka", "properties"], name.join(".")),
        [section, name @ ..] if section == "routes" => (vec!["routes", "types"], name.join(".")),
        [section, endpoint, routes, name @ ..] if section == "endpoints" && routes == "routes" => {
            (vec!["endpoints", endpoint, "routes", "types"], name.join("."))
        }
        _ => return None,
    };
    // All properties of librdkafka that anybody sets have a dot.
    let plausible = !name.is_empty() && (table[0] != "kafka" || name.contains('.'));
    plausible.then(|| table.into_iter().map(str::to_owned).chain([name]).collect())
}

fn alike(path: &[String], given: &str) -> Option<Vec<String>> {
    /// By trial: catches a letter or two, and a missing or a wrong section.
    const ALIKE: f64 = 0.84;
    let last = path.last()?;
    let of_a_bus = |section: &str| BUSES.contains(&section);
    let of_another_bus = |key: &Key| {
        let section = key.name.split('.').next().unwrap_or_default();
        of_a_bus(&path[0]) && of_a_bus(section) && section != path[0]
    };
    // Whatever stands in brackets is the user's own, and like itself.
    let named = |key: &Key| key.name.split('.').next_back().is_some_and(|leaf| !leaf.starts_with('<'));
    let candidates = KEYS.iter().filter(|key| !of_another_bus(key));
    candidates
        .map(|key| (named(key), concrete(key, path)))
        .map(|(named, names)| {
            let whole = strsim::normalized_damerau_levenshtein(&names.join("."), given);
            let leaf = match named {
                true => strsim::normalized_damerau_levenshtein(&names[names.len() - 1], last),
                false => 0.0,
            };
            (whole.max(leaf * 0.9) + whole / 100.0, names)
        })
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, names)| names)
}

/// The key's name with the given names in place of its brackets.
fn concrete(key: &Key, path: &[String]) -> Vec<String> {
    let fill = |(at, part): (usize, &str)| match path.get(at) {
        Some(name) if part.starts_with('<') => name.clone(),
        _ => part.to_owned(),
    };
    key.name.split('.').enumerate().map(fill).collect()
}
