//! The product from outside: the real binary, a pretend Terra, real brokers, stock clients.
//!
//! - `contract`: what every bus must do, run against each of them
//! - `shapes`: every shape of the vendor's, from examples and thousands of generated ones
//! - `outage`: brokers that stop, freeze and come back; the bridge killed
//! - `spool`: an outage with the spool switched on
//! - `aside`: what the spool set aside: seen, sent again, exported, discarded
//! - `unconfirmed`: what Kafka's client reports as delivered without a broker's confirmation
//! - `access_log`: which deliveries have a line of their own, and what it tells
//! - `silence`: no payload, id, URL or secret in any output
//! - `large`: deliveries larger than the bus's message limit
//! - `directories`: the directories of log and spool removed, moved or open to others
//! - `metrics`: names, series that are there from the start, and what they count
//! - `status`: the status page: its JSON, its stream, and what a browser may do with it
//! - `monitoring`: the alerts and the dashboard of `deploy/monitoring`
//! - `readers`: readers of the embedded log that take nothing
//! - `streams`: NATS streams that others created or changed
//! - `connecting`: NATS servers that are down, are something else, are full, or use plain text
//! - `links`: events that Terra sends as a link
//! - `http`: replies, limits, slow clients
//! - `answers`: every row of the README's reply table against Terra's and Vantage's retry rules
//! - `endpoints`: several endpoints on one bridge, each with its own settings
//! - `time`: signature times, old and new, and wrong clocks
//! - `order`: late retries of old deliveries, and the consumer's rule
//! - `allow`: allowed addresses, and trusted proxies
//! - `https`: TLS on the bridge's own listeners
//! - `connections`: clients that occupy slots, and connections without a request
//! - `overload`: more load than fits, and the memory limit
//! - `slow`: hundreds of slow clients at once, beside an honest one
//! - `forging`: thousands of forgeries, none accepted
//! - `commands`: the binary as a person or a script uses it: configuration, `check`, `send`, `tail`
//! - `asyncapi`: the document of the topics is valid, and true of what is published
//! - `requests`: how much of a large historical request has arrived
//! - `replay`: messages brought back from a bus or a file; dead letters; finding a delivery
//! - `readme`: everything that the READMEs show
//! - `reload`: SIGHUP while deliveries arrive
//! - `notify`: what systemd is told
//! - `rotation`: secrets that change on disk
//! - `plans`, `verdicts`: how the faults program (`tests/breaking`) plans from a seed, and judges a run
//! - `advertised`: Kafka brokers that advertise a wrong address
//! - `secured`: brokers that require TLS and a login, and refuse the wrong one
//! - `tokens`: Kafka brokers that let in who has a token of an OIDC server
//! - `traces`: spans at a collector, and the trace that consumers continue
//! - `compression`: how Kafka's messages are compressed
//! - `costs`: allocations and system calls of a delivery
//! - `imports`: which source file imports which, without circles
//! - `consumers`: the programs of `deploy/consumers`, in five languages
//! - `every_bus`: runs one test on each bus
//! - `support`: the bridge on free ports, the pretend Terra, the brokers

#![expect(unreachable_pub, reason = "a test crate has no public")]

#[macro_use]
mod every_bus;

mod access_log;
mod advertised;
mod allow;
mod aside;
mod answers;
mod asyncapi;
mod commands;
mod compression;
mod connecting;
mod connections;
mod consumers;
mod contract;
mod costs;
mod directories;
mod endpoints;
mod forging;
mod http;
mod https;
mod imports;
mod large;
mod links;
mod metrics;
mod monitoring;
mod notify;
mod order;
mod outage;
mod overload;
mod readers;
mod readme;
mod reload;
mod replay;
mod requests;
mod rotation;
mod secured;
mod shapes;
mod silence;
mod slow;
mod spool;
mod status;
mod streams;
mod time;
mod tokens;
mod traces;
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
