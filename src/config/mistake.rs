//! What is wrong with a configuration, said so that it can be put right.
//! A mistake never has the value of a secret in it: whoever makes one sees to that.

use std::fmt;
use std::path::PathBuf;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody gave it.
    Default,
    File {
        path: PathBuf,
        /// From 1; `None` where the file as a whole is meant.
        line: Option<usize>,
    },
    /// The variable's name.
    Environment(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Environment(name) => f.write_str(name),
        }
    }
}

/// What is wrong with a value, before anybody asks which key it belongs to.
#[derive(Debug)]
pub(super) struct Problem {
    /// Reads on from the key: "has no unit".
    pub(super) wrong: String,
    pub(super) remedy: Option<String>,
}

impl<S: Into<String>> From<S> for Problem {
    fn from(wrong: S) -> Self {
        Self { wrong: wrong.into(), remedy: None }
    }
}

impl From<Problem> for Vec<Problem> {
    fn from(problem: Problem) -> Self {
        vec![problem]
    }
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Empty where no key is meant, but a file or a variable.
    pub key: String,
    pub source: Source,
    /// Reads on from the key: "has no unit".
    pub wrong: String,
    /// Reads on from "allowed:".
    pub allowed: Option<String>,
    /// What to do, as a request.
    pub remedy: Option<String>,
}

impl Mistake {
    pub(super) fn new(key: impl Into<String>, source: &Source, wrong: impl Into<String>) -> Self {
        Self { key: key.into(), source: source.clone(), wrong: wrong.into(), allowed: None, remedy: None }
    }

    pub(super) fn allowed(mut self, allowed: impl Into<String>) -> Self {
        self.allowed = Some(allowed.into());
        self
    }

    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "{} {}", self.source, self.wrong)?,
            key => write!(f, "{key} ({}) {}", self.source, self.wrong)?,
        }
        if let Some(allowed) = &self.allowed {
            write!(f, "; allowed: {allowed}")?;
        }
        if let Some(remedy) = &self.remedy {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

/// Every mistake that was found, one a line; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes {
    pub all: Vec<Mistake>,
    pub ignored: Vec<Ignored>,
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.all.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Mistakes {}

/// A `TERRA_BRIDGE_…` variable that is not ours. Shown as its name, with the one that was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    pub name: String,
    /// The variable of ours that it looks like.
    pub meant: Option<String>,
    /// Nobody set it: Kubernetes does where a Service is called so.
    pub injected: bool,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.meant.iter().try_for_each(|meant| write!(f, "; did you mean {meant}?"))
    }
}
