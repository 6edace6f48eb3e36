//! One delivery from request to reply: authenticate → read → route → deduplicate → fetch (if it is a link) → deliver
//! → reply.
//!
//! `pipeline` holds what every delivery uses. `authenticate`, `prepare` (read and route), `fetch_link` and `deliver`
//! (bus and spool) are steps in files of their own; the other steps are here. `outliving` keeps a delivery going without
//! its client. `report` logs and counts outcomes, `access_log` writes the line of each delivery with what `summary` knows
//! of it, `spans` are the same for a tracing system, and `signature_log` logs signatures that match no secret.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

mod access_log;
mod authenticate;
mod deliver;
mod fetch_link;
mod outliving;
mod pipeline;
mod prepare;
mod report;
mod signature_log;
mod spans;
mod summary;

use crate::bus::Refusal;
use crate::config::{self, Endpoint};
use crate::dedupe::{Admission, Ticket};
use crate::fetch::FetchError;
use crate::identity::Identity;
use crate::reply::{Outcome, reply};
use crate::route::RouteTable;
use crate::server::{Arrival, Reply, Service};
use crate::signature::{Delivery, SignatureHeader};
use authenticate::authenticate;
use deliver::Delivered;
use fetch_link::fetch_link;
use outliving::Outliving;
pub use pipeline::Stages;
use pipeline::{ActiveEndpoint, Pipeline};
use prepare::{Content, Prepared, prepare};
use report::report;
use summary::{Ended, Summary};

/// Delivers requests to the bus. Cloning shares it. Each request keeps the pipeline that it started with.
#[derive(Clone)]
pub struct Relay(watch::Sender<Arc<Pipeline>>);

impl Relay {
    pub fn new(config: &config::Config, stages: Stages) -> Self {
        Self(watch::Sender::new(Arc::new(Pipeline::new(config, stages))))
    }

    /// Applies to every request that begins from now on. The bus must already know the topics of `routes`.
    pub fn apply(&self, config: &config::Config, routes: Arc<RouteTable>) {
        self.0.send_modify(|pipeline| *pipeline = Arc::new(pipeline.reloaded(config, routes)));
    }

    fn pipeline(&self) -> Arc<Pipeline> {
        self.0.borrow().clone()
    }

    /// Waits until every authenticated delivery has its outcome, whether or not its client still waits. The caller
    /// sets a time limit, and has stopped new deliveries.
    pub async fn drained(&self) {
        let pipeline = self.pipeline();
        pipeline.deliveries.close();
        pipeline.deliveries.wait().await;
    }
}

impl Service for Relay {
    async fn call(&self, request: Request<Incoming>, arrival: Arrival) -> Reply {
        let pipeline = self.pipeline();
        let summary = Summary::of(request.headers());
        let Some(active) = pipeline.endpoint(request.uri().path()) else {
            let ended = summary.ended(Outcome::UnknownPath);
            report::unknown_path(&pipeline, &ended, is_signed(&request), arrival.at.elapsed());
            return reply(&ended.outcome, StatusCode::UNAUTHORIZED);
        };
        let endpoint = &active.endpoint;
        let ended = if *request.method() == Method::POST {
            relay(&pipeline, active, request, arrival, summary).await
        } else {
            report::wrong_method(&endpoint.name, is_signed(&request));
            summary.ended(Outcome::WrongMethod)
        };
        report(&pipeline, &active.metrics, &endpoint.name, &ended, arrival.at.elapsed());
        reply(&ended.outcome, endpoint.rejected_status)
    }
}

/// Whether the request looks like a delivery.
fn is_signed(request: &Request<Incoming>) -> bool {
    SignatureHeader::read(request.headers()).is_ok()
}

/// One delivery: authenticated while its client waits, then kept even if the client disconnects.
async fn relay(
    pipeline: &Arc<Pipeline>,
    active: &ActiveEndpoint,
    request: Request<Incoming>,
    arrival: Arrival,
    mut summary: Summary,
) -> Ended {
    let deadline = arrival.at + pipeline.limits.deadline;
    let mut delivery = match authenticate(pipeline, active, request, arrival, deadline).await {
        Ok(delivery) => delivery,
        Err(outcome) => return summary.ended(outcome),
    };
    spans::begin(pipeline, &mut delivery, &mut summary);
    // From here on the event is worth keeping even if its client disconnects.
    outliving(pipeline.clone(), delivery, arrival.at, deadline, summary).await
}

/// Keeps the event even if this is dropped, as hyper does when the client disconnects.
fn outliving(
    pipeline: Arc<Pipeline>,
    delivery: Delivery,
    arrived: Instant,
    deadline: Instant,
    mut summary: Summary,
) -> impl Future<Output = Ended> {
    let (reporting, endpoint) = (pipeline.clone(), delivery.endpoint().clone());
    let keeping = async move {
        // A panic costs this delivery alone, not its connection.
        let outcome = AssertUnwindSafe(keep(pipeline, delivery, deadline, &mut summary)).catch_unwind().await;
        summary.ended(outcome.unwrap_or(Outcome::Unanswered))
    };
    let keeping = reporting.deliveries.track_future(keeping);
    Outliving::new(keeping, move |ended| {
        report(&reporting, &reporting.of(&endpoint).metrics, &endpoint.name, &ended, arrived.elapsed());
    })
}

