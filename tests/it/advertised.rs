//! Kafka brokers that advertise an unreachable address: reported before any delivery arrives.

use std::net::TcpStream;
use std::time::Duration;

use crate::support::bridge::{Bridge, command};
use crate::support::brokers::{Broker, Kind, free_port};
use crate::support::consumers::Bus;
use crate::support::terra::Attempt;
use crate::support::until;

const SAID_WITHIN: Duration = Duration::from_secs(90);
const SAYS: &str = "the Kafka brokers were reached, but not at the addresses that they advertise";

fn delivery() -> Attempt {
    Attempt::of(r#"{"type":"daily","user":{"user_id":"u"}}"#)
}

/// A bridge that connects to the brokers in `bus` is not ready, and log and `check --online` say why.
fn is_told(bus: &Bus, address: &str) {
    let environment = bus.environment();
    let bridge = Bridge::start(&environment);
    until("the log says why", SAID_WITHIN, || {
        bridge.said(SAYS).iter().any(|line| line["addresses"] == address && line["level"] == "ERROR").then_some(())
    });
    assert_eq!(bridge.readiness().0, 503);
    assert_eq!(delivery().post(bridge.deliveries).status, 503);
    let check = command()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .args(["check", "--online"])
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&check.stdout);
    assert!(said.contains(&format!("{SAYS} ({address})")) && said.contains("advertised.listeners"), "{said}");
    assert_eq!(check.status.code(), Some(1));
}

#[test]
fn brokers_that_give_a_wrong_address_are_named_before_and_after_topics_are_there() {
    let Some(kind) = Kind::kafka() else { return };
    let (port, other, nobody, controller) = (free_port(), free_port(), free_port(), free_port());
    let mut broker = Broker::configured(kind, port, |dir| {
        format!(
            "process.roles=broker,controller\nnode.id=1\n\
             listeners=PLAINTEXT://127.0.0.1:{port},OTHER://127.0.0.1:{other},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port},OTHER://127.0.0.1:{nobody}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,OTHER:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             inter.broker.listener.name=PLAINTEXT\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\ncontroller.listener.names=CONTROLLER\n\
             log.dirs={}\nauto.create.topics.enable=false\noffsets.topic.replication.factor=1\n",
            dir.join("logs").display()
        )
    });
    broker.start();
    until("the other listener is there", SAID_WITHIN, || TcpStream::connect(("127.0.0.1", other)).ok());
    let bus = Bus::kafka_at(format!("127.0.0.1:{other}"));
    let address = format!("127.0.0.1:{nobody}");
    is_told(&bus, &address);
    // Creates the same topics through a bridge that gets the right address from the right listener.
    let mut right = bus.environment();
    for (name, value) in &mut right {
        if name == "TERRA_BRIDGE_KAFKA__BROKERS" {
            *value = format!("127.0.0.1:{port}");
        }
    }
    let bridge = Bridge::ready(&right);
    assert_eq!(delivery().post(bridge.deliveries).status, 200, "the first one once it is ready");
    drop(bridge);
    is_told(&bus, &address);
}
