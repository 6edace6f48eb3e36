//! The rounds of a seed's burst: deliveries that go out as fast as answers come, few keys and topics, and
//! the broker is taken away while the first of them are on their way. Values alone.
//!
//! What is looked for are successes that were inferred: a broker that holds nothing of a producer for a
//! partition takes any batch as the first. So each round has topics that nothing was sent to, or a bridge that
//! has only just started.

use std::ops::Range;

use fastrand::Rng;
use terra_bridge::vocabulary::KNOWN;

use crate::kinds::{BusName, Kind, Target};
use crate::plan::{Content, Manner, Planned};

/// More than there are kinds: the last one comes again.
const ROUNDS: usize = 4;
/// The most that one round sends, however fast the answers come, and bytes of each. Of the larger ones a few make
/// a batch, so that several are on their way.
const SMALL: (usize, Range<usize>) = (1500, 500..3000);
const LARGE: (usize, Range<usize>) = (200, 60_000..250_000);
/// Fewer than the five requests that Kafka's client has on their way at once.
const TOPICS: Range<usize> = 1..4;
const USERS: u64 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// One of a burst.
    pub kind: Kind,
    pub new: New,
    /// Whether busy loops take the processors meanwhile.
    pub starved: bool,
    /// By their numbers.
    pub deliveries: Range<usize>,
    /// The broker is taken away when so many of them were sent.
    pub after: usize,
    /// Milliseconds until it comes back.
    pub hold: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum New {
    /// Nothing was sent to them before.
    Topics,
    /// The bridge was killed and started again; the topics are those of the round before.
    Bridge,
}

impl Round {
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        [self.kind].into_iter().chain(self.starved.then_some(Kind::CpuStarved))
    }
}

/// None where no kind of a burst is among `kinds`. What they send goes behind the other deliveries.
pub fn rounds(rng: &mut Rng, bus: BusName, kinds: &[Kind], deliveries: &mut Vec<Planned>) -> Vec<Round> {
    let mut strikes: Vec<_> = kinds.iter().copied().filter(|kind| kind.target() == Target::Burst).collect();
    rng.shuffle(&mut strikes);
    // Right after they were made, topics have no leader, and the second batch is refused as well.
    strikes.sort_by_key(|kind| *kind == Kind::BurstRefusal);
    if strikes.is_empty() {
        return Vec::new();
    }
    let mut unused: Vec<_> = (0..KNOWN.len()).collect();
    rng.shuffle(&mut unused);
    let mut topics = Vec::new();
    let round = |n: usize| {
        let kind = strikes[n.min(strikes.len() - 1)];
        let new = if n > 0 && rng.bool() { New::Bridge } else { New::Topics };
        if new == New::Topics {
            topics = unused.split_off(unused.len() - rng.usize(TOPICS));
        }
        let (count, sizes) = if rng.u8(0..3) == 0 { LARGE } else { SMALL };
        let first = deliveries.len();
        deliveries.extend((first..first + count).map(|number| planned(rng, number, &topics, &sizes)));
        Round {
            kind,
            new,
            starved: kinds.contains(&Kind::CpuStarved) && (n == 0 || rng.bool()),
            deliveries: first..deliveries.len(),
            after: rng.usize(5..count / 4),
            hold: hold(rng, bus, kind),
        }
    };
    (0..ROUNDS).map(round).collect()
}

fn hold(rng: &mut Rng, bus: BusName, kind: Kind) -> u64 {
    match kind {
        // Longer than the client library's patience.
        Kind::BurstStop if bus.is_kafka() => rng.u64(2000..4500),
        _ => rng.u64(0..1500),
    }
}

fn planned(rng: &mut Rng, number: usize, topics: &[usize], sizes: &Range<usize>) -> Planned {
    Planned {
        number,
        content: Content::Known(topics[rng.usize(0..topics.len())]),
        size: rng.usize(sizes.clone()),
        salt: rng.u64(..),
        user: rng.u64(0..USERS),
        traced: true,
        signed_anew: rng.bool(),
        manner: Manner::Plain,
    }
}
