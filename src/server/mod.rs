//! Connections, limits and deadlines of a listener; hands requests to a [`Service`]. Knows nothing of Terra or of a bus.
//!
//! `timer` times a connection, `backlog` watches for a client that does not read, `slots` limits the connections,
//! `body` reads a body, and `tls` serves certificates. `errors` logs connections that fail, with the help of
//! `first_bytes`. `descriptors` splits the file descriptors, `host` checks the `Host` header, and `client` is the
//! client side, for the commands.

mod backlog;
mod body;
mod client;
mod timer;
pub mod descriptors;
mod errors;
mod first_bytes;
mod host;
mod slots;
mod tls;

pub use body::{Body, BodyError, BodyLimits, has_content_encoding};
pub(crate) use client::{Trust, client, reachable, scheme};
pub use errors::ConnectionLog;
pub(crate) use host::{is_loopback, loopback_host};
pub use tls::{CertificateError, Certificates, Reloaded};

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Request};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::metrics::CountedAlive;
use errors::ConnectionError;
use first_bytes::{FirstBytes, Opening};
use slots::ConnectionSlots;
use timer::{ConnectionTimer, Expired, TimedStream};

/// The reply of any listener: a small body, or a stream.
pub type Reply = http::Response<UnsyncBoxBody<Bytes, std::io::Error>>;

/// How long to wait after an accept error: it comes from a lack of file descriptors, which a busy loop would make
/// worse.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is known of a request beside its head and body.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// When its first byte came in.
    pub at: Instant,
    /// The remote address; `None` if unknown.
    pub peer: Option<IpAddr>,
}

/// Bytes of a connection's read buffer, unless a head may be larger.
const READ_BUFFER: usize = 16 << 10;

/// Enough for a hundred replies to deliveries. By default Linux buffers up to 4 MiB for a client that reads nothing,
/// which would hide a stalled client until they are full.
const SEND_BUFFER: usize = 32 << 10;

/// Answers requests.
pub trait Service: Clone + Send + Sync + 'static {
    fn call(&self, request: Request<Incoming>, arrival: Arrival) -> impl Future<Output = Reply> + Send;
}

/// The limits of one listener.
#[derive(Debug, Clone)]
pub struct Limits {
    pub max_connections: usize,
    pub max_header_bytes: usize,
    pub max_headers: usize,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub drain_timeout: Duration,
    /// No reply is a stream, and each has a deadline. The kernel buffers few replies, a client must take each one
    /// within its time, and a disconnect is noticed by the deadline.
    pub small_replies: bool,
}

impl From<&config::Server> for Limits {
    fn from(server: &config::Server) -> Self {
        Self {
            max_connections: server.max_connections,
            max_header_bytes: server.max_header_bytes,
            max_headers: server.max_headers,
            header_timeout: server.header_timeout,
            idle_timeout: server.idle_timeout,
            drain_timeout: server.drain_timeout,
            small_replies: true,
        }
    }
}

impl Limits {
    /// For an internal listener: few connections, and no drain at the end.
    pub fn internal(max_connections: usize) -> Self {
        Self {
            max_connections,
            max_header_bytes: 16 << 10,
            max_headers: 64,
            header_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(75),
            drain_timeout: Duration::from_millis(500),
            small_replies: false,
        }
    }
}

/// Serves until `stop`, then lets running requests finish within the drain timeout and aborts the rest. Returns how
/// many connections were aborted.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Certificates>,
    limits: Limits,
    service: impl Service,
    log: ConnectionLog,
    stop: CancellationToken,
) -> usize {
    let slots = ConnectionSlots::new(limits.max_connections);
    if limits.small_replies {
        // Accepted sockets inherit it. If it cannot be set, the kernel's own limit applies.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&listener, SEND_BUFFER);
    }
    let mut connections = JoinSet::new();
    'listening: loop {
        // Connections over the limit, apart from one, wait in the kernel's backlog.
        let next = async {
            let stream = accept(&listener, &log).await;
            let timer = Arc::new(ConnectionTimer::new(limits.header_timeout, limits.idle_timeout));
            let slot = slots.take(&timer, &log).await;
            timer.begin();
            (stream, timer, slot)
        };
        let mut next = pin!(next);
        let (stream, timer, slot) = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break 'listening,
                // An ended connection keeps its memory until it is joined.
                Some(_) = connections.join_next() => {}
                next = next.as_mut() => break next,
            }
        };
        let (service, limits, tls, log) = (service.clone(), limits.clone(), tls.clone(), log.clone());
        let open = CountedAlive::new(log.open());
        connections.spawn(async move {
            if let Some(error) = connection(stream, timer, tls, &limits, service, &log).await {
                log.record(error);
            }
            drop((open, slot));
        });
    }
    drop(listener);
    slots.stop();
    let ended = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(limits.drain_timeout, ended).await;
    while connections.try_join_next().is_some() {}
    let aborted = connections.len();
    connections.shutdown().await;
    aborted
}

