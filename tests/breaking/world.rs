//! The bridge under a supervisor, on its bus, for one seed: started, watched, restarted. Everything that a fault can
//! do is here; which faults and when is not.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use tempfile::TempDir;
use terra_bridge::samples::SAMPLES;

use crate::admin::Admin;
use crate::busy::BusyLoops;
use crate::cluster::Cluster;
use crate::disk::Disk;
use crate::kinds::{BusName, Kind};
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::settings::{self, CERTIFICATE, CONFIG, DRAIN_TIMEOUT, KEY, SECRETS, secret};
use crate::support::bridge::{Bridge, command, on_free_ports};
use crate::support::consumers::{Bus, kafka_client};
use crate::support::terra::{Attempt, SECRET};
use crate::support::{http, unique, until};
use crate::terra::Destination;
use crate::wire::Trust;

const READY_WITHIN: Duration = Duration::from_secs(60);
/// What bus and spool may take beyond it, plus the tolerance for a busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(DRAIN_TIMEOUT + 6);
const DRAINED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The interval between two queries of the spool, each of which makes the bridge render its metrics.
const SPOOL_EVERY: Duration = Duration::from_millis(250);
/// The bridge checks its files every two seconds.
const SWAPPED_WITHIN: Duration = Duration::from_secs(15);
/// How many lines of the bridge to keep for an investigation.
const SAID: usize = 60;
/// A supervisor's delay before a restart.
const START_AGAIN: Duration = Duration::from_millis(500);

/// How the directory of the embedded log, or of the spool, is removed.
#[derive(Debug, Clone, Copy)]
pub enum Replaced {
    Moved,
    MovedAndMadeAnew,
    RemovedAndMadeAnew,
}

impl Replaced {
    pub const ALL: [Self; 3] = [Self::Moved, Self::MovedAndMadeAnew, Self::RemovedAndMadeAnew];
}

pub struct World<'c> {
    /// Declared before the disk, so that its user is dropped first.
    pub bridge: Option<Bridge>,
    pub ledger: Arc<Ledger>,
    pub destination: Arc<Destination>,
    pub cluster: Option<&'c mut Cluster>,
    pub disk: Option<Disk>,
    /// Why this machine cannot do a kind of fault.
    pub lacks_disk: Option<String>,
    /// Faults are in effect under which the bridge may end by itself.
    pub may_end: bool,
    busy: Option<BusyLoops>,
    wanted: bool,
    next_start: Instant,
    environment: Vec<(String, String)>,
    bus: Bus,
    name: BusName,
    directly: String,
    dir: TempDir,
    /// Newest first.
    secrets: Vec<String>,
    spool: bool,
    next_look: Instant,
    peak: u64,
    /// From bridges that have ended.
    said: Vec<String>,
}

impl<'c> World<'c> {
    /// Prepares the bus, and a bridge that is ready.
    pub fn prepare(plan: &Plan, cluster: Option<&'c mut Cluster>) -> Self {
        let (through, directly) =
            cluster.as_ref().map(|cluster| (cluster.through_proxies(), cluster.directly())).unwrap_or_default();
        let bus = match plan.bus {
            BusName::Embedded => Bus::embedded().expect("needs no broker"),
            BusName::Kafka | BusName::Kafka3 => Bus::Kafka { brokers: through, prefix: unique() },
            BusName::Nats | BusName::Nats3 => Bus::Nats { server: through, prefix: unique() },
        };
        let mut lacks_disk = None;
        let disk = match plan.has(Kind::needs_disk) {
            true => Disk::mount().map_err(|why| lacks_disk = Some(why)).ok(),
            false => None,
        };
        let dir = TempDir::new().expect("a temporary directory");
        let mut world = Self {
            ledger: Arc::new(Ledger::new(plan)),
            destination: Arc::new(Destination {
                address: None.into(),
                secret: SECRET.to_owned().into(),
                trust: None.into(),
            }),
            cluster,
            disk,
            lacks_disk,
            bridge: None,
            may_end: false,
            busy: None,
            wanted: true,
            next_start: Instant::now(),
            environment: Vec::new(),
            bus,
            name: plan.bus,
            directly,
            dir,
            secrets: vec![SECRET.to_owned(); SECRETS],
            spool: plan.spool,
            next_look: Instant::now(),
            peak: 0,
            said: Vec::new(),
        };
        world.write_secrets();
        world.write_config(false);
        let own = settings::of(plan, world.bus.prefix(), world.dir.path(), world.disk.as_ref());
        world.environment = on_free_ports().into_iter().chain(world.bus.environment()).chain(own).collect();
        if plan.https {
            world.swap_certificate();
        }
        world.start();
        world.await_ready();
        world
    }

