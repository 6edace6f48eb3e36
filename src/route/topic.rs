//! Where an event goes: a topic, or nowhere.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// The name of a destination, legal on every bus.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

impl Deref for Topic {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl Topic {
    pub(super) fn new(name: String) -> Self {
        Self(name.into())
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.0
    }

    /// For a stored message, which an earlier table may have routed.
    pub(crate) fn of_record(name: &str) -> Self {
        Self(name.into())
    }
}

#[cfg(test)]
impl From<&str> for Topic {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

/// Where an event goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    To(Topic),
    /// The user's routes drop this type.
    Drop,
}

impl Route {
    pub(crate) fn topic(&self) -> Option<&Topic> {
        match self {
            Self::To(topic) => Some(topic),
            Self::Drop => None,
        }
    }
}
