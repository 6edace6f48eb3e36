//! The sockets by which commands ask this bridge, one in each directory that it has locked.

use tokio_util::sync::CancellationToken;

use super::opened::Opened;
use crate::admin_socket::{self, Api};
use crate::config::Config;

/// Without a socket the bridge runs all the same: only the commands miss it.
pub(super) fn start(config: &Config, opened: &Opened, stop: &CancellationToken) {
    let api = Api {
        spool: opened.spool.clone(),
        bus: Some(opened.bus.clone()),
        publish_timeout: config.bus_timeout(),
        stop: stop.clone(),
    };
    let of_spool = config.spool.as_ref().map(|spool| ("spool.dir", &spool.dir));
    if let Some((key, dir)) = of_spool {
        match admin_socket::bind(dir) {
            Ok(socket) => drop(tokio::spawn(admin_socket::serve(socket, api.clone(), stop.clone()))),
            Err(error) => {
                let remedy = "stop the bridge before you run them, or put the directory on a disk that takes sockets";
                tracing::warn!(key, %error, remedy, "no socket in this directory: `terra-bridge spool` cannot ask");
            }
        }
    }
}
