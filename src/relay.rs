//! One delivery from request to outcome: the room that knows every stage and none of their insides.

mod follow;
mod forged;
mod read;
mod report;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;
use jiff::Timestamp;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::bus::{Bus, Pending, Receipt, Refusal};
use crate::config::{self, Endpoint};
use crate::dedupe::{Admission, Dedupe, Ticket};
use crate::event::Unreadable;
use crate::fetch::{Fetcher, Unfetched};
use crate::identity::{DeliveryId, Identity};
use crate::message::Message;
use crate::metrics::Metrics;
use crate::reply::{Outcome, reply};
use crate::route::Table;
use crate::sender::may_try;
use crate::server::{Body, BodyError, Budget, Gauged, Peer, Reply, Service, coded};
use crate::signature::{Claim, Delivery, Proof, Rejection};
use crate::spool::{Coming, First, Spool};
use follow::follow;
use forged::Signatures;
use read::{Letter, Read, aside, read};
use report::{astray, disbelieved, report, unfollowed, wrong_method};

/// What must be left for the bus when the body is complete; a body that comes later is too slow.
const LEAST_FOR_THE_BUS: Duration = Duration::from_secs(1);

/// Takes deliveries to the bus. Cloning shares it. Each request keeps the line that it found.
#[derive(Clone)]
pub struct Relay(watch::Sender<Arc<Line>>);

/// What a delivery passes on its way.
pub struct Stages {
    pub routes: Arc<Table>,
    /// `None`: a link is an event like any other.
    pub fetcher: Option<Fetcher>,
    pub dedupe: Dedupe<Outcome>,
    pub bus: Arc<dyn Bus>,
    pub spool: Option<Spool>,
    pub budget: Budget,
    pub metrics: Metrics,
}

/// Cloning shares all but what the configuration alone decides.
#[derive(Clone)]
struct Line {
    endpoints: Endpoints,
    routes: Arc<Table>,
    fetcher: Option<Fetcher>,
    dedupe: Dedupe<Outcome>,
    bus: Arc<dyn Bus>,
    spool: Option<Spool>,
    /// Of the deadline, the part that is the spool's alone.
    spool_time: Duration,
    budget: Budget,
    limits: config::Server,
    metrics: Metrics,
    publishes: TaskTracker,
}

/// By path, without a final slash.
type Endpoints = HashMap<String, Destination>;

/// Where deliveries go in.
#[derive(Clone)]
struct Destination {
    endpoint: Arc<Endpoint>,
    signatures: Arc<Signatures>,
}

impl Relay {
    pub fn new(config: &config::Config, stages: Stages) -> Self {
        let Stages { routes, fetcher, dedupe, bus, spool, budget, metrics } = stages;
        Self(watch::Sender::new(Arc::new(Line {
            endpoints: by_path(&config.endpoints, &Endpoints::new()),
            routes,
            fetcher,
            dedupe,
            bus,
            spool,
            spool_time: config.server.publish_timeout - config.bus_timeout(),
            budget,
            limits: config.server.clone(),
            metrics,
            publishes: TaskTracker::new(),
        })))
    }

    /// For every request that begins from now on. The bus has to know the topics of `routes` already.
    pub fn take_over(&self, config: &config::Config, routes: Arc<Table>) {
        let limits = config.server.clone();
        self.0.send_modify(|line| {
            let endpoints = by_path(&config.endpoints, &line.endpoints);
            *line = Arc::new(Line { endpoints, routes, limits, ..Line::clone(line) });
        });
    }

    fn line(&self) -> Arc<Line> {
        self.0.borrow().clone()
    }

    /// Waits until every delivery that was proven has its outcome, whether or not its client still
    /// waits. The caller bounds it in time, and has seen to it that no new ones come.
    pub async fn drained(&self) {
        let line = self.line();
        line.publishes.close();
        line.publishes.wait().await;
    }
}

