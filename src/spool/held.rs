//! What the spool holds, for the people who look after it: lists it, sends what was set aside now instead of within
//! minutes, and discards what somebody names.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::batch::{BATCH_MESSAGES, Sender};
use super::intake::Spool;
use super::progress::Progress;
use super::state::Part;
use crate::attribute::Attribute;
use crate::bus::{Bus, ConnectionState};
use crate::log::{Chunk, Done, ReadError};
use crate::message::{SET_ASIDE, key_digest};
use crate::record::Record;

/// The most messages and bytes that are read at once; a single message may exceed the bytes.
const LISTED_MESSAGES: usize = 256;
const LISTED_BYTES: usize = 4 << 20;

const UNREADABLE: &str = "it cannot be read; see `terra-bridge log verify`";

/// A message in the spool.
#[derive(Debug)]
pub struct Held {
    /// As it will go to the bus, with the headers of CloudEvents' NATS binding.
    pub record: Record,
    /// `None`: it waits for the bus.
    pub set_aside: Option<SetAside>,
}

/// Why a message was set aside.
#[derive(Debug)]
pub struct SetAside {
    /// The bus's last answer.
    pub reason: String,
    pub last_try: Timestamp,
}

/// Which messages to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    SetAside,
    Waiting,
    All,
}

/// Where a set-aside message lies, and its id.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Place {
    pub topic: String,
    pub offset: u64,
    pub id: String,
}

/// How a retry ended.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Retried {
    pub sent: u64,
    /// What stays set aside, and how many of it there are by the bus's answer.
    pub left: u64,
    pub reasons: BTreeMap<String, u64>,
    /// The bus was away, or another retry ran: nothing was tried.
    pub untried: Option<String>,
}

impl Held {
    pub fn id(&self) -> Option<String> {
        self.record.attribute(Attribute::Id)
    }

    /// Whether its id begins with one of these.
    pub fn is_any_of(&self, ids: &[String]) -> bool {
        self.id().is_some_and(|id| ids.iter().any(|wanted| id.starts_with(wanted.as_str())))
    }
}

