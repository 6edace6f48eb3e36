//! What Kafka's errors mean for a delivery. Comes in: librdkafka's code for one message, and what the
//! bridge knows beside it. Goes out: a [`Refusal`] whose words name topics and keys of the
//! configuration, never a broker, a login or anything of the message.

use std::time::Duration;

use rdkafka::types::RDKafkaErrorCode as Code;

use super::cause::Cause;
use crate::bus::{Refusal, Scope};
use crate::telemetry::Throttle;

/// Lines of one kind in the log, at most one in this time.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// What is wrong with the connection as a whole and stays so until somebody acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The brokers refuse the login.
    Login,
    /// No TLS connection comes about.
    Tls,
    /// The login may not write idempotently.
    Idempotence,
}

impl Trouble {
    /// The trouble that this code reports, if it is one for the connection as a whole.
    pub(super) fn of(code: Code) -> Option<Self> {
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

    /// The same of what the client reports on the side. `why` is its text, which names brokers and goes no
    /// further: only there does it say that the broker ended a connection for want of a certificate.
    pub(super) fn of_report(code: Code, why: &str) -> Option<Self> {
        if Cause::of(Some(code), why).is_some() {
            return None;
        }
        let alerted = code == Code::BrokerTransportFailure && why.contains("SSL alert");
        if alerted { Some(Self::Tls) } else { Self::of(code) }
    }

    pub(super) fn says(self) -> &'static str {
        match self {
            Self::Login => "the Kafka brokers refuse the login",
            Self::Tls => "no TLS connection to the Kafka brokers comes about",
            Self::Idempotence => "Kafka does not allow this login to write idempotently",
        }
    }

