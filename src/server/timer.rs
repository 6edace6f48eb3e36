//! Times one connection: detects one that is idle too long, or too slow to send a head, to read a reply, or to close.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::backlog::Backlog;

/// How long, and how many bytes, a client that was answered early may go on sending. Closing earlier would reset the
/// connection and destroy the reply before the client reads it.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 32 << 20;

/// The least time for a connection that is silent, slow or closing, however many wait for its slot: longer than an
/// honest client takes to send its first bytes.
const LEAST_PATIENCE: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Open since then, without a byte.
    New(Instant),
    /// Idle since then: no byte of the next head has arrived.
    Idle(Instant),
    /// The first byte of a head arrived then; the head is not complete.
    Head(Instant),
    /// The service is handling a request.
    Busy,
    /// The last reply was sent then; the client may read it and close.
    Leaving(Instant),
    /// Another connection needs the slot.
    Evicting,
}

/// Why a connection's time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expired {
    /// It was opened and never sent a byte.
    Silent,
    Idle,
    /// A head was begun but not completed.
    Head,
    /// The client does not read what is written to it.
    Unread,
    /// The last reply was sent, but the client did not close.
    Left,
    Evicted,
}

/// Which connections to evict first: the least in this order, and among equals the one that has waited longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Evictable {
    Idle(Instant),
    SlowHead(Instant),
}

pub(super) struct ConnectionTimer {
    phase: Mutex<Phase>,
    backlog: Mutex<Backlog>,
    evicting: Notify,
    /// Of each connection its own: all of them poll it whenever they are polled, which no common lock should slow down.
    stopping: Notify,
    header_timeout: Duration,
    idle_timeout: Duration,
}

impl ConnectionTimer {
    /// A connection that never sends a byte gets the head timeout, not the idle timeout.
    pub(super) fn new(header_timeout: Duration, idle_timeout: Duration) -> Self {
        let phase = Mutex::new(Phase::New(Instant::now()));
        Self {
            phase,
            backlog: Mutex::default(),
            evicting: Notify::new(),
            stopping: Notify::new(),
            header_timeout,
            idle_timeout,
        }
    }

    /// Restarts the head timeout: the connection has its slot, or its TLS handshake is done.
    pub(super) fn begin(&self) {
        let mut phase = self.phase();
        if let Phase::New(_) = *phase {
            *phase = Phase::New(Instant::now());
        }
    }

