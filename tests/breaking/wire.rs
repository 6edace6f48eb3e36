//! Connections to the bridge, plain or over TLS with a certificate that may be replaced meanwhile.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::http::{Connection, connect_within};

/// Longer than any answer may take, so that a late one is seen to be late.
const PATIENCE: Duration = Duration::from_secs(11);

pub trait Wire: Read + Write + Send {}

impl<T: Read + Write + Send> Wire for T {}

/// What the pretend Terra trusts: every certificate that was ever made for this bridge.
#[derive(Clone)]
pub struct Trust {
    roots: RootCertStore,
    config: Arc<ClientConfig>,
}

impl Trust {
    pub fn nobody() -> Self {
        let roots = RootCertStore::empty();
        Self { config: config(&roots), roots }
    }

    /// A new pair, one file after the other, and trust in it.
    pub fn make(&mut self, certificate: &Path, key: &Path) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        self.roots.add(made.cert.der().clone()).expect("a root");
        self.config = config(&self.roots);
        std::fs::write(certificate, made.cert.pem()).expect("the directory is ours");
        std::fs::write(key, made.signing_key.serialize_pem()).expect("the directory is ours");
    }
}

fn config(roots: &RootCertStore) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("known versions")
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    Arc::new(config)
}

pub fn open(to: SocketAddr, trust: Option<&Trust>) -> std::io::Result<Connection<Box<dyn Wire>>> {
    let plain = connect_within(to, PATIENCE)?;
    let Some(trust) = trust else { return Ok(Connection::over(Box::new(plain))) };
    let name = ServerName::try_from("localhost").expect("a name");
    let tls = ClientConnection::new(trust.config.clone(), name).map_err(std::io::Error::other)?;
    Ok(Connection::over(Box::new(StreamOwned::new(tls, plain))))
}
