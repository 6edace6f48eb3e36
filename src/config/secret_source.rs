//! Where secret values come from while keys are read: from their references, or from an earlier reading, which must
//! not be repeated because files change.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::environment::Environment;
use super::files;
use super::mistake::Problem;
use super::secret::{self, Secret};
use super::secret_file::SecretFile;

/// The secrets of each key, in order.
pub(super) type Secrets = BTreeMap<String, Vec<KnownSecret>>;

/// A secret, and its origin.
#[derive(Debug, Clone)]
pub(super) struct KnownSecret {
    /// `None` if the configuration contains the text itself.
    pub(super) reference: Option<String>,
    pub(super) secret: Secret,
    /// Set if the reference names a file.
    pub(super) file: Option<SecretFile>,
}

#[derive(Clone, Copy)]
pub(super) enum SecretSource<'a> {
    /// Resolves references and opens files.
    Machine(&'a Environment),
    /// Uses an earlier reading, and opens no file.
    Known(&'a Secrets),
    /// Secrets are not needed: each one is empty.
    Nothing,
}

/// What a format may use besides the raw value.
pub(super) struct Context<'a> {
    /// Whether flags, numbers and lists may be texts.
    pub(super) lenient: bool,
    source: SecretSource<'a>,
    key: &'a str,
    /// The secrets that were resolved.
    pub(super) found: Vec<KnownSecret>,
}

impl<'a> Context<'a> {
    pub(super) fn new(key: &'a str, lenient: bool, source: SecretSource<'a>) -> Self {
        Self { lenient, source, key, found: Vec::new() }
    }

    /// Resolves a reference to its secret.
    pub(super) fn follow(&mut self, reference: &str) -> Result<Secret, Problem> {
        let known = match self.source {
            SecretSource::Nothing => return Ok(Secret::new("")),
            SecretSource::Known(secrets) => {
                let of_key = secrets.get(self.key).into_iter().flatten();
                let mut known = of_key.filter(|known| known.reference.as_deref() == Some(reference));
                known.next().expect("the same references were followed before").clone()
            }
            SecretSource::Machine(environment) => {
                let secret = secret::resolve(reference, environment)?;
                let file = secret::file_behind(reference, environment);
                let file = file.map(|path| SecretFile::new(path, secret.clone()));
                KnownSecret { reference: Some(reference.to_owned()), secret, file }
            }
        };
        let secret = known.secret.clone();
        self.found.push(known);
        Ok(secret)
    }

    /// A literal text that may be a secret.
    pub(super) fn literal(&mut self, text: String) -> Secret {
        let secret = Secret::new(text);
        self.found.push(KnownSecret { reference: None, secret: secret.clone(), file: None });
        secret
    }

    /// Opens a file that will be read later, to check that this is possible.
    pub(super) fn open(&self, path: &Path) -> io::Result<()> {
        match self.source {
            SecretSource::Machine(_) => files::open_regular(path).map(drop),
            SecretSource::Known(_) | SecretSource::Nothing => Ok(()),
        }
    }
}
