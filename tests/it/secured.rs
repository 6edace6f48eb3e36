//! Brokers that require TLS and a login: which logins work, what is reported about others, and what recovers.

use std::path::Path;
use std::time::Duration;

use nkeys::KeyPair;
use serde_json::json;
use tempfile::TempDir;

use crate::support::accounts::Operator;
use crate::support::bridge::{Bridge, command};
use crate::support::brokers::Broker;
use crate::support::certificates::Authority;
use crate::support::consumers::Bus;
use crate::support::terra::{Attempt, now};
use crate::support::{unique, until};

const SAID_WITHIN: Duration = Duration::from_secs(30);

pub type Environment = Vec<(String, String)>;

pub fn with(mut environment: Environment, more: &[(&str, &str)]) -> Environment {
    environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    environment
}

pub fn delivery() -> Attempt {
    Attempt::of(r#"{"type":"daily","user":{"user_id":"u"}}"#)
}

/// With the most verbose logging.
fn talkative(environment: &Environment) -> Environment {
    with(environment.clone(), &[("TERRA_BRIDGE_LOG__FILTER", "trace"), ("TERRA_BRIDGE_LOG__ACCESS", "all")])
}

/// A delivery is kept, `tail` with the same configuration shows it, and nothing prints the secret.
pub fn gets_in(environment: &Environment, topic: &str) {
    let environment = &talkative(environment);
    let bridge = Bridge::ready(environment);
    // Ready means that the bus was reached, not that its topics exist.
    let response = until("a delivery is kept", SAID_WITHIN, || {
        Some(delivery().post(bridge.deliveries)).filter(|response| response.status == 200)
    });
    let id = response.json()["id"].as_str().expect("an id").to_owned();
    let tail = command()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .args(["tail", "--from", "earliest", "--limit", "1", "--json", topic])
        .output()
        .expect("the binary runs");
    let shown = String::from_utf8_lossy(&tail.stdout).into_owned();
    assert!(tail.status.success(), "{}", String::from_utf8_lossy(&tail.stderr));
    assert!(shown.contains(&id), "{shown}");
    let said = bridge.log() + &String::from_utf8_lossy(&tail.stderr);
    assert!(said.contains("\"body\":\"delivery\""), "it is talkative");
    let secrets = environment.iter().filter(|(name, _)| name == "SECRET");
    secrets.for_each(|(_, secret)| assert!(!said.contains(secret), "the secret is shown"));
}

/// 503, not ready, `said` once in the log and in `check --online`, and the `secret` nowhere.
pub fn stays_out(environment: &Environment, said: &str, secret: &str) -> Bridge {
    let environment = &talkative(environment);
    let bridge = Bridge::start(environment);
    until("the log says why", SAID_WITHIN, || bridge.log().contains(said).then_some(()));
    assert_eq!(delivery().post(bridge.deliveries).status, 503);
    assert_eq!(bridge.readiness().0, 503, "never reached");
    let log = bridge.log();
    let lines = log.lines().filter(|line| line.contains(said) && line.contains("terra_bridge::bus")).count();
    assert_eq!(lines, 1, "{log}");
    let check = command()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .args(["check", "--online"])
        .output()
        .expect("the binary runs");
    let mut report = String::from_utf8_lossy(&check.stdout).into_owned();
    report.push_str(&String::from_utf8_lossy(&check.stderr));
    assert!(!check.status.success(), "{report}");
    assert!(report.contains(said), "{report}");
    assert!(!log.contains(secret) && !report.contains(secret), "the secret is shown");
    bridge
}

pub fn heals(bridge: &Bridge) {
    until("a delivery is kept", SAID_WITHIN, || (delivery().post(bridge.deliveries).status == 200).then_some(()));
    // The other topics may be created later than the delivery's.
    until("the bridge is ready", SAID_WITHIN, || (bridge.readiness().0 == 200).then_some(()));
}

fn quoted(path: &Path) -> String {
    format!("{path:?}")
}

mod nats {
    use super::*;

    const LOGIN: &str = "NATS refuses the login";
    const TLS: &str = "the TLS handshake with NATS failed";

    fn tls(authority: &Authority, more: &str) -> String {
        let (certificate, key) = authority.issue("server");
        let (certificate, key) = (quoted(&certificate), quoted(&key));
        format!("tls {{ cert_file: {certificate}, key_file: {key}, timeout: 5 {more} }}\n")
    }

    fn environment(bus: &Bus, authority: &Authority) -> Environment {
        with(bus.environment(), &[("TERRA_BRIDGE_NATS__TLS__CA", authority.ca().to_str().expect("UTF-8"))])
    }

    fn at(broker: &Broker) -> Bus {
        Bus::nats_at(format!("tls://127.0.0.1:{}", broker.port()))
    }

    /// `authorization` lines that accept this secret, and the keys that configure it.
    fn one_login(lines: impl Fn(&str) -> String, right: (&str, &[(&str, &str)]), wrong: (&str, &[(&str, &str)])) {
        let authority = Authority::new();
        let tls = tls(&authority, "");
        let Some(broker) = Broker::nats_with(&format!("{tls}{}", lines(right.0))) else { return };
        let bus = at(&broker);
        gets_in(&with(environment(&bus, &authority), right.1), &bus.topic("daily"));
        let secret = wrong.1.last().expect("a login").1;
        let bridge = stays_out(&with(environment(&bus, &authority), wrong.1), LOGIN, secret);
        broker.reload(&format!("{tls}{}", lines(wrong.0)));
        heals(&bridge);
    }

    #[test]
    fn user_and_password_get_in_and_a_wrong_password_is_named_until_it_is_right() {
        let (right, wrong) = (unique(), unique());
        let login = |password| {
            [("TERRA_BRIDGE_NATS__USER", "bridge"), ("TERRA_BRIDGE_NATS__PASSWORD", "env:SECRET"), ("SECRET", password)]
        };
        one_login(
            |password| format!("authorization {{ user: bridge, password: {password} }}\n"),
            (&right, &login(&right)),
            (&wrong, &login(&wrong)),
        );
    }

    #[test]
    fn a_token_gets_in_and_a_wrong_one_is_named_until_it_is_right() {
        let (right, wrong) = (unique(), unique());
        let login = |token| [("TERRA_BRIDGE_NATS__TOKEN", "env:SECRET"), ("SECRET", token)];
        one_login(
            |token| format!("authorization {{ token: {token} }}\n"),
            (&right, &login(&right)),
            (&wrong, &login(&wrong)),
        );
    }

    #[test]
    fn an_nkey_gets_in_and_an_unknown_one_is_named_until_it_is_known() {
        let (right, wrong) = (KeyPair::new_user(), KeyPair::new_user());
        let (right_seed, wrong_seed) = (right.seed().expect("a seed"), wrong.seed().expect("a seed"));
        let login = |seed| [("TERRA_BRIDGE_NATS__NKEY", "env:SECRET"), ("SECRET", seed)];
        one_login(
            |public| format!("authorization {{ users: [ {{ nkey: {public} }} ] }}\n"),
            (&right.public_key(), &login(&right_seed)),
            (&wrong.public_key(), &login(&wrong_seed)),
        );
    }

    #[test]
    fn a_credentials_file_of_an_operators_account_gets_in_and_others_are_named_until_they_are_known() {
        let (authority, operator) = (Authority::new(), Operator::new());
        let (account, other) = (operator.account(), operator.account());
        let tls = tls(&authority, "");
        let Some(mut broker) = Broker::nats_with(&(tls.clone() + &operator.lines(&[&account]))) else { return };
        let (bus, dir) = (at(&broker), TempDir::new().expect("a temporary directory"));
        let login = |name: &str, credentials: &str| {
            let file = dir.path().join(name);
            std::fs::write(&file, credentials).expect("the directory is ours");
            let source = format!("file:{}", file.display());
            with(environment(&bus, &authority), &[("TERRA_BRIDGE_NATS__CREDENTIALS", &source)])
        };
        gets_in(&login("right", &account.user(json!({})).0), &bus.topic("daily"));
        let (expired, seed) = account.user(json!({"exp": now() - 60}));
        stays_out(&login("expired", &expired), LOGIN, &seed);
        let (foreign, seed) = other.user(json!({}));
        let bridge = stays_out(&login("foreign", &foreign), LOGIN, &seed);
        broker.restart_with(&(tls + &operator.lines(&[&account, &other])));
        heals(&bridge);
    }

    /// A user with only these permissions: deliveries get a 503, and log and `check --online` say what to grant.
    fn is_denied(permissions: impl Fn(&Bus) -> String, in_the_log: &str, checked: Option<&str>, more: &[(&str, &str)]) {
        let Some(broker) = Broker::nats() else { return };
        let bus = Bus::nats_at(format!("nats://127.0.0.1:{}", broker.port()));
        let password = unique();
        let user = |permissions: &str| {
            format!(
                "authorization {{ users: [ {{ user: bridge, password: {password}, permissions: {{ {permissions} }} }} ] }}\n"
            )
        };
        broker.reload(&user(&permissions(&bus)));
        let login = [
            ("TERRA_BRIDGE_NATS__USER", "bridge"),
            ("TERRA_BRIDGE_NATS__PASSWORD", "env:SECRET"),
            ("SECRET", &password),
        ];
        let environment = talkative(&with(with(bus.environment(), &login), more));
        let bridge = Bridge::start(&environment);
        until("the log says what to grant", SAID_WITHIN, || {
            assert_eq!(delivery().post(bridge.deliveries).status, 503);
            bridge.log().contains(in_the_log).then_some(())
        });
        if let Some(says) = checked {
            let check = command()
                .envs(environment.iter().map(|(name, value)| (name, value)))
                .args(["check", "--online"])
                .output()
                .expect("the binary runs");
            let report = String::from_utf8_lossy(&check.stdout).into_owned() + &String::from_utf8_lossy(&check.stderr);
            assert!(!check.status.success() && report.contains(says), "{report}");
        }
        assert!(!bridge.log().contains(&password), "the secret is shown");
        broker.reload(&user("publish: \">\", subscribe: \">\""));
        heals(&bridge);
    }

    const MAY_NOT_USE: &str =
        "this user may not use JetStream; grant publish on `$JS.API.>` and subscribe on its inbox";

    #[test]
    fn who_may_not_ask_jetstream_is_told_what_to_grant() {
        let permissions = |bus: &Bus| format!("publish: [\"{}.>\"], subscribe: [\"_INBOX.>\"]", bus.prefix());
        is_denied(permissions, MAY_NOT_USE, Some("this user may not use JetStream"), &[]);
    }

    #[test]
    fn who_may_not_publish_on_a_topic_is_told_what_to_grant() {
        let permissions = |_: &Bus| "publish: [\"$JS.API.>\"], subscribe: [\"_INBOX.>\"]".to_owned();
        is_denied(permissions, "NATS denies this user a permission", None, &[]);
    }

    #[test]
    fn who_may_not_subscribe_on_its_inbox_is_told_what_to_grant_and_another_inbox_helps() {
        let own = |bus: &Bus| format!("publish: \">\", subscribe: [\"_INBOX_{}.>\"]", bus.prefix());
        is_denied(own, MAY_NOT_USE, Some("this user may not use JetStream"), &[]);
        let Some(broker) = Broker::nats() else { return };
        let bus = Bus::nats_at(format!("nats://127.0.0.1:{}", broker.port()));
        let permissions = "publish: \">\", subscribe: [\"_INBOX_OURS.>\"]";
        broker.reload(&format!(
            "authorization {{ users: [ {{ user: bridge, password: given, permissions: {{ {permissions} }} }} ] }}\n"
        ));
        let more = [
            ("TERRA_BRIDGE_NATS__USER", "bridge"),
            ("TERRA_BRIDGE_NATS__PASSWORD", "env:SECRET"),
            ("SECRET", "given"),
            ("TERRA_BRIDGE_NATS__INBOX_PREFIX", "_INBOX_OURS"),
        ];
        let bridge = Bridge::start(&with(bus.environment(), &more));
        heals(&bridge);
    }

    #[test]
    fn an_authority_that_did_not_sign_the_server_is_named() {
        let (authority, other) = (Authority::new(), Authority::new());
        let Some(broker) = Broker::nats_with(&tls(&authority, "")) else { return };
        let bus = at(&broker);
        stays_out(&environment(&bus, &other), TLS, "BEGIN CERTIFICATE");
    }

    #[test]
    fn a_client_certificate_gets_in_and_without_one_nothing_does() {
        let authority = Authority::new();
        let verify = format!(", ca_file: {}, verify: true", quoted(&authority.ca()));
        let Some(broker) = Broker::nats_with(&tls(&authority, &verify)) else { return };
        let bus = at(&broker);
        let (certificate, key) = authority.issue("client");
        let client = [
            ("TERRA_BRIDGE_NATS__TLS__CERTIFICATE", certificate.to_str().expect("UTF-8")),
            ("TERRA_BRIDGE_NATS__TLS__KEY", key.to_str().expect("UTF-8")),
        ];
        gets_in(&with(environment(&bus, &authority), &client), &bus.topic("daily"));
        stays_out(&environment(&bus, &authority), TLS, "BEGIN CERTIFICATE");
    }
}

mod kafka {
    use super::*;

    const LOGIN: &str = "the Kafka brokers refuse the login";
    const TLS: &str = "the TLS handshake with the Kafka brokers failed";

    /// One broker for all: starting it takes seconds.
    #[test]
    fn every_login_gets_in_and_what_is_wrong_is_named_until_it_is_right() {
        let (authority, other) = (Authority::new(), Authority::new());
        let (right, wrong) = (unique(), unique());
        let Some((broker, secured)) = Broker::kafka_secured(&authority, &right) else { return };
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            broker.add_user("bridge", mechanism, &right);
        }
        let ca = |authority: &Authority| authority.ca().to_str().expect("UTF-8").to_owned();
        let (ours, others) = (ca(&authority), ca(&other));
        let at = |port: u16| Bus::kafka_at(format!("127.0.0.1:{port}"));
        let login = |bus: &Bus, user: &str, mechanism: &str, password: &str, ca: &str| {
            let more = [
                ("TERRA_BRIDGE_KAFKA__TLS__CA", ca),
                ("TERRA_BRIDGE_KAFKA__USERNAME", user),
                ("TERRA_BRIDGE_KAFKA__SASL_MECHANISM", mechanism),
                ("TERRA_BRIDGE_KAFKA__PASSWORD", "env:SECRET"),
                ("SECRET", password),
            ];
            with(bus.environment(), &more)
        };
        std::thread::scope(|scope| {
            for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
                let (bus, login, right, wrong, ours) = (at(secured.login), &login, &right, &wrong, &ours);
                scope.spawn(move || {
                    gets_in(&login(&bus, "bridge", mechanism, right, ours), &bus.topic("daily"));
                    stays_out(&login(&bus, "bridge", mechanism, wrong, ours), LOGIN, wrong);
                });
            }
        });
        let bus = at(secured.login);
        stays_out(&login(&bus, "bridge", "PLAIN", &right, &others), TLS, &right);
        let late = stays_out(&login(&bus, "late", "SCRAM-SHA-512", &wrong, &ours), LOGIN, &wrong);
        broker.add_user("late", "SCRAM-SHA-512", &wrong);
        heals(&late);

        let bus = at(secured.mutual);
        let (certificate, key) = authority.issue("client");
        let client = [
            ("TERRA_BRIDGE_KAFKA__TLS__CA", ours.as_str()),
            ("TERRA_BRIDGE_KAFKA__TLS__CERTIFICATE", certificate.to_str().expect("UTF-8")),
            ("TERRA_BRIDGE_KAFKA__TLS__KEY", key.to_str().expect("UTF-8")),
        ];
        gets_in(&with(bus.environment(), &client), &bus.topic("daily"));
        stays_out(&with(bus.environment(), &client[..1]), TLS, "BEGIN CERTIFICATE");
    }
}
