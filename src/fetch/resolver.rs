//! Which addresses a link may lead to: checked after DNS, on the very address that is connected to, so that no name
//! leads into a private network.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::Name;
use ipnet::IpNet;
use tokio::sync::Semaphore;
use tower_service::Service;

/// The most DNS lookups at once. While DNS is down, each one blocks a thread of the shared pool for ten seconds or
/// more, even after its caller has gone. Further lookups wait for one to end.
const LOOKUPS: usize = 32;

/// Networks that are not the public internet, by IANA's registries of special-purpose addresses (RFC 6890), and
/// multicast.
const INNER: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/23",
    "2001:db8::/32",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "::ffff:0:0:0/96",
];

static INNER_NETWORKS: LazyLock<Vec<IpNet>> =
    LazyLock::new(|| INNER.iter().map(|network| network.parse().expect("is a network")).collect());

/// Every address of a name is in an inner network.
#[derive(Debug, thiserror::Error)]
#[error("leads into an inner network")]
pub(super) struct NotAllowed;

/// Resolves names to allowed addresses only. Cloning shares the allow list.
#[derive(Clone)]
pub(super) struct PublicResolver {
    lookups: Arc<Semaphore>,
    /// Inner networks that a link may lead to all the same.
    allowed: Arc<[IpNet]>,
}

impl PublicResolver {
    pub(super) fn new(allowed: &[IpNet]) -> Self {
        Self { lookups: Arc::new(Semaphore::new(LOOKUPS)), allowed: allowed.into() }
    }

    pub(super) fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let within = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        within(&self.allowed) || (!within(&INNER_NETWORKS) && carried(address).is_none_or(|inner| self.allows(inner)))
    }
}

/// The IPv4 address embedded in an IPv6 one by a translator or a tunnel: NAT64 (RFC 6052) and 6to4 (RFC 3056).
fn carried(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else { return None };
    let octets = address.octets();
    let four = |at: usize| IpAddr::from([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
    let nat64 = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0).octets();
    if octets[..12] == nat64[..12] {
        return Some(four(12));
    }
    (address.segments()[0] == 0x2002).then(|| four(2))
}

impl Service<Name> for PublicResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = self.clone();
        Box::pin(async move {
            let place = resolver.lookups.clone().acquire_owned().await?;
            let looking_up = tokio::task::spawn_blocking(move || {
                let _until_it_ends = place;
                (name.as_str(), 0).to_socket_addrs()
            });
            let addresses: Vec<_> = looking_up.await??.filter(|address| resolver.allows(address.ip())).collect();
            if addresses.is_empty() { Err(NotAllowed.into()) } else { Ok(addresses.into_iter()) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_and_allowed_addresses_pass() {
        let resolver = PublicResolver::new(&["10.1.0.0/16".parse().unwrap(), "fd00::7/128".parse().unwrap()]);
        for address in [
            "52.95.150.1",
            "3.5.244.1",
            "2a05:d07a:c000::1",
            "2600:1f18::1",
            "10.1.2.3",
            "fd00::7",
            "::ffff:10.1.2.3",
            "64:ff9b::3405:f401",
        ] {
            assert!(resolver.allows(address.parse().unwrap()), "{address}");
        }
        for address in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2001::1",
            "fc00::1",
            "fd00::8",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!resolver.allows(address.parse().unwrap()), "{address}");
        }
    }

    #[tokio::test]
    async fn lookups_over_the_limit_wait_and_abandoned_ones_keep_their_slot_to_the_end() {
        let mut resolver = PublicResolver::new(&["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
        let taken = resolver.lookups.clone().acquire_many_owned(LOOKUPS as u32).await.unwrap();
        let mut waiting = resolver.call("localhost".parse().unwrap());
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(taken);
        assert!(waiting.await.is_ok());
        assert_eq!(resolver.lookups.available_permits(), LOOKUPS);
    }

    #[tokio::test]
    async fn a_name_of_this_machine_leads_nowhere_unless_allowed() {
        let name = || "localhost".parse().unwrap();
        let refused = PublicResolver::new(&[]).call(name()).await.unwrap_err();
        assert!(refused.is::<NotAllowed>(), "{refused}");
        let loopback = ["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        assert!(PublicResolver::new(&loopback).call(name()).await.unwrap().next().is_some());
    }
}
