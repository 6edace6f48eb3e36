//! Builds the NATS client from the configuration, and asks JetStream about streams.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, Context, ContextBuilder, ErrorCode};
use async_nats::{Client, ConnectOptions};
use futures_util::future::join_all;

use super::connection_error::ConnectionError;
use super::events::Events;
use crate::bus::OpenError;
use crate::config::{self, Secret};

/// The most acknowledgements awaited at once; a message over the limit gets a 503.
pub(super) const IN_FLIGHT: usize = 16_384;

/// The longest back-off: soon enough after a restart of the server, and it limits how often a dead one is tried.
const RECONNECT_WITHIN: Duration = Duration::from_millis(500);
/// Two of these without an answer and the connection counts as lost: a frozen server closes nothing.
const PING_EVERY: Duration = Duration::from_secs(2);
/// Commands that wait for the socket. Small, because a command still waiting after its timeout is sent all the same.
const CAPACITY: usize = 256;
/// In `nats.tls.ca`: the machine's own authorities.
const SYSTEM: &str = "system";

/// A client that connects in the background, and retries without end.
///
/// # Errors
/// A key or certificate cannot be used.
pub(super) fn lazy(config: &config::Nats, timeout: Duration, events: Arc<Events>) -> Result<Client, OpenError> {
    let options = with_events(options(config, timeout)?.retry_on_initial_connect(), events);
    // With `retry_on_initial_connect` this returns at its first poll, connected or not.
    let connecting = options.connect(config.servers.clone());
    futures_util::FutureExt::now_or_never(connecting)
        .unwrap_or_else(|| Err(std::io::Error::other("the client did not start").into()))
        .map_err(|error| OpenError(format!("nats: {}; check `nats.servers` and `nats.tls`", error.kind())))
}

fn with_events(options: ConnectOptions, events: Arc<Events>) -> ConnectOptions {
    options.event_callback(move |event| {
        events.record(&event);
        std::future::ready(())
    })
}

/// Connects to each server once more, to learn why the client does not connect: its events do not tell a refused
/// certificate from a server that is down. `None`: one of the servers accepted the connection.
pub(super) async fn explain(config: &config::Nats, within: Duration) -> Option<ConnectionError> {
    let answers = try_each(config, within, &Arc::default()).await;
    let errors: Option<Vec<_>> = answers.into_iter().map(|(_, answer)| answer.err()).collect();
    errors?.into_iter().min()
}

/// Connects to all servers concurrently, each with this timeout.
pub(super) async fn try_each<'a>(
    config: &'a config::Nats,
    within: Duration,
    events: &Arc<Events>,
) -> Vec<(&'a str, Result<Client, ConnectionError>)> {
    join_all(config.servers.iter().map(|server| async move {
        let connect = async {
            // A file that cannot be read was reported before anything was tried.
            let options = options(config, within).map_err(|_| ConnectionError::Login)?;
            let connected = with_events(options, events.clone()).connect(server.as_str()).await;
            connected.map_err(|error| ConnectionError::of(&error))
        };
        let answer = tokio::time::timeout(within, connect).await;
        (server.as_str(), answer.unwrap_or(Err(ConnectionError::NoAnswer)))
    }))
    .await
}

pub(super) fn context(config: &config::Nats, client: Client, timeout: Duration) -> Context {
    let builder = ContextBuilder::new();
    let builder = match &config.domain {
        Some(domain) => builder.domain(domain).timeout(timeout),
        None => builder.timeout(timeout),
    };
    builder.build(client)
}

/// JetStream's answer about a stream.
pub(super) enum Lookup {
    Found(Box<Stream>),
    Missing,
    Refused(jetstream::Error),
    Silent,
}

pub(super) async fn find_stream(context: &Context, name: &str) -> Lookup {
    match context.get_stream(name).await.map_err(|error| error.kind()) {
        Ok(stream) => Lookup::Found(Box::new(stream)),
        Err(GetStreamErrorKind::JetStream(error)) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            Lookup::Missing
        }
        Err(GetStreamErrorKind::JetStream(error)) => Lookup::Refused(error),
        Err(GetStreamErrorKind::EmptyName | GetStreamErrorKind::Request | GetStreamErrorKind::InvalidStreamName) => {
            Lookup::Silent
        }
    }
}

/// All options except how to wait for the connection.
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
        // The client needs the final newline, which is stripped from a secret read from a file.
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
    // Also applies to servers that another one announces later: their addresses do not say whether they use TLS.
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
