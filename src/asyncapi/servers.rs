//! Where the bus is, and how the bridge itself logs in. Consumers have logins of their own.

use serde_json::{Value, json};

use super::json::reference;
use crate::config;
use crate::server::{reachable, scheme};

/// The servers, and the security schemes that they refer to.
pub(super) fn servers(bus: &config::Bus) -> (Value, Value) {
    match bus {
        config::Bus::Kafka(config) => of_kafka(config),
        config::Bus::Nats(config) => of_nats(config),
        config::Bus::Embedded(config) => of_embedded(config),
    }
}

/// The key of the only security scheme.
const LOGIN: &str = "login";

fn of_kafka(config: &config::Kafka) -> (Value, Value) {
    let protocol = config.protocol();
    let mechanism = config.sasl_mechanism.as_deref().filter(|_| protocol.starts_with("sasl"));
    let login = match (mechanism, &config.oauth) {
        (Some("PLAIN"), _) => Some(login("plain", "SASL PLAIN")),
        (Some("SCRAM-SHA-256"), _) => Some(login("scramSha256", "SASL SCRAM-SHA-256")),
        (Some("SCRAM-SHA-512"), _) => Some(login("scramSha512", "SASL SCRAM-SHA-512")),
        (Some("OAUTHBEARER"), Some(config::OAuth { token_url: url, .. })) => {
            let mut tokens = login("oauth2", "tokens, SASL OAUTHBEARER");
            tokens["flows"] = json!({ "clientCredentials": { "tokenUrl": url, "availableScopes": {} } });
            Some(tokens)
        }
        _ => None,
    };
    let protocol = if protocol.ends_with("ssl") { "kafka-secure" } else { "kafka" };
    let server = json!({ "protocol": protocol, "description": "A broker to start from." });
    all("kafka", &config.brokers, server, login.or_else(|| certificate(&config.tls)))
}

fn of_nats(config: &config::Nats) -> (Value, Value) {
    let login = if config.credentials.is_some() || config.nkey.is_some() {
        Some(login("asymmetricEncryption", "an nkey, alone or in a .creds file"))
    } else if config.user.is_some() {
        Some(login("userPassword", "user and password"))
    } else if config.token.is_some() {
        let mut token = login("apiKey", "a token");
        token["in"] = "password".into();
        Some(token)
    } else {
        certificate(&config.tls)
    };
    let domain = config.domain.as_ref().map(|domain| format!(" in the domain `{domain}`")).unwrap_or_default();
    let tls = if config.wants_tls() { ", over TLS" } else { "" };
    let description = format!(
        "JetStream{domain}{tls}. Every topic is a subject of the stream `{}`: filter a consumer by it.",
        config.stream
    );
    let hosts = config.servers.iter().map(|server| {
        let (_, host) = server.split_once("://").unwrap_or(("", server));
        host.trim_end_matches('/').to_owned()
    });
    let server = json!({ "protocol": "nats", "description": description });
    all("nats", &hosts.collect::<Vec<_>>(), server, login)
}

fn of_embedded(config: &config::Embedded) -> (Value, Value) {
    let description = "\
The embedded log, read with GET. Each line is a JSON object: `topic`, `key`, `partition`, `offset`, `time`, `headers`, \
and `payload`, or `payload_base64` where that is not UTF-8. With `Accept: text/event-stream` the same comes as \
server-sent events. `/<offset>` after a topic's address is one payload, with its headers as HTTP headers.";
    let token = config.token.as_ref().map(|_| json!({ "type": "http", "scheme": "bearer" }));
    let server = json!({ "protocol": scheme(config.tls.as_ref()), "description": description });
    all("embedded", &[reachable(config.listen).to_string()], server, token)
}

fn login(kind: &str, what: &str) -> Value {
    let description = format!("The bridge logs in by {what}. A consumer needs a login of its own that may read.");
    json!({ "type": kind, "description": description })
}

fn certificate(tls: &config::Tls) -> Option<Value> {
    tls.certificate.as_ref().map(|_| login("X509", "its certificate"))
}

/// A server for each host, which otherwise are the same, and the scheme that they share.
fn all(name: &str, hosts: &[String], server: Value, login: Option<Value>) -> (Value, Value) {
    let servers = hosts.iter().enumerate().map(|(at, host)| {
        let mut server = server.clone();
        server["host"] = host.as_str().into();
        if login.is_some() {
            server["security"] = json!([reference("components/securitySchemes", LOGIN)]);
        }
        (if hosts.len() > 1 { format!("{name}-{}", at + 1) } else { name.to_owned() }, server)
    });
    let servers = servers.collect();
    (servers, login.into_iter().map(|login| (LOGIN.to_owned(), login)).collect())
}
