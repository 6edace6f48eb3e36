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

/// How long a client may keep what is written to it waiting, and how many bytes it has to take in that
/// time: more than a reply now and then.
const STALL: Duration = Duration::from_secs(30);
const LEAST_TAKEN: usize = 64 << 10;

/// Nothing was held up for so long: the client reads again.
const FLOWS_AGAIN: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Open since then, and silent.
    New(Instant),
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
    backlog: Mutex<Backlog>,
    header_timeout: Duration,
    idle_timeout: Duration,
}

impl Clock {
    /// A connection that never says anything has the time of a head, not the time of an idle one.
    pub(super) fn new(header_timeout: Duration, idle_timeout: Duration) -> Self {
        let phase = Mutex::new(Phase::New(Instant::now()));
        Self { phase, backlog: Mutex::default(), header_timeout, idle_timeout }
    }

    /// The head is complete; returns when its first byte came.
    pub(super) fn head_complete(&self) -> Instant {
        let mut phase = self.phase();
        let arrived = match *phase {
            Phase::Head(since) => since,
            // A pipelined head was read together with the request before it.
            Phase::New(_) | Phase::Idle(_) | Phase::Busy | Phase::Leaving(_) => Instant::now(),
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
        if let Phase::New(_) | Phase::Idle(_) = *phase {
            *phase = Phase::Head(Instant::now());
        }
    }

    /// Resolves when the connection's time is up.
    pub(super) async fn expired(&self) {
        loop {
            let phase = *self.phase();
            let end = match phase {
                Phase::Idle(since) => since + self.idle_timeout,
                Phase::New(since) | Phase::Head(since) => since + self.header_timeout,
                Phase::Busy => Instant::now() + self.header_timeout,
                Phase::Leaving(since) => since + LINGER,
            };
            let now = Instant::now();
            let held_up = self.backlog.lock().expect("no holder of this lock can panic").end();
            let end = held_up.map_or(end, |held_up| end.min(held_up));
            if end <= now {
                return;
            }
            // No phase that begins meanwhile can end earlier than this, so none is overslept.
            tokio::time::sleep_until(end.min(now + self.header_timeout.min(LINGER))).await;
        }
    }

    /// `offered` bytes were to be written.
    fn wrote(&self, written: &Poll<io::Result<usize>>, offered: usize) {
        let mut backlog = self.backlog.lock().expect("no holder of this lock can panic");
        match written {
            Poll::Ready(Ok(taken)) if *taken == offered => backlog.flowed(*taken),
            Poll::Ready(Ok(taken)) => backlog.held_up(*taken),
            Poll::Pending => backlog.held_up(0),
            Poll::Ready(Err(_)) => {}
        }
    }

    fn phase(&self) -> std::sync::MutexGuard<'_, Phase> {
        self.phase.lock().expect("no holder of this lock can panic")
    }
}

/// What a client does not take of what is written to it. One that reads nothing still has the kernel
/// take a small reply now and then: that alone is no progress.
#[derive(Debug, Default)]
struct Backlog {
    /// Since when, or since enough was taken the last time; and how much was since.
    since: Option<Instant>,
    taken: usize,
    /// When something was last held up, and whether it still is.
    last: Option<Instant>,
    waits: bool,
}

impl Backlog {
    fn held_up(&mut self, taken: usize) {
        let now = Instant::now();
        if !self.lasts(now) {
            *self = Self { since: Some(now), ..Self::default() };
        }
        self.last = Some(now);
        self.waits = true;
        self.took(taken);
    }

    fn flowed(&mut self, taken: usize) {
        self.waits = false;
        self.took(taken);
    }

    /// A client that takes enough has its time anew.
    fn took(&mut self, bytes: usize) {
        self.taken += bytes;
        if self.taken >= LEAST_TAKEN {
            self.taken = 0;
            self.since = self.since.map(|_| Instant::now());
        }
    }

    fn lasts(&self, now: Instant) -> bool {
        self.since.is_some() && (self.waits || self.last.is_some_and(|last| now < last + FLOWS_AGAIN))
    }

    /// Until when it may last.
    fn end(&self) -> Option<Instant> {
        Some(self.since.filter(|_| self.lasts(Instant::now()))? + STALL)
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
        // TLS takes some of an answer that the client does not; then only the flush waits.
        let flushed = Pin::new(&mut self.stream).poll_flush(cx).map_ok(|()| 0);
        self.clock.wrote(&flushed, 0);
        flushed.map_ok(|_| ())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reply_now_and_then_is_no_progress_and_a_stream_that_moves_is() {
        let mut backlog = Backlog::default();
        assert_eq!(backlog.end(), None);
        let began = Instant::now();
        for _ in 0..25 {
            backlog.held_up(0);
            backlog.flowed(170);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        backlog.held_up(0);
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(backlog.end(), Some(began + STALL), "in the past");

        let mut backlog = Backlog::default();
        for _ in 0..100 {
            backlog.held_up(20_000);
            tokio::time::advance(Duration::from_secs(1)).await;
            assert!(backlog.end().is_some_and(|end| end > Instant::now()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_begins_with_its_first_byte_however_long_its_connection_was_open() {
        let clock = Clock::new(Duration::from_secs(5), Duration::from_secs(75));
        for rest in [4, 70] {
            tokio::time::advance(Duration::from_secs(rest)).await;
            let first_byte = Instant::now();
            clock.bytes_came();
            tokio::time::advance(Duration::from_secs(1)).await;
            clock.bytes_came();
            assert_eq!(clock.head_complete(), first_byte);
            clock.answered(false);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_has_the_time_of_a_head() {
        let clock = Clock::new(Duration::from_secs(5), Duration::from_secs(75));
        let opened = Instant::now();
        clock.expired().await;
        assert_eq!(opened.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_again_is_not_reminded() {
        let mut backlog = Backlog::default();
        backlog.held_up(0);
        backlog.flowed(170);
        assert!(backlog.end().is_some());
        tokio::time::advance(FLOWS_AGAIN).await;
        assert_eq!(backlog.end(), None);
        let later = Instant::now();
        backlog.held_up(0);
        assert_eq!(backlog.end(), Some(later + STALL));
    }
}
