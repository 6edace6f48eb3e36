//! Hundreds of clients at once, each of which performs as much of a request as it likes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

use super::tls;

/// Longer than any timeout of the bridge; a test that reaches it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// The kernel's buffer for a client that never reads: small, so that replies soon wait in the bridge.
const SMALL_BUFFER: u32 = 4096;

/// How a client ended.
#[derive(Debug)]
pub struct Ended {
    /// Since it began to connect.
    pub after: Duration,
    /// Since the last of its bytes went out.
    pub after_writing: Duration,
    /// Status codes, in order.
    pub statuses: Vec<u16>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// One client; unread replies wait in the bridge.
pub struct Client {
    stream: Box<dyn Stream>,
    since: Instant,
    written: Instant,
}

impl Client {
    /// Over TLS if there is a configuration for it. `Err`: cut off during the handshake.
    pub async fn try_open(to: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Result<Self, Ended> {
        let plain = Self::open(to).await;
        let Some(tls) = tls else { return Ok(plain) };
        let (since, handshake) = (plain.since, TlsConnector::from(tls.clone()).connect(tls::name(), plain.stream));
        match tokio::time::timeout(PATIENCE, handshake).await.expect("cut off in time") {
            Ok(stream) => Ok(Self { stream: Box::new(stream), since, written: Instant::now() }),
            Err(_) => Err(Ended { after: since.elapsed(), after_writing: Duration::ZERO, statuses: Vec::new() }),
        }
    }

    pub async fn open(to: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(SMALL_BUFFER).expect("a small buffer");
        socket.set_send_buffer_size(SMALL_BUFFER).expect("a small buffer");
        Self::connect(socket, to).await
    }

    /// A client with buffers of the usual size, which sends as fast as it can.
    pub async fn open_fast(to: SocketAddr) -> Self {
        Self::connect(TcpSocket::new_v4().expect("a socket"), to).await
    }

    async fn connect(socket: TcpSocket, to: SocketAddr) -> Self {
        // The kernel, and so the bridge, may have the connection well before this task sees it.
        let since = Instant::now();
        let stream = tokio::time::timeout(PATIENCE, socket.connect(to)).await.expect("in time").expect("a connection");
        Self { stream: Box::new(stream), since, written: Instant::now() }
    }

    /// Whether all bytes were sent; the bridge may close first.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        let writing = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        let written = tokio::time::timeout(PATIENCE, writing).await.expect("cut off in time");
        if written.is_ok() {
            self.written = Instant::now();
        }
        written.is_ok()
    }

    /// Reads until that many bytes have arrived, or the end.
    pub async fn read(&mut self, least: usize) -> Vec<u8> {
        let mut got = Vec::new();
        while got.len() < least {
            match tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut got)).await.expect("an answer in time") {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        got
    }

    /// Writes one byte per interval while no answer arrives, until the bridge closes.
    pub async fn dribble(mut self, bytes: &[u8], every: Duration) -> Ended {
        let mut got = Vec::new();
        for byte in bytes {
            match tokio::time::timeout(every, self.stream.read_buf(&mut got)).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0) | Err(_)) => return self.end(&got),
                Err(_) => drop(self.write(&[*byte]).await),
            }
        }
        self.ended().await
    }

    /// Waits until the bridge closes.
    pub async fn ended(mut self) -> Ended {
        let got = self.read(usize::MAX).await;
        self.end(&got)
    }

    fn end(&self, got: &[u8]) -> Ended {
        Ended { after: self.since.elapsed(), after_writing: self.written.elapsed(), statuses: statuses(got) }
    }
}

/// The status of every reply in these bytes.
pub fn statuses(bytes: &[u8]) -> Vec<u16> {
    const START: &str = "HTTP/1.1 ";
    let text = String::from_utf8_lossy(bytes);
    text.match_indices(START).filter_map(|(at, _)| text.get(at + START.len()..)?.get(..3)?.parse().ok()).collect()
}

/// How many of each kind: the variable's number, so that a person can set more than a test run uses.
pub fn count(variable: &str, usual: usize) -> usize {
    std::env::var(variable).ok().and_then(|number| number.parse().ok()).unwrap_or(usual)
}

/// A runtime that allows this many connections in this process, and in the bridges that it starts.
pub fn runtime() -> tokio::runtime::Runtime {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the hard limit");
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
