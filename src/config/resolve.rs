//! From sound values to [`Config`]. Each function is `None` exactly where one of its keys has a mistake
//! that was said already.

use std::collections::BTreeMap;
use std::path::PathBuf;

use http::StatusCode;
use ipnet::IpNet;

use super::values::Values;
use super::{
    Admin, Bus, CertificatePair, Config, Dedupe, Embedded, Endpoint, Kafka, Log, LogFormat, Nats, OwnRoutes, Reader,
    Routes, S3, Secret, Senders, Server, Spool, Tls, checks,
};

pub(super) fn config(values: &Values) -> Option<Config> {
    let (bus, admin) = (bus(values)?, admin(values)?);
    let endpoints = values.endpoints.iter().map(|name| endpoint(values, name)).collect::<Option<_>>()?;
    let dedupe = Dedupe { window: values.get("dedupe.window")?, entries: values.get("dedupe.entries")? };
    let (server, routes, log) = (server(values)?, routes(values)?, log(values)?);
    Some(Config { bus, server, endpoints, routes, s3: s3(values)?, dedupe, spool: spool(values)?, admin, log })
}

/// What whoever reads the bus needs of it.
pub(super) fn reader(values: &Values) -> Option<Reader> {
    let endpoints = values.endpoints.iter().map(|name| Some((name.clone(), own_routes(values, name)?)));
    Some(Reader { bus: bus(values)?, routes: routes(values)?, endpoints: endpoints.collect::<Option<_>>()? })
}

fn bus(values: &Values) -> Option<Bus> {
    Some(match values.bus()?.as_str() {
        "kafka" => Bus::Kafka(kafka(values)?),
        "nats" => Bus::Nats(nats(values)?),
        _ => Bus::Embedded(embedded(values)?),
    })
}

pub(super) fn admin(values: &Values) -> Option<Admin> {
    Some(Admin { listen: values.get("admin.listen")?, ready_needs_bus: values.get("admin.ready_needs_bus")? })
}

fn server(values: &Values) -> Option<Server> {
    Some(Server {
        listen: values.get("server.listen")?,
        senders: senders(values)?,
        max_body: values.get("server.max_body")?,
        publish_timeout: values.get("server.publish_timeout")?,
        deadline: values.get("server.deadline")?,
        max_connections: values.get("server.max_connections")?,
        max_header_bytes: values.get("server.max_header_bytes")?,
        max_headers: values.get("server.max_headers")?,
        bytes_in_flight: values.get("server.bytes_in_flight")?,
        header_timeout: values.get("server.header_timeout")?,
        idle_timeout: values.get("server.idle_timeout")?,
        min_body_rate: values.get("server.min_body_rate")?,
        drain_timeout: values.get("server.drain_timeout")?,
        tls: certificate_pair(values, "server"),
    })
}

fn senders(values: &Values) -> Option<Senders> {
    let trusted_proxies = networks(values, "server.trusted_proxies").unwrap_or_default();
    Some(Senders { allow: networks(values, "server.allow"), trusted_proxies })
}

fn networks(values: &Values, key: &str) -> Option<Vec<IpNet>> {
    let texts = values.get::<Vec<String>>(key)?;
    Some(texts.iter().filter_map(|text| checks::network(text).ok()).collect())
}

fn endpoint(values: &Values, name: &str) -> Option<Endpoint> {
    let key = |key: &str| format!("endpoints.{name}.{key}");
    Some(Endpoint {
        name: name.to_owned(),
        path: values.get(&key("path"))?,
        secrets: values.get(&key("secrets"))?,
        max_age: values.get(&key("max_age"))?,
        max_skew: values.get(&key("max_skew"))?,
        rejected_status: StatusCode::from_u16(values.get(&key("rejected_status"))?).ok()?,
        routes: own_routes(values, name)?,
    })
}

pub(super) fn own_routes(values: &Values, endpoint: &str) -> Option<OwnRoutes> {
    let table = format!("endpoints.{endpoint}.routes");
    Some(OwnRoutes {
        template: values.get(&format!("{table}.template")),
        unknown: values.topic(&format!("{table}.unknown")),
        dead_letter: values.get(&format!("{table}.dead_letter")),
        types: types(values, &format!("{table}.types"))?,
    })
}

pub(super) fn routes(values: &Values) -> Option<Routes> {
    Some(Routes {
        template: values.get("routes.template")?,
        unknown: values.topic("routes.unknown")?,
        dead_letter: values.get("routes.dead_letter")?,
        types: types(values, "routes.types")?,
    })
}

