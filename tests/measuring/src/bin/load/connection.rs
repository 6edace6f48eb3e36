//! A connection that delivers one thing after the other, each as soon as the one before is answered.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::body::{Delivery, Kind};
use crate::tally::{PATIENCE, Tally, Window};

/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes up to which a delivery is written by one call.
const AT_ONCE: usize = 64 << 10;

/// A thread's share of the connections, each with the number of its kind; and what each saw.
pub(crate) fn deliver(
    to: SocketAddr,
    share: Vec<(usize, Arc<Kind>)>,
    window: Window,
) -> io::Result<Vec<(usize, Tally)>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let run = |(number, kind)| (number, tokio::spawn(run(to, kind, window)));
        let tasks: Vec<_> = share.into_iter().map(run).collect();
        let mut tallies = Vec::new();
        for (number, task) in tasks {
            tallies.push((number, task.await?));
        }
        Ok(tallies)
    })
}

async fn run(to: SocketAddr, kind: Arc<Kind>, window: Window) -> Tally {
    let mut tally = Tally::new();
    let mut open = None;
    while !window.is_over()
        && let Some(number) = kind.next()
    {
        let begun = Instant::now();
        let mut connection = match open.take() {
            Some(connection) => connection,
            None => match Connection::open(to).await {
                Ok(connection) => connection,
                Err(_) => {
                    tally.failed += 1;
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        let delivered = connection.deliver(kind.delivery(number));
        match tokio::time::timeout(PATIENCE, delivered).await {
            Ok(Ok((status, stays_open))) => {
                tally.answer(status, begun, window);
                open = stays_open.then_some(connection);
            }
            Ok(Err(_)) | Err(_) => tally.failed += 1,
        }
    }
    tally
}

struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(to: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(to).await?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, buffer: Vec::new() })
    }

    /// The status of the answer, and whether the connection stays open.
    async fn deliver(&mut self, delivery: Delivery<'_>) -> io::Result<(u16, bool)> {
        let Delivery { mut begin, samples, end } = delivery;
        if samples.len() <= AT_ONCE {
            begin += samples;
            begin += &end;
            self.socket.write_all(begin.as_bytes()).await?;
        } else {
            for part in [&begin, samples, &end] {
                self.socket.write_all(part.as_bytes()).await?;
            }
        }
        self.answer().await
    }

    async fn answer(&mut self) -> io::Result<(u16, bool)> {
        self.buffer.clear();
        let end = loop {
            self.read().await?;
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
        };
        let head = std::str::from_utf8(&self.buffer[..end]).map_err(io::Error::other)?.to_ascii_lowercase();
        let value = |name| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        let length: usize = value("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0);
        while self.buffer.len() < end + 4 + length {
            self.read().await?;
        }
        Ok((status, value("connection:") != Some("close")))
    }

    async fn read(&mut self) -> io::Result<()> {
        match self.socket.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}
