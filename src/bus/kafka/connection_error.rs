//! Why the Kafka brokers cannot be reached or used, in our own words and with the key to check. librdkafka's text
//! names hosts and goes no further than this file.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::types::RDKafkaErrorCode as Code;

use crate::bus::error_log::ErrorLog;

/// How long an error explains what fails.
const EXPLAINS_FOR: Duration = Duration::from_secs(60);

/// What a TLS alert begins with, and all of its versions: read as the size of a Kafka response.
const TLS_ALERT: u32 = 0x1503;

/// Milliseconds in which a broker that wants a login ends the connection of a client that shows none.
const EARLY: u64 = 2000;

/// First those that may end by themselves, then those that only somebody can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionError {
    /// Closed as soon as a Kafka client speaks: TLS, a login or another protocol is expected there.
    Closed,
    NameNotFound,
    Refused,
    NoRoute,
    /// Nothing accepts the connection, or what accepts it says nothing.
    Silent,
    /// TLS was spoken to a port that does not speak it.
    NotTls,
    /// Plain text was spoken to a port that expects TLS.
    AsksForTls,
    NotKafka,
    /// The brokers refuse the login.
    Login,
    Tls,
    /// The login may not write idempotently.
    Idempotence,
}

impl ConnectionError {
    /// The error that this code reports, if it is one of the connection as a whole.
    pub(super) fn of_code(code: Code) -> Option<Self> {
        match code {
            Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::IllegalSASLState => Some(Self::Login),
            Code::SSL => Some(Self::Tls),
            Code::ClusterAuthorizationFailed => Some(Self::Idempotence),
            _ => None,
        }
    }

    /// The same of what the client reports on the side. Only its text says that the broker ended a connection
    /// because it wants a certificate.
    pub(super) fn of_report(code: Code, text: &str) -> Option<Self> {
        let alerted = || (code == Code::BrokerTransportFailure && text.contains("SSL alert")).then_some(Self::Tls);
        Self::of_text(Some(code), text).or_else(alerted).or_else(|| Self::of_code(code))
    }

    /// The error behind this text of librdkafka's (2.12.1) about a connection, if it is about one.
    pub(super) fn of_text(code: Option<Code>, text: &str) -> Option<Self> {
        let says = |part: &str| text.contains(part);
        if let Some(size) = text.split("Invalid response size ").nth(1) {
            let size: i32 = size.split(' ').next()?.parse().ok()?;
            return Some(if size.cast_unsigned() >> 16 == TLS_ALERT { Self::AsksForTls } else { Self::NotKafka });
        }
        Some(match () {
            () if says("Failed to resolve") => Self::NameNotFound,
            () if says("PLAINTEXT broker listener") || says("wrong version number") => Self::NotTls,
            () if says("packet length too long") || says("http request") => Self::NotTls,
            () if says("Connection refused") => Self::Refused,
            () if says("No route to host") || says("unreachable") => Self::NoRoute,
            () if says("Disconnected") && is_early(text) => Self::Closed,
            () if says("setup timed out") || says("Connection timed out") => Self::Silent,
            () if code == Some(Code::BadMessage) => Self::NotKafka,
            () => return None,
        })
    }

    /// Whether it stays until somebody acts.
    pub(super) fn is_permanent(self) -> bool {
        matches!(self, Self::Login | Self::Tls | Self::Idempotence)
    }

    /// What to say once `new` occurred, too.
    pub(super) fn or(self, new: Self) -> Self {
        let weight = |error| if error == Self::Closed { 0 } else { 1 + u8::from(Self::is_permanent(error)) };
        if weight(new) < weight(self) { self } else { new }
    }

    pub(super) fn says(self) -> &'static str {
        match self {
            Self::Closed => "the connection is closed as soon as the bridge speaks",
            Self::NameNotFound => "the broker's name is not found",
            Self::Refused => "the connection is refused",
            Self::NoRoute => "there is no route to the broker",
            Self::Silent => "nobody answers there",
            Self::NotTls => "the port does not speak TLS",
            Self::AsksForTls => "the port asks for TLS",
            Self::NotKafka => "what answers there is not Kafka",
            Self::Login => "the Kafka brokers refuse the login",
            Self::Tls => "the TLS handshake with the Kafka brokers failed",
            Self::Idempotence => "Kafka does not allow this login to write idempotently",
        }
    }

    pub(super) fn remedy(self) -> &'static str {
        match self {
            Self::Closed => {
                "that listener may ask for TLS or a login (kafka.tls, kafka.username), or it is not Kafka's: check \
                 kafka.brokers"
            }
            Self::NameNotFound => "correct the names in kafka.brokers, or the name server of this machine",
            Self::Refused => "check that the brokers run, and the ports in kafka.brokers",
            Self::NoRoute | Self::Silent => "check the addresses in kafka.brokers, the network and its firewalls",
            Self::NotTls => "name a TLS listener in kafka.brokers, or remove kafka.tls",
            Self::AsksForTls => "set kafka.tls.ca (or \"system\"), or name a listener without TLS in kafka.brokers",
            Self::NotKafka => "correct the ports in kafka.brokers",
            Self::Login => "check kafka.username, kafka.password and kafka.sasl_mechanism against the brokers' users",
            Self::Tls => {
                "check that kafka.brokers names TLS listeners, that kafka.tls.ca signed their certificates, \
                 and kafka.tls.certificate and kafka.tls.key where brokers ask for them"
            }
            Self::Idempotence => {
                "grant it Write on the topics (brokers of Kafka 2.8 or newer) or IdempotentWrite on the cluster \
                 (kafka-acls --add --operation IdempotentWrite --cluster)"
            }
        }
    }
}

