//! The subjects of the stream: what is known of those that it takes, and how it comes to take what it lacks. Comes
//! in: what is wanted and what there is. Goes out: what another stream has.

use std::collections::BTreeSet;
use std::time::Instant;

use async_nats::jetstream::context::{CreateStreamErrorKind, UpdateStreamError};
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{Context, ErrorCode};

use super::stream::LOOK_AGAIN_EVERY;
use crate::bus::Refusal;

/// What is known of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ensured {
    /// Not seen yet, or in doubt.
    Unknown,
    Complete,
    /// It takes all but these, which were told of a moment ago.
    Adding(BTreeSet<String>),
    /// It is there and does not take these subjects.
    Lacking(BTreeSet<String>),
    /// It takes nothing, or acknowledges what it does not keep.
    Unusable(Refusal),
}

impl Ensured {
    /// Messages go to the subjects `now`, and went to those `before`.
    pub(super) fn add(&mut self, before: &[String], now: &[String]) {
        let new = now.iter().filter(|subject| !before.contains(subject)).cloned();
        match self {
            Self::Adding(known) => known.extend(new),
            Self::Complete => *self = Self::Adding(new.collect()),
            Self::Unknown | Self::Lacking(_) | Self::Unusable(_) => {}
        }
    }
}

/// Those of the wanted subjects that a stream does not take.
pub(super) fn lacking(wanted: &[String], has: &[String]) -> BTreeSet<String> {
    wanted.iter().filter(|subject| !has.iter().any(|pattern| takes(pattern, subject))).cloned().collect()
}

/// Whether a subject with wildcards takes one without.
pub(super) fn takes(pattern: &str, subject: &str) -> bool {
    let (mut patterns, mut tokens) = (pattern.split('.'), subject.split('.'));
    loop {
        match (patterns.next(), tokens.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(pattern), Some(token)) if pattern == token => {}
            _ => return false,
        }
    }
}

/// Subjects that could not be added, since another stream takes them. They are asked for again only once in a
/// while: each costs a request.
#[derive(Default)]
pub(super) struct Overlaps {
    subjects: BTreeSet<String>,
    found: Option<Instant>,
}

impl Overlaps {
    /// Adds to the stream what it lacks, and changes nothing else of it. `Ok`: those that another stream takes,
    /// and it takes the rest. An error: it may take some of them.
    pub(super) async fn add(
        &mut self,
        context: &Context,
        stream: &Config,
        lacks: &BTreeSet<String>,
    ) -> Result<BTreeSet<String>, UpdateStreamError> {
        if self.found.is_none_or(|at| at.elapsed() > LOOK_AGAIN_EVERY) {
            self.subjects.clear();
        }
        self.subjects.retain(|subject| lacks.contains(subject));
        let new: Vec<String> = lacks.difference(&self.subjects).cloned().collect();
        let mut config = stream.clone();
        if !new.is_empty() && !add(context, &mut config, new.clone()).await? {
            // One that overlaps must not keep out the others.
            for subject in new {
                if !add(context, &mut config, vec![subject.clone()]).await? {
                    self.subjects.insert(subject);
                    self.found = Some(Instant::now());
                }
            }
        }
        Ok(self.subjects.clone())
    }
}

/// Whether the stream takes them now; `false` where another one takes some.
async fn add(context: &Context, stream: &mut Config, subjects: Vec<String>) -> Result<bool, UpdateStreamError> {
    let (mut longer, added) = (stream.clone(), subjects.len());
    longer.subjects.extend(subjects);
    match context.update_stream(&longer).await {
        Ok(_) => {
            tracing::info!(stream = longer.name, subjects = added, "added subjects to the NATS stream");
            *stream = longer;
            Ok(true)
        }
        Err(error) => match error.kind() {
            CreateStreamErrorKind::JetStream(refused) if refused.error_code() == ErrorCode::STREAM_SUBJECT_OVERLAP => {
                Ok(false)
            }
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_subjects_wait_for_the_stream_and_the_others_do_not() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut ensured = Ensured::Complete;
        ensured.add(&names(&["a"]), &names(&["a", "b"]));
        ensured.add(&names(&["a", "b"]), &names(&["b", "c"]));
        assert_eq!(ensured, Ensured::Adding(BTreeSet::from(["b".to_owned(), "c".to_owned()])));
        let mut unknown = Ensured::Unknown;
        unknown.add(&[], &names(&["a"]));
        assert_eq!(unknown, Ensured::Unknown);
    }

    #[test]
    fn a_stream_takes_what_its_subjects_say() {
        for (pattern, subject, expected) in [
            ("terra.daily", "terra.daily", true),
            ("terra.*", "terra.daily", true),
            ("terra.*", "terra.lab_report.failed", false),
            ("terra.>", "terra.lab_report.failed", true),
            ("terra.>", "terra", false),
            (">", "terra", true),
            ("terra", "terra.daily", false),
            ("*.daily", "terra.daily", true),
        ] {
            assert_eq!(takes(pattern, subject), expected, "{pattern} {subject}");
        }
        let wanted = ["a.b".to_owned(), "c".to_owned()];
        assert_eq!(lacking(&wanted, &["a.*".to_owned()]), BTreeSet::from(["c".to_owned()]));
    }
}
