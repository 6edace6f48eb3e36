//! A configuration that was read and may have mistakes. Modules check it and report theirs.

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

    /// The resulting configuration. For a mistaken value, it has the key's default or an example.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The line of a key with a valid value.
    pub(super) fn line(&self, key: &str) -> Option<&Line> {
        self.effective.get(key)
    }

    /// Whether the key has a valid value.
    pub fn is_sound(&self, key: &str) -> bool {
        self.line(key).is_some()
    }

    /// Whether the key is given at all, even if its value is a mistake.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.is_sound(key) || self.mistakes.iter().any(|mistake| mistake.key == key)
    }

    /// Where the key's value comes from.
    pub fn source(&self, key: &str) -> Source {
        self.line(key).map_or(Source::Default, |line| line.source.clone())
    }

    /// Reports a mistake that only a module can find, unless the value was a mistake already. `wrong` continues a
    /// sentence that begins with the key; `remedy` is an imperative.
    pub fn report(&mut self, key: &str, wrong: impl Into<String>, remedy: impl Into<String>) {
        if self.is_sound(key) || !self.is_given(key) {
            self.mistakes.push(Mistake::new(key, &self.source(key), wrong).remedy(remedy));
        }
    }
}
