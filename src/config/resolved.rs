//! A configuration without mistakes: how a newer reading differs from it, which differences can apply while the
//! bridge runs, and secrets that changed on disk. Names only keys and endpoints, never a value.

use std::collections::BTreeSet;
use std::path::Path;

use super::advice::{self, Advice};
use super::draft::Draft;
use super::effective::{Effective, State};
use super::key::BUSES;
use super::layers::Layers;
use super::mistake::{Mistake, Mistakes};
use super::rules;
use super::secret::Secret;
use super::secret_file::SecretChange;
use super::secret_source::{SecretSource, Secrets};
use super::section_reader::Purpose;
use super::sections::{Config, KEYS};
use super::setting::endpoint_of;

/// A valid configuration, and everything that it was read from.
#[derive(Debug, Clone)]
pub struct Resolved {
    config: Config,
    layers: Layers,
    effective: Effective,
    secrets: Secrets,
}

/// How a newer reading differs, by the names of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Applied at once.
    pub changed: Vec<String>,
    /// Names of endpoints; applied at once.
    pub added: Vec<String>,
    pub removed: Vec<String>,
    /// Takes effect at the next start.
    pub needs_restart: Vec<String>,
}

/// What changed in the secret files, by the names of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecretChanges {
    pub rotated: Vec<String>,
    /// A file is empty or cannot be read, with the reason: its last secret stays in use.
    pub lost: Vec<(String, String)>,
    /// Reading a file takes too long: its last secret stays in use.
    pub timed_out: Vec<String>,
}

impl Draft {
    /// The resolved configuration, if it has no mistake.
    ///
    /// # Errors
    /// Every mistake, including those that modules reported.
    pub fn finish(self) -> Result<Resolved, Mistakes> {
        let Self { config, layers, effective, secrets, mistakes } = self;
        match mistakes.is_empty() {
            true => Ok(Resolved { config, layers, effective, secrets }),
            false => Err(Mistakes { all: mistakes, ignored: effective.ignored }),
        }
    }
}

impl Resolved {
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The file that it was read from, if there is one.
    pub fn file(&self) -> Option<&Path> {
        self.layers.file.as_deref()
    }

    /// For display: every key with its value and its source. `may_print`: whether the value of a librdkafka property
    /// may be shown to anybody.
    pub fn effective(&self, may_print: impl Fn(&str) -> bool) -> Effective {
        let mut effective = self.effective.clone();
        for line in &mut effective.lines {
            let property = line.key.strip_prefix("kafka.properties.").filter(|property| may_print(property));
            if let Some(secrets) = property.and_then(|_| self.secrets.get(&line.key)) {
                line.value = format!("{:?}", String::from_utf8_lossy(secrets[0].secret.expose()));
            }
        }
        effective
    }

    /// Values that are legal but probably not intended.
    pub fn advice(&self) -> Vec<Advice> {
        advice::of(&self.secrets)
    }

    /// Takes from `new` what can change while the bridge runs, and returns what that was. `check` runs the modules'
    /// checks on the combination.
    ///
    /// The mistakes of that combination with what cannot change; nothing changes then.
    /// The mistakes that this makes together with what cannot change; nothing changes then.
    pub fn apply(&mut self, new: Self, check: impl FnOnce(&mut Draft)) -> Result<Difference, Vec<Mistake>> {
        let difference = self.compare(&new);
        let mut draft = self.mixed(new);
        rules::check(&mut draft);
        check(&mut draft);
        *self = draft.finish().map_err(|mistakes| mistakes.all)?;
        Ok(difference)
    }

    /// Takes the reloadable keys from `new`, and keeps the rest.
    fn mixed(&self, new: Self) -> Draft {
        let other_bus = self.differs(&new, "bus");
        let stays = |name: &String| !KEYS.is_reloadable(name) || (other_bus && is_of_a_bus(name));
        let Self { mut layers, mut secrets, .. } = new;
        let (ours, ours_secret) = (self.layers.values.clone(), self.secrets.clone());
        layers.values.retain(|name, _| !stays(name));
        layers.values.extend(ours.into_iter().filter(|(name, _)| stays(name)));
        secrets.retain(|name, _| !stays(name));
        secrets.extend(ours_secret.into_iter().filter(|(name, _)| stays(name)));
        Draft::read(layers, SecretSource::Known(&secrets), Purpose::Serve)
    }

    pub(super) fn compare(&self, new: &Self) -> Difference {
        let names = |from: &BTreeSet<String>, less: &BTreeSet<String>| from.difference(less).cloned().collect();
        let (before, after) = (&self.layers.endpoints, &new.layers.endpoints);
        let mut difference =
            Difference { added: names(after, before), removed: names(before, after), ..Difference::default() };
        let other_bus = self.differs(new, "bus");
        let all: BTreeSet<&str> = self.set_keys().chain(new.set_keys()).collect();
        for name in all.into_iter().filter(|name| !(other_bus && is_of_a_bus(name)) && self.differs(new, name)) {
            if !KEYS.is_reloadable(name) {
                difference.needs_restart.push(name.to_owned());
            } else if endpoint_of(name).is_none_or(|endpoint| before.contains(endpoint) && after.contains(endpoint)) {
                difference.changed.push(name.to_owned());
            }
        }
        difference
    }

    fn set_keys(&self) -> impl Iterator<Item = &str> {
        self.effective.lines.iter().filter(|line| line.state == State::Set).map(|line| line.key.as_str())
    }

    fn differs(&self, new: &Self, key: &str) -> bool {
        fn value<'a>(of: &'a Resolved, key: &str) -> (Option<&'a str>, Vec<&'a Secret>) {
            let secrets = of.secrets.get(key).into_iter().flatten();
            (of.effective.get(key).map(|line| line.value.as_str()), secrets.map(|known| &known.secret).collect())
        }
        value(self, key) != value(new, key)
    }

    /// Rereads the files of all secrets that can change while the bridge runs. Blocks on the disk, but not on one
    /// that does not answer.
    pub fn reread_secrets(&mut self) -> SecretChanges {
        let mut changes = SecretChanges::default();
        for (name, known) in self.secrets.iter_mut().filter(|(name, _)| KEYS.is_reloadable(name)) {
            let mut rotated = false;
            for known in known {
                match known.file.as_mut().map_or(SecretChange::None, |file| file.reread()) {
                    SecretChange::None => {}
                    SecretChange::Rotated(now) => {
                        known.secret = now;
                        rotated = true;
                    }
                    SecretChange::Lost(why) => changes.lost.push((name.clone(), why)),
                    SecretChange::TimedOut => changes.timed_out.push(name.clone()),
                }
            }
            if rotated {
                changes.rotated.push(name.clone());
            }
        }
        if !changes.rotated.is_empty() {
            let source = SecretSource::Known(&self.secrets);
            let draft = Draft::read(self.layers.clone(), source, Purpose::Serve);
            *self = draft.finish().expect("a sound configuration is sound with other secrets");
        }
        changes
    }
}

fn is_of_a_bus(name: &str) -> bool {
    name.split_once('.').is_some_and(|(section, _)| BUSES.contains(&section))
}
