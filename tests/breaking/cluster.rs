//! One broker or three, each behind a proxy of its own, kept from seed to seed. The brokers advertise the proxies to
//! clients that connect through them; the program's own clients bypass them.

use std::path::Path;
use std::time::Duration;

use crate::kinds::BusName;
use crate::proxy::{Mode, Proxy};
use crate::support::brokers::{Broker, Kind, TRIES, free_port};

pub struct Cluster {
    bus: BusName,
    brokers: Vec<Broker>,
    proxies: Vec<Proxy>,
}

impl Cluster {
    /// Started and answering; `None` if this machine has no broker to start, or the bus needs none.
    pub fn start(bus: BusName) -> Option<Self> {
        let kind = match bus {
            BusName::Embedded => return None,
            BusName::Kafka | BusName::Kafka3 => Kind::kafka()?,
            BusName::Nats | BusName::Nats3 => Kind::nats()?,
        };
        let started = (0..TRIES).find_map(|_| Self::try_start(bus, &kind));
        Some(started.unwrap_or_else(|| panic!("brokers ended at their start, {TRIES} times")))
    }

    /// `None` if one of them ended: another process may have taken its port.
    fn try_start(bus: BusName, kind: &Kind) -> Option<Self> {
        let nodes = bus.brokers();
        let ports = || (0..nodes).map(|_| free_port()).collect::<Vec<_>>();
        let (direct, proxied, among) = (ports(), ports(), ports());
        let proxies: Vec<_> = match kind {
            Kind::Kafka { .. } => proxied.iter().map(|port| Proxy::start(*port)).collect(),
            Kind::Nats { .. } => direct.iter().map(|port| Proxy::start(*port)).collect(),
        };
        let broker = |node: usize| {
            let places =
                Places { direct: direct[node], behind: proxied[node], proxy: proxies[node].port(), among: &among };
            let settings = |dir: &Path| match bus.is_kafka() {
                true => kafka(node, &places, dir),
                false => nats(node, &places, dir),
            };
            Broker::configured(kind.clone(), direct[node], settings)
        };
        let mut brokers: Vec<_> = (0..nodes).map(broker).collect();
        for broker in &mut brokers {
            broker.spawn();
        }
        let up = brokers.iter_mut().all(Broker::comes_up);
        up.then_some(Self { bus, brokers, proxies })
    }

    /// The brokers' addresses for the bridge.
    pub fn through_proxies(&self) -> String {
        self.addresses(self.proxies.iter().map(Proxy::port))
    }

    pub fn directly(&self) -> String {
        self.addresses(self.brokers.iter().map(Broker::port))
    }

    fn addresses(&self, ports: impl Iterator<Item = u16>) -> String {
        let scheme = if self.bus.is_nats() { "nats://" } else { "" };
        ports.map(|port| format!("{scheme}127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    pub fn broker(&mut self, node: usize) -> &mut Broker {
        &mut self.brokers[node]
    }

    pub fn link(&self, mode: Mode) {
        (0..self.proxies.len()).for_each(|node| self.link_to(node, mode));
    }

    /// Changes the link to one broker only.
    pub fn link_to(&self, node: usize, mode: Mode) {
        self.proxies[node].set(mode);
    }

    /// How many partitions had a batch refused by a proxy.
    pub fn refused(&self) -> usize {
        self.proxies.iter().map(Proxy::refused).sum()
    }

    pub fn close_connections(&self) {
        for proxy in &self.proxies {
            proxy.close_all();
        }
    }
}

struct Places<'a> {
    direct: u16,
    /// Kafka only: the listener that advertises the proxy.
    behind: u16,
    proxy: u16,
    /// The ports on which the nodes talk to each other.
    among: &'a [u16],
}

/// How soon the others give up a silent broker.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(3);

fn kafka(node: usize, places: &Places<'_>, dir: &Path) -> String {
    let Places { direct, behind, proxy, among } = places;
    let nodes = among.len();
    let controller = among[node];
    let voters = (1..).zip(*among).map(|(id, port)| format!("{id}@127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    let given_up = GIVEN_UP_AFTER.as_millis();
    let in_sync = nodes.div_ceil(2);
    format!(
        "process.roles=broker,controller\n\
         node.id={id}\n\
         listeners=PLAINTEXT://127.0.0.1:{behind},DIRECT://127.0.0.1:{direct},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{proxy},DIRECT://127.0.0.1:{direct}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,DIRECT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         inter.broker.listener.name=DIRECT\n\
         controller.listener.names=CONTROLLER\n\
         controller.quorum.voters={voters}\n\
         controller.quorum.fetch.timeout.ms={given_up}\n\
         broker.session.timeout.ms={given_up}\n\
         broker.heartbeat.interval.ms=500\n\
         replica.lag.time.max.ms={given_up}\n\
         log.dirs={logs}\n\
         auto.create.topics.enable=false\n\
         default.replication.factor={nodes}\n\
         min.insync.replicas={in_sync}\n\
         offsets.topic.replication.factor=1\n\
         auto.leader.rebalance.enable=false\n\
         group.initial.rebalance.delay.ms=0\n",
        id = node + 1,
        logs = dir.join("logs").display(),
    )
}

fn nats(node: usize, places: &Places<'_>, dir: &Path) -> String {
    let Places { direct, proxy, among, .. } = places;
    let store = dir.join("jetstream");
    let routes: Vec<_> = among.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
    let cluster = match among.len() {
        1 => String::new(),
        _ => format!(
            "cluster {{ name: faults, listen: \"127.0.0.1:{}\", routes: [{}] }}\n",
            among[node],
            routes.join(", ")
        ),
    };
    format!(
        "server_name: \"{name}\"\nlisten: \"127.0.0.1:{direct}\"\nclient_advertise: \"127.0.0.1:{proxy}\"\n\
         max_payload: {max_payload}\njetstream {{ store_dir: {store:?}, max_file: 20GB }}\n{cluster}",
        name = node_name(node),
        // On a cluster, larger payloads become claim checks.
        max_payload = if among.len() == 1 { "16MB" } else { "1MB" },
    )
}

/// The name of a NATS server, which also names the leader of a stream.
pub fn node_name(node: usize) -> String {
    format!("n{node}")
}
