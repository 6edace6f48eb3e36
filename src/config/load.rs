//! Reads the configuration as a whole, or what a health check needs of it.

use std::ffi::OsString;
use std::path::Path;

use super::declaration::table;
use super::draft::Draft;
use super::environment::Environment;
use super::layers::Layers;
use super::mistake::Mistakes;
use super::rules;
use super::secret_source::SecretSource;
use super::section_reader::{Purpose, SectionReader};
use super::sections::{Admin, KEYS};

/// Applies defaults, then the file (or else the one that `TERRA_BRIDGE_CONFIG` names), then the environment. Reads
/// that file, the files that its values name, and nothing else: no network, no clock, and only the given variables.
/// `is_terminal`: whether logs go to a terminal. The draft has every mistake that can be found without other modules,
/// which may add theirs.
///
/// # Errors
/// The file cannot be used at all. No mistake contains a secret.
pub fn read(
    purpose: Purpose,
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
    is_terminal: bool,
) -> Result<Draft, Mistakes> {
    let environment = Environment::new(environment);
    let (layers, mut mistakes) = Layers::read(file, &environment, &KEYS, is_terminal)?;
    let mut draft = Draft::read(layers, SecretSource::Machine(&environment), purpose);
    draft.effective.ignored = environment.ignored(&KEYS);
    mistakes.append(&mut draft.mistakes);
    draft.mistakes = mistakes;
    rules::check(&mut draft);
    Ok(draft)
}

/// Only the admin section, for health checks. Reads no secret, and reports only mistakes in that section: whether a
/// new configuration is valid says nothing about a bridge that runs with another.
///
/// # Errors
/// Every mistake.
pub fn read_admin(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Admin, Mistakes> {
    let environment = Environment::new(environment);
    let (layers, mut all) = Layers::read(file, &environment, &KEYS, false)?;
    all.retain(|mistake| mistake.key.split('.').next() == Some("admin"));
    let mut keys = SectionReader::new(&layers, SecretSource::Nothing, Purpose::Serve);
    let admin = keys.field("admin", "", table);
    all.extend(keys.mistakes);
    if all.is_empty() { Ok(admin) } else { Err(Mistakes { all, ignored: environment.ignored(&KEYS) }) }
}
