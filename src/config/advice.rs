//! Advice on values that are legal but probably not intended. It never contains the value of a secret.

use super::secret_source::{KnownSecret, Secrets};

/// One piece of advice. It stops nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    pub key: String,
    /// For a secret: where it comes from.
    pub reference: Option<String>,
    /// Continues a sentence that begins with the key: "is in quotes".
    pub says: String,
    /// What to do, as an imperative.
    pub remedy: String,
}

impl Advice {
    /// The key and, for a secret, where it comes from.
    pub fn about(&self) -> String {
        let reference = self.reference.iter().map(|reference| format!(" ({reference})"));
        reference.fold(self.key.clone(), |key, reference| key + &reference)
    }
}

/// Byte order marks of UTF-8 and UTF-16.
const MARKS: [&[u8]; 3] = [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"];

/// Secrets shorter than this many bytes can be guessed.
const SHORTEST: usize = 8;

pub(super) fn of(secrets: &Secrets) -> Vec<Advice> {
    secrets.iter().flat_map(|(key, known)| known.iter().filter_map(|known| odd_secret(key, known))).collect()
}

fn odd_secret(key: &str, known: &KnownSecret) -> Option<Advice> {
    let reference = known.reference.clone()?;
    let signs = key.starts_with("endpoints.");
    let odd = oddities(known.secret.expose(), signs || key == "embedded.token");
    let whose = if signs { "Terra's dashboard shows it" } else { "it was given out" };
    (!odd.is_empty()).then(|| Advice {
        key: key.to_owned(),
        reference: Some(reference),
        says: odd.join(" and "),
        remedy: format!("store the secret alone, exactly as {whose}"),
    })
}

/// Defects that a secret picks up in shells, editors and manifests. A text of several lines, such as a credentials
/// file, is left alone.
fn oddities(secret: &[u8], guessable: bool) -> Vec<&'static str> {
    let mark = MARKS.iter().find(|mark| secret.starts_with(mark)).copied();
    let unmarked = &secret[mark.map_or(0, <[u8]>::len)..];
    let inner = unmarked.trim_ascii();
    let line = unmarked.strip_suffix(b"\n").map_or(unmarked, |line| line.strip_suffix(b"\r").unwrap_or(line));
    if inner.contains(&b'\n') {
        return Vec::new();
    }
    let quoted = inner.len() > 1 && inner[0] == inner[inner.len() - 1] && b"\"'`".contains(&inner[0]);
    let all = [
        (mark.is_some(), "begins with a byte order mark"),
        (line.len() < unmarked.len(), "ends in a newline"),
        (inner.len() < line.len(), "has white space around it"),
        (quoted, "is in quotes"),
        (guessable && secret.len() < SHORTEST, "is shorter than 8 bytes"),
    ];
    all.iter().filter(|(is, _)| *is).map(|(_, says)| *says).collect()
}