    /// Requires a healthy bus.
    pub fn await_ready(&self) {
        until("the bridge is ready", READY_WITHIN, || {
            let bridge = self.bridge.as_ref().expect("it starts on a bus that is in order");
            (bridge.readiness().0 == 200).then_some(())
        });
    }

    /// Sends one delivery to every topic, on the bus itself: newly started brokers are slow without any fault.
    pub fn warm_up(&mut self) {
        let bridge = self.bridge.as_ref().expect("it is ready");
        for sample in SAMPLES {
            until("the bus is warm", READY_WITHIN, || {
                let attempt = Attempt::of(sample.body).header("x-terra-trace-id", "warm-up");
                let answer = self.destination.post(bridge.deliveries, &attempt);
                answer.is_ok_and(|response| response.status == 200).then_some(())
            });
        }
        self.drain_spool();
    }

    pub fn admin(&self) -> Admin {
        Admin { bus: self.name, directly: self.directly.clone(), prefix: self.bus.prefix().to_owned() }
    }

    pub fn topic(&self, name: &str) -> String {
        self.bus.topic(name)
    }

    /// Terra signs with it from now on; the others stay valid.
    pub fn rotate_secret(&mut self, new: String) {
        *self.destination.secret.lock().unwrap() = new.clone();
        self.secrets.insert(0, new);
        self.secrets.truncate(SECRETS);
        self.write_secrets();
    }

    /// Oldest first, so that none is missing meanwhile.
    fn write_secrets(&self) {
        for (at, text) in self.secrets.iter().enumerate().rev() {
            let (new, file) = (self.dir.path().join("secret.new"), self.dir.path().join(secret(at)));
            std::fs::write(&new, text).and_then(|()| std::fs::rename(new, file)).expect("the directory is ours");
        }
    }

    pub fn swap_certificate(&self) {
        let file = |name: &str| self.dir.path().join(name);
        let mut trust = self.destination.trust.lock().unwrap();
        trust.get_or_insert_with(Trust::nobody).make(&file(CERTIFICATE), &file(KEY));
    }

    /// Waits until new connections get the newest certificate; from then on Terra trusts no other.
    pub fn expect_new_certificate(&mut self) {
        let newest = {
            let mut newest = self.destination.trust.lock().unwrap().clone().expect("the plan has HTTPS");
            newest.forget_the_others();
            newest
        };
        let end = Instant::now() + SWAPPED_WITHIN;
        loop {
            let address = *self.destination.address.lock().unwrap();
            if address.is_some_and(|to| newest.is_met_at(to)) {
                *self.destination.trust.lock().unwrap() = Some(newest);
                return;
            }
            if Instant::now() > end {
                let what = format!("the new certificate was not served within {SWAPPED_WITHIN:?}");
                return self.ledger.violation(what);
            }
            self.pass(LOOK_EVERY, |_| false);
        }
    }

    pub fn write_config(&self, broken: bool) {
        let text = if broken { "[server]\nmax_body = \"many\"\n" } else { "" };
        std::fs::write(self.dir.path().join(CONFIG), text).expect("the directory is ours");
    }

    pub fn replace_directory(&self, how: Replaced) {
        let root = self.disk.as_ref().map_or_else(|| self.dir.path().to_owned(), Disk::root);
        let (kept_in, away) = (settings::kept_in(self.name, &root), root.join(unique()));
        let replaced = std::fs::rename(&kept_in, &away).and_then(|()| match how {
            Replaced::Moved => Ok(()),
            Replaced::MovedAndMadeAnew => std::fs::create_dir(&kept_in),
            Replaced::RemovedAndMadeAnew => std::fs::remove_dir_all(&away).and_then(|()| std::fs::create_dir(&kept_in)),
        });
        replaced.expect("the directory is ours");
    }

    /// Until [`Self::feed`], every process waits for a processor.
    pub fn starve(&mut self) {
        self.busy = Some(BusyLoops::start());
    }

    pub fn feed(&mut self) {
        self.busy = None;
    }

    fn start(&mut self) {
        let mut command: Command = command();
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.next_start = Instant::now() + START_AGAIN;
        match Bridge::try_run(command) {
            Ok(bridge) => {
                *self.destination.address.lock().unwrap() = Some(bridge.deliveries);
                self.bridge = Some(bridge);
            }
            Err(why) if !self.may_end => self.ledger.violation(format!("the bridge did not start: {why}")),
            Err(_) => {}
        }
    }

    /// From now on a supervisor restarts it whenever it is down.
    pub fn bring_back(&mut self) {
        self.wanted = true;
        if self.bridge.is_none() {
            self.start();
        }
    }

