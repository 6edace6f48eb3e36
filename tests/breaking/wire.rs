//! Connections to the bridge, in plain text or over TLS with a certificate that may be replaced meanwhile.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::http::{Connection, connect_within};

/// Longer than any answer may take, so that a late one is noticed.
const PATIENCE: Duration = Duration::from_secs(11);

pub trait Wire: Read + Write + Send {}

impl<T: Read + Write + Send> Wire for T {}

/// The certificates that the pretend Terra trusts: the newest one made for this bridge, and the older ones until they
/// are dropped.
#[derive(Clone)]
pub struct Trust {
    roots: RootCertStore,
    newest: RootCertStore,
    config: Arc<ClientConfig>,
}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
    }
}

impl Trust {
    pub fn nobody() -> Self {
        let roots = RootCertStore::empty();
        Self { config: config(&roots), newest: RootCertStore::empty(), roots }
    }

    /// Creates a new pair, one file after the other, and trusts it.
    pub fn make(&mut self, certificate: &Path, key: &Path) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        self.newest = RootCertStore::empty();
        for roots in [&mut self.roots, &mut self.newest] {
            roots.add(made.cert.der().clone()).expect("a root");
        }
        self.config = config(&self.roots);
        std::fs::write(certificate, made.cert.pem()).expect("the directory is ours");
        std::fs::write(key, made.signing_key.serialize_pem()).expect("the directory is ours");
    }

    /// From now on only the newest certificate is trusted.
    pub fn forget_the_others(&mut self) {
        self.roots = self.newest.clone();
        self.config = config(&self.roots);
    }

    /// Whether a new connection gets a trusted certificate.
    pub fn is_met_at(&self, to: SocketAddr) -> bool {
        let Ok(mut plain) = connect_within(to, PATIENCE) else { return false };
        let mut tls = client(self);
        while tls.is_handshaking() {
            if tls.complete_io(&mut plain).is_err() {
                return false;
            }
        }
        true
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
    Ok(Connection::over(Box::new(StreamOwned::new(client(trust), plain))))
}

fn client(trust: &Trust) -> ClientConnection {
    let name = ServerName::try_from("localhost").expect("a name");
    ClientConnection::new(trust.config.clone(), name).expect("a plain configuration")
}
