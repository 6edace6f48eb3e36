//! How each librdkafka client is set up: what the bridge needs, and the user's `kafka.*` over it. Refuses to know what
//! a client is used for.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use super::property_names::canonical;
use super::{batch_limit, compression};
use crate::bus::loopback::is_loopback;
use crate::bus::{Finding, OpenError, Setup};
use crate::config;

/// Bytes for key, headers and framing beside the largest body. The bridge bounds the head of a
/// request, and what it makes of it, well below.
const HEADROOM: u64 = 256 * 1024;

/// Bytes: librdkafka's own upper limit of `message.max.bytes`.
const MAX_REQUEST: u64 = 1_000_000_000;

/// librdkafka looks for messages and requests that are overdue once a second only.
pub(super) const SCAN: Duration = Duration::from_secs(1);

/// How long a message may take until its report. 5 s give it 3.5 s, so that even an overdue one found by the next scan
/// is answered before 4.8 s. Below 3.75 s the scan no longer fits and the message gets 60 %.
pub(super) fn message_timeout(publish_timeout: Duration) -> Duration {
    publish_timeout.saturating_sub(SCAN * 3 / 2).max(publish_timeout.mul_f64(0.6))
}

/// How long one request of such a message may take.
fn request_timeout(publish_timeout: Duration) -> Duration {
    message_timeout(publish_timeout).mul_f64(6.0 / 7.0)
}

/// A producer that answers within the limits, and answers only for what all replicas in sync have.
pub(super) fn producer(config: &config::Kafka, setup: &Setup) -> Result<ClientConfig, OpenError> {
    let message = message_timeout(setup.publish_timeout);
    let largest = largest_message(setup.max_body);
    // The memory budget is the bridge's to refuse from: librdkafka has room for twice as much.
    let room = (setup.bytes_in_flight as u64).saturating_mul(2).saturating_add(64 << 20).max(2 * largest) / 1024;
    let mut client = shared(config, setup.publish_timeout)?;
    client
        .set("request.required.acks", "all")
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", millis(message))
        .set("request.timeout.ms", millis(request_timeout(setup.publish_timeout)))
        // Produce requests end with their message; what else a silent broker owes may take 3 s.
        .set("socket.timeout.ms", millis(message.max(Duration::from_secs(3))))
        .set("queue.buffering.max.ms", "1")
        .set("message.max.bytes", largest.to_string())
        .set("batch.size", batch_limit::DEFAULT.to_string())
        .set("queue.buffering.max.kbytes", room.min(i32::MAX as u64).to_string())
        .set("queue.buffering.max.messages", "1000000")
        .set("partitioner", "murmur2_random")
        .set("compression.codec", compression::codec(config.compression))
        .set("topic.metadata.propagation.max.ms", "1000");
    overridden(client, config)
}

/// A client that asks and administers: the user's properties, none of a producer's.
pub(super) fn admin(config: &config::Kafka) -> Result<ClientConfig, OpenError> {
    let mut client = shared(config, Duration::from_secs(5))?;
    client.set("socket.timeout.ms", "8000");
    overridden(client, config)
}

/// A consumer that joins no group, commits nothing, never skips a record and is told the end of a partition.
pub(super) fn consumer(config: &config::Kafka) -> Result<ClientConfig, OpenError> {
    let mut client = overridden(shared(config, Duration::from_secs(5))?, config)?;
    client
        .set("group.id", "terra-bridge-tail")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false")
        .set("enable.partition.eof", "true");
    Ok(client)
}

/// Bytes of the largest record that a producer sends and a topic has to take.
pub(super) fn largest_message(max_body: usize) -> u64 {
    (max_body as u64 + HEADROOM).min(MAX_REQUEST)
}

/// A login that goes without TLS to another machine.
pub(crate) fn exposed_login(config: &config::Kafka) -> Option<Finding> {
    let client = admin(config).ok()?;
    let is = |name: &str, wanted: &str| client.get(name).is_some_and(|value| value.eq_ignore_ascii_case(wanted));
    if !is("security.protocol", "sasl_plaintext") || config.brokers.iter().all(|broker| is_loopback(broker)) {
        return None;
    }
    let (about, says) = if is("sasl.mechanisms", "PLAIN") {
        ("kafka.password", "goes over the network in plain text, and every event with it")
    } else if is("sasl.mechanisms", "OAUTHBEARER") {
        ("kafka.oauth", "sends its tokens over the network in plain text, and every event with them")
    } else {
        let says = "is used without TLS: whoever listens reads every event, and can try passwords on the login";
        ("kafka.password", says)
    };
    let remedy = "set kafka.tls.ca (or \"system\") and name a TLS listener in kafka.brokers";
    Some(Finding::advice(about, says, remedy))
}

