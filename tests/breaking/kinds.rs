//! The buses and the kinds of fault, by name: which bus a fault applies to, its target, and its requirements.

use std::fmt;
use std::str::FromStr;

macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type { $($(#[$variant_doc])* $variant,)* }

        impl $type {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|one| one.name() == text).ok_or_else(|| format!("no such name: {text}"))
            }
        }
    };
}

names! {
    /// Three brokers where the name says so: replication factor 3 with `min.insync.replicas=2`, or a stream with
    /// three replicas.
    BusName {
        Kafka = "kafka",
        Nats = "nats",
        Embedded = "embedded",
        Kafka3 = "kafka3",
        Nats3 = "nats3",
    }
}

impl BusName {
    pub fn is_kafka(self) -> bool {
        matches!(self, Self::Kafka | Self::Kafka3)
    }

    pub fn is_nats(self) -> bool {
        matches!(self, Self::Nats | Self::Nats3)
    }

    pub fn brokers(self) -> usize {
        match self {
            Self::Embedded => 0,
            Self::Kafka | Self::Nats => 1,
            Self::Kafka3 | Self::Nats3 => 3,
        }
    }
}

names! {
    Kind {
        /// `kill -9`, then a restart as by a supervisor.
        BridgeKill = "bridge_kill",
        /// SIGTERM; it has to end with 0 in time.
        BridgeTerm = "bridge_term",
        BrokerKill = "broker_kill",
        /// SIGSTOP, later SIGCONT.
        BrokerStop = "broker_stop",
        /// SIGTERM and a restart.
        BrokerRestart = "broker_restart",
        /// kill -9 of the broker that leads the stream, or a topic's partition.
        LeaderKill = "leader_kill",
        /// All connections to the brokers closed, new ones refused.
        Cut = "cut",
        /// Every piece in both directions is delayed.
        Delay = "delay",
        /// Connections stay open but carry nothing; later they recover, or turn out to be dead.
        HalfOpen = "half_open",
        /// A file fills the disk under the embedded log, or under the spool.
        DiskFull = "disk_full",
        /// Whatever was not fsynced is lost from the disk under the embedded log, or under the spool.
        PowerLoss = "power_loss",
        /// Nobody reads the bridge's output, at its most verbose.
        StdoutBlocked = "stdout_blocked",
        /// A topic, or on NATS the stream, is deleted and recreated.
        TopicDeleted = "topic_deleted",
        /// The topic, or the stream, rejects large messages for a while.
        TopicLimit = "topic_limit",
        /// Several concurrent copies of a delivery on several connections.
        Duplicates = "duplicates",
        /// A captured delivery is replayed with another trace id.
        Replays = "replays",
        /// SIGHUP while the configuration file is broken.
        SighupBroken = "sighup_broken",
        /// A new signing secret; the old ones stay valid.
        SecretRotated = "secret_rotated",
        /// Deliveries arrive over HTTPS, and its certificate is replaced.
        CertificateSwapped = "certificate_swapped",
        /// The brokers are cut off long enough to fill a small spool.
        SpoolFull = "spool_full",
        /// The directory of the embedded log, or of the spool, is moved away or removed while the bridge runs.
        DirectoryReplaced = "directory_replaced",
        /// Busy loops on the machine of the bridge and the brokers.
        CpuStarved = "cpu_starved",
        /// Deliveries as fast as answers arrive, to new topics or from a new bridge: `kill -9` of the broker, on the
        /// embedded log of the bridge.
        BurstKill = "burst_kill",
        /// The same with SIGSTOP, later SIGCONT, of the broker.
        BurstStop = "burst_stop",
        /// The same, and the first batch for each partition is refused, as by a broker that becomes its leader only
        /// before the second.
        BurstRefusal = "burst_refusal",
    }
}

/// The target of a fault: two concurrent faults have two targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Bridge,
    Broker,
    Link,
    Disk,
    Stdout,
    Machine,
    /// A part of a burst, before the other faults.
    Burst,
    /// The deliveries themselves, not what carries them.
    Traffic,
}

impl Kind {
    pub fn target(self) -> Target {
        match self {
            Self::BridgeKill | Self::BridgeTerm | Self::SighupBroken | Self::SecretRotated => Target::Bridge,
            Self::CertificateSwapped | Self::PowerLoss | Self::DirectoryReplaced => Target::Bridge,
            Self::BrokerKill | Self::BrokerStop | Self::BrokerRestart | Self::LeaderKill => Target::Broker,
            Self::TopicDeleted | Self::TopicLimit => Target::Broker,
            Self::Cut | Self::Delay | Self::HalfOpen | Self::SpoolFull => Target::Link,
            Self::DiskFull => Target::Disk,
            Self::StdoutBlocked => Target::Stdout,
            Self::CpuStarved => Target::Machine,
            Self::BurstKill | Self::BurstStop | Self::BurstRefusal => Target::Burst,
            Self::Duplicates | Self::Replays => Target::Traffic,
        }
    }

    /// Whether the bus has the fault's target.
    pub fn fits(self, bus: BusName) -> bool {
        match self.target() {
            Target::Broker if self == Self::LeaderKill => bus.brokers() > 1,
            Target::Broker | Target::Link => bus.brokers() > 0,
            Target::Burst if self == Self::BurstRefusal => bus.is_kafka(),
            Target::Burst => self == Self::BurstKill || bus.brokers() > 0,
            Target::Bridge | Target::Disk | Target::Stdout | Target::Machine | Target::Traffic => true,
        }
    }

    /// Whether the bridge needs a spool for it, on a bus with brokers.
    pub fn needs_spool(self) -> bool {
        self.strikes_the_directory() || self == Self::SpoolFull
    }

    /// Whether its target is the directory of the embedded log or of the spool.
    pub fn strikes_the_directory(self) -> bool {
        self.needs_disk() || self == Self::DirectoryReplaced
    }

    /// Whether the bridge's directory must be on a disk of its own.
    pub fn needs_disk(self) -> bool {
        matches!(self, Self::DiskFull | Self::PowerLoss)
    }

    /// Whether it can come between the bus's storing a message and the sender's reading the answer: if nothing
    /// removes duplicates, each of these excuses a second copy. So does a link that is merely slow: the largest
    /// message crosses it in 160 pieces, one after the other, which takes longer than any timeout.
    pub fn excuses_a_copy(self) -> bool {
        !matches!(self.target(), Target::Disk | Target::Stdout | Target::Traffic)
            && !matches!(self, Self::SighupBroken | Self::SecretRotated | Self::CertificateSwapped | Self::TopicLimit)
    }

    /// Whether a bus with brokers takes nothing, or nothing for a topic that they lead.
    pub fn takes_the_bus_away(self) -> bool {
        self.target() == Target::Link || matches!(self, Self::BrokerKill | Self::BrokerStop | Self::LeaderKill)
    }

    /// Whether the bridge may be down meanwhile.
    pub fn takes_the_bridge_away(self) -> bool {
        matches!(self, Self::BridgeKill | Self::BridgeTerm | Self::PowerLoss | Self::DirectoryReplaced)
    }
}
