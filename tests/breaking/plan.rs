//! The meaning of a seed: every delivery, every fault, and the point in the ledger where the fault strikes. The same
//! seed and filters always give the same [`Plan`]. Knows no clock, no process and no machine.

use fastrand::Rng;
use terra_bridge::vocabulary::KNOWN;

use crate::kinds::{BusName, Kind, Target};
use crate::rounds::{self, Round};

const DELIVERIES: std::ops::Range<usize> = 500..1400;
/// New deliveries per second.
const RATES: std::ops::Range<u64> = 110..190;
const CONNECTIONS: std::ops::Range<usize> = 12..25;
/// Faults of a seed with a burst, and of one without.
const STRIKES: [usize; 2] = [3, 4];
/// Topics that get most of the deliveries, so that a fault in one of them has an effect.
pub const BUSY: [&str; 3] = ["daily", "sleep", "activity"];
/// Few, so that new deliveries meet older ones of their key in the spool.
const USERS: u64 = 8;
/// The setting for the memory of the bridge's bodies, and the limit for the process's peak memory.
pub const BYTES_IN_FLIGHT: u64 = 64 << 20;
pub const MEMORY: u64 = 384 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    pub bus: BusName,
    /// First those sent at the plan's rate, then those of the burst.
    pub deliveries: Vec<Planned>,
    pub burst: Vec<Round>,
    pub strikes: Vec<Strike>,
    pub connections: usize,
    pub rate: u64,
    /// The bridge's `server.publish_timeout`, in seconds.
    pub publish_timeout: u64,
    /// For the embedded log, and for the spool.
    pub reserve: &'static str,
    /// On a bus with brokers.
    pub spool: bool,
    pub https: bool,
    pub talkative: bool,
    pub memory: u64,
}

impl Plan {
    /// The kinds of all its faults.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        let hits = self.strikes.iter().flat_map(|strike| &strike.hits).map(|hit| hit.kind);
        self.burst.iter().flat_map(Round::kinds).chain(hits)
    }

    /// Whether some fault's kind satisfies `is`.
    pub fn has(&self, is: impl Fn(Kind) -> bool) -> bool {
        self.kinds().any(is)
    }

    /// How many deliveries are sent at the plan's rate.
    pub fn at_rate(&self) -> usize {
        self.burst.first().map_or(self.deliveries.len(), |round| round.deliveries.start)
    }
}

/// One delivery from Terra, or from somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    pub number: usize,
    pub content: Content,
    /// Approximately, in bytes.
    pub size: usize,
    /// The seed of the body's filler.
    pub salt: u64,
    pub user: u64,
    pub traced: bool,
    /// Whether a retry is signed again.
    pub signed_anew: bool,
    pub manner: Manner,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// By its index in the vocabulary.
    Known(usize),
    Unknown,
    Unreadable(Unreadable),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    NotUtf8,
    NotJson,
    NotAnObject,
    NoType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Plain,
    /// That many copies at the same time.
    AtOnce(usize),
    /// The first attempt's client disconnects in the middle of the body.
    LeavesEarly,
    /// The first attempt's client disconnects without reading the answer.
    LeavesUnanswered,
    /// Once kept, it is sent again under another trace id.
    Replayed,
    Forged(Forgery),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgery {
    Unsigned,
    OtherSecret,
    OtherBody,
    OtherTime,
    TooOld,
}

impl Manner {
    pub fn is_forged(self) -> bool {
        matches!(self, Self::Forged(_))
    }
}

/// Overlapping faults: the first one lasts while the next one strikes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strike {
    /// Strikes when this many deliveries were sent for the first time.
    pub after: usize,
    pub hits: Vec<Hit>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    pub kind: Kind,
    /// Milliseconds before the next one.
    pub hold: u64,
    /// Selects a broker, topic or variant.
    pub pick: u64,
}

impl Hit {
    /// On a cluster: whether a stop or a restart targets the leader, since a kill of the leader is a kind of its own.
    pub fn strikes_the_leader(&self) -> bool {
        matches!(self.kind, Kind::BrokerStop | Kind::BrokerRestart) && self.pick.is_multiple_of(2)
    }