/// What every client is told, under the names that librdkafka itself uses, so that the user's can replace ours.
fn shared(config: &config::Kafka, publish_timeout: Duration) -> Result<ClientConfig, OpenError> {
    // 1 s is librdkafka's minimum.
    let setup = request_timeout(publish_timeout).max(Duration::from_secs(1));
    let backoff = (publish_timeout / 100).clamp(Duration::from_millis(10), Duration::from_millis(50));
    let backoff_most = (publish_timeout / 10).clamp(Duration::from_millis(50), Duration::from_millis(500));
    let mut client = ClientConfig::new();
    client
        .set("metadata.broker.list", config.brokers.join(","))
        .set("client.id", "terra-bridge")
        .set("allow.auto.create.topics", "false")
        .set("socket.connection.setup.timeout.ms", millis(setup))
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.ms", millis(backoff))
        .set("reconnect.backoff.max.ms", millis(backoff_most))
        .set("retry.backoff.ms", millis(backoff))
        .set("retry.backoff.max.ms", millis(backoff_most))
        .set("security.protocol", config.protocol())
        // That the other side closes a connection at once is said at this level.
        .set_log_level(RDKafkaLogLevel::Info);
    let login = config.username.as_ref();
    log_in_with_tokens(&mut client, config)?;
    let password = config.password.as_ref().map(|password| text("kafka.password", password)).transpose()?;
    for (name, value) in [
        ("sasl.mechanisms", config.sasl_mechanism.as_deref().or(login.map(|_| "SCRAM-SHA-512"))),
        ("sasl.username", login.map(String::as_str)),
        ("sasl.password", password.as_deref()),
        ("ssl.ca.location", config.tls.ca.as_deref().filter(|ca| *ca != "system")),
        ("ssl.certificate.location", path("kafka.tls.certificate", config.tls.certificate.as_deref())?),
        ("ssl.key.location", path("kafka.tls.key", config.tls.key.as_deref())?),
    ] {
        if let Some(value) = value {
            client.set(name, value);
        }
    }
    Ok(client)
}

/// librdkafka gets the tokens, and new ones in time, on a thread of its own for each client.
fn log_in_with_tokens(client: &mut ClientConfig, config: &config::Kafka) -> Result<(), OpenError> {
    let Some(oauth) = &config.oauth else { return Ok(()) };
    client
        .set("sasl.oauthbearer.method", "oidc")
        .set("sasl.oauthbearer.token.endpoint.url", &oauth.token_url)
        .set("sasl.oauthbearer.client.id", &oauth.client_id)
        .set("sasl.oauthbearer.client.secret", text("kafka.oauth.client_secret", &oauth.client_secret)?)
        .set("https.ca.location", path("kafka.oauth.ca", oauth.ca.as_deref())?.unwrap_or("probe"));
    if let Some(scope) = &oauth.scope {
        // librdkafka (2.12.1) puts it into the form as it is.
        client.set("sasl.oauthbearer.scope", utf8_percent_encode(scope, NON_ALPHANUMERIC).to_string());
    }
    if !oauth.extensions.is_empty() {
        client.set("sasl.oauthbearer.extensions", oauth.extensions.join(","));
    }
    Ok(())
}

/// The user's properties over ours. The vendored OpenSSL knows no system roots, so that without a
/// CA of the user's they have to be looked for.
fn overridden(mut client: ClientConfig, config: &config::Kafka) -> Result<ClientConfig, OpenError> {
    for (key, value) in &config.properties {
        client.set(canonical(key), text(&format!("kafka.properties.{key}"), value)?);
    }
    let tls = client.get("security.protocol").is_some_and(|protocol| protocol.to_ascii_lowercase().contains("ssl"));
    if tls && client.get("ssl.ca.location").or(client.get("ssl.ca.pem")).is_none() {
        client.set("ssl.ca.location", "probe");
    }
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
mod tests {
    use super::super::tests::support::{config, setup};
    use super::*;
    use crate::config::Secret;

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
            let message = message_timeout(setup.publish_timeout);
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

    /// Fails where librdkafka was built without curl, of which the build says nothing.
    #[test]
    fn librdkafka_gets_tokens_by_itself() {
        let mut config = config("127.0.0.1:1");
        config.sasl_mechanism = Some("OAUTHBEARER".to_owned());
        config.oauth = Some(config::OAuth {
            token_url: "http://127.0.0.1:1/token".to_owned(),
            client_id: "bridge".to_owned(),
            client_secret: Secret::new("secret"),
            scope: Some("one:a two&b".to_owned()),
            extensions: vec!["logicalCluster=lkc-1".to_owned(), "identityPoolId=pool-1".to_owned()],
            ca: None,
        });
        let client = of(&config);
        for (name, value) in [
            ("security.protocol", "sasl_plaintext"),
            ("sasl.mechanisms", "OAUTHBEARER"),
            ("sasl.oauthbearer.scope", "one%3Aa%20two%26b"),
            ("sasl.oauthbearer.extensions", "logicalCluster=lkc-1,identityPoolId=pool-1"),
            ("https.ca.location", "probe"),
        ] {
            assert_eq!(client.get(name), Some(value), "{name}");
        }
        let made: Result<rdkafka::producer::BaseProducer, _> = client.create();
        assert!(made.is_ok(), "{:?}", made.err());
        config.brokers = vec!["kafka.example.org:9092".to_owned()];
        let exposed = exposed_login(&config).unwrap();
        assert!(exposed.about == "kafka.oauth" && exposed.says.contains("tokens"), "{exposed:?}");
    }

    #[test]
    fn messages_are_compressed_as_the_user_says() {
        let mut config = config("127.0.0.1:1");
        assert_eq!(of(&config).get("compression.codec"), Some("lz4"));
        use config::Compression::{Gzip, None, Snappy, Zstd};
        for (compression, codec) in [(Zstd, "zstd"), (Snappy, "snappy"), (Gzip, "gzip"), (None, "none")] {
            config.compression = compression;
            assert_eq!(of(&config).get("compression.codec"), Some(codec));
            let made: Result<rdkafka::producer::BaseProducer, _> = of(&config).create();
            assert!(made.is_ok(), "{codec}: {:?}", made.err());
        }
    }

    #[test]
    fn a_login_over_plain_text_to_another_machine_is_named() {
        let mut config = config("127.0.0.1:1,localhost:2");
        let says = |config: &config::Kafka| exposed_login(config).map(|finding| finding.says);
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
