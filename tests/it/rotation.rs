//! Secrets that change on disk, without any signal.

use std::fs;

use crate::support::changing::{BODY, Load, RELOADED, ROTATES_WITHIN, Running};
use crate::support::consumers::Bus;
use crate::support::http::Connection;
use crate::support::terra::Attempt;
use crate::support::until;

const GONE: &str = "the file of a secret is empty or cannot be read: the last one still counts";

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
    let rotated = running.bridge.said("a secret has changed on disk and was taken over");
    assert!(rotated.iter().all(|line| line["key"] == "endpoints.terra.secrets") && rotated.len() == 2, "{rotated:?}");
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
