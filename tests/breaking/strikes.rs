//! Applies the plan's faults when the ledger reaches their time, and ends them again.

use std::time::Duration;

use crate::kinds::{Kind, Target};
use crate::ledger::{Fault, Ledger};
use crate::plan::{BUSY, Hit, Plan};
use crate::proxy::Mode;
use crate::world::{Replaced, World};

/// For the ledger to reach the point that the plan wants.
const REACHED_WITHIN: Duration = Duration::from_secs(60);

/// A fault in effect.
struct Standing {
    hit: Hit,
    fault: Fault,
    node: usize,
}

/// Carries out the whole plan; returns the kinds that this machine cannot do, and why.
pub fn carry_out(plan: &Plan, world: &mut World<'_>) -> Vec<(Kind, String)> {
    let mut skipped = Vec::new();
    let before = world.ledger.sent();
    for strike in &plan.strikes {
        world.pass(REACHED_WITHIN, |ledger: &Ledger| ledger.sent() >= before + strike.after);
        let mut standing = Vec::new();
        for hit in &strike.hits {
            match inject(world, hit) {
                Ok(stands) => {
                    standing.push(stands);
                    world.pass(Duration::from_millis(hit.hold), |_| false);
                }
                Err(why) => skipped.push((hit.kind, why)),
            }
        }
        if standing.iter().any(|stands| stands.hit.kind == Kind::DirectoryReplaced) {
            // Its memory must not make up for what is no longer on its disk.
            world.kill();
        }
        // The bridge comes back last, on repaired targets.
        standing.sort_by_key(|stands| stands.hit.kind.target() == Target::Bridge);
        for stands in standing {
            mend(world, stands);
        }
    }
    skipped
}

fn inject(world: &mut World<'_>, hit: &Hit) -> Result<Standing, String> {
    if let (true, Some(why)) = (hit.kind.needs_disk(), &world.lacks_disk) {
        return Err(why.clone());
    }
    let begun = world.ledger.now();
    let mut taken = None;
    let busy = BUSY[(hit.pick % BUSY.len() as u64) as usize];
    let topic = world.topic(busy);
    let nodes = if world.cluster.is_some() { world.admin().bus.brokers() } else { 0 };
    let mut node = (hit.pick % nodes.max(1) as u64) as usize;
    if hit.kind == Kind::LeaderKill || (nodes > 1 && hit.strikes_the_leader()) {
        node = world.admin().leader(&topic);
    }
    let only = (nodes > 1 && hit.cuts_off_one()).then_some(node);
    match hit.kind {
        Kind::BridgeKill => world.kill(),
        Kind::BridgeTerm => world.terminate(),
        Kind::BrokerKill | Kind::LeaderKill => cluster(world).broker(node).kill(),
        Kind::BrokerStop => cluster(world).broker(node).freeze(),
        Kind::BrokerRestart => cluster(world).broker(node).terminate(),
        Kind::SpoolFull => cluster(world).link(Mode::Cut),
        Kind::Cut => link(world, only, Mode::Cut),
        Kind::Delay => link(world, only, Mode::Late(Duration::from_millis(20 + hit.pick % 130))),
        Kind::HalfOpen => link(world, only, Mode::Silent),
        Kind::DiskFull => {
            world.may_end = true;
            world.disk.as_ref().expect("it was mounted").fill(hit.pick % (3 << 20));
        }
        Kind::PowerLoss => {
            // A machine without power answers nobody: an fsync during which ext4 is shut down may well succeed.
            world.kill();
            let disk = world.disk.as_mut().expect("it was mounted");
            if let Err(why) = disk.cut_power().and_then(|()| disk.remount()) {
                world.bring_back();
                let ended = world.ledger.now();
                world.ledger.fault(Fault { kind: Kind::BridgeKill, begun, ended, topic: None, taken: None });
                return Err(why);
            }
        }
        Kind::DirectoryReplaced => {
            world.may_end = true;
            world.replace_directory(Replaced::ALL[(hit.pick % Replaced::ALL.len() as u64) as usize]);
            taken = Some(world.ledger.now());
        }
        Kind::CpuStarved => world.starve(),
        Kind::StdoutBlocked => {
            if let Some(bridge) = &world.bridge {
                bridge.leave_unread();
            }
        }
        Kind::TopicDeleted => world.admin().remake(&topic),
        Kind::TopicLimit => world.admin().limit(&topic, true),
        Kind::SighupBroken => {
            world.write_config(true);
            hang_up(world);
        }
        Kind::SecretRotated => world.rotate_secret(format!("rotated-{:016x}", hit.pick)),
        Kind::CertificateSwapped => {
            world.swap_certificate();
            if hit.pick.is_multiple_of(2) {
                hang_up(world);
            }
        }
        Kind::Duplicates | Kind::Replays => return Err("it is in what is sent".to_owned()),
        Kind::BurstKill | Kind::BurstStop | Kind::BurstRefusal => return Err("it is part of a burst".to_owned()),
    }
    let of_one_topic = hit.kind == Kind::TopicDeleted && !world.admin().bus.is_nats();
    let topic = of_one_topic.then_some(busy);
    Ok(Standing { hit: hit.clone(), fault: Fault { kind: hit.kind, begun, ended: begun, topic, taken }, node })
}

fn mend(world: &mut World<'_>, standing: Standing) {
    let Standing { hit, mut fault, node } = standing;
    match hit.kind {
        Kind::BridgeKill | Kind::BridgeTerm | Kind::PowerLoss => world.bring_back(),
        Kind::DirectoryReplaced => {
            world.may_end = false;
            world.bring_back();
        }
        Kind::BrokerKill | Kind::LeaderKill | Kind::BrokerRestart => cluster(world).broker(node).start(),
        Kind::BrokerStop => cluster(world).broker(node).thaw(),
        Kind::Cut | Kind::Delay | Kind::SpoolFull => cluster(world).link(Mode::Open),
        Kind::HalfOpen => {
            if hit.pick % 2 == 1 {
                cluster(world).close_connections();
            }
            cluster(world).link(Mode::Open);
        }
        Kind::DiskFull => {
            world.disk.as_ref().expect("it was mounted").free();
            world.may_end = false;
        }
        Kind::StdoutBlocked => {
            if let Some(bridge) = &world.bridge {
                bridge.read_again();
            }
        }
        Kind::TopicLimit => {
            let topic = world.topic(BUSY[(hit.pick % BUSY.len() as u64) as usize]);
            world.admin().limit(&topic, false);
        }
        Kind::SighupBroken => {
            world.write_config(false);
            hang_up(world);
        }
        Kind::CertificateSwapped => world.expect_new_certificate(),
        Kind::CpuStarved => world.feed(),
        Kind::TopicDeleted | Kind::SecretRotated => {}
        Kind::Duplicates | Kind::Replays | Kind::BurstKill | Kind::BurstStop | Kind::BurstRefusal => {}
    }
    fault.ended = world.ledger.now();
    world.ledger.fault(fault);
}

fn cluster<'w>(world: &'w mut World<'_>) -> &'w mut crate::cluster::Cluster {
    world.cluster.as_mut().expect("the plan has no broker's fault on a bus without brokers")
}

/// Changes the link to one broker, or to all.
fn link(world: &mut World<'_>, only: Option<usize>, mode: Mode) {
    match only {
        Some(node) => cluster(world).link_to(node, mode),
        None => cluster(world).link(mode),
    }
}

fn hang_up(world: &World<'_>) {
    if let Some(bridge) = &world.bridge {
        bridge.signal("HUP");
    }
}
