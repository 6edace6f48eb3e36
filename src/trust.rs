//! Which root certificates a client of the bridge trusts: those of a PEM file, or this machine's.

use std::path::Path;
use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::config::files::read_regular;

/// Bytes: many times the size of a machine's root certificates.
const LARGEST: u64 = 4 << 20;

/// Why no certificate could be trusted, with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {what}")]
pub struct TrustError {
    key: &'static str,
    what: String,
}

/// Trusts the authorities in the file that `key` names; without a file, the machine's own.
pub(crate) fn client(key: &'static str, ca: Option<&Path>) -> Result<ClientConfig, TrustError> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring speaks them");
    let config = match ca {
        Some(ca) => config.with_root_certificates(Arc::new(authorities(key, ca)?)),
        None => match config.clone().with_native_roots() {
            Ok(config) => config,
            Err(_) => {
                let remedy = format!("install ca-certificates, or set `{key}`");
                tracing::warn!(remedy, "this machine has no root certificates: no server's is trusted");
                config.with_root_certificates(RootCertStore::empty())
            }
        },
    };
    Ok(config.with_no_client_auth())
}

fn authorities(key: &'static str, ca: &Path) -> Result<RootCertStore, TrustError> {
    let trust_error = |what: String| TrustError { key, what: format!("{} {what}", ca.display()) };
    let pem = read_regular(ca, LARGEST).map_err(|error| trust_error(format!("cannot be read: {error}")))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| trust_error(format!("is no PEM: {error}")))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|_| trust_error("has a certificate that is no X.509 one".to_owned()))?;
    }
    if roots.is_empty() {
        return Err(trust_error("has no certificate in it; name a PEM file of the authorities to trust".to_owned()));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_authority_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        let error = || client("s3.ca", Some(&file)).unwrap_err().to_string();
        assert!(error().contains("s3.ca") && error().contains("cannot be read"), "{}", error());
        let endless = client("s3.ca", Some(Path::new("/dev/zero"))).unwrap_err().to_string();
        assert!(endless.contains("is not a regular file"), "{endless}");
        for (pem, says) in [
            ("", "no certificate in it"),
            ("-----BEGIN CERTIFICATE-----\n!\n", "is no PEM"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no X.509"),
        ] {
            std::fs::write(&file, pem).unwrap();
            assert!(error().contains(says), "{}: {says}", error());
        }
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&file, made.cert.pem()).unwrap();
        assert!(client("s3.ca", Some(&file)).is_ok());
    }
}