fn s3(values: &Values) -> Option<Option<S3>> {
    let (mode, hosts) = (values.get::<String>("s3.mode")?, values.get("s3.hosts")?);
    let allow_networks = networks(values, "s3.allow_networks").unwrap_or_default();
    let ca = values.get::<String>("s3.ca").map(PathBuf::from);
    Some((mode == "fetch").then_some(S3 { hosts, allow_networks, ca }))
}

fn types(values: &Values, table: &str) -> Option<BTreeMap<String, Option<String>>> {
    values.below(table).map(|(key, name)| Some((name.to_owned(), values.topic(key)?))).collect()
}

fn spool(values: &Values) -> Option<Option<Spool>> {
    let Some(dir) = values.get::<String>("spool.dir") else { return Some(None) };
    let (max_bytes, max_age) = (values.get("spool.max_bytes")?, values.get("spool.max_age")?);
    Some(Some(Spool { dir: PathBuf::from(dir), max_bytes, max_age, reserve: values.get("spool.reserve")? }))
}

fn kafka(values: &Values) -> Option<Kafka> {
    let username: Option<String> = values.get("kafka.username");
    // librdkafka's own default is GSSAPI, which this build does not have.
    let plain = username.is_some().then(|| "PLAIN".to_owned());
    let topic_config = values.below("kafka.topic_config").map(|(key, name)| Some((name.to_owned(), values.get(key)?)));
    Some(Kafka {
        brokers: values.get("kafka.brokers")?,
        password: values.get("kafka.password"),
        sasl_mechanism: values.get("kafka.sasl_mechanism").or(plain),
        username,
        tls: tls(values, "kafka"),
        create_topics: values.get("kafka.create_topics")?,
        partitions: values.get("kafka.partitions")?,
        replication_factor: values.get("kafka.replication_factor"),
        topic_config: topic_config.collect::<Option<_>>()?,
        properties: properties(values)?,
    })
}

pub(super) fn properties(values: &Values) -> Option<BTreeMap<String, Secret>> {
    let properties = values.below("kafka.properties");
    properties.map(|(key, name)| Some((name.to_owned(), values.get(key)?))).collect()
}

fn nats(values: &Values) -> Option<Nats> {
    let servers: Vec<String> = values.get("nats.servers")?;
    let with_scheme = |url: String| if url.contains("://") { url } else { format!("nats://{url}") };
    Some(Nats {
        servers: servers.into_iter().map(with_scheme).collect(),
        stream: values.get("nats.stream")?,
        create_stream: values.get("nats.create_stream")?,
        replicas: values.get("nats.replicas")?,
        max_age: values.get("nats.max_age")?,
        max_bytes: values.get("nats.max_bytes"),
        duplicate_window: values.get("nats.duplicate_window")?,
        object_store: values.get("nats.object_store"),
        domain: values.get("nats.domain"),
        inbox_prefix: values.get("nats.inbox_prefix"),
        credentials: values.get("nats.credentials"),
        nkey: values.get("nats.nkey"),
        user: values.get("nats.user"),
        password: values.get("nats.password"),
        token: values.get("nats.token"),
        tls: tls(values, "nats"),
    })
}

fn tls(values: &Values, bus: &str) -> Tls {
    let get = |name: &str| values.get::<String>(&format!("{bus}.tls.{name}"));
    Tls { ca: get("ca"), certificate: get("certificate").map(PathBuf::from), key: get("key").map(PathBuf::from) }
}

fn embedded(values: &Values) -> Option<Embedded> {
    Some(Embedded {
        dir: PathBuf::from(values.get::<String>("embedded.dir")?),
        listen: values.get("embedded.listen")?,
        token: values.get::<Secret>("embedded.token"),
        tls: certificate_pair(values, "embedded"),
        retention: values.get("embedded.retention")?,
        max_bytes: values.get("embedded.max_bytes")?,
        reserve: values.get("embedded.reserve")?,
    })
}

fn certificate_pair(values: &Values, section: &str) -> Option<CertificatePair> {
    let get = |name: &str| values.get::<String>(&format!("{section}.tls.{name}")).map(PathBuf::from);
    Some(CertificatePair { certificate: get("certificate")?, key: get("key")? })
}

fn log(values: &Values) -> Option<Log> {
    let format = match values.get::<String>("log.format")?.as_str() {
        "text" => LogFormat::Text,
        _ => LogFormat::Json,
    };
    Some(Log { format, filter: values.get("log.filter")? })
}
