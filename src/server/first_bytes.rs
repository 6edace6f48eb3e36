//! Recognises the protocol of a connection by its first bytes, when the listener does not speak it. Used only for the
//! log.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Enough bytes to recognise each protocol.
const LENGTH: usize = 16;

/// A protocol that a proxy in front of the bridge may speak by mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HAProxy's PROXY protocol, version 1 or 2.
    Proxy,
    /// With prior knowledge.
    Http2,
    Tls,
    Http1,
}

/// The first bytes of one connection, as delivered by the first read. Cloning shares them.
#[derive(Clone, Default)]
pub(super) struct Opening(Arc<OnceLock<[u8; LENGTH]>>);

impl Opening {
    pub(super) fn is_silent(&self) -> bool {
        self.0.get().is_none()
    }

    pub(super) fn protocol(&self) -> Option<Protocol> {
        const BEGINNINGS: [(&[u8], Protocol); 7] = [
            (b"PROXY TCP", Protocol::Proxy),
            (b"PROXY UNKNOWN", Protocol::Proxy),
            (b"\r\n\r\n\0\r\nQUIT\n", Protocol::Proxy),
            (b"PRI * HTTP/2", Protocol::Http2),
            // A TLS handshake record.
            (b"\x16\x03", Protocol::Tls),
            (b"POST /", Protocol::Http1),
            (b"GET /", Protocol::Http1),
        ];
        let first = self.0.get()?;
        BEGINNINGS.iter().find(|(beginning, _)| first.starts_with(beginning)).map(|(_, protocol)| *protocol)
    }
}

/// A stream that remembers its first bytes.
pub(super) struct FirstBytes<S> {
    stream: S,
    opening: Option<Opening>,
}

impl<S> FirstBytes<S> {
    pub(super) fn new(stream: S, opening: Opening) -> Self {
        Self { stream, opening: Some(opening) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstBytes<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if let Some(opening) = self.opening.take_if(|_| buf.filled().len() > before) {
            let read = &buf.filled()[before..];
            let length = read.len().min(LENGTH);
            let mut first = [0; LENGTH];
            first[..length].copy_from_slice(&read[..length]);
            // Nothing else sets it.
            let _ = opening.0.set(first);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FirstBytes<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
