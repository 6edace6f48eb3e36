//! Reads one key after the other: its value, its display, and every mistake that it can have on its own.

use std::collections::BTreeMap;

use super::effective::{Effective, Line, State};
use super::environment;
use super::format::{Format, Parsed};
use super::key::{Key, KeyDefault, TERRA};
use super::layers::Layers;
use super::mistake::{Mistake, Problem, Source};
use super::secret_source::{Context, SecretSource, Secrets};
use super::setting::{RawValue, endpoint_of};

/// The purpose of reading the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A server needs everything.
    Serve,
    /// A reader of the bus needs no signing secret and no file that only a server uses, and gets none of them.
    ReadBus,
}

/// The current position, and what applies to all keys there.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    /// Empty, or ends in a dot.
    table: String,
    /// The field being read, and its documentation.
    field: String,
    doc: &'static str,
    pub(super) reloadable: bool,
    pub(super) server_only: bool,
    /// Whether this section's bus is the one in use; `None` if that is a mistake.
    pub(super) used: Option<bool>,
}

pub(super) struct SectionReader<'a> {
    layers: &'a Layers,
    source: SecretSource<'a>,
    purpose: Purpose,
    scope: Scope,
    pub(super) effective: Effective,
    pub(super) secrets: Secrets,
    pub(super) mistakes: Vec<Mistake>,
    /// Set instead of values: collects the keys that are read.
    list: Option<Vec<Key>>,
}

impl<'a> SectionReader<'a> {
    pub(super) fn new(layers: &'a Layers, source: SecretSource<'a>, purpose: Purpose) -> Self {
        let (table, field) = (String::new(), String::new());
        Self {
            layers,
            source,
            purpose,
            scope: Scope { table, field, doc: "", reloadable: false, server_only: false, used: Some(true) },
            effective: Effective::default(),
            secrets: Secrets::new(),
            mistakes: Vec::new(),
            list: None,
        }
    }

    /// Every key that `read` uses.
    pub(super) fn list<T>(read: impl FnOnce(&mut SectionReader<'_>) -> T) -> Vec<Key> {
        let nothing = Layers::default();
        let mut keys = SectionReader::new(&nothing, SecretSource::Nothing, Purpose::Serve);
        keys.list = Some(Vec::new());
        read(&mut keys);
        keys.list.unwrap_or_default()
    }

    /// Reads with another scope.
    pub(super) fn within<T>(&mut self, change: impl FnOnce(&mut Scope), read: impl FnOnce(&mut Self) -> T) -> T {
        let outer = self.scope.clone();
        change(&mut self.scope);
        let value = read(self);
        self.scope = outer;
        value
    }

    /// Reads a field of the table.
    pub(super) fn field<T>(&mut self, name: &str, doc: &'static str, read: impl FnOnce(&mut Self) -> T) -> T {
        self.within(|scope| (scope.field, scope.doc) = (name.to_owned(), doc.trim()), read)
    }

    /// Reads the table that has the field's name.
    pub(super) fn table<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let table = format!("{}.", self.name());
        self.within(|scope| scope.table = table, read)
    }

    /// The full name of the field's key.
    fn name(&self) -> String {
        format!("{}{}", self.scope.table, self.scope.field)
    }

    /// The value of the field's key; `None` if it is missing or a mistake.
    pub(super) fn value<T>(&mut self, default: KeyDefault, format: &Format<T>) -> Option<T> {
        let (toml, reloadable) = (format.in_toml(default.text()), self.scope.reloadable);
        let key = Key { name: self.name(), doc: self.scope.doc, default, toml, reloadable };
        let given = self.layers.values.get(&key.name);
        if let Some(list) = &mut self.list {
            list.push(key);
        } else if self.scope.used == Some(false) {
            given.into_iter().for_each(|given| self.leave_out(&key.name, given));
        } else if let Some(raw) = given.cloned().or_else(|| key.default_value()) {
            return self.parse(key.name, &raw, format);
        } else {
            self.miss(&key, &format.allowed);
        }
        None
    }

    /// All keys of the table that has the field's name. `part` stands for them in the list of keys.
    pub(super) fn open_table<T>(
        &mut self,
        part: &str,
        check: fn(&str) -> Result<(), &'static str>,
        default: KeyDefault,
        format: &Format<T>,
    ) -> BTreeMap<String, T> {
        let doc = self.scope.doc;
        self.table(|keys| {
            let mut values = BTreeMap::new();
            for name in keys.names(part) {
                keys.field(&name, doc, |keys| {
                    keys.check_name(check);
                    values.extend(keys.value(default, format).map(|value| (name.clone(), value)));
                });
            }
            values
        })
    }

