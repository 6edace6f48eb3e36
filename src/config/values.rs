//! The walk over all keys. Comes in: the values that count. Goes out: each of them parsed, with its source,
//! and every mistake that a key can make on its own. Knows nothing of how keys belong together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::environment::Environment;
use super::keys::{KEYS, Key, TERRA, Without};
use super::kind::{Kind, Parsed, Wrong};
use super::mistake::{Mistake, Source};
use super::sheet::{Given, Sheet};
use super::watched::Watched;
use super::{Secret, checks, environment, file, secret};

/// The sections of which one is used.
pub(super) const BUSES: [&str; 3] = ["embedded", "kafka", "nats"];

/// What the configuration is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Serve,
    /// Whoever reads the bus need not hold what only a server does: see [`Key::only_servers`].
    ReadBus,
    /// The admin listener alone: what else is wrong is not for its health check to say.
    AskHealth,
}

#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) key: &'static Key,
    pub(super) parsed: Parsed,
    pub(super) source: Source,
    /// Of secrets that come by reference: as many as there are of them.
    pub(super) references: Vec<String>,
    /// Of secrets that can change while the bridge runs: where each comes from, if from a file.
    pub(super) files: Vec<Option<Watched>>,
}

/// Every value that is sound, by its full name.
#[derive(Debug, Clone)]
pub(super) struct Values {
    pub(super) held: BTreeMap<String, Held>,
    pub(super) endpoints: BTreeSet<String>,
    /// Given for a bus that is not the one configured; neither read nor judged.
    pub(super) unused: BTreeMap<String, (&'static Key, Source)>,
    pub(super) mistakes: Vec<Mistake>,
}

/// What a key's type in [`super::Config`] takes from a parsed value.
pub(super) trait Take: Sized {
    fn take(parsed: &Parsed) -> Option<Self>;
}

macro_rules! take {
    ($($type:ty: $pattern:pat => $value:expr),+ $(,)?) => {
        $(impl Take for $type {
            fn take(parsed: &Parsed) -> Option<Self> {
                match parsed { $pattern => $value, _ => None }
            }
        })+
    };
}

take! {
    bool: Parsed::Flag(flag) => Some(*flag),
    u64: Parsed::Count(n) | Parsed::Size(n) | Parsed::Rate(n) => Some(*n),
    usize: Parsed::Count(n) | Parsed::Size(n) => usize::try_from(*n).ok(),
    i32: Parsed::Count(n) => i32::try_from(*n).ok(),
    u16: Parsed::Count(n) => u16::try_from(*n).ok(),
    Duration: Parsed::Duration(duration) => Some(*duration),
    SocketAddr: Parsed::Address(address) => Some(*address),
    String: Parsed::Text(text) => Some(text.clone()),
    Vec<String>: Parsed::Texts(texts) => Some(texts.clone()),
    Secret: Parsed::Secret(secret) => Some(secret.clone()),
    Vec<Secret>: Parsed::Secrets(secrets) => Some(secrets.clone()),
}

impl Values {
    /// `None` where the key has no value or a mistaken one.
    pub(super) fn get<T: Take>(&self, name: &str) -> Option<T> {
        self.held.get(name).and_then(|held| T::take(&held.parsed))
    }

    /// A topic; within, `None` drops.
    pub(super) fn topic(&self, name: &str) -> Option<Option<String>> {
        match &self.held.get(name)?.parsed {
            Parsed::Dropped => Some(None),
            parsed => String::take(parsed).map(Some),
        }
    }

    /// All below a table, by the rest of their names.
    pub(super) fn below<'a>(&'a self, table: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let names = self.held.keys().filter_map(move |name| Some((name.as_str(), name.strip_prefix(table)?)));
        names.filter_map(|(name, rest)| Some((name, rest.strip_prefix('.')?)))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.held.contains_key(name)
    }

