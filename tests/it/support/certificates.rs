//! A certificate authority of one test's own, and what it signs. Everything is generated at run time.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// PEM files: the authority's certificate, and one certificate for a broker on loopback.
pub struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let mut params = CertificateParams::new(Vec::new()).expect("no names to refuse");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().expect("a key");
        let ca = params.self_signed(&key).expect("a certificate");
        std::fs::write(dir.path().join("ca.pem"), ca.pem()).expect("the directory is ours");
        Self { dir, issuer: Issuer::new(params, key) }
    }

    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate for loopback and its key.
    pub fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        self.issue_to(name, &["localhost", "127.0.0.1"])
    }

    /// A certificate for these hosts and its key.
    pub fn issue_to(&self, name: &str, hosts: &[&str]) -> (PathBuf, PathBuf) {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("plain names");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (self.file(name, "pem", &certificate.pem()), self.file(name, "key", &key.serialize_pem()))
    }

    /// Key and certificate in one file.
    pub fn chain(&self, name: &str) -> PathBuf {
        let (certificate, key) = self.issue(name);
        let [key, certificate] = [key, certificate].map(|path| std::fs::read_to_string(path).expect("just written"));
        self.file(name, "both", &format!("{key}{certificate}"))
    }

    fn file(&self, name: &str, kind: &str, text: &str) -> PathBuf {
        let path: &Path = self.dir.path();
        let path = path.join(format!("{name}.{kind}"));
        std::fs::write(&path, text).expect("the directory is ours");
        path
    }
}
