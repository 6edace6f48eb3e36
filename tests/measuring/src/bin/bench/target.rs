//! A floor or a bridge that runs, on a topic or stream that nobody else uses.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use measuring::counting;
use measuring::destination::{self, Error};

use crate::cell::Bus;

pub(crate) const SECRET: &str = "terra-test-secret";
/// A bridge under strace on a busy machine starts within this.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    Floor,
    Bridge,
}

/// Where the programs are.
pub(crate) struct Programs {
    pub(crate) measured: PathBuf,
    pub(crate) counted: PathBuf,
}

/// In which way a program runs.
pub(crate) enum Way<'a> {
    Measured,
    /// Its allocations are told at this socket.
    Counted(&'a Path),
    /// strace writes to this file what it called.
    Traced(&'a Path),
}

pub(crate) struct Target {
    child: Child,
    program: Program,
    bus: Bus,
    /// Of topic or stream, and of the files of an embedded log.
    name: String,
    dir: PathBuf,
    pub(crate) deliveries: SocketAddr,
    reader: Option<SocketAddr>,
}

impl Target {
    /// Starts it, and waits until its bus takes deliveries.
    pub(crate) async fn start(programs: &Programs, program: Program, bus: Bus, way: &Way<'_>) -> Result<Self, Error> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("bench-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&name);
        let file = match (program, way) {
            (Program::Floor, Way::Counted(_)) => programs.counted.join("counted-floor"),
            (Program::Bridge, Way::Counted(_)) => programs.counted.join("counted-bridge"),
            (Program::Floor, _) => programs.measured.join("floor"),
            (Program::Bridge, _) => programs.measured.join("terra-bridge"),
        };
        let mut command = match way {
            Way::Traced(to) => {
                let mut strace = Command::new("strace");
                strace.args(["-f", "-ttt", "-s", "0", "-o"]).arg(to).arg(file);
                strace
            }
            _ => Command::new(file),
        };
        command.env_clear().env("TERRA_SIGNING_SECRET", SECRET);
        if let Way::Counted(socket) = way {
            command.env(counting::SOCKET, socket);
        }
        match program {
            Program::Floor => command.args(floor_arguments(bus, &name)?),
            Program::Bridge => command.envs(bridge_environment(bus, &name, &dir)?),
        };
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut target = Self { child, program, bus, name, dir, deliveries: nowhere, reader: None };
        let mut said = Vec::new();
        let admin = loop {
            let line = lines.next().ok_or_else(|| format!("it ended at its start:\n{}", said.join("\n")))??;
            if let Some(address) = line.strip_prefix("listening on ") {
                target.deliveries = address.parse()?;
                break None;
            }
            said.push(line);
            if said.last().is_some_and(|line| line.contains("\"started\"")) {
                target.deliveries = listens(&said, "listening for deliveries").ok_or("no listener")?;
                target.reader = listens(&said, "listening for readers");
                break listens(&said, "listening for /livez");
            }
        };
        // Nobody needs what else it says, and it must not wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let end = Instant::now() + PATIENCE;
        while let Some(admin) = admin
            && !get(admin, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
        {
            if Instant::now() > end {
                return Err("the bridge does not get ready".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(target)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How many messages its bus keeps; `None` for the floor that keeps nothing.
    pub(crate) async fn kept(&self) -> Result<Option<u64>, Error> {
        match self.bus {
            Bus::Kafka => destination::count_topic(&address(self.bus)?, &self.name).map(Some),
            Bus::Nats => destination::count_stream(&address(self.bus)?, &self.name).await.map(Some),
            Bus::Embedded => self.reader.map(kept_by_log).transpose(),
        }
    }

    /// Ends it as an operator would, and removes what it published.
    pub(crate) async fn stop(mut self) -> Result<(), Error> {
        // Under strace it is the child of the child.
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid())).unwrap_or_default();
        let pid = children.split_whitespace().next().map_or_else(|| self.pid().to_string(), str::to_owned);
        Command::new("kill").arg(pid).status()?;
        self.child.wait()?;
        match (self.bus, self.program) {
            (Bus::Kafka, Program::Floor) => destination::remove_topics(&address(self.bus)?, &[&self.name]).await,
            (Bus::Kafka, Program::Bridge) => {
                destination::remove_topics(&address(self.bus)?, &[&self.name, &dead_letters(&self.name)]).await
            }
            (Bus::Nats, _) => destination::remove_stream(&address(self.bus)?, &self.name).await,
            (Bus::Embedded, _) => Ok(()),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn floor_arguments(bus: Bus, name: &str) -> Result<Vec<OsString>, Error> {
    let arguments = match bus {
        Bus::Kafka => vec!["kafka".into(), address(bus)?, name.into()],
        Bus::Nats => vec!["nats".into(), address(bus)?, name.into(), name.into()],
        Bus::Embedded => vec!["nothing".to_owned()],
    };
    Ok(arguments.into_iter().map(Into::into).collect())
}

/// Everything else is as it comes.
fn bridge_environment(bus: Bus, name: &str, dir: &Path) -> Result<Vec<(String, OsString)>, Error> {
    let anywhere = || OsString::from("127.0.0.1:0");
    let mut environment = vec![
        ("BUS", bus.to_string().into()),
        ("SERVER__LISTEN", anywhere()),
        ("ADMIN__LISTEN", anywhere()),
        ("ADMIN__READY_NEEDS_BUS", "true".into()),
        ("LOG__FORMAT", "json".into()),
        // The load's type; a topic for every other would be made, and removed, each time.
        ("ROUTES__TYPES__DAILY", name.into()),
        ("ROUTES__TYPES__*", "false".into()),
        ("ROUTES__UNKNOWN", "false".into()),
        ("ROUTES__DEAD_LETTER", dead_letters(name).into()),
    ];
    match bus {
        Bus::Kafka => environment.push(("KAFKA__BROKERS", address(bus)?.into())),
        Bus::Nats => environment.extend([("NATS__SERVERS", address(bus)?.into()), ("NATS__STREAM", name.into())]),
        Bus::Embedded => environment.extend([("EMBEDDED__DIR", dir.into()), ("EMBEDDED__LISTEN", anywhere())]),
    }
    Ok(environment.into_iter().map(|(key, value)| (format!("TERRA_BRIDGE_{key}"), value)).collect())
}

fn dead_letters(name: &str) -> String {
    format!("{name}-dead-letters")
}

fn address(bus: Bus) -> Result<String, Error> {
    let variable = match bus {
        Bus::Kafka => "TERRA_BRIDGE_TEST_KAFKA",
        Bus::Nats => "TERRA_BRIDGE_TEST_NATS",
        Bus::Embedded => return Err("the embedded log has no address".into()),
    };
    std::env::var(variable).map_err(|_| format!("{variable} is not set: run ./tests/bench").into())
}

/// Where a bridge listens, according to its log.
fn listens(log: &[String], what: &str) -> Option<SocketAddr> {
    let line = log.iter().find(|line| line.contains(what))?;
    serde_json::from_str::<serde_json::Value>(line).ok()?["attributes"]["listen"].as_str()?.parse().ok()
}

fn kept_by_log(reader: SocketAddr) -> Result<u64, Error> {
    let answer = get(reader, "/topics")?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    let topics: Vec<serde_json::Value> = serde_json::from_str(body)?;
    Ok(topics.iter().filter_map(|topic| topic["next"].as_u64()).sum())
}

/// The whole answer.
fn get(from: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(from)?;
    write!(socket, "GET {path} HTTP/1.1\r\nhost: {from}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}
