//! The user's librdkafka properties: which of them would break the promise that a 2xx means kept.
//! Comes in: `kafka.properties`. Goes out: mistakes with their remedy, and the one name that
//! librdkafka itself uses for each property. Knows no broker.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::NativeClientConfig;
use rdkafka::error::KafkaError;

use super::client::{HEADROOM, MAX_REQUEST};
use crate::config::Secret;

/// Bytes: what librdkafka has for a batch by itself, and about what a topic takes that nobody set up.
const MAX_BATCH: u64 = 1_000_000;

/// librdkafka's aliases and what they stand for, from its CONFIGURATION.md (2.12.1).
const ALIASES: &[(&str, &str)] = &[
    ("acks", "request.required.acks"),
    ("bootstrap.servers", "metadata.broker.list"),
    ("compression.type", "compression.codec"),
    ("delivery.timeout.ms", "message.timeout.ms"),
    ("linger.ms", "queue.buffering.max.ms"),
    ("max.in.flight", "max.in.flight.requests.per.connection"),
    ("max.partition.fetch.bytes", "fetch.message.max.bytes"),
    ("retries", "message.send.max.retries"),
    ("sasl.mechanism", "sasl.mechanisms"),
    ("sasl.oauthbearer.client.credentials.client.id", "sasl.oauthbearer.client.id"),
    ("sasl.oauthbearer.client.credentials.client.secret", "sasl.oauthbearer.client.secret"),
];

/// Properties that have a key of ours, and that key.
const OURS: &[(&str, &str)] = &[
    ("metadata.broker.list", "kafka.brokers"),
    ("sasl.mechanisms", "kafka.sasl_mechanism"),
    ("sasl.password", "kafka.password"),
    ("sasl.username", "kafka.username"),
    ("ssl.ca.location", "kafka.tls.ca"),
    ("ssl.certificate.location", "kafka.tls.certificate"),
    ("ssl.key.location", "kafka.tls.key"),
];

/// Numbers, switches and choices: nothing in them is a secret or says where a broker stands.
const HARMLESS: &[&str] = &[
    "acks",
    "allow.auto.create.topics",
    "api.version.fallback.ms",
    "api.version.request",
    "api.version.request.timeout.ms",
    "auto.commit.interval.ms",
    "auto.offset.reset",
    "batch.num.messages",
    "batch.size",
    "broker.address.family",
    "broker.address.ttl",
    "broker.version.fallback",
    "check.crcs",
    "client.dns.lookup",
    "client.id",
    "client.rack",
    "compression.codec",
    "compression.level",
    "compression.type",
    "connections.max.idle.ms",
    "debug",
    "delivery.report.only.error",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.metrics.push",
    "enable.partition.eof",
    "enable.random.seed",
    "enable.ssl.certificate.verification",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "internal.termination.signal",
    "isolation.level",
    "linger.ms",
    "log.connection.close",
    "log.thread.name",
    "log_level",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "max.partition.fetch.bytes",
    "message.copy.max.bytes",
    "message.max.bytes",
    "message.send.max.retries",
    "message.timeout.ms",
    "metadata.max.age.ms",
    "metadata.recovery.rebootstrap.trigger.ms",
    "metadata.recovery.strategy",
    "partitioner",
    "queue.buffering.backpressure.threshold",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "queuing.strategy",
    "receive.message.max.bytes",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "request.required.acks",
    "request.timeout.ms",
    "retries",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "sasl.mechanism",
    "sasl.mechanisms",
    "security.protocol",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "socket.max.fails",
    "socket.nagle.disable",
    "socket.receive.buffer.bytes",
    "socket.send.buffer.bytes",
    "socket.timeout.ms",
    "ssl.cipher.suites",
    "ssl.curves.list",
    "ssl.endpoint.identification.algorithm",
    "ssl.sigalgs.list",
    "statistics.interval.ms",
    "sticky.partitioning.linger.ms",
    "topic.metadata.propagation.max.ms",
    "topic.metadata.refresh.fast.interval.ms",
    "topic.metadata.refresh.interval.ms",
    "topic.metadata.refresh.sparse",
];