    /// The head is complete; returns when its first byte arrived.
    pub(super) fn head_complete(&self) -> Instant {
        let mut phase = self.phase();
        let arrived = match *phase {
            Phase::Head(since) => since,
            // A pipelined head was read together with the previous request.
            Phase::New(_) | Phase::Idle(_) | Phase::Busy | Phase::Leaving(_) | Phase::Evicting => Instant::now(),
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

    /// Whether a head was begun but is not complete.
    pub(super) fn in_head(&self) -> bool {
        matches!(*self.phase(), Phase::Head(_))
    }

    /// Whether the connection may be evicted; `None` while it is busy or too new.
    pub(super) fn evictable(&self, now: Instant) -> Option<Evictable> {
        let patient = |since: &Instant| *since + LEAST_PATIENCE <= now;
        match *self.phase() {
            Phase::Idle(since) | Phase::New(since) | Phase::Leaving(since) => {
                Some(since).filter(patient).map(Evictable::Idle)
            }
            Phase::Head(since) => Some(since).filter(patient).map(Evictable::SlowHead),
            Phase::Busy | Phase::Evicting => None,
        }
    }

    /// Ends the connection's time if it is still as `evictable` says. A request that is complete by then is served.
    pub(super) fn evict(&self, evictable: Evictable) -> bool {
        let mut phase = self.phase();
        let still = match (*phase, evictable) {
            (Phase::Idle(since) | Phase::New(since) | Phase::Leaving(since), Evictable::Idle(was)) => since == was,
            (Phase::Head(since), Evictable::SlowHead(was)) => since == was,
            _ => false,
        };
        if still {
            *phase = Phase::Evicting;
            self.evicting.notify_one();
        }
        still
    }

    pub(super) fn is_evicting(&self) -> bool {
        matches!(*self.phase(), Phase::Evicting)
    }

    /// Lets [`Self::stopped`] return, now or when it is called.
    pub(super) fn stop(&self) {
        self.stopping.notify_one();
    }

    /// Returns once, when the listener stops.
    pub(super) async fn stopped(&self) {
        self.stopping.notified().await;
    }

    /// Resolves when the connection's time is up.
    pub(super) async fn expired(&self) -> Expired {
        loop {
            let phase = *self.phase();
            let (end, why) = match phase {
                Phase::New(since) => (since + self.header_timeout, Expired::Silent),
                Phase::Idle(since) => (since + self.idle_timeout, Expired::Idle),
                Phase::Head(since) => (since + self.header_timeout, Expired::Head),
                Phase::Busy => (Instant::now() + self.header_timeout, Expired::Unread),
                Phase::Leaving(since) => (since + LINGER, Expired::Left),
                Phase::Evicting => return Expired::Evicted,
            };
            let now = Instant::now();
            let held_up = self.backlog.lock().expect("no holder of this lock can panic").end();
            let (end, why) = held_up.filter(|until| *until < end).map_or((end, why), |until| (until, Expired::Unread));
            if end <= now {
                return why;
            }
            // No phase that begins meanwhile can end before this, so the wait misses none.
            let sleep = tokio::time::sleep_until(end.min(now + self.header_timeout.min(LINGER)));
            tokio::select! {
                () = sleep => {}
                () = self.evicting.notified() => {}
            }
        }
    }

    /// Records a write of `offered` bytes.
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

/// A stream that reports every byte read to its timer, and lingers when it closes.
pub(super) struct TimedStream<S> {
    stream: S,
    timer: Arc<ConnectionTimer>,
    lingered: Option<usize>,
}

impl<S> TimedStream<S> {
    pub(super) fn new(stream: S, timer: Arc<ConnectionTimer>) -> Self {
        Self { stream, timer, lingered: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.timer.bytes_came();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.timer.wrote(&written, buf.len());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.timer.wrote(&written, bufs.iter().map(|buf| buf.len()).sum());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS buffers part of a reply that the client does not read; then only the flush blocks.
        let flushed = Pin::new(&mut self.stream).poll_flush(cx).map_ok(|()| 0);
        self.timer.wrote(&flushed, 0);
        flushed.map_ok(|_| ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingered.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.lingered = Some(0);
        }
        if !matches!(*self.timer.phase(), Phase::Leaving(_)) {
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
    async fn a_request_begins_with_its_first_byte_however_long_its_connection_was_open() {
        let timer = ConnectionTimer::new(Duration::from_secs(5), Duration::from_secs(75));
        for rest in [4, 70] {
            tokio::time::advance(Duration::from_secs(rest)).await;
            let first_byte = Instant::now();
            timer.bytes_came();
            tokio::time::advance(Duration::from_secs(1)).await;
            timer.bytes_came();
            assert_eq!(timer.head_complete(), first_byte);
            timer.answered(false);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_gets_the_head_timeout() {
        let timer = ConnectionTimer::new(Duration::from_secs(5), Duration::from_secs(75));
        let opened = Instant::now();
        timer.expired().await;
        assert_eq!(opened.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_waited_for_a_slot_gets_the_full_head_timeout() {
        let timer = ConnectionTimer::new(Duration::from_secs(5), Duration::from_secs(75));
        tokio::time::advance(Duration::from_secs(60)).await;
        timer.begin();
        let begun = Instant::now();
        assert_eq!(timer.expired().await, Expired::Silent);
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_evicted_and_a_busy_one_is_not() {
        let timer = ConnectionTimer::new(Duration::from_secs(5), Duration::from_secs(75));
        let opened = Instant::now();
        assert_eq!(timer.evictable(opened), None, "its first bytes are on their way");
        tokio::time::advance(LEAST_PATIENCE).await;
        assert_eq!(timer.evictable(Instant::now()), Some(Evictable::Idle(opened)));
        timer.bytes_came();
        let begun = Instant::now();
        assert!(!timer.evict(Evictable::Idle(opened)), "it has said something since");
        assert_eq!(timer.evictable(begun), None);
        tokio::time::advance(LEAST_PATIENCE).await;
        assert_eq!(timer.evictable(Instant::now()), Some(Evictable::SlowHead(begun)));
        timer.head_complete();
        assert_eq!(timer.evictable(Instant::now()), None);
        timer.answered(false);
        let answered = Instant::now();
        assert_eq!(timer.evictable(answered), None, "its answer is on its way");
        tokio::time::advance(LEAST_PATIENCE).await;
        assert_eq!(timer.evictable(Instant::now()), Some(Evictable::Idle(answered)));
        assert!(timer.evict(Evictable::Idle(answered)));
        assert_eq!(timer.expired().await, Expired::Evicted);
        assert_eq!(answered.elapsed(), LEAST_PATIENCE);
    }
}
