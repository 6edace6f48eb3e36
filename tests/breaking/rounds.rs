//! The rounds of a seed's burst: deliveries as fast as answers arrive, with few keys and topics, and the broker is
//! stopped while the first ones are in flight. Pure values.
//!
//! This looks for successes that were merely inferred: a broker without state of a producer for a partition accepts
//! any batch as the first. So each round has topics that nothing was sent to, or a bridge that has only just started.

use std::ops::Range;

use fastrand::Rng;
use terra_bridge::vocabulary::KNOWN;

use crate::kinds::{BusName, Kind, Target};
use crate::plan::{Content, Manner, Planned};

/// More than there are kinds: the last kind repeats.
const ROUNDS: usize = 4;
/// The most deliveries that one round sends, however fast the answers arrive, and the bytes of each. A few of the
/// larger ones fill a batch, so that several batches are in flight.
const SMALL: (usize, Range<usize>) = (1500, 500..3000);
const LARGE: (usize, Range<usize>) = (200, 60_000..250_000);
/// Fewer than the five requests that Kafka's client keeps in flight.
const TOPICS: Range<usize> = 1..4;
const USERS: u64 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// One of a burst.
    pub kind: Kind,
    pub new: New,
    /// Whether busy loops starve the processors meanwhile.
    pub starved: bool,
    /// By their numbers.
    pub deliveries: Range<usize>,
    /// The broker is stopped once this many of them were sent.
    pub after: usize,
    /// Milliseconds until it comes back.
    pub hold: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum New {
    /// Nothing was sent to these topics before.
    Topics,
    /// The bridge was killed and restarted; the topics are those of the previous round.
    Bridge,
}

impl Round {
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        [self.kind].into_iter().chain(self.starved.then_some(Kind::CpuStarved))
    }
}

/// None if `kinds` has no kind of burst. The burst's deliveries are appended to the others.
pub fn rounds(rng: &mut Rng, bus: BusName, kinds: &[Kind], deliveries: &mut Vec<Planned>) -> Vec<Round> {
    let mut strikes: Vec<_> = kinds.iter().copied().filter(|kind| kind.target() == Target::Burst).collect();
    rng.shuffle(&mut strikes);
    // New topics have no leader yet, and then the second batch would be refused as well.
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
        // Longer than the client library's timeout.
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