    /// On a cluster: whether the bridge loses one broker and keeps the others.
    pub fn cuts_off_one(&self) -> bool {
        matches!(self.kind, Kind::Cut | Kind::Delay | Kind::HalfOpen) && self.pick.is_multiple_of(2)
    }
}

/// The filters of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Narrowed {
    pub bus: Option<BusName>,
    pub kinds: Option<Vec<Kind>>,
}

impl Narrowed {
    fn kinds(&self, bus: BusName) -> Vec<Kind> {
        let all = Kind::ALL.iter().copied().filter(|kind| kind.fits(bus));
        all.filter(|kind| self.kinds.as_ref().is_none_or(|asked| asked.contains(kind))).collect()
    }
}

/// The plan of a seed.
pub fn plan(seed: u64, narrowed: &Narrowed) -> Plan {
    let mut rng = Rng::with_seed(seed);
    let buses = BusName::ALL.len() as u64;
    let bus = narrowed.bus.unwrap_or(BusName::ALL[(seed % buses) as usize]);
    let round = if narrowed.bus.is_some() { seed } else { seed / buses };
    let kinds = narrowed.kinds(bus);
    let of = |is: fn(Target) -> bool| kinds.iter().copied().filter(|kind| is(kind.target())).collect::<Vec<_>>();
    let traffic = of(|target| target == Target::Traffic);
    let faults = of(|target| !matches!(target, Target::Traffic | Target::Burst));
    let count = rng.usize(DELIVERIES);
    let strikes = strikes(&mut rng, bus, round, &faults, count);
    let struck = |is: fn(Kind) -> bool| strikes.iter().flat_map(|strike| &strike.hits).any(|hit| is(hit.kind));
    let mut deliveries: Vec<_> = (0..count).map(|number| planned(&mut rng, number, &traffic)).collect();
    // A filtered run exists for the kinds that remain.
    let with_burst = has_burst(round) || narrowed.kinds.is_some();
    let burst = if with_burst { rounds::rounds(&mut rng, bus, &kinds, &mut deliveries) } else { Vec::new() };
    Plan {
        seed,
        bus,
        deliveries,
        connections: rng.usize(CONNECTIONS),
        rate: rng.u64(RATES),
        publish_timeout: [5, 3, 2][rng.usize(0..3)],
        // Small ones let the disk fill up during a commit, not only before it.
        reserve: ["1 MiB", "16 MiB", "64 MiB"][rng.usize(0..3)],
        spool: bus.brokers() > 0 && (rng.bool() || struck(Kind::needs_spool)),
        https: struck(|kind| kind == Kind::CertificateSwapped),
        talkative: struck(|kind| kind == Kind::StdoutBlocked),
        burst,
        strikes,
        memory: MEMORY,
    }
}

/// Every second round of a bus has one.
fn has_burst(round: u64) -> bool {
    round.is_multiple_of(2)
}

