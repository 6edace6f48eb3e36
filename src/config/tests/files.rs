//! The file, with the defaults below and the environment above it.

use std::time::Duration;

use super::*;
use crate::config::{Bus, LogFormat};

#[test]
fn underscores_in_the_environment_mean_dashes_unless_the_file_names_both() {
    let toml = |name: &str| format!("[endpoints.{name}]\npath = \"/{name}\"\nsecrets = \"env:TERRA_SIGNING_SECRET\"\n");
    let variables = [SIGNED, ("TERRA_BRIDGE_ENDPOINTS__MY_STAGING__PATH", "/given")];
    let paths = |toml: String| {
        let config = read(Some(&toml), &variables).unwrap_or_else(|mistakes| panic!("{mistakes}")).config;
        config.endpoints.into_iter().map(|endpoint| (endpoint.name.to_string(), endpoint.path)).collect::<Vec<_>>()
    };
    let pair = |name: &str, path: &str| (name.to_owned(), path.to_owned());
    assert_eq!(paths(toml("my-staging")), [pair("my-staging", "/given")]);
    let both = toml("my-staging") + &toml("my_staging");
    assert_eq!(paths(both), [pair("my-staging", "/my-staging"), pair("my_staging", "/given")]);
    let missing = mistakes_text(read(Some("[endpoints.my-staging]\npath = \"/a\""), &[SIGNED]));
    assert!(
        missing.ends_with("or TERRA_BRIDGE_ENDPOINTS__MY_STAGING__SECRETS=env:MY_STAGING_SIGNING_SECRET"),
        "{missing}"
    );
    let twice = [variables[1], ("TERRA_BRIDGE_ENDPOINTS__MY-STAGING__PATH", "/other"), SIGNED];
    let text = mistakes_text(read(Some(&toml("my-staging")), &twice));
    assert!(text.contains("endpoints.my-staging.path") && text.contains("is given twice"), "{text}");
}

#[test]
fn the_environment_lies_over_the_file_and_the_file_over_the_defaults() {
    let toml =
        "[server]\nlisten = \"127.0.0.1:1\"\nmax_headers = 50\n[routes.types]\nlab_report.completed = \"a\"\nx = \"b\"";
    let variables =
        [SIGNED, ("TERRA_BRIDGE_SERVER__LISTEN", "127.0.0.1:2"), ("TERRA_BRIDGE_ROUTES__TYPES__X", "false")];
    let loaded = read(Some(toml), &variables).unwrap();
    assert_eq!(loaded.config.server.listen.port(), 2);
    assert_eq!(loaded.config.server.max_headers, 50);
    assert_eq!(loaded.config.server.deadline, Duration::from_millis(7500));
    assert_eq!(loaded.config.routes.types["lab_report.completed"].as_deref(), Some("a"));
    assert_eq!(loaded.config.routes.types["x"], None);
    let source = |key: &str| {
        let line = loaded.effective.lines.iter().find(|line| line.key == key).unwrap();
        line.source.to_string().rsplit('/').next().unwrap().to_owned()
    };
    assert_eq!(source("server.listen"), "TERRA_BRIDGE_SERVER__LISTEN");
    assert_eq!(source("server.max_headers"), "t.toml:3");
    assert_eq!(source("server.deadline"), "default");
}

#[test]
fn the_default_endpoint_exists_only_if_no_other_is_named() {
    let names = |toml: &str| {
        let config = from_file(toml).unwrap().config;
        config.endpoints.into_iter().map(|endpoint| endpoint.name.to_string()).collect::<Vec<_>>()
    };
    let other = "[endpoints.b]\npath = \"/b\"\nsecrets = [\"env:TERRA_SIGNING_SECRET\"]\n";
    assert_eq!(names(""), ["terra"]);
    assert_eq!(names(other), ["b"]);
    assert_eq!(names(&format!("{other}[endpoints.terra]\nmax_age = \"1h\"")), ["b", "terra"]);
    assert_eq!(names(&format!("{other}[endpoints.terra]")), ["b", "terra"]);
}

#[test]
fn computed_defaults_follow_the_surroundings() {
    let variables = [SIGNED, ("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")].map(|(n, v)| (n.into(), v.into()));
    let config = load(None, variables.into_iter(), true).unwrap().config;
    let Bus::Embedded(embedded) = config.bus else { panic!("not embedded") };
    assert_eq!(embedded.dir, PathBuf::from("/var/lib/a"));
    assert_eq!(config.log.format, LogFormat::Text);
    assert_eq!(from_file("").unwrap().config.log.format, LogFormat::Json);
}

#[test]
fn the_embedded_logs_keys_are_unused_while_another_bus_is() {
    let toml = "bus = \"nats\"\n[nats]\nservers = \"a:4222\"\n[embedded]\ndir = \"/data\"";
    let loaded = from_file(toml).unwrap();
    let Bus::Nats(nats) = &loaded.config.bus else { panic!("not NATS") };
    assert_eq!(nats.servers, ["nats://a:4222"]);
    assert!(loaded.effective.to_string().contains("unused while bus is another"));
}
