//! The environment of a plan's bridge, except its bus and its ports, and the names of the files in it.

use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::kinds::{BusName, Kind};
use crate::plan::{BYTES_IN_FLIGHT, Plan};

/// Seconds; above the longest `server.publish_timeout`.
pub const DRAIN_TIMEOUT: u64 = 6;
/// Signing secrets that are valid at once: more than a plan rotates.
pub const SECRETS: usize = 8;
/// The smallest that the bridge accepts, so that it is soon full.
const SMALL_SPOOL: &str = "16 MiB";

pub const CONFIG: &str = "config.toml";
pub const CERTIFICATE: &str = "tls.crt";
pub const KEY: &str = "tls.key";

pub fn secret(at: usize) -> String {
    format!("secret-{at}")
}

/// Where a NATS cluster stores payloads that are too large for a message.
pub fn bucket(prefix: &str) -> String {
    format!("{prefix}-large")
}

/// The bridge's own storage, below `root`: on a bus with brokers the spool.
pub fn kept_in(bus: BusName, root: &Path) -> PathBuf {
    root.join(if bus == BusName::Embedded { "log" } else { "spool" })
}

/// `prefix` is that of all topics.
pub fn of(plan: &Plan, prefix: &str, dir: &Path, disk: Option<&Disk>) -> Vec<(String, String)> {
    let path = |name: &str| dir.join(name).display().to_string();
    let secrets: Vec<_> = (0..SECRETS).map(|at| format!("file:{}", path(&secret(at)))).collect();
    let root = disk.map_or_else(|| dir.to_owned(), Disk::root);
    let kept_in = kept_in(plan.bus, &root).display().to_string();
    let mut settings = vec![
        ("CONFIG", path(CONFIG)),
        ("SERVER__PUBLISH_TIMEOUT", format!("{}s", plan.publish_timeout)),
        ("SERVER__BYTES_IN_FLIGHT", format!("{} MiB", BYTES_IN_FLIGHT >> 20)),
        ("SERVER__DRAIN_TIMEOUT", format!("{DRAIN_TIMEOUT}s")),
        ("ENDPOINTS__TERRA__SECRETS", secrets.join(",")),
    ];
    match plan.bus {
        BusName::Kafka3 => settings.push(("KAFKA__REPLICATION_FACTOR", "3".to_owned())),
        BusName::Nats3 => {
            settings.extend([("NATS__REPLICAS", "3".to_owned()), ("NATS__OBJECT_STORE", bucket(prefix))]);
        }
        BusName::Kafka | BusName::Nats => {}
        BusName::Embedded => {
            settings.extend([("EMBEDDED__DIR", kept_in.clone()), ("EMBEDDED__RESERVE", plan.reserve.to_owned())])
        }
    }
    if plan.spool {
        settings.extend([("SPOOL__DIR", kept_in), ("SPOOL__RESERVE", plan.reserve.to_owned())]);
    }
    if plan.has(|kind| kind == Kind::SpoolFull) {
        settings.push(("SPOOL__MAX_BYTES", SMALL_SPOOL.to_owned()));
    }
    if plan.https {
        settings.extend([("SERVER__TLS__CERTIFICATE", path(CERTIFICATE)), ("SERVER__TLS__KEY", path(KEY))]);
    }
    if plan.talkative {
        settings.push(("LOG__FILTER", "debug".to_owned()));
    }
    settings.into_iter().map(|(name, value)| (format!("TERRA_BRIDGE_{name}"), value)).collect()
}