/// Cycles through the kinds from round to round, so that few seeds cover them all.
fn strikes(rng: &mut Rng, bus: BusName, round: u64, kinds: &[Kind], deliveries: usize) -> Vec<Strike> {
    if kinds.is_empty() {
        return Vec::new();
    }
    // Two buses of one family begin with different halves, so that half as many seeds cover every kind.
    let begin = if matches!(bus, BusName::Nats | BusName::Kafka3) { kinds.len() / 2 } else { 0 };
    let [with_burst, without] = STRIKES;
    let count = if has_burst(round) { with_burst } else { without };
    let before = round as usize / 2 * (with_burst + without) + if has_burst(round) { 0 } else { with_burst };
    let turn = |n: usize| kinds[(begin + before + n) % kinds.len()];
    let mut strikes: Vec<_> = (0..count).map(|n| vec![hit(rng, bus, turn(n))]).collect();
    for hits in &mut strikes {
        let first = hits[0].kind;
        // A disk cannot be full and without power at once.
        let directory = |kind: Kind| kind.strikes_the_directory();
        let apart = |kind: &Kind| kind.target() != first.target() && !(directory(*kind) && directory(first));
        let others: Vec<_> = kinds.iter().copied().filter(apart).collect();
        // A spool can lose something only while the brokers are down.
        let wanted = directory(first) && bus.brokers() > 0;
        if !others.is_empty() && (wanted || rng.u8(0..5) < 2) {
            let away: Vec<_> = others.iter().copied().filter(|kind| kind.takes_the_bus_away()).collect();
            let others = if wanted && !away.is_empty() { away } else { others };
            let other = others[rng.usize(0..others.len())];
            hits.push(hit(rng, bus, other));
            if wanted {
                hits.reverse();
            }
        }
    }
    rng.shuffle(&mut strikes);
    let part = deliveries / (count + 1);
    let strikes = strikes.into_iter().enumerate();
    strikes.map(|(n, hits)| Strike { after: part * n + rng.usize(part / 4..part), hits }).collect()
}

fn hit(rng: &mut Rng, bus: BusName, kind: Kind) -> Hit {
    let hold = match kind {
        // Some last longer than any answer may take.
        Kind::BrokerStop | Kind::HalfOpen | Kind::BrokerKill if rng.u8(0..4) == 0 => rng.u64(5000..7000),
        Kind::BridgeKill | Kind::BridgeTerm | Kind::PowerLoss => rng.u64(0..700),
        Kind::SpoolFull => rng.u64(5000..9000),
        // Until the spool has what the bus does not take.
        Kind::DirectoryReplaced if bus.brokers() > 0 => rng.u64(3000..6000),
        // The pipe and its reader have taken their last line after half a second.
        Kind::StdoutBlocked => rng.u64(2000..5000),
        _ => rng.u64(500..2500),
    };
    Hit { kind, hold, pick: rng.u64(..) }
}

fn planned(rng: &mut Rng, number: usize, traffic: &[Kind]) -> Planned {
    let content = match rng.u8(0..100) {
        0..50 => {
            let name = BUSY[rng.usize(0..BUSY.len())];
            Content::Known(KNOWN.iter().position(|known| known.name == name).expect("a known type"))
        }
        50..92 => Content::Known(rng.usize(0..KNOWN.len())),
        92..96 => Content::Unknown,
        _ => Content::Unreadable(
            [Unreadable::NotUtf8, Unreadable::NotJson, Unreadable::NotAnObject, Unreadable::NoType][rng.usize(0..4)],
        ),
    };
    let size = match rng.u16(0..1000) {
        0..4 => rng.usize(5_000_000..10_000_000),
        4..34 => rng.usize(100_000..1_000_000),
        _ => rng.usize(500..20_000),
    };
    let traced = rng.u8(0..10) < 8;
    let manner = manner(rng, traffic, traced);
    Planned {
        number,
        content,
        size,
        salt: rng.u64(..),
        user: rng.u64(0..USERS),
        traced,
        // Without a trace id, only the signature tells a retry from another delivery; and an attacker who captured
        // one cannot sign.
        signed_anew: traced && manner != Manner::Replayed && rng.bool(),
        manner,
    }
}

fn manner(rng: &mut Rng, traffic: &[Kind], traced: bool) -> Manner {
    let draw = rng.u8(0..100);
    let copies = rng.usize(2..5);
    let forgeries = [Forgery::Unsigned, Forgery::OtherSecret, Forgery::OtherBody, Forgery::OtherTime, Forgery::TooOld];
    let forgery = forgeries[rng.usize(0..forgeries.len())];
    match draw {
        0..5 => Manner::Forged(forgery),
        5..7 => Manner::LeavesEarly,
        7..9 => Manner::LeavesUnanswered,
        9..14 if traffic.contains(&Kind::Duplicates) => Manner::AtOnce(copies),
        14..17 if traced && traffic.contains(&Kind::Replays) => Manner::Replayed,
        _ => Manner::Plain,
    }
}
