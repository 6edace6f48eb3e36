//! What systemd is told, over a real socket.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::support::bridge::{Bridge, STARTS_WITHIN};
use crate::support::consumers::Bus;

/// The manager's end of the socket.
struct Manager {
    socket: UnixDatagram,
    dir: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let socket = UnixDatagram::bind(dir.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(STARTS_WITHIN)).expect("a timeout");
        Self { socket, dir }
    }

    fn start(&self, bus: &Bus, watchdog: Duration) -> Bridge {
        let mut environment = bus.environment();
        environment.extend([
            ("NOTIFY_SOCKET".to_owned(), self.dir.path().join("notify").display().to_string()),
            ("WATCHDOG_USEC".to_owned(), watchdog.as_micros().to_string()),
        ]);
        Bridge::start(&environment)
    }

    /// The next message that fits.
    fn next(&self, fits: impl Fn(&str) -> bool) -> String {
        let mut message = [0; 1024];
        loop {
            let length = self.socket.recv(&mut message).expect("a message in time");
            let text = std::str::from_utf8(&message[..length]).expect("UTF-8");
            if fits(text) {
                return text.to_owned();
            }
        }
    }
}

fn monotonic_micros() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

#[test]
fn systemd_is_told_of_start_reload_and_end_and_that_the_bridge_works() {
    let (bus, manager) = (Bus::embedded().expect("needs no broker"), Manager::new());
    let mut bridge = manager.start(&bus, Duration::from_millis(600));
    let is_state = |text: &str| !text.starts_with("STATUS=") && text != "WATCHDOG=1";
    assert_eq!(manager.next(is_state), "READY=1");
    manager.next(|text| text == "STATUS=Serving; the bus is up");
    for _ in 0..3 {
        manager.next(|text| text == "WATCHDOG=1");
    }
    let before = monotonic_micros();
    bridge.signal("HUP");
    let reloading = manager.next(is_state);
    let at =
        reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("a reload").parse::<i64>().expect("a number");
    assert!((before..=monotonic_micros()).contains(&at), "{at}");
    assert_eq!(manager.next(is_state), "READY=1");
    bridge.signal("TERM");
    assert!(manager.next(is_state).starts_with("STOPPING=1\n"));
    assert!(bridge.ended(STARTS_WITHIN).success());
}

#[test]
fn a_reload_with_a_mistake_is_over_all_the_same() {
    let (bus, manager) = (Bus::embedded().expect("needs no broker"), Manager::new());
    let file = manager.dir.path().join("bridge.toml");
    std::fs::write(&file, "").expect("the directory is ours");
    let mut environment = bus.environment();
    environment.extend([
        ("NOTIFY_SOCKET".to_owned(), manager.dir.path().join("notify").display().to_string()),
        ("TERRA_BRIDGE_CONFIG".to_owned(), file.display().to_string()),
    ]);
    let bridge = Bridge::start(&environment);
    let is_state = |text: &str| !text.starts_with("STATUS=");
    assert_eq!(manager.next(is_state), "READY=1");
    std::fs::write(&file, "nonsense = 1\n").expect("the directory is ours");
    bridge.signal("HUP");
    assert!(manager.next(is_state).starts_with("RELOADING=1\n"));
    assert_eq!(manager.next(is_state), "READY=1");
}