/// Publishes or spools the event, unless it is already kept.
async fn keep(pipeline: Arc<Pipeline>, delivery: Delivery, deadline: Instant, summary: &mut Summary) -> Outcome {
    let endpoint = delivery.endpoint().clone();
    summary.bytes = Some(delivery.payload().bytes().len());
    match first(&pipeline, delivery, deadline, summary).await {
        Ok((prepared, ticket)) => {
            let (started, attributes) = (Instant::now(), spans::of_message(&pipeline, &prepared.message));
            let outcome = deliver(&pipeline, &endpoint, prepared, deadline, ticket).await;
            spans::producer(&pipeline, summary, attributes, &outcome, started.elapsed());
            outcome
        }
        Err(outcome) => outcome,
    }
}

/// The message of a delivery that was not kept before, with the right to deliver it. `Err`: how the delivery ended.
async fn first(
    pipeline: &Arc<Pipeline>,
    delivery: Delivery,
    deadline: Instant,
    summary: &mut Summary,
) -> Result<(Prepared, Ticket<Outcome>), Outcome> {
    let content = prepare(pipeline, delivery, deadline).await?;
    summary.add_content(&content);
    let ticket = deduplicate(pipeline, &content, deadline).await?;
    let prepared = match content {
        Content::Message(prepared) => Ok(prepared),
        Content::Link(link) => {
            let started = Instant::now();
            // Boxed, so that the future of every other delivery is small.
            let prepared = Box::pin(fetch_link(pipeline, link, deadline)).await;
            let is_fetched = prepared.as_ref().is_ok_and(|prepared| prepared.link.is_some());
            spans::fetch(pipeline, summary, is_fetched, started.elapsed());
            if let Ok(prepared) = &prepared {
                summary.add_message(&prepared.message);
            }
            prepared
        }
    };
    match prepared {
        Ok(prepared) => Ok((prepared, ticket)),
        Err(outcome) => {
            ticket.refused(outcome.clone());
            Err(outcome)
        }
    }
}

/// `Ok` for the first of several copies of one delivery. `Err`: the outcome that another copy got.
async fn deduplicate(pipeline: &Pipeline, content: &Content, deadline: Instant) -> Result<Ticket<Outcome>, Outcome> {
    let identity: &Identity = content.identity();
    let admission = pipeline.dedupe.admit(identity, Timestamp::now());
    if !matches!(admission, Admission::First(_)) {
        pipeline.metrics.dedupe_hit();
    }
    match admission {
        Admission::First(ticket) => Ok(ticket),
        Admission::Kept => Err(Outcome::Duplicate(identity.id)),
        Admission::Wait(first) => {
            let waits_until = match content {
                Content::Message(_) => pipeline.publish_deadline(deadline),
                Content::Link(_) => deadline,
            };
            let shared = timeout_at(waits_until, first.answer()).await;
            Err(shared.ok().flatten().unwrap_or(Outcome::Unanswered))
        }
    }
}

/// Delivers the message, and remembers that it is kept.
async fn deliver(
    pipeline: &Pipeline,
    endpoint: &Endpoint,
    prepared: Prepared,
    deadline: Instant,
    ticket: Ticket<Outcome>,
) -> Outcome {
    let Prepared { message, unreadable, link } = prepared;
    let (id, deadline) = (message.id(), pipeline.publish_deadline(deadline));
    let mut delivered = pipeline.destination.deliver(message, deadline).await;
    if let (Outcome::Refused(Refusal::TooLarge { .. }), Some(link)) = (&delivered.outcome, link) {
        report::link_not_fetched(&endpoint.name, FetchError::TooLarge, false);
        delivered = Box::pin(pipeline.destination.deliver(*link, deadline)).await;
    } else if let (Outcome::Kept(_), Some(reason)) = (&delivered.outcome, unreadable) {
        delivered.outcome = Outcome::DeadLettered(id, reason);
    }
    let Delivered { outcome, late } = delivered;
    if let Some(late) = late {
        let until = deadline + pipeline.limits.publish_timeout;
        // The retry should learn the outcome of this attempt.
        pipeline.deliveries.spawn(async move {
            match timeout_at(until, late).await {
                Ok(Ok(_)) => ticket.kept(Timestamp::now(), Outcome::Duplicate(id)),
                Ok(Err(refusal)) => ticket.refused(Outcome::Refused(refusal)),
                Err(_) => ticket.refused(Outcome::Unanswered),
            }
        });
    } else if outcome.is_success() {
        let now = Timestamp::now();
        pipeline.destination.remember(ticket.entry(now), deadline).await;
        ticket.kept(now, Outcome::Duplicate(id));
    } else {
        ticket.refused(outcome.clone());
    }
    outcome
}

#[cfg(test)]
mod tests;
