//! The product from outside: the real binary, a pretend Terra, real brokers, stock clients.
//!
//! - `contract`: what every bus must do, run against each of them
//! - `shapes`: every shape of the vendor's, by example and made up by the thousand
//! - `outage`: brokers that stop, freeze and come back; the bridge killed
//! - `spool`: an outage with the spool switched on
//! - `unconfirmed`: what Kafka's client takes for delivered on its own word
//! - `silence`: no payload, id, URL or secret in anything said
//! - `large`: deliveries larger than a message of the bus may be
//! - `directories`: those of log and spool removed, moved or open to others
//! - `readers`: readers of the embedded log that take nothing
//! - `streams`: NATS streams that others made or changed
//! - `connecting`: NATS servers that are not there, are something else, are full, or speak in the clear
//! - `links`: events that Terra sends as a link to them
//! - `http`: replies, limits, slow clients
//! - `answers`: every row of the README's reply table against Terra's and Vantage's rules of retrying
//! - `endpoints`: several of them on one bridge, each with what is its own
//! - `time`: signature times, old and new, and clocks that are wrong
//! - `order`: late retries of old deliveries, and the consumer's rule
//! - `allow`: addresses that may try, and proxies that vouch for them
//! - `https`: TLS on the bridge's own listeners
//! - `connections`: who holds a place that others need, and what brings no request at all
//! - `overload`: more than there is room for, and the bound of memory
//! - `slow`: clients that take their time, hundreds at once, beside an honest one
//! - `forging`: forgeries by the thousand, none accepted
//! - `commands`: the binary as a person or a script uses it: configuration, `check`, `send`, `tail`
//! - `requests`: how much of a large historical request has arrived
//! - `reload`: SIGHUP while deliveries arrive
//! - `rotation`: secrets that change on disk
//! - `plans`, `verdicts`: what the faults program (`tests/breaking`) makes of a seed, and of what came of it
//! - `advertised`: Kafka brokers that give a wrong address for themselves
//! - `secured`: brokers that want TLS and a login, and refuse the wrong one
//! - `imports`: which file of the source imports which, without circles
//! - `every_bus`: how one test becomes one for each bus
//! - `support`: the bridge on free ports, the pretend Terra, the brokers

#![expect(unreachable_pub, reason = "a test crate has no public")]

#[macro_use]
mod every_bus;

mod advertised;
mod allow;
mod answers;
mod commands;
mod connecting;
mod connections;
mod contract;
mod directories;
mod endpoints;
mod forging;
mod http;
mod https;
mod imports;
mod large;
mod links;
mod order;
mod outage;
mod overload;
mod readers;
mod reload;
mod requests;
mod rotation;
mod secured;
mod shapes;
mod silence;
mod slow;
mod spool;
mod streams;
mod time;
mod unconfirmed;
#[path = "../breaking/bodies.rs"]
mod bodies;
#[path = "../breaking/judge.rs"]
mod judge;
#[path = "../breaking/kinds.rs"]
#[allow(dead_code, reason = "the faults program uses the rest")]
mod kinds;
#[path = "../breaking/ledger.rs"]
#[allow(dead_code, reason = "the faults program uses the rest")]
mod ledger;
#[path = "../breaking/plan.rs"]
#[allow(dead_code, reason = "the faults program uses the rest")]
mod plan;
#[path = "../breaking/report.rs"]
#[allow(dead_code, reason = "the faults program uses the rest")]
mod report;
#[path = "../breaking/rounds.rs"]
#[allow(dead_code, reason = "the faults program uses the rest")]
mod rounds;
#[allow(dead_code, reason = "the faults program uses the rest")]
mod support;
mod plans;
mod verdicts;
