//! Lays the sources over each other: defaults < file < environment. Comes in: [`Setting`]s.
//! Goes out: for every key that has a value the one that counts, with its source, and what nobody knows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Tag, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::environment::{self, Environment};
use super::keys::{self, KEYS, Key, Meaning, TERRA, Without};
use super::mistake::{Mistake, Source};
use super::{file, kind};

/// One value with its name and source. Each is a figment provider of its own, so that figment
/// knows every source by its line or variable.
pub(super) struct Setting {
    path: Vec<String>,
    value: Value,
    source: Source,
}

/// What a source gives, and the mistakes in it.
#[derive(Default)]
pub(super) struct Settings {
    pub(super) all: Vec<Setting>,
    pub(super) mistakes: Vec<Mistake>,
}

/// The value that counts.
pub(super) struct Given {
    pub(super) key: &'static Key,
    pub(super) value: Value,
    pub(super) source: Source,
}

/// All of them, by the names of their levels.
pub(super) struct Sheet {
    pub(super) given: BTreeMap<Vec<String>, Given>,
    pub(super) endpoints: BTreeSet<String>,
    pub(super) mistakes: Vec<Mistake>,
}

impl Setting {
    pub(super) fn new(path: Vec<String>, value: Value, source: Source) -> Self {
        Self { path: keys::join(path), value, source }
    }
}

impl Provider for Setting {
    fn metadata(&self) -> Metadata {
        match &self.source {
            Source::File { path, line } => Metadata::from(line.unwrap_or(0).to_string(), path.as_path()),
            Source::Environment(name) => Metadata::named(name.clone()).source(figment::Source::Custom(name.clone())),
            Source::Default | Source::Together => Metadata::named("default"),
        }
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let nest = |value, name: &String| Value::Dict(Tag::Default, Dict::from([(name.clone(), value)]));
        let whole = self.path.iter().rev().fold(self.value.clone(), nest);
        Ok(Map::from([(Profile::Default, whole.into_dict().unwrap_or_default())]))
    }
}

impl Settings {
    pub(super) fn extend(&mut self, other: Self) {
        self.all.extend(other.all);
        self.mistakes.extend(other.mistakes);
    }

    /// No shell can export a name with `-`: `my_staging` is `my-staging` where only that one is named otherwise.
    fn name_endpoints_as(&mut self, file: &Self) {
        let in_file: BTreeSet<String> = file.all.iter().filter_map(Setting::endpoint).collect();
        let here = self.all.iter().filter_map(Setting::endpoint);
        let dashed: BTreeSet<String> = in_file.iter().cloned().chain(here).filter(|name| name.contains('-')).collect();
        for setting in &mut self.all {
            let Some(name) = setting.endpoint().filter(|name| !in_file.contains(name)) else { continue };
            let mut meant = dashed.iter().filter(|dashed| dashed.replace('-', "_") == name);
            if let (Some(only), None) = (meant.next(), meant.next()) {
                setting.path[1].clone_from(only);
            }
        }
    }

    /// Keeps what is known and given once.
    fn check(mut self) -> Self {
        let mut first: BTreeMap<Vec<String>, Source> = BTreeMap::new();
        for setting in std::mem::take(&mut self.all) {
            if let Some(mistake) = setting.unknown() {
                self.mistakes.push(mistake);
                continue;
            }
            if let Some(other) = first.insert(setting.path.clone(), setting.source.clone()) {
                let wrong = format!("is given twice, also by {other}");
                self.mistakes.push(Mistake::new(setting.path.join("."), &setting.source, wrong).remedy("keep one"));
                continue;
            }
            self.all.push(setting);
        }
        self
    }
}

impl Setting {
    fn unknown(&self) -> Option<Mistake> {
        let mistake = |wrong| Mistake::new(self.path.join("."), &self.source, wrong);
        let empty_table = self.value.as_dict().is_some_and(Dict::is_empty);
        match keys::meaning(&self.path) {
            Meaning::Key(_) => None,
            Meaning::Table if empty_table => None,
            Meaning::Table => Some(mistake(kind::sort(&self.value)).allowed(kind::TABLE)),
            Meaning::Unknown => Some(self.suggest(mistake("is not a key"))),
        }
    }

