//! When a connection has had its time: idle too long, too slow with a head, too slow
//! to take an answer or to leave.
//! Comes in: the bytes of a connection as they are read. Goes out: the moment of a request's first
//! byte, and the end of the connection's patience.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// How long, and how much, a client that was answered early may go on sending: closing under it
/// would reset the connection and destroy the reply before it is read.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 32 << 20;

/// How long a client may take for a reply that waits for it, or nothing of one that is a stream. A
/// kernel takes a few bytes now and then for a client that reads none.
const STALL: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Nothing of a head has come since then.
    Idle(Instant),
    /// The first byte of a head came then; it is not complete.
    Head(Instant),
    /// A request is with the service.
    Busy,
    /// Answered before its body was read: the client may read the reply and leave.
    Leaving(Instant),
}

pub(super) struct Clock {
    phase: Mutex<Phase>,
    /// Since when the client has taken nothing, where something waits for it.
    stalled: Mutex<Option<Instant>>,
    header_timeout: Duration,
    idle_timeout: Duration,
    small_replies: bool,
}

impl Clock {
    /// A connection that never says anything has the time of a head, not the time of an idle one.
    pub(super) fn new(header_timeout: Duration, idle_timeout: Duration, small_replies: bool) -> Self {
        let phase = Mutex::new(Phase::Head(Instant::now()));
        Self { phase, stalled: Mutex::default(), header_timeout, idle_timeout, small_replies }
    }

    /// The head is complete; returns when its first byte came.
    pub(super) fn head_complete(&self) -> Instant {
        let mut phase = self.phase();
        let arrived = match *phase {
            Phase::Head(since) => since,
            // A pipelined head was read together with the request before it.
            Phase::Idle(_) | Phase::Busy | Phase::Leaving(_) => Instant::now(),
        };
        *phase = Phase::Busy;
        arrived
    }

    pub(super) fn answered(&self, leaving: bool) {
        let now = Instant::now();
        *self.phase() = if leaving { Phase::Leaving(now) } else { Phase::Idle(now) };
    }

    fn bytes_came(&self) {
        let mut phase = self.phase();
        if let Phase::Idle(_) = *phase {
            *phase = Phase::Head(Instant::now());
        }
    }

    /// Resolves when the connection's time is up.
    pub(super) async fn expired(&self) {
        loop {
            let phase = *self.phase();
            let end = match phase {
                Phase::Idle(since) => since + self.idle_timeout,
                Phase::Head(since) => since + self.header_timeout,
                Phase::Busy => Instant::now() + self.header_timeout,
                Phase::Leaving(since) => since + LINGER,
            };
            let now = Instant::now();
            let stalled = *self.stalled.lock().expect("no holder of this lock can panic");
            let end = stalled.map_or(end, |since| end.min(since + STALL));
            if end <= now {
                return;
            }
            // No phase that begins meanwhile can end earlier than this, so none is overslept.
            tokio::time::sleep_until(end.min(now + self.header_timeout.min(LINGER))).await;
        }
    }

    fn wrote(&self, written: &Poll<io::Result<usize>>, offered: usize) {
        let mut stalled = self.stalled.lock().expect("no holder of this lock can panic");
        match written {
            Poll::Pending => drop(stalled.get_or_insert_with(Instant::now)),
            Poll::Ready(Ok(taken)) if self.small_replies && *taken < offered => {
                stalled.get_or_insert_with(Instant::now);
            }
            Poll::Ready(_) => *stalled = None,
        }
    }

    fn phase(&self) -> std::sync::MutexGuard<'_, Phase> {
        self.phase.lock().expect("no holder of this lock can panic")
    }
}

/// A stream that tells its clock of every byte read, and lingers on leaving.
pub(super) struct Clocked<S> {
    stream: S,
    clock: Arc<Clock>,
    lingered: Option<usize>,
}

impl<S> Clocked<S> {
    pub(super) fn new(stream: S, clock: Arc<Clock>) -> Self {
        Self { stream, clock, lingered: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Clocked<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.clock.bytes_came();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Clocked<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.clock.wrote(&written, buf.len());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.clock.wrote(&written, bufs.iter().map(|buf| buf.len()).sum());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        // TLS takes some of an answer that the client does not; then only the flush waits.
        self.clock.wrote(&flushed);
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingered.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.lingered = Some(0);
        }
        if !matches!(*self.clock.phase(), Phase::Leaving(_)) {
            return Poll::Ready(Ok(()));
        }
        let mut scratch = [MaybeUninit::uninit(); 8 << 10];
        loop {
            let mut buf = ReadBuf::uninit(&mut scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            let so_far = self.lingered.unwrap_or(0) + buf.filled().len();
            self.lingered = Some(so_far);
            if buf.filled().is_empty() || so_far > LINGER_BYTES {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
