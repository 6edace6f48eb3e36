//! Passwords and tokens that would go over the network in plain text: what `check` advises and the start warns of.
//! Knows which hosts are this machine.

use std::net::IpAddr;

use super::{Finding, Level};
use crate::config;

/// A login that others on the way can read; `None` where there is none, or TLS, or the bus is on this machine.
pub(crate) fn exposed_login(config: &config::Bus) -> Option<Finding> {
    match config {
        config::Bus::Nats(nats) => of_nats(nats),
        config::Bus::Kafka(_) | config::Bus::Embedded(_) => None,
    }
}

fn of_nats(nats: &config::Nats) -> Option<Finding> {
    // The other ways to log in only sign what the server makes up.
    let secret = match (&nats.password, &nats.token) {
        (Some(_), _) => "nats.password",
        (None, Some(_)) => "nats.token",
        (None, None) => return None,
    };
    let beyond = |server: &String| !is_loopback(host(server));
    if nats.wants_tls() || !nats.servers.iter().any(beyond) {
        return None;
    }
    Some(Finding {
        about: secret.into(),
        level: Level::Advice,
        says: "goes over the network in plain text, and every event with it, unless the servers themselves demand TLS"
            .into(),
        remedy: Some("write tls:// in nats.servers, or set nats.tls.ca".into()),
    })
}

/// Of a URL or an address with or without a port.
fn host(url: &str) -> &str {
    let address = url.split_once("://").map_or(url, |(_, address)| address);
    let address = address.split('/').next().unwrap_or(address);
    if let Some((host, _)) = address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return host;
    }
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

/// Whether what goes to this host stays on this machine.
fn is_loopback(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for ours in ["nats://localhost:4222", "127.0.0.1:4222", "tls://[::1]:4222/", "nats://127.3.2.1", "A.Localhost."]
        {
            assert!(is_loopback(host(ours)), "{ours}");
        }
        for other in
            ["nats://nats:4222", "10.0.0.1:4222", "nats://[2001:db8::1]:4222", "localhost.example.com", "0.0.0.0"]
        {
            assert!(!is_loopback(host(other)), "{other}");
        }
    }
}
