//! The adapter over a log of its own: what was acknowledged is kept through close and `kill -9`.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;

fn config(dir: &Path, reserve: u64) -> config::Embedded {
    config::Embedded {
        dir: dir.to_owned(),
        listen: ([127, 0, 0, 1], 0).into(),
        token: None,
        tls: None,
        retention: Duration::from_secs(3600),
        max_bytes: 1 << 30,
        reserve,
    }
}

fn opened(config: &config::Embedded) -> (Arc<dyn Bus>, Api) {
    let setup = Setup {
        topics: vec!["t".into()],
        publish_timeout: Duration::from_secs(5),
        max_body: 1 << 20,
        bytes_in_flight: 1 << 24,
    };
    open(config, setup).unwrap()
}

fn message(number: u32) -> Arc<Message> {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&number.to_be_bytes());
    Arc::new(Message::sample("t", "k", id, number.to_string()))
}

/// The ids of the deliveries that the log keeps.
fn known(api: &Api) -> HashSet<[u8; 16]> {
    let mut known = HashSet::new();
    api.kept(usize::MAX, |entry| known.extend([entry.keys[0]])).unwrap();
    known
}

async fn next_offset(api: &Api) -> u64 {
    use http_body_util::BodyExt;
    let request = http::Request::get("/topics").header("host", "localhost").body(()).unwrap();
    let body = api.answer(request).await.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice::<serde_json::Value>(&body).unwrap()[0]["next"].as_u64().unwrap()
}

#[tokio::test]
async fn a_message_published_before_close_is_kept_though_nobody_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (bus, _) = opened(&config(dir.path(), 0));
    assert_eq!(*bus.connection().borrow(), ConnectionState::Up);
    for number in 0..3000 {
        drop(bus.publish(message(number)));
    }
    bus.close().await;
    assert!(matches!(bus.publish(message(9)).await, Err(Refusal::Transient { .. })));
    assert_eq!(*bus.connection().borrow(), ConnectionState::Away);
    bus.close().await;
    let (bus, api) = opened(&config(dir.path(), 0));
    assert_eq!(next_offset(&api).await, 3000);
    assert_eq!(known(&api).len(), 3000, "a retry of any is a duplicate");
    assert_eq!(bus.publish(message(3000)).await, Ok(Receipt::Kept));
}

#[tokio::test]
async fn nothing_is_taken_while_free_space_is_below_the_reserve() {
    let dir = tempfile::tempdir().unwrap();
    let (bus, api) = opened(&config(dir.path(), u64::MAX / 2));
    assert!(matches!(bus.publish(message(1)).await, Err(Refusal::Transient { .. })));
    assert_eq!(*bus.connection().borrow(), ConnectionState::Away);
    assert_eq!(next_offset(&api).await, 0);
}

/// Not a test: the child process that `kill_9_loses_nothing_acknowledged` kills.
#[tokio::test]
async fn child_that_acknowledges_until_it_is_killed() {
    let Some(dir) = std::env::var_os("TERRA_BRIDGE_TEST_KILLED_DIR") else { return };
    let (bus, _) = opened(&config(Path::new(&dir), 0));
    for number in 0.. {
        assert_eq!(bus.publish(message(number)).await, Ok(Receipt::Kept));
        println!("\nacknowledged {number}");
    }
}

#[tokio::test]
async fn kill_9_loses_nothing_acknowledged() {
    const ENOUGH: u32 = 50;
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "bus::embedded::tests::child_that_acknowledges_until_it_is_killed"])
        .env("TERRA_BRIDGE_TEST_KILLED_DIR", dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut last = None;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let Some(number) = line.unwrap().strip_prefix("acknowledged ").and_then(|number| number.parse().ok()) else {
            continue;
        };
        last = Some(number);
        if number == ENOUGH {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    let last: u32 = last.unwrap();
    assert!(last >= ENOUGH);
    let (_bus, api) = opened(&config(dir.path(), 0));
    assert!(next_offset(&api).await > u64::from(last));
    let known = known(&api);
    assert!((0..=last).all(|number| known.contains(&message(number).identity().keys()[0])));
}
