//! Why a connection to a broker does not come about. Comes in: what librdkafka says of it, which names hosts
//! and goes no further. Goes out: the cause in our own words, with the key to look at.

use rdkafka::types::RDKafkaErrorCode as Code;

/// What a TLS alert begins with, and all of its versions: read as the size of a Kafka response.
const TLS_ALERT: u32 = 0x1503;

/// Milliseconds in which a broker that wants a login ends the connection of who shows none.
const EARLY: u64 = 2000;

/// Why no Kafka broker answers, as far as this side can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    NameNotFound,
    Refused,
    NoRoute,
    /// Nobody takes the connection, or who takes it says nothing.
    Silent,
    /// TLS was spoken to a port that does not.
    NotTls,
    /// Plain text was spoken to a port that asks for TLS.
    AsksForTls,
    /// Closed as soon as a Kafka client speaks: TLS, a login or another protocol is expected there.
    Closed,
    NotKafka,
}

impl Cause {
    /// The cause behind this text of librdkafka's (2.12.1) about a connection, if it is about one.
    pub(super) fn of(code: Option<Code>, text: &str) -> Option<Self> {
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

    /// What to say once `new` was met, too: that a connection was closed explains less than anything else.
    pub(super) fn or(self, new: Self) -> Self {
        if new == Self::Closed { self } else { new }
    }

    /// In words.
    pub(super) fn says(self) -> &'static str {
        match self {
            Self::NameNotFound => "the broker's name is not found",
            Self::Refused => "the connection is refused",
            Self::NoRoute => "there is no route to the broker",
            Self::Silent => "nobody answers there",
            Self::NotTls => "the port does not speak TLS",
            Self::AsksForTls => "the port asks for TLS",
            Self::Closed => "the connection is closed as soon as the bridge speaks",
            Self::NotKafka => "what answers there is not Kafka",
        }
    }

    pub(super) fn remedy(self) -> &'static str {
        match self {
            Self::NameNotFound => "correct the names in kafka.brokers, or the name server of this machine",
            Self::Refused => "check that the brokers run, and the ports in kafka.brokers",
            Self::NoRoute | Self::Silent => "check the addresses in kafka.brokers, the network and its firewalls",
            Self::NotTls => "name a TLS listener in kafka.brokers, or remove kafka.tls",
            Self::AsksForTls => "set kafka.tls.ca (or \"system\"), or name a listener without TLS in kafka.brokers",
            Self::Closed => {
                "that listener may ask for TLS or a login (kafka.tls, kafka.username), or it is not Kafka's: check \
                 kafka.brokers"
            }
            Self::NotKafka => "correct the ports in kafka.brokers",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_told_by_librdkafkas_words() {
        for (code, text, cause) in [
            (
                Code::Resolve,
                "nohost:9092/bootstrap: Failed to resolve 'nohost:9092': Name or service not known",
                Cause::NameNotFound,
            ),
            (
                Code::BrokerTransportFailure,
                "a:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)",
                Cause::Refused,
            ),
            (
                Code::BrokerTransportFailure,
                "a:1/bootstrap: Connect to ipv4#10.9.9.9:1 failed: No route to host",
                Cause::NoRoute,
            ),
            (
                Code::BrokerTransportFailure,
                "a:1/bootstrap: Connection setup timed out in state APIVERSION_QUERY (after 3001ms in state APIVERSION_QUERY)",
                Cause::Silent,
            ),
            (
                Code::SSL,
                "ssl://a:1/bootstrap: SSL handshake failed: error:0A00010B:SSL routines::wrong version number",
                Cause::NotTls,
            ),
            (
                Code::BrokerTransportFailure,
                "ssl://a:1/bootstrap: SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?",
                Cause::NotTls,
            ),
            (
                Code::BadMessage,
                "a:1/bootstrap: Receive failed: Invalid response size 352518912 (0..100000000): increase receive.message.max.bytes",
                Cause::AsksForTls,
            ),
            (
                Code::BadMessage,
                "a:1/bootstrap: Receive failed: Invalid response size 1213486160 (0..100000000): increase receive.message.max.bytes",
                Cause::NotKafka,
            ),
        ] {
            assert_eq!(Cause::of(Some(code), text), Some(cause), "{text}");
        }
        let closed =
            |after| Cause::of(None, &format!("a:1/1: Disconnected: connection closed by peer (after {after})"));
        assert_eq!(closed("2ms in state APIVERSION_QUERY"), Some(Cause::Closed));
        assert_eq!(closed("9ms in state UP"), Some(Cause::Closed));
        assert_eq!(closed("2100ms in state UP"), None, "a broker that stops");
        assert_eq!(Cause::of(Some(Code::SSL), "SSL handshake failed: certificate verify failed"), None);
        assert_eq!(Cause::of(Some(Code::Authentication), "SASL authentication error: Authentication failed"), None);
    }
}
