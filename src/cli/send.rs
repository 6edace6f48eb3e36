//! `send`: deliveries as Terra would post them. Comes in: samples or a body of one's own. Goes out:
//! signed requests; each reply, or a summary of many. Signs by itself, knowing nothing of the room
//! that verifies, so that the two check each other.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures_util::{StreamExt, stream};
use hmac::{Hmac, KeyInit, Mac};
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use sha2::Sha256;

use super::cause::root_cause;
use super::pretty::one_line;
use super::tally::{Ending, Tally};
use super::{Failure, SendArgs, quiet_on_broken_pipe};
use crate::config::{Config, Endpoint};
use crate::samples::{SAMPLES, sample};
use crate::server::{Trust, client, reachable, scheme};

const EXAMPLES: &str = "\
Up to 50 deliveries print each reply, more a summary with rate and percentiles.

Examples:
  terra-bridge send daily sleep
  terra-bridge send --all
  terra-bridge send --large-request 12
  terra-bridge send daily --count 10000 --concurrency 32
  terra-bridge send --file event.json --url https://bridge.example.com/terra
  terra-bridge send daily --forge";

/// The types, then [`EXAMPLES`].
pub(super) fn after_help() -> String {
    let names: Vec<_> = SAMPLES.iter().map(|sample| sample.name).collect();
    format!("Types:\n  {}\n\n{EXAMPLES}", names.join(" "))
}

/// For one delivery, from connecting to the reply's last byte.
const DEADLINE: Duration = Duration::from_secs(10);

/// Up to so many deliveries, each reply is a line of its own.
const FEW: u64 = 50;

/// Bytes of a reply that are read; the bridge's own are far smaller.
const LARGEST_REPLY: usize = 64 * 1024;

/// Characters of a reply that are shown.
const SHOWN: usize = 160;

/// `Ok` means that every delivery was answered with a 2xx or, where they were forged, with the
/// endpoint's `rejected_status`.
pub(super) async fn run(args: &SendArgs, config: &Config) -> Result<(), Failure> {
    let endpoint = endpoint(config, args.endpoint.as_deref())?;
    let bodies = bodies(args)?;
    let url = match &args.url {
        Some(url) => url.clone(),
        None => default_url(config, endpoint)?,
    };
    let fresh = Fresh::within(endpoint.max_age.min(endpoint.max_skew));
    let secret = match endpoint.secrets.first() {
        Some(secret) if !args.forge => secret.expose().to_vec(),
        _ => fresh.uuid().into_bytes(),
    };
    let trust = match &args.url {
        Some(url) if url.scheme_str() == Some("https") => Trust::System,
        Some(_) => Trust::Pair(None),
        None => Trust::Pair(config.server.tls.as_ref()),
    };
    let client = client(trust).map_err(Failure::Running)?;
    Sender::new(client, url, secret, fresh).send(args, &bodies, endpoint).await
}

fn endpoint<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a Endpoint, Failure> {
    let called = |name: &str| config.endpoints.iter().find(|endpoint| endpoint.name == name);
    let found = match (name, config.endpoints.as_slice()) {
        (Some(name), _) => called(name),
        (None, [only]) => Some(only),
        (None, _) => called("terra"),
    };
    found.ok_or_else(|| {
        let names: Vec<_> = config.endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
        Failure::Mistake(format!("--endpoint takes one of those configured: {}", names.join(", ")))
    })
}

fn default_url(config: &Config, endpoint: &Endpoint) -> Result<Uri, Failure> {
    let scheme = scheme(config.server.tls.as_ref());
    let url = format!("{scheme}://{}{}", reachable(config.server.listen), endpoint.path);
    url.parse().map_err(|error| Failure::Mistake(format!("{url}: {error}; give a --url")))
}

/// What is sent again and again.
struct Body {
    /// The type, or the file's name.
    name: String,
    bytes: Bytes,
    /// A sample's, to be replaced each time: by it the bridge knows an event again.
    event_id: Option<String>,
    /// Its number among those of a large request.
    chunk: Option<u32>,
}

impl Body {
    fn sample(sample: &crate::samples::Sample) -> Self {
        #[derive(serde::Deserialize)]
        struct Identified {
            event_id: Option<String>,
        }
        let identified = serde_json::from_str(sample.body).unwrap_or(Identified { event_id: None });
        let bytes = Bytes::from_static(sample.body.as_bytes());
        Self { name: sample.name.to_owned(), bytes, event_id: identified.event_id, chunk: None }
    }

