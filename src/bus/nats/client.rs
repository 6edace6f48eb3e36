//! The connection: options from the configuration, and what the server says on the side.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_nats::{Client, ClientError, ConnectErrorKind, ConnectOptions, Event, ServerError};
use futures_util::future::join_all;
use tokio::sync::Notify;

use super::connection_error::ConnectionError;
use super::refusal;
use crate::bus::error_log::ErrorLog;
use crate::bus::{OpenError, Refusal, Scope};
use crate::config::{self, Secret};

/// Soon enough after a restart of the server; it also bounds how often a dead one is tried.
const RECONNECT_WITHIN: Duration = Duration::from_millis(500);
/// Two of these without an answer and the connection counts as lost: a frozen server says nothing.
const PING_EVERY: Duration = Duration::from_secs(2);
/// Commands that wait for the socket. Small: what waits there after a timeout is sent all the same.
const CAPACITY: usize = 256;
/// In `nats.tls.ca`: the machine's own authorities.
const SYSTEM: &str = "system";
/// How long an error that came on the side explains a publish that got no answer.
const EXPLAINS_FOR: Duration = Duration::from_secs(10);

/// What the server and the client say beside the answers.
#[derive(Default)]
pub(super) struct Events {
    /// Something changed about the connection.
    pub changed: Notify,
    denials: Mutex<Denials>,
    errors: ErrorLog<ConnectionError>,
    /// An attempt failed, and only another one, with its error in hand, can tell why.
    unexplained: AtomicBool,
}

/// What this user was denied.
#[derive(Default)]
struct Denials {
    /// Publishes by subject, and when last.
    publishes: HashMap<String, Instant>,
    /// Whether this connection hears no answers.
    inbox: bool,
}

impl Denials {
    /// The server's text names the subject in quotes.
    fn take(&mut self, text: &str) {
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
    fn take(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.errors.clear();
                locked(&self.denials).inbox = false;
            }
            Event::ServerError(ServerError::Other(text))
                if text.to_ascii_lowercase().contains("permissions violation") =>
            {
                locked(&self.denials).take(text);
            }
            Event::ServerError(error) => self.in_trouble(&ConnectionError::said(error)),
            // An attempt that failed comes as the text of its kind and nothing else.
            Event::ClientError(ClientError::Other(text)) => {
                let logins = [ConnectErrorKind::Authentication, ConnectErrorKind::AuthorizationViolation];
                if logins.iter().any(|kind| kind.to_string() == *text) {
                    self.in_trouble(&ConnectionError::Login);
                } else if ConnectErrorKind::Tls.to_string() == *text {
                    self.in_trouble(&ConnectionError::Tls);
                } else {
                    self.unexplained.store(true, Ordering::Relaxed);
                }
            }
            _ => {}
        }
        self.changed.notify_one();
    }

    /// Whether [`explain`] should be asked and its answer handed to [`Self::in_trouble`].
    pub(super) fn take_unexplained(&self) -> bool {
        self.unexplained.swap(false, Ordering::Relaxed)
    }

    pub(super) fn in_trouble(&self, error: &ConnectionError) {
        if !self.errors.record(error.clone()) {
            return;
        }
        if error.needs_somebody() {
            tracing::error!(remedy = error.remedy(), "{error}");
        } else {
            tracing::warn!(remedy = error.remedy(), "{error}");
        }
    }

    /// Why a message on this subject got no answer, where the server has just said so.
    pub(super) fn denied(&self, subject: &str) -> Option<Refusal> {
        if self.denied_inbox() {
            return Some(refusal::denied(Scope::Bus));
        }
        self.denied_publish(|denied| denied == subject).then(|| refusal::denied(Scope::Topic))
    }

    /// Why this bucket cannot be seen or takes nothing, where the server has just said so.
    pub(super) fn denied_bucket(&self, bucket: &str) -> Option<Refusal> {
        let (objects, stream) = (format!("$O.{bucket}."), format!("OBJ_{bucket}"));
        let concerns = |denied: &str| denied.starts_with(&objects) || denied.split('.').any(|token| token == stream);
        self.denied_publish(concerns).then(|| refusal::denied(Scope::Topic))
    }

    /// Whether the server has just said why JetStream tells nothing of this stream.
    pub(super) fn denied_stream(&self, stream: &str) -> bool {
        let asks = |denied: &str| denied.starts_with("$JS.") && denied.rsplit('.').next() == Some(stream);
        self.denied_inbox() || self.denied_publish(asks)
    }

    /// Whether this connection hears no answers: only another one can ask for its inbox again.
    pub(super) fn denied_inbox(&self) -> bool {
        locked(&self.denials).inbox
    }

    fn denied_publish(&self, concerns: impl Fn(&str) -> bool) -> bool {
        let denials = locked(&self.denials);
        denials.publishes.iter().any(|(subject, at)| at.elapsed() < EXPLAINS_FOR && concerns(subject))
    }

    /// Why there is no connection.
    pub(super) fn unconnected(&self) -> Option<Refusal> {
        self.errors.within(EXPLAINS_FOR).map(|error| error.refusal())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock can panic")
}

