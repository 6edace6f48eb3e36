//! HTTPS with a certificate and key from PEM files. The files may change while the listener runs. A pair that does
//! not fit is never served.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certificate::first_expiration;
use crate::config::CertificatePair;
use crate::config::files::{TimedOut, TimedReads, read_regular};

/// How often the files are checked.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The time limit for one check of both files.
const LOOK_WITHIN: Duration = Duration::from_secs(2);

/// Bytes of a file: far more than any chain needs.
const LARGEST: u64 = 4 << 20;

/// A certificate and its key, kept current and served. Cloning shares them.
#[derive(Clone)]
pub struct Certificates(Arc<Inner>);

struct Inner {
    /// The configuration section that has this `tls`.
    section: &'static str,
    files: CertificatePair,
    served: Arc<Served>,
    acceptor: TlsAcceptor,
    seen: Mutex<Seen>,
    reading: TimedReads<Result<Pem, CertificateError>>,
}

/// The last known content of the files.
struct Seen {
    served: Pem,
    /// A pair that does not fit, and whether that was logged. Files are replaced one after the other, so the first
    /// check that fails is not logged.
    unfit: Option<(Pem, bool)>,
    /// It was logged that reading the files hangs.
    hangs: bool,
}

/// The bytes of both files.
#[derive(Clone, PartialEq, Eq)]
struct Pem {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// Why a pair cannot be served, with the remedy. Contains nothing of the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {wrong}")]
pub struct CertificateError {
    key: String,
    wrong: String,
    /// The files could not be read in time, so their content is unknown.
    hangs: bool,
}

/// The result of checking the files again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reloaded {
    Unchanged,
    Changed,
}

impl Certificates {
    /// Reads the pair that `<section>.tls` names.
    ///
    /// # Errors
    /// A file cannot be read, or the pair cannot be served.
    pub fn load(section: &'static str, files: &CertificatePair) -> Result<Self, CertificateError> {
        let pem = read(section, files)?;
        let served = Arc::new(Served(RwLock::new(parse(section, &pem)?)));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .expect("ring speaks both versions")
            .with_no_client_auth()
            .with_cert_resolver(served.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(Inner {
            section,
            files: files.clone(),
            served,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            seen: Mutex::new(Seen { served: pem, unfit: None, hangs: false }),
            reading: TimedReads::default(),
        })))
    }

    /// Checks the files again. If the new pair cannot be served, the old one stays in use.
    ///
    /// # Errors
    /// As for [`Self::load`], or the disk does not answer in time.
    pub fn reload(&self) -> Result<Reloaded, CertificateError> {
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.refresh(&mut seen).map_err(|(error, _)| error)
    }

    /// The error carries whatever was read. The lock is held while reading, at most for the time limit: of two
    /// concurrent checks, neither can serve a pair that the other has already replaced.
    fn refresh(&self, seen: &mut Seen) -> Result<Reloaded, (CertificateError, Option<Pem>)> {
        let (section, files) = (self.0.section, self.0.files.clone());
        let found = self.0.reading.within(LOOK_WITHIN, move || read(section, &files));
        let found = found.unwrap_or_else(|TimedOut| {
            let wrong = "the files cannot be read in time; see whether their disk answers".to_owned();
            Err(CertificateError { key: format!("{section}.tls"), wrong, hangs: true })
        });
        let pem = found.map_err(|error| (error, None))?;
        if pem == seen.served {
            (seen.unfit, seen.hangs) = (None, false);
            return Ok(Reloaded::Unchanged);
        }
        let key = parse(section, &pem).map_err(|error| (error, Some(pem.clone())))?;
        *self.0.served.0.write().unwrap_or_else(PoisonError::into_inner) = key;
        *seen = Seen { served: pem, unfit: None, hangs: false };
        tracing::info!(section, "new connections get a new certificate");
        Ok(Reloaded::Changed)
    }

    /// The configuration section of what is served, and when that expires, in Unix seconds. `None` if nothing says so.
    pub fn expiration(&self) -> Option<(&'static str, i64)> {
        let served = self.0.served.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        Some((self.0.section, first_expiration(&served.cert)?))
    }

    /// Checks the files at intervals. Never returns.
    pub async fn watch(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let looking = self.clone();
            let _ = tokio::task::spawn_blocking(move || looking.look()).await;
        }
    }

    fn look(&self) {
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Err((error, pem)) = self.refresh(&mut seen) else { return };
        let logged = std::mem::replace(&mut seen.hangs, error.hangs);
        if error.hangs {
            if !logged {
                tracing::warn!(%error, "reading the certificate files takes too long; the old pair stays in use");
            }
            return;
        }
        let pem = pem.unwrap_or(Pem { certificate: Vec::new(), key: Vec::new() });
        match &mut seen.unfit {
            // Unchanged since the last check: nobody is in the middle of replacing it.
            Some((before, logged)) if *before == pem => {
                if !std::mem::replace(logged, true) {
                    tracing::error!(%error, "the new certificate and key cannot be used; the old pair stays in use");
                }
            }
            unfit => *unfit = Some((pem, false)),
        }
    }

    /// Runs the TLS handshake on the stream.
    ///
    /// # Errors
    /// The handshake failed: rustls' text.
    pub(super) async fn accept<S>(&self, stream: S) -> Result<TlsStream<S>, String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.0.acceptor.accept(stream).await.map_err(|error| {
            let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            of_tls.map_or_else(|| error.kind().to_string(), ToString::to_string)
        })
    }
}

