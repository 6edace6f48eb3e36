//! The configuration as a whole, with the checks of all modules, in the exact text that users see.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::cli::{Loaded, load_for_reader_without, load_without};
use crate::config::{Mistakes, Source};

mod environment;
mod files;
mod machines;
mod mistakes;
mod reference;
mod reload;
mod secrets;

/// As a program reads it that has every bus.
fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
    is_terminal: bool,
) -> Result<Loaded, Mistakes> {
    load_without(&[], file, environment, is_terminal)
}

const SIGNED: (&str, &str) = ("TERRA_SIGNING_SECRET", "hunter2 the second");

fn read(toml: Option<&str>, variables: &[(&str, &str)]) -> Result<Loaded, Mistakes> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.toml");
    if let Some(toml) = toml {
        std::fs::write(&path, toml).unwrap();
    }
    let variables: Vec<(OsString, OsString)> = variables.iter().map(|(n, v)| (n.into(), v.into())).collect();
    load(toml.map(|_| path.as_path()), variables.into_iter(), false).map_err(|mut mistakes| {
        let prefix = format!("{}/", dir.path().display());
        for mistake in &mut mistakes.all {
            mistake.wrong = mistake.wrong.replace(&prefix, "");
            if let Source::File { path, .. } = &mut mistake.source {
                *path = path.file_name().map(PathBuf::from).unwrap();
            }
        }
        mistakes
    })
}

fn from_file(toml: &str) -> Result<Loaded, Mistakes> {
    read(Some(toml), &[SIGNED])
}

fn from_environment(variables: &[(&str, &str)]) -> Result<Loaded, Mistakes> {
    read(None, &[variables, &[SIGNED]].concat())
}

fn mistakes_text(result: Result<Loaded, Mistakes>) -> String {
    result.err().map(|mistakes| mistakes.to_string()).unwrap_or_default()
}
