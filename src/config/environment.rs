//! The environment. Comes in: all variables. Goes out: the [`Setting`]s among them, what looks like ours
//! and is not, and single variables as raw bytes for secrets. Names nobody's values in a mistake.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use figment::value::Value;

use super::keys::{self, Meaning};
use super::mistake::{Ignored, Mistake, Source};
use super::sheet::{Setting, Settings};
use super::{file, kind};

const PREFIX: &str = "TERRA_BRIDGE_";
/// Names the file.
pub(super) const CONFIG: &str = "TERRA_BRIDGE_CONFIG";
/// Between two levels.
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

    /// Every value of ours.
    pub(super) fn read(&self) -> Settings {
        let mut settings = Settings::default();
        for (name, value) in self.of_prefix().filter(|(name, _)| is_ours(name) && name != CONFIG) {
            let path = path(&name);
            let source = Source::Environment(name);
            match value.to_str() {
                Some(text) => settings.extend(spread(path, text, &source)),
                None => settings.mistakes.push(Mistake::new(path.join("."), &source, "is not UTF-8")),
            }
        }
        settings
    }

    /// What begins as our variables do and means nothing to us.
    pub(super) fn ignored(&self) -> Vec<Ignored> {
        let foreign = self.of_prefix().map(|(name, _)| name).filter(|name| !is_ours(name));
        foreign.map(|name| Ignored { meant: meant(&name), injected: is_injected(&name), name }).collect()
    }
}

/// The variable that sets a key. In the name of an endpoint `_` stands for `-`, which no shell can export.
pub(super) fn variable(path: &[String]) -> String {
    let mut levels: Vec<String> = path.iter().map(|name| name.replace('.', LEVEL).to_uppercase()).collect();
    if let [section, endpoint, ..] = levels.as_mut_slice()
        && section == "ENDPOINTS"
    {
        *endpoint = endpoint.replace('-', "_");
    }
    format!("{PREFIX}{}", levels.join(LEVEL))
}

/// Whether the variable of ours holds a whole table.
pub(super) fn is_table(name: &str) -> bool {
    name.starts_with(PREFIX) && matches!(keys::meaning(&path(name)), Meaning::Table)
}

/// A whole table at the top, or a key there, has no levels to show for itself.
fn is_ours(name: &str) -> bool {
    name == CONFIG || name.contains(LEVEL) || !matches!(keys::meaning(&path(name)), Meaning::Unknown)
}

/// As Kubernetes names what it tells every pod of a Service: its address, and one of its ports.
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

fn path(name: &str) -> Vec<String> {
    let names = name[PREFIX.len()..].split(LEVEL).map(str::to_lowercase);
    keys::join(names.collect())
}

/// One setting of the raw text, or all those of an inline table.
fn spread(path: Vec<String>, text: &str, source: &Source) -> Settings {
    let mut settings = Settings::default();
    if !matches!(keys::meaning(&path), Meaning::Table) {
        settings.all.push(Setting::new(path, Value::from(text), source.clone()));
        return settings;
    }
    let mistake = |wrong: String| Mistake::new(path.join("."), source, wrong).allowed(kind::TABLE);
    match file::inline_table(text) {
        Ok(Some(leaves)) => {
            settings.all.extend(leaves.into_iter().map(|(names, value)| {
                Setting::new([path.as_slice(), names.as_slice()].concat(), value, source.clone())
            }))
        }
        Ok(None) => settings.mistakes.push(mistake("is not a table".into())),
        Err(why) => settings.mistakes.push(mistake(format!("is not TOML at {why}"))),
    }
    settings
}

/// The variable of ours that differs only in how many underscores are between its levels.
fn meant(name: &str) -> Option<String> {
    let plain = keys::KEYS.iter().filter(|key| !key.name.contains('<'));
    let mut ours = plain.map(|key| variable(&key.name.split('.').map(str::to_owned).collect::<Vec<_>>()));
    ours.find(|ours| ours.replace(LEVEL, "_") == name)
}
