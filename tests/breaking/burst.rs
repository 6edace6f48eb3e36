//! Runs the rounds of a burst: senders continue as fast as answers arrive, and the broker (on the embedded log the
//! bridge) is stopped, or refuses, while the first deliveries are in flight.

use std::time::{Duration, Instant};

use crate::busy::BusyLoops;
use crate::kinds::{BusName, Kind};
use crate::ledger::Fault;
use crate::plan::Plan;
use crate::proxy::Mode;
use crate::rounds::{New, Round};
use crate::terra::Terra;
use crate::world::World;

/// For the number of deliveries that the plan wants sent first.
const SENT_WITHIN: Duration = Duration::from_secs(5);
/// For the first batch to arrive, on a busy machine.
const REFUSED_WITHIN: Duration = Duration::from_secs(20);
/// How many deliveries make the first batches, with at least twice as many connections.
const FIRST: usize = 6;
/// How long sending continues after the broker is back, for what was in flight and for some more.
const GOES_ON: Duration = Duration::from_millis(2500);
/// A round may be shorter than one step of [`World::pass`].
const LOOK_EVERY: Duration = Duration::from_millis(1);

pub fn carry_out(plan: &Plan, world: &mut World<'_>, terra: &Terra) {
    for round in &plan.burst {
        if round.new == New::Bridge {
            let begun = world.ledger.now();
            world.kill();
            world.bring_back();
            note(world, Kind::BridgeKill, begun);
            world.await_ready();
        }
        let begun = world.ledger.now();
        let starved = round.starved.then(BusyLoops::start);
        match round.kind {
            Kind::BurstRefusal => refuse(round, world, terra),
            _ => take_away(plan.bus, round, world, terra),
        }
        terra.keep_back();
        if let Some(loops) = starved {
            drop(loops);
            note(world, Kind::CpuStarved, begun);
        }
    }
}

/// Refuses the first batch for each partition with "not the leader".
fn refuse(round: &Round, world: &mut World<'_>, terra: &Terra) {
    let begun = world.ledger.now();
    link(world, Mode::Refusing);
    let (first, end) = (round.deliveries.start, round.deliveries.end);
    // No further batch would follow one that has a delivery of every connection.
    terra.send_as_fast_as_answers_come(first..first + FIRST);
    let late = Instant::now() + REFUSED_WITHIN;
    while refused(world) == 0 && Instant::now() < late {
        std::thread::park_timeout(LOOK_EVERY);
    }
    terra.send_as_fast_as_answers_come(first + FIRST..end);
    world.pass(GOES_ON, |_| terra.is_done());
    if refused(world) == 0 {
        world.ledger.violation("no batch was refused: the proxy does not know how this client sends it".to_owned());
    }
    link(world, Mode::Open);
    note(world, round.kind, begun);
}

fn link(world: &World<'_>, mode: Mode) {
    world.cluster.as_ref().expect("Kafka has brokers").link(mode);
}

fn refused(world: &World<'_>) -> usize {
    world.cluster.as_ref().expect("Kafka has brokers").refused()
}

/// Stops the broker, or on the embedded log the bridge.
fn take_away(bus: BusName, round: &Round, world: &mut World<'_>, terra: &Terra) {
    let topic = world.topic(world.ledger.entries[round.deliveries.start].topic());
    let node = if bus.brokers() > 1 { world.admin().leader(&topic) } else { 0 };
    let sent = world.ledger.sent();
    terra.send_as_fast_as_answers_come(round.deliveries.clone());
    let end = Instant::now() + SENT_WITHIN;
    while world.ledger.sent() < sent + round.after && Instant::now() < end {
        std::thread::park_timeout(LOOK_EVERY);
    }
    let begun = world.ledger.now();
    match (&mut world.cluster, round.kind) {
        (Some(cluster), Kind::BurstStop) => cluster.broker(node).freeze(),
        (Some(cluster), _) => cluster.broker(node).kill(),
        (None, _) => world.kill(),
    }
    world.pass(Duration::from_millis(round.hold), |_| false);
    match (&mut world.cluster, round.kind) {
        (Some(cluster), Kind::BurstStop) => cluster.broker(node).thaw(),
        (Some(cluster), _) => cluster.broker(node).start(),
        (None, _) => world.bring_back(),
    }
    note(world, round.kind, begun);
    if bus == BusName::Embedded {
        note(world, Kind::BridgeKill, begun);
    }
    world.pass(GOES_ON, |_| terra.is_done());
}

/// Records a fault that has lasted until now.
fn note(world: &World<'_>, kind: Kind, begun: Duration) {
    let ended = world.ledger.now();
    world.ledger.fault(Fault { kind, begun, ended, topic: None, taken: None });
}
