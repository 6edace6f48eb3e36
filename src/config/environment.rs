//! The variables of the process: those that set a key, those that look like ours but are not, and single ones as raw
//! bytes for secrets. No mistake repeats a value.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::file;
use super::key::{Keys, TABLE};
use super::mistake::{Ignored, Mistake, Source};
use super::setting::{RawValue, Settings};

const PREFIX: &str = "TERRA_BRIDGE_";
/// Names the configuration file.
const CONFIG: &str = "TERRA_BRIDGE_CONFIG";
/// Separates two levels.
const LEVEL: &str = "__";

pub(super) struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    pub(super) fn new(variables: impl Iterator<Item = (OsString, OsString)>) -> Self {
        Self(variables.collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    pub(super) fn config(&self) -> Option<PathBuf> {
        self.get(CONFIG).map(PathBuf::from)
    }

    fn of_prefix(&self) -> impl Iterator<Item = (String, &OsStr)> {
        let named = self.0.iter().map(|(name, value)| (name.to_string_lossy().into_owned(), value.as_os_str()));
        named.filter(|(name, _)| name.starts_with(PREFIX))
    }

    /// All values that our variables set.
    pub(super) fn read(&self, keys: &Keys) -> Settings {
        let mut settings = Settings::default();
        for (variable, value) in self.of_prefix().filter(|(name, _)| is_ours(name, keys) && name != CONFIG) {
            let (name, source) = (key_of(&variable), Source::Environment(variable));
            match value.to_str() {
                None => settings.mistakes.push(Mistake::new(name, &source, "is not UTF-8")),
                Some(text) if keys.is_table(&name) => settings.extend(whole_table(&name, text, &source)),
                Some(text) => settings.all.push((name, RawValue::new(text, source))),
            }
        }
        settings
    }

    /// Variables with our prefix that set nothing.
    pub(super) fn ignored(&self, keys: &Keys) -> Vec<Ignored> {
        let foreign = self.of_prefix().map(|(name, _)| name).filter(|name| !is_ours(name, keys));
        foreign.map(|name| Ignored { meant: did_you_mean(&name, keys), injected: is_injected(&name), name }).collect()
    }
}

/// The variable that sets a key. In the name of an endpoint, `_` stands for `-`, which no shell can export.
pub(super) fn variable(key: &str) -> String {
    let mut levels: Vec<String> = key.split('.').map(str::to_uppercase).collect();
    if let [section, endpoint, ..] = levels.as_mut_slice()
        && section == "ENDPOINTS"
    {
        *endpoint = endpoint.replace('-', "_");
    }
    format!("{PREFIX}{}", levels.join(LEVEL))
}

/// The key that one of our variables sets.
fn key_of(variable: &str) -> String {
    variable[PREFIX.len()..].replace(LEVEL, ".").to_lowercase()
}

/// A top-level table or key has no level separator in its name.
fn is_ours(variable: &str, keys: &Keys) -> bool {
    let key = key_of(variable);
    let is_top_level = !key.contains('.') && (keys.find(&key).is_some() || keys.is_table(&key));
    variable == CONFIG || variable.contains(LEVEL) || is_top_level
}

/// Matches the names that Kubernetes gives every pod for a Service: its address, and one of its ports.
fn is_injected(name: &str) -> bool {
    let of_one_port = |rest: &str| match rest.strip_prefix('_').and_then(|rest| rest.split_once('_')) {
        Some((port, protocol)) => {
            port.parse::<u16>().is_ok() && ["TCP", "UDP", "SCTP"].iter().any(|known| protocol.starts_with(known))
        }
        None => rest.is_empty(),
    };
    let of_ports = || name.match_indices("_PORT").any(|(at, found)| of_one_port(&name[at + found.len()..]));
    name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT_") || of_ports()
}

/// All values of an inline table.
fn whole_table(name: &str, text: &str, source: &Source) -> Settings {
    let mut settings = Settings::default();
    let mistake = |wrong: String| Mistake::new(name, source, wrong).allowed(TABLE);
    match file::inline_table(text) {
        Ok(Some(leaves)) => settings.all.extend(leaves.into_iter().map(|(below, value)| {
            let raw = RawValue { of_whole_table: true, ..RawValue::new(value, source.clone()) };
            (format!("{name}.{below}"), raw)
        })),
        Ok(None) => settings.mistakes.push(mistake("is not a table".into())),
        Err(why) => settings.mistakes.push(mistake(format!("is not TOML at {why}"))),
    }
    settings
}

/// Our variable that differs only in the number of underscores between its levels.
fn did_you_mean(name: &str, keys: &Keys) -> Option<String> {
    let mut ours = keys.iter().filter(|key| !key.name.contains('<')).map(|key| variable(&key.name));
    ours.find(|ours| ours.replace(LEVEL, "_") == name)
}
