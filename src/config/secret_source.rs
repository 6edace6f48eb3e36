//! Where the values of secrets come from while keys are read: from their references, or from an earlier reading that
//! must not be repeated, since files change.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::environment::Environment;
use super::files;
use super::mistake::Problem;
use super::secret::{self, Secret};
use super::secret_file::SecretFile;

/// The secrets of each key, in their order.
pub(super) type Secrets = BTreeMap<String, Vec<KnownSecret>>;

/// A secret, and where it came from.
#[derive(Debug, Clone)]
pub(super) struct KnownSecret {
    /// `None` where the configuration has the text itself.
    pub(super) reference: Option<String>,
    pub(super) secret: Secret,
    /// Where the reference leads to a file.
    pub(super) file: Option<SecretFile>,
}

#[derive(Clone, Copy)]
pub(super) enum SecretSource<'a> {
    /// References are followed now, and files are opened.
    Machine(&'a Environment),
    /// An earlier reading: no file is opened.
    Known(&'a Secrets),
    /// Nobody needs them: every secret is empty.
    Nothing,
}

/// What a format may ask for beside the raw value.
pub(super) struct Context<'a> {
    /// Whether flags, numbers and lists may be texts.
    pub(super) lenient: bool,
    source: SecretSource<'a>,
    key: &'a str,
    /// The secrets that were asked for.
    pub(super) found: Vec<KnownSecret>,
}

impl<'a> Context<'a> {
    pub(super) fn new(key: &'a str, lenient: bool, source: SecretSource<'a>) -> Self {
        Self { lenient, source, key, found: Vec::new() }
    }

    /// The secret that a reference leads to.
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

    /// A text that is perhaps a secret.
    pub(super) fn literal(&mut self, text: String) -> Secret {
        let secret = Secret::new(text);
        self.found.push(KnownSecret { reference: None, secret: secret.clone(), file: None });
        secret
    }

    /// Opens a file that somebody is going to read, to see whether that is possible.
    pub(super) fn open(&self, path: &Path) -> io::Result<()> {
        match self.source {
            SecretSource::Machine(_) => files::open_regular(path).map(drop),
            SecretSource::Known(_) | SecretSource::Nothing => Ok(()),
        }
    }
}