/// The other names worth suggesting for a misspelt one; their values are shown to nobody.
const GUARDED: &[&str] = &[
    "bootstrap.servers",
    "enable.sasl.oauthbearer.unsecure.jwt",
    "group.id",
    "metadata.broker.list",
    "plugin.library.paths",
    "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.extensions",
    "sasl.oauthbearer.method",
    "sasl.oauthbearer.scope",
    "sasl.oauthbearer.token.endpoint.url",
    "sasl.password",
    "sasl.username",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.crl.location",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.location",
    "ssl.keystore.password",
    "ssl.providers",
    "topic.blacklist",
    "transaction.timeout.ms",
    "transactional.id",
];

/// What a property must be, as far as the promise depends on it.
enum Demand {
    /// The value as librdkafka prints it.
    Is(&'static str),
    AtLeast(u64),
    AtMost(u64),
    /// Zero, which librdkafka reads as no limit at all, does not pass either.
    Below(u64),
    /// Zero, which librdkafka reads as no limit at all, passes too.
    RoomFor(u64),
    Unset,
}

/// What is wrong with the properties: the key as the user wrote it, what is wrong with it, and the
/// remedy. Values are quoted only where [`harmless`] says so. Needs no network.
pub(crate) fn judge(
    properties: &BTreeMap<String, Secret>,
    bus_timeout: Duration,
    max_body: usize,
) -> Vec<(String, String, String)> {
    let mut mistakes = Vec::new();
    let mut spelt: HashMap<&str, &str> = HashMap::new();
    let mut sound = ClientConfig::new();
    for (key, value) in properties {
        let name = canonical(key);
        match parse(key, value) {
            Err((problem, remedy)) => mistakes.push((key.clone(), problem, remedy)),
            Ok(text) => {
                if let Some((_, ours)) = OURS.iter().find(|(property, _)| *property == name) {
                    mistakes.push((key.clone(), format!("is what {ours} is for"), format!("set {ours} instead")));
                } else if let Some(other) = spelt.insert(name, key) {
                    let problem = format!("is the same property as {other}, which is set too");
                    mistakes.push((key.clone(), problem, "keep one of the two".to_owned()));
                } else {
                    sound.set(name, text);
                }
            }
        }
    }
    let Ok(native) = sound.create_native_config() else { return mistakes };
    for (name, demand, why) in demands(bus_timeout, max_body) {
        if let Some(key) = spelt.get(name)
            && let Some((problem, remedy)) = demand.broken_by(&native, name, why)
        {
            mistakes.push(((*key).to_owned(), problem, remedy));
        }
    }
    mistakes
}

/// Whether the value of this property may be printed.
pub(crate) fn harmless(key: &str) -> bool {
    HARMLESS.contains(&key.strip_prefix("topic.").unwrap_or(key)) || HARMLESS.contains(&key)
}

/// The name that librdkafka itself uses: aliases resolved, and the `topic.` taken off that it allows
/// before a property of topics.
pub(super) fn canonical(key: &str) -> &str {
    let bare = key.strip_prefix("topic.").filter(|rest| HARMLESS.contains(rest)).unwrap_or(key);
    ALIASES.iter().find(|(alias, _)| *alias == bare).map_or(bare, |(_, name)| name)
}

fn demands(bus_timeout: Duration, max_body: usize) -> Vec<(&'static str, Demand, &'static str)> {
    let timeout = u64::try_from(bus_timeout.as_millis()).unwrap_or(u64::MAX);
    let body = max_body as u64;
    vec![
        ("request.required.acks", Demand::Is("-1"), "an event that one broker has is lost with that broker"),
        ("enable.idempotence", Demand::Is("true"), "without it a retry inside the client repeats and reorders events"),
        (
            "message.send.max.retries",
            Demand::AtLeast(1),
            "every change of a partition's leader would refuse deliveries",
        ),
        (
            "message.timeout.ms",
            Demand::Below(timeout),
            "the answer has to come within server.publish_timeout, less what a spool needs of it",
        ),
        (
            "queue.buffering.max.ms",
            Demand::Below(timeout),
            "the answer has to come within server.publish_timeout, less what a spool needs of it",
        ),
        (
            "message.max.bytes",
            Demand::AtLeast((body + HEADROOM).min(MAX_REQUEST)),
            "a body of server.max_body and its headers have to fit",
        ),
        ("batch.size", Demand::AtMost(MAX_BATCH), "a batch has to fit into a topic that nobody set up for more"),
        (
            "queue.buffering.max.kbytes",
            Demand::AtLeast((body + HEADROOM).div_ceil(1024)),
            "a body of server.max_body and its headers have to fit",
        ),
        ("queue.buffering.max.messages", Demand::RoomFor(1000), "a short queue refuses what the bridge has room for"),
        ("max.in.flight.requests.per.connection", Demand::AtMost(5), "idempotence allows no more"),
        ("queue.buffering.backpressure.threshold", Demand::Is("1"), "idempotence allows nothing else"),
        ("queuing.strategy", Demand::Is("fifo"), "events of one key keep their order"),
        ("delivery.report.only.error", Demand::Is("false"), "the bridge waits for the report of success"),
        ("test.mock.num.brokers", Demand::Is("0"), "brokers that librdkafka only pretends keep no event"),
        ("transactional.id", Demand::Unset, "the bridge publishes no transactions"),
        ("log.queue", Demand::Unset, "the client's log has one reader, the bridge"),
        ("enabled_events", Demand::Unset, "receipts are such events"),
    ]
}

impl Demand {
    /// Judges the value as librdkafka understood it, whatever way it was written.
    fn broken_by(&self, native: &NativeClientConfig, name: &str, why: &str) -> Option<(String, String)> {
        let value = native.get(name).ok()?;
        let number = value.parse::<f64>().ok();
        let (holds, allowed) = match self {
            Self::Is(wanted) => {
                let shown = if name == "request.required.acks" { "all" } else { wanted };
                (value == *wanted, format!("set it to {shown}, or leave it out"))
            }
            Self::AtLeast(least) => (number? >= *least as f64, format!("set it to {least} or more, or leave it out")),
            Self::AtMost(most) => (number? <= *most as f64, format!("set it to {most} or less, or leave it out")),
            Self::Below(bound) => {
                let unlimited = name == "message.timeout.ms" && number? == 0.0;
                (!unlimited && number? < *bound as f64, format!("set it below {bound}, or leave it out"))
            }
            Self::RoomFor(least) => (
                number? == 0.0 || number? >= *least as f64,
                format!("set it to {least} or more, to 0 for no limit, or leave it out"),
            ),
            Self::Unset => (false, "leave it out".to_owned()),
        };
        let is = if harmless(name) { format!("is {value}: {why}") } else { why.to_owned() };
        (!holds).then_some((is, allowed))
    }
}

/// The value as text, once librdkafka took it for this property alone.
fn parse<'a>(key: &str, value: &'a Secret) -> Result<&'a str, (String, String)> {
    let leave = || "correct it or leave it out".to_owned();
    let text = std::str::from_utf8(value.expose()).map_err(|_| ("is not UTF-8".to_owned(), leave()))?;
    match ClientConfig::new().set(key, text).create_native_config() {
        Ok(_) => Ok(text),
        Err(KafkaError::ClientConfig(_, says, ..)) if says.starts_with("No such configuration property") => {
            Err(("is no property of librdkafka".to_owned(), suggestion(key)))
        }
        Err(KafkaError::ClientConfig(_, says, ..)) if harmless(key) => Err((format!("is {text:?}: {says}"), leave())),
        Err(_) => Err(("has a value that librdkafka does not take".to_owned(), leave())),
    }
}

