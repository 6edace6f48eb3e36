//! Checks that a request comes from this machine, for a listener that trusts this machine.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::HOST;
use http::uri::Authority;

/// Whether `Host` names this machine. A web page can make its own name resolve to 127.0.0.1 (DNS rebinding), but it
/// cannot make the browser send any other `Host` than that name.
pub(crate) fn loopback_host(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Some(authority) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(is_loopback)
}

/// Whether only this machine can reach the address, also when written as IPv6.
pub(crate) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        loopback_host(&headers)
    }

    #[test]
    fn only_names_of_this_machine_pass() {
        for host in
            ["localhost", "LOCALHOST:80", "127.0.0.1", "127.8.9.1:8082", "[::1]", "[::1]:8082", "[::ffff:127.0.0.1]:1"]
        {
            assert!(allowed(host), "{host}");
        }
        for host in [
            "example.com",
            "localhost.example.com",
            "10.0.0.1",
            "127.0.0.1.nip.io",
            "a@localhost",
            "",
            "[::2]",
            "[::ffff:10.0.0.1]",
        ] {
            assert!(!allowed(host), "{host}");
        }
        assert!(!loopback_host(&HeaderMap::new()));
    }
}
