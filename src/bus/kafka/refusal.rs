//! What Kafka's errors mean for a message: a [`Refusal`] whose words name topics and keys of the configuration, never a
//! broker, a login or anything of the message.

use std::borrow::Cow;
use std::time::Duration;

use rdkafka::types::RDKafkaErrorCode as Code;

use super::connection_error::ConnectionError;
use super::topic_error::TopicError;
use crate::bus::{Refusal, Scope};
use crate::telemetry::Throttle;

/// Lines of one kind in the log, at most one in this time.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Where none of the addresses that brokers advertise leads to them.
pub(super) const NOT_AT_ADVERTISED: &str =
    "the Kafka brokers were reached, but not at the addresses that they advertise";

/// Why Kafka did not take a message for this topic. `error` explains a message that merely timed out; `creates` tells
/// whether a missing topic is about to be created.
pub(super) fn refusal(code: Code, topic: &str, error: Option<ConnectionError>, creates: bool) -> Refusal {
    let of_topic = |reason: String, remedy: &'static str| Refusal::Permanent {
        scope: Scope::Topic,
        reason: reason.into(),
        remedy: remedy.into(),
    };
    match code {
        Code::MessageTimedOut | Code::AllBrokersDown | Code::BrokerTransportFailure | Code::Fatal => match error {
            Some(error) if error.is_permanent() => of_connection(error),
            Some(error) if code == Code::AllBrokersDown => {
                Refusal::Transient { reason: format!("{}: {}", in_time(code), error.says()).into() }
            }
            _ => Refusal::Transient { reason: in_time(code).into() },
        },
        Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge => Refusal::TooLarge {
            remedy: format!("raise max.message.bytes of topic {topic} above server.max_body, or lower server.max_body")
                .into(),
        },
        code if is_missing(code) && creates => {
            Refusal::Transient { reason: format!("topic {topic} does not exist yet and is being created").into() }
        }
        code if is_missing(code) => TopicError::Missing.refusal(topic),
        Code::TopicAuthorizationFailed => TopicError::Forbidden.refusal(topic),
        Code::InvalidTopic => TopicError::Name.refusal(topic),
        Code::InvalidRecord => of_topic(
            format!("Kafka rejects this record for topic {topic}"),
            "check the topic's message.timestamp limits, the clocks, and any schema validation on the brokers",
        ),
        Code::InvalidTimestamp => of_topic(
            format!("Kafka rejects the time of a record for topic {topic}"),
            "set the clocks of the bridge and the brokers, and check the topic's message.timestamp limits",
        ),
        Code::UnsupportedCompressionType | Code::BadCompression => of_topic(
            format!("Kafka rejects this compression for topic {topic}"),
            "set kafka.compression to one that the topic takes, or none",
        ),
        Code::PolicyViolation => of_topic(
            format!("a policy of the brokers rejects records for topic {topic}"),
            "ask who runs the cluster what the policy demands",
        ),
        Code::UnsupportedForMessageFormat | Code::UnsupportedVersion | Code::UnsupportedFeature => of_topic(
            format!("topic {topic} has a message format without headers or idempotence"),
            "use brokers of Kafka 2.1 or newer and remove message.format.version from the topic",
        ),
        other => match ConnectionError::of_code(other) {
            Some(error) => of_connection(error),
            None => Refusal::Transient { reason: passing(other, topic) },
        },
    }
}

/// Whether the code says that a topic, or a partition of it, does not exist.
pub(super) fn is_missing(code: Code) -> bool {
    matches!(code, Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::UnknownTopicId)
}

/// The refusal for a message that librdkafka reports as delivered on its own word. Is logged where it happens: what
/// comes from a spool is answered to nobody.
pub(super) fn unconfirmed(topic: &str) -> Refusal {
    static UNCONFIRMED: Throttle = Throttle::new(LOG_EVERY);
    if let Some(more) = UNCONFIRMED.pass() {
        tracing::warn!(
            topic,
            more,
            remedy = "none where a broker was restarted or a leader moved; else look for brokers that stall or that \
                      lose connections. Consumers know a copy by its id",
            "Kafka accepted later messages, but never confirmed an earlier one: it does not count as kept and has to be \
             sent again, which makes a copy if it is on the topic after all"
        );
    }
    Refusal::Unconfirmed { reason: format!("no Kafka broker confirmed the message for topic {topic}").into() }
}

/// A message timed out though the brokers are there: they may have it.
pub(super) fn log_timeout() {
    static TIMED_OUT: Throttle = Throttle::new(LOG_EVERY);
    if let Some(more) = TIMED_OUT.pass() {
        tracing::warn!(
            more,
            remedy = "compare the brokers' load and quotas (kafka-configs --describe --entity-type users, clients) with what \
                      arrives, or raise server.publish_timeout",
            "Kafka did not confirm a message in time: it may be on its topic all the same, and its retry then makes a copy"
        );
    }
}