    fn suggest(&self, mistake: Mistake) -> Mistake {
        let above = (1..self.path.len()).find(|n| matches!(keys::meaning(&self.path[..*n]), Meaning::Key(_)));
        if let Some(above) = above {
            return mistake.remedy(format!("{} has no keys below it", self.path[..above].join(".")));
        }
        match (keys::suggest(&self.path), &self.source) {
            (Some(key), Source::Environment(_)) => {
                mistake.remedy(format!("did you mean {}?", environment::variable(&key)))
            }
            (Some(key), _) => mistake.remedy(format!("did you mean {}?", key.join("."))),
            (None, _) => mistake.remedy("remove it"),
        }
    }

    fn is_value(&self) -> bool {
        matches!(keys::meaning(&self.path), Meaning::Key(_))
    }
}

impl Sheet {
    /// Leaves all other sections out, with the mistakes in them.
    pub(super) fn keep(&mut self, section: &str) {
        self.given.retain(|path, _| path[0] == section);
        self.endpoints.clear();
        self.mistakes.retain(|mistake| mistake.key.split('.').next() == Some(section));
    }
}

/// `Err` where the file cannot be used at all: what it leaves unsaid would only make false mistakes.
pub(super) fn lay(path: Option<&Path>, environment: &Environment) -> Result<Sheet, Vec<Mistake>> {
    let path: Option<PathBuf> = path.map(Path::to_owned).or_else(|| environment.config());
    let mut from_environment = environment.read();
    let all = match path.as_deref().map(file::read).transpose() {
        Ok(all) => all.unwrap_or_default(),
        Err(mistake) => return Err([vec![*mistake], from_environment.check().mistakes].concat()),
    };
    let from_file = Settings { all, mistakes: Vec::new() }.check();
    from_environment.name_endpoints_as(&from_file);
    let from_environment = from_environment.check();

    let given = from_file.all.iter().chain(&from_environment.all);
    let mut endpoints: BTreeSet<String> = given.filter_map(Setting::endpoint).collect();
    if endpoints.is_empty() {
        endpoints.insert(TERRA.to_owned());
    }
    let layers = defaults(&endpoints).into_iter().chain(from_file.all).chain(from_environment.all);
    let figment = layers.filter(Setting::is_value).fold(Figment::new(), Figment::merge);
    let mistakes = from_file.mistakes.into_iter().chain(from_environment.mistakes).collect();
    Ok(Sheet { given: collect(&figment), endpoints, mistakes })
}

impl Setting {
    fn endpoint(&self) -> Option<String> {
        self.path.strip_prefix(&["endpoints".to_owned()]).and_then(|rest| rest.first()).cloned()
    }
}

fn defaults(endpoints: &BTreeSet<String>) -> Vec<Setting> {
    let setting = |name: &str, text| {
        Setting::new(name.split('.').map(str::to_owned).collect(), Value::from(text), Source::Default)
    };
    let of_key = |key: &Key| match key.without {
        Without::Default(text) if key.name.contains("<name>") => {
            endpoints.iter().map(|name| setting(&key.name.replace("<name>", name), text)).collect()
        }
        Without::Default(text) => vec![setting(key.name, text)],
        Without::OfTerra(text) if endpoints.contains(TERRA) => vec![setting(&key.name.replace("<name>", TERRA), text)],
        Without::OfTerra(_) | Without::Unset(_) | Without::Mistake(_) => Vec::new(),
    };
    KEYS.iter().flat_map(of_key).collect()
}

fn collect(figment: &Figment) -> BTreeMap<Vec<String>, Given> {
    let whole = figment.find_value("").ok().and_then(Value::into_dict).unwrap_or_default();
    let mut given = BTreeMap::new();
    let mut open: Vec<(Vec<String>, Value)> = whole.into_iter().map(|(name, value)| (vec![name], value)).collect();
    while let Some((path, value)) = open.pop() {
        match (keys::meaning(&path), value) {
            (Meaning::Key(key), value) => {
                let source = source(figment, value.tag());
                given.insert(path, Given { key, value, source });
            }
            (_, Value::Dict(_, dict)) => {
                open.extend(dict.into_iter().map(|(name, value)| ([path.as_slice(), &[name]].concat(), value)));
            }
            _ => {}
        }
    }
    given
}

fn source(figment: &Figment, tag: Tag) -> Source {
    let Some(metadata) = figment.get_metadata(tag) else { return Source::Default };
    match &metadata.source {
        Some(figment::Source::File(path)) => Source::File { path: path.clone(), line: metadata.name.parse().ok() },
        Some(figment::Source::Custom(name)) => Source::Environment(name.clone()),
        _ => Source::Default,
    }
}