    fn parse<T>(&mut self, name: String, raw: &RawValue, format: &Format<T>) -> Option<T> {
        let source = if self.needs_no_secret() { SecretSource::Nothing } else { self.source };
        let mut context = Context::new(&name, raw.is_lenient(), source);
        match format.parse(&raw.value, &mut context) {
            Ok(Parsed { value, shown }) => {
                let found = context.found;
                self.secrets.extend((!found.is_empty()).then(|| (name.clone(), found)));
                self.note(&name, &shown, &raw.source, State::Set);
                Some(value)
            }
            Err(problems) => {
                self.mistakes.extend(problems.into_iter().map(|Problem { wrong, remedy }| {
                    let remedy = remedy.map(|remedy| remedy.replace("<name>", endpoint_of(&name).unwrap_or("<name>")));
                    Mistake { remedy, ..Mistake::new(&name, &raw.source, wrong).allowed(&*format.allowed) }
                }));
                None
            }
        }
    }

    fn needs_no_secret(&self) -> bool {
        self.purpose == Purpose::ReadBus && self.scope.server_only
    }

    /// Skips a key of a bus that is not in use: one file may serve several machines. A variable of its own exists
    /// only on this machine, and whoever set it expects an effect, so that is a mistake, unless a variable beside it
    /// chose another bus.
    fn leave_out(&mut self, name: &str, given: &RawValue) {
        let section = name.split('.').next().unwrap_or_default();
        let alone = matches!(given.source, Source::Environment(_)) && !given.of_whole_table;
        let bus = self.effective.get("bus").filter(|bus| !matches!(bus.source, Source::Environment(_)));
        if let (true, Some(bus)) = (alone && section != "embedded", bus) {
            let wrong = format!("is a key of {section}, while bus is {} ({})", bus.value, bus.source);
            let remedy = format!("set {}={section}, or remove it", environment::variable("bus"));
            self.mistakes.push(Mistake::new(name, &given.source, wrong).remedy(remedy));
        } else {
            self.note(name, "unused while bus is another", &given.source, State::Unused);
        }
    }

    /// Reports a required key that is not given.
    fn miss(&mut self, key: &Key, allowed: &str) {
        let (name, endpoint) = (&key.name, endpoint_of(&key.name));
        match key.default {
            KeyDefault::Required(_) if self.scope.used == Some(true) => {}
            KeyDefault::ValueOfTerra(_) if !self.needs_no_secret() => {}
            KeyDefault::Unset(_) if endpoint.is_none() => {
                return self.note(name, "not set", &Source::Default, State::NotSet);
            }
            _ => return,
        }
        let of_endpoint = |text: &str| match endpoint {
            Some(endpoint) => {
                text.replace(TERRA, endpoint).replace("TERRA", &endpoint.to_uppercase().replace('-', "_"))
            }
            None => text.to_owned(),
        };
        let (toml, text) = (of_endpoint(&key.toml), of_endpoint(key.default.text()));
        let mistake = Mistake::new(name, &Source::Default, format!("is not given ({})", key.doc));
        let remedy = format!("set it, such as {name} = {toml} or {}={text}", environment::variable(name));
        self.mistakes.push(mistake.allowed(allowed).remedy(remedy));
    }

    fn note(&mut self, name: &str, shown: &str, source: &Source, state: State) {
        let (key, value) = (name.to_owned(), shown.to_owned());
        self.effective.lines.push(Line { key, value, source: source.clone(), state });
    }

    /// Whether a key of this table has a valid value.
    pub(super) fn is_set(&self, field: &str) -> bool {
        self.effective.get(&format!("{}{field}", self.scope.table)).is_some()
    }

    /// The user's name for this table.
    pub(super) fn table_name(&self) -> &str {
        self.scope.table.trim_end_matches('.').rsplit('.').next().unwrap_or_default()
    }

    /// The user's keys in this table; in the list of keys, `part` stands for them.
    fn names(&self, part: &str) -> Vec<String> {
        let below = self.layers.values.keys().filter_map(|key| key.strip_prefix(&self.scope.table));
        if self.list.is_some() { vec![part.to_owned()] } else { below.map(str::to_owned).collect() }
    }

    /// The names of the endpoints; in the list of keys, `<name>` stands for them.
    pub(super) fn endpoints(&self) -> Vec<String> {
        let all = self.layers.endpoints.iter().cloned();
        if self.list.is_some() { vec!["<name>".to_owned()] } else { all.collect() }
    }

    /// Reports a mistake if the field's name is not valid.
    fn check_name(&mut self, check: fn(&str) -> Result<(), &'static str>) {
        let name = self.name();
        if let (Err(why), Some(given)) = (check(&self.scope.field), self.layers.values.get(&name)) {
            let allowed = "a type such as \"daily\", or its beginning and a final *";
            self.mistakes.push(Mistake::new(name, &given.source, why).allowed(allowed));
        }
    }
}
