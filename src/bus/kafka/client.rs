//! What each librdkafka client is told. Comes in: `kafka.*` of the configuration and the bridge's
//! limits. Goes out: a [`ClientConfig`]. Refuses to know what the client is used for.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::metadata::Metadata;
use rdkafka::producer::{DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{ClientConfig, ClientContext, Statistics};

use super::cause::Cause;
use super::producer::code;
use super::properties::canonical;
use super::refusal::Trouble;
use crate::bus::{OpenError, Setup};
use crate::config;

/// Bytes for key, headers and framing beside the largest body. The bridge bounds the head of a
/// request, and what it makes of it, well below.
pub(super) const HEADROOM: u64 = 256 * 1024;

/// Bytes: librdkafka's own upper limit of `message.max.bytes`.
pub(super) const MAX_REQUEST: u64 = 1_000_000_000;

/// Bytes of messages for one partition that go to the broker together, before compression; a larger one goes
/// alone. Well below what a topic takes that nobody set up: the broker judges the batch, and refuses it whole.
const BATCH: u64 = 256 * 1024;

/// librdkafka looks for messages and requests that are overdue once a second only.
pub(super) const SCAN: Duration = Duration::from_secs(1);

/// Times that follow from how long an answer may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) message: Duration,
    pub(super) request: Duration,
    pub(super) socket: Duration,
    pub(super) setup: Duration,
    pub(super) backoff_first: Duration,
    pub(super) backoff_most: Duration,
}

impl Times {
    /// 5 s gives 3.5 s for the message, so that even an overdue one found by the next scan is
    /// answered before 4.8 s. Below 3.75 s the scan no longer fits and the message gets 60 %.
    pub(super) fn within(publish_timeout: Duration) -> Self {
        let message = publish_timeout.saturating_sub(SCAN * 3 / 2).max(publish_timeout.mul_f64(0.6));
        Self {
            message,
            request: message.mul_f64(6.0 / 7.0),
            // Produce requests end with their message; what else a silent broker owes may take 3 s.
            socket: message.max(Duration::from_secs(3)),
            // 1 s is librdkafka's minimum.
            setup: message.mul_f64(6.0 / 7.0).max(Duration::from_secs(1)),
            backoff_first: (publish_timeout / 100).clamp(Duration::from_millis(10), Duration::from_millis(50)),
            backoff_most: (publish_timeout / 10).clamp(Duration::from_millis(50), Duration::from_millis(500)),
        }
    }
}

