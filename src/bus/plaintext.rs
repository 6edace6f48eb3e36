//! Logins that cross the network unencrypted. Comes in: the configured bus. Goes out: an advice where a login
//! goes without TLS to another host than this one. Asks nobody.

use std::net::IpAddr;

use super::{Finding, Level};
use crate::config;

/// What `check` says of a login that goes over plain text, and a WARN at the start.
pub(crate) fn advice(config: &config::Bus) -> Option<Finding> {
    match config {
        config::Bus::Kafka(config) => super::kafka::plaintext(config),
        config::Bus::Embedded(_) | config::Bus::Nats(_) => None,
    }
}

pub(super) fn finding(about: &str, says: &str, remedy: &str) -> Finding {
    Finding { about: about.to_owned(), level: Level::Advice, says: says.to_owned(), remedy: Some(remedy.to_owned()) }
}

/// Whether `address`, a host with or without a port, is surely on this machine.
pub(super) fn is_loopback(address: &str) -> bool {
    let host = match address.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        // More than one colon without brackets is an IPv6 address alone.
        None if address.matches(':').count() == 1 => address.split(':').next().unwrap_or(address),
        None => address,
    };
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_local = |ip: IpAddr| ip.to_canonical().is_loopback();
    name == "localhost" || name.ends_with(".localhost") || host.parse().is_ok_and(is_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_surely_this_machine_is_loopback() {
        for address in [
            "localhost",
            "LOCALHOST:9092",
            "localhost.:1",
            "a.localhost:1",
            "127.0.0.1:9092",
            "127.9.9.9",
            "[::1]:9092",
            "::1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(is_loopback(address), "{address}");
        }
        for address in [
            "kafka:9092",
            "localhost.example.org:1",
            "10.0.0.1:1",
            "0.0.0.0:1",
            "[::]:1",
            "[fe80::1]:1",
            "",
            "127.0.0.1.nip.io:1",
        ] {
            assert!(!is_loopback(address), "{address}");
        }
    }
}
