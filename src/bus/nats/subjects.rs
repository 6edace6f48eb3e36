//! The subjects of the stream: which ones it takes, and adding missing ones with `update_stream`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_nats::jetstream::context::{CreateStreamErrorKind, UpdateStreamError};
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{Context, ErrorCode};

/// How often to retry subjects that another stream captures: each retry costs a request.
const TRY_AGAIN_EVERY: Duration = Duration::from_secs(30);

/// The wanted subjects that a stream does not take.
pub(super) fn lacking(wanted: &[String], has: &[String]) -> BTreeSet<String> {
    wanted.iter().filter(|subject| !has.iter().any(|pattern| takes(pattern, subject))).cloned().collect()
}

/// Whether a subject with wildcards matches one without.
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

/// Subjects that could not be added because another stream captures them.
#[derive(Default)]
pub(super) struct Overlaps {
    subjects: BTreeSet<String>,
    found: Option<Instant>,
}

impl Overlaps {
    /// Adds the missing subjects to the stream, and changes nothing else. `Ok` returns those that another stream
    /// captures; the stream takes the rest. After an error it may take some of them.
    pub(super) async fn add_subjects(
        &mut self,
        context: &Context,
        stream: &Config,
        lacks: &BTreeSet<String>,
    ) -> Result<BTreeSet<String>, UpdateStreamError> {
        if self.found.is_none_or(|at| at.elapsed() > TRY_AGAIN_EVERY) {
            self.subjects.clear();
        }
        self.subjects.retain(|subject| lacks.contains(subject));
        let new: Vec<String> = lacks.difference(&self.subjects).cloned().collect();
        let mut config = stream.clone();
        if !new.is_empty() && !update_subjects(context, &mut config, new.clone()).await? {
            // One overlapping subject must not prevent the others.
            for subject in new {
                if !update_subjects(context, &mut config, vec![subject.clone()]).await? {
                    self.subjects.insert(subject);
                    self.found = Some(Instant::now());
                }
            }
        }
        Ok(self.subjects.clone())
    }
}

/// Whether the stream takes them now; `false` if another one captures some.
async fn update_subjects(
    context: &Context,
    stream: &mut Config,
    subjects: Vec<String>,
) -> Result<bool, UpdateStreamError> {
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
    fn a_stream_takes_what_its_subjects_match() {
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