    pub(super) fn source(&self, name: &str) -> Source {
        self.held.get(name).map_or(Source::Default, |held| held.source.clone())
    }

    pub(super) fn bus(&self) -> Option<String> {
        self.get("bus")
    }

    /// Whether the key's section is used; all are while nobody knows which bus is meant.
    pub(super) fn uses(&self, section: &str) -> bool {
        !BUSES.contains(&section) || self.bus().is_none_or(|bus| bus == section)
    }
}

pub(super) fn walk(sheet: Sheet, environment: &Environment, purpose: Purpose, is_terminal: bool) -> Values {
    let Sheet { mut given, endpoints, mistakes } = sheet;
    set_computed_defaults(&mut given, environment, is_terminal);
    let mut values = Values { held: BTreeMap::new(), endpoints, unused: BTreeMap::new(), mistakes };
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let bus = given.remove_entry(["bus".to_owned()].as_slice());
    for (path, given) in bus.into_iter().chain(given) {
        let name = path.join(".");
        seen.insert(name.clone());
        if values.uses(&path[0]) {
            hold(&mut values, name, given, environment, purpose);
        } else if given.source != Source::Default {
            leave_out(&mut values, &path[0], name, given);
        }
    }
    let missing = missing(&values, &seen, purpose);
    values.mistakes.extend(missing);
    values.mistakes.extend(bus_not_chosen(&values));
    values
}

/// Keys of a broker, and nobody said which bus to use: the embedded log is hardly what they mean.
fn bus_not_chosen(values: &Values) -> Option<Mistake> {
    let is_given =
        |bus: &&&str| **bus != "embedded" && values.unused.keys().any(|key| key.split('.').next() == Some(**bus));
    let bus = BUSES.iter().find(is_given).filter(|_| values.source("bus") == Source::Default)?;
    let wrong = format!("is not given, while there are keys of {bus}");
    let remedy = format!("set bus = {bus:?}, or bus = \"embedded\" to keep events in the embedded log");
    Some(Mistake::new("bus", &Source::Default, wrong).remedy(remedy))
}

fn hold(values: &mut Values, name: String, given: Given, environment: &Environment, purpose: Purpose) {
    let Given { key, value, source } = given;
    let kind = match (purpose, key.kind) {
        (Purpose::ReadBus, Kind::Secrets) if key.only_servers() => return,
        (Purpose::ReadBus, Kind::File) if key.only_servers() => Kind::Text(checks::ANY),
        (_, kind) => kind,
    };
    values.mistakes.extend(judge_name(key, &name, &source));
    let lenient = !matches!(source, Source::File { .. });
    match kind.parse(&value, lenient, environment) {
        Ok(parsed) => {
            let references = kind.references(&value, lenient);
            let watched = |(reference, secret): (&String, &Secret)| {
                Some(Watched::new(secret::file_behind(reference, environment)?, secret.clone()))
            };
            let live = references.iter().filter(|_| key.is_live());
            let files = live.zip(parsed.secrets()).map(watched).collect();
            values.held.insert(name, Held { key, parsed, source, references, files });
        }
        Err(wrongs) => values.mistakes.extend(wrongs.into_iter().map(|Wrong { wrong, remedy }| {
            let mistake = Mistake::new(&name, &source, wrong).allowed(key.kind.allowed());
            Mistake { remedy: remedy.map(|remedy| remedy_of(key, &name, &remedy)), ..mistake }
        })),
    }
}

fn remedy_of(key: &Key, name: &str, remedy: &str) -> String {
    if key.name == name { remedy.to_owned() } else { remedy.replace(key.name, name) }
}

/// What stands in a name in place of its angle brackets.
fn judge_name(key: &Key, name: &str, source: &Source) -> Option<Mistake> {
    let (_, pattern) = name.split_once("routes.types.").filter(|_| key.name.ends_with("<type>"))?;
    checks::type_pattern(pattern)
        .err()
        .map(|why| Mistake::new(name, source, why).allowed("a type such as \"daily\", or its beginning and a final *"))
}

