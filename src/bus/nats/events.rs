//! Events of the client besides its replies: failed connections, and what this user is denied. JetStream does not
//! answer a request that the server denies; an event just before is the only explanation.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_nats::{ClientError, ConnectErrorKind, Event, ServerError};
use tokio::sync::Notify;

use super::connection_error::ConnectionError;
use super::refusal;
use crate::bus::error_log::ErrorLog;
use crate::bus::{Refusal, Scope};

/// How long an event explains a publish without an answer.
const EXPLAINS_FOR: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Events {
    /// The connection has changed.
    pub changed: Notify,
    denials: Mutex<Denials>,
    errors: ErrorLog<ConnectionError>,
    /// An attempt failed for an unknown reason, and only a further attempt can tell why.
    unexplained: AtomicBool,
}

/// Permissions that this user was denied.
#[derive(Default)]
struct Denials {
    /// Denied publishes by subject, with the time of the last one.
    publishes: HashMap<String, Instant>,
    /// Whether this connection cannot receive replies.
    inbox: bool,
}

impl Denials {
    /// The server's text names the subject in quotes.
    fn record(&mut self, text: &str) {
        if text.to_ascii_lowercase().contains("subscription to") {
            // The client subscribes to nothing else.
            self.inbox = true;
        } else if let Some(subject) = text.split('"').nth(1) {
            self.publishes.retain(|_, at| at.elapsed() < EXPLAINS_FOR);
            self.publishes.insert(subject.to_owned(), Instant::now());
        }
    }
}

impl Events {
    pub(super) fn record(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.errors.clear();
                self.denials().inbox = false;
            }
            Event::ServerError(ServerError::Other(text))
                if text.to_ascii_lowercase().contains("permissions violation") =>
            {
                self.denials().record(text);
            }
            Event::ServerError(error) => self.record_error(&ConnectionError::from_server(error)),
            // A failed attempt arrives only as the text of its error kind.
            Event::ClientError(ClientError::Other(text)) => {
                let is = |kind: &ConnectErrorKind| kind.to_string() == *text;
                if [ConnectErrorKind::Authentication, ConnectErrorKind::AuthorizationViolation].iter().any(is) {
                    self.record_error(&ConnectionError::Login);
                } else if is(&ConnectErrorKind::Tls) {
                    self.record_error(&ConnectionError::Tls);
                } else {
                    self.unexplained.store(true, Ordering::Relaxed);
                }
            }
            _ => {}
        }
        self.changed.notify_one();
    }

    /// Logs the error, unless it was logged a moment ago.
    pub(super) fn record_error(&self, error: &ConnectionError) {
        match self.errors.record(error.clone()) {
            true if error.is_permanent() => tracing::error!(remedy = error.remedy(), "{error}"),
            true => tracing::warn!(remedy = error.remedy(), "{error}"),
            false => {}
        }
    }

    /// Whether an attempt failed for an unknown reason since the last call.
    pub(super) fn take_unexplained(&self) -> bool {
        self.unexplained.swap(false, Ordering::Relaxed)
    }

    /// Why there is no connection.
    pub(super) fn unconnected(&self) -> Option<Refusal> {
        self.errors.within(EXPLAINS_FOR).map(|error| error.refusal())
    }

    /// Why a message on this subject got no answer, if the server has just denied it.
    pub(super) fn denied(&self, subject: &str) -> Option<Refusal> {
        if self.denied_inbox() {
            return Some(refusal::denied(Scope::Bus));
        }
        self.denied_publish(|denied| denied == subject).then(|| refusal::denied(Scope::Topic))
    }

    /// Why this bucket cannot be seen or written, if the server has just denied it.
    pub(super) fn denied_bucket(&self, bucket: &str) -> Option<Refusal> {
        let (objects, stream) = (format!("$O.{bucket}."), format!("OBJ_{bucket}"));
        let concerns = |denied: &str| denied.starts_with(&objects) || denied.split('.').any(|token| token == stream);
        self.denied_publish(concerns).then(|| refusal::denied(Scope::Topic))
    }

    /// Whether the server has just denied requests about this stream.
    pub(super) fn denied_stream(&self, stream: &str) -> bool {
        let asks = |denied: &str| denied.starts_with("$JS.") && denied.rsplit('.').next() == Some(stream);
        self.denied_inbox() || self.denied_publish(asks)
    }

    /// Whether this connection cannot receive replies: only a new one can subscribe to its inbox again.
    pub(super) fn denied_inbox(&self) -> bool {
        self.denials().inbox
    }

    fn denied_publish(&self, concerns: impl Fn(&str) -> bool) -> bool {
        let denials = self.denials();
        denials.publishes.iter().any(|(subject, at)| at.elapsed() < EXPLAINS_FOR && concerns(subject))
    }

    fn denials(&self) -> MutexGuard<'_, Denials> {
        self.denials.lock().expect("no holder of this lock can panic")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events_after(text: &str) -> Events {
        let events = Events::default();
        events.record(&Event::ServerError(ServerError::Other(text.to_owned())));
        events
    }

    #[test]
    fn a_denied_publish_explains_only_its_own_subject() {
        let topic = events_after("Permissions Violation for Publish to \"terra.daily\"");
        assert!(topic.denied("terra.daily").is_some_and(|refusal| refusal.is_message_specific()));
        assert_eq!(topic.denied("terra.sleep"), None);
        assert!(topic.denied_bucket("B").is_none() && !topic.denied_stream("terra"));
        for bucket in ["$O.B.C.1", "$JS.API.STREAM.INFO.OBJ_B", "$JS.API.STREAM.MSG.GET.OBJ_B"] {
            let bucket = events_after(&format!("Permissions Violation for Publish to \"{bucket}\""));
            assert!(bucket.denied_bucket("B").is_some() && bucket.denied_bucket("OTHER").is_none());
            assert!(bucket.denied("terra.daily").is_none() && !bucket.denied_stream("B"));
        }
        assert!(events_after("Permissions Violation for Publish to \"$JS.hub.API.STREAM.INFO.S\"").denied_stream("S"));
    }

    #[test]
    fn a_denied_inbox_explains_every_missing_answer_until_the_next_connection() {
        let events = events_after("Permissions Violation for Subscription to \"_INBOX.a.*\"");
        assert!(events.denied_stream("S"));
        assert!(events.denied("terra.daily").is_some_and(|refusal| !refusal.is_message_specific()));
        events.record(&Event::Connected);
        assert!(!events.denied_stream("S") && events.denied("terra.daily").is_none());
    }
}
