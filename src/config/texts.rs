//! The text forms of values: names, addresses and patterns. Looks at nothing but the text.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use http::Uri;
use ipnet::{IpNet, Ipv4Net};

/// A description of the allowed texts, and the conversion of such a text. An error continues after "is …, which".
pub(super) type Form<T> = (&'static str, fn(&str) -> Result<T, &'static str>);

pub(super) const NOT_EMPTY: Form<()> = ("a text that is not empty", not_empty);
pub(super) const PATH: Form<()> = ("a path such as \"/terra\", without ? and #", path);
pub(super) const TOPIC: Form<()> =
    ("a topic of letters, digits, \".\", \"_\" and \"-\", at most 249, and {endpoint} if you like", topic);
pub(super) const TEMPLATE: Form<()> =
    ("a topic with {type} in it, such as \"terra.{type}\", and {endpoint} if you like", template);
pub(super) const BROKER: Form<()> = ("an address such as \"localhost:9092\"", host_and_port);
pub(super) const SASL_MECHANISM: Form<()> =
    ("\"PLAIN\" or \"SCRAM-SHA-256\" or \"SCRAM-SHA-512\" or \"OAUTHBEARER\"", sasl_mechanism);
pub(super) const TOKEN_URL: Form<()> = ("a URL such as \"https://login.example.com/oauth2/token\"", token_url);
pub(super) const COLLECTOR: Form<()> = ("a URL such as \"http://localhost:4318\"", collector);
pub(super) const CLIENT_ID: Form<()> = ("a text that is not empty, without a colon", client_id);
pub(super) const SASL_EXTENSION: Form<()> =
    ("a name of letters and its value, such as \"logicalCluster=lkc-abc123\"", sasl_extension);
pub(super) const NAME: Form<()> = ("a name of letters, digits, \"_\" and \"-\"", name);
pub(super) const SUBJECT: Form<()> = ("a subject without wildcards, such as \"_INBOX_TERRA\"", subject);
pub(super) const FILTER: Form<()> = ("a filter such as \"info\" or \"info,terra_bridge::relay=debug\"", filter);
pub(super) const HOST: Form<()> = ("a host such as \"store.example.com\" or \"*.s3.*.amazonaws.com\"", host_pattern);
/// With an optional scheme.
pub(super) const NATS_SERVER: Form<String> = ("a URL such as \"nats://localhost:4222\" or \"tls://…\"", nats_server);
pub(super) const ADDRESS: Form<SocketAddr> = ("an IP address and a port, such as \"127.0.0.1:8080\"", |text| {
    text.parse().map_err(|_| "is not an IP address and a port")
});
pub(super) const DIRECTORY: Form<PathBuf> = ("a directory", |text| not_empty(text).map(|()| text.into()));
pub(super) const NETWORK: Form<IpNet> =
    ("an IP address, or a network such as \"10.0.0.0/8\" or \"2001:db8::/32\"", network);
pub(super) const PROXY: Form<IpNet> =
    ("an IP address, or a network such as \"10.0.0.0/8\" that is not everybody", proxy);

/// Kafka's limit, the tightest of all buses.
const TOPIC_NAME_LIMIT: usize = 249;

/// `Ok` if Kafka, NATS and the embedded log all accept the name, as one topic and not as a pattern.
pub fn topic_name(name: &str) -> Result<(), &'static str> {
    demand(!name.is_empty(), "is empty")?;
    demand(name.len() <= TOPIC_NAME_LIMIT, "is longer than 249 characters")?;
    let legal = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    demand(legal, "has a character that not every bus takes")?;
    demand(!name.split('.').any(str::is_empty), "has an empty part between dots")
}

fn demand(holds: bool, otherwise: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(otherwise) }
}

pub(super) fn not_empty(text: &str) -> Result<(), &'static str> {
    demand(!text.is_empty(), "is empty")
}

fn path(text: &str) -> Result<(), &'static str> {
    demand(text.starts_with('/'), "does not begin with /")?;
    demand(!text.contains(['?', '#']), "is more than a path")?;
    demand(text.bytes().all(|b| b.is_ascii_graphic()), "has a character that a path cannot have")
}

fn topic(text: &str) -> Result<(), &'static str> {
    topic_name(&text.replace("{endpoint}", "x"))
}

fn template(text: &str) -> Result<(), &'static str> {
    demand(text.contains("{type}"), "has no {type} in it, so that all types would share a topic")?;
    let filled = text.replace("{type}", "x").replace("{endpoint}", "x");
    demand(!filled.contains(['{', '}']), "has something else than {type} and {endpoint} in braces")?;
    topic_name(&filled)
}

fn host_and_port(text: &str) -> Result<(), &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or("has no port")?;
    demand(port.parse().is_ok_and(|port: u16| port > 0), "has no port")?;
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_valid = address.map_or_else(|| is_host(host), |address| address.parse::<Ipv6Addr>().is_ok());
    demand(is_valid, "has no valid host")
}

fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
}

/// A host with or without a port, in which `*` stands for whole labels.
fn host_pattern(text: &str) -> Result<(), &'static str> {
    let bare = text.replace('*', "x");
    demand(!text.contains('/'), "is more than a host")?;
    let whole = text.split(['.', ':']).all(|part| !part.contains('*') || part == "*");
    demand(whole, "has a * that is only a part of a part")?;
    demand(!bare.split('.').any(str::is_empty), "has an empty part between dots")?;
    if is_host(&bare) { Ok(()) } else { host_and_port(&bare) }
}