    fn file(path: &Path) -> Result<Self, Failure> {
        let mut bytes = Vec::new();
        let read = match path.to_str() {
            Some("-") => io::stdin().read_to_end(&mut bytes).map(drop),
            _ => std::fs::read(path).map(|read| bytes = read),
        };
        read.map_err(|error| Failure::Mistake(format!("{}: {error}", path.display())))?;
        Ok(Self { name: path.display().to_string(), bytes: bytes.into(), event_id: None, chunk: None })
    }

    fn fresh(&self, fresh: &Fresh) -> Bytes {
        match (&self.event_id, std::str::from_utf8(&self.bytes)) {
            (Some(old), Ok(text)) => {
                text.replace(&format!("\"{old}\""), &format!("\"{}\"", fresh.event_id(old))).into()
            }
            _ => self.bytes.clone(),
        }
    }
}

/// Two announcements and so many chunks.
fn large_request(chunks: u32) -> Vec<Body> {
    let [processing, mut sending, daily] = ["large_request_processing", "large_request_sending", "daily"]
        .map(|name| Body::sample(sample(name).expect("every known type has one")));
    let mut said: serde_json::Value = serde_json::from_slice(&sending.bytes).expect("a sample is JSON");
    said["expected_payloads"] = chunks.into();
    sending.bytes = said.to_string().into();
    let chunk = |n| Body { name: daily.name.clone(), bytes: daily.bytes.clone(), event_id: None, chunk: Some(n) };
    [processing, sending].into_iter().chain((0..chunks).map(chunk)).collect()
}

fn bodies(args: &SendArgs) -> Result<Vec<Body>, Failure> {
    if let Some(chunks) = args.large_request {
        return Ok(large_request(chunks.get()));
    }
    match &args.file {
        Some(path) => Ok(vec![Body::file(path)?]),
        None if args.all => Ok(SAMPLES.iter().map(Body::sample).collect()),
        None => Ok(args.types.iter().filter_map(|name| sample(name)).map(Body::sample).collect()),
    }
}

/// How far back the times of a run may begin.
const EARLY: Duration = Duration::from_secs(3600);

/// Ids that no other delivery has, of this run or another, and times that none of this run has.
#[derive(Default)]
struct Fresh {
    /// Seeded by the system.
    seed: RandomState,
    given: AtomicU64,
    /// Unix milliseconds: the last time given.
    signed_at: AtomicI64,
    /// Milliseconds by which its times are early.
    early: i64,
}

impl Fresh {
    /// Times that an endpoint takes which lets them be as far from now, and from when the event was emitted, as `skew`.
    fn within(skew: Duration) -> Self {
        let seed = RandomState::new();
        let spread = u64::try_from(EARLY.min(skew / 2).as_millis()).expect("an hour at most").max(1);
        let early = i64::try_from(seed.hash_one(spread) % spread).expect("an hour at most");
        Self { seed, early, ..Self::default() }
    }

    fn number(&self) -> u128 {
        let n = self.given.fetch_add(1, Ordering::Relaxed);
        u128::from(self.seed.hash_one((n, 0))) << 64 | u128::from(self.seed.hash_one((n, 1)))
    }

    fn uuid(&self) -> String {
        let hex = format!("{:032x}", self.number());
        format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
    }

    /// Unix milliseconds before `now`. What was signed at the same time over the same body counts as one
    /// delivery; so a run of `planned` begins as many milliseconds early, and cannot run ahead of the clock, and
    /// two runs that follow each other do not begin at the same time.
    fn signed_at(&self, now: Timestamp, planned: u64) -> i64 {
        let earliest = now.as_millisecond() - self.early - i64::try_from(planned).unwrap_or(0);
        let next = |last: i64| Some(earliest.max(last + 1));
        let last = self.signed_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        earliest.max(last.unwrap_or(0) + 1)
    }

    /// In the shape of the old one: Terra has two.
    fn event_id(&self, old: &str) -> String {
        match old.bytes().all(|byte| byte.is_ascii_digit()) {
            true => format!("9{:017}", self.number() % 10_u128.pow(17)),
            false => format!("evt_{}", self.uuid()),
        }
    }
}

