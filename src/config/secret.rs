//! Secrets, and the references `env:NAME`, `file:PATH` and `credential:NAME` that lead to them. No mistake repeats
//! the bytes of a secret, or a text that should have been a reference.

use std::fmt;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::files;
use super::mistake::Problem;

/// Bytes that are never displayed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The raw bytes, for a signature, a login or a comparison, and nothing else.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set, {} bytes", self.0.len())
    }
}

pub(super) const ALLOWED: &str = "env:NAME, file:PATH or credential:NAME";

/// The variable with the default endpoint's secret.
const DEFAULT_VARIABLE: &str = "TERRA_SIGNING_SECRET";

/// More than any secret or credentials file needs; keeps `file:/dev/zero` from filling the memory.
const LIMIT: u64 = 64 * 1024;

pub(super) fn is_reference(text: &str) -> bool {
    ["env:", "file:", "credential:"].iter().any(|scheme| text.starts_with(scheme))
}

/// `Ok` is not empty. One final newline is dropped from a file, nothing from a variable.
pub(super) fn resolve(reference: &str, environment: &Environment) -> Result<Secret, Problem> {
    match reference.split_once(':') {
        Some(("env", name)) => variable(name, environment),
        Some(("file", path)) => file(Path::new(path), "file"),
        Some(("credential", name)) => credential(name, environment),
        _ if reference.is_empty() => Err("is empty, where a reference belongs".into()),
        _ => Err(Problem {
            wrong: "is not a reference".into(),
            remedy: Some("put the secret itself in a file or an environment variable, and name that here".into()),
        }),
    }
}

/// The file that a reference names, if it names one.
pub(super) fn file_behind(reference: &str, environment: &Environment) -> Option<PathBuf> {
    match reference.split_once(':')? {
        ("file", path) => Some(PathBuf::from(path)),
        ("credential", name) => Some(Path::new(environment.get("CREDENTIALS_DIRECTORY")?).join(name)),
        _ => None,
    }
}

/// The secret in that file, or why there is none.
pub(super) fn read(path: &Path) -> Result<Secret, String> {
    match files::read_regular(path, LIMIT) {
        Ok(bytes) => of_file(bytes).ok_or_else(|| "it is empty".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn variable(name: &str, environment: &Environment) -> Result<Secret, Problem> {
    let shown = if plausible(name) { name } else { "that is named there" };
    let remedy = if name == DEFAULT_VARIABLE {
        "set it to the signing secret of this destination, from the webhook's settings in the Terra dashboard, \
         or name a file with endpoints.<name>.secrets = [\"file:/path\"]"
            .to_owned()
    } else {
        "set it, or refer to a file:PATH".to_owned()
    };
    let wrong = match environment.get(name) {
        Some(value) if !value.is_empty() => return Ok(Secret::new(value.as_encoded_bytes())),
        Some(_) => format!("refers to the environment variable {shown}, which is empty"),
        None => format!("refers to the environment variable {shown}, which is not set"),
    };
    Err(Problem { wrong, remedy: Some(remedy) })
}

/// Whether this looks like a variable's name; otherwise the text after `env:` may be the secret itself.
fn plausible(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        && name.contains(|c: char| c.is_ascii_uppercase())
}

fn file(path: &Path, sort: &str) -> Result<Secret, Problem> {
    let (read, path) = (files::read_regular(path, LIMIT), path.display());
    let (wrong, remedy) = match read.map(of_file) {
        Ok(Some(secret)) => return Ok(secret),
        Ok(None) => ("is empty".to_owned(), "put the secret into it"),
        Err(error) => (
            format!("cannot be read: {error}"),
            "put the secret there, in a file that the user who runs the bridge may read",
        ),
    };
    Err(Problem { wrong: format!("refers to the {sort} {path}, which {wrong}"), remedy: Some(remedy.into()) })
}

/// `None` if it is empty. One final newline is dropped.
fn of_file(mut bytes: Vec<u8>) -> Option<Secret> {
    if bytes.pop_if(|b| *b == b'\n').is_some() {
        bytes.pop_if(|b| *b == b'\r');
    }
    (!bytes.is_empty()).then(|| Secret::new(bytes))
}

fn credential(name: &str, environment: &Environment) -> Result<Secret, Problem> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err("refers to a credential by something that is not a name".into());
    }
    match environment.get("CREDENTIALS_DIRECTORY") {
        Some(directory) => file(&Path::new(directory).join(name), "credential"),
        None => Err(Problem {
            wrong: "refers to a credential, but CREDENTIALS_DIRECTORY is not set".into(),
            remedy: Some(format!("start the bridge by systemd with LoadCredential={name}:/path, or use file:PATH")),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment::new(pairs.iter().map(|(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn a_variable_is_used_unchanged() {
        for value in ["0012", "\"quoted\"", " blanks ", "line\n"] {
            let secret = resolve("env:S", &environment(&[("S", value)])).unwrap();
            assert_eq!(secret.expose(), value.as_bytes());
        }
    }

    #[test]
    fn a_file_loses_one_final_newline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        for (content, secret) in [("a", "a"), ("a\n", "a"), ("a\n\n", "a\n"), ("a\r\n", "a"), (" a ", " a ")] {
            std::fs::write(&path, content).unwrap();
            let by_path = resolve(&format!("file:{}", path.display()), &environment(&[])).unwrap();
            assert_eq!(by_path.expose(), secret.as_bytes());
            let directory = environment(&[("CREDENTIALS_DIRECTORY", dir.path().to_str().unwrap())]);
            assert_eq!(resolve("credential:s", &directory).unwrap(), by_path);
        }
    }

    #[test]
    fn an_endless_file_and_a_large_one_are_refused() {
        let wrong = resolve("file:/dev/zero", &environment(&[])).unwrap_err();
        assert_eq!(wrong.wrong, "refers to the file /dev/zero, which cannot be read: it is not a regular file");
        let large = tempfile::NamedTempFile::new().unwrap();
        large.as_file().set_len(LIMIT + 1).unwrap();
        let wrong = resolve(&format!("file:{}", large.path().display()), &environment(&[])).unwrap_err();
        assert!(wrong.wrong.ends_with("which cannot be read: it has more than 65536 bytes"), "{}", wrong.wrong);
    }

    #[test]
    fn a_text_that_may_be_the_secret_is_not_repeated() {
        for literal in ["hunter2", "env:hunter2", "env:0012", "env:", "credential:../hunter2", "whsec_hunter2:0012"] {
            let Problem { wrong, remedy } = resolve(literal, &environment(&[])).unwrap_err();
            let text = format!("{wrong} {remedy:?}");
            assert!(!text.contains("hunter2") && !text.contains("0012"), "{text}");
        }
    }
}
