//! A bridge whose configuration and secrets change while it runs, and load that must not be affected.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;

use super::bridge::{Bridge, STARTS_WITHIN, command, on_free_ports};
use super::consumers::Bus;
use super::http::Connection;
use super::terra::Attempt;
use super::until;

pub const RELOADS_WITHIN: Duration = Duration::from_secs(20);
/// Two checks of a file, with a tolerance for a busy machine.
pub const ROTATES_WITHIN: Duration = Duration::from_secs(30);

pub const BODY: &str = r#"{"type":"daily","user":{"user_id":"u"}}"#;
pub const RELOADED: &str = "configuration reloaded";

/// A bridge with a configuration file of its own.
pub struct Running {
    pub bridge: Bridge,
    pub dir: TempDir,
}

impl Running {
    /// `DIR` in the file stands for its directory.
    pub fn start(bus: &Bus, toml: &str, secrets: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().expect("a directory");
        for (name, secret) in secrets {
            fs::write(dir.path().join(name), secret).expect("the directory is ours");
        }
        let mut command = command();
        let file_may_say = "TERRA_BRIDGE_SERVER__LISTEN";
        command.envs(on_free_ports()).env_remove(file_may_say).envs(bus.environment());
        command.env("TERRA_BRIDGE_CONFIG", dir.path().join("bridge.toml"));
        if !toml.contains("listen = ") {
            command.env(file_may_say, "127.0.0.1:0");
        }
        Self::write_to(&dir, toml);
        let bridge = Bridge::run(command);
        until("the bridge is ready", STARTS_WITHIN, || (bridge.readiness().0 == 200).then_some(()));
        Self { bridge, dir }
    }

    fn write_to(dir: &TempDir, toml: &str) {
        let toml = toml.replace("DIR", dir.path().to_str().expect("a path in UTF-8"));
        fs::write(dir.path().join("bridge.toml"), toml).expect("the directory is ours");
    }

    pub fn write(&self, toml: &str) {
        Self::write_to(&self.dir, toml);
    }

    /// Makes it reread the file, and waits until it logs the result.
    pub fn reload(&self, toml: &str, says: &str) -> serde_json::Value {
        self.write(toml);
        let before = self.bridge.said(says).len();
        self.bridge.signal("HUP");
        until(says, RELOADS_WITHIN, || self.bridge.said(says).get(before).cloned())
    }

    /// Replaces the file atomically.
    pub fn replace(&self, name: &str, secret: &str) {
        let new = self.dir.path().join(format!("{name}.new"));
        fs::write(&new, secret).and_then(|()| fs::rename(new, self.dir.path().join(name))).expect("ours");
    }

    pub fn status(&self, attempt: &Attempt) -> u16 {
        attempt.post(self.bridge.deliveries).status
    }
}

fn numbered(n: usize) -> Attempt {
    Attempt::of(format!(r#"{{"type":"daily","user":{{"user_id":"u{}"}},"n":{n}}}"#, n % 7))
}

/// Deliveries without a pause, on keep-alive connections.
pub struct Load {
    kept: Arc<Mutex<Vec<String>>>,
    secret: Arc<Mutex<String>>,
    enough: Arc<AtomicBool>,
    senders: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(to: SocketAddr, secret: &str) -> Self {
        let next = Arc::new(AtomicUsize::new(0));
        let (kept, enough) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let secret = Arc::new(Mutex::new(secret.to_owned()));
        let senders = (0..4).map(|_| {
            let (next, kept, secret, enough) = (next.clone(), kept.clone(), secret.clone(), enough.clone());
            std::thread::spawn(move || {
                let mut connection = Connection::open(to).expect("a connection");
                while !enough.load(Ordering::Relaxed) {
                    let secret = secret.lock().unwrap().clone();
                    let attempt = numbered(next.fetch_add(1, Ordering::Relaxed)).secret(&secret);
                    let response = attempt.post_on(&mut connection).expect("no connection is dropped");
                    assert_eq!(response.status, 200, "{:?}", response.json());
                    kept.lock().unwrap().push(response.json()["id"].as_str().expect("an id").to_owned());
                }
            })
        });
        let senders = senders.collect();
        Self { kept, secret, enough, senders }
    }

    pub fn sign_with(&self, secret: &str) {
        *self.secret.lock().unwrap() = secret.to_owned();
    }

    /// Waits until that many more are kept.
    pub fn more(&self, count: usize) {
        let enough = self.kept.lock().unwrap().len() + count;
        until("more deliveries", ROTATES_WITHIN, || {
            let failed = self.senders.iter().any(JoinHandle::is_finished);
            (failed || self.kept.lock().unwrap().len() >= enough).then_some(())
        });
    }

    /// The ids of all that got a 200; fails if any got another answer.
    pub fn end(self) -> Vec<String> {
        self.enough.store(true, Ordering::Relaxed);
        self.senders.into_iter().for_each(|sender| sender.join().expect("nothing but 200"));
        Arc::into_inner(self.kept).expect("all senders ended").into_inner().unwrap()
    }
}