/// The value of `terra-signature` at the time `t`.
fn signature(secret: &[u8], t: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
    mac.update(t.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    format!("t={t},v1={}", HEXLOWER.encode(&mac.finalize().into_bytes()))
}

/// One delivery's end.
struct Answer<'a> {
    name: &'a str,
    ending: Ending,
    /// The reply's body in one line.
    says: String,
    took: Duration,
    reached: bool,
}

struct Sender {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Uri,
    secret: Vec<u8>,
    fresh: Fresh,
    /// One for the run, as for one request to Terra.
    reference: String,
}

impl Sender {
    fn new(
        client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
        url: Uri,
        secret: Vec<u8>,
        fresh: Fresh,
    ) -> Self {
        let reference = fresh.uuid();
        Self { client, url, secret, fresh, reference }
    }

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
            if !answer.reached && !report.reached {
                report.bar.finish_and_clear();
                return Err(Failure::Running(format!("{}: {}", self.url, answer.ending)));
            }
            report.add(answer)?;
        }
        let as_wanted = report.tally.count(|ending| match ending {
            Ending::Status(status) if args.forge => *status == endpoint.rejected_status.as_u16(),
            Ending::Status(status) => (200..300).contains(status),
            Ending::None(_) => false,
        });
        let hints = report.hints(endpoint);
        report.end(started.elapsed())?;
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
        let none = |why: String, reached| (Ending::None(why), String::new(), reached);
        let (ending, says, reached) = match reply {
            Ok(Ok((status, says))) => (Ending::Status(status), says, true),
            Ok(Err(Broken { why, reached })) => none(why, reached),
            Err(_) => none(format!("no answer within {} s", DEADLINE.as_secs()), true),
        };
        Answer { name: &body.name, ending, says, took, reached }
    }

    fn request(&self, body: &Body, planned: u64) -> Request<Full<Bytes>> {
        let trace = body.chunk.map_or_else(|| self.fresh.uuid(), |n| format!("{}:chunk:{n}", self.reference));
        let body = body.fresh(&self.fresh);
        let now = Timestamp::now();
        let t = self.fresh.signed_at(now, planned);
        Request::post(&self.url)
            .header("content-type", "application/json")
            .header("user-agent", concat!("terra-bridge/", env!("CARGO_PKG_VERSION")))
            .header("terra-signature", signature(&self.secret, t, &body))
            .header("terra-reference", &self.reference)
            .header("x-terra-trace-id", trace)
            .header("x-terra-ordering-timestamp", now.as_millisecond())
            .body(Full::new(body))
            .expect("these names and values are legal")
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(u16, String), Broken> {
        let reply = self
            .client
            .request(request)
            .await
            .map_err(|error| Broken { why: root_cause(&error), reached: !error.is_connect() })?;
        let status = reply.status().as_u16();
        let body = Limited::new(reply.into_body(), LARGEST_REPLY).collect().await;
        let body = body.map_err(|error| Broken { why: root_cause(&*error), reached: true })?.to_bytes();
        Ok((status, one_line(&String::from_utf8_lossy(&body), SHOWN)))
    }
}

/// Why there is no reply.
struct Broken {
    why: String,
    /// Whether there was a connection.
    reached: bool,
}

/// What the user sees.
struct Report {
    planned: u64,
    /// Characters of the longest name.
    width: usize,
    /// Hidden where there are few, or no terminal.
    bar: ProgressBar,
    tally: Tally,
    rejected: bool,
    unknown_path: bool,
    /// Something answered as the bridge never does.
    foreign: bool,
    reached: bool,
}

