//! Whether a sender's address is allowed, by the peer address and `X-Forwarded-For`. It adds to the signature check
//! and never replaces it.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

use crate::config::Senders;

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// Whether the sender is allowed. `peer` is the remote address, `None` if unknown.
pub fn is_allowed(senders: &Senders, peer: Option<IpAddr>, headers: &HeaderMap) -> bool {
    let Some(allow) = &senders.allow else { return true };
    peer.and_then(|peer| sender(&senders.trusted_proxies, peer, headers)).is_some_and(|from| within(allow, from))
}

/// The address nearest to the bridge that is not a trusted proxy; if all are proxies, the farthest. `None` if a
/// trusted proxy passes on something that is not an address: anything beyond it may be made up.
fn sender(proxies: &[IpNet], peer: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
    let mut sender = peer.to_canonical();
    for line in headers.get_all(X_FORWARDED_FOR).iter().rev() {
        for hop in line.as_bytes().rsplit(|byte| *byte == b',') {
            if !within(proxies, sender) {
                return Some(sender);
            }
            sender = address(hop)?;
        }
    }
    Some(sender)
}

/// With or without a port, with or without brackets.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim_matches([' ', '\t']);
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).filter(|text| text.contains(':'));
    let address = bare.unwrap_or(text).parse::<IpAddr>().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))?;
    Some(address.to_canonical())
}

fn within(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const PROXIES: [&str; 3] = ["10.0.0.0/8", "127.0.0.1/32", "2001:db8:1::/48"];

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(line).unwrap());
        }
        headers
    }

    #[test]
    fn x_forwarded_for_counts_from_the_right_and_as_far_as_proxies_are_trusted() {
        /// The peer, the lines of the header, and the sender.
        type Case = (&'static str, &'static [&'static [u8]], Option<&'static str>);
        let table: &[Case] = &[
            // An untrusted peer.
            ("192.0.2.1", &[], Some("192.0.2.1")),
            ("192.0.2.1", &[b"198.51.100.1"], Some("192.0.2.1")),
            ("192.0.2.1", &[b"nonsense"], Some("192.0.2.1")),
            ("::ffff:192.0.2.1", &[], Some("192.0.2.1")),
            // A trusted proxy.
            ("10.0.0.1", &[], Some("10.0.0.1")),
            ("10.0.0.1", &[b"198.51.100.1"], Some("198.51.100.1")),
            ("::ffff:10.0.0.1", &[b"198.51.100.1"], Some("198.51.100.1")),
            ("2001:db8:1::9", &[b"2001:db8:2::1"], Some("2001:db8:2::1")),
            ("10.0.0.1", &[b"::ffff:198.51.100.1"], Some("198.51.100.1")),
            // Anything to the left of the first address that is not a proxy is that sender's own claim.
            ("10.0.0.1", &[b"203.0.113.9, 198.51.100.1"], Some("198.51.100.1")),
            ("10.0.0.1", &[b"10.0.0.3, 198.51.100.1"], Some("198.51.100.1")),
            ("10.0.0.1", &[b"nonsense, 198.51.100.1"], Some("198.51.100.1")),
            // Several proxies, on one line and on several.
            ("10.0.0.1", &[b"203.0.113.9, 198.51.100.1, 127.0.0.1,10.9.9.9"], Some("198.51.100.1")),
            ("10.0.0.1", &[b"203.0.113.9", b"198.51.100.1", b"10.9.9.9"], Some("198.51.100.1")),
            ("10.0.0.1", &[b"203.0.113.9, 198.51.100.1", b"10.9.9.9,\t127.0.0.1 "], Some("198.51.100.1")),
            ("10.0.0.1", &[b"10.0.0.4, 10.0.0.3", b"10.0.0.2"], Some("10.0.0.4")),
            // Ports and brackets.
            ("10.0.0.1", &[b"198.51.100.1:4567"], Some("198.51.100.1")),
            ("10.0.0.1", &[b"[2001:db8:2::1]:80"], Some("2001:db8:2::1")),
            ("10.0.0.1", &[b"[2001:db8:2::1]"], Some("2001:db8:2::1")),
            ("10.0.0.1", &[b"198.51.100.1, [2001:db8:1::2]:80"], Some("198.51.100.1")),
            ("10.0.0.1", &[b"[::ffff:198.51.100.1]:80"], Some("198.51.100.1")),
            // Garbage where a trusted proxy should have put an address.
            ("10.0.0.1", &[b""], None),
            ("10.0.0.1", &[b"198.51.100.1,"], None),
            ("10.0.0.1", &[b"198.51.100.1, unknown"], None),
            ("10.0.0.1", &[b"198.51.100.1, nonsense, 10.0.0.2"], None),
            ("10.0.0.1", &[b"198.51.100.1", b"\xff"], None),
            ("10.0.0.1", &[b"198.51.100.1:"], None),
            ("10.0.0.1", &[b"198.51.100.1:99999"], None),
            ("10.0.0.1", &[b"[198.51.100.1]"], None),
            ("10.0.0.1", &[b"[2001:db8:2::1"], None),
            ("10.0.0.1", &[b"198.51.100.01"], None),
            ("10.0.0.1", &[b"198.51.100.1 198.51.100.2"], None),
        ];
        for (peer, lines, expected) in table {
            let expected = expected.map(|address| address.parse::<IpAddr>().unwrap());
            let found = sender(&networks(&PROXIES), peer.parse().unwrap(), &headers(lines));
            assert_eq!(
                found,
                expected,
                "{peer} {:?}",
                lines.iter().map(|line| line.escape_ascii().to_string()).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn an_unknown_peer_is_allowed_only_if_everybody_is() {
        let peer = |text: &str| Some(text.parse().unwrap());
        let everybody = Senders { allow: None, trusted_proxies: networks(&PROXIES) };
        let some = Senders { allow: Some(networks(&["198.51.100.0/24", "2001:db8::/32"])), ..everybody.clone() };
        let garbage = headers(&[b"nonsense"]);
        assert!(is_allowed(&everybody, None, &garbage));
        assert!(is_allowed(&everybody, peer("10.0.0.1"), &garbage));
        assert!(!is_allowed(&some, None, &HeaderMap::new()));
        assert!(!is_allowed(&some, peer("10.0.0.1"), &garbage));
        assert!(!is_allowed(&some, peer("10.0.0.1"), &HeaderMap::new()), "to be trusted is not to be allowed");
        assert!(is_allowed(&some, peer("10.0.0.1"), &headers(&[b"198.51.100.7"])));
        assert!(is_allowed(&some, peer("::ffff:198.51.100.7"), &HeaderMap::new()));
        assert!(is_allowed(&some, peer("2001:db8::7"), &HeaderMap::new()));
        assert!(!is_allowed(&some, peer("192.0.2.1"), &headers(&[b"198.51.100.7"])), "its own claim");
    }
}