/// A producer that answers within the limits, and answers only for what all replicas in sync have.
pub(super) fn producer(config: &config::Kafka, setup: &Setup) -> Result<ClientConfig, OpenError> {
    let times = Times::within(setup.publish_timeout);
    let largest = largest_message(setup.max_body);
    // The memory budget is the bridge's to refuse from: librdkafka has room for twice as much.
    let room = (setup.bytes_in_flight as u64).saturating_mul(2).saturating_add(64 << 20).max(2 * largest) / 1024;
    let mut ours = shared(config, &times)?;
    ours.extend(
        [
            ("request.required.acks", "all".to_owned()),
            ("enable.idempotence", "true".to_owned()),
            ("message.timeout.ms", millis(times.message)),
            ("request.timeout.ms", millis(times.request)),
            ("socket.timeout.ms", millis(times.socket)),
            ("queue.buffering.max.ms", "1".to_owned()),
            ("message.max.bytes", largest.to_string()),
            ("batch.size", BATCH.to_string()),
            ("queue.buffering.max.kbytes", room.min(i32::MAX as u64).to_string()),
            ("queue.buffering.max.messages", "1000000".to_owned()),
            ("partitioner", "murmur2_random".to_owned()),
            ("compression.codec", "lz4".to_owned()),
            ("topic.metadata.propagation.max.ms", "1000".to_owned()),
            ("allow.auto.create.topics", "false".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    overridden(ours, config)
}

/// Bytes of a batch that this producer fills, as librdkafka understands its settings.
pub(super) fn batch(producer: &ClientConfig) -> u64 {
    let set = producer.create_native_config().and_then(|native| native.get("batch.size"));
    set.ok().and_then(|bytes| bytes.parse().ok()).unwrap_or(BATCH)
}

/// A client that asks and administers: the user's properties, none of a producer's.
pub(super) fn admin(config: &config::Kafka) -> Result<ClientConfig, OpenError> {
    let mut ours = shared(config, &Times::within(Duration::from_secs(5)))?;
    ours.insert("socket.timeout.ms".to_owned(), "8000".to_owned());
    ours.insert("allow.auto.create.topics".to_owned(), "false".to_owned());
    overridden(ours, config)
}

/// A consumer that joins no group, commits nothing, never skips a record and is told the end of a partition.
pub(super) fn consumer(config: &config::Kafka) -> Result<ClientConfig, OpenError> {
    let ours = shared(config, &Times::within(Duration::from_secs(5)))?;
    let mut client = overridden(ours, config)?;
    client
        .set("group.id", "terra-bridge-tail")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false")
        .set("enable.partition.eof", "true")
        .set("fetch.message.max.bytes", (16 << 20).to_string())
        .set("queued.min.messages", "1000");
    Ok(client)
}

/// Bytes of the largest record that a producer sends and a topic has to take.
pub(super) fn largest_message(max_body: usize) -> u64 {
    (max_body as u64 + HEADROOM).min(MAX_REQUEST)
}

/// Makes the client. The error has what librdkafka says (a file it cannot read, a mechanism it was
/// not built with), never a value.
pub(super) fn create<C, T>(config: &ClientConfig, context: C) -> Result<T, OpenError>
where
    C: ClientContext,
    T: FromClientConfigAndContext<C>,
{
    config.create_with_context(context).map_err(|error| {
        OpenError(match error {
            KafkaError::ClientCreation(says) => format!("librdkafka does not start: {says}; check kafka.*"),
            KafkaError::ClientConfig(_, _, key, _) => {
                format!("librdkafka does not take the value of {key}; correct it under kafka")
            }
            _ => "librdkafka does not start; check kafka.*".to_owned(),
        })
    })
}

/// For clients whose errors come back from each call, too. Remembers what explains them.
#[derive(Default, Clone)]
pub(super) struct Quiet(Arc<Mutex<Explained>>);

/// Why no broker answers, as far as that is known.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Explained {
    pub(super) trouble: Option<Trouble>,
    pub(super) cause: Option<Cause>,
}

impl Quiet {
    fn explained(&self) -> MutexGuard<'_, Explained> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notice(&self, code: Option<Code>, text: &str) {
        if let Some(cause) = Cause::of(code, text) {
            let mut explained = self.explained();
            explained.cause = Some(explained.cause.map_or(cause, |known| known.or(cause)));
        }
    }
}

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility);
        self.notice(None, text);
    }

    fn error(&self, error: KafkaError, why: &str) {
        let code = error.rdkafka_error_code();
        self.notice(code, why);
        if let Some(trouble) = code.and_then(|code| Trouble::of_report(code, why)) {
            self.explained().trouble = Some(trouble);
        }
    }

    fn stats(&self, _: Statistics) {}

    fn stats_raw(&self, _: &[u8]) {}
}

impl ConsumerContext for Quiet {}

impl ProducerContext for Quiet {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// Asks the brokers and publishes nothing. Unlike a consumer and librdkafka's admin client it learns
/// why no broker answers. Its calls block, and so does dropping it.
pub(super) struct Asker {
    client: ThreadedProducer<Quiet>,
    context: Quiet,
}

/// No answer, and what explains it.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub(super) error: KafkaError,
    pub(super) explained: Explained,
}

impl Unanswered {
    pub(super) fn code(&self) -> Code {
        code(&self.error)
    }
}

impl Borrow<KafkaError> for Unanswered {
    fn borrow(&self) -> &KafkaError {
        &self.error
    }
}

impl Asker {
    pub(super) fn open(config: &config::Kafka) -> Result<Self, OpenError> {
        let context = Quiet::default();
        Ok(Self { client: create(&admin(config)?, context.clone())?, context })
    }

    /// What the brokers say of this topic, or of all.
    pub(super) fn metadata(&self, topic: Option<&str>, patience: Duration) -> Result<Metadata, Unanswered> {
        self.client.client().fetch_metadata(topic, patience).map_err(|error| self.unanswered(error))
    }

    /// The first offset of a partition and the next.
    pub(super) fn ends(&self, topic: &str, partition: i32, patience: Duration) -> Result<(i64, i64), Unanswered> {
        self.client.client().fetch_watermarks(topic, partition, patience).map_err(|error| self.unanswered(error))
    }

    fn unanswered(&self, error: KafkaError) -> Unanswered {
        Unanswered { error, explained: *self.context.explained() }
    }
}

/// librdkafka's lines have broker addresses in them: only where a line comes from is kept.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str) {
    tracing::debug!(facility, ?level, "librdkafka");
}

/// Names as librdkafka itself uses them, so that the user's can replace ours.
type Named = BTreeMap<String, String>;