impl Report {
    fn new(planned: u64, bodies: &[Body]) -> Self {
        let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len}  {per_sec}  {eta} left")
            .expect("the template is legal");
        let bar = if planned > FEW { ProgressBar::new(planned).with_style(style) } else { ProgressBar::hidden() };
        let width = bodies.iter().map(|body| body.name.chars().count()).max().unwrap_or(0);
        Self {
            planned,
            width,
            bar,
            tally: Tally::default(),
            rejected: false,
            unknown_path: false,
            foreign: false,
            reached: false,
        }
    }

    fn add(&mut self, answer: Answer<'_>) -> Result<(), Failure> {
        let Answer { name, ending, says, took, reached } = answer;
        self.reached |= reached;
        // The status alone does not tell: an endpoint may answer 503 in place of 401.
        let outcome = |outcome: &str| says.contains(&format!(r#""outcome":"{outcome}""#));
        self.rejected |= outcome("rejected");
        self.unknown_path |= outcome("unknown_path");
        self.foreign |= matches!(ending, Ending::Status(_)) && !says.contains(r#""outcome":"#);
        self.bar.inc(1);
        let shown = if self.planned <= FEW {
            let width = self.width;
            let line = format!("{ending}  {name:width$}  {:>7.1} ms  {says}", took.as_secs_f64() * 1000.0);
            quiet_on_broken_pipe(writeln!(io::stdout(), "{}", line.trim_end()))
        } else {
            Ok(())
        };
        self.tally.add(ending, &says, took);
        shown
    }

    /// What may be behind the answers that were no 2xx: a reply says as little as it says to a forger.
    fn hints(&self, Endpoint { name, path, .. }: &Endpoint) -> String {
        let mut hints = String::new();
        if self.rejected {
            hints += &format!(
                "; rejected: the bridge that answered may have another signing secret than the first of \
                 endpoints.{name}.secrets here, which signed; or the clocks differ, or its server.allow leaves this \
                 machine out"
            );
        }
        if self.unknown_path {
            hints += &format!("; unknown path: that of the endpoint here is {path}");
        }
        if self.foreign {
            hints += "; that is no answer of a bridge's server.listen: something else listens there, or stands between";
        }
        hints
    }

    fn end(self, took: Duration) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        if self.planned <= FEW {
            return Ok(());
        }
        quiet_on_broken_pipe(write!(io::stdout(), "{}", self.tally.summary(took)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// `printf '1784012470.{"type":"daily"}' | openssl dgst -sha256 -hmac 'kettle and ½ moon'`
    #[test]
    fn signature_is_the_one_that_openssl_makes() {
        assert_eq!(
            signature("kettle and ½ moon".as_bytes(), 1_784_012_470, br#"{"type":"daily"}"#),
            "t=1784012470,v1=3728df94a32eddc9f586d1c1247fccfd386e53d6b0f021d6ea95693e04864583"
        );
    }

    #[test]
    fn ids_are_fresh_and_look_like_terras() {
        let fresh = Fresh::default();
        let ids: HashSet<_> = (0..1000).map(|_| fresh.uuid()).collect();
        assert_eq!(ids.len(), 1000);
        for id in ids {
            assert_eq!(id.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{id}");
        }
        let now = Timestamp::now();
        let times: HashSet<_> = (0..1000).map(|_| fresh.signed_at(now, 1000)).collect();
        assert!(times.len() == 1000 && times.iter().all(|time| *time < now.as_millisecond()), "none in the future");
        let begins: HashSet<_> = (0..20).map(|_| Fresh::within(EARLY).signed_at(now, 1000)).collect();
        assert!(begins.len() > 10, "runs begin at times of their own");
        let young = Fresh::within(Duration::from_secs(60)).signed_at(now, 1000);
        assert!(now.as_millisecond() - young < 32_000, "half of it at most");
        assert_eq!(fresh.event_id("500000000000001001").len(), 18);
        assert_eq!(fresh.event_id("evt_5a0c1d7e").len(), 40);
    }

    #[test]
    fn a_sample_with_an_event_id_is_another_event_each_time() {
        let fresh = Fresh::default();
        let with_id: Vec<_> = SAMPLES.iter().map(Body::sample).filter(|body| body.event_id.is_some()).collect();
        assert!(!with_id.is_empty());
        for body in with_id {
            let [first, second] = [body.fresh(&fresh), body.fresh(&fresh)];
            assert_ne!(first, second, "{}", body.name);
            let read: serde_json::Value = serde_json::from_slice(&first).expect("still JSON");
            assert_ne!(read["event_id"].as_str(), body.event_id.as_deref());
        }
    }

    #[test]
    fn other_samples_are_sent_byte_for_byte() {
        let fresh = Fresh::default();
        let daily = sample("daily").expect("known");
        assert_eq!(Body::sample(daily).fresh(&fresh), daily.body.as_bytes());
    }
}
