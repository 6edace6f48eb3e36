//! Counts and logs connections that end without a request, are closed early, or have to wait. Each kind is logged at
//! most once in ten seconds, with what to do about it.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use rustix::io::Errno;
use strum::{IntoStaticStr, VariantNames};

use super::first_bytes::Protocol;
use super::timer::Expired;
use crate::metrics::{Counts, Metrics};
use crate::telemetry::{LOG_EVERY, Throttle};

/// Names the `reason` label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub(super) enum ConnectionError {
    /// Answered 400.
    Malformed,
    /// Answered 414.
    UriTooLong,
    /// Answered 431.
    HeadTooLarge,
    ProxyProtocol,
    Http2,
    /// TLS sent to a listener that speaks plain HTTP.
    Tls,
    /// Plain HTTP sent to a listener that speaks TLS.
    PlainHttp,
    TlsHandshake,
    HeadIncomplete,
    /// No byte arrived within the head timeout.
    Silent,
    ReplyNotRead,
    /// Evicted for a new connection.
    ClosedForRoom,
    /// All slots are taken, and no connection is idle.
    NoPlace,
    TooManyOpenFiles,
    /// The system lacked the resources for an accepted connection.
    NotAccepted,
}

impl ConnectionError {
    /// Classifies hyper's error about a request's head.
    pub(super) fn of_hyper(error: &hyper::Error, in_head: bool) -> Option<Self> {
        if error.is_parse_version_h2() {
            return Some(Self::Http2);
        }
        if error.is_parse_too_large() {
            // hyper distinguishes the two kinds only by their text.
            let of_uri = error.to_string().contains("URI");
            return Some(if of_uri { Self::UriTooLong } else { Self::HeadTooLarge });
        }
        if error.is_parse() {
            return Some(Self::Malformed);
        }
        in_head.then_some(Self::HeadIncomplete)
    }

    /// `None` if connections normally end this way.
    pub(super) fn of_expired(expired: Expired) -> Option<Self> {
        match expired {
            Expired::Silent => Some(Self::Silent),
            Expired::Head => Some(Self::HeadIncomplete),
            Expired::Unread => Some(Self::ReplyNotRead),
            // Recorded when the eviction was requested.
            Expired::Evicted => None,
            Expired::Idle | Expired::Left => None,
        }
    }

    /// The error for this protocol on a plain HTTP listener.
    pub(super) fn of_protocol(protocol: Protocol) -> Option<Self> {
        match protocol {
            Protocol::Proxy => Some(Self::ProxyProtocol),
            Protocol::Http2 => Some(Self::Http2),
            Protocol::Tls => Some(Self::Tls),
            Protocol::Http1 => None,
        }
    }

    /// The error for this protocol on a TLS listener.
    pub(super) fn of_protocol_over_tls(protocol: Protocol) -> Option<Self> {
        match protocol {
            Protocol::Proxy => Some(Self::ProxyProtocol),
            Protocol::Http1 | Protocol::Http2 => Some(Self::PlainHttp),
            Protocol::Tls => None,
        }
    }