/// What new connections get.
#[derive(Debug)]
struct Served(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificates of {}", self.0.section)
    }
}

fn read(section: &str, files: &CertificatePair) -> Result<Pem, CertificateError> {
    let read = |name: &str, path: &Path| {
        read_regular(path, LARGEST).map_err(|error| {
            let wrong = format!("{} cannot be read: {error}; name a PEM file that this user may read", path.display());
            CertificateError { key: format!("{section}.tls.{name}"), wrong, hangs: false }
        })
    };
    Ok(Pem { certificate: read("certificate", &files.certificate)?, key: read("key", &files.key)? })
}

fn parse(section: &str, pem: &Pem) -> Result<Arc<CertifiedKey>, CertificateError> {
    let wrong = |name: &str, wrong: String| {
        let key = format!("{section}.tls.{name}");
        CertificateError { key, wrong, hangs: false }
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem.certificate).collect();
    let chain = chain.map_err(|error| wrong("certificate", format!("is no PEM: {error}")))?;
    if chain.is_empty() {
        let says = "has no certificate in it; put the certificate first, then those that vouch for it";
        return Err(wrong("certificate", says.to_owned()));
    }
    // The parser's error could quote the key.
    let key = PrivateKeyDer::from_pem_slice(&pem.key)
        .map_err(|_| wrong("key", "has no private key in PEM; PKCS#8, PKCS#1 and SEC1 will do".to_owned()))?;
    let pair = CertifiedKey::from_der(chain, key, &ring::default_provider());
    pair.map(Arc::new).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => wrong("key", "is not the key of the certificate".to_owned()),
        rustls::Error::InvalidCertificate(_) => wrong("certificate", "is no X.509 certificate".to_owned()),
        _ => wrong("key", "is of a kind that cannot be used; take ECDSA P-256, Ed25519 or RSA".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Made {
        certificate: String,
        key: String,
    }

    fn made() -> Made {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        Made { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    fn write(files: &CertificatePair, certificate: &str, key: &str) {
        std::fs::write(&files.certificate, certificate).unwrap();
        std::fs::write(&files.key, key).unwrap();
    }

    fn files(dir: &tempfile::TempDir) -> CertificatePair {
        CertificatePair { certificate: dir.path().join("tls.crt"), key: dir.path().join("tls.key") }
    }

    #[test]
    fn a_pair_that_cannot_be_served_is_reported_with_its_config_key_and_without_the_secret() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(&dir);
        let (one, other) = (made(), made());
        let error = || Certificates::load("server", &files).unwrap_err().to_string();
        assert!(error().contains("server.tls.certificate") && error().contains("cannot be read"), "{}", error());
        for (certificate, key, says) in [
            ("", &*one.key, "server.tls.certificate`: has no certificate"),
            ("-----BEGIN CERTIFICATE-----\n!\n", &one.key, "server.tls.certificate`: is no PEM"),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                &one.key,
                "server.tls.certificate`: is no X.509",
            ),
            (&one.certificate, "", "server.tls.key`: has no private key"),
            (&one.certificate, &other.key, "server.tls.key`: is not the key of the certificate"),
        ] {
            write(&files, certificate, key);
            assert!(error().contains(says), "{}: {says}", error());
        }
        write(&files, &one.certificate, &one.key);
        assert!(Certificates::load("server", &files).is_ok());
    }

    #[test]
    fn a_fifo_in_place_of_a_file_does_not_block_and_the_old_pair_stays() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(&dir);
        let (one, other) = (made(), made());
        write(&files, &one.certificate, &one.key);
        let certificates = Certificates::load("server", &files).unwrap();
        std::fs::remove_file(&files.key).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &files.key, mode).unwrap();
        let error = certificates.reload().unwrap_err();
        assert!(error.to_string().contains("server.tls.key") && error.to_string().contains("FIFO"), "{error}");
        assert!(Certificates::load("server", &files).is_err());
        std::fs::remove_file(&files.key).unwrap();
        write(&files, &other.certificate, &other.key);
        assert_eq!(certificates.reload(), Ok(Reloaded::Changed));
    }

    #[test]
    fn a_hanging_disk_is_logged_once_and_the_next_check_finds_the_new_pair() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(&dir);
        let (one, other) = (made(), made());
        write(&files, &one.certificate, &one.key);
        let certificates = Certificates::load("server", &files).unwrap();
        let mut disks = Vec::new();
        let hang = |disks: &mut Vec<_>| {
            let (disk, answers) = std::sync::mpsc::channel::<Result<Pem, CertificateError>>();
            disks.push(disk);
            let read = move || answers.recv().unwrap();
            assert_eq!(certificates.0.reading.within(Duration::ZERO, read).err(), Some(TimedOut));
        };
        // The limit of abandoned reads: no further one is started.
        for _ in 0..4 {
            hang(&mut disks);
        }
        assert!(certificates.reload().unwrap_err().hangs);
        certificates.look();
        assert!(certificates.0.seen.lock().unwrap().hangs);
        write(&files, &other.certificate, &other.key);
        drop(disks);
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while certificates.reload() != Ok(Reloaded::Changed) {
            assert!(std::time::Instant::now() < end, "the disk answers again");
        }
        assert!(!certificates.0.seen.lock().unwrap().hangs);
    }

    #[test]
    fn only_a_valid_pair_replaces_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(&dir);
        let (one, other) = (made(), made());
        write(&files, &one.certificate, &one.key);
        let certificates = Certificates::load("server", &files).unwrap();
        let served = || certificates.0.served.0.read().unwrap().clone();
        let first = served();
        assert_eq!(certificates.reload(), Ok(Reloaded::Unchanged));
        std::fs::write(&files.certificate, &other.certificate).unwrap();
        assert!(certificates.reload().is_err());
        assert!(Arc::ptr_eq(&first, &served()));
        certificates.look();
        let logged = || certificates.0.seen.lock().unwrap().unfit.as_ref().unwrap().1;
        assert!(!logged(), "it may be on its way");
        certificates.look();
        assert!(logged());
        std::fs::write(&files.key, &other.key).unwrap();
        assert_eq!(certificates.reload(), Ok(Reloaded::Changed));
        assert!(!Arc::ptr_eq(&first, &served()));
        std::fs::remove_file(&files.key).unwrap();
        assert!(certificates.reload().is_err());
    }
}
