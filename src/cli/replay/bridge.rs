//! Posts records to a bridge as signed deliveries, with the headers that Terra sent: a bridge that knows the delivery by
//! its trace id or event id gives it the same id.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use jiff::Timestamp;
use serde::Deserialize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::answer::Answer;
use crate::attribute::Attribute;
use crate::bus::{Record, in_order};
use crate::cli::cause::root_cause;
use crate::cli::failure::Failure;
use crate::cli::signing::{SigningClock, signature};
use crate::config::{CertificatePair, Endpoint};
use crate::message::key_digest;
use crate::server::{Trust, client};

/// From connecting to the reply's last byte.
const DEADLINE: Duration = Duration::from_secs(10);
const LARGEST_REPLY: usize = 64 << 10;

/// Keys at once.
const AT_ONCE: usize = 16;

/// The headers of a delivery, from the attributes that they became.
const HEADERS: [(&str, Attribute); 5] = [
    ("terra-reference", Attribute::CorrelationId),
    ("x-terra-trace-id", Attribute::TerraTraceId),
    ("x-terra-ordering-timestamp", Attribute::Sequence),
    ("traceparent", Attribute::TraceParent),
    ("tracestate", Attribute::TraceState),
];

pub(in crate::cli) struct Bridge {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Uri,
    secret: Vec<u8>,
    clock: SigningClock,
    /// Deliveries that the bridge gave another id than the record has.
    other_ids: AtomicU64,
}

#[derive(Deserialize)]
struct Reply {
    outcome: String,
    id: Option<String>,
    reason: Option<String>,
}

impl Bridge {
    /// `pair` is the certificate of the bridge on this machine, where it has one.
    pub(in crate::cli) fn new(url: Uri, endpoint: &Endpoint, pair: Option<&CertificatePair>) -> Result<Self, Failure> {
        let trust = match url.scheme_str() {
            Some("https") if pair.is_none() => Trust::System,
            _ => Trust::Pair(pair),
        };
        let secret = endpoint.secrets.first().map(|secret| secret.expose().to_vec());
        Ok(Self {
            client: client(trust).map_err(Failure::Running)?,
            url,
            secret: secret.ok_or_else(|| Failure::Mistake("the endpoint has no signing secret".to_owned()))?,
            clock: SigningClock::within(endpoint.max_age.min(endpoint.max_skew)),
            other_ids: AtomicU64::new(0),
        })
    }

    pub(in crate::cli) fn other_ids(&self) -> u64 {
        self.other_ids.load(Relaxed)
    }

    /// The answers are in the records' order.
    pub(in crate::cli) async fn send(&self, records: Vec<Record>) -> Vec<Answer> {
        let key = |record: &Record| record.key.as_deref().map_or(0, key_digest);
        let items = records.into_iter().map(|record| (key(&record), record)).collect();
        let answers = in_order(items, AT_ONCE, async |record| self.post(record).await).await;
        let untried = || Answer::NotYet("one before it was not taken".to_owned());
        let one = |answer: Result<Answer, Answer>| answer.unwrap_or_else(|refused| refused);
        let answer = |answer: Option<_>| answer.map_or_else(untried, one);
        answers.into_iter().map(answer).collect()
    }

    /// The error is the answer for what was not taken.
    async fn post(&self, record: Record) -> Result<Answer, Answer> {
        if record.problem.is_some() {
            return Err(Answer::Never("its payload is missing".to_owned()));
        }
        let request = self.request(&record).map_err(|error| Answer::Never(error.to_string()))?;
        let late = || Answer::NotYet(format!("no answer within {} s", DEADLINE.as_secs()));
        let answered = tokio::time::timeout(DEADLINE, self.exchange(request)).await.map_err(|_| late())?;
        let (status, reply) = answered.map_err(Answer::NotYet)?;
        match reply {
            Some(Reply { outcome, id, .. }) if status.is_success() => {
                if id.is_some() && id != record.attribute(Attribute::Id) {
                    self.other_ids.fetch_add(1, Relaxed);
                }
                Ok(Answer::Done(outcome))
            }
            Some(Reply { outcome, reason, .. }) => {
                let says = format!("{status}, {outcome}: {}", reason.unwrap_or_default());
                let may_succeed = status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::REQUEST_TIMEOUT;
                Err(if may_succeed { Answer::NotYet(says) } else { Answer::Never(says) })
            }
            None => Err(Answer::NotYet(format!("{status}, and not as a bridge answers; is it one?"))),
        }
    }

    fn request(&self, record: &Record) -> Result<Request<Full<Bytes>>, http::Error> {
        let signed_at = self.clock.next(Timestamp::now(), 0);
        let mut request = Request::post(&self.url)
            .header("content-type", "application/json")
            .header("user-agent", concat!("terra-bridge/", env!("CARGO_PKG_VERSION")))
            .header("terra-signature", signature(&self.secret, signed_at, &record.payload));
        for (name, attribute) in HEADERS {
            if let Some(value) = record.attribute(attribute) {
                request = request.header(name, HeaderValue::from_bytes(value.as_bytes())?);
            }
        }
        request.body(Full::new(record.payload.clone()))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Option<Reply>), String> {
        let reply = self.client.request(request).await.map_err(|error| root_cause(&error))?;
        let status = reply.status();
        let body = Limited::new(reply.into_body(), LARGEST_REPLY).collect().await;
        let body = body.map_err(|error| root_cause(&*error))?.to_bytes();
        Ok((status, serde_json::from_slice(&body).ok()))
    }
}
