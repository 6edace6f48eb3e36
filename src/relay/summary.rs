//! What is known of a request when it has ended, for the access log and the spans. Holds nothing that the log may not
//! show, and copies nothing until a line is written.

use http::{HeaderMap, HeaderValue};
use opentelemetry::trace::TraceId;

use super::prepare::Content;
use crate::identity::DeliveryId;
use crate::message::Message;
use crate::reply::Outcome;
use crate::route::Topic;
use crate::trace::{TRACE_PARENT, Trace, TraceParent};
use crate::vocabulary::known;

/// How a request ended.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) summary: Summary,
}

/// `None` is what the request did not get as far as to show.
#[derive(Default)]
pub(super) struct Summary {
    /// As the sender wrote it.
    pub(super) terra_trace_id: Option<HeaderValue>,
    trace_parent: Option<HeaderValue>,
    /// The trace with the bridge's own spans.
    pub(super) trace: Option<Trace>,
    /// Of the payload.
    pub(super) bytes: Option<usize>,
    pub(super) id: Option<DeliveryId>,
    /// A type that is not known may be anything.
    pub(super) event_type: Option<&'static str>,
    pub(super) topic: Option<Topic>,
}

impl Summary {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let header = |name| headers.get(name).cloned();
        Self { terra_trace_id: header("x-terra-trace-id"), trace_parent: header(TRACE_PARENT), ..Self::default() }
    }

    pub(super) fn ended(self, outcome: Outcome) -> Ended {
        Ended { outcome, summary: self }
    }

    /// The bridge's own, or that of the request.
    pub(super) fn trace_id(&self) -> Option<TraceId> {
        let of_request = || Some(TraceParent::read(self.trace_parent.as_ref()?)?.id);
        self.trace.map(|trace| trace.id).or_else(of_request)
    }

    pub(super) fn add_content(&mut self, content: &Content) {
        match content {
            Content::Message(prepared) => self.add_message(&prepared.message),
            Content::Link(link) => {
                self.id = Some(content.identity().id);
                self.event_type = Some(type_name(&link.event.facts().event_type));
                self.topic = Some(link.topic.clone());
            }
        }
    }

    pub(super) fn add_message(&mut self, message: &Message) {
        self.id = Some(message.id());
        self.event_type = Some(type_name(message.event_type()));
        self.topic = Some(message.topic().clone());
    }
}

fn type_name(event_type: &str) -> &'static str {
    known(event_type).map_or("unknown", |known| known.name)
}