    /// SIGKILL, without a restart before [`Self::bring_back`].
    pub fn kill(&mut self) {
        self.measure();
        self.wanted = false;
        if let Some(bridge) = self.bridge.take() {
            self.said.push(bridge.log());
            bridge.kill();
        }
        *self.destination.address.lock().unwrap() = None;
    }

    /// SIGTERM, without a restart before [`Self::bring_back`].
    pub fn terminate(&mut self) {
        self.measure();
        self.wanted = false;
        if let Some(mut bridge) = self.bridge.take() {
            bridge.signal("TERM");
            let asked = Instant::now();
            let status = until("the bridge ends or is late", 2 * ENDS_WITHIN, || {
                bridge.end().map(Some).or((asked.elapsed() > ENDS_WITHIN).then_some(None))
            });
            match status {
                Some(status) if status.success() => {}
                Some(status) => self.ledger.violation(format!("after SIGTERM the bridge ended with {status}")),
                None => self.ledger.violation(format!("the bridge did not end within {ENDS_WITHIN:?} of SIGTERM")),
            }
            self.said.push(bridge.log());
        }
        *self.destination.address.lock().unwrap() = None;
    }

    /// Lets the plan's time pass while supervising the bridge; ends early when `over`.
    pub fn pass(&mut self, time: Duration, mut over: impl FnMut(&Ledger) -> bool) {
        let end = Instant::now() + time;
        while Instant::now() < end && !over(&self.ledger) {
            self.tend();
            std::thread::park_timeout(LOOK_EVERY.min(end.saturating_duration_since(Instant::now())));
        }
    }

    fn tend(&mut self) {
        self.measure();
        if let Some(status) = self.bridge.as_mut().and_then(Bridge::end) {
            if !self.may_end {
                self.ledger.violation(format!("the bridge ended by itself with {status}"));
            }
            self.said.extend(self.bridge.take().map(|bridge| bridge.log()));
            *self.destination.address.lock().unwrap() = None;
        }
        if self.wanted && self.bridge.is_none() && Instant::now() >= self.next_start {
            self.start();
        }
        if self.spool && Instant::now() >= self.next_look {
            let asked = self.ledger.now();
            if ["messages", "set_aside"].iter().all(|what| self.spooled(what) == Some(0)) {
                self.ledger.spool_is_empty(asked, self.ledger.now());
            }
            self.next_look = Instant::now() + SPOOL_EVERY;
        }
    }

    /// Waits until everything spooled is on the bus; messages set aside are retried at a start.
    pub fn drain_spool(&mut self) {
        if !self.spool {
            return;
        }
        self.await_spooled("messages");
        if self.spooled("set_aside") > Some(0) {
            self.terminate();
            self.bring_back();
            self.await_spooled("messages");
            self.await_spooled("set_aside");
        }
    }

    fn await_spooled(&mut self, what: &str) {
        let end = Instant::now() + DRAINED_WITHIN;
        while self.spooled(what) != Some(0) {
            if Instant::now() > end {
                let left = self.spooled(what);
                return self.ledger.violation(format!("the spool is not empty, {what}: {left:?}"));
            }
            self.pass(LOOK_EVERY, |_| false);
        }
    }

    fn spooled(&self, what: &str) -> Option<u64> {
        let metrics = http::try_get(self.bridge.as_ref()?.admin, "/metrics").ok()?;
        let name = format!("terra_bridge_spool_{what} ");
        String::from_utf8(metrics.body).ok()?.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok())
    }

    fn measure(&mut self) {
        let Some(bridge) = &self.bridge else { return };
        let status = std::fs::read_to_string(format!("/proc/{}/status", bridge.pid())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        let kibibytes: u64 = peak.and_then(|peak| peak.trim().parse().ok()).unwrap_or_default();
        self.peak = self.peak.max(kibibytes << 10);
    }

    /// The peak memory in bytes of any of the bridge's processes.
    pub fn peak(&self) -> u64 {
        self.peak
    }

    /// Records whether a new client reaches the brokers the way the bridge does.
    pub fn looks_itself(&mut self) {
        let Some(cluster) = self.cluster.as_ref().filter(|_| self.name.is_kafka()) else { return };
        let found = kafka_client(&cluster.through_proxies()).fetch_metadata(None, LOOK_WITHIN);
        self.said.push(format!("a new client reaches the brokers through the proxies: {}", found.is_ok()));
    }

    /// The bridges' last log lines, except those about single deliveries.
    pub fn said(&self) -> Vec<String> {
        let lines = self.said.iter().flat_map(|log| log.lines()).filter(|line| !line.contains("\"DEBUG\""));
        let lines: Vec<_> = lines.map(str::to_owned).collect();
        lines[lines.len().saturating_sub(SAID)..].to_vec()
    }
}
