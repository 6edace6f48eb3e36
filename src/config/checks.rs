//! What a text has to look like: one check for each sort of name, with the words that describe it.
//! Looks at nothing but the text.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use super::units;

/// A test of a text and what it allows, in words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Check {
    /// For one text, with its article.
    pub(super) allowed: &'static str,
    /// The error reads on from "is …, which".
    pub(super) test: fn(&str) -> Result<(), &'static str>,
}

pub(super) const ANY: Check = Check { allowed: "a text that is not empty", test: not_empty };
pub(super) const PATH: Check = Check { allowed: "a path such as \"/terra\", without ? and #", test: path };
pub(super) const TOPIC: Check = Check {
    allowed: "a topic of letters, digits, \".\", \"_\" and \"-\", at most 249, and {endpoint} if you like",
    test: topic,
};
pub(super) const TEMPLATE: Check = Check {
    allowed: "a topic with {type} in it, such as \"terra.{type}\", and {endpoint} if you like",
    test: template,
};
pub(super) const BROKER: Check = Check { allowed: "an address such as \"localhost:9092\"", test: host_and_port };
pub(super) const SERVER: Check =
    Check { allowed: "a URL such as \"nats://localhost:4222\" or \"tls://…\"", test: server };
pub(super) const STREAM: Check = Check { allowed: "a name of letters, digits, \"_\" and \"-\"", test: token };
pub(super) const TOKEN: Check = STREAM;
pub(super) const SUBJECT: Check =
    Check { allowed: "a subject without wildcards, such as \"_INBOX_TERRA\"", test: subject };
pub(super) const FILTER: Check =
    Check { allowed: "a filter such as \"info\" or \"info,terra_bridge::relay=debug\"", test: filter };
pub(super) const NETWORK: Check =
    Check { allowed: "an IP address, or a network such as \"10.0.0.0/8\" or \"2001:db8::/32\"", test: is_network };
pub(super) const PROXY: Check =
    Check { allowed: "an IP address, or a network such as \"10.0.0.0/8\" that is not everybody", test: proxy };
pub(super) const HOSTS: Check =
    Check { allowed: "a host such as \"store.example.com\" or \"*.s3.*.amazonaws.com\"", test: hosts };

fn not_empty(text: &str) -> Result<(), &'static str> {
    if text.is_empty() { Err("is empty") } else { Ok(()) }
}

fn path(text: &str) -> Result<(), &'static str> {
    if !text.starts_with('/') {
        return Err("does not begin with /");
    }
    if text.contains(['?', '#']) {
        return Err("is more than a path");
    }
    let plain = text.bytes().all(|b| b.is_ascii_graphic());
    if plain { Ok(()) } else { Err("has a character that a path cannot have") }
}

fn topic(text: &str) -> Result<(), &'static str> {
    units::topic_name(&text.replace("{endpoint}", "x"))
}

fn template(text: &str) -> Result<(), &'static str> {
    if !text.contains("{type}") {
        return Err("has no {type} in it, so that all types would share a topic");
    }
    let filled = text.replace("{type}", "x").replace("{endpoint}", "x");
    if filled.contains(['{', '}']) {
        return Err("has something else than {type} and {endpoint} in braces");
    }
    units::topic_name(&filled)
}

fn host_and_port(text: &str) -> Result<(), &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or("has no port")?;
    port.parse::<u16>().ok().filter(|port| *port > 0).ok_or("has no port")?;
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().map(drop).map_err(|_| "has no valid host"),
        None if is_host(host) => Ok(()),
        None => Err("has no valid host"),
    }
}

fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
}

/// A host with or without a port, in which `*` stands for whole parts.
fn hosts(text: &str) -> Result<(), &'static str> {
    let bare = text.replace('*', "x");
    if text.contains("://") || text.contains('/') {
        return Err("is more than a host");
    }
    if text.split(['.', ':']).any(|part| part.contains('*') && part != "*") {
        return Err("has a * that is only a part of a part");
    }
    if bare.split('.').any(str::is_empty) {
        return Err("has an empty part between dots");
    }
    if is_host(&bare) { Ok(()) } else { host_and_port(&bare) }
}

fn server(text: &str) -> Result<(), &'static str> {
    if text.contains('@') {
        return Err("has credentials in it: they belong in nats.user and nats.password, or nats.token");
    }
    let (scheme, address) = text.split_once("://").unwrap_or(("nats", text));
    if !["nats", "tls"].contains(&scheme) {
        return Err("is neither nats:// nor tls://");
    }
    let address = address.strip_suffix('/').unwrap_or(address);
    if is_host(address) { Ok(()) } else { host_and_port(address) }
}

fn token(text: &str) -> Result<(), &'static str> {
    not_empty(text)?;
    let legal = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if legal { Ok(()) } else { Err("has a character that the name cannot have") }
}

fn subject(text: &str) -> Result<(), &'static str> {
    if text.split('.').any(str::is_empty) {
        return Err("has an empty part between dots");
    }
    let legal = text.bytes().all(|b| b.is_ascii_graphic() && !b"*>".contains(&b));
    if legal { Ok(()) } else { Err("has a character that the name cannot have") }
}

fn filter(text: &str) -> Result<(), &'static str> {
    not_empty(text)?;
    let parsed = tracing_subscriber::EnvFilter::builder().parse(text);
    parsed.map(drop).map_err(|_| "is not a filter")
}

/// An address stands for the network of itself alone. IPv4 in IPv6's clothes (`::ffff:10.0.0.0/104`)
/// is IPv4, as it is where addresses are judged.
pub(super) fn network(text: &str) -> Result<IpNet, &'static str> {
    const MAPPED_BITS: u8 = 96;
    let network = match text.split_once('/') {
        None => text.parse::<IpAddr>().map(IpNet::from).map_err(|_| "is not an IP address")?,
        Some((address, bits)) => {
            let address = address.parse::<IpAddr>().map_err(|_| "does not begin with an IP address")?;
            let bits = bits.parse::<u8>().map_err(|_| "has no number of bits after its slash")?;
            IpNet::new(address, bits).map_err(|_| "has more bits after its slash than the address has")?
        }
    };
    if network.addr() != network.network() {
        return Err("is an address within a network: write the network's first address, or the address alone");
    }
    match (network.addr().to_canonical(), network.prefix_len().checked_sub(MAPPED_BITS)) {
        (IpAddr::V4(address), Some(bits)) if network.addr().is_ipv6() => {
            Ipv4Net::new(address, bits).map(IpNet::from).map_err(|_| "is not a network")
        }
        _ => Ok(network),
    }
}

fn is_network(text: &str) -> Result<(), &'static str> {
    network(text).map(drop)
}

fn proxy(text: &str) -> Result<(), &'static str> {
    match network(text)?.prefix_len() {
        0 => Err("is everybody, so that anybody could claim any address: name the proxies"),
        _ => Ok(()),
    }
}

/// The name of an endpoint: it stands in metrics, topics and the CloudEvents source.
pub(super) fn endpoint_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b))
}

/// A type, or the beginning of one and a final `*`.
pub(super) fn type_pattern(pattern: &str) -> Result<(), &'static str> {
    not_empty(pattern)?;
    if pattern.strip_suffix('*').unwrap_or(pattern).contains('*') {
        return Err("has a * before its end");
    }
    let legal = pattern.chars().all(|c| !c.is_whitespace() && !c.is_control());
    if legal { Ok(()) } else { Err("has a blank or a control character in it") }
}
