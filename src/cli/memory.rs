//! The most memory that a configuration lets the bridge take, and the limit of the cgroup that it runs in. The only
//! place that knows the sum; the table in `deploy/README.md` shows it.

use std::fmt;
use std::path::Path;

use crate::bus::Finding;
use crate::config::{Bus, Config};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

const ITSELF: u64 = 80 * MIB;
/// Without a client that follows links.
const ITSELF_FORWARDING: u64 = 48 * MIB;
const CONNECTION: u64 = 16 * KIB;
const HTTPS_CONNECTION: u64 = 56 * KIB;
const HEADER: u64 = 160;
/// Of a body, with the embedded log.
const COPIES: u64 = 2;
/// Of a body, with a broker's client.
const COPIES_WITH_CLIENT: u64 = 3;
const KEPT_DELIVERY: u64 = 58;
const SPOOL: u64 = 64 * MIB;
const READERS: u64 = 192 * MIB;

/// A sum, each part with what it is for. Displayed as lines, largest unit MiB, which is the unit of container limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bound {
    parts: Vec<(u64, String)>,
}

impl Bound {
    pub(super) fn of(config: &Config) -> Self {
        let (server, entries) = (&config.server, config.dedupe.entries as u64);
        let itself = if config.s3.is_some() { ITSELF } else { ITSELF_FORWARDING };
        let connection = if server.tls.is_some() { HTTPS_CONNECTION } else { CONNECTION };
        let heads = 2 * server.max_header_bytes as u64 + HEADER * server.max_headers as u64;
        let copies = if matches!(config.bus, Bus::Embedded(_)) { COPIES } else { COPIES_WITH_CLIENT };
        let connections = server.max_connections as u64;
        let mut parts = vec![
            (itself, "the bridge itself".to_owned()),
            (
                connections * (heads + connection),
                format!(
                    "server.max_connections: {connections} × (2 × max_header_bytes + {HEADER} B × max_headers + {} KiB)",
                    connection / KIB
                ),
            ),
            (copies * server.bytes_in_flight as u64, format!("bodies: {copies} × server.bytes_in_flight")),
            (KEPT_DELIVERY * entries, format!("deduplication: {KEPT_DELIVERY} B × dedupe.entries")),
        ];
        if config.spool.is_some() {
            parts.push((SPOOL, "the spool, while it drains".to_owned()));
        }
        if matches!(config.bus, Bus::Embedded(_)) {
            parts.push((READERS, "all readers of the embedded log together".to_owned()));
        }
        Self { parts }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.parts.iter().map(|(bytes, _)| bytes).sum()
    }

    /// Advice if `limit`, in bytes, is lower.
    pub(super) fn above(&self, limit: Option<u64>) -> Option<Finding> {
        let (bound, limit) = (self.bytes(), limit?);
        (limit < bound).then(|| {
            Finding::advice(
                "memory",
                format!("is limited to {} here, and the configuration lets the bridge take {}", mib(limit), mib(bound)),
                "raise the limit (limits.memory, MemoryMax=), or lower server.bytes_in_flight, server.max_connections \
                 or dedupe.entries: beyond the limit the kernel kills the bridge",
            )
        })
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.bytes();
        writeln!(f, "at most {} ({total} bytes), beside the kernel's buffers:", mib(total))?;
        self.parts.iter().try_for_each(|(bytes, of)| writeln!(f, "  {:>10}  {of}", mib(*bytes)))
    }
}

/// Rounded up: a limit of that many MiB suffices.
fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(MIB))
}

/// The lowest memory limit of this process's cgroup and of those above it, in bytes. `None`: no limit, or no cgroup of
/// version 2.
pub(super) fn limit() -> Option<u64> {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    lowest_limit(Path::new("/sys/fs/cgroup"), &cgroups)
}

