//! The embedded adapter: the durable log as a bus, with a receipt after each fsync, and readable over HTTP.
//!
//! - `api`: the requests of readers, with `query`, `error`, `stream` (the messages) and `budget` (their memory);
//! - `client`: the client side, for the commands: `read` and `inspect`.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Bus, ConnectionState, OpenError, Pending, Receipt, Refusal, Setup};
use crate::clock::Clock;
use crate::config;
use crate::log::{Keep, Log, Retention, Settings};
use crate::message::Message;
use crate::route::Topic;

mod api;
mod budget;
mod client;
mod error;
mod inspect;
mod query;
mod read;
mod stream;

pub use api::Api;
pub use inspect::inspect;
pub use read::read;

struct Embedded {
    log: Log,
    connection: watch::Receiver<ConnectionState>,
    api: Api,
}

/// Opens the log, the adapter and the API for its readers. An error names its remedy.
pub fn open(config: &config::Embedded, setup: Setup) -> Result<(Arc<dyn Bus>, Api), OpenError> {
    let (state, connection) = watch::channel(ConnectionState::Up);
    let on_taking = move |taking| {
        state.send_replace(if taking { ConnectionState::Up } else { ConnectionState::Away });
    };
    let log = Log::open(settings(config), setup.topics.iter().map(|topic| Arc::from(&**topic)), on_taking)?;
    let api = Api::new(log.store.clone(), config.token.clone());
    Ok((Arc::new(Embedded { log, connection, api: api.clone() }), api))
}

fn settings(config: &config::Embedded) -> Settings {
    let retention = Retention { age: config.retention, bytes: config.max_bytes };
    let (dir, keep) = (config.dir.clone(), Keep::For(retention));
    Settings { section: "embedded", dir, reserve: config.reserve, keep, clock: Clock::system() }
}

impl Bus for Embedded {
    fn publish(&self, message: Arc<Message>) -> Pending<Result<Receipt, Refusal>> {
        let appended = self.log.append(message);
        Box::pin(async move { Ok(appended.await.map(|()| Receipt::Kept)?) })
    }

    fn topics(&self, topics: Vec<Topic>) {
        self.log.store.know(topics.iter().map(|topic| Arc::from(&**topic)));
    }

    fn connection(&self) -> watch::Receiver<ConnectionState> {
        self.connection.clone()
    }

    fn close(&self) -> Pending<()> {
        self.api.drain();
        Box::pin(self.log.close())
    }
}

#[cfg(test)]
mod tests;