    /// What happened, and what to do about it; `None` if it is not worth a log line. `section` is the listener's in
    /// the configuration.
    fn says(self, section: &str) -> Option<(&'static str, Cow<'static, str>)> {
        Some(match self {
            // Health checks do this, and browsers that open connections ahead.
            Self::Silent => return None,
            Self::Malformed => (
                "answered 400 to what is no HTTP/1.1 request",
                format!("check what else connects to `{section}.listen`, or changes requests on their way").into(),
            ),
            Self::UriTooLong => {
                ("answered 414: the URI is too long", "no URL of the bridge is so long: check who sends it".into())
            }
            Self::HeadTooLarge => (
                "answered 431: the head is too large, or has too many headers",
                match section {
                    "server" => {
                        "raise `server.max_header_bytes` or `server.max_headers`, or check what adds headers".into()
                    }
                    _ => "send fewer headers".into(),
                },
            ),
            Self::ProxyProtocol => (
                "refused a connection that begins with PROXY protocol",
                "a proxy in front speaks PROXY protocol: turn that off, and have it set X-Forwarded-For".into(),
            ),
            Self::Http2 => (
                "refused a connection that speaks HTTP/2",
                "a proxy in front speaks HTTP/2: have it speak HTTP/1.1 to the bridge".into(),
            ),
            Self::Tls => (
                "refused a connection that speaks TLS: this listener speaks plain HTTP",
                match section {
                    "admin" => "a proxy in front speaks HTTPS: have it speak plain HTTP".into(),
                    _ => format!("a proxy in front speaks HTTPS: have it speak plain HTTP, or set `{section}.tls`")
                        .into(),
                },
            ),
            Self::PlainHttp => (
                "refused a connection that speaks plain HTTP: this listener speaks TLS",
                format!("a proxy in front speaks plain HTTP: have it speak HTTPS, or remove `{section}.tls`").into(),
            ),
            Self::TlsHandshake => (
                "TLS handshake failed",
                format!("check that the client trusts the certificate of `{section}.tls`, and speaks TLS 1.2 or 1.3")
                    .into(),
            ),
            Self::HeadIncomplete => (
                "a request's head was started and never completed",
                "check the client and the network on its way; `server.header_timeout` is the time that a head has"
                    .into(),
            ),
            Self::ReplyNotRead => (
                "closed a connection whose client does not read replies",
                "check the client and the network on its way".into(),
            ),
            Self::ClosedForRoom => ("too many connections: closed the one that was idle longest", of_crowd(section)),
            Self::NoPlace => ("all connections are busy: new ones wait", of_crowd(section)),
            Self::TooManyOpenFiles => (
                "could not accept a connection: too many open files",
                "raise the limit of open files (LimitNOFILE=, ulimit -n), or lower `server.max_connections`".into(),
            ),
            Self::NotAccepted => ("could not accept a connection", "check the limits of this machine".into()),
        })
    }
}

/// What to do about more connections than there are slots.
fn of_crowd(section: &str) -> Cow<'static, str> {
    match section {
        "server" => {
            "check who opens so many; raise `server.max_connections` and the limit of open files, or run more bridges"
                .into()
        }
        _ => "check who opens so many".into(),
    }
}

/// Counts and logs what happens to one listener's connections. Cloning shares it.
#[derive(Clone)]
pub struct ConnectionLog(Arc<Inner>);

struct Inner {
    section: &'static str,
    errors: Arc<Counts>,
    open: Arc<AtomicI64>,
    throttles: Vec<Throttle>,
}

impl ConnectionLog {
    /// For the listener of this configuration section; `open` counts its connections.
    pub fn new(section: &'static str, metrics: &Metrics, open: Arc<AtomicI64>) -> Self {
        let throttles = ConnectionError::VARIANTS.iter().map(|_| Throttle::new(LOG_EVERY)).collect();
        let errors = metrics.listener(section, ConnectionError::VARIANTS);
        Self(Arc::new(Inner { section, errors, open, throttles }))
    }

    pub(super) fn open(&self) -> &Arc<AtomicI64> {
        &self.0.open
    }

    pub(super) fn record(&self, error: ConnectionError) {
        if let (Some(more), Some((message, remedy))) = (self.count(error), error.says(self.0.section)) {
            tracing::warn!(listener = self.0.section, more, remedy = &*remedy, "{message}");
        }
    }

    /// `reason` is rustls' own text.
    pub(super) fn handshake_failed(&self, reason: &str) {
        let error = ConnectionError::TlsHandshake;
        if let (Some(more), Some((message, remedy))) = (self.count(error), error.says(self.0.section)) {
            tracing::warn!(listener = self.0.section, more, reason, remedy = &*remedy, "{message}");
        }
    }

    pub(super) fn not_accepted(&self, error: &io::Error) {
        let error = match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE) => ConnectionError::TooManyOpenFiles,
            _ => ConnectionError::NotAccepted,
        };
        self.record(error);
    }

    fn count(&self, error: ConnectionError) -> Option<u64> {
        self.0.errors.add(error.into());
        self.0.throttles[error as usize].pass()
    }
}