    pub(super) fn remedy(self) -> &'static str {
        match self {
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

    fn refusal(self) -> Refusal {
        Refusal::Permanent { scope: Scope::Bus, reason: self.says().into(), remedy: self.remedy().into() }
    }
}

/// Why Kafka did not take a message for this topic. `trouble` explains a message that merely timed
/// out; `creates` tells whether a topic that is not there is about to be made.
pub(super) fn refusal(code: Code, topic: &str, trouble: Option<Trouble>, creates: bool) -> Refusal {
    match code {
        Code::MessageTimedOut | Code::AllBrokersDown | Code::BrokerTransportFailure | Code::Fatal => match trouble {
            Some(trouble) => trouble.refusal(),
            None => Refusal::Transient { reason: in_time(code).into() },
        },
        Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge => Refusal::TooLarge {
            remedy: format!("raise max.message.bytes of topic {topic} above server.max_body, or lower server.max_body")
                .into(),
        },
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::UnknownTopicId
            if creates =>
        {
            Refusal::Transient { reason: format!("topic {topic} does not exist yet and is being created").into() }
        }
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::UnknownTopicId => {
            missing(topic)
        }
        Code::TopicAuthorizationFailed => forbidden(topic),
        Code::InvalidTopic => Refusal::Permanent {
            scope: Scope::Topic,
            reason: format!("Kafka does not take {topic} for a topic's name").into(),
            remedy: "route to another topic (routes.types, routes.template)".into(),
        },
        Code::InvalidRecord => Refusal::Permanent {
            scope: Scope::Topic,
            reason: format!("Kafka does not take this record for topic {topic}").into(),
            remedy: "check the topic's message.timestamp limits, the clocks, and any schema validation on the brokers"
                .into(),
        },
        Code::InvalidTimestamp => Refusal::Permanent {
            scope: Scope::Topic,
            reason: format!("Kafka does not take the time of a record for topic {topic}").into(),
            remedy: "set the clocks of the bridge and the brokers, and check the topic's message.timestamp limits"
                .into(),
        },
        Code::UnsupportedCompressionType | Code::BadCompression => Refusal::Permanent {
            scope: Scope::Topic,
            reason: format!("Kafka does not take this compression for topic {topic}").into(),
            remedy: "set kafka.properties.\"compression.codec\" to one that the topic allows".into(),
        },
        Code::PolicyViolation => Refusal::Permanent {
            scope: Scope::Topic,
            reason: format!("a policy of the brokers refuses records for topic {topic}").into(),
            remedy: "ask who runs the cluster what the policy demands".into(),
        },
        Code::UnsupportedForMessageFormat | Code::UnsupportedVersion | Code::UnsupportedFeature => Refusal::Permanent {
            scope: Scope::Topic,
            reason: format!("topic {topic} is kept in a format without headers or idempotence").into(),
            remedy: "use brokers of Kafka 2.1 or newer and remove message.format.version from the topic".into(),
        },
        other => match Trouble::of(other) {
            Some(trouble) => trouble.refusal(),
            None => Refusal::Transient { reason: passing(other, topic) },
        },
    }
}

/// The refusal for a topic that is not there and that the bridge does not create.
pub(super) fn missing(topic: &str) -> Refusal {
    Refusal::Permanent {
        scope: Scope::Topic,
        reason: format!("topic {topic} does not exist").into(),
        remedy: format!(
            "create it (kafka-topics --create --topic {topic}), or set kafka.create_topics = true and grant the operation \
             Create on it"
        )
        .into(),
    }
}

/// The refusal for a topic that the login may not write to, or not even see.
pub(super) fn forbidden(topic: &str) -> Refusal {
    Refusal::Permanent {
        scope: Scope::Topic,
        reason: format!("Kafka does not allow this login to write to topic {topic}").into(),
        remedy: format!("grant it Write and Describe (kafka-acls --add --operation Write --topic {topic})").into(),
    }
}

/// The refusal for a message that may have been among others in a batch that was too large.
pub(super) fn crowded(topic: &str) -> Refusal {
    Refusal::Transient {
        reason: format!("topic {topic} takes less than a batch of messages: batches get smaller").into(),
    }
}

/// The refusal for a message that librdkafka reports as delivered on its own word. Is said where it happens: what
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

/// Of brokers that are there: a message that timed out may have got to them.
pub(super) fn say_unanswered() {
    static UNANSWERED: Throttle = Throttle::new(LOG_EVERY);
    if let Some(more) = UNANSWERED.pass() {
        tracing::warn!(
            more,
            remedy = "compare the brokers' load and quotas (kafka-configs --describe --entity-type users, clients) with what \
                      arrives, or raise server.publish_timeout",
            "Kafka did not confirm a message in time: it may be on its topic all the same, and its retry then makes a copy"
        );
    }
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
fn passing(code: Code, topic: &str) -> std::borrow::Cow<'static, str> {
    match code {
        Code::QueueFull => "the Kafka client has no room for more messages".into(),
        Code::PurgeQueue | Code::PurgeInflight | Code::BrokerDestroy | Code::State => {
            "the Kafka client was closed before the message was confirmed".into()
        }
        Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend | Code::ISRInsufficient => {
            format!("topic {topic} has fewer replicas in sync than min.insync.replicas").into()
        }
        Code::LeaderNotAvailable | Code::NotLeaderForPartition | Code::FencedLeaderEpoch => {
            format!("a partition of topic {topic} is between two leaders").into()
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
    fn a_connection_that_the_broker_ends_for_want_of_a_certificate_is_trouble_with_tls() {
        let why =
            "ssl://h:1/bootstrap: Receive failed: SSL routines::ssl/tls alert bad certificate: SSL alert number 42";
        assert_eq!(Trouble::of_report(Code::BrokerTransportFailure, why), Some(Trouble::Tls));
        assert_eq!(Trouble::of_report(Code::BrokerTransportFailure, "Connect failed: refused"), None);
        assert_eq!(Trouble::of_report(Code::Authentication, ""), Some(Trouble::Login));
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
        let refusal = refusal(Code::MessageTimedOut, "terra.daily", Some(Trouble::Login), true);
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