impl Line {
    /// When a body has to be complete, so that bus and spool have their least time.
    fn body_deadline(&self, deadline: Instant) -> Instant {
        deadline - (LEAST_FOR_THE_BUS + self.spool_time).min(self.limits.deadline)
    }

    /// When the bus is waited for no longer, if it is asked now.
    fn publish_deadline(&self, deadline: Instant) -> Instant {
        deadline.min(Instant::now() + self.limits.publish_timeout)
    }
}

/// An endpoint whose secrets are as they were `before` goes on with what its signatures came to.
fn by_path(endpoints: &[Endpoint], before: &Endpoints) -> Endpoints {
    let same = |one: &Endpoint, other: &Endpoint| one.name == other.name && one.secrets == other.secrets;
    let destination = |endpoint: &Endpoint| {
        let known = before.values().find(|known| same(&known.endpoint, endpoint));
        let signatures = known.map(|known| known.signatures.clone()).unwrap_or_default();
        (canonical(&endpoint.path).to_owned(), Destination { endpoint: Arc::new(endpoint.clone()), signatures })
    };
    endpoints.iter().map(destination).collect()
}

/// What stands between a sender and the bridge may add or take away a final slash.
fn canonical(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

impl Service for Relay {
    async fn call(&self, request: Request<Incoming>, arrived: Instant) -> Reply {
        let (head, body) = request.into_parts();
        let line = self.line();
        let Some(destination) = line.endpoints.get(canonical(head.uri.path())).cloned() else {
            astray(&line.metrics, Claim::read(&head.headers).is_ok());
            return reply(&Outcome::UnknownPath, StatusCode::UNAUTHORIZED);
        };
        let endpoint = &destination.endpoint;
        let outcome = match head.method {
            Method::POST => {
                let peer = head.extensions.get().map(|Peer(address)| *address);
                relay(&line, destination.clone(), head.headers, body, peer, arrived).await
            }
            _ => {
                wrong_method(&endpoint.name, Claim::read(&head.headers).is_ok());
                Outcome::WrongMethod
            }
        };
        report(&line.metrics, &endpoint.name, &outcome, arrived.elapsed());
        reply(&outcome, endpoint.rejected_status)
    }
}

/// The way of one delivery.
async fn relay(
    line: &Arc<Line>,
    Destination { endpoint, signatures }: Destination,
    headers: HeaderMap,
    body: Incoming,
    peer: Option<IpAddr>,
    arrived: Instant,
) -> Outcome {
    let claim = match Claim::read(&headers) {
        Ok(claim) => claim,
        Err(reason) => return Outcome::Rejected(reason),
    };
    // Before a byte of the body is taken. Its sender gets what a forger gets, byte for byte.
    if !may_try(&line.limits.senders, peer, &headers) {
        return Outcome::Rejected(Rejection::Address);
    }
    let encoded = coded(&headers);
    let deadline = arrived + line.limits.deadline;
    let body_deadline = line.body_deadline(deadline);
    let body = Body::new(body, &headers, line.limits.max_body, line.limits.min_body_rate, body_deadline);
    let mut proof = Proof::begin(endpoint.clone(), claim);
    let payload = match body.read(&line.budget, |frame| proof.update(frame)).await {
        Ok(payload) => payload,
        Err(error) => return unread(error),
    };
    let proven = proof.finish(headers, payload, Timestamp::now());
    signatures.record(&endpoint.name, !matches!(proven, Err(Rejection::Forged)));
    let delivery = match proven {
        Ok(delivery) => delivery,
        Err(reason) => return Outcome::Rejected(reason),
    };
    if encoded {
        return Outcome::Encoded;
    }
    if delivery.headers().ordering_timestamp_disbelieved() {
        disbelieved(&line.metrics, &endpoint.name);
    }
    // From here on the event is worth keeping even if its client goes away: hyper would drop this
    // future then, but not the task.
    let (to, outcome) = oneshot::channel();
    let answer = Answer { to, metrics: line.metrics.clone(), endpoint, arrived };
    line.publishes.spawn(keep(line.clone(), delivery, deadline, answer));
    outcome.await.unwrap_or(Outcome::Unanswered)
}

fn unread(error: BodyError) -> Outcome {
    match error {
        BodyError::TooLarge => Outcome::TooLarge,
        BodyError::TooSlow => Outcome::TooSlow,
        BodyError::NoRoom => Outcome::Overloaded,
        BodyError::Broken => Outcome::Broken,
    }
}

/// Who waits for the outcome of one delivery, if anybody still does.
struct Answer {
    to: oneshot::Sender<Outcome>,
    metrics: Metrics,
    endpoint: Arc<Endpoint>,
    arrived: Instant,
}

impl Answer {
    /// Whoever waits reports the outcome; where nobody does any more, this does.
    fn give(self, outcome: Outcome) {
        if let Err(outcome) = self.to.send(outcome) {
            report(&self.metrics, &self.endpoint.name, &outcome, self.arrived.elapsed());
        }
    }
}

/// Reads the delivery and has the bus keep it, unless that was done already.
async fn keep(line: Arc<Line>, delivery: Delivery, deadline: Instant, answer: Answer) {
    let (reading, bytes) = (line.clone(), delivery.payload().bytes().len());
    let what = match aside(bytes, line.publish_deadline(deadline), move || read(&reading, delivery)).await {
        Some(Ok(what)) => what,
        Some(Err(outcome)) => return answer.give(outcome),
        None => return answer.give(Outcome::Unanswered),
    };
    let (identity, deadline) = match &what {
        Read::Letter(letter) => (*letter.message.identity(), line.publish_deadline(deadline)),
        Read::Link(event, _) => (Identity::of(event.delivery(), Some(event.signed_facts())), deadline),
    };
    let ticket = match line.dedupe.admit(&identity, Timestamp::now()) {
        Admission::First(ticket) => ticket,
        Admission::Kept => {
            line.metrics.known_again();
            return answer.give(Outcome::Duplicate(identity.id));
        }
        Admission::Wait(first) => {
            line.metrics.known_again();
            let shared = tokio::time::timeout_at(deadline, first.answer()).await;
            return answer.give(shared.ok().flatten().unwrap_or(Outcome::Unanswered));
        }
    };
    let letter = match what {
        Read::Letter(letter) => Ok(letter),
        Read::Link(event, link) => follow(&line, *event, link, deadline).await,
    };
    match letter {
        Ok(letter) => publish(&line, letter, line.publish_deadline(deadline), ticket, answer).await,
        Err(outcome) => {
            ticket.refused(outcome.clone());
            answer.give(outcome);
        }
    }
}

/// Has the bus keep the message, or the spool where there is one and the bus does not.
async fn publish(line: &Line, letter: Letter, deadline: Instant, ticket: Ticket<Outcome>, answer: Answer) {
    let Letter { message, unreadable, link } = letter;
    let id = message.id();
    let (mut outcome, mut asking) = bring(line, message, unreadable, deadline).await;
    if let (Outcome::Refused(Refusal::TooLarge { .. }), Some(link)) = (&outcome, link) {
        unfollowed(&answer.endpoint.name, Unfetched::TooLarge, false);
        (outcome, asking) = bring(line, *link, None, deadline).await;
    }
    if let Some(asking) = asking {
        answer.give(outcome);
        // The retry should find out what became of this attempt.
        let late = tokio::time::timeout_at(deadline + line.limits.publish_timeout, asking).await;
        return match late {
            Ok(Ok(_)) => ticket.kept(Timestamp::now(), Outcome::Duplicate(id)),
            Ok(Err(refusal)) => ticket.refused(Outcome::Refused(refusal)),
            Err(_) => ticket.refused(Outcome::Unanswered),
        };
    }
    if outcome.is_success() {
        let now = Timestamp::now();
        if let Some(spool) = &line.spool {
            let _ = tokio::time::timeout_at(deadline, spool.remember(ticket.known(now))).await;
        }
        ticket.kept(now, Outcome::Duplicate(id));
    } else {
        ticket.refused(outcome.clone());
    }
    answer.give(outcome);
}

/// The bus first, then the spool. What the bus may still answer comes along where nothing else keeps the
/// message.
async fn bring(
    line: &Line,
    message: Message,
    unreadable: Option<Unreadable>,
    deadline: Instant,
) -> (Outcome, Option<Pending<Result<Receipt, Refusal>>>) {
    let (id, message) = (message.id(), Arc::new(message));
    let kept = || unreadable.map_or(Outcome::Kept(id), |reason| Outcome::DeadLettered(id, reason));
    let Some(spool) = &line.spool else {
        return match ask(line, message, deadline).await {
            (Ok(receipt), _) => (of_receipt(receipt, id, kept), None),
            (Err(outcome), asking) => (outcome, asking),
        };
    };
    let (mut coming, until) = (spool.turn(&message), deadline - line.spool_time);
    let mut unspooled = None;
    match coming.first() {
        First::Bus if Instant::now() < until => {}
        First::Bus | First::SpoolAlone => return (spooled(coming, message, deadline).await, None),
        First::Spool => {
            let outcome = spooled(coming, message.clone(), deadline).await;
            if !matches!(outcome, Outcome::Unspooled(_)) || Instant::now() >= until {
                return (outcome, None);
            }
            coming = spool.turn(&message);
            if coming.first() == First::SpoolAlone {
                return (outcome, None);
            }
            unspooled = Some(outcome);
        }
    }
    let asking = match ask(line, message.clone(), until).await {
        (Ok(receipt), _) => {
            spool.bus_kept();
            return (of_receipt(receipt, id, kept), None);
        }
        (Err(_), asking) => asking,
    };
    spool.bus_refused();
    let outcome = match unspooled {
        Some(outcome) => outcome,
        None => spooled(coming, message, deadline).await,
    };
    let asking = asking.filter(|_| !outcome.is_success());
    (outcome, asking)
}

fn of_receipt(receipt: Receipt, id: DeliveryId, kept: impl FnOnce() -> Outcome) -> Outcome {
    match receipt {
        Receipt::Kept => kept(),
        Receipt::Duplicate => Outcome::Duplicate(id),
    }
}

/// Asks the bus, with the deadline, the metrics and the gauge that every bus shares. Where it does not
/// answer in time, what it may still answer comes along.
async fn ask(
    line: &Line,
    message: Arc<Message>,
    deadline: Instant,
) -> (Result<Receipt, Outcome>, Option<Pending<Result<Receipt, Refusal>>>) {
    let (topic, asked) = (message.topic().clone(), Instant::now());
    let _in_flight = Gauged::new(&line.metrics.publishes);
    let mut asking = line.bus.publish(message);
    let answer = tokio::time::timeout_at(deadline, &mut asking).await;
    let result = match &answer {
        Ok(Ok(Receipt::Kept)) => "kept",
        Ok(Ok(Receipt::Duplicate)) => "duplicate",
        Ok(Err(refusal)) => refusal.as_str(),
        Err(_) => "unanswered",
    };
    line.metrics.published(&topic, result, asked.elapsed());
    match answer {
        Ok(answer) => (answer.map_err(Outcome::Refused), None),
        Err(_) => (Err(Outcome::Unanswered), Some(asking)),
    }
}

/// Has the spool keep the message.
async fn spooled(coming: Coming, message: Arc<Message>, deadline: Instant) -> Outcome {
    let id = message.id();
    match tokio::time::timeout_at(deadline, coming.take(message)).await {
        Ok(Ok(Receipt::Kept)) => Outcome::Spooled(id),
        Ok(Ok(Receipt::Duplicate)) => Outcome::Duplicate(id),
        Ok(Err(refusal)) => Outcome::Unspooled(refusal),
        Err(_) => Outcome::Unanswered,
    }
}

#[cfg(test)]
mod tests;
