//! References to secrets. Comes in: `env:NAME`, `file:PATH` or `credential:NAME`. Goes out: the bytes,
//! or what is wrong, in which neither the bytes nor a text that should have been a reference ever stand.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::Secret;
use super::environment::Environment;
use super::kind::Wrong;

pub(super) const ALLOWED: &str = "env:NAME, file:PATH or credential:NAME";

/// The variable that the default endpoint's secret comes from.
const DEFAULT_VARIABLE: &str = "TERRA_SIGNING_SECRET";

/// More than any secret or credentials file needs; keeps `file:/dev/zero` from filling the memory.
const LIMIT: u64 = 64 * 1024;

pub(super) fn is_reference(text: &str) -> bool {
    ["env:", "file:", "credential:"].iter().any(|scheme| text.starts_with(scheme))
}

/// `Ok` is not empty. From a file, one final newline is dropped; from a variable, nothing.
pub(super) fn resolve(reference: &str, environment: &Environment) -> Result<Secret, Wrong> {
    match reference.split_once(':') {
        Some(("env", name)) => variable(name, environment),
        Some(("file", path)) => file(Path::new(path), "file"),
        Some(("credential", name)) => credential(name, environment),
        _ if reference.is_empty() => Err("is empty, where a reference belongs".into()),
        _ => Err(Wrong {
            wrong: "is not a reference".into(),
            remedy: Some("put the secret itself in a file or an environment variable, and name that here".into()),
        }),
    }
}

/// The file that a reference names, where it names one.
pub(super) fn file_behind(reference: &str, environment: &Environment) -> Option<PathBuf> {
    match reference.split_once(':')? {
        ("file", path) => Some(PathBuf::from(path)),
        ("credential", name) => Some(Path::new(environment.get("CREDENTIALS_DIRECTORY")?).join(name)),
        _ => None,
    }
}

/// What such a file holds now; `None` where that is no secret.
pub(super) fn read(path: &Path) -> Option<Secret> {
    file(path, "file").ok()
}

fn variable(name: &str, environment: &Environment) -> Result<Secret, Wrong> {
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
    Err(Wrong { wrong, remedy: Some(remedy) })
}

/// Whether this is how people name variables; what is not may be the secret itself after `env:`.
fn plausible(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        && name.contains(|c: char| c.is_ascii_uppercase())
}

fn file(path: &Path, sort: &str) -> Result<Secret, Wrong> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes));
    let path = path.display();
    if let Err(error) = read {
        return Err(Wrong {
            wrong: format!("refers to the {sort} {path}, which cannot be read: {error}"),
            remedy: Some("put the secret there, readable by the user who runs the bridge".into()),
        });
    }
    if bytes.len() as u64 > LIMIT {
        return Err(format!("refers to the {sort} {path}, which is larger than any secret").into());
    }
    drop_final_newline(&mut bytes);
    if bytes.is_empty() {
        return Err(Wrong {
            wrong: format!("refers to the {sort} {path}, which is empty"),
            remedy: Some("put the secret into it".into()),
        });
    }
    Ok(Secret::new(bytes))
}

fn drop_final_newline(bytes: &mut Vec<u8>) {
    if bytes.pop_if(|b| *b == b'\n').is_some() {
        bytes.pop_if(|b| *b == b'\r');
    }
}

fn credential(name: &str, environment: &Environment) -> Result<Secret, Wrong> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err("refers to a credential by something that is not a name".into());
    }
    match environment.get("CREDENTIALS_DIRECTORY") {
        Some(directory) => file(&Path::new(directory).join(name), "credential"),
        None => Err(Wrong {
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
    fn a_variable_is_taken_as_it_is() {
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
    fn an_endless_file_is_refused() {
        let wrong = resolve("file:/dev/zero", &environment(&[])).unwrap_err();
        assert_eq!(wrong.wrong, "refers to the file /dev/zero, which is larger than any secret");
    }

    #[test]
    fn what_may_be_the_secret_itself_is_not_repeated() {
        for literal in ["hunter2", "env:hunter2", "env:0012", "env:", "credential:../hunter2", "whsec_hunter2:0012"] {
            let Wrong { wrong, remedy } = resolve(literal, &environment(&[])).unwrap_err();
            let said = format!("{wrong} {remedy:?}");
            assert!(!said.contains("hunter2") && !said.contains("0012"), "{said}");
        }
    }
}
