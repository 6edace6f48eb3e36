//! The bus and the spool behind one function: [`Destination::deliver`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use strum::VariantNames;
use tokio::time::{Instant, timeout_at};

use crate::bus::{Bus, Pending, Receipt, Refusal};
use crate::dedupe::DedupeEntry;
use crate::identity::DeliveryId;
use crate::message::Message;
use crate::metrics::{CountedAlive, Counts, Metrics};
use crate::reply::Outcome;
use crate::route::{RouteTable, Topic};
use crate::spool::{DeliveryPath, KeySlot, Spool};

/// Where messages go. Cloning shares it.
#[derive(Clone)]
pub(super) struct Destination {
    pub(super) bus: Arc<dyn Bus>,
    pub(super) spool: Option<Spool>,
    /// The last part of the time to deliver, reserved for the spool.
    pub(super) spool_time: Duration,
    pub(super) metrics: Metrics,
    /// For each topic.
    pub(super) results: Arc<HashMap<Topic, Arc<Counts>>>,
}

const KEPT: &str = "kept";
const DUPLICATE: &str = "duplicate";
const UNANSWERED: &str = "unanswered";

/// The counts of every topic of these routes.
pub(super) fn results(metrics: &Metrics, routes: &RouteTable) -> Arc<HashMap<Topic, Arc<Counts>>> {
    let words = [&[KEPT, DUPLICATE, UNANSWERED], Refusal::VARIANTS].concat();
    let counts = |topic: Topic| (topic.clone(), metrics.topic(&topic, &words));
    Arc::new(routes.topics().into_iter().map(counts).collect())
}

/// The result for a message by its deadline.
pub(super) struct Delivered {
    pub(super) outcome: Outcome,
    /// The bus's late answer, if nothing else keeps the message.
    pub(super) late: Option<Pending<Result<Receipt, Refusal>>>,
}

impl From<Outcome> for Delivered {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, late: None }
    }
}

impl Destination {
    /// Publishes the message to the bus, or spools it if there is a spool and the bus does not keep it. A successful
    /// outcome means that one of them keeps it.
    pub(super) async fn deliver(&self, message: Message, deadline: Instant) -> Delivered {
        let message = Arc::new(message);
        match &self.spool {
            // Boxed, so that the future is small where there is none.
            Some(spool) => Box::pin(self.deliver_or_spool(spool, message, deadline)).await,
            None => self.publish(message, deadline).await,
        }
    }

    async fn deliver_or_spool(&self, spool: &Spool, message: Arc<Message>, deadline: Instant) -> Delivered {
        let (mut slot, bus_deadline) = (spool.acquire(&message), deadline - self.spool_time);
        let mut not_spooled = None;
        match slot.path() {
            DeliveryPath::BusFirst if Instant::now() < bus_deadline => {}
            DeliveryPath::BusFirst | DeliveryPath::SpoolOnly => return write(slot, message, deadline).await.into(),
            DeliveryPath::SpoolFirst => {
                let outcome = write(slot, message.clone(), deadline).await;
                if !matches!(outcome, Outcome::Unspooled(_)) || Instant::now() >= bus_deadline {
                    return outcome.into();
                }
                slot = spool.acquire(&message);
                if slot.path() == DeliveryPath::SpoolOnly {
                    return outcome.into();
                }
                not_spooled = Some(outcome);
            }
        }
        let published = self.publish(message.clone(), bus_deadline).await;
        if published.outcome.is_success() {
            spool.bus_kept();
            return published;
        }
        spool.bus_refused();
        let outcome = match not_spooled {
            Some(outcome) => outcome,
            None => write(slot, message, deadline).await,
        };
        let late = published.late.filter(|_| !outcome.is_success());
        Delivered { outcome, late }
    }

    /// Publishes to the bus with a deadline, metrics and the in-flight gauge, the same for every bus.
    async fn publish(&self, message: Arc<Message>, deadline: Instant) -> Delivered {
        let (id, topic, started) = (message.id(), message.topic().clone(), Instant::now());
        let _in_flight = CountedAlive::new(self.metrics.publishes());
        let mut publishing = self.bus.publish(message);
        let answer = timeout_at(deadline, &mut publishing).await;
        let result = match &answer {
            Ok(Ok(Receipt::Kept)) => KEPT,
            Ok(Ok(Receipt::Duplicate)) => DUPLICATE,
            Ok(Err(refusal)) => refusal.as_str(),
            Err(_) => UNANSWERED,
        };
        self.metrics.published(started.elapsed());
        if let Some(results) = self.results.get(&topic) {
            results.add(result);
        }
        match answer {
            Ok(Ok(receipt)) => of_receipt(receipt, id, Outcome::Kept).into(),
            Ok(Err(refusal)) => Outcome::Refused(refusal).into(),
            Err(_) => Delivered { outcome: Outcome::Unanswered, late: Some(publishing) },
        }
    }

    /// Has the spool remember that the delivery is kept, so that it is still a duplicate after a restart.
    pub(super) async fn remember(&self, entry: DedupeEntry, deadline: Instant) {
        if let Some(spool) = &self.spool {
            let _ = timeout_at(deadline, spool.remember(entry)).await;
        }
    }
}

/// Writes the message to the spool.
async fn write(slot: KeySlot, message: Arc<Message>, deadline: Instant) -> Outcome {
    let id = message.id();
    match timeout_at(deadline, slot.spool(message)).await {
        Ok(Ok(receipt)) => of_receipt(receipt, id, Outcome::Spooled),
        Ok(Err(refusal)) => Outcome::Unspooled(refusal),
        Err(_) => Outcome::Unanswered,
    }
}

fn of_receipt(receipt: Receipt, id: DeliveryId, kept: fn(DeliveryId) -> Outcome) -> Outcome {
    match receipt {
        Receipt::Kept => kept(id),
        Receipt::Duplicate => Outcome::Duplicate(id),
    }
}
