//! The connection: options from the configuration, and what the server says on the side.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions, Event, ServerError};
use tokio::sync::Notify;

use super::refusal;
use crate::bus::{OpenError, Refusal};
use crate::config::{self, Secret};

/// Soon enough after a restart of the server; it also bounds how often a dead one is tried.
const RECONNECT_WITHIN: Duration = Duration::from_millis(500);
/// Two of these without an answer and the connection counts as lost: a frozen server says nothing.
const PING_EVERY: Duration = Duration::from_secs(2);
/// Commands that wait for the socket. Small: what waits there after a timeout is sent all the same.
const CAPACITY: usize = 256;
/// How long an error that came on the side explains a publish that got no answer.
const EXPLAINS_FOR: Duration = Duration::from_secs(10);

/// What the server and the client say beside the answers.
#[derive(Default)]
pub(super) struct Events {
    /// Something changed about the connection.
    pub changed: Notify,
    denied: Mutex<Option<Instant>>,
    refused_login: Mutex<Option<Instant>>,
}

impl Events {
    fn take(&self, event: &Event) {
        match event {
            Event::ServerError(ServerError::AuthorizationViolation) => note(&self.refused_login),
            Event::ServerError(ServerError::Other(text)) => {
                let text = text.to_ascii_lowercase();
                if text.contains("permissions violation") {
                    note(&self.denied);
                } else if text.contains("authentication") || text.contains("authorization") {
                    note(&self.refused_login);
                }
            }
            _ => {}
        }
        self.changed.notify_one();
    }

    /// The server has just said that this user may not do it.
    pub(super) fn denied(&self) -> Option<Refusal> {
        recent(&self.denied).then(refusal::denied)
    }

    /// The server has just refused the login.
    pub(super) fn login_refused(&self) -> Option<Refusal> {
        recent(&self.refused_login).then(refusal::login)
    }
}

fn note(at: &Mutex<Option<Instant>>) {
    *at.lock().expect("no holder of this lock can panic") = Some(Instant::now());
}

fn recent(at: &Mutex<Option<Instant>>) -> bool {
    at.lock().expect("no holder of this lock can panic").is_some_and(|at| at.elapsed() < EXPLAINS_FOR)
}

/// A client that connects by itself, again and again.
///
/// # Errors
/// Where a key or certificate cannot be used.
pub(super) fn lazy(config: &config::Nats, timeout: Duration, events: Arc<Events>) -> Result<Client, OpenError> {
    let options = options(config, timeout)?.retry_on_initial_connect().event_callback(move |event| {
        events.take(&event);
        std::future::ready(())
    });
    // With retry_on_initial_connect this returns at its first poll, connected or not.
    let connecting = options.connect(config.servers.clone());
    futures_util::FutureExt::now_or_never(connecting)
        .unwrap_or_else(|| Err(std::io::Error::other("the client did not start").into()))
        .map_err(|error| OpenError(format!("nats: {}; see `nats.servers` and `nats.tls`", error.kind())))
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
        options = options.credentials(&text("nats.credentials", credentials)?).map_err(unusable)?;
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
    tls(options, &config.tls)
}

fn tls(mut options: ConnectOptions, tls: &config::Tls) -> Result<ConnectOptions, OpenError> {
    if let Some(ca) = &tls.ca {
        options = options.require_tls(true);
        if ca != "system" {
            options = options.add_root_certificates(PathBuf::from(ca));
        }
    }
    if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
        options = options.require_tls(true).add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(options)
}

fn text(key: &str, secret: &Secret) -> Result<String, OpenError> {
    String::from_utf8(secret.expose().to_vec()).map_err(|_| OpenError(format!("`{key}` is not UTF-8")))
}
