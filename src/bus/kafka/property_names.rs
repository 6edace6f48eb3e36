//! The names of librdkafka's properties: which of them are one property, and whose values may be printed.

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

/// Numbers, switches and choices: nothing in them is a secret or says where a broker is.
const PRINTABLE: &str = "
    allow.auto.create.topics api.version.fallback.ms api.version.request api.version.request.timeout.ms
    auto.commit.interval.ms auto.offset.reset batch.num.messages batch.size broker.address.family broker.address.ttl
    broker.version.fallback check.crcs client.dns.lookup client.id client.rack compression.codec compression.level
    connections.max.idle.ms debug delivery.report.only.error enable.auto.commit enable.gapless.guarantee
    enable.idempotence enable.metrics.push enable.partition.eof enable.random.seed
    enable.ssl.certificate.verification fetch.error.backoff.ms fetch.max.bytes fetch.message.max.bytes
    fetch.min.bytes fetch.queue.backoff.ms fetch.wait.max.ms internal.termination.signal isolation.level
    log.connection.close log.thread.name log_level max.in.flight.requests.per.connection message.copy.max.bytes
    message.max.bytes message.send.max.retries message.timeout.ms metadata.max.age.ms
    metadata.recovery.rebootstrap.trigger.ms metadata.recovery.strategy partitioner
    queue.buffering.backpressure.threshold queue.buffering.max.kbytes queue.buffering.max.messages
    queue.buffering.max.ms queued.max.messages.kbytes queued.min.messages queuing.strategy receive.message.max.bytes
    reconnect.backoff.max.ms reconnect.backoff.ms request.required.acks request.timeout.ms retry.backoff.max.ms
    retry.backoff.ms sasl.mechanisms security.protocol socket.connection.setup.timeout.ms socket.keepalive.enable
    socket.max.fails socket.nagle.disable socket.receive.buffer.bytes socket.send.buffer.bytes socket.timeout.ms
    ssl.cipher.suites ssl.curves.list ssl.endpoint.identification.algorithm ssl.sigalgs.list statistics.interval.ms
    sticky.partitioning.linger.ms topic.metadata.propagation.max.ms topic.metadata.refresh.fast.interval.ms
    topic.metadata.refresh.interval.ms topic.metadata.refresh.sparse
";

/// The other names worth suggesting for a misspelt one; their values are shown to nobody.
const HIDDEN: &str = "
    enable.sasl.oauthbearer.unsecure.jwt group.id https.ca.location https.ca.pem metadata.broker.list plugin.library.paths
    sasl.oauthbearer.client.id sasl.oauthbearer.client.secret sasl.oauthbearer.config sasl.oauthbearer.extensions
    sasl.oauthbearer.method sasl.oauthbearer.scope sasl.oauthbearer.token.endpoint.url sasl.password sasl.username
    ssl.ca.location ssl.ca.pem ssl.certificate.location ssl.certificate.pem ssl.crl.location ssl.key.location
    ssl.key.password ssl.key.pem ssl.keystore.location ssl.keystore.password ssl.providers topic.blacklist
    transaction.timeout.ms transactional.id
";

/// Whether the value of this property may be printed.
pub(crate) fn is_printable(key: &str) -> bool {
    is_listed(PRINTABLE, canonical(key))
}

/// The name that librdkafka itself uses: aliases resolved, and the `topic.` taken off that it allows
/// before a property of topics.
pub(super) fn canonical(key: &str) -> &str {
    let bare = key.strip_prefix("topic.").filter(|rest| is_listed(PRINTABLE, resolved(rest))).unwrap_or(key);
    resolved(bare)
}

fn resolved(name: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name)
}

fn is_listed(names: &str, name: &str) -> bool {
    names.split_ascii_whitespace().any(|listed| listed == name)
}

/// Every name that is known here.
fn all() -> impl Iterator<Item = &'static str> {
    let aliases = ALIASES.iter().map(|(alias, _)| *alias);
    aliases.chain(PRINTABLE.split_ascii_whitespace()).chain(HIDDEN.split_ascii_whitespace())
}

/// The name that was probably meant, if one is near.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    let likeness = |name: &str| strsim::jaro_winkler(name, key);
    all().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).filter(|name| likeness(name) > 0.85)
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;

    use super::*;

    #[test]
    fn credentials_are_not_printable_and_numbers_are() {
        for key in ["sasl.password", "ssl.key.pem", "sasl.oauthbearer.config", "bootstrap.servers", "unheard.of"] {
            assert!(!is_printable(key), "{key}");
        }
        for key in ["linger.ms", "topic.acks", "compression.type"] {
            assert!(is_printable(key), "{key}");
        }
    }

    #[test]
    fn librdkafka_knows_every_name_of_the_tables() {
        for name in all() {
            let error = ClientConfig::new().set(name, "x").create_native_config().err().map(|error| error.to_string());
            assert!(!error.is_some_and(|error| error.contains("No such configuration property")), "{name}");
        }
        let native = ClientConfig::new().set("acks", "all").create_native_config().unwrap();
        for (alias, name) in ALIASES {
            assert_eq!(native.get(alias).ok(), native.get(name).ok(), "{alias}");
        }
    }
}
