//! One file on several machines: a server, a reader and a laptop; and advice on secrets.

use std::os::unix::ffi::OsStringExt;

use super::*;
use crate::config::{Admin, Bus, Secret, read_admin};
use crate::route::{Route, RouteTable};

/// As in production: its files exist nowhere else.
const PRODUCTION: &str = r#"
bus = "nats"
[server.tls]
certificate = "/run/secrets/tls.crt"
key = "/run/secrets/tls.key"
[endpoints.terra]
secrets = ["file:/run/secrets/terra"]
[endpoints.staging]
path = "/staging"
routes.types = { daily = "staging.days" }
[s3]
ca = "/run/secrets/ca.pem"
[nats]
servers = "nats.internal:4222"
token = "env:NATS_TOKEN"
"#;

/// Settings of the other buses.
const OTHERS: &str = r#"
[kafka]
brokers = ["b:1"]
username = "u"
password = "file:/run/secrets/kafka"
partitions = "as many as you like"
tls.ca = "/run/secrets/ca.pem"
topic_config.retention.ms = "1"
properties.sasl.password = "file:/run/secrets/kafka"
[embedded]
token = "file:/run/secrets/readers"
tls.key = "/run/secrets/tls.key"
"#;

fn reader(toml: &str, variables: &[(&str, &str)]) -> Result<(Bus, RouteTable), Mistakes> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), toml).unwrap();
    load_for_reader_without(&[], Some(file.path()), variables.iter().map(|(n, v)| (n.into(), v.into())))
}

fn admin(toml: &str, variables: &[(&str, &str)]) -> Result<Admin, Mistakes> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), toml).unwrap();
    read_admin(Some(file.path()), variables.iter().map(|(n, v)| (n.into(), v.into())))
}

fn keys_of<T>(result: Result<T, Mistakes>) -> Vec<String> {
    let mut keys: Vec<_> =
        result.err().into_iter().flat_map(|mistakes| mistakes.all).map(|mistake| mistake.key).collect();
    keys.sort();
    keys
}

#[test]
fn keys_of_unused_buses_are_listed_and_neither_checked_nor_resolved() {
    let toml = format!("bus = \"nats\"\n[nats]\nservers = \"a\"\n{OTHERS}");
    let loaded = from_file(&toml).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let unused: Vec<_> =
        loaded.effective.lines.iter().filter(|line| line.value == "unused while bus is another").collect();
    let keys: Vec<&str> = unused.iter().map(|line| line.key.as_str()).collect();
    let all = [
        "kafka.brokers",
        "kafka.username",
        "kafka.password",
        "kafka.partitions",
        "kafka.tls.ca",
        "kafka.topic_config.retention.ms",
        "kafka.properties.sasl.password",
        "embedded.token",
        "embedded.tls.key",
    ];
    assert_eq!(keys, all);
    assert!(unused.iter().all(|line| line.source.to_string().contains("t.toml:")), "{unused:?}");
    assert_eq!(loaded.resolved.advice(), []);

    let on_a_laptop = read(Some(&toml), &[SIGNED, ("TERRA_BRIDGE_BUS", "embedded")]);
    assert_eq!(keys_of(on_a_laptop), ["embedded.tls.key", "embedded.token"], "those of the bus that is used");
    let misspelt = toml.replace("username", "usrname").replace("topic_config", "topic_confg");
    assert_eq!(keys_of(from_file(&misspelt)), ["kafka.topic_confg.retention.ms", "kafka.usrname"]);
}

#[test]
fn a_whole_table_of_an_unused_bus_is_ignored_and_its_own_variable_is_a_mistake() {
    let embedded = ("TERRA_BRIDGE_BUS", "embedded");
    let tables = [embedded, ("TERRA_BRIDGE_KAFKA", "{ brokers = \"b:1\", password = \"env:NONE\" }")];
    let loaded = from_environment(&tables).unwrap();
    assert!(loaded.effective.to_string().contains("kafka.password"));
    let nested = [embedded, ("TERRA_BRIDGE_KAFKA__TLS", "{ ca = \"/run/secrets/ca.pem\" }")];
    assert!(from_environment(&nested).is_ok());
    let alone = [("TERRA_BRIDGE_KAFKA__BROKERS", "b:1"), ("TERRA_BRIDGE_NATS__STREAM", "S")];
    assert_eq!(keys_of(from_environment(&alone)), ["kafka.brokers", "nats.stream"]);
    assert_eq!(
        keys_of(read(Some("bus = \"embedded\""), &[&[SIGNED], &alone[..]].concat())),
        ["kafka.brokers", "nats.stream"]
    );
    let chosen = from_environment(&[&[embedded], &alone[..]].concat()).unwrap();
    assert!(chosen.effective.to_string().contains("nats.stream"), "whoever chose the bus beside them means it");
}

#[test]
fn keys_of_a_broker_without_a_selected_bus_are_a_mistake() {
    let mistakes = from_file(OTHERS.split_once("[embedded]").unwrap().0).unwrap_err();
    assert!(
        mistakes
            .to_string()
            .starts_with("bus (t.toml:3) is not given, while there are keys of kafka; set bus = \"kafka\""),
        "{mistakes}"
    );
    assert_eq!(mistakes.all.iter().map(|mistake| mistake.key.as_str()).collect::<Vec<_>>(), ["bus"]);
    let variables = [SIGNED, ("TERRA_BRIDGE_BUS", "embedded")];
    assert!(read(Some("[kafka]\nbrokers = \"b:1\""), &variables).is_ok());
}

