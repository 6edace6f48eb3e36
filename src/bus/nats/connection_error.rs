//! Why there is no connection to NATS, classified from the client library's errors, and what to do about each.

use std::error::Error as _;
use std::fmt;
use std::io;

use async_nats::{ConnectError, ConnectErrorKind, ServerError, rustls};

use super::fault::quoted;
use crate::bus::{Refusal, Scope};

/// Ordered from the worst: of several servers, the worst error is reported.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ConnectionError {
    /// A server refuses the login.
    Login,
    /// The TLS handshake failed.
    Tls,
    /// A server refuses the connection, with this text.
    Rejected(String),
    /// The peer is not a NATS server.
    OtherProtocol,
    /// The name does not resolve.
    Name,
    /// The server closes the connection, as it also does when it wants a client certificate.
    HungUp,
    /// No answer within the timeout.
    NoAnswer,
    /// Nothing listens there.
    Refused,
    /// Another network error.
    Network(String),
}

impl ConnectionError {
    pub(super) fn of(error: &ConnectError) -> Self {
        let mut source = error.source();
        let mut found = None;
        while let Some(error) = source {
            // The client library reports a failed handshake as an I/O error that wraps rustls' own error.
            let io = error.downcast_ref::<io::Error>();
            let inner = io.and_then(io::Error::get_ref);
            if error.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
                return Self::Tls;
            }
            if let Some(server_error) = error.downcast_ref::<ServerError>() {
                return Self::from_server(server_error);
            }
            found = found.or_else(|| io.and_then(Self::of_io));
            source = error.source();
        }
        let text = error.to_string();
        match (error.kind(), found) {
            (ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation, _) => Self::Login,
            (ConnectErrorKind::Tls, _) => Self::Tls,
            (ConnectErrorKind::Dns | ConnectErrorKind::ServerParse, _) => Self::Name,
            (ConnectErrorKind::TimedOut, _) => Self::NoAnswer,
            // What arrived in place of the server's greeting is only in the error's text, not in its source.
            (ConnectErrorKind::Io, None) if text.contains("expected INFO, got Error(") => text
                .split('"')
                .nth(1)
                .map_or(Self::Login, |quoted| Self::from_server(&ServerError::Other(quoted.to_owned()))),
            (ConnectErrorKind::Io, None) if text.contains("expected INFO, got nothing") => Self::HungUp,
            (ConnectErrorKind::Io, None) if text.contains("expected INFO") => Self::OtherProtocol,
            (ConnectErrorKind::Io | ConnectErrorKind::MaxReconnects, found) => found.unwrap_or(Self::HungUp),
        }
    }

    fn of_io(error: &io::Error) -> Option<Self> {
        Some(match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::NoAnswer,
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => Self::OtherProtocol,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Self::HungUp,
            kind => Self::Network(kind.to_string()),
        })
    }

    /// Classifies what a server sends on a connection before it closes it.
    pub(super) fn from_server(error: &ServerError) -> Self {
        match error {
            ServerError::AuthorizationViolation => Self::Login,
            ServerError::SlowConsumer(_) => Self::Rejected(quoted(error)),
            ServerError::Other(text) => {
                let lower = text.to_ascii_lowercase();
                let login = ["authentication", "authorization"].iter().any(|word| lower.contains(word));
                if login { Self::Login } else { Self::Rejected(quoted(&text.trim_matches('\''))) }
            }
        }
    }

    /// Whether it lasts until an operator acts.
    pub(super) fn is_permanent(&self) -> bool {
        matches!(self, Self::Login | Self::Tls)
    }

    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Self::Login => "check `nats.credentials`, `nats.nkey`, `nats.user`, `nats.password`, `nats.token`",
            Self::Tls => {
                "check that `nats.tls.ca` signed the servers' certificates, that these name the hosts in \
                 `nats.servers`, and `nats.tls.certificate` and `nats.tls.key` where servers ask for them"
            }
            Self::Rejected(text) if text.contains("connections exceeded") => {
                "raise `max_connections` in the servers' configuration, or the account's limit, or close other connections"
            }
            Self::Rejected(text) if !text.contains("port") => "check the server's log",
            Self::Rejected(_) | Self::OtherProtocol => "name the port for clients in `nats.servers`, by default 4222",
            Self::Name => "check the names in `nats.servers`, and this machine's DNS",
            Self::HungUp => {
                "check the server's log; where it asks for a client's certificate, set `nats.tls.certificate` and \
                 `nats.tls.key`"
            }
            Self::NoAnswer => "check hosts and ports in `nats.servers`, that they are up, and firewalls on the way",
            Self::Refused => "check hosts and ports in `nats.servers`, and that a server is up there",
            Self::Network(_) => "check hosts and ports in `nats.servers`, and the way to them",
        }
    }

    pub(super) fn refusal(&self) -> Refusal {
        let reason = self.to_string().into();
        match self.is_permanent() {
            true => Refusal::Permanent { scope: Scope::Bus, reason, remedy: self.remedy().into() },
            false => Refusal::Transient { reason: format!("{reason}; {}", self.remedy()).into() },
        }
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Login => "NATS refuses the login",
            Self::Tls => "the TLS handshake with NATS failed",
            Self::Rejected(text) => return write!(formatter, "NATS refuses the connection: {text}"),
            Self::OtherProtocol => "NATS cannot be reached: what answers at that port is no NATS server for clients",
            Self::Name => "NATS cannot be reached: a server's name is not found",
            Self::HungUp => "NATS cannot be reached: the server hangs up",
            Self::NoAnswer => "NATS cannot be reached: no answer in time",
            Self::Refused => "NATS cannot be reached: connection refused, nothing listens at that port",
            Self::Network(what) => return write!(formatter, "NATS cannot be reached: {what}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io_error(kind: io::ErrorKind) -> ConnectionError {
        ConnectionError::of(&ConnectError::with_source(ConnectErrorKind::Io, io::Error::from(kind)))
    }

    #[test]
    fn a_bad_name_a_refused_port_and_a_silent_host_are_distinguished() {
        assert_eq!(ConnectionError::of(&ConnectError::new(ConnectErrorKind::Dns)), ConnectionError::Name);
        assert_eq!(ConnectionError::of(&ConnectError::new(ConnectErrorKind::TimedOut)), ConnectionError::NoAnswer);
        assert_eq!(io_error(io::ErrorKind::ConnectionRefused), ConnectionError::Refused);
        assert_eq!(io_error(io::ErrorKind::ConnectionReset), ConnectionError::HungUp);
        assert!(matches!(io_error(io::ErrorKind::NetworkUnreachable), ConnectionError::Network(_)));
    }

    #[test]
    fn a_server_is_quoted_in_place_of_its_greeting_and_after_it() {
        let full = ServerError::Other("'maximum connections exceeded'".to_owned());
        let in_place =
            format!("expected INFO, got {:?}", Some(ServerError::Other("maximum connections exceeded".into())));
        let in_place = in_place.replace("Some(", "Error(");
        for error in [
            ConnectError::with_source(ConnectErrorKind::Io, full),
            ConnectError::with_source(ConnectErrorKind::Io, in_place),
        ] {
            let error = ConnectionError::of(&error);
            assert_eq!(error, ConnectionError::Rejected("maximum connections exceeded".to_owned()));
            assert!(error.remedy().contains("max_connections"));
        }
        let login = ServerError::Other("User Authentication Expired".to_owned());
        assert_eq!(ConnectionError::from_server(&login), ConnectionError::Login);
    }
}
