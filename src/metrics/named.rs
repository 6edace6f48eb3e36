//! Metrics of things that a reload can add and remove.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// By name, sorted.
#[derive(Debug)]
pub(super) struct Named<T>(RwLock<BTreeMap<Arc<str>, Arc<T>>>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<T> Named<T> {
    /// The one of this name, made on first use.
    pub(super) fn get(&self, name: &Arc<str>, make: impl FnOnce() -> T) -> Arc<T> {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.entry(name.clone()).or_insert_with(|| Arc::new(make())).clone()
    }

    pub(super) fn retain(&self, stays: impl Fn(&str) -> bool) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).retain(|name, _| stays(name));
    }

    pub(super) fn all(&self) -> Vec<(Arc<str>, Arc<T>)> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(name, one)| (name.clone(), one.clone())).collect()
    }
}
