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
    /// No token server answers, or it fails.
    TokenServer,
    /// The brokers refuse the login.
    Login,
    Tls,
    /// The login may not write idempotently.
    Idempotence,
    TokenServerTls,
    /// The token server refuses the client credentials.
    TokenDenied,
    /// What the token server answers is no token for Kafka, or one that is over.
    NoToken,
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
        if let Some(error) = of_token(text) {
            return error;
        }
        Self::of_text(Some(code), text).or_else(alerted).or_else(|| Self::of_code(code))
    }

    /// The error behind this text of librdkafka's (2.12.1) about a connection, if it is about one.
    pub(super) fn of_text(code: Option<Code>, text: &str) -> Option<Self> {
        let says = |part: &str| text.contains(part);
        if let Some(error) = of_token(text) {
            return error;
        }
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
        matches!(
            self,
            Self::Login | Self::Tls | Self::Idempotence | Self::TokenServerTls | Self::TokenDenied | Self::NoToken
        )
    }

    /// Whether it is why there is no new token. The brokers then refuse the old one in the end.
    pub(super) fn is_of_token(self) -> bool {
        matches!(self, Self::TokenServer | Self::TokenServerTls | Self::TokenDenied | Self::NoToken)
    }

    /// What to say once `new` occurred, too.
    pub(super) fn or(self, new: Self) -> Self {
        let weight = |error: Self| match error {
            Self::Closed => 0,
            error if error.is_of_token() => 3,
            error => 1 + u8::from(error.is_permanent()),
        };
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
            Self::TokenServer => "the token server cannot be reached, or fails",
            Self::Login => "the Kafka brokers refuse the login",
            Self::Tls => "the TLS handshake with the Kafka brokers failed",
            Self::Idempotence => "Kafka does not allow this login to write idempotently",
            Self::TokenServerTls => "the TLS handshake with the token server failed",
            Self::TokenDenied => "the token server refuses the client credentials",
            Self::NoToken => "the token server answers without a token that Kafka's client can use",
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
            Self::TokenServer => "check kafka.oauth.token_url, that the server runs, the network and its firewalls",
            Self::Login => {
                "check kafka.username, kafka.password and kafka.sasl_mechanism against the brokers' users; of kafka.oauth \
                 the scope and the extensions against the issuer and the audience that the brokers expect"
            }
            Self::Tls => {
                "check that kafka.brokers names TLS listeners, that kafka.tls.ca signed their certificates, \
                 and kafka.tls.certificate and kafka.tls.key where brokers ask for them"
            }
            Self::Idempotence => {
                "grant it Write on the topics (brokers of Kafka 2.8 or newer) or IdempotentWrite on the cluster \
                 (kafka-acls --add --operation IdempotentWrite --cluster)"
            }
            Self::TokenServerTls => {
                "check that kafka.oauth.ca signed its certificate, and the host in kafka.oauth.token_url"
            }
            Self::TokenDenied => {
                "check kafka.oauth.client_id, kafka.oauth.client_secret and kafka.oauth.scope against what is registered \
                 there, and the path of kafka.oauth.token_url"
            }
            Self::NoToken => {
                "check kafka.oauth.token_url: it has to answer JSON with an access_token that is a JWT with exp and sub, and \
                 has not expired by the clock here"
            }
        }
    }
}

/// The error behind librdkafka's words about a token, where it speaks of one: `Some(None)` where others say more. What
/// the token server answered is in these words, too.
fn of_token(text: &str) -> Option<Option<ConnectionError>> {
    if let Some((_, why)) = text.split_once("Failed to acquire SASL OAUTHBEARER token: ") {
        let is_about_token =
            ["Expected ", "Failed to decode JWT", "Failed to parse JSON JWT", "Must supply an unexpired"];
        let no_token = is_about_token.iter().any(|words| why.starts_with(words));
        return Some(no_token.then_some(ConnectionError::NoToken));
    }
    let (_, rest) = text.split_once("Failed to retrieve OIDC token from ")?;
    let (why, status) = rest.split_once("\": ")?.1.rsplit_once(" (")?;
    Some(Some(match status.strip_suffix(')')?.parse().ok()? {
        ..0 if why.contains("SSL") => ConnectionError::TokenServerTls,
        ..0 | 408 | 425 | 429 | 500.. => ConnectionError::TokenServer,
        400.. => ConnectionError::TokenDenied,
        0.. => ConnectionError::NoToken,
    }))
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
        if self.log.record(error) {
            match error {
                error if error.is_permanent() => tracing::error!(remedy = error.remedy(), "{}", error.says()),
                error if error.is_of_token() => {
                    let says = error.says();
                    tracing::warn!(remedy = error.remedy(), "{says}: the last token is used until it expires");
                }
                _ => {}
            }
        }
        self.any.store(true, Ordering::Relaxed);
    }

    pub(super) fn current(&self) -> Option<ConnectionError> {
        self.log.within(EXPLAINS_FOR)
    }

    /// Whether the log says what is wrong.
    pub(super) fn is_logged(&self) -> bool {
        self.current().is_some_and(|error| error.is_permanent() || error.is_of_token())
    }

    /// A message is kept, which says nothing of the next token.
    pub(super) fn clear_of_connection(&self) {
        if self.any.load(Ordering::Relaxed) && !self.current().is_some_and(ConnectionError::is_of_token) {
            self.clear();
        }
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
    fn what_is_wrong_with_a_token_is_told_by_librdkafkas_words_whatever_the_token_server_says() {
        use ConnectionError::{NoToken, TokenDenied, TokenServer, TokenServerTls};
        for (says, cause) in [
            ("{\"error\":\"invalid_client\"} (401)", TokenDenied),
            ("Server did not provide an error string (404)", TokenDenied),
            ("Connection refused (sic) (503)", TokenServer),
            ("Failed to connect to 127.0.0.1 port 1 after 0 ms: Connection refused (-1)", TokenServer),
            ("SSL certificate problem: unable to get local issuer certificate (-1)", TokenServerTls),
            ("Response is not JSON encoded: text/html (200)", NoToken),
        ] {
            let line =
                format!("[thrd:background]: Failed to retrieve OIDC token from \"https://ssl.example.com/\": {says}");
            assert_eq!(ConnectionError::of_text(None, &line), Some(cause), "{line}");
        }
        let of_report = |why: &str| {
            let text = format!("Failed to acquire SASL OAUTHBEARER token: {why}");
            ConnectionError::of_report(Code::Authentication, &text)
        };
        assert_eq!(of_report("Expected JSON JWT response with \"sub\" field"), Some(NoToken));
        assert_eq!(of_report("Must supply an unexpired token: now=2ms, exp=1ms"), Some(NoToken));
        assert_eq!(of_report("Failed to connect to 127.0.0.1 port 1: Connection refused"), None, "the log says it");
    }

    #[test]
    fn want_of_a_token_explains_the_login_that_is_refused_and_outlasts_receipts() {
        let errors = ConnectionErrors::default();
        errors.record(ConnectionError::TokenServer);
        errors.record(ConnectionError::Login);
        errors.clear_of_connection();
        assert_eq!(errors.current(), Some(ConnectionError::TokenServer));
        errors.clear();
        errors.record(ConnectionError::Login);
        errors.clear_of_connection();
        assert_eq!(errors.current(), None);
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
