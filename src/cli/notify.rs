//! Tells systemd what the bridge is doing, by the protocol of sd_notify(3). Without `NOTIFY_SOCKET`, or on any failure,
//! it does nothing: a service manager that does not listen is no reason to stop.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Cloning shares the socket.
#[derive(Debug, Clone, Default)]
pub(super) struct Notifier(Option<Arc<Manager>>);

#[derive(Debug)]
struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As the environment says.
    pub(super) fn of_environment() -> Self {
        let variable = |name| std::env::var(name).ok();
        let Some(path) = variable("NOTIFY_SOCKET") else { return Self::default() };
        let is_ours = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = variable("WATCHDOG_USEC").filter(|_| is_ours).and_then(|micros| micros.parse().ok());
        Self(Manager::new(&path, watchdog.map(Duration::from_micros)).ok().map(Arc::new))
    }

    /// How often systemd wants to hear that the bridge works, at least.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.0.as_ref()?.watchdog
    }

    pub(super) fn ready(&self) {
        self.send("READY=1");
    }

    /// Followed by [`Self::ready`], whatever comes of it.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    pub(super) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=Draining: running requests finish");
    }

    /// For `systemctl status`.
    pub(super) fn status(&self, status: &str) {
        self.send(&format!("STATUS={status}"));
    }

    pub(super) fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, message: &str) {
        if let Some(Manager { socket, address, .. }) = self.0.as_deref() {
            // Not blocking: a manager that reads nothing holds up nobody.
            let _ = socket.send_to_addr(message.as_bytes(), address);
        }
    }
}

impl Manager {
    /// A path that begins with `@` is a name in the abstract namespace.
    fn new(path: &str, watchdog: Option<Duration>) -> std::io::Result<Self> {
        let address = match path.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(path)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address, watchdog })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A notifier, and the manager's end of its socket, in the abstract namespace.
    pub(in crate::cli) fn notified(watchdog: Option<Duration>) -> (Notifier, UnixDatagram) {
        use std::hash::{BuildHasher, RandomState};
        let name = format!("terra-bridge-{:x}", RandomState::new().hash_one(0));
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        manager.set_nonblocking(true).unwrap();
        let notifier = Notifier(Some(Arc::new(Manager::new(&format!("@{name}"), watchdog).unwrap())));
        (notifier, manager)
    }

    pub(in crate::cli) fn next(manager: &UnixDatagram) -> Option<String> {
        let mut message = [0; 1024];
        let length = manager.recv(&mut message).ok()?;
        Some(String::from_utf8(message[..length].to_vec()).unwrap())
    }

    #[test]
    fn a_manager_that_reads_nothing_holds_up_nobody() {
        let (notifier, manager) = notified(None);
        for _ in 0..10_000 {
            notifier.ready();
        }
        assert_eq!(next(&manager).as_deref(), Some("READY=1"));
        drop(manager);
        notifier.ready();
    }
}