/// A key of a bus that is not the one configured: one file may serve several machines. A variable of its own
/// stands on this machine alone, where whoever set it expects something of it.
fn leave_out(values: &mut Values, section: &str, name: String, Given { key, source, .. }: Given) {
    let alone = matches!(&source, Source::Environment(variable) if !environment::is_table(variable));
    if section == "embedded" || !alone {
        values.unused.insert(name, (key, source));
        return;
    }
    let bus = values.bus().unwrap_or_default();
    let wrong = format!("is a key of {section}, while bus is {bus:?} ({})", values.source("bus"));
    let remedy = format!("set {}={section}, or remove it", environment::variable(&["bus".to_owned()]));
    values.mistakes.push(Mistake::new(name, &source, wrong).remedy(remedy));
}

fn set_computed_defaults(given: &mut BTreeMap<Vec<String>, Given>, environment: &Environment, is_terminal: bool) {
    let mut set = |section: &str, name: &str, text: &str, source: Source| {
        let held = given.get_mut([section.to_owned(), name.to_owned()].as_slice());
        if let Some(held) = held.filter(|held| held.source == Source::Default) {
            (held.value, held.source) = (text.into(), source);
        }
    };
    if is_terminal {
        set("log", "format", "text", Source::Default);
    }
    const STATE: &str = "STATE_DIRECTORY";
    // systemd separates several by colons.
    let state = environment.get(STATE).and_then(|value| value.to_str()?.split(':').next());
    if let Some(directory) = state.filter(|directory| !directory.is_empty()) {
        set("embedded", "dir", directory, Source::Environment(STATE.to_owned()));
    }
}

/// Keys that somebody has to give and nobody gave.
fn missing(values: &Values, seen: &BTreeSet<String>, purpose: Purpose) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for key in KEYS {
        match key.without {
            Without::Mistake(example) if values.bus().as_deref() == key.name.split('.').next() => {
                mistakes.extend(absent(key, key.name, example, seen));
            }
            Without::OfTerra(_) if purpose == Purpose::Serve || !key.only_servers() => {
                for endpoint in values.endpoints.iter().filter(|name| *name != TERRA) {
                    mistakes.extend(absent(key, &key.name.replace("<name>", endpoint), &example(key, endpoint), seen));
                }
            }
            _ => {}
        }
    }
    let illegal = values.endpoints.iter().filter(|name| !checks::endpoint_name(name));
    mistakes.extend(illegal.map(|name| {
        Mistake::new(format!("endpoints.{name}"), &endpoint_source(values, name), "is not a name for an endpoint")
            .allowed("a-z, 0-9, \"_\" and \"-\"")
    }));
    mistakes
}

fn example(key: &Key, endpoint: &str) -> String {
    match key.kind {
        Kind::Secrets => format!("env:{}_SIGNING_SECRET", endpoint.to_uppercase().replace('-', "_")),
        _ => format!("/{endpoint}"),
    }
}

fn endpoint_source(values: &Values, endpoint: &str) -> Source {
    let table = format!("endpoints.{endpoint}");
    let sources = values.below(&table).map(|(name, _)| values.source(name));
    sources.into_iter().find(|source| *source != Source::Default).unwrap_or(Source::Together)
}

fn absent(key: &Key, name: &str, example: &str, seen: &BTreeSet<String>) -> Option<Mistake> {
    if seen.contains(name) {
        return None;
    }
    let variable = environment::variable(&name.split('.').map(str::to_owned).collect::<Vec<_>>());
    let mistake =
        Mistake::new(name, &Source::Default, format!("is not given ({})", key.doc)).allowed(key.kind.allowed());
    let written = file::written(&key.kind, example);
    Some(mistake.remedy(format!("set it, such as {name} = {written} or {variable}={example}")))
}
