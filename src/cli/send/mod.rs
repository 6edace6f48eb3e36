//! `send`: posts signed deliveries as Terra does, and shows each reply or a summary of many.
//!
//! `body` is what is sent, `report` shows the results. Knows nothing of the module that verifies
//! signatures, so that the two check each other.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use jiff::Timestamp;
use uuid::Uuid;

use super::args::SendArgs;
use super::cause::root_cause;
use super::failure::Failure;
use super::signing::{SigningClock, signature};
use super::terminal::one_line;
use crate::config::{Config, Endpoint};
use crate::server::{Trust, client, reachable, scheme};

mod body;
mod report;

use body::{Body, bodies};
use report::{Answer, NoReply, Reply, Report};

/// The time limit of one delivery, from connecting to the reply's last byte.
const DEADLINE: Duration = Duration::from_secs(10);

/// The most bytes of a reply to read; the bridge's own are far smaller.
const LARGEST_REPLY: usize = 64 * 1024;

/// The most characters of a reply to show.
const SHOWN: usize = 160;

/// `Ok` means that every delivery got a 2xx or, for forged ones, the endpoint's `rejected_status`.
pub(super) async fn run(args: &SendArgs, config: &Config) -> Result<(), Failure> {
    let endpoint = endpoint(config, args.endpoint.as_deref())?;
    let bodies = bodies(args)?;
    let (url, trust) = match &args.url {
        Some(url) if url.scheme_str() == Some("https") => (url.clone(), Trust::System),
        Some(url) => (url.clone(), Trust::Pair(None)),
        None => (default_url(config, endpoint)?, Trust::Pair(config.server.tls.as_ref())),
    };
    let secret = match endpoint.secrets.first() {
        Some(secret) if !args.forge => secret.expose().to_vec(),
        _ => Uuid::new_v4().to_string().into_bytes(),
    };
    let sender = Sender {
        client: client(trust).map_err(Failure::Running)?,
        url,
        secret,
        clock: SigningClock::within(endpoint.max_age.min(endpoint.max_skew)),
        reference: Uuid::new_v4(),
    };
    sender.send(args, &bodies, endpoint).await
}

pub(super) fn endpoint<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a Endpoint, Failure> {
    let called = |name: &str| config.endpoints.iter().find(|endpoint| *endpoint.name == *name);
    let found = match (name, config.endpoints.as_slice()) {
        (Some(name), _) => called(name),
        (None, [only]) => Some(only),
        (None, _) => called("terra"),
    };
    found.ok_or_else(|| {
        let names: Vec<_> = config.endpoints.iter().map(|endpoint| &*endpoint.name).collect();
        Failure::Mistake(format!("--endpoint takes one of those configured: {}", names.join(", ")))
    })
}

pub(super) fn default_url(config: &Config, endpoint: &Endpoint) -> Result<Uri, Failure> {
    let scheme = scheme(config.server.tls.as_ref());
    let url = format!("{scheme}://{}{}", reachable(config.server.listen), endpoint.path);
    url.parse().map_err(|error| Failure::Mistake(format!("{url}: {error}; give a --url")))
}

struct Sender {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Uri,
    secret: Vec<u8>,
    clock: SigningClock,
    /// One for the whole run, as for one request to Terra.
    reference: Uuid,
}

impl Sender {
    async fn send(&self, args: &SendArgs, bodies: &[Body], endpoint: &Endpoint) -> Result<(), Failure> {
        let planned = args.count.get().saturating_mul(bodies.len() as u64);
        let mut report = Report::new(planned, bodies);
        let each = (0..args.count.get()).flat_map(|_| bodies);
        let mut answers = stream::iter(each)
            .take_until(Box::pin(tokio::signal::ctrl_c()))
            .map(|body| self.post(body, planned))
            .buffer_unordered(args.concurrency.get());
        let started = Instant::now();
        while let Some(answer) = answers.next().await {
            match &answer.reply {
                Err(NoReply { reason, is_connected: false }) if !report.is_connected() => {
                    return Err(Failure::Running(format!("{}: {reason}", self.url)));
                }
                _ => report.add(answer)?,
            }
        }
        let hints = report.hints(endpoint);
        let as_wanted = report.count(|status| match args.forge {
            true => status == endpoint.rejected_status.as_u16(),
            false => (200..300).contains(&status),
        });
        report.finish(started.elapsed())?;
        match planned - as_wanted {
            0 => Ok(()),
            others if args.forge => Err(Failure::Running(format!("{others} of {planned} were not rejected"))),
            others => Err(Failure::Running(format!("{others} of {planned} got no 2xx{hints}"))),
        }
    }

    async fn post<'a>(&self, body: &'a Body, planned: u64) -> Answer<'a> {
        let request = self.request(body, planned);
        let started = Instant::now();
        let reply = tokio::time::timeout(DEADLINE, self.exchange(request)).await;
        let took = started.elapsed();
        let late =
            |_| Err(NoReply { reason: format!("no answer within {} s", DEADLINE.as_secs()), is_connected: true });
        Answer { name: &body.name, took, reply: reply.unwrap_or_else(late) }
    }

    fn request(&self, body: &Body, planned: u64) -> Request<Full<Bytes>> {
        let trace = match body.chunk {
            Some(number) => format!("{}:chunk:{number}", self.reference),
            None => Uuid::new_v4().to_string(),
        };
        let body = body.with_new_event_id();
        let now = Timestamp::now();
        let signed_at = self.clock.next(now, planned);
        Request::post(&self.url)
            .header("content-type", "application/json")
            .header("user-agent", concat!("terra-bridge/", env!("CARGO_PKG_VERSION")))
            .header("terra-signature", signature(&self.secret, signed_at, &body))
            .header("terra-reference", self.reference.to_string())
            .header("x-terra-trace-id", trace)
            .header("x-terra-ordering-timestamp", now.as_millisecond())
            .body(Full::new(body))
            .expect("these names and values are legal")
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Reply, NoReply> {
        let reply = self.client.request(request).await;
        let reply = reply.map_err(|error| NoReply { reason: root_cause(&error), is_connected: !error.is_connect() })?;
        let status = reply.status().as_u16();
        let body = Limited::new(reply.into_body(), LARGEST_REPLY).collect().await;
        let body = body.map_err(|error| NoReply { reason: root_cause(&*error), is_connected: true })?.to_bytes();
        Ok(Reply { status, text: one_line(&String::from_utf8_lossy(&body), SHOWN) })
    }
}
