//! Checks the user's librdkafka properties: none may break the promise that a 2xx means kept. Needs no broker.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::NativeClientConfig;
use rdkafka::error::KafkaError;

use super::property_names::{canonical, is_printable, nearest};
use super::settings::largest_message;
use crate::config::Secret;

/// Bytes: what librdkafka has for a batch by itself, and about what a topic takes that nobody set up.
const MAX_BATCH: u64 = 1_000_000;

/// Properties that have a key of ours, and that key.
const OURS: &[(&str, &str)] = &[
    ("compression.codec", "kafka.compression"),
    ("metadata.broker.list", "kafka.brokers"),
    ("https.ca.location", "kafka.oauth.ca"),
    ("sasl.mechanisms", "kafka.sasl_mechanism"),
    ("sasl.oauthbearer.client.id", "kafka.oauth.client_id"),
    ("sasl.oauthbearer.client.secret", "kafka.oauth.client_secret"),
    ("sasl.oauthbearer.extensions", "kafka.oauth.extensions"),
    ("sasl.oauthbearer.method", "kafka.oauth.token_url"),
    ("sasl.oauthbearer.scope", "kafka.oauth.scope"),
    ("sasl.oauthbearer.token.endpoint.url", "kafka.oauth.token_url"),
    ("sasl.password", "kafka.password"),
    ("sasl.username", "kafka.username"),
    ("ssl.ca.location", "kafka.tls.ca"),
    ("ssl.certificate.location", "kafka.tls.certificate"),
    ("ssl.key.location", "kafka.tls.key"),
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
/// remedy. Values are quoted only where [`is_printable`] says so. Needs no network.
pub(crate) fn check(
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

fn demands(bus_timeout: Duration, max_body: usize) -> Vec<(&'static str, Demand, &'static str)> {
    let timeout = u64::try_from(bus_timeout.as_millis()).unwrap_or(u64::MAX);
    let largest = largest_message(max_body);
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
        ("message.max.bytes", Demand::AtLeast(largest), "a body of server.max_body and its headers have to fit"),
        ("batch.size", Demand::AtMost(MAX_BATCH), "a batch has to fit into a topic that nobody set up for more"),
        (
            "queue.buffering.max.kbytes",
            Demand::AtLeast(largest.div_ceil(1024)),
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
    /// Checks the value as librdkafka understood it, whatever way it was written.
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
        let is = if is_printable(name) { format!("is {value}: {why}") } else { why.to_owned() };
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
        Err(KafkaError::ClientConfig(_, says, ..)) if is_printable(key) => {
            Err((format!("is {text:?}: {says}"), leave()))
        }
        Err(_) => Err(("has a value that librdkafka does not take".to_owned(), leave())),
    }
}

fn suggestion(key: &str) -> String {
    match nearest(key) {
        Some(name) => format!("did you mean {name}?"),
        None => "see librdkafka's CONFIGURATION.md for the names that there are".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(pairs: &[(&str, &str)]) -> Vec<(String, String, String)> {
        let properties = pairs.iter().map(|(key, value)| ((*key).to_owned(), Secret::new(*value))).collect();
        check(&properties, Duration::from_secs(5), 12 << 20)
    }

    fn refused(key: &str, value: &str) {
        let mistakes = checked(&[(key, value)]);
        assert_eq!(mistakes.len(), 1, "{key}={value}: {mistakes:?}");
        assert_eq!(mistakes[0].0, key);
    }

    fn allowed(key: &str, value: &str) {
        assert_eq!(checked(&[(key, value)]), [], "{key}={value}");
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
        let mistakes = checked(&[("bootstrap.servers", "a:9092"), ("sasl.mechanism", "PLAIN")]);
        assert_eq!(mistakes[0].2, "set kafka.brokers instead");
        assert_eq!(mistakes[1].2, "set kafka.sasl_mechanism instead");
        let secret = checked(&[("sasl.oauthbearer.client.credentials.client.secret", "hunter2")]);
        assert_eq!(secret[0].2, "set kafka.oauth.client_secret instead");
        assert!(!format!("{secret:?}").contains("hunter2"));
        for name in ["compression.codec", "compression.type", "topic.compression.codec", "topic.compression.type"] {
            let problem = "is what kafka.compression is for".to_owned();
            let instead = "set kafka.compression instead".to_owned();
            assert_eq!(checked(&[(name, "zstd")]), [(name.to_owned(), problem, instead)]);
        }
    }

    #[test]
    fn one_property_under_two_names_is_a_mistake() {
        let mistakes = checked(&[("linger.ms", "2"), ("queue.buffering.max.ms", "3")]);
        assert_eq!(mistakes.len(), 1);
        assert!(mistakes[0].1.contains("linger.ms"), "{mistakes:?}");
    }

    #[test]
    fn a_misspelt_name_gets_a_suggestion() {
        let mistakes = checked(&[("linger.msec", "2"), ("entirely.different", "x")]);
        assert_eq!(mistakes[1].2, "did you mean linger.ms?");
        assert!(mistakes[0].2.contains("CONFIGURATION.md"), "{mistakes:?}");
    }

    #[test]
    fn an_unusable_value_is_quoted_only_where_it_is_printable() {
        let mistakes = checked(&[("socket.timeout.ms", "soon"), ("ssl.key.pem", "hunter\u{0}2")]);
        assert!(mistakes[0].1.contains("soon"), "{mistakes:?}");
        assert_eq!(mistakes[1].1, "has a value that librdkafka does not take");
        assert!(!format!("{mistakes:?}").contains("hunter"));
    }
}