fn suggestion(key: &str) -> String {
    let likeness = |name: &str| strsim::jaro_winkler(name, key);
    let nearest = HARMLESS.iter().chain(GUARDED).max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match nearest {
        Some(name) if likeness(name) > 0.85 => format!("did you mean {name}?"),
        _ => "see librdkafka's CONFIGURATION.md for the names that there are".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(pairs: &[(&str, &str)]) -> Vec<(String, String, String)> {
        let properties = pairs.iter().map(|(key, value)| ((*key).to_owned(), Secret::new(*value))).collect();
        judge(&properties, Duration::from_secs(5), 12 << 20)
    }

    fn refused(key: &str, value: &str) {
        let mistakes = judged(&[(key, value)]);
        assert_eq!(mistakes.len(), 1, "{key}={value}: {mistakes:?}");
        assert_eq!(mistakes[0].0, key);
    }

    fn allowed(key: &str, value: &str) {
        assert_eq!(judged(&[(key, value)]), [], "{key}={value}");
    }

    #[test]
    fn anything_but_all_replicas_is_a_mistake_under_every_name() {
        for key in ["acks", "request.required.acks", "topic.acks"] {
            for value in ["0", "1", "2"] {
                refused(key, value);
            }
            allowed(key, "all");
            allowed(key, "-1");
        }
    }

    #[test]
    fn idempotence_stays_on() {
        refused("enable.idempotence", "false");
        allowed("enable.idempotence", "true");
    }

    #[test]
    fn no_retries_is_a_mistake_under_both_names() {
        refused("retries", "0");
        refused("message.send.max.retries", "0");
        allowed("retries", "3");
    }

    #[test]
    fn a_message_outlives_no_publish_timeout() {
        for key in ["message.timeout.ms", "delivery.timeout.ms"] {
            refused(key, "5000");
            refused(key, "0");
            allowed(key, "4000");
        }
        refused("linger.ms", "5000");
        allowed("linger.ms", "0");
        allowed("linger.ms", "20.5");
    }

    #[test]
    fn a_body_of_the_largest_size_fits_with_its_headers() {
        refused("message.max.bytes", "1000000");
        refused("message.max.bytes", &(12 << 20).to_string());
        allowed("message.max.bytes", "20000000");
        refused("queue.buffering.max.kbytes", "1024");
        refused("batch.size", "2000000");
        allowed("batch.size", "0x80000");
    }

    #[test]
    fn what_idempotence_or_receipts_forbid_is_named_before_the_client_does() {
        refused("max.in.flight", "6");
        refused("delivery.report.only.error", "true");
        refused("test.mock.num.brokers", "3");
        refused("queuing.strategy", "lifo");
        refused("transactional.id", "bridge");
        refused("error_cb", "x");
    }

    #[test]
    fn a_property_with_a_key_of_ours_points_to_that_key() {
        let mistakes = judged(&[("bootstrap.servers", "a:9092"), ("sasl.mechanism", "PLAIN")]);
        assert_eq!(mistakes[0].2, "set kafka.brokers instead");
        assert_eq!(mistakes[1].2, "set kafka.sasl_mechanism instead");
    }

    #[test]
    fn one_property_under_two_names_is_a_mistake() {
        let mistakes = judged(&[("linger.ms", "2"), ("queue.buffering.max.ms", "3")]);
        assert_eq!(mistakes.len(), 1);
        assert!(mistakes[0].1.contains("linger.ms"), "{mistakes:?}");
    }

    #[test]
    fn a_misspelt_name_gets_a_suggestion() {
        let mistakes = judged(&[("linger.msec", "2"), ("entirely.different", "x")]);
        assert_eq!(mistakes[1].2, "did you mean linger.ms?");
        assert!(mistakes[0].2.contains("CONFIGURATION.md"), "{mistakes:?}");
    }

    #[test]
    fn an_unusable_value_is_quoted_only_where_it_is_harmless() {
        let mistakes = judged(&[("socket.timeout.ms", "soon"), ("ssl.key.pem", "hunter\u{0}2")]);
        assert!(mistakes[0].1.contains("soon"), "{mistakes:?}");
        assert_eq!(mistakes[1].1, "has a value that librdkafka does not take");
        assert!(!format!("{mistakes:?}").contains("hunter"));
    }

    #[test]
    fn credentials_are_not_harmless_and_numbers_are() {
        for key in ["sasl.password", "ssl.key.pem", "sasl.oauthbearer.config", "bootstrap.servers", "unheard.of"] {
            assert!(!harmless(key), "{key}");
        }
        for key in ["linger.ms", "topic.acks", "compression.type"] {
            assert!(harmless(key), "{key}");
        }
    }

    #[test]
    fn librdkafka_knows_every_name_of_the_tables() {
        for name in HARMLESS.iter().chain(GUARDED).chain(ALIASES.iter().flat_map(|(alias, name)| [alias, name])) {
            let problem = parse(name, &Secret::new("x")).err().map(|(problem, _)| problem).unwrap_or_default();
            assert!(!problem.contains("is no property"), "{name}: {problem}");
        }
        let native = ClientConfig::new().set("acks", "all").create_native_config().unwrap();
        for (alias, name) in ALIASES {
            assert_eq!(native.get(alias).ok(), native.get(name).ok(), "{alias}");
        }
    }
}
