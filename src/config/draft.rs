//! A configuration that was read and may have mistakes. Rooms look at it and report what they find wrong.

use super::declaration::Section;
use super::effective::{Effective, Line};
use super::layers::Layers;
use super::mistake::{Mistake, Source};
use super::secret_source::{SecretSource, Secrets};
use super::section_reader::{Purpose, SectionReader};
use super::sections::Config;

#[derive(Debug)]
pub struct Draft {
    pub(super) config: Config,
    pub(super) layers: Layers,
    pub(super) effective: Effective,
    pub(super) secrets: Secrets,
    pub(super) mistakes: Vec<Mistake>,
}

impl Draft {
    pub(super) fn read(layers: Layers, secrets: SecretSource<'_>, purpose: Purpose) -> Self {
        let mut keys = SectionReader::new(&layers, secrets, purpose);
        let config = Config::read(&mut keys);
        let SectionReader { effective, secrets, mistakes, .. } = keys;
        Self { config, layers, effective, secrets, mistakes }
    }

    /// What it comes to. In place of a mistaken value stands the key's default, or an example.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Of a key that has a sound value.
    pub(super) fn line(&self, key: &str) -> Option<&Line> {
        self.effective.get(key)
    }

    /// Whether the key has a value, and a sound one.
    pub fn is_sound(&self, key: &str) -> bool {
        self.line(key).is_some()
    }

    /// Whether it has a value at all: a key that is mistaken is given all the same.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.is_sound(key) || self.mistakes.iter().any(|mistake| mistake.key == key)
    }

    /// Where the key's value comes from.
    pub fn source(&self, key: &str) -> Source {
        self.line(key).map_or(Source::Default, |line| line.source.clone())
    }

    /// A mistake that only a module can see, unless the value was mistaken already: what is wrong reads on from the key,
    /// the remedy is a request.
    pub fn report(&mut self, key: &str, wrong: impl Into<String>, remedy: impl Into<String>) {
        if self.is_sound(key) || !self.is_given(key) {
            self.mistakes.push(Mistake::new(key, &self.source(key), wrong).remedy(remedy));
        }
    }
}
