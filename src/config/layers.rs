//! The sources, layered by figment: defaults that depend on the surroundings, then the file, then the environment.
//! Keeps keys that exist and are given once; anything else is a mistake.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::environment::{Environment, variable};
use super::format::type_in_words;
use super::key::{Keys, TABLE, TERRA};
use super::mistake::{Mistake, Mistakes, Source};
use super::setting::{RawValue, Settings, endpoint_of};
use super::suggestion::suggest;
use super::{file, texts};

/// The values that count. Defaults are not included.
#[derive(Debug, Clone, Default)]
pub(super) struct Layers {
    /// By the full names of their keys.
    pub(super) values: BTreeMap<String, RawValue>,
    /// At least one.
    pub(super) endpoints: BTreeSet<String>,
    pub(super) file: Option<PathBuf>,
}

impl Layers {
    /// The file is the given one, or else the one that the environment names. Returns the mistakes, too.
    ///
    /// # Errors
    /// The file cannot be used at all. Its missing values would only cause false mistakes.
    pub(super) fn read(
        path: Option<&Path>,
        environment: &Environment,
        keys: &Keys,
        is_terminal: bool,
    ) -> Result<(Self, Vec<Mistake>), Mistakes> {
        let path: Option<PathBuf> = path.map(Path::to_owned).or_else(|| environment.config());
        let mut from_environment = environment.read(keys);
        let from_file = match path.as_deref().map(file::read).transpose() {
            Ok(settings) => settings.unwrap_or_default(),
            Err(mistake) => {
                let all = [vec![*mistake], checked(from_environment, keys).mistakes].concat();
                return Err(Mistakes { all, ignored: environment.ignored(keys) });
            }
        };
        name_endpoints_as_the_file_does(&mut from_environment, &from_file);
        let (from_file, from_environment) = (checked(from_file, keys), checked(from_environment, keys));

        let mut endpoints = BTreeSet::new();
        let mut mistakes = Vec::new();
        for (endpoint, source) in from_file.endpoints().chain(from_environment.endpoints()) {
            if endpoints.insert(endpoint.to_owned()) && !texts::is_endpoint_name(endpoint) {
                let mistake = Mistake::new(format!("endpoints.{endpoint}"), source, "is not a name for an endpoint");
                mistakes.push(mistake.allowed("a-z, 0-9, \"_\" and \"-\""));
            }
        }
        // None of the keys of such a name is known.
        endpoints.retain(|endpoint| !endpoint.starts_with('"'));
        if endpoints.is_empty() {
            endpoints.insert(TERRA.to_owned());
        }
        let of_keys = |given: Vec<(String, RawValue)>| given.into_iter().filter(|(name, _)| keys.find(name).is_some());
        let mistakes = [from_file.mistakes, from_environment.mistakes, mistakes].concat();
        let layers = [
            Layer { name: "suggested", values: suggested(environment, is_terminal) },
            Layer { name: "file", values: of_keys(from_file.all).collect() },
            Layer { name: "environment", values: of_keys(from_environment.all).collect() },
        ];
        Ok((Self { values: merged(layers), endpoints, file: path }, mistakes))
    }
}

/// The values of one source, by the full names of keys.
struct Layer {
    name: &'static str,
    values: BTreeMap<String, RawValue>,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let values = self.values.iter().map(|(name, raw)| Ok((name.clone(), Value::serialize(&raw.value)?)));
        Ok(Map::from([(Profile::Default, values.collect::<Result<_, figment::Error>>()?)]))
    }
}

/// The value that counts for every key: figment knows its layer, and the layer its line or variable.
fn merged(layers: [Layer; 3]) -> BTreeMap<String, RawValue> {
    let figment = layers.iter().fold(Figment::new(), |figment, layer| figment.merge(layer));
    let merged = figment.data().expect("what TOML can hold, figment can").remove(&Profile::Default).unwrap_or_default();
    let value = |(name, value): (String, Value)| {
        let source = figment.get_metadata(value.tag()).expect("every layer has a name");
        let layer = layers.iter().find(|layer| layer.name == source.name)?;
        Some((name.clone(), layer.values.get(&name)?.clone()))
    };
    merged.into_iter().filter_map(value).collect()
}