/// A client that connects by itself, again and again.
///
/// # Errors
/// Where a key or certificate cannot be used.
pub(super) fn lazy(config: &config::Nats, timeout: Duration, events: Arc<Events>) -> Result<Client, OpenError> {
    let options = heard(options(config, timeout)?.retry_on_initial_connect(), events);
    // With retry_on_initial_connect this returns at its first poll, connected or not.
    let connecting = options.connect(config.servers.clone());
    futures_util::FutureExt::now_or_never(connecting)
        .unwrap_or_else(|| Err(std::io::Error::other("the client did not start").into()))
        .map_err(|error| OpenError(format!("nats: {}; see `nats.servers` and `nats.tls`", error.kind())))
}

/// With somebody who hears what the server says on the side.
pub(super) fn heard(options: ConnectOptions, events: Arc<Events>) -> ConnectOptions {
    options.event_callback(move |event| {
        events.take(&event);
        std::future::ready(())
    })
}

/// Connects to each server once more, to learn why the client does not: its events tell no refused certificate from
/// a server that is away. `None`: one of them let us in.
pub(super) async fn explain(config: &config::Nats, within: Duration) -> Option<ConnectionError> {
    let mut worst = None;
    for (_, answer) in try_each(config, within, &Arc::default()).await {
        let error = answer.err()?;
        worst = worst.map_or(Some(error.clone()), |worst: ConnectionError| Some(worst.min(error)));
    }
    worst
}

/// Connects to each of the servers, all at once; each has so long.
pub(super) async fn try_each<'a>(
    config: &'a config::Nats,
    within: Duration,
    events: &Arc<Events>,
) -> Vec<(&'a str, Result<Client, ConnectionError>)> {
    join_all(config.servers.iter().map(|server| async move {
        let connect = async {
            // What cannot be read was a mistake before anything was tried.
            let options = options(config, within).map_err(|_| ConnectionError::Login)?;
            let connected = heard(options, events.clone()).connect(server.as_str()).await;
            connected.map_err(|error| ConnectionError::of(&error))
        };
        let answer = tokio::time::timeout(within, connect).await;
        (server.as_str(), answer.unwrap_or(Err(ConnectionError::NoAnswer)))
    }))
    .await
}

/// Everything but how to wait for the connection.
pub(super) fn options(config: &config::Nats, timeout: Duration) -> Result<ConnectOptions, OpenError> {
    let mut options = ConnectOptions::new()
        .name("terra-bridge")
        .client_capacity(CAPACITY)
        .connection_timeout(timeout)
        .request_timeout(Some(timeout))
        .ping_interval(PING_EVERY)
        .reconnect_delay_callback(|attempts| if attempts <= 1 { Duration::from_millis(50) } else { RECONNECT_WITHIN });
    if let Some(prefix) = &config.inbox_prefix {
        options = options.custom_inbox_prefix(prefix);
    }
    if let Some(credentials) = &config.credentials {
        let unusable = |_| OpenError("`nats.credentials` is not the text of a credentials file".into());
        // The client wants the end of the last line, which a secret from a file is read without.
        let text = text("nats.credentials", credentials)? + "\n";
        options = options.credentials(&text).map_err(unusable)?;
    }
    if let Some(seed) = &config.nkey {
        options = options.nkey(text("nats.nkey", seed)?.trim().to_owned());
    }
    if let Some(token) = &config.token {
        options = options.token(text("nats.token", token)?);
    }
    if let (Some(user), Some(password)) = (&config.user, &config.password) {
        options = options.user_and_password(user.clone(), text("nats.password", password)?);
    }
    // Of all servers, those too that another one names later: their addresses say nothing of TLS.
    options = options.require_tls(config.wants_tls());
    if let Some(ca) = config.tls.ca.as_deref().filter(|ca| *ca != SYSTEM) {
        options = options.add_root_certificates(PathBuf::from(ca));
    }
    if let (Some(certificate), Some(key)) = (&config.tls.certificate, &config.tls.key) {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(options)
}

fn text(key: &str, secret: &Secret) -> Result<String, OpenError> {
    String::from_utf8(secret.expose().to_vec()).map_err(|_| OpenError(format!("`{key}` is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Events {
        let events = Events::default();
        events.take(&Event::ServerError(ServerError::Other(text.to_owned())));
        events
    }

    #[test]
    fn a_denied_publish_explains_only_what_concerns_its_subject() {
        let topic = told("Permissions Violation for Publish to \"terra.daily\"");
        assert!(topic.denied("terra.daily").is_some_and(|refusal| refusal.is_message_specific()));
        assert_eq!(topic.denied("terra.sleep"), None);
        assert!(topic.denied_bucket("B").is_none() && !topic.denied_stream("terra"));
        for bucket in ["$O.B.C.1", "$JS.API.STREAM.INFO.OBJ_B", "$JS.API.STREAM.MSG.GET.OBJ_B"] {
            let bucket = told(&format!("Permissions Violation for Publish to \"{bucket}\""));
            assert!(bucket.denied_bucket("B").is_some() && bucket.denied_bucket("OTHER").is_none());
            assert!(bucket.denied("terra.daily").is_none() && !bucket.denied_stream("B"));
        }
        assert!(told("Permissions Violation for Publish to \"$JS.hub.API.STREAM.INFO.S\"").denied_stream("S"));
    }

    #[test]
    fn a_denied_inbox_explains_every_silence_until_the_next_connection() {
        let events = told("Permissions Violation for Subscription to \"_INBOX.a.*\"");
        assert!(events.denied_stream("S"));
        assert!(events.denied("terra.daily").is_some_and(|refusal| !refusal.is_message_specific()));
        events.take(&Event::Connected);
        assert!(!events.denied_stream("S") && events.denied("terra.daily").is_none());
    }
}
