//! Asks the bridge that has the spool or the log open. Where none runs, this process opens what the command needs under
//! the same lock and answers itself, so that both ways are one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::serve::setup;
use crate::admin_socket::{self, Api, Publisher};
use crate::bus::{self, Bus, ConnectionState};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::dedupe::Dedupe;
use crate::log::disk;
use crate::route::RouteTable;
use crate::spool::Spool;

/// How long to wait for a bridge that is starting: it has locked its directory, and does not listen yet.
const STARTING: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long the bus may take to be reached.
const CONNECTS_WITHIN: Duration = Duration::from_secs(15);

/// Bytes between the two ends within this process.
const PIPE: usize = 64 << 10;

/// The connection to whoever has the directory open.
pub(super) struct Access {
    requests: SendRequest<Full<Bytes>>,
    own: Own,
}

/// What this process opened itself.
#[derive(Default)]
struct Own {
    spool: Option<Spool>,
    bus: Option<Arc<dyn Bus>>,
}

impl Access {
    /// To the spool. `sends`: the command has something sent.
    pub(super) async fn to_spool(config: &Config, routes: &RouteTable, sends: bool) -> Result<Self, Failure> {
        let Some(of_spool) = &config.spool else {
            return Err(Failure::Mistake("there is no spool: set spool.dir to that of the bridge".to_owned()));
        };
        let dir = &of_spool.dir;
        if !dir.is_dir() {
            return Err(Failure::Running(format!("there is no directory {}: nothing was spooled yet", dir.display())));
        }
        if let Some(requests) = to_running("spool", dir).await? {
            return Ok(Self { requests, own: Own::default() });
        }
        let spool = Spool::open(of_spool, config.dedupe.entries, Clock::system(), |_| {}).map_err(failed)?;
        let bus = match sends {
            true => Some(bus::adapters::open(&config.bus, setup(config, routes)).map_err(failed)?.bus),
            false => None,
        };
        Self::to_own(Own { spool: Some(spool), bus }, config, None).await
    }

    /// To the configured bus, to publish.
    pub(super) async fn to_bus(config: &Config, routes: &RouteTable) -> Result<Self, Failure> {
        if let config::Bus::Embedded(embedded) = &config.bus
            && let Some(requests) = to_running("embedded", &embedded.dir).await?
        {
            return Ok(Self { requests, own: Own::default() });
        }
        let setup = setup(config, routes);
        let topics = setup.topics.clone();
        let bus::adapters::Opened { bus, api } = bus::adapters::open(&config.bus, setup).map_err(failed)?;
        let remembered = api.map(|api| {
            let dedupe = Dedupe::new(config.dedupe.window, config.dedupe.entries, Clock::system());
            api.kept(config.dedupe.entries, |entry| dedupe.restore(&entry)).map(|()| dedupe)
        });
        let remembered = remembered.transpose().map_err(failed)?;
        let publisher = Publisher::new(bus.clone(), remembered, config.bus_timeout(), topics);
        Self::to_own(Own { spool: None, bus: Some(bus) }, config, Some(Arc::new(publisher))).await
    }

    async fn to_own(own: Own, config: &Config, publisher: Option<Arc<Publisher>>) -> Result<Self, Failure> {
        if let Some(bus) = &own.bus {
            connected(bus.as_ref()).await?;
        }
        let api = Api {
            spool: own.spool.clone(),
            bus: own.bus.clone(),
            publish_timeout: config.bus_timeout(),
            stop: CancellationToken::new(),
            publisher,
        };
        let (ours, theirs) = tokio::io::duplex(PIPE);
        tokio::spawn(admin_socket::answer(theirs, api));
        Ok(Self { requests: requests(ours).await?, own })
    }

    pub(super) async fn get(&mut self, path: &str) -> Result<Lines, Failure> {
        let request = Request::get(path).body(Full::default());
        let body = self.ask(request.map_err(|error| Failure::Mistake(error.to_string()))?).await?.into_body();
        Ok(Lines { body, buffer: BytesMut::new() })
    }

    pub(super) async fn post<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.post_bytes(path, serde_json::to_vec(body).map_err(|error| broken(&error))?).await
    }

    pub(super) async fn post_bytes<T: DeserializeOwned>(&mut self, path: &str, body: Vec<u8>) -> Result<T, Failure> {
        let request = Request::post(path).body(Full::from(body)).map_err(|error| broken(&error))?;
        let answer = self.ask(request).await?.into_body().collect().await.map_err(|error| broken(&error))?;
        serde_json::from_slice(&answer.to_bytes()).map_err(|error| broken(&error))
    }

    async fn ask(&mut self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        #[derive(serde::Deserialize)]
        struct Denial {
            error: String,
        }
        request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("terra-bridge"));
        self.requests.ready().await.map_err(|error| broken(&error))?;
        let answer = self.requests.send_request(request).await.map_err(|error| broken(&error))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let body = answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let says = serde_json::from_slice(&body).map_or_else(|_| status.to_string(), |Denial { error }| error);
        Err(Failure::Running(says))
    }

    /// Closes what this process opened, with everything that it did on disk.
    pub(super) async fn close(self) {
        if let Some(spool) = self.own.spool {
            spool.close().await;
        }
        if let Some(bus) = self.own.bus {
            bus.close().await;
        }
    }
}

/// The process that has this directory open; `None` if none has.
async fn to_running(section: &'static str, dir: &Path) -> Result<Option<SendRequest<Full<Bytes>>>, Failure> {
    let denied = |error| {
        Failure::Running(format!(
            "the bridge that has {section}.dir {} open cannot be asked: {error}; run this as the user that it runs as, \
             or as root",
            dir.display()
        ))
    };
    let until = Instant::now() + STARTING;
    loop {
        if let Some(stream) = admin_socket::connect(dir).await.map_err(denied)? {
            return Ok(Some(requests(stream).await?));
        }
        let unusable = |error| Failure::Running(disk::unusable(section, dir, &error).0);
        if !disk::locked(dir).map_err(unusable)? || Instant::now() >= until {
            return Ok(None);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn failed(error: bus::OpenError) -> Failure {
    Failure::Running(error.to_string())
}

async fn requests(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let (requests, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    tokio::spawn(connection);
    Ok(requests)
}

/// Waits until the bus is reached.
async fn connected(bus: &dyn Bus) -> Result<(), Failure> {
    let mut connection = bus.connection();
    let up = connection.wait_for(|state| *state == ConnectionState::Up);
    match tokio::time::timeout(CONNECTS_WITHIN, up).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(Failure::Running("the bus cannot be reached; `terra-bridge check --online` says why".to_owned())),
    }
}

fn broken(error: &dyn std::fmt::Display) -> Failure {
    Failure::Running(format!("the bridge's answer cannot be read: {error}; look at its log"))
}

/// A body of JSON lines.
pub(super) struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    /// `None` at the end of the body.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Failure> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(searched + end);
                self.buffer.advance(1);
                return serde_json::from_slice(&line).map(Some).map_err(|error| broken(&error));
            }
            searched = self.buffer.len();
            match self.body.frame().await {
                Some(frame) => {
                    let frame = frame.map_err(|error| broken(&error))?;
                    self.buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                }
                None if self.buffer.is_empty() => return Ok(None),
                // A body that is cut off ends in an error, so that this is a whole one without a line's end.
                None => {
                    let rest = std::mem::take(&mut self.buffer);
                    return serde_json::from_slice(&rest).map(Some).map_err(|error| broken(&error));
                }
            }
        }
    }
}