/// Values that depend on where the bridge runs.
fn suggested(environment: &Environment, is_terminal: bool) -> BTreeMap<String, RawValue> {
    const STATE: &str = "STATE_DIRECTORY";
    let mut values = BTreeMap::new();
    if is_terminal {
        values.insert("log.format".to_owned(), RawValue::new("text", Source::Default));
    }
    // systemd separates several directories by colons.
    let state = environment.get(STATE).and_then(|value| value.to_str()?.split(':').next());
    if let Some(directory) = state.filter(|directory| !directory.is_empty()) {
        let raw = RawValue::new(directory, Source::Environment(STATE.to_owned()));
        values.insert("embedded.dir".to_owned(), raw);
    }
    values
}

/// No shell can export a name with `-`, so `my_staging` means `my-staging` if only that one exists in the file.
fn name_endpoints_as_the_file_does(from_environment: &mut Settings, from_file: &Settings) {
    let named = |settings: &Settings| settings.endpoints().map(|(name, _)| name.to_owned()).collect::<BTreeSet<_>>();
    let in_file = named(from_file);
    let mut dashed = &in_file | &named(from_environment);
    dashed.retain(|name| name.contains('-'));
    for (name, _) in &mut from_environment.all {
        let Some(endpoint) = endpoint_of(name).filter(|endpoint| !in_file.contains(*endpoint)) else { continue };
        let mut matching = dashed.iter().filter(|dashed| dashed.replace('-', "_") == endpoint);
        if let (Some(only), None) = (matching.next(), matching.next()) {
            *name = name.replacen(&format!(".{endpoint}"), &format!(".{only}"), 1);
        }
    }
}

/// Keeps the keys that exist and that this source gives once.
fn checked(given: Settings, keys: &Keys) -> Settings {
    let mut first: BTreeMap<String, Source> = BTreeMap::new();
    let mut checked = Settings { all: Vec::new(), mistakes: given.mistakes };
    for (name, raw) in given.all {
        if let Some(mistake) = unknown(&name, &raw, keys) {
            checked.mistakes.push(mistake);
        } else if let Some(other) = first.insert(name.clone(), raw.source.clone()) {
            let wrong = format!("is given twice, also by {other}");
            checked.mistakes.push(Mistake::new(name, &raw.source, wrong).remedy("keep one"));
        } else {
            checked.all.push((name, raw));
        }
    }
    checked
}

fn unknown(name: &str, raw: &RawValue, keys: &Keys) -> Option<Mistake> {
    let mistake = |wrong: &str| Mistake::new(name, &raw.source, wrong);
    let is_empty_table = raw.value.as_table().is_some_and(toml::Table::is_empty);
    match (keys.find(name), keys.is_table(name)) {
        (Some(_), _) => None,
        // Its endpoint has no name that can be.
        (None, _) if endpoint_of(name).is_some_and(|endpoint| endpoint.starts_with('"')) => None,
        (None, true) if is_empty_table => None,
        (None, true) => Some(mistake(type_in_words(&raw.value)).allowed(TABLE)),
        (None, false) => Some(mistake("is not a key").remedy(did_you_mean(name, &raw.source, keys))),
    }
}

fn did_you_mean(name: &str, source: &Source, keys: &Keys) -> String {
    let mut above = name.match_indices('.').map(|(end, _)| &name[..end]);
    if let Some(above) = above.find(|above| keys.find(above).is_some()) {
        return format!("{above} has no keys below it");
    }
    match (suggest(name, keys), source) {
        (Some(key), Source::Environment(_)) => format!("did you mean {}?", variable(&key)),
        (Some(key), _) => format!("did you mean {key}?"),
        (None, _) => "remove it".to_owned(),
    }
}