fn of_connection(error: ConnectionError) -> Refusal {
    Refusal::Permanent { scope: Scope::Bus, reason: error.says().into(), remedy: error.remedy().into() }
}

fn in_time(code: Code) -> &'static str {
    match code {
        Code::Fatal => "the Kafka client failed and is being replaced",
        Code::MessageTimedOut => "Kafka did not confirm the message in time",
        _ => "no Kafka broker can be reached",
    }
}

/// Codes of leader changes, missing replicas, full disks, quotas and the client's own ends. An
/// unknown code is one of them too: a delivery that is sent again loses nothing.
fn passing(code: Code, topic: &str) -> Cow<'static, str> {
    match code {
        Code::QueueFull => "the Kafka client has no room for more messages".into(),
        Code::PurgeQueue | Code::PurgeInflight | Code::BrokerDestroy | Code::State => {
            "the Kafka client was closed before the message was confirmed".into()
        }
        Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend | Code::ISRInsufficient => {
            format!("topic {topic} has fewer replicas in sync than min.insync.replicas").into()
        }
        Code::LeaderNotAvailable | Code::NotLeaderForPartition | Code::FencedLeaderEpoch => {
            format!("a partition of topic {topic} has no leader at this moment").into()
        }
        Code::KafkaStorageError | Code::LogDirNotFound => {
            format!("a broker cannot write to its disk for topic {topic}").into()
        }
        Code::ThrottlingQuotaExceeded => "a quota of the Kafka brokers is used up".into(),
        Code::OutOfOrderSequenceNumber
        | Code::UnknownProducerId
        | Code::InvalidProducerEpoch
        | Code::InvalidProducerIdMapping
        | Code::ProducerFenced
        | Code::Fenced => "Kafka lost track of this client, which is being replaced".into(),
        other => format!("Kafka answered {other:?} for topic {topic}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: Code) -> Refusal {
        refusal(code, "terra.daily", None, false)
    }

    #[test]
    fn what_passes_by_itself_is_transient() {
        for code in [
            Code::MessageTimedOut,
            Code::AllBrokersDown,
            Code::BrokerTransportFailure,
            Code::QueueFull,
            Code::PurgeInflight,
            Code::Fatal,
            Code::NotEnoughReplicas,
            Code::NotEnoughReplicasAfterAppend,
            Code::NotLeaderForPartition,
            Code::LeaderNotAvailable,
            Code::RequestTimedOut,
            Code::KafkaStorageError,
            Code::OutOfOrderSequenceNumber,
            Code::UnknownProducerId,
            Code::ThrottlingQuotaExceeded,
            Code::Unknown,
        ] {
            assert!(matches!(of(code), Refusal::Transient { .. }), "{code:?}");
        }
    }

    #[test]
    fn what_needs_somebody_is_permanent_and_says_what_to_do() {
        for code in [
            Code::TopicAuthorizationFailed,
            Code::ClusterAuthorizationFailed,
            Code::SaslAuthenticationFailed,
            Code::Authentication,
            Code::SSL,
            Code::UnknownTopic,
            Code::UnknownTopicOrPartition,
            Code::InvalidTopic,
            Code::InvalidRecord,
            Code::PolicyViolation,
        ] {
            let Refusal::Permanent { remedy, .. } = of(code) else { panic!("{code:?}") };
            assert!(!remedy.is_empty(), "{code:?}");
        }
    }

    #[test]
    fn a_message_too_large_names_the_topic_setting() {
        for code in [Code::MessageSizeTooLarge, Code::InvalidMessageSize] {
            let Refusal::TooLarge { remedy } = of(code) else { panic!("{code:?}") };
            assert!(remedy.contains("max.message.bytes"), "{remedy}");
        }
    }

    #[test]
    fn a_refused_login_explains_a_timeout() {
        let refusal = refusal(Code::MessageTimedOut, "terra.daily", Some(ConnectionError::Login), true);
        assert!(matches!(refusal, Refusal::Permanent { scope: Scope::Bus, .. }), "{refusal}");
    }

    #[test]
    fn what_is_wrong_with_a_topic_is_not_wrong_with_the_bus() {
        for code in [Code::TopicAuthorizationFailed, Code::UnknownTopic, Code::InvalidRecord, Code::MessageSizeTooLarge]
        {
            assert!(of(code).is_message_specific(), "{code:?}");
        }
        for code in [Code::ClusterAuthorizationFailed, Code::SaslAuthenticationFailed, Code::SSL, Code::MessageTimedOut]
        {
            assert!(!of(code).is_message_specific(), "{code:?}");
        }
    }

    #[test]
    fn a_topic_about_to_be_made_is_worth_a_retry() {
        let refusal = refusal(Code::UnknownTopic, "terra.daily", None, true);
        assert!(matches!(refusal, Refusal::Transient { .. }), "{refusal}");
    }
}