impl Spool {
    /// Passes on the messages until `each` returns `false`. Blocks on the disk.
    ///
    /// # Errors
    /// The log of the spool cannot be read, or is closed.
    pub(crate) fn held(&self, which: Which, mut each: impl FnMut(Held) -> bool) -> Result<(), ReadError> {
        let parts = [(&self.0.set_aside, Which::SetAside), (&self.0.spooled, Which::Waiting)];
        for (part, _) in parts.into_iter().filter(|(_, of)| which == Which::All || which == *of) {
            let topics: Vec<_> = part.log.store.topics().into_iter().map(|(topic, at)| (topic, at.next)).collect();
            for (topic, end) in topics {
                if !self.held_of(part, &topic, end, &mut each)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Whether to go on.
    fn held_of(
        &self,
        part: &Part,
        topic: &Arc<str>,
        end: u64,
        each: &mut impl FnMut(Held) -> bool,
    ) -> Result<bool, ReadError> {
        let mut from = part.topics().get(topic).map_or(0, Progress::cursor);
        while from < end {
            let is_pending = |offset, _| part.topics().get(topic).is_none_or(|progress| !progress.is_done(offset));
            let read = part.log.store.read_pending(topic, from..end, LISTED_MESSAGES, LISTED_BYTES, is_pending)?;
            let Chunk { records, damaged, until } = read;
            let unreadable = damaged.into_iter().map(|offset| unreadable(topic, offset));
            for record in records.into_iter().chain(unreadable) {
                if !each(self.describe(part, topic, record)) {
                    return Ok(false);
                }
            }
            from = until;
        }
        Ok(true)
    }

    fn describe(&self, part: &Part, topic: &Arc<str>, mut record: Record) -> Held {
        if !std::ptr::eq(part, &self.0.set_aside) {
            return Held { record, set_aside: None };
        }
        let reason = record.headers.iter().position(|(name, _)| name == SET_ASIDE);
        let reason = reason.map_or_else(|| "unknown".to_owned(), |at| decoded(&record.headers.remove(at).1));
        let set_aside = match self.0.tries.last(topic, record.offset) {
            Some(last) => SetAside { reason: last.reason, last_try: last.at },
            None => SetAside { reason, last_try: record.time },
        };
        Held { record, set_aside: Some(set_aside) }
    }

    /// Sends set-aside messages now, all of them or those with these ids, each behind the earlier ones of its key. What
    /// the bus refuses stays set aside. Dropping the future loses nothing: messages in flight are sent again later.
    ///
    /// # Errors
    /// The log of the spool cannot be read.
    pub(crate) async fn retry(
        &self,
        bus: Arc<dyn Bus>,
        publish_timeout: Duration,
        stop: CancellationToken,
        ids: Option<Vec<String>>,
    ) -> Result<Retried, ReadError> {
        let untried = |why: &str| Ok(Retried { untried: Some(why.to_owned()), ..Retried::default() });
        let _pass = self.0.passing.lock().await;
        let wanted = self.find_set_aside(ids.clone()).await?;
        if wanted.is_empty() {
            return Ok(Retried::default());
        }
        if *bus.connection().borrow() != ConnectionState::Up {
            return untried("the bus is not connected");
        }
        let mut sender = Sender::new(self.0.clone(), bus, publish_timeout, stop);
        sender.only =
            ids.is_some().then(|| wanted.iter().map(|(_, _, key)| *key).collect::<HashSet<u64>>()).map(Arc::new);
        let part = &self.0.set_aside;
        part.topics().values_mut().for_each(Progress::begin_again);
        while sender.round(part, BATCH_MESSAGES).await.seen > 0 && !sender.stop.is_cancelled() {}
        Ok(self.outcome(&wanted))
    }

    /// Topic, offset and digest of the key of each.
    async fn find_set_aside(&self, ids: Option<Vec<String>>) -> Result<Vec<(Arc<str>, u64, u64)>, ReadError> {
        let spool = self.clone();
        let finding = move || {
            let mut found = Vec::new();
            spool.held(Which::SetAside, |held| {
                if ids.as_ref().is_none_or(|ids| held.is_any_of(ids)) {
                    let key = held.record.key.as_deref().map_or(0, key_digest);
                    found.push((held.record.topic.as_str().into(), held.record.offset, key));
                }
                true
            })?;
            Ok(found)
        };
        tokio::task::spawn_blocking(finding).await.unwrap_or(Err(ReadError::Closed))
    }

    fn outcome(&self, wanted: &[(Arc<str>, u64, u64)]) -> Retried {
        let mut retried = Retried::default();
        for (topic, offset, _) in wanted {
            let part = &self.0.set_aside;
            if part.topics().get(topic).is_some_and(|progress| progress.is_done(*offset)) {
                retried.sent += 1;
                continue;
            }
            retried.left += 1;
            let last = self.0.tries.last(topic, *offset).map(|last| last.reason);
            let reason = last.unwrap_or_else(|| "it waits behind an earlier one of its key".to_owned());
            *retried.reasons.entry(reason).or_insert(0) += 1;
        }
        retried
    }

    /// Marks these set-aside messages as done, as if the bus had them; returns how many. One that is not there, or has
    /// another id, is left alone. Survives `kill -9` once the future completes; until then a message may stay.
    ///
    /// # Errors
    /// The log of the spool cannot be read.
    pub(crate) async fn discard(&self, places: Vec<Place>) -> Result<u64, ReadError> {
        let _pass = self.0.passing.lock().await;
        let spool = self.clone();
        let checking = tokio::task::spawn_blocking(move || spool.still_there(places));
        let by_topic = checking.await.unwrap_or(Err(ReadError::Closed))?;
        let (part, mut discarded) = (&self.0.set_aside, 0);
        for (topic, offsets) in by_topic {
            let count = offsets.len() as u64;
            let empty = part.waiting.load(Relaxed) == count;
            // First: the log must not be told twice that a record is done.
            part.topics().entry(topic.clone()).or_default().mark(&offsets);
            part.fewer(count);
            self.0.tries.gone(&topic, &offsets);
            part.log.done(Done { topic, offsets, empty }).await;
            discarded += count;
        }
        if discarded > 0 {
            tracing::warn!(messages = discarded, "set-aside messages were discarded, as somebody asked for");
        }
        Ok(discarded)
    }

    fn still_there(&self, places: Vec<Place>) -> Result<BTreeMap<Arc<str>, Vec<u64>>, ReadError> {
        let mut there: BTreeMap<Arc<str>, Vec<u64>> = BTreeMap::new();
        self.held(Which::SetAside, |held| {
            let is_it = |place: &Place| {
                place.topic == held.record.topic
                    && place.offset == held.record.offset
                    && Some(&place.id) == held.id().as_ref()
            };
            if places.iter().any(is_it) {
                there.entry(held.record.topic.as_str().into()).or_default().push(held.record.offset);
            }
            true
        })?;
        Ok(there)
    }
}

fn decoded(value: &str) -> String {
    percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned()
}

/// What stands for a message that the disk does not give.
fn unreadable(topic: &str, offset: u64) -> Record {
    Record {
        topic: topic.to_owned(),
        key: None,
        partition: 0,
        offset,
        time: Timestamp::UNIX_EPOCH,
        headers: Vec::new(),
        payload: bytes::Bytes::new(),
        problem: Some(UNREADABLE),
    }
}