#[test]
fn a_reader_of_the_bus_needs_the_bus_settings_and_none_of_the_servers() {
    let reader_of = |variables| reader(PRODUCTION, variables);
    let (bus, table) = reader_of(&[("NATS_TOKEN", "t")]).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let Bus::Nats(nats) = bus else { panic!("not NATS") };
    assert_eq!(nats.token, Some(Secret::new("t")));
    for (endpoint, topic) in [("staging", "staging.days"), ("terra", "terra.daily")] {
        assert_eq!(*table.resolve(endpoint, "daily"), Route::To(topic.into()));
    }
    assert_eq!(keys_of(reader_of(&[])), ["nats.token"]);
    let serving = ["endpoints.staging.secrets", "endpoints.terra.secrets", "nats.token", "s3.ca"];
    let serving = [&serving[..], &["server.tls.certificate", "server.tls.key"]].concat();
    assert_eq!(keys_of(from_file(PRODUCTION)), serving, "check says all of it");
    let wrong = PRODUCTION.replace("[s3]", "[s3]\nmod = \"forward\"\n").replace("\"/staging\"", "5");
    assert_eq!(keys_of(reader(&wrong, &[("NATS_TOKEN", "t")])), ["endpoints.staging.path", "s3.mod"]);
}

#[test]
fn a_reader_of_the_embedded_log_needs_its_certificate_and_not_its_key() {
    let toml = "[embedded]\ntls.certificate = \"CERTIFICATE\"\ntls.key = \"/run/secrets/tls.key\"";
    assert_eq!(keys_of(reader(toml, &[])), ["embedded.tls.certificate"]);
    let certificate = tempfile::NamedTempFile::new().unwrap();
    let toml = toml.replace("CERTIFICATE", certificate.path().to_str().unwrap());
    let Ok((Bus::Embedded(embedded), _)) = reader(&toml, &[]) else { panic!("mistakes") };
    assert!(embedded.tls.is_some());
}

#[test]
fn a_health_check_needs_only_the_admin_listeners_address() {
    let toml = format!("{PRODUCTION}\n[admin]\nlisten = \"127.0.0.1:9\"\n[serevr]\nx = 1");
    assert_eq!(admin(&toml, &[]).unwrap().listen.port(), 9);
    assert_eq!(admin("", &[]).unwrap().listen.port(), 8081);
    assert_eq!(admin(&toml, &[("TERRA_BRIDGE_ADMIN__LISTEN", "127.0.0.1:10")]).unwrap().listen.port(), 10);
    assert_eq!(keys_of(admin("[admin]\nlisten = 9\nlisen = 8", &[])), ["admin.lisen", "admin.listen"]);
    assert_eq!(keys_of(admin("[admin", &[])), [""]);
}

#[test]
fn advice_on_a_secret_shows_neither_the_secret_nor_its_length() {
    let cases: &[(&[u8], &str)] = &[
        (b"0123456789", ""),
        (b"canary line\n", "ends in a newline"),
        (b"canary line\r\n", "ends in a newline"),
        (b" canary", "has white space around it and is shorter than 8 bytes"),
        (b"canary blank\t", "has white space around it"),
        (b"\"canary quoted\"", "is in quotes"),
        (b"'canary quoted'\n", "ends in a newline and is in quotes"),
        (b"it's a canary's", ""),
        (b"\xef\xbb\xbfcanary marked", "begins with a byte order mark"),
        (b"\xff\xfec\0a\0n\0a\0r\0y\0", "begins with a byte order mark"),
        (b"canary", "is shorter than 8 bytes"),
        (b"-----BEGIN\ncanary\n-----END\n", ""),
    ];
    for (secret, odd) in cases {
        let variables = [(OsString::from("TERRA_SIGNING_SECRET"), OsString::from_vec(secret.to_vec()))];
        let advice = load(None, variables.into_iter(), false).unwrap().resolved.advice();
        let advice_texts: Vec<_> = advice.iter().map(|advice| (advice.about(), advice.says.as_str())).collect();
        let about = "endpoints.terra.secrets (env:TERRA_SIGNING_SECRET)".to_owned();
        let expected = if odd.is_empty() { vec![] } else { vec![(about, *odd)] };
        assert_eq!(advice_texts, expected, "{}", secret.escape_ascii());
        assert!(!format!("{advice:?}").contains("canary"));
    }
}

#[test]
fn every_secret_is_checked_after_a_file_loses_its_final_newline() {
    let dir = tempfile::tempdir().unwrap();
    for (name, secret) in [("one", "one of them\n"), ("two", "another one\n\n"), ("token", "'a token'\n")] {
        std::fs::write(dir.path().join(name), secret).unwrap();
    }
    let toml = "bus = \"kafka\"\n[endpoints.terra]\nsecrets = [\"file:DIR/one\", \"file:DIR/two\"]\n\
                [kafka]\nbrokers = \"a:1\"\nusername = \"u\"\npassword = \"env:SHORT\"\n\
                properties.ssl.key.password = \"file:DIR/token\"\nproperties.client.id = \" odd \"";
    let toml = toml.replace("DIR", dir.path().to_str().unwrap());
    let advice = read(Some(&toml), &[("SHORT", "pw\n")]).unwrap().resolved.advice();
    let advice_texts: Vec<_> = advice.iter().map(|advice| (advice.key.as_str(), advice.says.as_str())).collect();
    let all = [
        ("endpoints.terra.secrets", "ends in a newline"),
        ("kafka.password", "ends in a newline"),
        ("kafka.properties.ssl.key.password", "is in quotes"),
    ];
    assert_eq!(advice_texts, all);
    assert!(advice[0].about().ends_with("/two)"), "{}", advice[0].about());
}
