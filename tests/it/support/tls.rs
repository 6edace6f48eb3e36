//! A bridge's certificate in its configured files, and clients that trust it.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion, version};
use tempfile::TempDir;

use super::http::{Connection, connect_within};

const PATIENCE: Duration = Duration::from_secs(20);

pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A certificate and its key.
pub struct Pair {
    dir: TempDir,
}

impl Pair {
    pub fn new() -> Self {
        let pair = Self { dir: TempDir::new().expect("a temporary directory") };
        pair.replace();
        pair
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new pair, one file after the other.
    pub fn replace(&self) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        std::fs::write(self.path("tls.crt"), made.cert.pem()).expect("the directory is ours");
        std::fs::write(self.path("tls.key"), made.signing_key.serialize_pem()).expect("the directory is ours");
    }

    pub fn root(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.path("tls.crt")).expect("it is one")
    }

    pub fn environment(&self, section: &str) -> Vec<(String, String)> {
        let entry = |key: &str, file: &str| {
            (format!("TERRA_BRIDGE_{section}__TLS__{key}"), self.path(file).display().to_string())
        };
        vec![entry("CERTIFICATE", "tls.crt"), entry("KEY", "tls.key")]
    }

    /// The configuration of clients that trust it, and speak the newest version.
    pub fn client(&self) -> Arc<ClientConfig> {
        client(&self.root(), &[&version::TLS13])
    }
}

fn client(root: &CertificateDer<'static>, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).expect("a root");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("known versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

pub fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}

/// Connects and completes the handshake.
pub fn connect(
    to: SocketAddr,
    root: &CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
) -> std::io::Result<Connection<Stream>> {
    let client = ClientConnection::new(client(root, versions), name()).expect("a client");
    let mut stream = StreamOwned::new(client, connect_within(to, PATIENCE)?);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(Connection::over(stream))
}