fn shared(config: &config::Kafka, times: &Times) -> Result<Named, OpenError> {
    let mut ours = Named::from(
        [
            ("metadata.broker.list", config.brokers.join(",")),
            ("client.id", "terra-bridge".to_owned()),
            ("socket.connection.setup.timeout.ms", millis(times.setup)),
            ("socket.keepalive.enable", "true".to_owned()),
            ("reconnect.backoff.ms", millis(times.backoff_first)),
            ("reconnect.backoff.max.ms", millis(times.backoff_most)),
            ("retry.backoff.ms", millis(times.backoff_first)),
            ("retry.backoff.max.ms", millis(times.backoff_most)),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    ours.insert("security.protocol".to_owned(), protocol(config).to_owned());
    if let Some(username) = &config.username {
        let mechanism = config.sasl_mechanism.as_deref().unwrap_or("SCRAM-SHA-512");
        ours.insert("sasl.mechanisms".to_owned(), mechanism.to_owned());
        ours.insert("sasl.username".to_owned(), username.clone());
    } else if let Some(mechanism) = &config.sasl_mechanism {
        ours.insert("sasl.mechanisms".to_owned(), mechanism.clone());
    }
    if let Some(password) = &config.password {
        ours.insert("sasl.password".to_owned(), text("kafka.password", password)?);
    }
    let files = [
        ("ssl.ca.location", config.tls.ca.as_deref().filter(|ca| *ca != "system")),
        ("ssl.certificate.location", path("kafka.tls.certificate", config.tls.certificate.as_deref())?),
        ("ssl.key.location", path("kafka.tls.key", config.tls.key.as_deref())?),
    ];
    ours.extend(files.into_iter().filter_map(|(name, file)| Some((name.to_owned(), file?.to_owned()))));
    Ok(ours)
}

fn protocol(config: &config::Kafka) -> &'static str {
    let tls = config.tls.ca.is_some() || config.tls.certificate.is_some() || config.tls.key.is_some();
    match (tls, config.username.is_some()) {
        (false, false) => "plaintext",
        (true, false) => "ssl",
        (false, true) => "sasl_plaintext",
        (true, true) => "sasl_ssl",
    }
}

/// The user's properties over ours. The vendored OpenSSL knows no system roots, so that without a
/// CA of the user's they have to be looked for.
fn overridden(mut settings: Named, config: &config::Kafka) -> Result<ClientConfig, OpenError> {
    for (key, value) in &config.properties {
        settings.insert(canonical(key).to_owned(), text(&format!("kafka.properties.{key}"), value)?);
    }
    let tls = settings.get("security.protocol").is_some_and(|protocol| protocol.to_ascii_lowercase().contains("ssl"));
    if tls && !settings.contains_key("ssl.ca.location") && !settings.contains_key("ssl.ca.pem") {
        settings.insert("ssl.ca.location".to_owned(), "probe".to_owned());
    }
    let mut client: ClientConfig = settings.into_iter().collect();
    // That the other side closes a connection at once is said at this level.
    client.set_log_level(RDKafkaLogLevel::Info);
    Ok(client)
}

fn text(key: &str, secret: &config::Secret) -> Result<String, OpenError> {
    String::from_utf8(secret.expose().to_vec()).map_err(|_| OpenError(format!("{key} is not UTF-8; correct it")))
}

fn path<'a>(key: &str, path: Option<&'a std::path::Path>) -> Result<Option<&'a str>, OpenError> {
    path.map(|path| path.to_str().ok_or_else(|| OpenError(format!("{key} is a path that is not UTF-8; rename it"))))
        .transpose()
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::Secret;

    /// Everything as it is by default.
    pub(crate) fn config(brokers: &str) -> config::Kafka {
        config::Kafka {
            brokers: brokers.split(',').map(str::to_owned).collect(),
            username: None,
            password: None,
            sasl_mechanism: None,
            tls: config::Tls::default(),
            create_topics: true,
            partitions: 6,
            replication_factor: None,
            topic_config: BTreeMap::new(),
            properties: BTreeMap::new(),
        }
    }

    pub(crate) fn setup(publish_timeout: Duration, topics: &[&str]) -> Setup {
        Setup {
            topics: topics.iter().map(|topic| (*topic).into()).collect(),
            publish_timeout,
            max_body: 12 << 20,
            bytes_in_flight: 256 << 20,
        }
    }

    fn of(config: &config::Kafka) -> ClientConfig {
        producer(config, &setup(Duration::from_secs(5), &[])).unwrap()
    }

    #[test]
    fn five_seconds_give_the_measured_settings() {
        let client = of(&config("a:1,b:2"));
        for (name, value) in [
            ("metadata.broker.list", "a:1,b:2"),
            ("message.timeout.ms", "3500"),
            ("request.timeout.ms", "3000"),
            ("socket.connection.setup.timeout.ms", "3000"),
            ("reconnect.backoff.ms", "50"),
            ("reconnect.backoff.max.ms", "500"),
            ("message.max.bytes", "12845056"),
            ("security.protocol", "plaintext"),
        ] {
            assert_eq!(client.get(name), Some(value), "{name}");
        }
        assert_eq!(client.get("ssl.ca.location"), None);
    }

    #[test]
    fn librdkafka_takes_the_settings_of_any_publish_timeout() {
        for millis in [100, 1000, 2000, 5000, 7500] {
            let setup = setup(Duration::from_millis(millis), &[]);
            let client = producer(&config("127.0.0.1:1"), &setup).unwrap();
            let made: Result<rdkafka::producer::BaseProducer, _> = client.create();
            assert!(made.is_ok(), "{millis} ms: {:?}", made.err());
            let message = Times::within(setup.publish_timeout).message;
            assert!(message < setup.publish_timeout, "{millis} ms");
        }
    }

    #[test]
    fn the_protocol_follows_from_tls_and_login() {
        let mut config = config("a:1");
        config.tls.ca = Some("system".to_owned());
        assert_eq!(of(&config).get("security.protocol"), Some("ssl"));
        assert_eq!(of(&config).get("ssl.ca.location"), Some("probe"));

        config.username = Some("bridge".to_owned());
        config.password = Some(Secret::new("secret"));
        assert_eq!(of(&config).get("security.protocol"), Some("sasl_ssl"));
        assert_eq!(of(&config).get("sasl.mechanisms"), Some("SCRAM-SHA-512"));

        config.tls.ca = Some("/etc/ca.pem".to_owned());
        assert_eq!(of(&config).get("ssl.ca.location"), Some("/etc/ca.pem"));

        config.tls.ca = None;
        assert_eq!(of(&config).get("security.protocol"), Some("sasl_plaintext"));
    }

    #[test]
    fn a_login_over_plain_text_to_another_machine_is_named() {
        let mut config = config("127.0.0.1:1,localhost:2");
        let says = |config: &config::Kafka| super::super::exposed_login(config).map(|finding| finding.says);
        config.username = Some("bridge".to_owned());
        config.password = Some(Secret::new("secret"));
        assert_eq!(says(&config), None, "on this machine");
        config.brokers = vec!["localhost:1".to_owned(), "kafka.example.org:9092".to_owned()];
        assert!(says(&config).is_some_and(|says| says.contains("without TLS")));
        config.sasl_mechanism = Some("PLAIN".to_owned());
        assert!(says(&config).is_some_and(|says| says.contains("plain text")));
        config.properties.insert("security.protocol".to_owned(), Secret::new("SASL_SSL"));
        assert_eq!(says(&config), None);
        config.properties.clear();
        config.tls.ca = Some("system".to_owned());
        assert_eq!(says(&config), None);
    }

    #[test]
    fn properties_of_the_user_win_under_every_alias() {
        let mut config = config("a:1");
        for (key, value) in [("delivery.timeout.ms", "4000"), ("linger.ms", "7"), ("security.protocol", "SSL")] {
            config.properties.insert(key.to_owned(), Secret::new(value));
        }
        let client = of(&config);
        assert_eq!(client.get("message.timeout.ms"), Some("4000"));
        assert_eq!(client.get("delivery.timeout.ms"), None);
        assert_eq!(client.get("queue.buffering.max.ms"), Some("7"));
        assert_eq!(client.get("security.protocol"), Some("SSL"));
        assert_eq!(client.get("ssl.ca.location"), Some("probe"));

        config.properties.insert("ssl.ca.pem".to_owned(), Secret::new("pem"));
        assert_eq!(of(&config).get("ssl.ca.location"), None);
    }

    #[test]
    fn a_reader_commits_nothing_and_is_told_the_end_of_a_partition_whatever_the_properties_say() {
        let mut config = config("a:1");
        config.properties.insert("enable.auto.commit".to_owned(), Secret::new("true"));
        config.properties.insert("enable.partition.eof".to_owned(), Secret::new("false"));
        config.properties.insert("group.id".to_owned(), Secret::new("analytics"));
        let client = consumer(&config).unwrap();
        assert_eq!(client.get("enable.auto.commit"), Some("false"));
        assert_eq!(client.get("enable.partition.eof"), Some("true"));
        assert_eq!(client.get("group.id"), Some("terra-bridge-tail"));
    }
}