/// Whether a connection ended before it was of any use: `(after 12ms in state UP)`.
fn is_early(text: &str) -> bool {
    let Some((time, state)) = text.rsplit("(after ").next().and_then(|rest| rest.split_once("ms in state ")) else {
        return false;
    };
    !state.starts_with("UP") || time.parse::<u64>().is_ok_and(|millis| millis < EARLY)
}

/// The most telling of the last errors, until the brokers are reached.
#[derive(Default)]
pub(super) struct ConnectionErrors {
    log: ErrorLog<ConnectionError>,
    /// Whether there is any: spares each receipt the lock.
    any: AtomicBool,
}

impl ConnectionErrors {
    /// The error occurred now. Logged where only somebody can end it.
    pub(super) fn record(&self, error: ConnectionError) {
        if self.current().is_some_and(|known| known.or(error) != error) {
            return;
        }
        if self.log.record(error) && error.is_permanent() {
            tracing::error!(remedy = error.remedy(), "{}", error.says());
        }
        self.any.store(true, Ordering::Relaxed);
    }

    pub(super) fn current(&self) -> Option<ConnectionError> {
        self.log.within(EXPLAINS_FOR)
    }

    /// Whether an ERROR says what is wrong.
    pub(super) fn is_logged(&self) -> bool {
        self.current().is_some_and(ConnectionError::is_permanent)
    }

    pub(super) fn clear(&self) {
        if self.any.swap(false, Ordering::Relaxed) {
            self.log.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_is_told_by_librdkafkas_words() {
        for (code, text, cause) in [
            (
                Code::Resolve,
                "nohost:9092/bootstrap: Failed to resolve 'nohost:9092': Name or service not known",
                ConnectionError::NameNotFound,
            ),
            (
                Code::BrokerTransportFailure,
                "a:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)",
                ConnectionError::Refused,
            ),
            (
                Code::BrokerTransportFailure,
                "a:1/bootstrap: Connect to ipv4#10.9.9.9:1 failed: No route to host",
                ConnectionError::NoRoute,
            ),
            (
                Code::BrokerTransportFailure,
                "a:1/bootstrap: Connection setup timed out in state APIVERSION_QUERY (after 3001ms in state APIVERSION_QUERY)",
                ConnectionError::Silent,
            ),
            (
                Code::SSL,
                "ssl://a:1/bootstrap: SSL handshake failed: error:0A00010B:SSL routines::wrong version number",
                ConnectionError::NotTls,
            ),
            (
                Code::BrokerTransportFailure,
                "ssl://a:1/bootstrap: SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?",
                ConnectionError::NotTls,
            ),
            (
                Code::BadMessage,
                "a:1/bootstrap: Receive failed: Invalid response size 352518912 (0..100000000): increase receive.message.max.bytes",
                ConnectionError::AsksForTls,
            ),
            (
                Code::BadMessage,
                "a:1/bootstrap: Receive failed: Invalid response size 1213486160 (0..100000000): increase receive.message.max.bytes",
                ConnectionError::NotKafka,
            ),
        ] {
            assert_eq!(ConnectionError::of_text(Some(code), text), Some(cause), "{text}");
        }
        let closed = |after| {
            ConnectionError::of_text(None, &format!("a:1/1: Disconnected: connection closed by peer (after {after})"))
        };
        assert_eq!(closed("2ms in state APIVERSION_QUERY"), Some(ConnectionError::Closed));
        assert_eq!(closed("9ms in state UP"), Some(ConnectionError::Closed));
        assert_eq!(closed("2100ms in state UP"), None, "a broker that stops");
        assert_eq!(ConnectionError::of_text(Some(Code::SSL), "SSL handshake failed: certificate verify failed"), None);
        assert_eq!(
            ConnectionError::of_text(Some(Code::Authentication), "SASL authentication error: Authentication failed"),
            None
        );
    }

    #[test]
    fn a_connection_that_the_broker_ends_for_want_of_a_certificate_is_an_error_of_tls() {
        let why =
            "ssl://h:1/bootstrap: Receive failed: SSL routines::ssl/tls alert bad certificate: SSL alert number 42";
        assert_eq!(ConnectionError::of_report(Code::BrokerTransportFailure, why), Some(ConnectionError::Tls));
        assert_eq!(ConnectionError::of_report(Code::BrokerTransportFailure, "Connect failed: refused"), None);
        assert_eq!(ConnectionError::of_report(Code::Authentication, ""), Some(ConnectionError::Login));
    }

    #[test]
    fn the_more_telling_error_explains() {
        use ConnectionError::{Closed, Login, Refused, Silent};
        for (known, new, said) in [(Closed, Refused, Refused), (Refused, Closed, Refused), (Refused, Silent, Silent)] {
            assert_eq!(known.or(new), said);
        }
        assert_eq!((Login.or(Refused), Refused.or(Login)), (Login, Login));
    }
}
