//! The real binary on free ports.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::pipe::fcntl_setpipe_size;

use super::http;
use super::terra::SECRET;
use super::until;

pub const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// Bytes: the smallest pipe on Linux, so that an unread one is soon full.
const SMALL_PIPE: usize = 4096;

pub struct Bridge {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    unread: Arc<AtomicBool>,
    stdout: OwnedFd,
    pub deliveries: SocketAddr,
    pub admin: SocketAddr,
    /// Of the embedded log.
    pub reader: Option<SocketAddr>,
}

/// What is tested: the program that cargo built, or another build of it.
pub fn binary() -> PathBuf {
    let given = std::env::var_os("TERRA_BRIDGE_TEST_BINARY");
    given.unwrap_or_else(|| env!("CARGO_BIN_EXE_terra-bridge").into()).into()
}

/// The binary with an environment of its own; nothing is inherited from the machine's.
pub fn command() -> Command {
    let mut command = Command::new(binary());
    command.env_clear().env("TERRA_SIGNING_SECRET", SECRET).stdin(Stdio::null());
    command
}

/// The environment of a bridge on free loopback ports.
pub fn on_free_ports() -> Vec<(String, String)> {
    let any = "127.0.0.1:0";
    vec![
        ("TERRA_BRIDGE_SERVER__LISTEN".into(), any.into()),
        ("TERRA_BRIDGE_ADMIN__LISTEN".into(), any.into()),
        ("TERRA_BRIDGE_LOG__FORMAT".into(), "json".into()),
    ]
}

impl Bridge {
    /// Starts, and waits until it reports its addresses. The bus may be down.
    pub fn start(environment: &[(String, String)]) -> Self {
        let mut command = command();
        command.envs(on_free_ports()).envs(environment.iter().map(|(name, value)| (name, value)));
        Self::run(command)
    }

    /// Starts, and waits until it is ready.
    pub fn ready(environment: &[(String, String)]) -> Self {
        let bridge = Self::start(environment);
        until("the bridge is ready", STARTS_WITHIN, || (bridge.readiness().0 == 200).then_some(()));
        bridge
    }

    pub fn run(command: Command) -> Self {
        Self::try_run(command).unwrap_or_else(|why| panic!("{why}"))
    }

    /// `Err`: it ended before it had started; returns its output.
    pub fn try_run(mut command: Command) -> Result<Self, String> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let unread = Arc::new(AtomicBool::new(false));
        let stdout = child.stdout.take().expect("stdout is piped");
        let pipe = stdout.as_fd().try_clone_to_owned().expect("a descriptor to spare");
        gather(stdout, lines.clone(), unread.clone());
        gather(child.stderr.take().expect("stderr is piped"), lines.clone(), unread.clone());
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        // From here on, dropping the bridge kills its process, even if it does not start.
        let mut bridge = Self { child, lines, unread, stdout: pipe, deliveries: nowhere, admin: nowhere, reader: None };
        let said = until("the bridge starts", STARTS_WITHIN, || match bridge.end() {
            Some(status) => Some(Err(format!("the bridge ended with {status}: {:#?}", bridge.lines.lock().unwrap()))),
            None => bridge.log().contains("\"started\"").then(|| Ok(bridge.lines.lock().unwrap().clone())),
        })?;
        let listens = |what: &str| {
            let line = said.iter().find(|line| line.contains(what))?;
            fields(line).expect("a JSON line")["listen"].as_str()?.parse().ok()
        };
        bridge.deliveries = listens("listening for deliveries").expect("an address for deliveries");
        bridge.admin = listens("listening for /livez").expect("an address of the admin listener");
        bridge.reader = listens("listening for readers");
        Ok(bridge)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// From now on nobody reads its output, which goes into a small pipe.
    pub fn leave_unread(&self) {
        // Refused while the pipe contains more.
        until("the pipe is small", STARTS_WITHIN, || fcntl_setpipe_size(&self.stdout, SMALL_PIPE).ok());
        self.unread.store(true, Ordering::Relaxed);
    }

    pub fn read_again(&self) {
        self.unread.store(false, Ordering::Relaxed);
    }

    /// Its exit status, if it has ended.
    pub fn end(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child is ours")
    }

    pub fn reader(&self) -> SocketAddr {
        self.reader.expect("the bus is the embedded log")
    }

    /// Status and body of `/readyz`.
    pub fn readiness(&self) -> (u16, serde_json::Value) {
        let response = http::get(self.admin, "/readyz");
        (response.status, response.json())
    }

    pub fn metrics(&self) -> String {
        String::from_utf8(http::get(self.admin, "/metrics").body).expect("metrics are text")
    }

    /// Bytes: the peak resident memory.
    pub fn peak_memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
    }

    /// Everything printed so far.
    pub fn log(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// The attributes of the log lines with this message, and their `level`.
    pub fn said(&self, message: &str) -> Vec<serde_json::Value> {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter_map(|line| fields(line)).filter(|line| line["message"] == message).collect()
    }

    /// Bytes of memory in use now.
    pub fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
    }

    pub fn signal(&self, signal: &str) {
        self::signal(self.child.id(), signal);
    }

    /// Waits until it ends.
    pub fn ended(&mut self, within: Duration) -> ExitStatus {
        until("the bridge ends", within, || self.child.try_wait().expect("the child is ours"))
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(mut self) {
        self.child.kill().expect("the child is ours");
        self.child.wait().expect("the child is ours");
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the bridge said:\n{}", self.log());
        }
    }
}

/// `None`: it is no log line.
fn fields(line: &str) -> Option<serde_json::Value> {
    let mut line: serde_json::Value = serde_json::from_str(line).ok()?;
    let mut fields = line.get_mut("attributes")?.take();
    for (name, of_line) in [("message", "body"), ("level", "severity_text"), ("trace_id", "trace_id")] {
        fields[name] = line[of_line].take();
    }
    Some(fields)
}

/// Sends a signal to a process that this test started.
pub fn signal(pid: u32, signal: &str) {
    let status = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status();
    assert!(status.expect("kill runs").success(), "kill -{signal} {pid}");
}

fn gather(from: impl Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>, unread: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            lines.lock().unwrap().push(line);
            while unread.load(Ordering::Relaxed) {
                std::thread::park_timeout(Duration::from_millis(20));
            }
        }
    });
}
