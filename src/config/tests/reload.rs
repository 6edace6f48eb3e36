//! What a newer reading changes while the bridge runs, and secret files that change.

use std::ffi::OsString;

use super::*;
use crate::config::{Bus, Difference, Secret, SecretChanges};

fn loaded(dir: &Path, toml: &str) -> Loaded {
    let path = dir.join("t.toml");
    std::fs::write(&path, toml).unwrap();
    let variables: Vec<(OsString, OsString)> = vec![("S".into(), "hunter2".into()), ("P".into(), "hunter3".into())];
    load(Some(&path), variables.into_iter(), false).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

const SIGNED: &str = "[endpoints.terra]\nsecrets = [\"env:S\"]\n";

/// The difference between two files that share their first half.
fn difference(same: &str, before: &str, after: &str) -> Difference {
    let dir = tempfile::tempdir().unwrap();
    let mut running = loaded(dir.path(), &format!("{same}{before}")).resolved;
    let new = loaded(dir.path(), &format!("{same}{after}")).resolved;
    let difference = running.apply(new.clone(), |_| {}).unwrap();
    let again = running.compare(&new);
    assert_eq!(
        again,
        Difference { needs_restart: difference.needs_restart.clone(), ..Difference::default() },
        "the rest is taken"
    );
    difference
}

fn keys(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn equal_values_in_another_notation_are_no_difference() {
    let difference = difference(SIGNED, "", "max_age = \"1560m\"\n[server]\nmax_body = \"12288 KiB\"");
    assert_eq!(difference, Difference::default());
}

#[test]
fn endpoints_routes_and_the_filter_are_applied_and_the_rest_is_only_named() {
    let after = "max_age = \"1h\"\nrejected_status = 503\n[routes]\nunknown = false\n[routes.types]\ndaily = \"d\"\n\
                 \"lab.*\" = \"l\"\n[log]\nfilter = \"debug\"\nformat = \"text\"\n[server]\nlisten = \"0.0.0.0:1\"\n\
                 [embedded]\ndir = \"/elsewhere\"";
    let difference = difference(SIGNED, "", after);
    let changed = [
        "endpoints.terra.max_age",
        "endpoints.terra.rejected_status",
        "log.filter",
        "routes.types.daily",
        "routes.types.lab.*",
        "routes.unknown",
    ];
    assert_eq!(difference.changed, keys(&changed));
    assert_eq!(difference.needs_restart, keys(&["embedded.dir", "log.format", "server.listen"]));
    assert!(difference.added.is_empty() && difference.removed.is_empty());
}

#[test]
fn added_and_removed_endpoints_are_named_as_a_whole() {
    let before = "[endpoints.gone]\npath = \"/gone\"\nsecrets = [\"env:S\"]";
    let after = "[endpoints.new]\npath = \"/gone\"\nsecrets = [\"env:S\"]";
    let difference = difference(SIGNED, before, after);
    let expected = Difference { added: keys(&["new"]), removed: keys(&["gone"]), ..Difference::default() };
    assert_eq!(difference, expected);
}

#[test]
fn a_changed_broker_secret_is_named_and_never_shown() {
    let same = format!("{SIGNED}[nats]\nservers = [\"a:1\"]\nuser = \"u\"\n");
    let same = format!("bus = \"nats\"\n{same}");
    let difference = difference(&same, "password = \"env:S\"", "password = \"env:P\"");
    assert_eq!(difference.needs_restart, keys(&["nats.password"]));
    assert!(!format!("{difference:?}").contains("hunter"));
}

#[test]
fn another_bus_is_one_name() {
    let after = "[kafka]\nbrokers = [\"a:1\"]";
    let dir = tempfile::tempdir().unwrap();
    let mut running = loaded(dir.path(), SIGNED).resolved;
    let new = loaded(dir.path(), &format!("bus = \"kafka\"\n{SIGNED}{after}")).resolved;
    let expected = Difference { needs_restart: keys(&["bus"]), ..Difference::default() };
    assert_eq!(running.apply(new, |_| {}).unwrap(), expected);
    assert!(matches!(running.config().bus, Bus::Embedded(_)));
}

#[test]
fn a_conflict_with_what_cannot_change_refuses_the_whole_reload() {
    let dir = tempfile::tempdir().unwrap();
    let open = "[embedded]\nlisten = \"0.0.0.0:1\"\ntoken = \"env:P\"";
    for (before, after, mistaken) in [
        (open, "[embedded]\nlisten = \"127.0.0.1:1\"\n[log]\nfilter = \"debug\"", "embedded.listen"),
        ("", "max_age = \"30h\"\n[log]\nfilter = \"debug\"\n[dedupe]\nwindow = \"31h\"", "dedupe.window"),
    ] {
        let mut running = loaded(dir.path(), &format!("{SIGNED}{before}")).resolved;
        let new = loaded(dir.path(), &format!("{SIGNED}{after}")).resolved;
        let mistakes = running.apply(new, |_| {}).unwrap_err();
        assert_eq!(mistakes.iter().map(|mistake| &*mistake.key).collect::<Vec<_>>(), [mistaken]);
        assert_eq!(running.config().log.filter, "info");
    }
}

#[test]
fn a_reload_combines_old_values_with_the_new_reloadable_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = loaded(dir.path(), &format!("{SIGNED}[embedded]\ntoken = \"env:S\"")).resolved;
    let after = "[server]\nmax_body = \"1 KiB\"\n[embedded]\ntoken = \"env:P\"\nretention = \"1h\"\n\
                 [endpoints.two]\npath = \"/two\"\nsecrets = [\"env:P\"]";
    let difference = running.apply(loaded(dir.path(), &format!("{SIGNED}{after}")).resolved, |_| {}).unwrap();
    assert_eq!(difference.changed, keys(&["embedded.token"]));
    assert_eq!(difference.needs_restart, keys(&["embedded.retention", "server.max_body"]));
    let config = running.config();
    let Bus::Embedded(embedded) = &config.bus else { panic!("another bus") };
    assert_eq!(embedded.token, Some(Secret::new("hunter3")));
    assert_eq!((embedded.retention.as_secs(), config.server.max_body), (7 * 24 * 3600, 12 << 20));
    assert_eq!(config.endpoints.len(), 2);
}

#[test]
fn only_the_secret_with_a_changed_file_is_new_and_broker_secrets_are_not_reread() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["a", "b", "p"] {
        std::fs::write(at(name), name).unwrap();
    }
    let toml = format!(
        "bus = \"nats\"\n[endpoints.terra]\nsecrets = [\"file:{}\", \"env:S\", \"file:{}\"]\n\
         [nats]\nservers = [\"a:1\"]\nuser = \"u\"\npassword = \"file:{}\"",
        at("a").display(),
        at("b").display(),
        at("p").display()
    );
    let mut running = loaded(dir.path(), &toml).resolved;
    std::fs::write(at("b"), "c").unwrap();
    std::fs::write(at("p"), "q").unwrap();
    std::fs::write(at("a"), "").unwrap();
    assert_eq!(running.reread_secrets(), SecretChanges::default());
    let key = keys(&["endpoints.terra.secrets"]);
    let lost = vec![(key[0].clone(), "it is empty".to_owned())];
    assert_eq!(running.reread_secrets(), SecretChanges { rotated: key, lost, ..SecretChanges::default() });
    assert_eq!(running.config().endpoints[0].secrets, ["a", "hunter2", "c"].map(Secret::new));
    assert_eq!(running.reread_secrets(), SecretChanges::default());
    std::fs::write(at("a"), "a").unwrap();
    let new = loaded(dir.path(), &toml).resolved;
    let difference = running.apply(new, |_| {}).unwrap();
    assert_eq!(
        (difference.needs_restart, difference.changed),
        (keys(&["nats.password"]), vec![]),
        "rotated is no news"
    );
}
