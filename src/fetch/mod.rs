//! Fetches what a link leads to, byte for byte, over HTTPS. Connects only to the allowed hosts, and to no private
//! network. Parses no JSON; logs nothing of the link.
//!
//! `allowed_hosts` and `resolver` decide where a link may lead, and `connect_timeout` how long connecting may take.

mod resolver;
mod connect_timeout;
mod allowed_hosts;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, USER_AGENT};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use strum::{EnumIter, IntoStaticStr, VariantNames};
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use allowed_hosts::AllowedHosts;

use crate::config;
use crate::event::Link;
use crate::payload::{Budget, Payload};
use crate::server::{Body, BodyError, BodyLimits, has_content_encoding};
use crate::trust::{self, TrustError};
use connect_timeout::ConnectTimeout;
use resolver::{NotAllowed, PublicResolver};

/// The most fetches at once; further ones wait for one to end, within their deadlines.
const AT_ONCE: usize = 256;

/// The connect timeout of one attempt, so that a second attempt fits into the deadline.
const CONNECTED_WITHIN: Duration = Duration::from_millis(1500);
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);

/// Back-off between two attempts, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

const IDLE_CONNECTIONS_PER_HOST: usize = 16;
const IDLE_FOR: Duration = Duration::from_secs(20);

/// Bytes read ahead on a connection.
const BUFFER: usize = 64 << 10;

const AGENT: &str = concat!("terra-bridge/", env!("CARGO_PKG_VERSION"));

/// Why a fetch failed. Says nothing of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumIter, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum FetchError {
    /// Not an `https` URL.
    Malformed,
    /// Not a host of `s3.hosts`, or an address that no link may lead to.
    NotAllowed,
    /// The store denied it, after the link's validity had ended.
    Expired,
    /// The store denied it.
    Denied,
    /// The store redirected it; redirects are not followed.
    Redirected,
    /// Larger than `server.max_body`.
    TooLarge,
    /// Has a content coding that was not requested.
    Encoded,
    /// The link leads to another link.
    Nested,
    /// The name does not resolve, or the connection failed or broke.
    NoConnection,
    /// The store's certificate is not trusted.
    Untrusted,
    TooSlow,
    /// The store has a problem of its own: 408, 429, 5xx.
    Unavailable,
    /// The body ended early.
    Truncated,
    /// `server.bytes_in_flight` is spent, or too many fetches are running.
    NoRoom,
}

impl FetchError {
    /// A word for headers, metrics and the log.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether the same link may work a little later.
    pub fn is_temporary(self) -> bool {
        match self {
            Self::NoConnection | Self::Untrusted | Self::TooSlow => true,
            Self::Unavailable | Self::Truncated | Self::NoRoom => true,
            Self::Malformed | Self::NotAllowed | Self::Expired | Self::Denied | Self::Redirected => false,
            Self::TooLarge | Self::Encoded | Self::Nested => false,
        }
    }

    /// What an operator can do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::NotAllowed => "add the host to `s3.hosts`, or its private network to `s3.allow_networks`",
            Self::TooLarge => "raise `server.max_body`, and the bus's limit with it",
            Self::NoConnection => "allow the bridge to reach the store: DNS, port 443",
            Self::Untrusted => "install the machine's authorities (ca-certificates), or set `s3.ca`",
            Self::NoRoom => "raise `server.bytes_in_flight`, or run more bridges",
            Self::TooSlow | Self::Unavailable | Self::Truncated => {
                "check the network to the store; the store itself may be down"
            }
            Self::Malformed | Self::Expired | Self::Denied | Self::Redirected | Self::Encoded | Self::Nested => {
                "ask Terra for the data again"
            }
        }
    }
}

/// Cloning shares connections and limits.
#[derive(Clone)]
pub struct Fetcher {
    client: Client<ConnectTimeout<HttpsConnector<HttpConnector<PublicResolver>>>, Empty<Bytes>>,
    hosts: Arc<AllowedHosts>,
    resolver: PublicResolver,
    running: Arc<Semaphore>,
}