/// `cgroups` is the text of `/proc/self/cgroup`; that of version 2 has the number 0.
fn lowest_limit(root: &Path, cgroups: &str) -> Option<u64> {
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let above = Path::new(own).ancestors().map(|cgroup| root.join(cgroup).join("memory.max"));
    above.filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::load_without;

    fn bound(variables: &[(&str, &str)]) -> Bound {
        let secret = [("TERRA_SIGNING_SECRET", "a signing secret")];
        let environment = secret.iter().chain(variables).map(|(name, value)| ((*name).into(), (*value).into()));
        Bound::of(&load_without(&[], None, environment, false).expect("a valid configuration").config)
    }

    const KAFKA: [(&str, &str); 2] = [("TERRA_BRIDGE_BUS", "kafka"), ("TERRA_BRIDGE_KAFKA__BROKERS", "host:9092")];

    #[test]
    fn each_row_of_the_table_counts() {
        let head = 2 * 16 * KIB + 160 * 100;
        let embedded = 80 * MIB + 10_000 * (head + 16 * KIB) + 2 * 256 * MIB + 58 * 1_000_000 + 192 * MIB;
        assert_eq!(bound(&[]).bytes(), embedded);
        let kafka = embedded - 192 * MIB + 256 * MIB;
        assert_eq!(bound(&KAFKA).bytes(), kafka);
        let with = |name, value| bound(&[KAFKA.as_slice(), &[(name, value)]].concat()).bytes();
        assert_eq!(with("TERRA_BRIDGE_S3__MODE", "forward"), kafka - 32 * MIB);
        assert_eq!(with("TERRA_BRIDGE_SPOOL__DIR", "/var/spool"), kafka + 64 * MIB);
        assert_eq!(with("TERRA_BRIDGE_SERVER__MAX_CONNECTIONS", "9999"), kafka - head - 16 * KIB);
        assert_eq!(with("TERRA_BRIDGE_SERVER__MAX_HEADERS", "99"), kafka - 10_000 * 160);
        assert_eq!(with("TERRA_BRIDGE_SERVER__MAX_HEADER_BYTES", "17 KiB"), kafka + 10_000 * 2 * KIB);
        assert_eq!(with("TERRA_BRIDGE_SERVER__BYTES_IN_FLIGHT", "255 MiB"), kafka - 3 * MIB);
        assert_eq!(with("TERRA_BRIDGE_DEDUPE__ENTRIES", "999999"), kafka - 58);
        let pem = tempfile::NamedTempFile::new().expect("a file");
        let tls = format!("{{ certificate = {0:?}, key = {0:?} }}", pem.path());
        assert_eq!(with("TERRA_BRIDGE_SERVER__TLS", &tls), kafka + 10_000 * 40 * KIB);
    }

    #[test]
    fn the_operators_guide_has_the_same_table() {
        let guide = include_str!("../../deploy/README.md");
        let rows = [
            format!("the bridge itself | {}; {} where links are forwarded", mib(ITSELF), mib(ITSELF_FORWARDING)),
            format!(
                "each of `server.max_connections` | 2 × `max_header_bytes` + {HEADER} B × `max_headers` + {} KiB, over \
                 HTTPS {} KiB",
                CONNECTION / KIB,
                HTTPS_CONNECTION / KIB
            ),
            format!("bodies | {COPIES} × `bytes_in_flight`; with Kafka and NATS {COPIES_WITH_CLIENT} ×"),
            format!("deduplication | {KEPT_DELIVERY} B × `dedupe.entries`"),
            format!("a spool, while it drains | {}", mib(SPOOL)),
            format!("all readers of the embedded log together | {}", mib(READERS)),
        ];
        for row in rows {
            assert!(guide.contains(&format!("| {row} |\n")), "{row}");
        }
        let of_defaults = [bound(&[]), bound(&KAFKA)].map(|bound| format!("{:.1} GB", bound.bytes() as f64 / 1e9));
        let [embedded, broker] = of_defaults;
        let says = format!("By default that is {embedded} with the embedded log, {broker} with Kafka or NATS.");
        assert!(guide.contains(&says), "{says}");
    }

    #[test]
    fn it_is_displayed_as_a_sum() {
        let text = bound(&KAFKA).to_string();
        assert!(text.starts_with("at most 1525 MiB (1598712448 bytes), beside the kernel's buffers:\n"), "{text}");
        assert!(text.contains("\n     768 MiB  bodies: 3 × server.bytes_in_flight\n"), "{text}");
    }

    #[test]
    fn a_lower_limit_is_said_with_both_numbers() {
        let bound = bound(&KAFKA);
        assert_eq!(bound.above(None), None);
        assert_eq!(bound.above(Some(bound.bytes())), None);
        let says = bound.above(Some(1 << 30)).expect("it is lower").says;
        assert_eq!(says, "is limited to 1024 MiB here, and the configuration lets the bridge take 1525 MiB");
    }

    #[test]
    fn the_lowest_limit_of_the_cgroups_above_counts() {
        let root = tempfile::tempdir().expect("a directory");
        let limit = |cgroups: &str| lowest_limit(root.path(), cgroups);
        let service = root.path().join("system.slice/bridge.service");
        std::fs::create_dir_all(&service).expect("a directory");
        assert_eq!(limit("0::/system.slice/bridge.service\n"), None, "no controller");
        std::fs::write(service.join("memory.max"), "max\n").expect("a file");
        assert_eq!(limit("0::/system.slice/bridge.service\n"), None);
        std::fs::write(root.path().join("system.slice/memory.max"), "4096\n").expect("a file");
        assert_eq!(limit("1:name=systemd:/a\n0::/system.slice/bridge.service\n"), Some(4096));
        std::fs::write(service.join("memory.max"), "1024\n").expect("a file");
        assert_eq!(limit("0::/system.slice/bridge.service\n"), Some(1024));
        assert_eq!(limit("0::/\n"), None, "a container's own is at the root");
        std::fs::write(root.path().join("memory.max"), "512\n").expect("a file");
        assert_eq!(limit("0::/\n"), Some(512));
        assert_eq!(limit("4:memory:/docker\n"), None, "version 1");
    }
}
