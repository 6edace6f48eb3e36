//! Secrets that change on disk, without any signal.

use std::fs;

use crate::support::changing::{BODY, Load, RELOADED, ROTATES_WITHIN, Running};
use crate::support::consumers::Bus;
use crate::support::http::Connection;
use crate::support::terra::Attempt;
use crate::support::until;

const GONE: &str = "the file of a secret is empty or cannot be read; the last secret stays in use";

fn embedded() -> Bus {
    Bus::embedded().expect("needs no broker")
}

#[test]
fn a_rotated_secret_is_taken_over_and_no_valid_delivery_is_refused() {
    let bus = embedded();
    let toml = "[endpoints.terra]\nsecrets = [\"file:DIR/current\", \"file:DIR/previous\"]\n";
    let running = Running::start(&bus, toml, &[("current", "one"), ("previous", "one")]);
    let load = Load::start(running.bridge.deliveries, "one");
    load.more(50);
    running.write(&format!("{toml}[routes.types]\ndaily = \"half.edited\"\n"));
    running.replace("current", "two\n");
    let status = |secret: &str| running.status(&Attempt::of(BODY).secret(secret));
    until("the new secret counts", ROTATES_WITHIN, || (status("two") == 200).then_some(()));
    load.more(50);
    load.sign_with("two");
    load.more(50);
    fs::write(running.dir.path().join("previous"), "two").expect("ours");
    until("the old secret counts no more", ROTATES_WITHIN, || (status("one") == 401).then_some(()));
    load.more(50);
    load.end();
    assert!(running.bridge.said(RELOADED).is_empty(), "the file of the configuration is not read for that");
    let kept = bus.count(&running.bridge);
    assert_eq!(bus.read(&running.bridge, &bus.topic("daily"), kept).len(), kept, "nothing on the half-edited route");
    let rotated = running.bridge.said("a secret changed on disk and is now in use");
    assert!(rotated.iter().all(|line| line["key"] == "endpoints.terra.secrets") && rotated.len() == 2, "{rotated:?}");
}

#[test]
fn secrets_that_fit_nothing_are_said_once_and_again_when_they_change() {
    const UNFIT: &str =
        "several signatures in a row fit no secret of the endpoint: their deliveries are rejected as forged";
    let bus = embedded();
    let toml = "[endpoints.terra]\nsecrets = [\"file:DIR/signing\"]\n\
                [endpoints.other]\npath = \"/other\"\nsecrets = [\"file:DIR/other\"]\n";
    let running = Running::start(&bus, toml, &[("signing", "one of Terra's"), ("other", "of another")]);
    let forged = |count: usize, secret: &str| {
        for _ in 0..count {
            assert_eq!(running.status(&Attempt::of(BODY).secret(secret)), 401);
        }
    };
    let said = || {
        let said = running.bridge.said(UNFIT);
        said.into_iter().filter(|line| line["endpoint"] == "terra").collect::<Vec<_>>()
    };
    forged(4, "two of Terra's");
    assert!(said().is_empty(), "a scanner tries now and then");
    forged(56, "two of Terra's");
    assert_eq!(said().len(), 1, "{:?}", said());
    assert_eq!((&said()[0]["level"], &said()[0]["forged"]), (&"WARN".into(), &5.into()));
    let remedy = said()[0]["remedy"].as_str().expect("a text").to_owned();
    assert!(remedy.contains("signing secret in Terra's dashboard") && remedy.contains("scanner"), "{remedy}");
    let fits = |secret: &str| (running.status(&Attempt::of(BODY).secret(secret)) == 200).then_some(());
    running.replace("other", "another of another");
    let other = Attempt::of(BODY).path("/other").secret("another of another");
    until("the other's secret counts", ROTATES_WITHIN, || (running.status(&other) == 200).then_some(()));
    forged(20, "two of Terra's");
    assert_eq!(said().len(), 1, "it is the same secret as before");
    running.replace("signing", "two of Terra's");
    until("the secret counts", ROTATES_WITHIN, || fits("two of Terra's"));
    forged(20, "one of Terra's");
    assert_eq!(said().len(), 1, "a delivery fitted just now");
    running.replace("signing", "three of Terra's");
    until("a secret that fits nothing is said", ROTATES_WITHIN, || {
        let _ = running.status(&Attempt::of(BODY).secret("one of Terra's"));
        (said().len() == 2).then_some(())
    });
}

#[test]
fn a_fifo_in_place_of_a_secret_is_said_and_the_next_file_is_taken_over() {
    let bus = embedded();
    let toml = "[endpoints.terra]\nsecrets = [\"file:DIR/signing\"]\n\
                [endpoints.other]\npath = \"/other\"\nsecrets = [\"file:DIR/other\"]\n";
    let running = Running::start(&bus, toml, &[("signing", "the first of all"), ("other", "of another")]);
    let path = running.dir.path().join("signing");
    fs::remove_file(&path).expect("ours");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo runs").success());
    let warning = until("a warning", ROTATES_WITHIN, || running.bridge.said(GONE).pop());
    assert_eq!((&warning["key"], &warning["level"]), (&"endpoints.terra.secrets".into(), &"WARN".into()));
    assert_eq!(warning["reason"], "it is a FIFO, not a regular file");
    assert_eq!(running.status(&Attempt::of(BODY).secret("the first of all")), 200);
    running.replace("other", "another of another");
    let other = Attempt::of(BODY).path("/other").secret("another of another");
    until("another secret is taken over", ROTATES_WITHIN, || (running.status(&other) == 200).then_some(()));
    running.reload(toml, "the new configuration has mistakes; nothing was changed");
    running.replace("signing", "the second of all");
    let second = Attempt::of(BODY).secret("the second of all");
    until("the secret is taken over", ROTATES_WITHIN, || (running.status(&second) == 200).then_some(()));
    running.reload(toml, RELOADED);
}

#[test]
fn an_emptied_file_keeps_its_secret_and_a_readers_token_is_rotated() {
    let bus = embedded();
    let toml = "[endpoints.terra]\nsecrets = [\"file:DIR/signing\"]\n[embedded]\ntoken = \"file:DIR/token\"\n";
    let running = Running::start(&bus, toml, &[("signing", "canary-one"), ("token", "canary-two")]);
    running.replace("signing", "");
    running.replace("token", "canary-three");
    let warning = until("a warning", ROTATES_WITHIN, || running.bridge.said(GONE).pop());
    assert_eq!((&warning["key"], &warning["level"]), (&"endpoints.terra.secrets".into(), &"WARN".into()));
    assert_eq!(running.status(&Attempt::of(BODY).secret("canary-one")), 200);
    let reads = |token: &str| {
        let head = format!("GET /topics HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n");
        Connection::open(running.bridge.reader()).and_then(|mut to| to.request(&head, b"")).expect("an answer").status
    };
    until("the new token counts", ROTATES_WITHIN, || (reads("canary-three") == 200).then_some(()));
    assert_eq!(reads("canary-two"), 401);
    running.replace("signing", "canary-four");
    let attempt = Attempt::of(BODY).secret("canary-four");
    until("the file's return is seen", ROTATES_WITHIN, || (running.status(&attempt) == 200).then_some(()));
    assert_eq!(running.bridge.said(GONE).len(), 1, "said once");
    assert!(!running.bridge.log().contains("canary"));
}