impl Fetcher {
    /// # Errors
    /// `s3.ca` contains no certificate.
    pub fn new(config: &config::S3) -> Result<Self, TrustError> {
        let resolver = PublicResolver::new(&config.allow_networks);
        let mut plain = HttpConnector::new_with_resolver(resolver.clone());
        plain.set_nodelay(true);
        plain.enforce_http(false);
        plain.set_connect_timeout(Some(CONNECTED_WITHIN));
        let https = HttpsConnectorBuilder::new().with_tls_config(trust::client("s3.ca", config.ca.as_deref())?);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_PER_HOST)
            .http1_max_buf_size(BUFFER)
            .build(ConnectTimeout::new(https.https_only().enable_http1().wrap_connector(plain), ANSWERED_WITHIN));
        let hosts = Arc::new(AllowedHosts::new(&config.hosts));
        Ok(Self { client, hosts, resolver, running: Arc::new(Semaphore::new(AT_ONCE)) })
    }

    /// Fetches, and retries temporary failures until the deadline. Takes its share of the budget as bytes arrive.
    /// Cancel-safe.
    ///
    /// # Errors
    /// The reason of the last attempt.
    pub async fn fetch(&self, link: &Link, limits: BodyLimits, budget: &Budget) -> Result<Payload, FetchError> {
        let uri = self.allowed(link)?;
        let Ok(running) = tokio::time::timeout_at(limits.deadline, self.running.acquire()).await else {
            return Err(FetchError::NoRoom);
        };
        let _running = running.expect("is never closed");
        let mut pause = FIRST_PAUSE;
        loop {
            let failed = match tokio::time::timeout_at(limits.deadline, self.attempt(&uri, limits, budget)).await {
                Ok(Ok(payload)) => return Ok(payload),
                Ok(Err(failed)) => failed,
                Err(_) => FetchError::TooSlow,
            };
            if !failed.is_temporary() || Instant::now() + pause >= limits.deadline {
                return Err(failed);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// The URL, if the link alone does not rule it out.
    fn allowed(&self, link: &Link) -> Result<Uri, FetchError> {
        let uri: Uri = std::str::from_utf8(link.url().expose())
            .ok()
            .and_then(|url| url.parse().ok())
            .filter(|uri: &Uri| uri.scheme_str() == Some("https"))
            .ok_or(FetchError::Malformed)?;
        let authority = uri.authority().ok_or(FetchError::Malformed)?;
        if authority.as_str().contains('@') {
            return Err(FetchError::Malformed);
        }
        let address = authority.host().trim_start_matches('[').trim_end_matches(']').parse().ok();
        // The addresses of a name are checked when connecting.
        let allowed = self.hosts.allow(authority) && address.is_none_or(|address| self.resolver.allows(address));
        if allowed { Ok(uri) } else { Err(FetchError::NotAllowed) }
    }

    async fn attempt(&self, uri: &Uri, limits: BodyLimits, budget: &Budget) -> Result<Payload, FetchError> {
        let request = Request::get(uri.clone()).header(ACCEPT_ENCODING, "identity").header(USER_AGENT, AGENT);
        let request = request.body(Empty::new()).map_err(|_| FetchError::Malformed)?;
        let answer = tokio::time::timeout(ANSWERED_WITHIN, self.client.request(request)).await;
        let answer = answer.map_err(|_| FetchError::TooSlow)?.map_err(|error| unconnected(&error))?;
        check(&answer)?;
        let (head, body) = answer.into_parts();
        Ok(read(&head.headers, body, limits, budget).await?)
    }
}

/// Checks the head of a response.
fn check(answer: &Response<Incoming>) -> Result<(), FetchError> {
    match answer.status() {
        StatusCode::OK if has_content_encoding(answer.headers()) => Err(FetchError::Encoded),
        StatusCode::OK => Ok(()),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Err(FetchError::Unavailable),
        status if status.is_server_error() => Err(FetchError::Unavailable),
        status if status.is_redirection() => Err(FetchError::Redirected),
        _ => Err(FetchError::Denied),
    }
}

async fn read(
    headers: &HeaderMap,
    incoming: Incoming,
    limits: BodyLimits,
    budget: &Budget,
) -> Result<Payload, BodyError> {
    let mut body = Body::start(incoming, headers, limits, budget)?;
    while body.next().await?.is_some() {}
    body.finish()
}

impl From<BodyError> for FetchError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge => Self::TooLarge,
            BodyError::TooSlow => Self::TooSlow,
            BodyError::NoRoom => Self::NoRoom,
            BodyError::Broken => Self::Truncated,
        }
    }
}

/// Classifies an error without a response by its causes.
fn unconnected(error: &hyper_util::client::legacy::Error) -> FetchError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<NotAllowed>() {
            return FetchError::NotAllowed;
        }
        if let Some(rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
            return FetchError::Untrusted;
        }
        // An I/O error omits the error it wraps from its sources.
        cause = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(within) => Some(within),
            None => error.source(),
        };
    }
    FetchError::NoConnection
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::signature::tests::delivery;

    fn allowed(url: &str) -> Result<String, FetchError> {
        let hosts = ["store.example", "*.s3.*.amazonaws.com", "198.51.100.7", "10.0.0.7", "[2001:db8::1]"];
        let config = config::S3 { hosts: hosts.map(str::to_owned).into(), ca: None, allow_networks: Vec::new() };
        let body = serde_json::json!({"type": "s3_payload", "url": url}).to_string();
        let Ok(event) = Event::read(delivery(body.as_bytes(), HeaderMap::new())) else { panic!("readable") };
        let link = event.link().expect("a link");
        Fetcher::new(&config).unwrap().allowed(&link).map(|uri| uri.to_string())
    }

    #[tokio::test]
    async fn a_link_leads_over_https_to_an_allowed_host_or_nowhere() {
        let s3 = "https://terra-payload-bucket.s3.eu-west-2.amazonaws.com/a%2Fb+c.json?X-Amz-Signature=a%3D&b=c";
        assert_eq!(allowed(s3).as_deref(), Ok(s3));
        assert_eq!(allowed("https://store.example/").as_deref(), Ok("https://store.example/"));
        for url in [
            "http://store.example/",
            "HTTP://store.example/",
            "ftp://store.example/",
            "store.example/x",
            "/x",
            "",
            "https://",
            "https://u:p@store.example/",
            "https://store.example@10.0.0.1/",
            "https://store.example/a b",
        ] {
            assert_eq!(allowed(url), Err(FetchError::Malformed), "{url}");
        }
        for url in [
            "https://other.example/",
            "https://store.example:8443/",
            "https://store.example.evil.example/",
            "https://evil.example/?https://store.example/",
            "https://x.y.s3.eu-west-2.amazonaws.com/",
            "https://.s3.eu-west-2.amazonaws.com/",
            "https://10.0.0.7/",
            "https://198.51.100.7/",
            "https://[2001:db8::1]/",
            "https://127.0.0.1/",
            "https://localhost/",
        ] {
            assert_eq!(allowed(url), Err(FetchError::NotAllowed), "{url}");
        }
    }
}
