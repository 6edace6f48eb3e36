//! The key that an unknown name was probably meant to be.

use strsim::normalized_damerau_levenshtein;

use super::key::{BUSES, Key, Keys};

/// Other programs' names for our keys.
const ELSEWHERE: [(&str, &str); 8] = [
    ("kafka.bootstrap.servers", "kafka.brokers"),
    ("kafka.bootstrap_servers", "kafka.brokers"),
    ("kafka.servers", "kafka.brokers"),
    ("nats.url", "nats.servers"),
    ("nats.urls", "nats.servers"),
    ("nats.username", "nats.user"),
    ("server.port", "server.listen"),
    ("log.level", "log.filter"),
];

/// The known key that an unknown one was probably meant to be.
pub(super) fn suggest(name: &str, keys: &Keys) -> Option<String> {
    let elsewhere = ELSEWHERE.iter().find(|(theirs, _)| *theirs == name).map(|(_, ours)| (*ours).to_owned());
    elsewhere.or_else(|| alike(name, keys)).or_else(|| in_open_table(name))
}

fn alike(name: &str, keys: &Keys) -> Option<String> {
    /// Found by experiment: accepts a letter or two, and a missing or wrong section.
    const ALIKE: f64 = 0.84;
    let ours = section(name);
    let of_another_bus = |theirs: &str| theirs != ours && BUSES.contains(&theirs) && BUSES.contains(&ours);
    let likeness = |key: &Key| {
        let candidate = filled(&key.name, name);
        let whole = normalized_damerau_levenshtein(&candidate, name);
        let last = normalized_damerau_levenshtein(last(&candidate), last(name));
        // A name in angle brackets is the user's own, so it has no similarity.
        let last = if key.name.ends_with('>') { 0.0 } else { last };
        (whole.max(last * 0.9) + whole / 100.0, candidate)
    };
    let candidates = keys.iter().filter(|key| !of_another_bus(section(&key.name))).map(likeness);
    let alike = candidates.filter(|(likeness, _)| *likeness >= ALIKE);
    alike.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, candidate)| candidate)
}

fn section(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or_default()
}

/// The declared name, with the given names in place of its brackets.
fn filled(declared: &str, name: &str) -> String {
    let given: Vec<&str> = name.splitn(declared.split('.').count(), '.').collect();
    let fill = |(at, part)| if str::starts_with(part, '<') { *given.get(at).unwrap_or(&part) } else { part };
    declared.split('.').enumerate().map(fill).collect::<Vec<_>>().join(".")
}

/// A name that belongs in a table whose keys the user chooses.
fn in_open_table(name: &str) -> Option<String> {
    let (section, rest) = name.split_once('.').filter(|(_, rest)| !rest.is_empty())?;
    match section {
        // Every commonly set librdkafka property has a dot.
        "kafka" if rest.contains('.') => Some(format!("kafka.properties.{rest}")),
        "routes" => Some(format!("routes.types.{rest}")),
        "endpoints" => {
            let (endpoint, rest) = rest.split_once(".routes.").filter(|(_, rest)| !rest.is_empty())?;
            Some(format!("endpoints.{endpoint}.routes.types.{rest}"))
        }
        _ => None,
    }
}