async fn accept(listener: &TcpListener, log: &ConnectionLog) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                log.not_accepted(&error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    timer: Arc<ConnectionTimer>,
    tls: Option<Certificates>,
    limits: &Limits,
    service: impl Service,
    log: &ConnectionLog,
) -> Option<ConnectionError> {
    // A reply is one small write: waiting to fill a packet would only delay it.
    let _ = stream.set_nodelay(true);
    let peer = stream.peer_addr().map(|peer| peer.ip()).ok();
    let opening = Opening::default();
    let stream = FirstBytes::new(stream, opening.clone());
    let Some(tls) = tls else {
        let error = http(stream, &timer, peer, limits, service).await?;
        return Some(opening.protocol().and_then(ConnectionError::of_protocol).unwrap_or(error));
    };
    let failed = tokio::select! {
        accepted = tls.accept(stream) => match accepted {
            Ok(stream) => {
                timer.begin();
                return http(stream, &timer, peer, limits, service).await;
            }
            Err(error) => error,
        },
        expired = timer.expired() => match expired {
            Expired::Evicted => return None,
            _ if opening.is_silent() => return Some(ConnectionError::Silent),
            _ => "it was not complete in time".to_owned(),
        },
    };
    // Health checks open a connection and close it.
    let protocol = if opening.is_silent() { return None } else { opening.protocol() };
    let error = protocol.and_then(ConnectionError::of_protocol_over_tls);
    if error.is_none() {
        log.handshake_failed(&failed);
    }
    error
}

/// The timer sits above TLS, so it counts a head's byte only once that is decrypted. Returns the error to record when
/// the connection ends.
async fn http(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    timer: &Arc<ConnectionTimer>,
    peer: Option<IpAddr>,
    limits: &Limits,
    service: impl Service,
) -> Option<ConnectionError> {
    let answer = |request: Request<Incoming>| {
        let arrival = Arrival { at: timer.head_complete(), peer };
        let (service, timer) = (service.clone(), timer.clone());
        async move {
            let mut reply = service.call(request, arrival).await;
            if reply.body().size_hint().exact().is_none() {
                // A stream may be idle longer than a connection may; the connection ends with it.
                reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            } else {
                timer.answered(reply.headers().get(CONNECTION).is_some_and(|value| value == "close"));
            }
            Ok::<_, Infallible>(reply)
        }
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // The timer tells an idle connection from one that sends a head slowly; hyper's timer does not.
        .header_read_timeout(None)
        .max_header_size(limits.max_header_bytes)
        .max_headers(limits.max_headers)
        // As large as one read may be. hyper's default is 408 KiB for each connection, kept while it is idle.
        .max_buf_size(limits.max_header_bytes.max(READ_BUFFER))
        // A client may close its sending side after a complete request and still get the answer. A client that is
        // gone looks the same until then, so this needs a deadline on each answer.
        .half_close(limits.small_replies)
        .serve_connection(TokioIo::new(TimedStream::new(stream, timer.clone())), service_fn(answer));
    let mut connection = pin!(connection);
    let mut expired = pin!(timer.expired());
    let mut stopped = pin!(timer.stopped());
    let mut stopping = false;
    loop {
        tokio::select! {
            // In this order: a complete request is served even if its slot is wanted.
            biased;
            // Other errors mean that the client closed, or are reported with their request.
            ended = connection.as_mut() => {
                return ConnectionError::of_hyper(&ended.err()?, timer.in_head());
            }
            expired = expired.as_mut() => return ConnectionError::of_expired(expired),
            () = stopped.as_mut(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// A body of bytes in memory.
pub fn full(bytes: impl Into<Bytes>) -> UnsyncBoxBody<Bytes, std::io::Error> {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A small JSON reply.
pub fn json(status: http::StatusCode, body: &serde_json::Value) -> Reply {
    json_text(status, body.to_string())
}

/// A small reply of this JSON text.
pub fn json_text(status: http::StatusCode, body: String) -> Reply {
    let mut reply = http::Response::new(full(body));
    *reply.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    reply.headers_mut().insert(http::header::CONTENT_TYPE, json);
    reply
}

/// Adds `connection: close` to a denial: a denied client has no reason to stay.
pub(crate) fn closing_if_denied(mut reply: Reply) -> Reply {
    if reply.status().is_client_error() {
        reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    reply
}