fn nats_server(text: &str) -> Result<String, &'static str> {
    let login = "has credentials in it: they belong in nats.user and nats.password, or nats.token";
    demand(!text.contains('@'), login)?;
    let (scheme, address) = text.split_once("://").unwrap_or(("nats", text));
    demand(["nats", "tls"].contains(&scheme), "is neither nats:// nor tls://")?;
    let bare = address.strip_suffix('/').unwrap_or(address);
    if !is_host(bare) {
        host_and_port(bare)?;
    }
    Ok(format!("{scheme}://{address}"))
}

fn sasl_mechanism(text: &str) -> Result<(), &'static str> {
    let words = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"];
    demand(words.contains(&text), "is none of the words allowed")
}

/// Whoever reads the request has the client's secret.
fn token_url(text: &str) -> Result<(), &'static str> {
    let login = "has credentials in it: they belong in kafka.oauth.client_id and kafka.oauth.client_secret";
    demand(!text.contains('@'), login)?;
    let url: Uri = text.parse().map_err(|_| "is not a URL")?;
    let is_safe = match url.scheme_str() {
        Some("https") => true,
        Some("http") => url.host().is_some_and(is_loopback),
        _ => return Err("is not https://"),
    };
    demand(is_safe, "is not https://: whoever listens would read the client's secret")
}

fn collector(text: &str) -> Result<(), &'static str> {
    demand(!text.contains('@'), "has credentials in it: they belong in otlp.headers")?;
    let url: Uri = text.parse().map_err(|_| "is not a URL")?;
    demand(matches!(url.scheme_str(), Some("http" | "https")), "is neither http:// nor https://")?;
    demand(!text.contains(['?', '#']), "has more than a path after its host")?;
    demand(!url.path().ends_with("/v1/traces"), "ends in /v1/traces, which the bridge adds")
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// In a login by HTTP the name ends at the first colon.
fn client_id(text: &str) -> Result<(), &'static str> {
    not_empty(text)?;
    demand(!text.contains(':'), "has a colon in it")
}

/// By RFC 7628. Several are sent to librdkafka with commas between them.
fn sasl_extension(text: &str) -> Result<(), &'static str> {
    let (name, value) = text.split_once('=').ok_or("has no = in it")?;
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphabetic()) && name != "auth";
    demand(is_name, "has a name that is not of letters, or the token's own")?;
    let is_value = !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic() && !b",\\".contains(&b));
    demand(is_value, "has no value, or one with a character that it cannot have")
}

fn name(text: &str) -> Result<(), &'static str> {
    not_empty(text)?;
    let legal = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    demand(legal, "has a character that the name cannot have")
}

fn subject(text: &str) -> Result<(), &'static str> {
    demand(!text.split('.').any(str::is_empty), "has an empty part between dots")?;
    let legal = text.bytes().all(|b| b.is_ascii_graphic() && !b"*>".contains(&b));
    demand(legal, "has a character that the name cannot have")
}

fn filter(text: &str) -> Result<(), &'static str> {
    not_empty(text)?;
    demand(tracing_subscriber::EnvFilter::builder().parse(text).is_ok(), "is not a filter")
}

/// An address stands for a network of its own. An IPv4-mapped IPv6 network (`::ffff:10.0.0.0/104`) becomes IPv4, as
/// in the comparison of addresses.
fn network(text: &str) -> Result<IpNet, &'static str> {
    const MAPPED_BITS: u8 = 96;
    let network = match text.split_once('/') {
        None => text.parse::<IpAddr>().map(IpNet::from).map_err(|_| "is not an IP address")?,
        Some((address, bits)) => {
            let address = address.parse::<IpAddr>().map_err(|_| "does not begin with an IP address")?;
            let bits = bits.parse::<u8>().map_err(|_| "has no number of bits after its slash")?;
            IpNet::new(address, bits).map_err(|_| "has more bits after its slash than the address has")?
        }
    };
    let first = "is an address within a network: write the network's first address, or the address alone";
    demand(network.addr() == network.network(), first)?;
    match (network.addr().to_canonical(), network.prefix_len().checked_sub(MAPPED_BITS)) {
        (IpAddr::V4(address), Some(bits)) if network.addr().is_ipv6() => {
            Ipv4Net::new(address, bits).map(IpNet::from).map_err(|_| "is not a network")
        }
        _ => Ok(network),
    }
}

fn proxy(text: &str) -> Result<IpNet, &'static str> {
    let proxies = network(text)?;
    demand(proxies.prefix_len() > 0, "is everybody, so that anybody could claim any address: name the proxies")?;
    Ok(proxies)
}

/// A valid endpoint name, which appears in metrics, topics and the CloudEvents source.
pub(super) fn is_endpoint_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b))
}

/// A type, or a prefix with a final `*`.
pub(super) fn type_pattern(pattern: &str) -> Result<(), &'static str> {
    not_empty(pattern)?;
    demand(!pattern.strip_suffix('*').unwrap_or(pattern).contains('*'), "has a * before its end")?;
    let legal = pattern.chars().all(|c| !c.is_whitespace() && !c.is_control());
    demand(legal, "has a blank or a control character in it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_legal_on_every_bus() {
        for name in ["terra.daily", "a", "A-b_c.9"] {
            assert_eq!(topic_name(name), Ok(()), "{name}");
        }
        for name in ["", ".", "..", ".a", "a.", "a..b", "a b", "a*", ">", "$JS.API", "ü", &"a".repeat(250)] {
            assert!(topic_name(name).is_err(), "{name}");
        }
    }
}
