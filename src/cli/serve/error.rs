//! Why the bridge could not start, or had to stop.

use std::net::SocketAddr;

use crate::bus::OpenError;
use crate::server::CertificateError;
use crate::telemetry::traces::CollectorError;
use crate::trust::TrustError;

#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum StartError {
    #[error("{0}")]
    Bus(#[from] OpenError),
    #[error("`{key}`: cannot listen on {address}: {source}; {remedy}", remedy = listen_remedy(source.kind()))]
    Listen { key: &'static str, address: SocketAddr, source: std::io::Error },
    #[error("{0}")]
    Certificate(#[from] CertificateError),
    #[error("{0}")]
    Trust(#[from] TrustError),
    #[error("{0}")]
    Collector(#[from] CollectorError),
    #[error("cannot wait for signals: {0}")]
    Signals(std::io::Error),
    #[error("no thread to reload the configuration: {0}; allow more processes")]
    Reload(std::io::Error),
    #[error("the bus stopped unexpectedly; restart the bridge")]
    BusEnded,
    #[error("the spool stopped unexpectedly; restart the bridge")]
    SpoolEnded,
}

fn listen_remedy(kind: std::io::ErrorKind) -> &'static str {
    match kind {
        std::io::ErrorKind::AddrInUse => {
            "stop the program that listens there, perhaps another bridge, or take another port"
        }
        std::io::ErrorKind::AddrNotAvailable => "take an address that this machine has, or 0.0.0.0 for all of them",
        std::io::ErrorKind::PermissionDenied => "take a port from 1024 on, or allow CAP_NET_BIND_SERVICE",
        _ => "take another address or port",
    }
}
