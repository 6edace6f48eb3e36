//! The sockets by which commands ask this bridge, one in each directory that it has locked.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::opened::Opened;
use crate::admin_socket::{self, Api, Publisher};
use crate::config::{self, Config};
use crate::route::RouteTable;

/// Without a socket the bridge runs all the same: only the commands miss it.
pub(super) fn start(config: &Config, opened: &Opened, routes: &RouteTable, stop: &CancellationToken) {
    let of_log = match &config.bus {
        config::Bus::Embedded(embedded) => Some(("embedded.dir", &embedded.dir)),
        config::Bus::Kafka(_) | config::Bus::Nats(_) => None,
    };
    // Other buses take messages from several processes.
    let publisher = of_log.map(|_| {
        let (bus, dedupe) = (opened.bus.clone(), Some(opened.dedupe.clone()));
        Arc::new(Publisher::new(bus, dedupe, config.bus_timeout(), routes.topics()))
    });
    let api = Api {
        spool: opened.spool.clone(),
        bus: Some(opened.bus.clone()),
        publish_timeout: config.bus_timeout(),
        stop: stop.clone(),
        publisher,
    };
    let of_spool = config.spool.as_ref().map(|spool| ("spool.dir", &spool.dir));
    for (key, dir) in of_spool.into_iter().chain(of_log) {
        match admin_socket::bind(dir) {
            Ok(socket) => drop(tokio::spawn(admin_socket::serve(socket, api.clone(), stop.clone()))),
            Err(error) => {
                let remedy = "stop the bridge before you run them, or put the directory on a disk that takes sockets";
                tracing::warn!(key, %error, remedy, "no socket in this directory: `terra-bridge spool` and `replay` cannot ask");
            }
        }
    }
}
