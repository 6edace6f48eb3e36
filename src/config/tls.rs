//! The TLS sections of the configuration.

use std::path::PathBuf;

use super::declaration::*;
use super::format::*;
use super::section_reader::SectionReader;

section! {
    /// What a listener proves itself with.
    #[derive(PartialEq, Eq)]
    pub struct CertificatePair {
        /// Turns HTTPS on, with the key: the certificate and those that vouch for it, a PEM file
        certificate: PathBuf = switch("/etc/terra-bridge/tls.crt", pem_file()),
        /// Its private key, a PEM file; both are read again when they change
        key: PathBuf = server_only(switch("/etc/terra-bridge/tls.key", pem_file())),
    }
}

section! {
    /// TLS to a broker.
    #[derive(Default)]
    pub struct Tls {
        /// Turns TLS on: system for the machine's own authorities, or a PEM file
        ca: Option<String> = optional("system", system_or_pem_file()),
        /// The client's certificate, a PEM file; needs its key, too
        certificate: Option<PathBuf> = optional("/etc/terra-bridge/client.pem", pem_file()),
        /// Its private key, a PEM file
        key: Option<PathBuf> = optional("/etc/terra-bridge/client.key", pem_file()),
    }
}
