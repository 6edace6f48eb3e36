//! A counter for each word that a label can have, all there from the start at 0.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts by the words of one label.
#[derive(Debug)]
pub struct Counts(Box<[(&'static str, AtomicU64)]>);

impl Counts {
    pub(super) fn new(words: &[&'static str]) -> Self {
        Self(words.iter().map(|word| (*word, AtomicU64::new(0))).collect())
    }

    /// A word that the label does not have is not counted.
    pub fn add(&self, word: &str) {
        let count = self.0.iter().find(|(known, _)| *known == word).map(|(_, count)| count);
        debug_assert!(count.is_some(), "the label has no {word}");
        if let Some(count) = count {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(word, count)| (*word, count.load(Relaxed)))
    }
}
