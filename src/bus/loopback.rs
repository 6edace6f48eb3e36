//! Which servers are on this machine: a login to any other must not go in plain text.

use std::net::IpAddr;

/// Whether data sent to `server`, a URL or a host with or without a port, certainly stays on this machine.
pub(super) fn is_loopback(server: &str) -> bool {
    let address = server.split_once("://").map_or(server, |(_, address)| address);
    let address = address.split('/').next().unwrap_or(address);
    let host = match address.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        // More than one colon without brackets means a bare IPv6 address.
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
    fn only_what_is_certainly_this_machine_is_loopback() {
        for server in [
            "localhost",
            "LOCALHOST:9092",
            "localhost.:1",
            "a.localhost:1",
            "127.0.0.1:9092",
            "127.9.9.9",
            "[::1]:9092",
            "::1",
            "[::ffff:127.0.0.1]:1",
            "nats://localhost:4222",
            "tls://[::1]:4222/",
        ] {
            assert!(is_loopback(server), "{server}");
        }
        for server in [
            "kafka:9092",
            "localhost.example.org:1",
            "10.0.0.1:1",
            "0.0.0.0:1",
            "[::]:1",
            "[fe80::1]:1",
            "",
            "127.0.0.1.nip.io:1",
            "nats://nats:4222",
            "nats://[2001:db8::1]:4222",
        ] {
            assert!(!is_loopback(server), "{server}");
        }
    }
}
