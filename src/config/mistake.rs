//! What is wrong with a configuration, worded so that it can be fixed. A mistake never contains the value of a
//! secret; its creator must ensure that.

use std::fmt;
use std::path::PathBuf;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Not given.
    Default,
    File {
        path: PathBuf,
        /// From 1; `None` for the file as a whole.
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

/// What is wrong with a value, before its key is known.
#[derive(Debug)]
pub(super) struct Problem {
    /// Continues a sentence that begins with the key: "has no unit".
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
    /// Empty if it concerns a file or a variable instead of a key.
    pub key: String,
    pub source: Source,
    /// Continues a sentence that begins with the key: "has no unit".
    pub wrong: String,
    /// Continues after "allowed:".
    pub allowed: Option<String>,
    /// What to do, as an imperative.
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

/// Every mistake that was found, one per line; at least one.
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

/// A `TERRA_BRIDGE_…` variable that is not ours. Shown by its name, with the suggested one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    pub name: String,
    /// Our variable that it resembles.
    pub meant: Option<String>,
    /// Not set by a person: Kubernetes sets it if a Service has that name.
    pub injected: bool,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.meant.iter().try_for_each(|meant| write!(f, "; did you mean {meant}?"))
    }
}
